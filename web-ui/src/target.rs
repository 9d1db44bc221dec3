//! What a person gives for a device: is it one, before anybody is asked? (PROTOCOL.md, sections 2
//! and 5.2)

use ringback_protocol::{
    PeerId,
    id::{ID_LEN, IdError},
    name,
};

/// Characters from which on a text without a dash is a mistyped ID rather than a name.
const LIKE_AN_ID: usize = 50;

/// Says what is wrong with an ID or a name in lower case.
pub fn check(target: &str) -> Result<(), String> {
    if is_meant_as_id(target) {
        return target
            .parse::<PeerId>()
            .map(drop)
            .map_err(|error| mistake(target, error));
    }
    check_name(target).map_err(|what| format!("This is neither a device’s ID nor its name. {what}"))
}

/// Says what a name has to be, if this can be none.
pub fn check_name(text: &str) -> Result<(), String> {
    name::check(text).map(drop).map_err(|_| {
        "Names have letters from a to z, digits, and dashes between them, and do not begin with rb1."
            .into()
    })
}

fn is_meant_as_id(target: &str) -> bool {
    target.starts_with("rb1") || (target.len() >= LIKE_AN_ID && !target.contains('-'))
}

/// What a person can mend. A wrong letter is named before a wrong length: it is easier to see.
fn mistake(target: &str, error: IdError) -> String {
    let Some(data) = target.strip_prefix("rb1") else {
        return "This is not a device’s ID: IDs begin with rb1.".into();
    };
    // bech32's letters: those that are easily taken for each other are left out.
    let is_stray = |letter: char| !letter.is_ascii_alphanumeric() || "1bio".contains(letter);
    if let Some((at, stray)) = data.chars().enumerate().find(|(_, it)| is_stray(*it)) {
        return format!(
            "This ID is mistyped: “{stray}” at place {} is in no ID. The letters b, i and o, and \
             after rb1 the digit 1, are never used.",
            at + 4
        );
    }
    match error {
        IdError::Length(count) if count < ID_LEN => format!(
            "This ID is too short: it has {count} of {ID_LEN} characters. Copy the whole of it."
        ),
        IdError::Length(count) => {
            format!("This ID is too long: it has {count} characters, and an ID has {ID_LEN}.")
        }
        _ => "This ID is mistyped: a character of it is another one than it should be.".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "rb1uukz3ln33carpt7ywsud5aua2zxjmt26ye06l660xalp64lmpxxqj3hstk";

    fn wrong(target: &str) -> String {
        check(target).unwrap_err()
    }

    #[test]
    fn ids_and_names_are_taken() {
        assert_eq!(check(ID), Ok(()));
        assert_eq!(check("nas"), Ok(()));
        assert_eq!(check("living-room-2"), Ok(()));
    }

    #[test]
    fn a_mistyped_id_is_told_by_its_mistake() {
        // Another letter, two letters swapped, one left out, one doubled.
        assert!(wrong(&ID.replace("uukz", "uukx")).contains("another one than it should be"));
        assert!(wrong(&ID.replace("z3l", "3zl")).contains("another one than it should be"));
        assert!(wrong(&ID[..60]).contains("it has 60 of 61"));
        assert!(wrong(&format!("{ID}k")).contains("it has 62 characters"));
        assert!(wrong("rb1").contains("it has 3 of 61"));
        let stray = wrong(&ID.replace("uukz", "uuko"));
        assert!(stray.contains("“o” at place 7"), "{stray}");
        assert!(wrong(&ID.replace("rb1", "rn1")).contains("IDs begin with rb1"));
        assert!(wrong(&ID.replace("rb1", "rb")).contains("IDs begin with rb1"));
    }

    /// Every single letter that is replaced by any other.
    #[test]
    fn no_single_mistake_passes() {
        for at in 3..ID_LEN {
            for letter in ('a'..='z').chain('0'..='9') {
                let mut typed: Vec<char> = ID.chars().collect();
                if std::mem::replace(&mut typed[at], letter) != letter {
                    let typed: String = typed.into_iter().collect();
                    check(&typed).unwrap_err();
                }
            }
        }
    }

    #[test]
    fn what_can_be_no_name_is_told() {
        for target in ["-nas", "nas-", "n_s", ""] {
            assert!(wrong(target).contains("neither"), "{target}");
        }
        check_name(ID).unwrap_err();
        assert_eq!(check_name("nas"), Ok(()));
    }
}
