//! What proves the right to call: the pre-shared key derived from a password (§3).

use std::fmt;

use argon2::{Algorithm, Argon2, Params, Version};
use sha2::{Digest as _, Sha256};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::{PeerId, SecretKey, label};

/// `psk_id` of the device's password.
pub const PASSWORD_ID: &[u8] = b"password";
/// Bytes of the longest `psk_id`.
pub const MAX_PSK_ID: usize = 32;
/// Bytes of the longest password.
pub const MAX_PASSWORD: usize = 256;
/// Bytes of [`Psk::tag`].
pub const TAG: usize = 8;

/// Argon2id memory in KiB, passes and lanes (§3.1).
const MEMORY_KIB: u32 = 19_456;
const PASSES: u32 = 2;
const LANES: u32 = 1;

/// A 256-bit pre-shared key. Whoever has it can call the device: wiped on drop, never printed.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct Psk([u8; 32]);

/// The password has no or too many bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a password has 1 to {MAX_PASSWORD} bytes")]
pub struct BadPassword;

/// A password as a person gives it, in the one form that keys are derived from (§3.1): the
/// OpaqueString profile of RFC 8265, without the end of the line that it was read from. So the same
/// letters are the same password on every keyboard and in every file.
///
/// `nfc` is Unicode's Normalization Form C, of which every platform has its own.
pub fn opaque(password: &str, nfc: impl FnOnce(&str) -> String) -> String {
    let password = password.trim_end_matches(['\r', '\n']);
    if password.is_ascii() {
        return password.to_owned();
    }
    // Spaces of any script are the plain one; that comes first (RFC 8265, 4.2.2).
    let spaced: String = password
        .chars()
        .map(|c| if is_space(c) { ' ' } else { c })
        .collect();
    nfc(&spaced)
}

/// The characters of Unicode's category Zs.
fn is_space(c: char) -> bool {
    matches!(
        c,
        ' ' | '\u{a0}' | '\u{1680}' | '\u{2000}'
            ..='\u{200a}' | '\u{202f}' | '\u{205f}' | '\u{3000}'
    )
}

impl Psk {
    /// Derives the key of `password` for `device` (§3.1), byte for byte: see [`opaque`]. Takes tens
    /// of milliseconds and 19 MiB.
    pub fn from_password(password: &str, device: &PeerId) -> Result<Self, BadPassword> {
        if password.is_empty() || password.len() > MAX_PASSWORD {
            return Err(BadPassword);
        }
        let salt = Sha256::digest(label::join(label::PASSWORD, &[device.as_bytes()]));
        let params = Params::new(MEMORY_KIB, PASSES, LANES, Some(32)).expect("constants in range");
        let mut psk = [0; 32];
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password_into(password.as_bytes(), &salt[..16], &mut psk)
            .expect("lengths in range");
        Ok(Self(psk))
    }

    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Tells this key from another one, for the files of `device`. Without the device's own key nobody
    /// can try passwords on it.
    pub fn tag(&self, device: &SecretKey) -> [u8; TAG] {
        let seed = device.seed();
        let parts: [&[u8]; 2] = [seed.as_slice(), &self.0];
        let hash = label::sha256(&label::join(label::SECRET_TAG, &parts));
        let mut tag = [0; TAG];
        tag.copy_from_slice(&hash[..TAG]);
        tag
    }
}

impl fmt::Debug for Psk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Psk([redacted])")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_prepared_before_a_key_is_derived() {
        // Stands for Normalization Form C; plain ASCII has no need of it.
        let nfc = |text: &str| text.replace("e\u{301}", "\u{e9}");
        for (given, prepared) in [
            ("cafe\u{301}", "caf\u{e9}"),
            ("a\u{a0}b\u{2003}c\u{3000}d\u{e9}", "a b c d\u{e9}"),
            ("line\r\n", "line"),
            ("line\r", "line"),
            ("two\rlines", "two\rlines"),
            (" spaces stay ", " spaces stay "),
            ("tab\t", "tab\t"),
            ("\r\n", ""),
        ] {
            assert_eq!(opaque(given, nfc), prepared, "{given:?}");
        }
        assert_eq!(
            opaque("ascii", |_| unreachable!("no table is needed")),
            "ascii"
        );
    }
}
