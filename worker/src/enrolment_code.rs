//! Enrolment codes (§5.2): 80 random bits that admit one device, once.

use ringback_protocol::registration::canonical_code;
use sha2::{Digest as _, Sha256};

/// Crockford's base32: no I, L, O, U.
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
const LEN: usize = 16;

/// A code in canonical form: 16 upper-case characters. Whoever has it can enrol a device: it is
/// shown to the owner once, stored as its hash, and never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct EnrolmentCode(String);

impl EnrolmentCode {
    /// From 10 bytes of a cryptographic random source.
    pub fn from_random(random: &[u8; 10]) -> Self {
        let bits = random
            .iter()
            .fold(0u128, |bits, byte| bits << 8 | u128::from(*byte));
        let digit = |i: usize| char::from(ALPHABET[(bits >> (5 * (LEN - 1 - i)) & 31) as usize]);
        Self((0..LEN).map(digit).collect())
    }

    /// Reads what a person typed: case, blanks and dashes do not matter, `O` is `0`, `I` and `L`
    /// are `1`.
    pub fn parse(text: &str) -> Option<Self> {
        let code = canonical_code(text);
        (code.len() == LEN && code.bytes().all(|b| ALPHABET.contains(&b))).then_some(Self(code))
    }

    /// The form that is signed: no dashes.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The form that is shown: groups of four.
    pub fn grouped(&self) -> String {
        [&self.0[..4], &self.0[4..8], &self.0[8..12], &self.0[12..]].join("-")
    }

    /// What the registry stores: SHA-256 in hexadecimal. 80 random bits need no slow hash.
    pub fn digest(&self) -> String {
        Sha256::digest(self.0.as_bytes())
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }
}

impl std::fmt::Debug for EnrolmentCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("EnrolmentCode([redacted])")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_bytes_become_sixteen_characters() {
        assert_eq!(
            EnrolmentCode::from_random(&[0; 10]).grouped(),
            "0000-0000-0000-0000"
        );
        assert_eq!(
            EnrolmentCode::from_random(&[0xff; 10]).grouped(),
            "ZZZZ-ZZZZ-ZZZZ-ZZZZ"
        );
        let code = EnrolmentCode::from_random(&[
            0x08, 0x86, 0x42, 0x98, 0xe8, 0x4a, 0x96, 0xc6, 0xb9, 0xf0,
        ]);
        assert_eq!(code.grouped(), "1234-5678-9ABC-DEFG");
    }

    #[test]
    fn a_code_is_read_as_people_type_it() {
        let code = EnrolmentCode::parse("1234-5678-9ABC-DEFG").unwrap();
        for typed in [
            "123456789abcdefg",
            "l234 5678 9abc defg",
            "i23-4567-89abcDEFG-",
        ] {
            assert_eq!(EnrolmentCode::parse(typed), Some(code.clone()), "{typed}");
        }
        assert_eq!(
            EnrolmentCode::parse("oooo-0000-OOOO-0000")
                .unwrap()
                .as_str(),
            "0000000000000000"
        );
        for wrong in [
            "",
            "1234",
            "1234-5678-9ABC-DEFG-H",
            "1234-5678-9ABC-DEFU",
            "ééééééééééééééé",
            "1234-5678-9ABC-DEF\u{212a}",
        ] {
            assert_eq!(EnrolmentCode::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_code_is_not_printed() {
        let code = EnrolmentCode::from_random(&[7; 10]);
        assert!(!format!("{code:?}").contains(code.as_str()));
        assert_eq!(code.digest().len(), 64);
    }
}
