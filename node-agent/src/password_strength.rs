//! Which passwords a device takes. Guesses are limited (PROTOCOL §14): about 120 in ten minutes, six
//! million in a year. What is refused here would be among them.

use anyhow::{Result, bail};
use ringback_protocol::SecretKey;
use ringback_protocol::secret::Psk;

use crate::failure::{Exit, Failure};
use crate::password::prepared;
use crate::profile::Profile;

/// Characters of the shortest password, and how many of them must differ.
const SHORTEST: usize = 8;
const DIFFERENT: usize = 5;

/// Beginnings of what lists of passwords are full of. Digits and signs behind them help little.
const COMMON: &[&str] = &[
    "password",
    "passw0rd",
    "p@ssword",
    "p@ssw0rd",
    "passwort",
    "qwertyui",
    "qwertzui",
    "azertyui",
    "qwerty",
    "qwertz",
    "azerty",
    "asdfghjk",
    "1q2w3e4r",
    "1qaz2wsx",
    "zaq12wsx",
    "q1w2e3r4",
    "iloveyou",
    "letmein",
    "welcome",
    "trustno",
    "sunshine",
    "princess",
    "football",
    "baseball",
    "superman",
    "batman",
    "starwars",
    "whatever",
    "computer",
    "internet",
    "changeme",
    "default",
    "administrator",
    "admin",
    "ringback",
    "raspberry",
    "ubuntu",
    "synology",
    "abc123",
    "abcd1234",
    "a1b2c3d4",
    "secret",
    "master",
    "dragon",
    "monkey",
    "michael",
    "jennifer",
    "charlie",
    "hello",
    "login",
    "access",
    "test",
];

/// Refuses a password that can be guessed, unless it is wanted so, or the device has it already: no
/// device is lost by an update.
pub(crate) fn check(
    profile: &Profile,
    key: &SecretKey,
    password: &str,
    wanted: bool,
) -> Result<()> {
    let Some(weakness) = weakness(password) else {
        return Ok(());
    };
    let psk = Psk::from_password(&prepared(password), &key.id())
        .map_err(|e| Failure::new(Exit::Usage, e.to_string()))?;
    if wanted || profile.password()? == Some(psk) {
        tracing::warn!("the device's password {weakness}: strangers may guess it");
        return Ok(());
    }
    bail!(Failure::new(
        Exit::Usage,
        format!(
            "the password {weakness}, and strangers may guess it; take a longer one, or none at first, to have one made (--weak-password takes it all the same)"
        )
    ))
}

/// What makes a password easy to guess.
fn weakness(password: &str) -> Option<&'static str> {
    let letters: Vec<char> = password.to_lowercase().chars().collect();
    if letters.len() < SHORTEST {
        return Some("has fewer than 8 characters");
    }
    let mut different = letters.clone();
    different.sort_unstable();
    different.dedup();
    if different.len() < DIFFERENT {
        return Some("has fewer than 5 different characters");
    }
    let steps = letters.windows(2);
    let in_row = steps.filter(|pair| (pair[0] as u32).abs_diff(pair[1] as u32) == 1);
    if 4 * in_row.count() >= 3 * (letters.len() - 1) {
        return Some("is a row of letters or digits");
    }
    let lower: String = letters.iter().collect();
    let rest = |common: &&&str| {
        lower
            .strip_prefix(**common)
            .or_else(|| lower.strip_suffix(**common))
    };
    let is_common = COMMON.iter().any(|common| {
        rest(&common).is_some_and(|rest| {
            rest.chars().count() <= 4 || rest.chars().all(|letter| !letter.is_alphabetic())
        })
    });
    is_common.then_some("is one of the most common ones")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_guessed_is_weak() {
        for weak in [
            "x",
            "1234567",
            "sesame",
            "aaaaaaaaaaaa",
            "abababababab",
            "12345678",
            "87654321",
            "abcdefghij",
            "123456789",
            "password",
            "Password123!",
            "PASSWORD2026",
            "Qwertz1234",
            "admin123",
            "12345admin",
            "iloveyou",
            "1q2w3e4r",
            "letmein!!",
            "éééééééé",
        ] {
            assert!(weakness(weak).is_some(), "{weak}");
        }
    }

    #[test]
    fn what_can_not_is_taken() {
        for strong in [
            "k7m2-p9xq-4t8v",
            "open sesame, please",
            "open-please",
            "correct horse battery",
            "Zwölf Boxkämpfer",
            "пароль-чайника",
            "tiger-lamp-82",
        ] {
            assert_eq!(weakness(strong), None, "{strong}");
        }
    }

    #[test]
    fn a_weak_one_stays_where_it_is_and_comes_only_if_it_is_wanted() {
        let dir = tempfile::tempdir().unwrap();
        let profile = Profile::open(Some(dir.path())).unwrap();
        let key = profile.key().unwrap();
        let refused = check(&profile, &key, "x", false).unwrap_err();
        assert_eq!(Failure::exit_code(&refused), Exit::Usage as u8);
        check(&profile, &key, "x", true).unwrap();
        let psk = Psk::from_password("x", &key.id()).unwrap();
        profile.set_password(&psk).unwrap();
        check(&profile, &key, "x", false).unwrap();
        assert!(check(&profile, &key, "y", false).is_err());
    }
}
