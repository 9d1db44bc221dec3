//! Why a call took the path that it took, from its receipt.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::behaviour::Mapping;
use super::reason::{Cause, Reason};
use super::remedy::{Advice, Remedy, Side};
use crate::address_scope::Scope;
use crate::candidate::{Candidate, Kind, is_bridge};
use crate::receipt::{Nat, PathInUse, PathKind, Receipt, Transport, Tried, TriedResult};

/// What the caller knows of its own network.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Here {
    /// Its addresses, and the bits of the subnets that they are in.
    pub addresses: Vec<(IpAddr, u8)>,
    /// As STUN servers see it.
    pub public: Vec<IpAddr>,
    /// The caller asked for direct paths only.
    pub direct_only: bool,
}

/// An address of the device, or a relay's, and why the link does or does not use it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Explained {
    pub address: SocketAddr,
    pub transport: Transport,
    pub kind: Kind,
    pub reason: Reason,
    pub rtt_ms: Option<f64>,
    /// For a person.
    pub text: String,
}

/// The answer to "why this path?".
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Diagnosis {
    pub path: PathInUse,
    pub cause: Cause,
    /// For a person.
    pub text: String,
    pub tried: Vec<Explained>,
    pub advice: Vec<Advice>,
}

impl Diagnosis {
    /// `device` are the candidates of its answer.
    pub fn of(receipt: &Receipt, here: &Here, device: &[Candidate]) -> Self {
        let call = Call {
            receipt,
            here,
            device,
        };
        let cause = call.cause();
        let tried = call.tried();
        let advice = call.advice(cause, &tried);
        Self {
            path: receipt.in_use(),
            cause,
            text: cause.to_string(),
            tried,
            advice,
        }
    }

    /// Is there a better path than the one in use?
    pub fn is_best(&self) -> bool {
        self.cause == Cause::Best
    }
}

struct Call<'a> {
    receipt: &'a Receipt,
    here: &'a Here,
    device: &'a [Candidate],
}

impl Call<'_> {
    fn cause(&self) -> Cause {
        let Receipt {
            path,
            transport,
            caller_nat,
            device_nat,
            ..
        } = *self.receipt;
        if path == PathKind::Direct && transport == Transport::Udp {
            return Cause::Best;
        }
        if self.device.is_empty() && device_nat == Nat::Unknown {
            return Cause::Unknown;
        }
        let (here, there) = (self.blocked_here(), self.blocked_there());
        let dependent = |nat| Mapping::from(nat).is_dependent();
        match (dependent(caller_nat), dependent(device_nat)) {
            _ if here && there => Cause::UdpBlockedBoth,
            _ if self.has_no_common_family() => Cause::NoCommonFamily,
            _ if here => Cause::UdpBlockedHere,
            _ if there => Cause::UdpBlockedThere,
            _ if self.is_same_router() => Cause::SameRouter,
            (true, true) => Cause::SymmetricBoth,
            (true, false) => Cause::SymmetricHere,
            (false, true) => Cause::SymmetricThere,
            (false, false) => Cause::Firewall,
        }
    }

    /// No STUN server answered.
    fn blocked_here(&self) -> bool {
        self.receipt.caller_nat == Nat::Unknown && self.here.public.is_empty()
    }

    fn blocked_there(&self) -> bool {
        let reachable = |c: &Candidate| {
            matches!(c.kind, Kind::ServerReflexive | Kind::Mapped | Kind::Static) && c.is_udp()
        };
        self.receipt.device_nat == Nat::Unknown && !self.device.iter().any(reachable)
    }

    fn is_same_router(&self) -> bool {
        self.device
            .iter()
            .filter(|c| c.kind == Kind::ServerReflexive && c.address.is_ipv4())
            .any(|c| self.here.public.contains(&c.address.ip()))
    }

    /// This end has no global address of the families that the device has some of.
    fn has_no_common_family(&self) -> bool {
        let there = |v6: bool| {
            let mut all = self.device.iter().map(|c| c.address);
            all.any(|a| a.is_ipv6() == v6 && Scope::of(a.ip()).is_global())
        };
        let (v4, v6) = (self.has_ipv4(), self.has_ipv6());
        (there(false) || there(true)) && !(there(false) && v4 || there(true) && v6)
    }

    fn has_ipv6(&self) -> bool {
        let mut all = self.here.addresses.iter().map(|(ip, _)| ip);
        all.any(|ip| ip.is_ipv6() && Scope::of(*ip).is_global())
    }

    fn has_ipv4(&self) -> bool {
        // Seen at an IPv4 address, it has a way there: NAT64 (RFC 6146), where it has none itself.
        let mut all = self.here.addresses.iter().map(|(ip, _)| ip);
        all.any(IpAddr::is_ipv4) || self.here.public.iter().any(IpAddr::is_ipv4)
    }

    fn tried(&self) -> Vec<Explained> {
        let explained = |tried: &Tried| {
            let reason = self.reason(tried);
            Explained {
                address: tried.address,
                transport: tried.transport,
                kind: tried.kind,
                reason,
                rtt_ms: tried.rtt_ms,
                text: reason.to_string(),
            }
        };
        // Dozens of ports of one search are one line.
        let searched = |tried: &&Tried| {
            tried.kind != Kind::PeerReflexive || tried.result != TriedResult::NoAnswer
        };
        let mut all: Vec<Explained> = self
            .receipt
            .paths
            .iter()
            .filter(searched)
            .map(explained)
            .collect();
        // A TCP address becomes a path only when it answers.
        for candidate in self.device.iter().filter(|c| c.is_tcp()) {
            let same = |e: &Explained| {
                e.transport == Transport::Tcp && e.address.ip() == candidate.address.ip()
            };
            if all.iter().any(same) {
                continue;
            }
            let direct = self.receipt.path == PathKind::Direct;
            let reason = if direct {
                Reason::NotNeeded
            } else {
                match self.of_address(candidate.kind, candidate.address, true) {
                    Reason::PublicSilent | Reason::Filtered => Reason::TcpSilent,
                    reason => reason,
                }
            };
            all.push(Explained {
                address: candidate.address,
                transport: Transport::Tcp,
                kind: candidate.kind,
                reason,
                rtt_ms: None,
                text: reason.to_string(),
            });
        }
        all.sort_by_key(|explained| explained.reason.rank());
        all
    }

    fn reason(&self, tried: &Tried) -> Reason {
        let is_relay = tried.kind == Kind::Relayed;
        match tried.result {
            TriedResult::Won => Reason::InUse,
            TriedResult::Works if is_relay => Reason::Standby,
            TriedResult::Works => Reason::Slower,
            TriedResult::HeardOnly => Reason::HeardOnly,
            TriedResult::ShortOnly => Reason::ShortOnly,
            TriedResult::NoAnswer if is_relay => Reason::RelaySilent,
            TriedResult::NoAnswer => {
                self.of_address(tried.kind, tried.address, tried.transport == Transport::Tcp)
            }
        }
    }

    /// Why an address of the device does not answer.
    fn of_address(&self, kind: Kind, address: SocketAddr, tcp: bool) -> Reason {
        let ip = address.ip();
        if address.is_ipv6() && !self.has_ipv6() {
            return Reason::NoIpv6Here;
        }
        if address.is_ipv4() && !self.has_ipv4() {
            return Reason::NoIpv4Here;
        }
        let scope = Scope::of(ip);
        if !scope.is_global() {
            let near = |(own, prefix): &(IpAddr, u8)| in_subnet(*own, *prefix, ip);
            return match ip {
                _ if self.here.addresses.iter().any(near) && self.is_same_router() => {
                    Reason::SameLanSilent
                }
                _ if is_bridge(ip) => Reason::Bridge,
                _ if self.here.addresses.iter().any(near) => Reason::SamePrivateRange,
                _ if scope == Scope::Shared => Reason::CarrierRange,
                _ => Reason::PrivateElsewhere,
            };
        }
        if !tcp && self.blocked_here() {
            return Reason::UdpBlockedHere;
        }
        if self.here.public.contains(&ip) && ip.is_ipv4() {
            return Reason::OwnRouter;
        }
        if matches!(kind, Kind::Mapped | Kind::Static) {
            return Reason::ForwardSilent;
        }
        if address.is_ipv6() {
            return Reason::Ipv6Filtered;
        }
        if tcp {
            return Reason::TcpSilent;
        }
        let dependent = |nat| Mapping::from(nat).is_dependent();
        match (
            dependent(self.receipt.caller_nat),
            dependent(self.receipt.device_nat),
        ) {
            _ if self.receipt.device_nat == Nat::None => Reason::PublicSilent,
            (true, true) => Reason::SymmetricBoth,
            (false, true) => Reason::SymmetricThere,
            (true, false) => Reason::SymmetricHere,
            (false, false) => Reason::Filtered,
        }
    }

    fn advice(&self, cause: Cause, tried: &[Explained]) -> Vec<Advice> {
        use {Remedy as R, Side::*};
        let failed = |reason| tried.iter().any(|t: &Explained| t.reason == reason);
        let mut all: Vec<(Side, Remedy)> = Vec::new();
        if failed(Reason::ForwardSilent) && cause != Cause::Best && cause != Cause::UdpBlockedHere {
            all.push((Device, R::CheckForward));
        }
        match cause {
            Cause::Best => {}
            Cause::UdpBlockedHere => {
                all.push((Here, R::AllowUdp));
                if self.receipt.path == PathKind::Relay {
                    // TCP gets out: the device has to let it in.
                    all.extend([(Device, R::MapPort), (Device, R::ForwardPort)]);
                }
            }
            Cause::UdpBlockedThere => {
                all.push((Device, R::AllowUdp));
                if self.receipt.path == PathKind::Relay {
                    all.extend([(Here, R::MapPort), (Here, R::ForwardPort)]);
                }
            }
            Cause::UdpBlockedBoth => all.push((Either, R::AllowUdp)),
            Cause::SameRouter => all.push((Either, R::JoinLan)),
            Cause::NoCommonFamily if self.has_ipv6() => all.push((Device, R::EnableIpv6)),
            Cause::NoCommonFamily => all.push((Here, R::EnableIpv6)),
            Cause::SymmetricBoth => {
                all.extend([(Either, R::MapPort), (Either, R::ForwardPort)]);
            }
            Cause::SymmetricHere => all.extend([(Here, R::MapPort), (Here, R::ForwardPort)]),
            Cause::SymmetricThere => all.extend([(Device, R::MapPort), (Device, R::ForwardPort)]),
            Cause::Firewall => all.extend([(Either, R::MapPort), (Either, R::AllowInbound)]),
            Cause::Unknown => {}
        }
        let carrier = |ip: &IpAddr| Scope::of(*ip) == Scope::Shared;
        if cause != Cause::Best && cause != Cause::SameRouter {
            if self.here.addresses.iter().any(|(ip, _)| carrier(ip)) {
                all.push((Here, R::AskProvider));
            }
            if failed(Reason::NoIpv6Here) && cause != Cause::NoCommonFamily {
                all.push((Here, R::EnableIpv6));
            }
        }
        all.into_iter()
            .map(|(side, remedy)| Advice::new(side, remedy))
            .collect()
    }
}

fn in_subnet(own: IpAddr, prefix: u8, ip: IpAddr) -> bool {
    let bits = match (own, ip) {
        (IpAddr::V4(own), IpAddr::V4(ip)) => (u32::from(own) ^ u32::from(ip)).leading_zeros(),
        (IpAddr::V6(own), IpAddr::V6(ip)) => (u128::from(own) ^ u128::from(ip)).leading_zeros(),
        _ => return false,
    };
    bits >= u32::from(prefix)
}
