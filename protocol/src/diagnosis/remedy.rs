//! What a person can switch on.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Where it is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Side {
    Here,
    Device,
    /// One of the two is enough.
    Either,
}

/// One thing to switch on. The text is an instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Remedy {
    MapPort,
    ForwardPort,
    AllowUdp,
    AllowInbound,
    EnableIpv6,
    EnableIpv4,
    AskProvider,
    CheckForward,
    JoinLan,
    AllowRelay,
}

/// What to do where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Advice {
    pub side: Side,
    pub remedy: Remedy,
    /// For a person.
    pub text: String,
}

impl Advice {
    pub fn new(side: Side, remedy: Remedy) -> Self {
        Self {
            side,
            remedy,
            text: remedy.to_string(),
        }
    }
}

impl fmt::Display for Remedy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MapPort => "switch on UPnP, NAT-PMP or PCP on the router",
            Self::ForwardPort => {
                "have the router forward a port (UDP and TCP) to the agent's host, and start the agent \
                 with --port and its number"
            }
            Self::AllowUdp => "let UDP out at the firewall",
            Self::AllowInbound => {
                "let UDP and TCP in to the agent's port at the firewall (fix it with --port)"
            },
            Self::EnableIpv6 => "switch on IPv6: hosts that both have it need no NAT between them",
            Self::EnableIpv4 => {
                "switch on IPv4, or NAT64 with DNS64 on the router: peers without IPv6 are reached \
                 by the relay only"
            }
            Self::AskProvider => {
                "ask the provider for a public IPv4 address, or for IPv6: the router is behind \
                 another NAT, so its own port mappings lead nowhere"
            }
            Self::CheckForward => {
                "check the forwarded port: does it lead to the agent, and is there another NAT or \
                 a firewall in front of the router?"
            }
            Self::JoinLan => {
                "let the two reach each other on the LAN: one network for both, no client \
                 isolation (guest Wi-Fi), no firewall between"
            }
            Self::AllowRelay => "allow the relay: leave out --no-relay",
        })
    }
}
