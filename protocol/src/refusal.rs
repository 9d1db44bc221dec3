//! A device's signed refusal (§9): the registry can neither forge one nor move it to another
//! request.

use minicbor::{Decode, Encode};

use crate::{Code, PeerId, SecretKey, UnixTime, cbor, label};

/// Why the device does not take a call, and when to try again.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Refusal {
    #[n(0)]
    pub code: Code,
    /// Seconds from `time`.
    #[n(1)]
    pub retry_after_s: Option<u32>,
    /// The device's clock.
    #[n(2)]
    pub time: UnixTime,
    #[cbor(n(3), with = "minicbor::bytes")]
    signature: [u8; 64],
}

/// A refusal that is not the device's answer to this envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the refusal is not signed by the device for this request")]
pub struct ForgedRefusal;

impl Refusal {
    /// Signs a refusal of the envelope with exactly these bytes.
    pub fn sign(
        device: &SecretKey,
        envelope: &[u8],
        code: Code,
        retry_after_s: Option<u32>,
        time: UnixTime,
    ) -> Self {
        let mut refusal = Self {
            code,
            retry_after_s,
            time,
            signature: [0; 64],
        };
        refusal.signature = device.sign(
            label::REFUSAL,
            &refusal
                .signed_parts(&label::sha256(envelope))
                .each_ref()
                .map(Vec::as_slice),
        );
        refusal
    }

    pub fn encode(&self) -> Vec<u8> {
        cbor::encode(self)
    }

    /// Parses a refusal and checks that `device` gave it to the envelope with exactly these bytes.
    pub fn decode(bytes: &[u8], device: &PeerId, envelope: &[u8]) -> Result<Self, ForgedRefusal> {
        let refusal: Self = cbor::decode(bytes).map_err(|_| ForgedRefusal)?;
        let parts = refusal.signed_parts(&label::sha256(envelope));
        let parts = parts.each_ref().map(Vec::as_slice);
        if device.verify(label::REFUSAL, &parts, &refusal.signature) {
            Ok(refusal)
        } else {
            Err(ForgedRefusal)
        }
    }

    fn signed_parts(&self, envelope_digest: &[u8; 32]) -> [Vec<u8>; 4] {
        [
            envelope_digest.to_vec(),
            self.time.to_be_bytes().to_vec(),
            u64::from(self.retry_after_s.unwrap_or(0))
                .to_be_bytes()
                .to_vec(),
            self.code.as_str().as_bytes().to_vec(),
        ]
    }
}
