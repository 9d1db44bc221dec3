//! What a request carries to prove a key, or the owner's consent, before an object is asked (§5.4,
//! §5.6, §5.8). Everything here is decided from the request alone.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use ringback_protocol::{Code, PeerId, registration};
use sha2::{Digest as _, Sha256};

use crate::problem::Problem;

/// Milliseconds that a clock may be off when it signs a time.
const MAX_CLOCK_ERROR_MS: u64 = 120_000;
/// Seconds that a ticket is good for.
pub const TICKET_S: u64 = 60;
/// In the list of subprotocols, where a page can put it.
const TICKET_PREFIX: &str = "ringback.ticket.";
const TICKET_LABEL: &[u8] = b"ringback/1 ticket\0";

/// `Ringback-Time` and `Ringback-Signature`. The time must be fresh: a peer whose clock is off is
/// told ours.
pub fn time(time: Option<&str>, signature: &str, now_ms: u64) -> Result<(u64, [u8; 64]), Problem> {
    let time_ms = time
        .and_then(|time| time.parse::<u64>().ok())
        .ok_or_else(|| bad_request("Ringback-Time: expected Unix milliseconds"))?;
    let signature = self::signature(signature)?;
    if time_ms.abs_diff(now_ms) > MAX_CLOCK_ERROR_MS {
        return Err(Problem {
            time_ms: Some(now_ms),
            ..Problem::new(
                Code::Stale,
                "Ringback-Time is more than 120 s off the registry's clock",
            )
        });
    }
    Ok((time_ms, signature))
}

pub fn signature(text: &str) -> Result<[u8; 64], Problem> {
    BASE64_URL_SAFE_NO_PAD
        .decode(text)
        .ok()
        .and_then(|bytes| <[u8; 64]>::try_from(bytes).ok())
        .ok_or_else(|| bad_request("signature: expected 64 bytes in base64url without padding"))
}

/// The headers of an upgrade (§5.8).
#[derive(Debug, Default)]
pub struct Upgrade {
    pub peer: Option<String>,
    pub time: Option<String>,
    pub signature: Option<String>,
}

impl Upgrade {
    /// Who has signed the opening of a WebSocket at `path`; `None` if nobody has, as agents of before
    /// 2026-11-28. `expected`: who must have.
    pub fn signer(
        &self,
        origin: &str,
        path: &str,
        expected: Option<&PeerId>,
        now_ms: u64,
    ) -> Result<Option<PeerId>, Problem> {
        let Some(signature) = &self.signature else {
            return Ok(None);
        };
        let (time_ms, signature) = time(self.time.as_deref(), signature, now_ms)?;
        let peer = match (expected, &self.peer) {
            (Some(expected), _) => *expected,
            (None, Some(peer)) => peer
                .parse()
                .map_err(|_| bad_request("Ringback-Peer: expected an ID"))?,
            (None, None) => return Err(bad_request("Ringback-Peer: expected an ID")),
        };
        if !registration::verify_upgrade(&peer, origin, path, time_ms, &signature) {
            return Err(not_signed(origin));
        }
        Ok(Some(peer))
    }
}

pub fn not_signed(origin: &str) -> Problem {
    let detail = format!("this is not signed by this peer for {origin}");
    Problem::new(Code::BadSignature, detail)
}

fn bad_request(detail: &str) -> Problem {
    Problem::new(Code::BadRequest, detail)
}

/// A ticket to the owner's socket (§5.6), good until that Unix time: nothing of it is kept.
pub fn ticket(secret: &str, origin: &str, expires_at: u64) -> String {
    let tag = ticket_mac(secret, origin, expires_at)
        .finalize()
        .into_bytes();
    BASE64_URL_SAFE_NO_PAD.encode([&expires_at.to_be_bytes()[..], &tag].concat())
}

/// Is there a good ticket in this list of subprotocols? `None`: there is none at all.
pub fn has_ticket(subprotocols: &str, secret: &str, origin: &str, now_s: u64) -> Option<bool> {
    let ticket = subprotocols
        .split(',')
        .find_map(|one| one.trim().strip_prefix(TICKET_PREFIX))?;
    let check = || {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(ticket).ok()?;
        let (expires_at, tag) = bytes.split_first_chunk::<8>()?;
        let expires_at = u64::from_be_bytes(*expires_at);
        let is_in_time = (now_s..=now_s + TICKET_S).contains(&expires_at);
        let mac = ticket_mac(secret, origin, expires_at);
        (is_in_time && mac.verify_slice(tag).is_ok()).then_some(())
    };
    Some(check().is_some())
}

fn ticket_mac(secret: &str, origin: &str, expires_at: u64) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("a key of any length");
    mac.update(TICKET_LABEL);
    mac.update(&Sha256::digest(origin));
    mac.update(&expires_at.to_be_bytes());
    mac
}

#[cfg(test)]
mod tests {
    use ringback_protocol::SecretKey;

    use super::*;

    const ORIGIN: &str = "https://registry.example";
    const T: u64 = 1_800_000_000_000;

    fn signed(key: &SecretKey, path: &str, time_ms: u64) -> Upgrade {
        let signature = registration::sign_upgrade(key, ORIGIN, path, time_ms);
        Upgrade {
            peer: Some(key.id().to_string()),
            time: Some(time_ms.to_string()),
            signature: Some(BASE64_URL_SAFE_NO_PAD.encode(signature)),
        }
    }

    #[test]
    fn an_upgrade_is_signed_for_this_path_origin_and_time() {
        let key = SecretKey::from_seed(&[1; 32]);
        let id = key.id();
        let good = signed(&key, "/v1/relays/00", T);
        let code = |result: Result<Option<PeerId>, Problem>| result.unwrap_err().code;
        let signer = |upgrade: &Upgrade, path, expected| upgrade.signer(ORIGIN, path, expected, T);
        assert_eq!(signer(&good, "/v1/relays/00", None), Ok(Some(id)));
        assert_eq!(signer(&good, "/v1/relays/00", Some(&id)), Ok(Some(id)));
        assert_eq!(signer(&Upgrade::default(), "/", None), Ok(None));
        let other = SecretKey::from_seed(&[2; 32]).id();
        for problem in [
            signer(&good, "/v1/relays/01", None),
            signer(&good, "/v1/relays/00", Some(&other)),
            good.signer("https://other.example", "/v1/relays/00", None, T),
        ] {
            assert_eq!(code(problem), Code::BadSignature);
        }
        for late in [T + 120_001, T - 120_001] {
            let stale = good.signer(ORIGIN, "/v1/relays/00", None, late);
            let problem = stale.unwrap_err();
            assert_eq!((problem.code, problem.time_ms), (Code::Stale, Some(late)));
        }
        for upgrade in [
            Upgrade {
                time: None,
                ..signed(&key, "/", T)
            },
            Upgrade {
                peer: None,
                ..signed(&key, "/", T)
            },
            Upgrade {
                peer: Some("rb1".into()),
                ..signed(&key, "/", T)
            },
            Upgrade {
                signature: Some("x".into()),
                ..signed(&key, "/", T)
            },
        ] {
            assert_eq!(code(signer(&upgrade, "/", None)), Code::BadRequest);
        }
    }

    #[test]
    fn a_ticket_opens_for_a_minute_and_one_registry() {
        let now = T / 1000;
        let ticket = ticket("a secret of the owner", ORIGIN, now + TICKET_S);
        let offered = format!("ringback.owner.1, {TICKET_PREFIX}{ticket}");
        let check = |offered: &str, secret, origin, at| has_ticket(offered, secret, origin, at);
        let secret = "a secret of the owner";
        assert_eq!(check(&offered, secret, ORIGIN, now), Some(true));
        assert_eq!(check(&offered, secret, ORIGIN, now + 60), Some(true));
        assert_eq!(check(&offered, secret, ORIGIN, now + 61), Some(false));
        assert_eq!(check(&offered, secret, ORIGIN, now - 1), Some(false));
        assert_eq!(check(&offered, "another", ORIGIN, now), Some(false));
        assert_eq!(check(&offered, secret, "https://b", now), Some(false));
        assert_eq!(check("ringback.owner.1", secret, ORIGIN, now), None);
        for broken in ["", "AAAA", &ticket[1..]] {
            let offered = format!("{TICKET_PREFIX}{broken}");
            assert_eq!(check(&offered, secret, ORIGIN, now), Some(false));
        }
    }
}
