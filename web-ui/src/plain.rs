//! Text of others (names, file names, details of errors) on its way to the screen.
//!
//! The page sets it as text only, never as markup. What is left for an attacker are characters
//! that are not seen or that turn the line around, so that `gpj.exe` reads `exe.jpg`: these are
//! shown as replacement characters.

/// `text` with its invisible and direction-changing characters made visible, cut at `limit`
/// characters.
pub fn plain(text: &str, limit: usize) -> String {
    let mut shown: String = text.chars().take(limit).map(visible).collect();
    if text.chars().nth(limit).is_some() {
        shown.push('…');
    }
    shown
}

/// A name as it may stand in a file dialog: one path component without characters that any
/// common system refuses.
pub fn file_name(name: &str) -> String {
    let name: String = plain(name, 200)
        .chars()
        .map(|letter| match letter {
            '/' | '\\' | ':' | '*' | '?' | '"' | '<' | '>' | '|' => '_',
            other => other,
        })
        .collect();
    let name = name.trim_matches(|letter| letter == '.' || letter == ' ');
    if name.is_empty() {
        "download".into()
    } else {
        name.into()
    }
}

/// `name (2).ext` of `name.ext`.
pub fn numbered(name: &str, number: u32) -> String {
    let (stem, extension) = match name.rfind('.') {
        Some(at) if at > 0 => name.split_at(at),
        _ => (name, ""),
    };
    format!("{stem} ({number}){extension}")
}

fn visible(letter: char) -> char {
    match letter {
        '\u{200b}'..='\u{200f}'
        | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}'
        | '\u{061c}'
        | '\u{feff}'
        | '\u{fff9}'..='\u{fffb}'
        | '\u{e0000}'..='\u{e007f}' => '\u{fffd}',
        control if control.is_control() => '\u{fffd}',
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turned_name_is_seen_as_such() {
        assert_eq!(plain("photo\u{202e}gpj.exe", 80), "photo\u{fffd}gpj.exe");
        assert_eq!(
            plain("a\nb\u{0}c\u{200b}", 80),
            "a\u{fffd}b\u{fffd}c\u{fffd}"
        );
        assert_eq!(plain("Grüße 東京", 80), "Grüße 東京");
    }

    #[test]
    fn long_text_is_cut() {
        assert_eq!(plain("abcdef", 3), "abc…");
        assert_eq!(plain("abc", 3), "abc");
    }

    #[test]
    fn a_file_name_is_one_component() {
        assert_eq!(file_name("../../etc/passwd"), "_.._etc_passwd");
        assert_eq!(file_name("a<b>.txt"), "a_b_.txt");
        assert_eq!(file_name("..."), "download");
        assert_eq!(file_name("report.pdf"), "report.pdf");
    }

    #[test]
    fn a_number_stands_before_the_extension() {
        assert_eq!(numbered("report.tar.gz", 2), "report.tar (2).gz");
        assert_eq!(numbered("README", 3), "README (3)");
        assert_eq!(numbered(".profile", 2), ".profile (2)");
    }
}
