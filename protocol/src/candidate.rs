//! Candidates: where a peer may be reached (§10). Ranked and capped, so that a host with dozens of
//! container bridges still offers the address that works.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::Redacted;
use crate::address_scope::Scope;

/// Candidates used of a request or a reply, at most (§14).
pub const MAX_CANDIDATES: usize = 16;

/// Places among them that are kept for TCP, if there are so many.
pub const MAX_TCP: usize = 4;

/// How a peer came to an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// An interface of the host.
    Host,
    /// Seen by a STUN server (RFC 8489).
    ServerReflexive,
    /// A port mapping made on the router.
    Mapped,
    /// A port that the user forwards by hand.
    Static,
    /// Learned from a datagram that the peer sent. Never on the wire.
    PeerReflexive,
    /// A relay between the two. Never on the wire.
    Relayed,
    /// A kind of a later version.
    Unknown(u8),
}

/// An address to try, and what is known of it.
#[derive(Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[cbor(map)]
pub struct Candidate {
    #[n(0)]
    pub kind: Kind,
    #[cbor(n(1), with = "address")]
    pub address: SocketAddr,
    /// [`UDP`] or [`TCP`]; others are kept for later versions and not used.
    #[cbor(n(2), skip_if = "is_udp", default)]
    #[serde(default, skip_serializing_if = "is_udp")]
    pub transport: u8,
}

/// Datagrams by UDP.
pub const UDP: u8 = 0;
/// A TCP port that takes connections which carry datagrams (§10.3).
pub const TCP: u8 = 1;

impl Candidate {
    pub fn udp(kind: Kind, address: SocketAddr) -> Self {
        Self {
            kind,
            address: canonical(address),
            transport: UDP,
        }
    }

    pub fn tcp(kind: Kind, address: SocketAddr) -> Self {
        Self {
            transport: TCP,
            ..Self::udp(kind, address)
        }
    }

    pub fn is_udp(&self) -> bool {
        self.transport == UDP
    }

    pub fn is_tcp(&self) -> bool {
        self.transport == TCP
    }

    /// Can a datagram be sent there at all, by a peer that means no harm? Loopback is usable only
    /// where the registry itself is on loopback (`loopback`).
    fn is_usable(&self, loopback: bool) -> bool {
        if self.transport > TCP || self.address.port() == 0 {
            return false;
        }
        match Scope::of(self.address.ip()) {
            Scope::NoHost | Scope::LinkLocal => false,
            Scope::Loopback => loopback,
            Scope::Global | Scope::Documentation | Scope::Shared | Scope::Private => true,
        }
    }

    /// Lower is tried first and kept longer when there are too many.
    fn rank(&self) -> u8 {
        match self.kind {
            Kind::Static => 0,
            Kind::Mapped => 1,
            Kind::ServerReflexive | Kind::PeerReflexive | Kind::Relayed => 2,
            Kind::Host if Scope::of(self.address.ip()).is_global() => 3,
            Kind::Host if is_bridge(self.address.ip()) => 5,
            Kind::Host => 4,
            Kind::Unknown(_) => 6,
        }
    }
}

impl fmt::Debug for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Candidate")
            .field("kind", &self.kind)
            .field("address", &Redacted(self.address))
            .field("transport", &self.transport)
            .finish()
    }
}

/// The usable ones of `candidates`, each address once for each transport, UDP before TCP and best
/// first. At most [`MAX_CANDIDATES`]: TCP ones give way beyond [`MAX_TCP`].
pub fn rank(candidates: &[Candidate], loopback: bool) -> Vec<Candidate> {
    let mut ranked: Vec<Candidate> = Vec::new();
    for candidate in candidates {
        let candidate = Candidate {
            address: canonical(candidate.address),
            ..candidate.clone()
        };
        if candidate.is_usable(loopback)
            && ranked.iter().all(|known| {
                (known.address, known.transport) != (candidate.address, candidate.transport)
            })
        {
            ranked.push(candidate);
        }
    }
    ranked.sort_by_key(|candidate| (candidate.transport, candidate.rank()));
    let udp = ranked.iter().take_while(|c| c.is_udp()).count();
    let tcp = (ranked.len() - udp).min(MAX_TCP.max(MAX_CANDIDATES.saturating_sub(udp)));
    let kept = udp.min(MAX_CANDIDATES - tcp);
    ranked.drain(kept..udp);
    ranked.truncate(kept + tcp);
    ranked
}

/// IPv4-mapped IPv6 addresses as IPv4; flow labels and scopes dropped.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// What limits count an address as: an IPv4 address, or the /64 of an IPv6 one, as whoever has one of
/// these has 2⁶⁴.
pub fn counted_as(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => IpAddr::V6((u128::from(ip) >> 64 << 64).into()),
        v4 => v4,
    }
}

fn is_udp(transport: &u8) -> bool {
    *transport == UDP
}

/// The ranges in which container engines make their bridges: 172.17–172.31 and 10.88 (podman).
pub(crate) fn is_bridge(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, ..] = ip.octets();
            (a == 172 && (17..32).contains(&b)) || (a == 10 && b == 88)
        }
        IpAddr::V6(_) => false,
    }
}

impl<C> Encode<C> for Kind {
    fn encode<W: minicbor::encode::Write>(
        &self,
        e: &mut minicbor::Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        let number = match *self {
            Self::Host => 1,
            Self::ServerReflexive => 2,
            Self::Mapped => 3,
            Self::Static => 4,
            Self::PeerReflexive => 5,
            Self::Relayed => 6,
            Self::Unknown(number) => number,
        };
        e.u8(number)?.ok()
    }
}

impl<'b, C> Decode<'b, C> for Kind {
    fn decode(d: &mut minicbor::Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
        Ok(match d.u8()? {
            1 => Self::Host,
            2 => Self::ServerReflexive,
            3 => Self::Mapped,
            4 => Self::Static,
            number => Self::Unknown(number),
        })
    }
}

/// Socket addresses on the wire: 6 or 18 bytes (§1).
pub mod address {
    use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

    use minicbor::decode::{self, Decoder};
    use minicbor::encode::{self, Encoder, Write};

    pub fn to_bytes(address: SocketAddr) -> Vec<u8> {
        let mut bytes = match super::canonical(address).ip() {
            std::net::IpAddr::V4(ip) => ip.octets().to_vec(),
            std::net::IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        bytes.extend_from_slice(&address.port().to_be_bytes());
        bytes
    }

    pub fn from_bytes(bytes: &[u8]) -> Option<SocketAddr> {
        let (ip, port) = bytes.split_last_chunk::<2>()?;
        let port = u16::from_be_bytes(*port);
        if let Ok(octets) = <[u8; 4]>::try_from(ip) {
            return Some((Ipv4Addr::from(octets), port).into());
        }
        let octets = <[u8; 16]>::try_from(ip).ok()?;
        Some(super::canonical((Ipv6Addr::from(octets), port).into()))
    }

    pub fn encode<C, W: Write>(
        address: &SocketAddr,
        e: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), encode::Error<W::Error>> {
        e.bytes(&to_bytes(*address))?.ok()
    }

    pub fn decode<C>(d: &mut Decoder<'_>, _: &mut C) -> Result<SocketAddr, decode::Error> {
        from_bytes(d.bytes()?).ok_or_else(|| decode::Error::message("an address has 6 or 18 bytes"))
    }

    /// The same for a field that may be absent.
    pub mod optional {
        use super::{Decoder, Encoder, SocketAddr, Write};

        pub fn encode<C, W: Write>(
            address: &Option<SocketAddr>,
            e: &mut Encoder<W>,
            ctx: &mut C,
        ) -> Result<(), super::encode::Error<W::Error>> {
            match address {
                Some(address) => super::encode(address, e, ctx),
                None => e.null()?.ok(),
            }
        }

        pub fn decode<C>(
            d: &mut Decoder<'_>,
            ctx: &mut C,
        ) -> Result<Option<SocketAddr>, super::decode::Error> {
            if d.datatype()? == minicbor::data::Type::Null {
                d.null()?;
                return Ok(None);
            }
            super::decode(d, ctx).map(Some)
        }

        pub fn nil() -> Option<Option<SocketAddr>> {
            Some(None)
        }

        pub fn is_nil(address: &Option<SocketAddr>) -> bool {
            address.is_none()
        }
    }
}
