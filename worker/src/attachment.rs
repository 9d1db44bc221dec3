//! What is remembered of a device's socket while its object hibernates: at most 16 KiB beside each
//! socket, kept by the runtime, free of charge and gone with the socket.

use std::net::SocketAddr;

use minicbor::{Decode, Encode};
use ringback_protocol::{PeerId, candidate::address};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use worker::WebSocket;

use crate::limits::{Count, RequestWindow, Window};
use crate::lineage::{Holder, Lineage};
use crate::role::EnrolledAs;

/// Milliseconds from Challenge to Register (§6.1).
pub const REGISTRATION_MS: u64 = 10_000;
/// Milliseconds without a sign of life after which a socket is taken for dead (§6).
pub const SILENCE_MS: u64 = 90_000;
/// Frames that do not parse which a registered socket may send (§6).
pub const MAX_BAD_FRAMES: u8 = 16;

/// One socket of a device.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Attachment {
    #[n(0)]
    pub device: PeerId,
    #[n(1)]
    pub opened_ms: u64,
    #[n(2)]
    pub stage: Stage,
}

/// How far a socket has come.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Stage {
    /// The challenge is sent.
    #[n(0)]
    Challenged {
        #[cbor(n(0), with = "minicbor::bytes")]
        nonce: [u8; 32],
        /// The origin that the device dials.
        #[n(1)]
        origin: String,
        /// The address that the socket comes from, as text.
        #[n(2)]
        from: String,
    },
    /// The signature was right; the directory is being asked.
    #[n(1)]
    Registering,
    #[n(2)]
    Registered(#[n(0)] Registration),
    /// Closed by us; the device list knows.
    #[n(3)]
    Closed,
}

/// A registered socket.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Registration {
    /// Given out by the directory, growing: the newest registration of a device wins, and what an
    /// older one has to say is ignored.
    #[n(0)]
    pub session: u64,
    #[cbor(n(1), with = "address::optional", has_nil)]
    pub public: Option<SocketAddr>,
    /// When the last frame came.
    #[n(2)]
    pub seen_ms: u64,
    #[n(3)]
    pub bad_frames: u8,
    // 4 were requests by another count.
    #[cbor(n(8), default)]
    pub requests: RequestWindow,
    #[n(5)]
    pub updates: Window,
    #[cbor(n(6), default)]
    pub role: EnrolledAs,
    /// Devices that a beacon has told of.
    #[cbor(n(7), default)]
    pub seen: Count,
    #[cbor(n(9), default)]
    pub holder: Holder,
    /// Who has had the socket before.
    #[cbor(n(10), default)]
    pub lineage: Lineage,
    /// Nobody gave the device a code.
    #[cbor(n(11), default)]
    pub is_self_enrolled: bool,
}

#[derive(Serialize, Deserialize)]
struct Stored(ByteBuf);

impl Attachment {
    /// `None` for a socket that is not ours or was written by a version with another format.
    pub fn load(socket: &WebSocket) -> Option<Self> {
        let Stored(bytes) = socket.deserialize_attachment().ok()??;
        minicbor::decode(&bytes).ok()
    }

    pub fn store(&self, socket: &WebSocket) -> worker::Result<()> {
        socket.serialize_attachment(Stored(ByteBuf::from(self.to_bytes())))
    }

    pub fn registration(&self) -> Option<&Registration> {
        match &self.stage {
            Stage::Registered(registration) => Some(registration),
            _ => None,
        }
    }

    pub fn is_registering(&self) -> bool {
        matches!(self.stage, Stage::Challenged { .. } | Stage::Registering)
    }

    /// Milliseconds that a registering socket has left; `None` if it is not registering.
    pub fn patience_ms(&self, now_ms: u64) -> Option<u64> {
        self.is_registering()
            .then(|| (self.opened_ms + REGISTRATION_MS).saturating_sub(now_ms))
    }

    fn to_bytes(&self) -> Vec<u8> {
        minicbor::to_vec(self).expect("writing to a Vec does not fail")
    }
}

#[cfg(test)]
mod tests {
    use ringback_protocol::SecretKey;

    use super::*;

    #[test]
    fn every_stage_survives_hibernation() {
        let device = SecretKey::from_seed(&[1; 32]).id();
        let requests = crate::limits::tests::full_window();
        let mut updates = Window::default();
        for _ in 0..30 {
            updates.admit(30, 1_800_000_000_000).unwrap();
        }
        let stages = [
            Stage::Challenged {
                nonce: [1; 32],
                origin: "https://registry.example".into(),
                from: "2001:db8::1".into(),
            },
            Stage::Registering,
            Stage::Registered(Registration {
                session: 7,
                public: Some("203.0.113.7:4000".parse().unwrap()),
                seen_ms: 1_800_000_000_000,
                bad_frames: 1,
                requests,
                updates,
                role: EnrolledAs::Beacon,
                seen: Count::default(),
                holder: Holder::default(),
                lineage: Lineage::default(),
                is_self_enrolled: true,
            }),
            Stage::Registered(Registration {
                session: 1,
                public: None,
                seen_ms: 0,
                bad_frames: 0,
                requests: RequestWindow::default(),
                updates: Window::default(),
                role: EnrolledAs::Device,
                seen: Count::default(),
                holder: Holder::default(),
                lineage: Lineage::default(),
                is_self_enrolled: true,
            }),
            Stage::Closed,
        ];
        for stage in stages {
            let attachment = Attachment {
                device,
                opened_ms: 1_800_000_000_000,
                stage,
            };
            let bytes = attachment.to_bytes();
            assert!(
                bytes.len() < 15 * 1024,
                "an attachment has at most 16 KiB: {}",
                bytes.len()
            );
            assert_eq!(minicbor::decode::<Attachment>(&bytes).unwrap(), attachment);
        }
    }

    #[test]
    fn a_socket_has_ten_seconds_to_register() {
        let device = SecretKey::from_seed(&[1; 32]).id();
        let mut attachment = Attachment {
            device,
            opened_ms: 1_000,
            stage: Stage::Registering,
        };
        assert_eq!(attachment.patience_ms(1_000), Some(10_000));
        assert_eq!(attachment.patience_ms(11_000), Some(0));
        assert_eq!(attachment.patience_ms(60_000), Some(0));
        attachment.stage = Stage::Closed;
        assert_eq!(attachment.patience_ms(60_000), None);
    }
}
