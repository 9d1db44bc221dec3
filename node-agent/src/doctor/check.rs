//! What was found, judged: one line each, and what would make it better.

use ringback_protocol::diagnosis::behaviour::contradicting;
use ringback_protocol::diagnosis::{
    Filtering, Mapping, Outlook, Peer, Ports, Remedy, Sighting, Way,
};
use ringback_protocol::receipt::PathKind;
use serde::Serialize;

use super::{Examination, nat_name};
use crate::device::Presence;
use crate::endpoint::nat_behaviour::UdpBehaviour;
use crate::port_mapping::{Mapping as PortMapped, Trouble};

/// Seconds of difference between the clocks that nobody notices, and that calls bear.
const CLOCK_NOTE: i64 = 3;
const CLOCK_PROBLEM: i64 = 60;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    Ok,
    Note,
    Problem,
}

/// One line of the doctor's.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Check {
    pub(crate) check: &'static str,
    pub(crate) level: Level,
    pub(crate) found: String,
    /// Why that is known.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) details: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) advice: Option<String>,
}

impl Check {
    fn new(check: &'static str, level: Level, found: impl Into<String>) -> Self {
        Self {
            check,
            level,
            found: found.into(),
            details: Vec::new(),
            advice: None,
        }
    }

    fn advise(mut self, advice: impl ToString) -> Self {
        self.advice = Some(advice.to_string());
        self
    }

    fn detail(mut self, details: impl IntoIterator<Item = String>) -> Self {
        self.details.extend(details);
        self
    }
}

/// All lines, in the order of the way from here to the peers.
pub(crate) fn all(found: &Examination) -> Vec<Check> {
    let mut checks = vec![network(found), ipv6(found), udp(found)];
    if !found.udp.seen.is_empty() {
        checks.push(nat(found));
        checks.extend(hairpin(found));
    }
    checks.push(port_mapping(found));
    checks.extend(double_nat(found));
    checks.push(tcp(found));
    checks.push(registry(found));
    checks.extend(websocket(found));
    checks.extend(clock(found));
    checks.extend(found.beacons.iter().map(|beacon| {
        let relays = if beacon.relay { ", relays" } else { "" };
        match beacon.rtt_ms {
            Some(rtt) => Check::new(
                "beacon",
                Level::Ok,
                format!("{} answers in {rtt:.1} ms{relays}", beacon.udp),
            ),
            None => {
                let said = if beacon.online {
                    "the registry takes it for online"
                } else {
                    "it is offline"
                };
                Check::new(
                    "beacon",
                    Level::Note,
                    format!("{} does not answer; {said}", beacon.udp),
                )
            }
        }
    }));
    checks.push(agent(found));
    checks
}

fn network(found: &Examination) -> Check {
    let network = &found.network;
    if network.is_down() {
        return Check::new("network", Level::Problem, "no interface has an address")
            .advise("connect this host to a network");
    }
    let addresses: Vec<String> = network
        .addresses
        .iter()
        .filter(|a| a.up)
        .map(|a| format!("{} {}/{}", a.interface, a.ip, a.prefix))
        .collect();
    // Containers' bridges can be dozens.
    let more = addresses.len().saturating_sub(4);
    let mut text = addresses[..addresses.len() - more].join(", ");
    if more > 0 {
        text += &format!(" and {more} more");
    }
    match network.routers.first() {
        Some(router) if router.ip.is_unspecified() => Check::new(
            "network",
            Level::Ok,
            format!("{text}; default route by {}", router.interface),
        ),
        Some(router) => Check::new(
            "network",
            Level::Ok,
            format!("{text}; router {}", router.ip),
        ),
        None => Check::new(
            "network",
            Level::Problem,
            format!("{text}; no default route"),
        )
        .advise("give this host a default route: without it only the LAN is reached"),
    }
}

fn ipv6(found: &Examination) -> Check {
    let global = found.network.addresses.iter().find(|a| match a.ip {
        std::net::IpAddr::V4(_) => false,
        std::net::IpAddr::V6(ip) => ip.segments()[0] & 0xfe00 != 0xfc00,
    });
    let Some(global) = global else {
        return Check::new("ipv6", Level::Note, "this host has no IPv6 address")
            .advise(Remedy::EnableIpv6);
    };
    let behaviour = &found.udp_ipv6;
    if let Some(seen) = behaviour.seen.first() {
        let filter = match behaviour.filtering {
            Filtering::Unknown => "; its firewall was not tested",
            Filtering::EndpointIndependent => ", and lets anybody in",
            _ => "; a firewall lets in only answers",
        };
        return Check::new(
            "ipv6",
            Level::Ok,
            format!("{} works{filter}", seen.seen.ip()),
        )
        .detail(sightings(&behaviour.seen));
    }
    match (found.tcp_ipv6, behaviour.asked.is_empty()) {
        (Some(true), true) => Check::new(
            "ipv6",
            Level::Ok,
            format!(
                "{} reaches the registry; UDP not tested: no STUN server has IPv6",
                global.ip
            ),
        ),
        (Some(true), false) => Check::new(
            "ipv6",
            Level::Note,
            format!(
                "{} reaches the registry, but no STUN server by UDP",
                global.ip
            ),
        )
        .advise("let UDP out over IPv6 at the firewall"),
        (None, true) => Check::new(
            "ipv6",
            Level::Note,
            format!(
                "{}; not tested: neither the registry nor a STUN server has IPv6",
                global.ip
            ),
        ),
        _ => Check::new("ipv6", Level::Note, format!("{} reaches nobody", global.ip))
            .advise("have the router, or the provider, carry IPv6"),
    }
}

fn udp(found: &Examination) -> Check {
    let behaviour = &found.udp;
    if let Some(first) = behaviour.seen.first() {
        let rtt = behaviour
            .rtt_ms
            .map_or(String::new(), |rtt| format!(", {rtt:.1} ms"));
        let check = Check::new(
            "udp",
            Level::Ok,
            format!("works, public address {}{rtt}", first.seen.ip()),
        );
        let wrong: Vec<String> = contradicting(&behaviour.seen)
            .map(|s| format!("{} saw {}, alone: it is not believed", s.server, s.seen))
            .collect();
        if wrong.is_empty() {
            return check;
        }
        return Check {
            level: Level::Note,
            ..check
        }
        .detail(wrong)
        .advise("take the STUN server off the list that is wrong");
    }
    if behaviour.asked.is_empty() {
        if !found.udp_ipv6.seen.is_empty() {
            return Check::new(
                "udp",
                Level::Note,
                "over IPv6 only: no STUN server has IPv4",
            );
        }
        return Check::new("udp", Level::Problem, "not tested: no STUN server is known")
            .advise("give --stun HOST:PORT, or list STUN servers at the registry");
    }
    if found.network.is_cut_off() {
        return Check::new("udp", Level::Problem, "no way to the Internet");
    }
    let asked: Vec<String> = behaviour.asked.iter().map(ToString::to_string).collect();
    let check = |level| {
        Check::new(
            "udp",
            level,
            format!("no STUN server answers (asked {})", asked.join(", ")),
        )
    };
    if found.udp_ipv6.seen.is_empty() {
        check(Level::Problem).advise(Remedy::AllowUdp)
    } else {
        check(Level::Note).advise("IPv6 works: peers that have it, too, are reached")
    }
}

fn nat(found: &Examination) -> Check {
    let UdpBehaviour {
        mapping,
        filtering,
        ports,
        ref seen,
        ref port_pairs,
        rfc5780,
        ..
    } = found.udp;
    let name = nat_name(mapping, filtering);
    let filter = match filtering {
        Filtering::Unknown if rfc5780 => String::new(),
        Filtering::Unknown => {
            "filter not tested: the STUN server does not offer RFC 5780".to_owned()
        }
        filtering => filtering.to_string(),
    };
    let text = match mapping {
        Mapping::Unknown => "only one STUN server answers, two are needed to tell".to_owned(),
        Mapping::None if filter.is_empty() => String::new(),
        Mapping::None => filter,
        mapping => format!("{mapping}; {filter}"),
    };
    let text = if text.is_empty() {
        name.to_owned()
    } else {
        format!("{name}: {text}")
    };
    let standing = found.standing();
    let check = if mapping.is_dependent() && !standing.udp_forwarded {
        Check::new("nat", Level::Note, text).advise(Remedy::MapPort)
    } else if mapping == Mapping::Unknown {
        Check::new("nat", Level::Note, text).advise("give a second STUN server")
    } else {
        Check::new("nat", Level::Ok, text)
    };
    let scatter = (mapping != Mapping::None && ports != Ports::Unknown).then(|| {
        let pairs: Vec<String> = port_pairs
            .iter()
            .map(|(local, public)| format!("{local}→{public}"))
            .collect();
        format!("local ports are {ports}: {}", pairs.join(", "))
    });
    check.detail(sightings(seen)).detail(scatter)
}

/// Who saw what; those that saw the same are one line.
fn sightings(seen: &[Sighting]) -> Vec<String> {
    let mut lines: Vec<(std::net::SocketAddr, Vec<String>)> = Vec::new();
    for sighting in seen {
        let server = sighting.server.to_string();
        match lines
            .iter_mut()
            .find(|(address, _)| *address == sighting.seen)
        {
            Some((_, servers)) => servers.push(server),
            None => lines.push((sighting.seen, vec![server])),
        }
    }
    lines
        .into_iter()
        .map(|(address, servers)| format!("{} saw {address}", servers.join(", ")))
        .collect()
}

fn hairpin(found: &Examination) -> Option<Check> {
    let works = found.udp.hairpin?;
    Some(if works {
        Check::new(
            "hairpin",
            Level::Ok,
            "this host is reached by its public address from inside",
        )
    } else {
        Check::new(
            "hairpin",
            Level::Ok,
            "none: peers behind the same router meet by their LAN addresses",
        )
    })
}

fn port_mapping(found: &Examination) -> Check {
    let mappings = &found.port_mapping;
    let given = |name: &str, mapping: &Option<PortMapped>| {
        let mapping = mapping.as_ref()?;
        Some(format!("{name} {}", mapping.external))
    };
    let all: Vec<String> = [given("UDP", &mappings.udp), given("TCP", &mappings.tcp)]
        .into_iter()
        .flatten()
        .collect();
    let mapped_by = mappings.udp.as_ref().or(mappings.tcp.as_ref());
    let new = |level, found: String| Check::new("port-mapping", level, found);
    let check = match (&mappings.trouble, mapped_by) {
        (Some(Trouble::DoubleNat { external }), _) => {
            let has = external.map_or("no public address".to_owned(), |ip| format!("only {ip}"));
            let by: Vec<String> = mappings.found.iter().map(ToString::to_string).collect();
            new(
                Level::Note,
                format!("the router speaks {}, but has {has} itself", by.join(", ")),
            )
        }
        (None, Some(by)) => new(
            Level::Ok,
            format!(
                "{} gives {} (given back after this test)",
                by.method,
                all.join(" and ")
            ),
        ),
        (Some(Trouble::NoRouter), _) => new(Level::Note, "no IPv4 router to ask".into()),
        (Some(Trouble::NotNeeded), _) => new(
            Level::Ok,
            "not needed: this host has a public address".into(),
        ),
        (Some(Trouble::Refused { reason }), _) => {
            new(Level::Problem, format!("the router refuses: {reason}"))
                .advise("allow port mappings for this host on the router")
        }
        // A full cone does without.
        _ if found.standing_without_mapping_is_open() => new(
            Level::Ok,
            "the router speaks neither UPnP, NAT-PMP nor PCP; UDP does without".into(),
        ),
        _ => new(
            Level::Note,
            "the router speaks neither UPnP, NAT-PMP nor PCP".into(),
        )
        .advise(Remedy::MapPort),
    };
    if found.port_mapping_allowed || mapped_by.is_none() {
        return check;
    }
    Check {
        level: Level::Note,
        ..check
    }
    .advise("the agent may not use it: take port_mapping = false out of config.toml")
}

impl Examination {
    fn standing_without_mapping_is_open(&self) -> bool {
        self.udp.filtering == Filtering::EndpointIndependent && !self.udp.mapping.is_dependent()
    }
}

/// Only what is known for sure: most routers do not say what address they have.
fn double_nat(found: &Examination) -> Option<Check> {
    if let Some((router, seen)) = found.differs_from_router() {
        return Some(
            Check::new(
                "double-nat",
                Level::Problem,
                format!("the router has {router}, and the Internet sees {seen}"),
            )
            .advise(Remedy::AskProvider),
        );
    }
    if found.has_carrier_address() {
        return Some(
            Check::new(
                "double-nat",
                Level::Problem,
                "this host is in a carrier's NAT (an address of 100.64.0.0/10)",
            )
            .advise(Remedy::AskProvider),
        );
    }
    match &found.port_mapping.trouble {
        Some(Trouble::DoubleNat { .. }) => Some(
            Check::new(
                "double-nat",
                Level::Problem,
                "the router is behind another NAT, the provider's or one of the house",
            )
            .advise(Remedy::AskProvider),
        ),
        _ if found.port_mapping.udp.is_some() && !found.udp.seen.is_empty() => Some(Check::new(
            "double-nat",
            Level::Ok,
            "none: the router's own address is the public one",
        )),
        _ => None,
    }
}

fn tcp(found: &Examination) -> Check {
    let tcp = &found.tcp;
    match found.tcp_works() {
        Some(true) => {
            let mapping = match tcp.mapping {
                Mapping::Unknown => "one server tells no more".to_owned(),
                mapping => mapping.to_string(),
            };
            Check::new("tcp", Level::Ok, format!("works, {mapping}")).detail(sightings(&tcp.seen))
        }
        Some(false) => Check::new(
            "tcp",
            Level::Problem,
            "no STUN server is reached by TCP: only some ports may be open to the outside",
        )
        .advise("let TCP out to any port at the firewall"),
        None if found.network.is_cut_off() => {
            Check::new("tcp", Level::Problem, "no way to the Internet")
        }
        None if tcp.asked.is_empty() => {
            Check::new("tcp", Level::Note, "not tested: no STUN server to ask")
        }
        None => Check::new(
            "tcp",
            Level::Ok,
            "not tested: the STUN servers take no TCP connections",
        ),
    }
}

fn registry(found: &Examination) -> Check {
    let health = &found.registry;
    let steps: Vec<String> = [
        ("DNS", health.dns_ms),
        ("TCP", health.tcp_ms),
        ("TLS", health.tls_ms),
        ("HTTP", health.http_ms),
    ]
    .into_iter()
    .filter_map(|(step, ms)| Some(format!("{step} {:.1}", ms?)))
    .collect();
    match &health.trouble {
        None => Check::new(
            "registry",
            Level::Ok,
            format!("{}: {} ms", health.origin, steps.join(", ")),
        ),
        Some(trouble) => {
            let check = Check::new("registry", Level::Problem, trouble.clone());
            let far = if steps.is_empty() {
                String::new()
            } else {
                format!("so far: {} ms", steps.join(", "))
            };
            let check = check.detail((!far.is_empty()).then_some(far));
            if found.network.is_cut_off() || health.origin.is_empty() {
                check
            } else {
                check.advise("without the registry nobody can be called: check its address, DNS and the firewall")
            }
        }
    }
}

fn websocket(found: &Examination) -> Option<Check> {
    let health = &found.registry;
    if let Some(ms) = health.websocket_ms {
        return Some(Check::new(
            "websocket",
            Level::Ok,
            format!("the registry's challenge came after {ms:.1} ms"),
        ));
    }
    let trouble = health.websocket_trouble.as_ref()?;
    Some(
        Check::new("websocket", Level::Problem, trouble.clone()).advise(
            "let WebSockets to the registry through the proxy: devices and the relay need them",
        ),
    )
}

fn clock(found: &Examination) -> Option<Check> {
    let ahead = found.registry.clock_ahead_s?;
    let away = ahead.unsigned_abs();
    let direction = if ahead > 0 { "ahead of" } else { "behind" };
    let text = format!("{away} s {direction} the registry's");
    Some(match ahead.abs() {
        0..CLOCK_NOTE => Check::new("clock", Level::Ok, "right"),
        CLOCK_NOTE..CLOCK_PROBLEM => {
            Check::new("clock", Level::Note, text).advise("set this host's clock (NTP)")
        }
        _ => Check::new("clock", Level::Problem, text).advise("set this host's clock (NTP)"),
    })
}

fn agent(found: &Examination) -> Check {
    if let Some(trouble) = &found.agent_trouble {
        return Check::new("agent", Level::Problem, trouble.clone())
            .advise("look into its log, and start it again: ringback up");
    }
    let Some(status) = &found.agent else {
        return Check::new(
            "agent",
            Level::Ok,
            "none runs here; it is needed to be called",
        );
    };
    let links = status.links.iter().map(|link| {
        let path = link.path.map_or("without a path".to_owned(), |path| {
            let how = match path.path {
                PathKind::Direct => "direct to",
                PathKind::Relay => "relayed by",
            };
            format!("{how} {}", path.remote)
        });
        let rtt = link
            .rtt_ms
            .map_or(String::new(), |rtt| format!(", {rtt:.1} ms"));
        let caller = link.caller.to_string();
        // The whole of it is in `ringback status`.
        let caller = caller.get(..12).unwrap_or(&caller);
        format!("link of {caller}…: {path}{rtt}")
    });
    let check = match &status.presence {
        Presence::Registered { name } => {
            Check::new("agent", Level::Ok, format!("registered as {name}"))
        }
        Presence::Connecting => {
            Check::new("agent", Level::Note, "it is connecting to the registry")
        }
        Presence::Offline { reason } => {
            Check::new("agent", Level::Problem, format!("not registered: {reason}"))
        }
        Presence::Rejected { detail, .. } => Check::new(
            "agent",
            Level::Problem,
            format!("the registry refuses it: {detail}"),
        )
        .advise("enrol it again: ringback up --enroll CODE"),
    };
    check.detail(links)
}

/// The whole in one sentence.
pub(crate) fn sentence(found: &Examination, outlook: &Outlook) -> String {
    if found.network.is_cut_off() && !found.registry.is_well() {
        return "there is no way to the Internet: no calls".into();
    }
    if !found.registry.is_well() {
        return "the registry is not reachable: no calls, neither from here nor to here".into();
    }
    let nat = nat_name(found.udp.mapping, found.udp.filtering);
    let at_once = [Peer::Public, Peer::Restricted, Peer::Symmetric];
    if at_once.iter().all(|peer| outlook.way_to(*peer) == Way::Udp) {
        format!("calls work, and directly ({nat})")
    } else if outlook.is_direct() && found.udp.seen.is_empty() && found.udp_ipv6.seen.is_empty() {
        "calls work without UDP: by TCP where the peer can be reached so, else relayed".into()
    } else if outlook.is_direct() && found.udp.seen.is_empty() {
        "calls work directly with peers that have IPv6".into()
    } else if outlook.is_direct() {
        format!("calls work, and directly with most peers ({nat})")
    } else if outlook.way_to(Peer::Public) == Way::Relay {
        "calls work, but only through the relay".into()
    } else {
        "the registry answers, but there is no path to any peer".into()
    }
}
