//! Causes and reasons: codes and texts.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Why the path is what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// It is direct, by UDP: there is no better one.
    Best,
    UdpBlockedHere,
    UdpBlockedThere,
    UdpBlockedBoth,
    SameRouter,
    NoCommonFamily,
    SymmetricBoth,
    SymmetricHere,
    SymmetricThere,
    /// Nothing is known against it, and yet nothing came through.
    Firewall,
    /// The device's answer with its addresses was lost.
    Unknown,
}

/// What came of one address, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    InUse,
    Slower,
    Standby,
    HeardOnly,
    ShortOnly,
    RelaySilent,
    NotNeeded,
    SameLanSilent,
    SamePrivateRange,
    PrivateElsewhere,
    CarrierRange,
    Bridge,
    NoIpv6Here,
    NoIpv4Here,
    Ipv6Filtered,
    OwnRouter,
    ForwardSilent,
    UdpBlockedHere,
    SymmetricBoth,
    SymmetricThere,
    SymmetricHere,
    Filtered,
    PublicSilent,
    TcpSilent,
}

impl Reason {
    /// The order in which a person wants to read them.
    pub(super) fn rank(self) -> u8 {
        match self {
            Self::InUse => 0,
            Self::Slower => 1,
            Self::Standby | Self::RelaySilent => 4,
            Self::NotNeeded => 5,
            Self::HeardOnly | Self::ShortOnly => 2,
            _ => 3,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::InUse => "in use",
            Self::Slower => "works, but the one in use is better",
            Self::Standby => "works, kept for when the one in use fails",
            Self::HeardOnly => "the device was heard from there, but does not hear us there",
            Self::ShortOnly => {
                "takes short datagrams only: a network on the way loses packets of 1,258 bytes \
                 (MTU) and does not say so"
            }
            Self::RelaySilent => "the relay does not carry datagrams to the device (yet)",
            Self::NotNeeded => "not needed",
            Self::SameLanSilent => {
                "on this LAN, as it seems, but silent: client isolation, or a firewall"
            }
            Self::SamePrivateRange => {
                "in the same private range as this host, but nobody answers: it is another network"
            }
            Self::PrivateElsewhere => "private: reachable only from the device's own network",
            Self::CarrierRange => "inside the provider's own network (carrier NAT)",
            Self::Bridge => "of a container network inside the device, most likely",
            Self::NoIpv6Here => "this host has no IPv6",
            Self::NoIpv4Here => "this host has no IPv4",
            Self::Ipv6Filtered => "silent: a firewall on the IPv6 way, most likely the router's",
            Self::OwnRouter => {
                "the public address of this host's own router, which does not send back inside \
                 what comes from inside (no hairpin)"
            }
            Self::ForwardSilent => "a forwarded port that does not lead to the device",
            Self::UdpBlockedHere => "UDP does not leave this network",
            Self::SymmetricBoth => {
                "both routers use another port for each destination: neither side can know where \
                 to send to"
            }
            Self::SymmetricThere => {
                "the device's router uses another port towards this host than STUN saw"
            }
            Self::SymmetricHere => {
                "the device's router lets in only whom the device has written to, and this host's \
                 router writes from another port than the device knows"
            }
            Self::Filtered => {
                "silent: a firewall drops what comes, or the router gives the device another port \
                 by now"
            }
            Self::PublicSilent => {
                "the device's own public address, but a firewall drops what comes"
            }
            Self::TcpSilent => "nothing accepts TCP connections there",
        })
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Best => "direct by UDP: there is no better kind of path",
            Self::UdpBlockedHere => "UDP is blocked on this host's network: no STUN server answers",
            Self::UdpBlockedThere => {
                "UDP is blocked on the device's network: it knows no public address of its own"
            }
            Self::UdpBlockedBoth => "UDP is blocked on both networks",
            Self::SameRouter => {
                "both are behind the same router, but can not reach each other on its LAN"
            }
            Self::NoCommonFamily => {
                "one side has only IPv4 and the other only IPv6 to the Internet"
            }
            Self::SymmetricBoth => {
                "both routers use another public port for each destination (symmetric NAT), so \
                 that neither side can know where to send to"
            }
            Self::SymmetricHere => {
                "this host's router uses another public port for each destination (symmetric NAT), \
                 and the search for the right one has found none so far"
            }
            Self::SymmetricThere => {
                "the device's router uses another public port for each destination (symmetric \
                 NAT), and the search for the right one has found none so far"
            }
            Self::Firewall => {
                "both sides reach the Internet by UDP, but nothing comes through between them: a \
                 firewall, most likely, in front of one of them"
            }
            Self::Unknown => "the device's answer did not arrive, so nothing is known of its side",
        })
    }
}
