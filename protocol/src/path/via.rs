//! One way for datagrams between two peers, and how good such a way can be.

use std::fmt;
use std::net::SocketAddr;

use crate::Redacted;

/// How the shell sends a datagram, and how one came in. Numbers are the shell's or the search's and
/// mean nothing to the peer.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub enum Via {
    /// From a UDP socket to an address. Socket 0 is the agent's own, higher numbers are opened for
    /// a search (§10.2).
    Udp { socket: u16, to: SocketAddr },
    /// A connection that carries datagrams both ways: TCP to the peer, or a relay.
    Connection(u32),
}

impl Via {
    /// From the agent's own socket.
    pub const fn udp(to: SocketAddr) -> Self {
        Self::Udp { socket: 0, to }
    }

    /// The address on the other end of a UDP way.
    pub fn address(self) -> Option<SocketAddr> {
        match self {
            Self::Udp { to, .. } => Some(to),
            Self::Connection(_) => None,
        }
    }
}

impl fmt::Debug for Via {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Udp { socket, to } => write!(f, "Udp({socket}, {:?})", Redacted(to)),
            Self::Connection(number) => write!(f, "Connection({number})"),
        }
    }
}

/// What kind of path it is. A lower class is preferred whatever its round trip.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// UDP between the peers.
    Udp,
    /// TCP between the peers.
    Tcp,
    /// A relay of the owner's own.
    OwnRelay,
    /// The registry's relay.
    Relay,
}

impl Class {
    pub fn is_relay(self) -> bool {
        matches!(self, Self::OwnRelay | Self::Relay)
    }
}

/// A datagram to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transmit {
    pub via: Via,
    pub datagram: Vec<u8>,
    pub purpose: Purpose,
}

/// How far a datagram that is sent is known to be welcome where it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The peer has been heard from there, or it goes by a connection.
    Answered,
    /// The peer has named the address; nobody has answered from there.
    Unproven,
    /// As that, and it is one of the many of a search (§10.2).
    Search,
}
