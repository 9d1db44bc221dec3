//! The owner of the registry (§5.1): one secret, set at deploy.

use ringback_protocol::Code;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use crate::problem::Problem;

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

fn set(secret: Option<&str>) -> Result<&str, Problem> {
    secret.filter(|secret| !secret.is_empty()).ok_or_else(|| {
        Problem::new(
            Code::OwnerSecretUnset,
            "set the secret OWNER_SECRET of this deployment, then use it as the bearer token",
        )
    })
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
        let secret = Some("correct horse");
        assert_eq!(authorise(Some("Bearer correct horse"), secret), Ok(()));
        assert_eq!(authorise(Some("bearer  correct horse "), secret), Ok(()));
        for wrong in [
            None,
            Some(""),
            Some("Bearer"),
            Some("Bearer "),
            Some("Bearer wrong"),
            Some("Basic correct horse"),
            Some("correct horse"),
        ] {
            assert_eq!(
                authorise(wrong, secret).unwrap_err().code,
                Code::Unauthorized,
                "{wrong:?}"
            );
        }
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
