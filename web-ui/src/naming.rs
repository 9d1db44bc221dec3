//! What a device is called on the page.

use crate::{figures::short_id, plain::plain};

/// Characters of the longest name that is shown.
const LONGEST: usize = 64;

/// What is known of a device's names.
#[derive(Debug, Default)]
pub struct Names<'a> {
    /// Its name at the registry, which its owner gave.
    pub owned: Option<&'a str>,
    /// The name that it was called by from here.
    pub noted: Option<&'a str>,
    /// What it calls itself on the link.
    pub told: Option<&'a str>,
}

/// The name of `target`, an ID or a name. `is_taken`: another device goes by this one. What a device
/// says of itself is no proof of anything, so it stands beside the ID where it is another's name.
pub fn title(target: &str, names: &Names<'_>, is_taken: impl Fn(&str) -> bool) -> String {
    let known = names.owned.or(names.noted);
    let own = names.told.map(|told| {
        if is_taken(told) {
            format!("{} ({})", plain(told, LONGEST), short_id(target))
        } else {
            plain(told, LONGEST)
        }
    });
    known
        .map(|name| plain(name, LONGEST))
        .or(own)
        .unwrap_or_else(|| plain(&short_id(target), LONGEST))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "rb1uukz3ln33carpt7ywsud5aua2zxjmt26ye06l660xalp64lmpxxqj3hstk";
    const ALL: Names<'_> = Names {
        owned: Some("attic"),
        noted: Some("nas"),
        told: Some("mine"),
    };

    #[test]
    fn what_people_call_it_comes_before_what_it_calls_itself() {
        let free = |_: &str| false;
        assert_eq!(title(ID, &ALL, free), "attic");
        assert_eq!(title(ID, &Names { owned: None, ..ALL }, free), "nas");
        let told = Names {
            told: Some("mine"),
            ..Names::default()
        };
        assert_eq!(title(ID, &told, free), "mine");
        assert_eq!(title(ID, &Names::default(), free), "rb1uukz3l…j3hstk");
        assert_eq!(title("nas", &Names::default(), free), "nas");
    }

    #[test]
    fn a_device_does_not_pass_for_another_by_its_own_word() {
        let told = Names {
            told: Some("nas"),
            ..Names::default()
        };
        assert_eq!(
            title(ID, &told, |name| name == "nas"),
            "nas (rb1uukz3l…j3hstk)"
        );
    }

    #[test]
    fn a_name_is_shown_as_plain_text() {
        let told = Names {
            told: Some("na\u{202e}s"),
            ..Names::default()
        };
        assert_eq!(title(ID, &told, |_| false), "na\u{fffd}s");
    }
}
