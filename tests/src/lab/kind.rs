//! How a router treats addresses, as nftables rules.

use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
    ops::RangeInclusive,
    str::FromStr,
};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::miniupnpd::Protocols;

/// How a site's router treats addresses and unsolicited packets, in the terms of RFC 4787.
///
/// A router that translates ports gives a flow a random port of [`MAPPED_PORTS`], never the one the
/// host chose, so that nothing works by the accident of equal numbers. TCP is translated as UDP is,
/// and always filtered by address and port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// No NAT: the host itself has the public address, and everything reaches it. It keeps its LAN
    /// address as a second one.
    Open,
    /// NAPT with endpoint-independent mapping and filtering: once a host has sent from a UDP port,
    /// anybody can reach it through the mapping.
    FullCone,
    /// NAPT with endpoint-independent mapping and address- and port-dependent filtering: only an
    /// address and port that the host has sent to can answer.
    PortRestricted,
    /// NAT without port translation: one public address for the host, all its ports as they are,
    /// in both directions.
    AddressOnly,
    /// NAPT with address- and port-dependent mapping and filtering: another random port for each
    /// destination.
    Symmetric,
    /// [`Kind::Symmetric`], and the router opens ports when asked by UPnP-IGD.
    SymmetricUpnp,
    /// [`Kind::PortRestricted`], and the router opens ports when asked by NAT-PMP or PCP.
    PortRestrictedPcp,
    /// Two NATs in a row, [`Kind::PortRestricted`] both: the home's, and the provider's behind
    /// 100.64.0.0/10 (RFC 6598).
    CarrierNat,
    /// [`Kind::PortRestricted`] for TCP; no UDP passes.
    UdpBlocked,
    /// [`Kind::UdpBlocked`], and the only way out is TCP to port 443.
    #[value(name = "only-443")]
    #[serde(rename = "only-443")]
    Only443,
    /// The host has a global IPv6 address and nothing else; the router only lets in what answers.
    Ipv6Only,
}

/// The ports that a port-translating router maps to, as the core sees them.
pub const MAPPED_PORTS: RangeInclusive<u16> = 20000..=29999;
/// Those of a home router behind a carrier's, which would keep a port that it could give itself.
pub(super) const HOME_PORTS: RangeInclusive<u16> = 10000..=19999;

/// What a router needs to know to have rules.
#[derive(Clone, Debug)]
pub(super) struct Addresses {
    /// The address on `wan`.
    pub(super) public: Ipv4Addr,
    /// The ports there that it maps to.
    pub(super) ports: RangeInclusive<u16>,
    /// The main host's address.
    pub(super) host: Ipv4Addr,
    /// Whether a host reaches another of the same router by that one's mapping.
    pub(super) hairpin: bool,
}

impl Kind {
    /// Every kind, in the order of the NAT matrix.
    pub const ALL: [Self; 11] = [
        Self::Open,
        Self::FullCone,
        Self::PortRestricted,
        Self::AddressOnly,
        Self::Symmetric,
        Self::SymmetricUpnp,
        Self::PortRestrictedPcp,
        Self::CarrierNat,
        Self::UdpBlocked,
        Self::Only443,
        Self::Ipv6Only,
    ];

    /// Whether the router puts another port in the place of the host's.
    pub fn translates_ports(self) -> bool {
        !matches!(self, Self::Open | Self::AddressOnly | Self::Ipv6Only)
    }

    /// Whether a stranger's datagram reaches a port from which the host has sent to somebody.
    pub fn lets_strangers_in(self) -> bool {
        matches!(self, Self::Open | Self::FullCone | Self::AddressOnly)
    }

    /// Whether the mapped port is another for each destination.
    pub fn is_symmetric(self) -> bool {
        matches!(self, Self::Symmetric | Self::SymmetricUpnp)
    }

    /// Whether UDP passes at all.
    pub fn passes_udp(self) -> bool {
        !matches!(self, Self::UdpBlocked | Self::Only443)
    }

    /// Whether the host has IPv6 and no IPv4.
    pub fn is_ipv6(self) -> bool {
        self == Self::Ipv6Only
    }

    /// The protocols by which the router opens ports when asked.
    pub fn port_mapping(self) -> Option<Protocols> {
        match self {
            Self::SymmetricUpnp => Some(Protocols::Upnp),
            Self::PortRestrictedPcp => Some(Protocols::Pcp),
            _ => None,
        }
    }

    /// The rules of a router of this kind, in place of those of any other kind.
    ///
    /// Unsolicited packets are dropped in the input chain. Were they rejected or accepted there,
    /// they would leave a tracked connection behind that takes the mapped port, and punching would
    /// fail for a reason that no real router has.
    pub(super) fn rules(self, addresses: &Addresses) -> String {
        let Addresses { public, host, .. } = addresses;
        let napt = |how: &str| napt(addresses, how);
        let body = match self {
            Self::Open => format!(
                "  chain forward {{
    type filter hook forward priority filter
    oifname \"wan\" ip saddr != {public} drop
    iifname \"wan\" ip daddr != {public} drop
  }}\n"
            ),
            Self::FullCone => format!(
                "{NOTED}  chain inbound {{
    type nat hook prerouting priority dstnat
    iifname \"wan\" ip daddr {public} dnat ip to udp dport map @mappings
  }}\n{}{STATEFUL}",
                napt("")
            ),
            Self::PortRestricted | Self::PortRestrictedPcp | Self::CarrierNat
                if addresses.hairpin =>
            {
                hairpin(addresses) + STATEFUL
            }
            Self::PortRestricted | Self::PortRestrictedPcp | Self::CarrierNat => {
                napt("") + STATEFUL
            }
            Self::Symmetric | Self::SymmetricUpnp => napt("fully-random") + STATEFUL,
            Self::UdpBlocked => napt("") + NO_UDP + STATEFUL,
            Self::Only443 => napt("") + NO_UDP + ONLY_443 + STATEFUL,
            Self::AddressOnly => format!(
                "  chain inbound {{
    type nat hook prerouting priority dstnat
    iifname \"wan\" ip daddr {public} dnat ip to {host}
  }}
  chain outbound {{
    type nat hook postrouting priority srcnat
    oifname \"wan\" snat ip to {public}
  }}\n{STATEFUL}"
            ),
            Self::Ipv6Only => return format!("{FRESH}{IPV6}"),
        };
        format!(
            "{FRESH}table ip router {{
  chain input {{
    type filter hook input priority filter
    iifname \"wan\" drop
  }}
{body}}}\n"
        )
    }
}

/// The IPv6 network of a LAN: one per public IPv4 address, so that it changes with it.
pub(super) fn prefix(public: Ipv4Addr) -> [u16; 4] {
    let [a, b, c, d] = public.octets().map(u16::from);
    [0x2001, 0xdb8, a << 8 | b, c << 8 | d]
}

/// The address of that number in such a network.
pub(super) fn ipv6(public: Ipv4Addr, number: u8) -> Ipv6Addr {
    let [a, b, c, d] = prefix(public);
    Ipv6Addr::new(a, b, c, d, 0, 0, 0, number.into())
}

/// Translation to a port of [`MAPPED_PORTS`]: one for all destinations of a socket, as Linux uses
/// an existing translation again, unless it is told to be `fully-random`.
fn napt(Addresses { public, ports, .. }: &Addresses, how: &str) -> String {
    let (low, high) = (ports.start(), ports.end());
    format!(
        "  chain outbound {{
    type nat hook postrouting priority srcnat
    oifname \"wan\" meta l4proto {{ tcp, udp }} snat ip to {public}:{low}-{high} {how}
    oifname \"wan\" snat ip to {public}
  }}\n"
    )
}

/// The same, and what a host of one LAN segment sends to the mapping of a host in another comes out
/// there, from the sender's own mapping (RFC 4787, REQ-9). No other way leads between segments.
fn hairpin(addresses: &Addresses) -> String {
    let Addresses { public, ports, .. } = addresses;
    let (low, high) = (ports.start(), ports.end());
    format!(
        "{NOTED}  chain inbound {{
    type nat hook prerouting priority dstnat
    iifname \"lan*\" ip daddr {public} dnat ip to udp dport map @mappings
  }}
  chain looped {{
    type nat hook postrouting priority srcnat - 1
    oifname \"lan*\" ct status dnat ct original ip saddr 192.168.0.0/16 meta l4proto udp snat ip to {public}:{low}-{high}
  }}
  chain apart {{
    type filter hook forward priority filter - 1
    iifname \"lan*\" oifname \"lan*\" ct status & dnat != dnat drop
  }}
  chain unmapped {{
    type filter hook input priority filter - 1
    ip daddr {public} drop
  }}\n{}",
        napt(addresses, "")
    )
}

/// Takes away what another kind has left; tables of others (`miniupnpd`, `blockade`) stay.
const FRESH: &str = "table ip router\ndelete table ip router\n\
                     table ip6 router\ndelete table ip6 router\n";

/// Each mapping that a packet leaves by is noted, so that what arrives for it can be sent to the
/// socket it belongs to.
const NOTED: &str = "  map mappings {
    type inet_service : ipv4_addr . inet_service
    flags dynamic, timeout
    timeout 5m
  }
  chain note {
    type filter hook postrouting priority srcnat + 10
    oifname \"wan\" update @mappings { udp sport : ct original ip saddr . ct original proto-src }
  }\n";

/// Only answers, and what a rule above let in, pass to the LAN; nothing leaves untranslated.
const STATEFUL: &str = "  chain forward {
    type filter hook forward priority filter
    ct state invalid drop
    iifname \"wan\" ct state established,related accept
    iifname \"wan\" ct status dnat accept
    iifname \"wan\" drop
  }\n";

const NO_UDP: &str = "  chain no_udp {
    type filter hook forward priority filter - 1
    meta l4proto udp drop
  }\n";

const ONLY_443: &str = "  chain only_443 {
    type filter hook forward priority filter - 1
    oifname \"wan\" tcp dport != 443 drop
    oifname \"wan\" meta l4proto != tcp drop
  }\n";

const IPV6: &str = "table ip router {
  chain input {
    type filter hook input priority filter
    iifname \"wan\" drop
  }
  chain forward {
    type filter hook forward priority filter
    drop
  }
}
table ip6 router {
  chain input {
    type filter hook input priority filter
    icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
    iifname \"wan\" drop
  }
  chain forward {
    type filter hook forward priority filter
    ct state invalid drop
    iifname \"wan\" ct state established,related accept
    iifname \"wan\" drop
  }
}\n";

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.to_possible_value().expect("no kind is hidden");
        f.write_str(name.get_name())
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        <Self as ValueEnum>::from_str(text, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_has_one_name_everywhere() {
        for kind in Kind::ALL {
            assert_eq!(kind.to_string().parse(), Ok(kind));
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.to_string());
        }
        assert_eq!(Kind::Only443.to_string(), "only-443");
        assert_eq!(Kind::Ipv6Only.to_string(), "ipv6-only");
    }
}
