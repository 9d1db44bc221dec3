//! What is mapped, and what is to be: the words that the protocols and the journal share.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::num::NonZeroU16;
use std::path::PathBuf;

use ringback_protocol::address_scope::Scope;
use serde::{Deserialize, Serialize};

/// Seconds of the longest lease that is asked for by default.
pub(crate) const LEASE_UPNP_S: u32 = 3600;
/// The same for PCP and NAT-PMP, as RFC 6886 recommends.
pub(crate) const LEASE_PCP_S: u32 = 7200;

/// How a router was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Method {
    #[serde(rename = "PCP")]
    Pcp,
    #[serde(rename = "NAT-PMP")]
    NatPmp,
    #[serde(rename = "UPnP")]
    Upnp,
}

impl std::fmt::Display for Method {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Pcp => "PCP",
            Self::NatPmp => "NAT-PMP",
            Self::Upnp => "UPnP",
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Transport {
    Udp,
    Tcp,
}

/// A port of the router that leads here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mapping {
    pub(crate) external: SocketAddrV4,
    pub(crate) method: Method,
    /// Seconds, as granted; 0: for ever.
    pub(crate) lease_s: u32,
}

/// Why there is no (useful) mapping.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "trouble")]
pub(crate) enum Trouble {
    /// This host has no IPv4 default route.
    NoRouter,
    /// No translation is on the way: this host has a global IPv4 address.
    NotNeeded,
    /// The router speaks none of the protocols, or they are switched off.
    Silent,
    /// The router answers and does not map.
    Refused { reason: String },
    /// The router has no public address: it is itself behind a NAT. A mapping that it makes all the
    /// same is kept, as that makes the router's own translation predictable.
    DoubleNat {
        /// What it has instead, if it says so.
        external: Option<Ipv4Addr>,
    },
}

/// What the router forwards, as far as it is known.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mappings {
    /// The first try is over.
    pub(crate) tried: bool,
    pub(crate) router: Option<Ipv4Addr>,
    /// The protocols by which the router has answered.
    pub(crate) found: Vec<Method>,
    pub(crate) udp: Option<Mapping>,
    pub(crate) tcp: Option<Mapping>,
    pub(crate) trouble: Option<Trouble>,
}

impl Mappings {
    /// Where strangers reach this host's UDP port: a candidate of kind mapped.
    pub(crate) fn udp_address(&self) -> Option<SocketAddr> {
        public(self.udp.as_ref())
    }

    /// The same for its TCP port.
    pub(crate) fn tcp_address(&self) -> Option<SocketAddr> {
        public(self.tcp.as_ref())
    }
}

fn public(mapping: Option<&Mapping>) -> Option<SocketAddr> {
    let external = mapping?.external;
    is_public(*external.ip()).then_some(external.into())
}

/// Is it an address on the Internet? (Behind a carrier's NAT a router maps to one that is not.)
pub(crate) fn is_public(ip: Ipv4Addr) -> bool {
    Scope::of(ip.into()) == Scope::Global
}

/// What to map, and how.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// The local UDP port.
    pub(crate) udp: u16,
    /// The local TCP port, if there is one.
    pub(crate) tcp: Option<u16>,
    /// Where the journal is kept: the profile's state directory.
    pub(crate) state_dir: PathBuf,
    /// Seconds of lease to ask for at most; default: [`LEASE_UPNP_S`], [`LEASE_PCP_S`].
    pub(crate) lease_s: Option<u32>,
}

/// A router and this host's address on its LAN.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Place {
    pub(crate) router: Ipv4Addr,
    pub(crate) local: Ipv4Addr,
}

impl Settings {
    /// What is to be mapped.
    pub(super) fn ports(&self) -> impl Iterator<Item = (Transport, NonZeroU16)> {
        let udp = NonZeroU16::new(self.udp).map(|port| (Transport::Udp, port));
        let tcp = self.tcp.and_then(NonZeroU16::new);
        udp.into_iter()
            .chain(tcp.map(|port| (Transport::Tcp, port)))
    }

    pub(super) fn lease(&self, method: Method) -> u32 {
        self.lease_s.unwrap_or(match method {
            Method::Upnp => LEASE_UPNP_S,
            Method::Pcp | Method::NatPmp => LEASE_PCP_S,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_is_not_public_is_no_candidate() {
        for (ip, public) in [
            ("202.204.16.13", true),
            ("192.168.1.1", false),
            ("10.0.0.1", false),
            ("172.16.3.4", false),
            ("100.64.0.1", false),
            ("100.127.255.255", false),
            ("100.128.0.1", true),
            ("169.254.1.1", false),
            ("0.0.0.0", false),
        ] {
            let mapping = Mapping {
                external: SocketAddrV4::new(ip.parse().unwrap(), 4000),
                method: Method::Upnp,
                lease_s: 60,
            };
            let mappings = Mappings {
                udp: Some(mapping),
                ..Mappings::default()
            };
            assert_eq!(mappings.udp_address().is_some(), public, "{ip}");
        }
    }
}
