//! The owner of the registry (§5.1): one secret, set at deploy.

use ringback_protocol::Code;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use crate::problem::Problem;

/// Characters of the shortest owner secret, and how many of them must differ.
const MIN_SECRET: usize = 16;
const MIN_LETTERS: usize = 6;

/// Does the `Authorization` header carry the owner secret? The comparison takes the same time
/// wherever the two differ, and whatever their lengths.
pub fn authorise(authorization: Option<&str>, secret: Option<&str>) -> Result<(), Problem> {
    let secret = set(secret)?;
    let Some(given) = authorization.and_then(bearer) else {
        return Err(Problem::new(
            Code::Unauthorized,
            "send the owner secret as Authorization: Bearer …",
        ));
    };
    check(given, Some(secret))
}

/// Is this the owner secret?
pub fn check(given: &str, secret: Option<&str>) -> Result<(), Problem> {
    let secret = set(secret)?;
    if bool::from(Sha256::digest(given).ct_eq(&Sha256::digest(secret))) {
        Ok(())
    } else {
        Err(Problem::new(
            Code::Unauthorized,
            "this is not the owner secret",
        ))
    }
}

/// Whoever can guess the secret owns the registry, and the only limit on guesses is that of an
/// address: a secret that is short, or one letter again and again, lets nobody in.
fn set(secret: Option<&str>) -> Result<&str, Problem> {
    let secret = secret.filter(|secret| !secret.is_empty()).ok_or_else(|| {
        Problem::new(
            Code::OwnerSecretUnset,
            "set the secret OWNER_SECRET of this deployment, then use it as the bearer token",
        )
    })?;
    let letters: std::collections::BTreeSet<char> = secret.chars().collect();
    if secret.chars().count() < MIN_SECRET || letters.len() < MIN_LETTERS {
        let detail = format!(
            "OWNER_SECRET can be guessed: it must have at least {MIN_SECRET} characters, \
             {MIN_LETTERS} of them different; `cargo xtask deploy --new-secret` makes one"
        );
        return Err(Problem::new(Code::OwnerSecretWeak, detail));
    }
    Ok(secret)
}

fn bearer(authorization: &str) -> Option<&str> {
    let (scheme, token) = authorization.trim().split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_secret_opens() {
        let secret = Some("correct horse battery");
        assert_eq!(
            authorise(Some("Bearer correct horse battery"), secret),
            Ok(())
        );
        assert_eq!(
            authorise(Some("bearer  correct horse battery "), secret),
            Ok(())
        );
        for wrong in [
            None,
            Some(""),
            Some("Bearer"),
            Some("Bearer "),
            Some("Bearer wrong"),
            Some("Basic correct horse battery"),
            Some("correct horse battery"),
        ] {
            assert_eq!(
                authorise(wrong, secret).unwrap_err().code,
                Code::Unauthorized,
                "{wrong:?}"
            );
        }
    }

    #[test]
    fn a_secret_that_can_be_guessed_opens_nothing() {
        for weak in [
            "hunter2",
            "fifteen letters",
            "aaaaaaaaaaaaaaaaaaaaaaaa",
            "1212121212121212",
        ] {
            let given = format!("Bearer {weak}");
            assert_eq!(
                authorise(Some(&given), Some(weak)).unwrap_err().code,
                Code::OwnerSecretWeak,
                "{weak}"
            );
            assert_eq!(
                check(weak, Some(weak)).unwrap_err().code,
                Code::OwnerSecretWeak
            );
        }
        assert_eq!(check("sixteen letters!", Some("sixteen letters!")), Ok(()));
    }

    #[test]
    fn without_a_secret_nobody_is_the_owner() {
        for unset in [None, Some("")] {
            assert_eq!(
                authorise(Some("Bearer "), unset).unwrap_err().code,
                Code::OwnerSecretUnset
            );
        }
    }
}
