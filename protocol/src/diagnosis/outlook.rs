//! Which kinds of peers a host reaches directly, judged by its own network alone.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::behaviour::{Filtering, Mapping};
use super::remedy::{Advice, Remedy, Side};

/// What is known of a host's way to the Internet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Standing {
    /// This host has an IPv4 address.
    pub ipv4: bool,
    /// A STUN server answers by UDP over IPv4.
    pub udp: bool,
    pub mapping: Mapping,
    pub filtering: Filtering,
    /// The router forwards a UDP port here, by a port mapping or by hand.
    pub udp_forwarded: bool,
    /// The same of TCP.
    pub tcp_forwarded: bool,
    /// TCP connections to ports other than the registry's; `None`: not known.
    pub tcp: Option<bool>,
    pub tcp_mapping: Mapping,
    /// A STUN server answers by UDP over IPv6, or there is none to ask and TCP works.
    pub ipv6_udp: bool,
    /// TCP works over IPv6.
    pub ipv6_tcp: bool,
    /// The router is itself behind a NAT.
    pub double_nat: bool,
    /// The registry, which has a relay, is reachable.
    pub registry: bool,
    /// Relaying is not switched off here.
    pub relay_allowed: bool,
}

/// Kinds of peers, by what their networks let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Peer {
    /// A public address, or a forwarded port.
    Public,
    /// A NAT with one public port for all, which lets in whom it has written to: most homes.
    Restricted,
    /// A NAT with another public port for each destination: companies, mobile networks.
    Symmetric,
    /// UDP is blocked, TCP gets out through a NAT with one public port for all.
    UdpBlocked,
    /// IPv6 and no IPv4.
    Ipv6Only,
}

/// How a path to such a peer comes about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// UDP, at once.
    Udp,
    /// UDP, after some seconds of search for a port that fits.
    UdpSearch,
    Tcp,
    Relay,
    None,
}

impl Way {
    pub fn is_direct(self) -> bool {
        !matches!(self, Self::Relay | Self::None)
    }
}

/// One kind of peer and the way to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prospect {
    pub peer: Peer,
    pub way: Way,
}

/// Whom this host reaches how, and what would make it better.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outlook {
    pub peers: Vec<Prospect>,
    pub advice: Vec<Advice>,
}

impl Outlook {
    pub fn of(standing: &Standing) -> Self {
        let peers: Vec<Prospect> = Peer::ALL
            .into_iter()
            .map(|peer| Prospect {
                peer,
                way: standing.way_to(peer),
            })
            .collect();
        let advice = standing.advice(&peers);
        Self { peers, advice }
    }

    /// Is there any direct path to anybody?
    pub fn is_direct(&self) -> bool {
        self.peers.iter().any(|prospect| prospect.way.is_direct())
    }

    pub fn way_to(&self, peer: Peer) -> Way {
        let known = self.peers.iter().find(|prospect| prospect.peer == peer);
        known.map_or(Way::None, |prospect| prospect.way)
    }
}

impl Standing {
    /// Anybody's UDP datagrams come in.
    fn takes_strangers(&self) -> bool {
        self.udp
            && (self.udp_forwarded
                || self.filtering == Filtering::EndpointIndependent && !self.mapping.is_dependent())
    }

    /// TCP connections come in.
    fn takes_tcp(&self) -> bool {
        self.tcp_forwarded
            || self.mapping == Mapping::None && self.filtering == Filtering::EndpointIndependent
    }

    fn way_to(&self, peer: Peer) -> Way {
        let worse = if self.registry && self.relay_allowed {
            Way::Relay
        } else {
            Way::None
        };
        if peer == Peer::Ipv6Only {
            return match (self.ipv6_udp, self.ipv6_tcp) {
                (true, _) => Way::Udp,
                (false, true) => Way::Tcp,
                (false, false) => worse,
            };
        }
        if !self.ipv4 {
            return worse;
        }
        let tcp_out = self.tcp != Some(false);
        // TCP meets TCP where one of the two takes connections, or where both routers give one
        // public port for all: then both ends can open at the same time.
        let told = matches!(
            self.tcp_mapping,
            Mapping::EndpointIndependent | Mapping::None
        );
        let opens = self.takes_tcp() || tcp_out && told;
        if !self.udp {
            return match peer {
                Peer::Public if tcp_out => Way::Tcp,
                Peer::Restricted | Peer::UdpBlocked if opens => Way::Tcp,
                _ if self.takes_tcp() => Way::Tcp,
                _ => worse,
            };
        }
        match peer {
            Peer::Public => Way::Udp,
            Peer::Restricted | Peer::Symmetric if self.takes_strangers() => Way::Udp,
            Peer::Restricted if self.mapping.is_dependent() => Way::UdpSearch,
            Peer::Restricted => Way::Udp,
            Peer::Symmetric if self.mapping.is_dependent() => worse,
            // It writes from a port that nobody knows before, but from a host that was written to.
            Peer::Symmetric if self.filtering == Filtering::AddressDependent => Way::Udp,
            Peer::Symmetric => Way::UdpSearch,
            Peer::UdpBlocked if opens => Way::Tcp,
            Peer::UdpBlocked | Peer::Ipv6Only => worse,
        }
    }

    /// The most useful first.
    fn advice(&self, peers: &[Prospect]) -> Vec<Advice> {
        let here = |remedy| Advice::new(Side::Here, remedy);
        let mut advice = Vec::new();
        if self.ipv4 && !self.udp || !self.ipv4 && !self.ipv6_udp {
            advice.push(here(Remedy::AllowUdp));
        }
        let ideal = |prospect: &Prospect| match prospect.peer {
            Peer::UdpBlocked => prospect.way == Way::Tcp,
            Peer::Ipv6Only => true,
            _ => prospect.way == Way::Udp,
        };
        let has_ipv6 = self.ipv6_udp || self.ipv6_tcp;
        if !self.ipv4 {
            advice.extend(has_ipv6.then(|| here(Remedy::EnableIpv4)));
        } else if !peers.iter().all(ideal) {
            if self.mapping == Mapping::None {
                if self.filtering != Filtering::EndpointIndependent {
                    advice.push(here(Remedy::AllowInbound));
                }
            } else if self.double_nat {
                advice.push(here(Remedy::AskProvider));
            } else if !(self.udp_forwarded && self.tcp_forwarded) {
                advice.push(here(Remedy::MapPort));
                advice.push(here(Remedy::ForwardPort));
            }
            if !has_ipv6 {
                advice.push(here(Remedy::EnableIpv6));
            }
        }
        if !self.relay_allowed && peers.iter().any(|prospect| prospect.way == Way::None) {
            advice.push(here(Remedy::AllowRelay));
        }
        advice
    }
}

impl Peer {
    pub const ALL: [Self; 5] = [
        Self::Public,
        Self::Restricted,
        Self::Symmetric,
        Self::UdpBlocked,
        Self::Ipv6Only,
    ];
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Public => "with a public address or a forwarded port",
            Self::Restricted => "behind an ordinary home router",
            Self::Symmetric => "behind a symmetric NAT (companies, mobile)",
            Self::UdpBlocked => "where UDP is blocked",
            Self::Ipv6Only => "with IPv6 only",
        })
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Udp => "directly, UDP",
            Self::UdpSearch => "directly, UDP, after a search of some seconds",
            Self::Tcp => "directly, TCP",
            Self::Relay => "only through the relay",
            Self::None => "not at all",
        })
    }
}
