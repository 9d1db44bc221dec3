//! What was found, judged: one line each, and what would make it better.

mod nat;
mod registry;
mod verdict;

use ringback_protocol::address_scope::Scope;
use ringback_protocol::diagnosis::{Filtering, Outlook, Peer, Remedy, Way};

use super::{Examination, nat_name};

pub(crate) use verdict::{Check, Level};

/// All lines, in the order of the way from here to the peers.
pub(crate) fn all(found: &Examination) -> Vec<Check> {
    let mut checks = vec![network(found), ipv6(found), nat::udp(found)];
    if !found.udp.seen.is_empty() {
        checks.push(nat::mapping(found));
        checks.extend(nat::hairpin(found));
    }
    checks.push(nat::port_mapping(found));
    checks.extend(nat::double_nat(found));
    checks.push(nat::tcp(found));
    checks.push(registry::http(found));
    checks.extend(registry::websocket(found));
    checks.extend(registry::clock(found));
    checks.extend(found.beacons.iter().map(registry::beacon));
    checks.push(registry::agent(found));
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
    if let Some(prefix) = &network.nat64 {
        text += &format!("; IPv4 by the network's NAT64, {prefix}");
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
    let mut addresses = found.network.addresses.iter().filter(|a| a.up);
    let is_local = |ip: std::net::IpAddr| ip.is_ipv6().then(|| Scope::of(ip).is_local());
    let global = addresses.clone().find(|a| is_local(a.ip) == Some(false));
    let local = addresses.find(|a| is_local(a.ip) == Some(true));
    let behaviour = &found.udp_ipv6;
    let reaches = !behaviour.seen.is_empty() || found.tcp_ipv6 == Some(true);
    let global = match (global, local) {
        (Some(global), _) => global,
        // A router that translates (NAT66) takes them further.
        (None, Some(local)) if reaches => local,
        (None, Some(local)) => {
            return Check::new(
                "ipv6",
                Level::Note,
                format!(
                    "{} is for the local network only; this host has no public IPv6 address",
                    local.ip
                ),
            )
            .advise(&Remedy::EnableIpv6);
        }
        (None, None) => {
            return Check::new("ipv6", Level::Note, "this host has no IPv6 address")
                .advise(&Remedy::EnableIpv6);
        }
    };
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
        .detail(nat::sightings(&behaviour.seen));
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
    } else if !found.network.has_ipv4() && outlook.is_direct() {
        "calls work, directly with peers that have IPv6, and else through the relay".into()
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
