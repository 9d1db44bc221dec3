//! Domain separation: one label for each use of a key (§1).

use ed25519_dalek::{Signature, Signer as _, VerifyingKey};
use sha2::{Digest as _, Sha256};

pub const PASSWORD: &str = "ringback/1 password";
pub const ENROL: &str = "ringback/1 enrol";
pub const REGISTER: &str = "ringback/1 register";
pub const REQUEST: &str = "ringback/1 request";
pub const ENVELOPE: &str = "ringback/1 envelope";
pub const REPLY: &str = "ringback/1 reply";
pub const REFUSAL: &str = "ringback/1 refusal";
pub const PATH_DEVICE: &str = "ringback/1 path device";
pub const PATH_CALLER: &str = "ringback/1 path caller";
pub const PATH_TAG: &str = "ringback/1 path tag";
pub const COOKIE: &str = "ringback/1 cookie";
pub const RELAY: &str = "ringback/1 relay";
pub const JOIN: &str = "ringback/1 join";
pub const BEACON: &str = "ringback/1 beacon";
pub const FETCH: &str = "ringback/1 fetch";
pub const ANSWER: &str = "ringback/1 answer";
pub const UPGRADE: &str = "ringback/1 upgrade";
pub const SECRET_TAG: &str = "ringback/1 secret tag";

/// `label ‖ 0x00 ‖ parts…`, what is signed or hashed.
pub(crate) fn join(label: &str, parts: &[&[u8]]) -> Vec<u8> {
    let mut message =
        Vec::with_capacity(label.len() + 1 + parts.iter().map(|p| p.len()).sum::<usize>());
    message.extend_from_slice(label.as_bytes());
    message.push(0);
    for part in parts {
        message.extend_from_slice(part);
    }
    message
}

pub(crate) fn sign(key: &ed25519_dalek::SigningKey, label: &str, parts: &[&[u8]]) -> [u8; 64] {
    key.sign(&join(label, parts)).to_bytes()
}

/// Strict verification (RFC 8032 with small-order keys and non-canonical encodings refused).
pub(crate) fn verify(
    key: &VerifyingKey,
    label: &str,
    parts: &[&[u8]],
    signature: &[u8; 64],
) -> bool {
    key.verify_strict(&join(label, parts), &Signature::from_bytes(signature))
        .is_ok()
}

pub(crate) fn sha256(data: &[u8]) -> [u8; 32] {
    Sha256::digest(data).into()
}
