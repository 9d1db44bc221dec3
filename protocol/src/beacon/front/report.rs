//! What a beacon tells: whom a datagram is from, what the registry hears, and what is counted.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::PeerId;

/// Where a datagram comes from and where its answer goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Source {
    Udp {
        remote: SocketAddr,
        /// Which of the beacon's addresses it was sent to, if it has several.
        local: Option<IpAddr>,
    },
    /// A TCP connection, by a number that is never used twice.
    Tcp(u64, SocketAddr),
}

impl Source {
    pub fn address(&self) -> SocketAddr {
        match self {
            Self::Udp { remote, .. } => *remote,
            Self::Tcp(_, remote) => *remote,
        }
    }
}

/// What the registry is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Report {
    /// The device is here and has this address. The registry answers whether it knows it.
    Seen { device: PeerId, public: SocketAddr },
    /// Does the registry know this device? It is not registered here.
    Check { device: PeerId },
    /// The device has fallen silent, or has left.
    Gone { device: PeerId },
}

/// What the beacon has done since its start. Every datagram is counted once, under `answered`
/// kinds or under the reason why it was dropped.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    pub received: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub hellos: u64,
    pub registrations: u64,
    pub keepalives: u64,
    pub address_changes: u64,
    pub notifications: u64,
    pub notified: u64,
    pub probes: u64,
    pub stun: u64,
    pub joins: u64,
    pub relayed: u64,
    pub relayed_bytes: u64,
    /// Neither a datagram of the beacon's nor of a room, or of a wrong length.
    pub malformed: u64,
    pub oversized: u64,
    pub rate_limited: u64,
    pub bad_cookie: u64,
    /// Does not authenticate.
    pub forged: u64,
    pub replayed: u64,
    /// Of no session and no room here.
    pub unknown: u64,
    pub table_full: u64,
    /// Of a room, but over its rate, or while the other member is away.
    pub relay_dropped: u64,
}
