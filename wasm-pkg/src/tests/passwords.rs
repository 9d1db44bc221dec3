//! Passwords are prepared as the agents prepare them (PROTOCOL §3.1): the same rows are in
//! `node-agent/src/password.rs`.

use wasm_bindgen_test::wasm_bindgen_test;

use crate::proof::prepared;

#[wasm_bindgen_test]
fn the_same_letters_are_the_same_password() {
    for (given, same) in [
        ("plain", "plain"),
        ("cafe\u{301}", "caf\u{e9}"),
        ("correct\u{a0}horse\u{3000}battery", "correct horse battery"),
        ("\u{1100}\u{1161}", "\u{ac00}"),
        ("ends with CRLF\r\n", "ends with CRLF"),
        ("\u{ff21}Bc", "\u{ff21}Bc"),
        ("\u{fb01}", "\u{fb01}"),
    ] {
        assert_eq!(prepared(given), same, "{given:?}");
    }
}
