//! What is remembered of a socket to a room while the room hibernates.

use minicbor::{Decode, Encode};
use ringback_protocol::PeerId;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use worker::WebSocket;

use super::meter::Meter;

/// Milliseconds from Challenge to Join (§15.2).
pub(super) const JOIN_MS: u64 = 10_000;

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(super) struct Attachment {
    #[n(0)]
    pub(super) opened_ms: u64,
    #[n(1)]
    pub(super) stage: Stage,
}

/// How far a socket has come.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(super) enum Stage {
    /// The challenge is sent.
    #[n(0)]
    Challenged {
        #[cbor(n(0), with = "minicbor::bytes")]
        room: [u8; 16],
        #[cbor(n(1), with = "minicbor::bytes")]
        nonce: [u8; 32],
        /// The origin that the peer dials.
        #[n(2)]
        origin: String,
    },
    /// The signature was right; the directory is being asked.
    #[n(1)]
    Joining,
    #[n(2)]
    Joined(#[n(0)] Member),
    /// Closed by us.
    #[n(3)]
    Closed,
}

/// A peer in the room.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(super) struct Member {
    #[n(0)]
    pub(super) side: Side,
    #[n(1)]
    pub(super) peer: PeerId,
    /// The device that the room belongs to.
    #[n(2)]
    pub(super) device: PeerId,
    /// The room's meter, as it was when this socket was written to last.
    #[n(3)]
    pub(super) meter: Meter,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub(super) enum Side {
    #[n(0)]
    Device,
    #[n(1)]
    Caller,
}

impl Side {
    pub(super) fn other(self) -> Self {
        match self {
            Self::Device => Self::Caller,
            Self::Caller => Self::Device,
        }
    }
}

impl From<ringback_protocol::path::Role> for Side {
    fn from(role: ringback_protocol::path::Role) -> Self {
        match role {
            ringback_protocol::path::Role::Device => Self::Device,
            ringback_protocol::path::Role::Caller => Self::Caller,
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Stored(ByteBuf);

impl Attachment {
    /// `None` for a socket that is not ours or was written by a version with another format.
    pub(super) fn load(socket: &WebSocket) -> Option<Self> {
        let Stored(bytes) = socket.deserialize_attachment().ok()??;
        minicbor::decode(&bytes).ok()
    }

    pub(super) fn store(&self, socket: &WebSocket) -> worker::Result<()> {
        let bytes = minicbor::to_vec(self).expect("writing to a Vec does not fail");
        socket.serialize_attachment(Stored(ByteBuf::from(bytes)))
    }

    /// Milliseconds that a joining socket has left; `None` if it is not joining.
    pub(super) fn patience_ms(&self, now_ms: u64) -> Option<u64> {
        matches!(self.stage, Stage::Challenged { .. } | Stage::Joining)
            .then(|| (self.opened_ms + JOIN_MS).saturating_sub(now_ms))
    }
}
