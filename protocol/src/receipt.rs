//! The connection receipt: how a call went, for people (`ringback connect -v`) and scripts
//! (`--json`).

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::PeerId;
use crate::candidate::Kind;

/// How a peer's NAT maps UDP ports (RFC 4787, 4.1), as far as STUN could tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Nat {
    /// No STUN server answered, or only one did behind a NAT; also any number of a later version.
    #[default]
    Unknown,
    /// The public address is the host's own.
    None,
    /// One public port for all destinations.
    EndpointIndependent,
    /// Another public port for another destination ("symmetric").
    EndpointDependent,
}

impl Nat {
    pub(crate) fn is_unknown(&self) -> bool {
        *self == Self::Unknown
    }
}

impl<C> minicbor::Encode<C> for Nat {
    fn encode<W: minicbor::encode::Write>(
        &self,
        e: &mut minicbor::Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        e.u8(match self {
            Self::Unknown => 0,
            Self::None => 1,
            Self::EndpointIndependent => 2,
            Self::EndpointDependent => 3,
        })?
        .ok()
    }
}

impl<'b, C> minicbor::Decode<'b, C> for Nat {
    fn decode(d: &mut minicbor::Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
        Ok(match d.u8()? {
            1 => Self::None,
            2 => Self::EndpointIndependent,
            3 => Self::EndpointDependent,
            _ => Self::Unknown,
        })
    }
}

/// Which way the link's datagrams go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PathKind {
    /// Between the two peers' own sockets, through their routers at most.
    Direct,
    /// Through a relay: the owner's own, or the registry.
    Relay,
}

/// What carries the datagrams of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    #[default]
    Udp,
    Tcp,
    WebSocket,
}

/// The path that a link uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathInUse {
    pub path: PathKind,
    pub transport: Transport,
    /// The peer's address, or the relay's.
    pub remote: SocketAddr,
}

/// A step of the call and when it was done, in milliseconds since the call began.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    pub step: String,
    pub at_ms: f64,
}

/// An address that was tried, and what came of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tried {
    /// The peer's, or the relay's.
    pub address: SocketAddr,
    pub transport: Transport,
    pub kind: Kind,
    pub result: TriedResult,
    /// Round trip of the last answered ping.
    pub rtt_ms: Option<f64>,
    pub pings: u32,
}

/// What came of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TriedResult {
    /// The link uses it.
    Won,
    /// It works, another is better.
    Works,
    /// A datagram came from it, none was answered yet.
    HeardOnly,
    /// It takes short datagrams, and none as long as QUIC's.
    ShortOnly,
    NoAnswer,
}

/// How a call went.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Receipt {
    pub device: PeerId,
    pub path: PathKind,
    pub transport: Transport,
    /// The device's address on the path that won, or the relay's.
    pub remote: SocketAddr,
    pub rtt_ms: Option<f64>,
    pub caller_nat: Nat,
    pub device_nat: Nat,
    pub steps: Vec<Step>,
    pub paths: Vec<Tried>,
}

impl Receipt {
    /// The path that won.
    pub fn in_use(&self) -> PathInUse {
        PathInUse {
            path: self.path,
            transport: self.transport,
            remote: self.remote,
        }
    }
}
