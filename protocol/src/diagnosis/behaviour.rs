//! What a NAT does to UDP or TCP, from what STUN servers saw (RFC 4787, RFC 5780).

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::receipt::Nat;

/// One server's word on one socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sighting {
    pub server: SocketAddr,
    /// The address that the socket has for it.
    pub seen: SocketAddr,
}

/// What decides on the public address of a socket (RFC 4787, 4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mapping {
    /// Fewer than two servers answered from a NAT.
    #[default]
    Unknown,
    /// The public address is the host's own.
    None,
    /// One public address for all destinations.
    EndpointIndependent,
    /// Another one for another destination address.
    AddressDependent,
    /// Another one for another destination port, too.
    AddressAndPortDependent,
    /// Another one for another destination; what of it decides could not be told.
    EndpointDependent,
}

impl Mapping {
    /// `hosts` are the own addresses, `sightings` those of one socket. A server that alone
    /// contradicts at least two others on the public IP address is not believed.
    pub fn of(hosts: &[IpAddr], sightings: &[Sighting]) -> Self {
        let believed: Vec<Sighting> = believed(sightings).collect();
        let Some(first) = believed.first() else {
            return Self::Unknown;
        };
        if believed.iter().all(|s| hosts.contains(&s.seen.ip())) {
            return Self::None;
        }
        if believed.iter().all(|s| s.seen == first.seen) {
            let others = believed.iter().any(|s| s.server.ip() != first.server.ip());
            return if others {
                Self::EndpointIndependent
            } else {
                Self::Unknown
            };
        }
        let mut pairs = believed.iter().enumerate().flat_map(|(at, one)| {
            let same_host = |other: &&Sighting| {
                other.server.ip() == one.server.ip() && other.server.port() != one.server.port()
            };
            let later = believed[at + 1..].iter().filter(same_host);
            later.map(|other| other.seen == one.seen)
        });
        match pairs.next() {
            None => Self::EndpointDependent,
            Some(same) if same && pairs.all(|same| same) => Self::AddressDependent,
            Some(_) => Self::AddressAndPortDependent,
        }
    }

    /// Does another destination see another address?
    pub fn is_dependent(self) -> bool {
        matches!(
            self,
            Self::AddressDependent | Self::AddressAndPortDependent | Self::EndpointDependent
        )
    }
}

/// Sightings on whose IP address most servers agree, or all if none has more witnesses.
fn believed(sightings: &[Sighting]) -> impl Iterator<Item = Sighting> {
    let doubted: Vec<Sighting> = contradicting(sightings).collect();
    let sightings: Vec<Sighting> = sightings.to_vec();
    sightings.into_iter().filter(move |s| !doubted.contains(s))
}

/// Sightings of another public IP address than at least two others, which agree, have seen.
pub fn contradicting(sightings: &[Sighting]) -> impl Iterator<Item = Sighting> + '_ {
    let witnesses = move |ip: IpAddr| sightings.iter().filter(move |s| s.seen.ip() == ip).count();
    let most = sightings.iter().map(|s| witnesses(s.seen.ip())).max();
    let most = most.unwrap_or_default();
    sightings
        .iter()
        .copied()
        .filter(move |s| most >= 2 && witnesses(s.seen.ip()) == 1)
}

impl From<Nat> for Mapping {
    fn from(nat: Nat) -> Self {
        match nat {
            Nat::Unknown => Self::Unknown,
            Nat::None => Self::None,
            Nat::EndpointIndependent => Self::EndpointIndependent,
            Nat::EndpointDependent => Self::EndpointDependent,
        }
    }
}

impl fmt::Display for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "unknown",
            Self::None => "no NAT",
            Self::EndpointIndependent => "one public port for all destinations",
            Self::AddressDependent => "another public port for each destination address",
            Self::AddressAndPortDependent => {
                "another public port for each destination and its port"
            }
            Self::EndpointDependent => "another public port for each destination",
        })
    }
}

/// Whose datagrams a router, or a firewall, lets in to a socket that has sent something
/// (RFC 4787, 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Filtering {
    /// Not tested.
    #[default]
    Unknown,
    EndpointIndependent,
    AddressDependent,
    AddressAndPortDependent,
}

impl Filtering {
    /// What came back of two requests to answer from elsewhere (RFC 5780, 4.4).
    pub fn of(from_other_address: bool, from_other_port: bool) -> Self {
        match (from_other_address, from_other_port) {
            (true, _) => Self::EndpointIndependent,
            (false, true) => Self::AddressDependent,
            (false, false) => Self::AddressAndPortDependent,
        }
    }
}

impl fmt::Display for Filtering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "not tested",
            Self::EndpointIndependent => "lets anybody in once the port has been used",
            Self::AddressDependent => "lets in only hosts that were written to",
            Self::AddressAndPortDependent => "lets in only whom it was written to",
        })
    }
}

/// How public ports follow from local ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ports {
    #[default]
    Unknown,
    /// The local port is the public one.
    Preserved,
    /// Each new mapping gets a port a little above the last one's.
    Sequential,
    Scattered,
}

impl Ports {
    /// A new mapping's port is at most so much above the one before, to count as sequential.
    const STEP: u16 = 8;

    /// `(local, public)` ports of mappings, in the order in which they were made.
    pub fn of(mappings: &[(u16, u16)]) -> Self {
        if mappings.is_empty() {
            return Self::Unknown;
        }
        if mappings.iter().all(|(local, public)| local == public) {
            return Self::Preserved;
        }
        let steps: Vec<u16> = mappings
            .windows(2)
            .map(|pair| pair[1].1.wrapping_sub(pair[0].1))
            .collect();
        match steps.as_slice() {
            [] => Self::Unknown,
            steps if steps.iter().all(|step| (1..=Self::STEP).contains(step)) => Self::Sequential,
            _ => Self::Scattered,
        }
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "unknown",
            Self::Preserved => "kept as they are",
            Self::Sequential => "given out one after the other",
            Self::Scattered => "scattered",
        })
    }
}
