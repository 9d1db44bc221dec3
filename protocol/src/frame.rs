//! Frames between a peer and the registry (§6). All tags stand in the list at `frames!`; a removed
//! number stays there as a comment.
//!
//! Protocol flow, device: `Challenge` ← · `Register` → · `Registered` ← · then in any order
//! `Update` → `Updated` ←, and per request `Deliver` ← `Ack` → (`Answer` | `Refuse`) →.
//! Caller: (`POST` or `Place` →) · `Delivered` ← · (`Answered` | `Refused` | `Failed`) ←.

use std::net::SocketAddr;

use minicbor::{Decode, Encode};

pub use crate::cbor::Malformed;
use crate::{Code, PeerId, candidate::address, cbor};

/// Bytes of the largest frame on a device's socket (§14).
pub const MAX_FRAME: usize = 32 * 1024;

macro_rules! frames {
    ($($tag:literal $variant:ident,)*) => {
        /// One message between a peer and the registry.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum Frame {
            $($variant($variant),)*
            /// A frame of a later version, by its tag: to be ignored.
            Unknown(u8),
        }

        impl Frame {
            pub fn tag(&self) -> u8 {
                match self { $(Self::$variant(_) => $tag,)* Self::Unknown(tag) => *tag }
            }

            /// The tag byte and the CBOR body. An `Unknown` frame has an empty body.
            pub fn encode(&self) -> Vec<u8> {
                let mut out = vec![self.tag()];
                match self {
                    $(Self::$variant(body) => cbor::encode_into(body, &mut out),)*
                    Self::Unknown(_) => out.push(0xa0),
                }
                out
            }

            /// Reads one whole frame of at most [`MAX_FRAME`] bytes.
            pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
                if bytes.len() > MAX_FRAME {
                    return Err(Malformed(format!("a frame has at most {MAX_FRAME} bytes")));
                }
                let (&tag, body) = bytes.split_first().ok_or_else(|| Malformed("empty frame".into()))?;
                match tag {
                    $($tag => cbor::decode(body).map(Self::$variant),)*
                    other => Ok(Self::Unknown(other)),
                }
            }
        }

        $(impl From<$variant> for Frame {
            fn from(body: $variant) -> Self { Self::$variant(body) }
        })*
    };
}

frames! {
    0x01 Register,
    0x02 Update,
    0x03 Ack,
    0x04 Answer,
    0x05 Refuse,
    0x06 Place,
    0x41 Challenge,
    0x42 Registered,
    0x43 Deliver,
    0x44 Rejected,
    0x45 Updated,
    0x51 Delivered,
    0x52 Answered,
    0x53 Refused,
    0x54 Failed,
}

/// Device → registry: the answer to a [`Challenge`] (§6.1).
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Register {
    #[cbor(n(0), with = "minicbor::bytes")]
    pub signature: [u8; 64],
    /// At most 64 bytes are kept.
    #[n(1)]
    pub agent: String,
    #[cbor(n(2), with = "address::optional", has_nil)]
    pub public: Option<SocketAddr>,
}

/// Device → registry: the public UDP address has changed.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Update {
    #[cbor(n(0), with = "address")]
    pub public: SocketAddr,
}

/// Device → registry: the request has arrived; sent before it is opened.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Ack {
    #[n(0)]
    pub call: u64,
}

/// Device → registry: the sealed reply (§8).
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Answer {
    #[n(0)]
    pub call: u64,
    #[cbor(n(1), with = "minicbor::bytes")]
    pub reply: Vec<u8>,
}

/// Device → registry: the signed refusal (§9).
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Refuse {
    #[n(0)]
    pub call: u64,
    #[cbor(n(1), with = "minicbor::bytes")]
    pub refusal: Vec<u8>,
}

/// Device → registry: places a call of its own over this socket.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Place {
    #[n(0)]
    pub call: u64,
    #[n(1)]
    pub device: PeerId,
    #[cbor(n(2), with = "minicbor::bytes")]
    pub envelope: Vec<u8>,
}

/// Registry → device: prove your key.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Challenge {
    #[cbor(n(0), with = "minicbor::bytes")]
    pub nonce: [u8; 32],
    /// The registry's clock in Unix milliseconds.
    #[n(1)]
    pub time_ms: u64,
}

/// Registry → device: you are in the device list.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Registered {
    /// The IP address that the socket comes from, as text; empty if the registry can not tell.
    #[n(0)]
    pub seen: String,
    #[n(1)]
    pub name: String,
    /// `host:port` each.
    #[n(2)]
    pub stun: Vec<String>,
}

/// Registry → device: somebody rings.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Deliver {
    #[n(0)]
    pub call: u64,
    #[cbor(n(1), with = "minicbor::bytes")]
    pub envelope: Vec<u8>,
}

/// Registry → device: the registration is refused; the socket closes.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Rejected {
    #[n(0)]
    pub code: Code,
    #[n(1)]
    pub detail: String,
    #[n(2)]
    pub retry_after_s: Option<u32>,
}

/// Registry → device: the new address is in the device list.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Updated {
    #[cbor(n(0), with = "address")]
    pub public: SocketAddr,
}

/// Registry → caller: the device has the request.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Delivered {
    #[n(0)]
    pub call: u64,
}

/// Registry → caller: the device's sealed reply.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Answered {
    #[n(0)]
    pub call: u64,
    #[cbor(n(1), with = "minicbor::bytes")]
    pub reply: Vec<u8>,
}

/// Registry → caller: the device's signed refusal.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Refused {
    #[n(0)]
    pub call: u64,
    #[cbor(n(1), with = "minicbor::bytes")]
    pub refusal: Vec<u8>,
}

/// Registry → caller: the registry could not do it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Failed {
    #[n(0)]
    pub call: u64,
    #[n(1)]
    pub code: Code,
    #[n(2)]
    pub detail: String,
    #[n(3)]
    pub retry_after_s: Option<u32>,
    #[n(4)]
    pub last_seen: Option<u64>,
}

/// Frames in a byte stream, each behind a 2-byte length (§5.3, §12). Feed bytes in, take frames out.
#[derive(Debug, Default)]
pub struct FrameReader {
    buffer: Vec<u8>,
}

impl FrameReader {
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame's bytes, without the length.
    pub fn next_bytes(&mut self) -> Option<Vec<u8>> {
        let len = usize::from(u16::from_be_bytes(self.buffer.get(..2)?.try_into().ok()?));
        let frame = self.buffer.get(2..2 + len)?.to_vec();
        self.buffer.drain(..2 + len);
        Some(frame)
    }

    pub fn next_frame(&mut self) -> Option<Result<Frame, Malformed>> {
        self.next_bytes().map(|bytes| Frame::decode(&bytes))
    }

    /// What is left behind the last whole frame.
    pub fn into_rest(self) -> Vec<u8> {
        self.buffer
    }
}

/// Puts the 2-byte length before an encoded frame (§5.3, §12).
pub fn length_prefixed(frame: &[u8]) -> Vec<u8> {
    let len = u16::try_from(frame.len()).expect("frames are at most 32 KiB");
    let mut out = Vec::with_capacity(2 + frame.len());
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(frame);
    out
}
