//! Tests in a real browser, run by wasm-bindgen's test runner. The device is a second
//! `RTCPeerConnection` in the same page, behind which the protocol's own machine answers.

mod device;
mod link;
#[cfg(feature = "npm")]
mod npm;
mod passwords;
mod stored;

use wasm_bindgen_test::wasm_bindgen_test_configure;

wasm_bindgen_test_configure!(run_in_browser);
