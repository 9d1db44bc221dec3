//! How a router treats addresses, as nftables rules.

use std::{fmt, net::Ipv4Addr, str::FromStr};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// How a site's router treats addresses and unsolicited packets, in the terms of RFC 4787.
///
/// A router that translates ports gives a flow a random port of [`MAPPED_PORTS`], never the one the
/// host chose, so that nothing works by the accident of equal numbers.
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
}

/// The ports that a port-translating router maps to.
pub const MAPPED_PORTS: std::ops::RangeInclusive<u16> = 20000..=29999;

impl Kind {
    /// Every kind, in the order of the NAT matrix.
    pub const ALL: [Self; 4] = [
        Self::Open,
        Self::FullCone,
        Self::PortRestricted,
        Self::AddressOnly,
    ];

    /// Whether the router puts another port in the place of the host's.
    pub fn translates_ports(self) -> bool {
        matches!(self, Self::FullCone | Self::PortRestricted)
    }

    /// Whether a stranger's datagram reaches a port from which the host has sent to somebody.
    pub fn lets_strangers_in(self) -> bool {
        !matches!(self, Self::PortRestricted)
    }

    /// The rules of a router with this public address whose main LAN host has that address.
    ///
    /// Unsolicited packets are dropped in the input chain. Were they rejected or accepted there,
    /// they would leave a tracked connection behind that takes the mapped port, and punching would
    /// fail for a reason that no real router has.
    pub(super) fn rules(self, public: Ipv4Addr, host: Ipv4Addr) -> String {
        let (low, high) = (MAPPED_PORTS.start(), MAPPED_PORTS.end());
        let napt = format!(
            "  chain outbound {{
    type nat hook postrouting priority srcnat
    oifname \"wan\" meta l4proto {{ tcp, udp }} snat ip to {public}:{low}-{high}
    oifname \"wan\" snat ip to {public}
  }}\n"
        );
        let body = match self {
            Self::Open => format!(
                "  chain forward {{
    type filter hook forward priority filter
    oifname \"wan\" ip saddr != {public} drop
    iifname \"wan\" ip daddr != {public} drop
  }}\n"
            ),
            // Each mapping that a packet leaves by is noted, and everything that arrives for it is
            // sent to the socket it belongs to.
            Self::FullCone => format!(
                "  map mappings {{
    type inet_service : ipv4_addr . inet_service
    flags dynamic, timeout
    timeout 5m
  }}
  chain note {{
    type filter hook postrouting priority srcnat + 10
    oifname \"wan\" update @mappings {{ udp sport : ct original ip saddr . ct original proto-src }}
  }}
  chain inbound {{
    type nat hook prerouting priority dstnat
    iifname \"wan\" ip daddr {public} dnat ip to udp dport map @mappings
  }}\n{napt}{STATEFUL}"
            ),
            Self::PortRestricted => format!("{napt}{STATEFUL}"),
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
        };
        format!(
            "flush ruleset
table ip router {{
  chain input {{
    type filter hook input priority filter
    iifname \"wan\" drop
  }}
{body}}}\n"
        )
    }
}

/// Only answers, and what a rule above let in, pass to the LAN; nothing leaves untranslated.
const STATEFUL: &str = "  chain forward {
    type filter hook forward priority filter
    ct state invalid drop
    iifname \"wan\" ct state established,related accept
    iifname \"wan\" ct status dnat accept
    iifname \"wan\" drop
  }\n";

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Open => "open",
            Self::FullCone => "full-cone",
            Self::PortRestricted => "port-restricted",
            Self::AddressOnly => "address-only",
        })
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        <Self as ValueEnum>::from_str(text, false)
    }
}
