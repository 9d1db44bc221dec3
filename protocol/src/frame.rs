//! Frames between a peer and the registry (§6). All tags stand in the list at `frames!`; a removed
//! number stays there as a comment.
//!
//! Protocol flow, device: `Challenge` ← · `Register` → · `Registered` ← · then in any order
//! `Update` → `Updated` ←, and per request `Deliver` ← `Ack` → (`Answer` | `Refuse`) →.
//! Device on a relay, and caller: `Challenge` ← · `Join` → · `Joined` ← · `PeerPresence` ← ·
//! (`Mark` ← `Marked` →) (§15).
//! Beacon, after `Registered`: `Beacon` → · `Seen` → `Known` ← · `Gone` → · `Notify` ← (§6.3).
//! Caller: (`POST` or `Place` →) · `Delivered` ← · (`Answered` | `Refused` | `Failed`) ←.

use std::net::SocketAddr;

use minicbor::{Decode, Encode};

pub use crate::cbor::Malformed;
use crate::path::Role;
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
                let (tag, body) = split(bytes)?;
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
    0x07 Join,
    0x08 Beacon,
    0x09 Seen,
    0x0a Gone,
    0x0b Marked,
    0x41 Challenge,
    0x42 Registered,
    0x43 Deliver,
    0x44 Rejected,
    0x45 Updated,
    0x46 Joined,
    0x47 PeerPresence,
    0x48 Known,
    0x49 Notify,
    0x4a Mark,
    0x51 Delivered,
    0x52 Answered,
    0x53 Refused,
    0x54 Failed,
}

impl Frame {
    /// Reads one whole frame of those that answer a caller; others are [`Frame::Unknown`]. A browser,
    /// which has no use for more, is spared the code for them.
    pub fn decode_answer(bytes: &[u8]) -> Result<Self, Malformed> {
        let (tag, body) = split(bytes)?;
        match tag {
            0x51 => cbor::decode(body).map(Self::Delivered),
            0x52 => cbor::decode(body).map(Self::Answered),
            0x53 => cbor::decode(body).map(Self::Refused),
            0x54 => cbor::decode(body).map(Self::Failed),
            other => Ok(Self::Unknown(other)),
        }
    }
}

/// The tag and the body.
fn split(bytes: &[u8]) -> Result<(u8, &[u8]), Malformed> {
    if bytes.len() > MAX_FRAME {
        return Err(Malformed(format!("a frame has at most {MAX_FRAME} bytes")));
    }
    let (&tag, body) = bytes
        .split_first()
        .ok_or_else(|| Malformed("empty frame".into()))?;
    Ok((tag, body))
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
    /// A random number of this start of the agent: two agents with one key are told apart by it.
    #[n(3)]
    pub instance: Option<u64>,
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

/// Peer → relay: the answer to a [`Challenge`] there (§15).
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Join {
    #[cbor(n(0), with = "role")]
    pub role: Role,
    /// The joiner's own ID.
    #[n(1)]
    pub peer: PeerId,
    /// The device of the call: `peer` itself in the role of the device.
    #[n(2)]
    pub device: PeerId,
    #[cbor(n(3), with = "minicbor::bytes")]
    pub signature: [u8; 64],
}

/// Beacon → registry: where this beacon listens (§6.3).
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Beacon {
    /// `host:port`
    #[n(0)]
    pub udp: String,
    /// `host:port`
    #[n(1)]
    pub tcp: Option<String>,
    /// It forwards datagrams of calls, too.
    #[n(2)]
    pub relay: bool,
}

/// Beacon → registry: this device has registered by UDP, from this address (§6.3); without an
/// address it has not, and the beacon only asks whether it may relay for it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Seen {
    #[n(0)]
    pub device: PeerId,
    #[cbor(n(1), with = "address::optional", has_nil)]
    pub public: Option<SocketAddr>,
}

/// Beacon → registry: this device has fallen silent (§6.3).
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Gone {
    #[n(0)]
    pub device: PeerId,
}

/// Peer → relay: everything before this [`Mark`] has come (§15.3).
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Marked {
    #[n(0)]
    pub number: u64,
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
    #[cbor(n(3), skip_if = "Vec::is_empty", default)]
    pub beacons: Vec<ListedBeacon>,
    /// Another agent registers with the same key, from this IP address (as text; empty if the
    /// registry can not tell).
    #[n(4)]
    pub rival: Option<String>,
}

/// A beacon that the registry tells its devices of: [`Beacon`] and whose it is.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct ListedBeacon {
    /// `host:port`
    #[n(0)]
    pub udp: String,
    /// `host:port`
    #[n(1)]
    pub tcp: Option<String>,
    #[n(2)]
    pub relay: bool,
    #[n(3)]
    pub id: PeerId,
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

/// Relay → peer: you are in the room (§15).
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Joined {
    /// Bytes per second that the room forwards, both directions together.
    #[n(0)]
    pub rate_bytes_s: u64,
    /// Bytes that the relay will forward today, for all rooms together.
    #[n(1)]
    pub remaining_bytes: u64,
}

/// Relay → peer: the other end is in the room, or is not (§15).
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct PeerPresence {
    #[n(0)]
    pub present: bool,
}

/// Registry → beacon: whether a [`Seen`] device may use it (§6.3).
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Known {
    #[n(0)]
    pub device: PeerId,
    /// Why not; absent: the device is enrolled.
    #[n(1)]
    pub code: Option<Code>,
}

/// Registry → beacon: a request waits for this device (§6.3).
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Notify {
    #[n(0)]
    pub device: PeerId,
}

/// Relay → peer: confirm with [`Marked`] that everything before this has come (§15.3).
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Mark {
    #[n(0)]
    pub number: u64,
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
    /// TURN servers for an admitted browser (§5.5): a JSON array of RTCIceServer.
    #[n(2)]
    pub ice: Option<String>,
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

/// A role as one number: 0 the device, 1 the caller.
mod role {
    use minicbor::decode::{self, Decoder};
    use minicbor::encode::{self, Encoder, Write};

    use super::Role;

    pub(super) fn encode<C, W: Write>(
        role: &Role,
        e: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), encode::Error<W::Error>> {
        e.u8(match role {
            Role::Device => 0,
            Role::Caller => 1,
        })?
        .ok()
    }

    pub(super) fn decode<C>(d: &mut Decoder<'_>, _: &mut C) -> Result<Role, decode::Error> {
        match d.u8()? {
            0 => Ok(Role::Device),
            1 => Ok(Role::Caller),
            _ => Err(decode::Error::message("a role is 0 or 1")),
        }
    }
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
