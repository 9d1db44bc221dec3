//! The lines on UDP, TCP, and the NATs on the way.

use std::net::SocketAddr;

use ringback_protocol::diagnosis::behaviour::contradicting;
use ringback_protocol::diagnosis::{Filtering, Mapping, Ports, Remedy, Sighting};

use super::super::{Examination, nat_name};
use super::{Check, Level};
use crate::endpoint::nat_behaviour::UdpBehaviour;
use crate::port_mapping::{Mapping as PortMapped, Trouble};

pub(super) fn udp(found: &Examination) -> Check {
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
    if found.network.is_cut_off() {
        return Check::new("udp", Level::Problem, "no way to the Internet");
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
    if !found.network.has_ipv4() && !found.network.is_cut_off() {
        // What IPv6 does has its own line.
        return Check::new("udp", Level::Note, "this host has no IPv4").advise(&Remedy::EnableIpv4);
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
        check(Level::Problem).advise(&Remedy::AllowUdp)
    } else {
        check(Level::Note).advise("IPv6 works: peers that have it, too, are reached")
    }
}

pub(super) fn mapping(found: &Examination) -> Check {
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
        Check::new("nat", Level::Note, text).advise(&Remedy::MapPort)
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
pub(super) fn sightings(seen: &[Sighting]) -> Vec<String> {
    let mut lines: Vec<(SocketAddr, Vec<String>)> = Vec::new();
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

pub(super) fn hairpin(found: &Examination) -> Option<Check> {
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

pub(super) fn port_mapping(found: &Examination) -> Check {
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
        .advise(&Remedy::MapPort),
    };
    let fixed = found.fixed_port.map(|port| {
        format!("the agent has the fixed port {port}; whether the router forwards it shows only from outside")
    });
    let check = check.detail(fixed);
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
pub(super) fn double_nat(found: &Examination) -> Option<Check> {
    if let Some((router, seen)) = found.differs_from_router() {
        return Some(
            Check::new(
                "double-nat",
                Level::Problem,
                format!("the router has {router}, and the Internet sees {seen}"),
            )
            .advise(&Remedy::AskProvider),
        );
    }
    if found.has_carrier_address() {
        return Some(
            Check::new(
                "double-nat",
                Level::Problem,
                "this host is in a carrier's NAT (an address of 100.64.0.0/10)",
            )
            .advise(&Remedy::AskProvider),
        );
    }
    match &found.port_mapping.trouble {
        Some(Trouble::DoubleNat { .. }) => Some(
            Check::new(
                "double-nat",
                Level::Problem,
                "the router is behind another NAT, the provider's or one of the house",
            )
            .advise(&Remedy::AskProvider),
        ),
        _ if found.port_mapping.udp.is_some() && !found.udp.seen.is_empty() => Some(Check::new(
            "double-nat",
            Level::Ok,
            "none: the router's own address is the public one",
        )),
        _ => None,
    }
}

pub(super) fn tcp(found: &Examination) -> Check {
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
