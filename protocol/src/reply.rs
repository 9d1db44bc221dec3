//! The device's sealed reply (§8).

use std::fmt;

use chacha20poly1305::aead::{Aead as _, KeyInit as _, Payload};
use chacha20poly1305::{ChaCha20Poly1305, Nonce};
pub use minicbor::bytes::ByteVec as Datagram;
use minicbor::{Decode, Encode};
use zeroize::ZeroizeOnDrop;

use crate::candidate::Candidate;
use crate::cbor;
use crate::receipt::Nat;
use crate::rtc::Description;

/// The only sequence number of version 1: one reply per request.
const SEQUENCE: u8 = 0;

/// What the device tells the caller that it admits.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Reply {
    #[cbor(n(0), with = "minicbor::bytes")]
    pub request_id: [u8; 16],
    #[n(1)]
    pub candidates: Vec<Candidate>,
    /// The device will know the caller's key from now on.
    #[cbor(n(2), default)]
    pub remembered: bool,
    #[cbor(n(3), default)]
    pub nat: Nat,
    /// The device's side of the WebRTC connection that the request asked for.
    #[n(4)]
    pub webrtc: Option<Description>,
    /// The QUIC datagrams with which the device dials, so that the handshake goes on even where
    /// the caller's NAT has kept them out. At most [`MAX_FLIGHT`] of at most [`MAX_DATAGRAM`] bytes.
    #[cbor(n(5), default, skip_if = "Vec::is_empty")]
    pub flight: Vec<Datagram>,
    /// Bit: [`PADS`](crate::envelope::PADS).
    #[cbor(n(6), default, skip_if = "is_zero")]
    pub path: u32,
}

fn is_zero(bits: &u32) -> bool {
    *bits == 0
}

/// Datagrams of the dial-back in a reply.
pub const MAX_FLIGHT: usize = 4;
/// Bytes of each.
pub const MAX_DATAGRAM: usize = 1500;

/// Seals the one reply of a request.
#[derive(Clone, ZeroizeOnDrop)]
pub struct ReplyKey([u8; 32]);

/// The reply is not the device's to this request: altered, or somebody else's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the answer is not the device's to this request")]
pub struct ForgedReply;

impl ReplyKey {
    pub(crate) fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Seals `reply`. Consumes the key: a second reply under it would reuse the nonce.
    pub fn seal(self, reply: &Reply) -> Vec<u8> {
        let payload = Payload {
            msg: &cbor::encode(reply),
            aad: &reply.request_id,
        };
        let sealed = self
            .cipher()
            .encrypt(&nonce(), payload)
            .expect("a reply is short");
        [&[SEQUENCE], sealed.as_slice()].concat()
    }

    /// Opens what should be the reply to the request with `request_id`.
    pub fn open(&self, bytes: &[u8], request_id: &[u8; 16]) -> Result<Reply, ForgedReply> {
        let (&sequence, sealed) = bytes.split_first().ok_or(ForgedReply)?;
        if sequence != SEQUENCE {
            return Err(ForgedReply);
        }
        let plaintext = self
            .cipher()
            .decrypt(
                &nonce(),
                Payload {
                    msg: sealed,
                    aad: request_id,
                },
            )
            .map_err(|_| ForgedReply)?;
        let mut reply: Reply = cbor::decode(&plaintext).map_err(|_| ForgedReply)?;
        reply.flight.truncate(MAX_FLIGHT);
        reply
            .flight
            .retain(|datagram| datagram.len() <= MAX_DATAGRAM);
        if reply.request_id == *request_id {
            Ok(reply)
        } else {
            Err(ForgedReply)
        }
    }

    fn cipher(&self) -> ChaCha20Poly1305 {
        ChaCha20Poly1305::new(&self.0.into())
    }
}

impl fmt::Debug for ReplyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReplyKey([redacted])")
    }
}

fn nonce() -> Nonce {
    let mut nonce = Nonce::default();
    nonce[11] = SEQUENCE;
    nonce
}
