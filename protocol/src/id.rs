//! Identities (§2): every peer is its Ed25519 public key, written `rb1…`.

use std::fmt;
use std::str::FromStr;

use bech32::{Bech32m, Hrp};
use ed25519_dalek::{SigningKey, VerifyingKey};
use zeroize::Zeroizing;

use crate::label;

const HRP: Hrp = Hrp::parse_unchecked("rb");
/// Characters of a written ID.
pub const ID_LEN: usize = 61;

/// A peer's public identity: an Ed25519 public key that is a valid point of large order.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerId([u8; 32]);

/// Why a text or bytes are not an ID. The message names the likely mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    #[error("not a device ID: it has {0} characters, an ID has {ID_LEN} and starts with rb1")]
    Length(usize),
    #[error("not a device ID: it does not start with rb1")]
    Prefix,
    #[error("not a device ID: the checksum does not fit, a character is mistyped")]
    Checksum,
    #[error("not a device ID: the key in it is not usable")]
    Key,
}

impl PeerId {
    /// Refuses what is not a curve point in canonical form, and points of small order.
    pub fn from_bytes(bytes: [u8; 32]) -> Result<Self, IdError> {
        let key = VerifyingKey::from_bytes(&bytes).map_err(|_| IdError::Key)?;
        if key.is_weak() || key.to_edwards().compress().to_bytes() != bytes {
            return Err(IdError::Key);
        }
        Ok(Self(bytes))
    }

    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Is `signature` this peer's over `label ‖ 0x00 ‖ parts…`?
    pub fn verify(&self, label: &str, parts: &[&[u8]], signature: &[u8; 64]) -> bool {
        label::verify(&self.verifying_key(), label, parts, signature)
    }

    /// The X25519 form of the key (RFC 7748, 4.1), for HPKE.
    pub(crate) fn to_x25519(self) -> [u8; 32] {
        self.verifying_key().to_montgomery().to_bytes()
    }

    /// `rb1` and the first six data characters, for logs and default names.
    pub fn short(&self) -> String {
        self.to_string()[..9].to_owned()
    }

    fn verifying_key(&self) -> VerifyingKey {
        VerifyingKey::from_bytes(&self.0).expect("checked when the ID was made")
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        bech32::encode_to_fmt::<Bech32m, _>(f, HRP, &self.0).map_err(|_| fmt::Error)
    }
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.short())
    }
}

impl FromStr for PeerId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        if text.len() != ID_LEN {
            return Err(IdError::Length(text.chars().count()));
        }
        if !(text.starts_with("rb1") || text.starts_with("RB1")) {
            return Err(IdError::Prefix);
        }
        let checked = bech32::primitives::decode::CheckedHrpstring::new::<Bech32m>(text)
            .map_err(|_| IdError::Checksum)?;
        let bytes: Vec<u8> = checked.byte_iter().collect();
        let id = Self::from_bytes(bytes.try_into().map_err(|_| IdError::Checksum)?)?;
        // One text for one key: the padding bits behind it are zero.
        if id.to_string().eq_ignore_ascii_case(text) {
            Ok(id)
        } else {
            Err(IdError::Checksum)
        }
    }
}

impl serde::Serialize for PeerId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for PeerId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl<C> minicbor::Encode<C> for PeerId {
    fn encode<W: minicbor::encode::Write>(
        &self,
        e: &mut minicbor::Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        e.bytes(&self.0)?.ok()
    }
}

impl<'b, C> minicbor::Decode<'b, C> for PeerId {
    fn decode(d: &mut minicbor::Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
        let bytes = d
            .bytes()?
            .try_into()
            .map_err(|_| minicbor::decode::Error::message("an ID has 32 bytes"))?;
        Self::from_bytes(bytes).map_err(|e| minicbor::decode::Error::message(e.to_string()))
    }
}

/// A peer's secret key: the 32-byte Ed25519 seed. Wiped on drop, never printed.
#[derive(Clone)]
pub struct SecretKey(SigningKey);

impl SecretKey {
    /// `seed` must be 32 bytes of a cryptographic random source.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    pub fn seed(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.to_bytes())
    }

    pub fn id(&self) -> PeerId {
        PeerId(self.0.verifying_key().to_bytes())
    }

    /// Ed25519 over `label ‖ 0x00 ‖ parts…` (§1).
    pub fn sign(&self, label: &str, parts: &[&[u8]]) -> [u8; 64] {
        label::sign(&self.0, label, parts)
    }

    /// X25519 with the peer's key, both mapped as for HPKE (§2). The result is no key yet: it goes
    /// through a KDF with everything that it shall be bound to.
    pub(crate) fn agree(&self, peer: &PeerId) -> Zeroizing<[u8; 32]> {
        let point = peer.verifying_key().to_montgomery();
        Zeroizing::new(point.mul_clamped(*self.to_x25519()).to_bytes())
    }

    /// The X25519 form of the key (RFC 8032, 5.1.5), for HPKE.
    pub(crate) fn to_x25519(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.to_scalar_bytes())
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey({:?})", self.id())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex_text: &str) -> [u8; 32] {
        hex::decode(hex_text).unwrap().try_into().unwrap()
    }

    /// The vector of libsodium's `ed25519_convert` test.
    #[test]
    fn maps_to_x25519_as_libsodium_does() {
        let key = SecretKey::from_seed(&bytes(
            "421151a459faeade3d247115f94aedae42318124095afabe4d1451a559faedee",
        ));
        assert_eq!(
            hex::encode(key.id().as_bytes()),
            "b5076a8474a832daee4dd5b4040983b6623b5f344aca57d4d6ee4baf3f259e6e"
        );
        assert_eq!(
            hex::encode(key.id().to_x25519()),
            "f1814f0e8ff1043d8a44d25babff3cedcae6c22c3edaa48f857ae70de2baae50"
        );
        // The same scalar before and after clamping: multiplied with the base point, it gives the
        // public key above.
        let mut scalar = *key.to_x25519();
        scalar[0] &= 0xf8;
        scalar[31] = (scalar[31] & 0x7f) | 0x40;
        assert_eq!(
            hex::encode(scalar),
            "8052030376d47112be7f73ed7a019293dd12ad910b654455798b4667d73de166"
        );
    }

    #[test]
    fn refuses_small_order_and_non_canonical_keys() {
        for (what, key) in [
            ("y = 0", [0; 32]),
            ("y = 1", {
                let mut y = [0; 32];
                y[0] = 1;
                y
            }),
            (
                "order 8",
                bytes("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"),
            ),
            (
                "y = p + 3, a point of large order",
                bytes("f0ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
            ),
            ("not on the curve", {
                let mut y = [0; 32];
                y[0] = 2;
                y
            }),
        ] {
            assert_eq!(PeerId::from_bytes(key), Err(IdError::Key), "{what}");
        }
    }

    #[test]
    fn names_the_likely_mistake() {
        let id = SecretKey::from_seed(&[0xd0; 32]).id().to_string();
        let err = |text: &str| text.parse::<PeerId>().unwrap_err();
        assert_eq!(err(&id[1..]), IdError::Length(60));
        assert_eq!(err("ä"), IdError::Length(1));
        assert_eq!(err(&id.replace("rb1", "cb1")), IdError::Prefix);
        assert_eq!(err(&id.replace("rb1", "rB1")), IdError::Prefix);
        let mixed = id[..60].to_owned() + &id[60..].to_uppercase();
        assert_eq!(err(&mixed), IdError::Checksum);
        for at in 3..ID_LEN {
            let typo = if &id[at..=at] == "q" { "p" } else { "q" };
            let mistyped = format!("{}{typo}{}", &id[..at], &id[at + 1..]);
            assert_eq!(err(&mistyped), IdError::Checksum, "at {at}");
        }
    }
}
