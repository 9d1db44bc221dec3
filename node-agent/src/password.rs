//! Passwords as people give them: prepared as the protocol wants it, read from where they do not show.

use std::io::{self, Read as _};
use std::path::Path;

use anyhow::Result;
use icu_normalizer::ComposingNormalizerBorrowed;
use ringback_protocol::secret::{MAX_PASSWORD, opaque};

use crate::failure::{Exit, Failure};

/// Bytes that are read of a password's file: a password, before it is prepared, and a line's end.
const MAX_FILE: u64 = 4 * MAX_PASSWORD as u64;

/// As every end takes a password (PROTOCOL §3.1).
pub(crate) fn prepared(password: &str) -> String {
    opaque(password, |text| {
        ComposingNormalizerBorrowed::new_nfc()
            .normalize(text)
            .into_owned()
    })
}

/// The password of the arguments, if there is one: the file's, or else the other. `-` is one line of
/// standard input; what follows it there is left for whoever reads on.
pub(crate) fn given(password: Option<&str>, file: Option<&Path>) -> Result<Option<String>> {
    let Some(file) = file else {
        return Ok(password.map(ToOwned::to_owned));
    };
    let unusable = |why: String| {
        let file = file.display();
        Failure::new(
            Exit::Usage,
            format!("no password can be read from {file}: {why}"),
        )
    };
    let read = if file == Path::new("-") {
        let mut line = String::new();
        io::stdin().read_line(&mut line).map(|_| line)
    } else {
        let mut text = String::new();
        std::fs::File::open(file)
            .and_then(|opened| opened.take(MAX_FILE).read_to_string(&mut text))
            .map(|_| text)
    };
    let text = read.map_err(|error| unusable(error.to_string()))?;
    let password = text.trim_end_matches(['\r', '\n']);
    if password.is_empty() {
        return Err(unusable("it is empty".into()).into());
    }
    if password.contains('\n') {
        return Err(unusable("it has more than one line".into()).into());
    }
    Ok(Some(password.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_letters_are_the_same_password() {
        for (given, same) in [
            ("plain", "plain"),
            // The examples of PROTOCOL 3.1, and RFC 8265, 4.3.
            ("cafe\u{301}", "caf\u{e9}"),
            ("caf\u{e9}", "caf\u{e9}"),
            ("correct\u{a0}horse\u{3000}battery", "correct horse battery"),
            ("\u{1100}\u{1161}", "\u{ac00}"),
            ("ends with CR\r", "ends with CR"),
            ("ends with CRLF\r\n", "ends with CRLF"),
            (" spaces stay ", " spaces stay "),
            // Case and width are kept: this is no user name.
            ("\u{ff21}Bc", "\u{ff21}Bc"),
            ("\u{3c3}\u{3a3}\u{3c2}", "\u{3c3}\u{3a3}\u{3c2}"),
            ("\u{fb01}", "\u{fb01}"),
        ] {
            assert_eq!(prepared(given), same, "{given:?}");
            assert_eq!(prepared(same), same, "twice is once: {given:?}");
        }
    }

    #[test]
    fn a_file_holds_one_line() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("password");
        let read = |contents: &[u8]| {
            std::fs::write(&file, contents).unwrap();
            given(Some("other"), Some(&file)).map_err(|error| error.to_string())
        };
        for contents in ["open sesame", "open sesame\n", "open sesame\r\n"] {
            assert_eq!(
                read(contents.as_bytes()).unwrap().as_deref(),
                Some("open sesame")
            );
        }
        assert!(read(b"").unwrap_err().contains("it is empty"));
        assert!(read(b"\r\n").unwrap_err().contains("it is empty"));
        assert!(read(b"a\nb\n").unwrap_err().contains("more than one line"));
        assert!(read(b"\xff\n").unwrap_err().contains("UTF-8"));
        assert_eq!(given(Some("x"), None).unwrap().as_deref(), Some("x"));
        assert_eq!(given(None, None).unwrap(), None);
    }
}
