//! The lines on the registry, its beacons, and the agent of this host.

use ringback_protocol::Code;
use ringback_protocol::receipt::PathKind;

use super::super::{BeaconFound, Examination};
use super::{Check, Level};
use crate::clock::{ago, lasting};
use crate::presence::{CLONE_ADVICE, Presence};

/// Seconds of difference between the clocks that nobody notices, and that calls bear.
const CLOCK_NOTE: i64 = 3;
const CLOCK_PROBLEM: i64 = 60;

pub(super) fn http(found: &Examination) -> Check {
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
    let by = match &health.proxy {
        Some(proxy) => format!(" by the proxy {proxy}"),
        None => String::new(),
    };
    match &health.trouble {
        None => Check::new(
            "registry",
            Level::Ok,
            format!("{}{by}: {} ms", health.origin, steps.join(", ")),
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

pub(super) fn websocket(found: &Examination) -> Option<Check> {
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

pub(super) fn clock(found: &Examination) -> Option<Check> {
    let ahead = found.registry.clock_ahead_s?;
    let direction = if ahead > 0 { "ahead of" } else { "behind" };
    let text = format!(
        "{} {direction} the registry's",
        lasting(ahead.unsigned_abs())
    );
    Some(match ahead.abs() {
        0..CLOCK_NOTE => Check::new("clock", Level::Ok, "right"),
        CLOCK_NOTE..CLOCK_PROBLEM => {
            Check::new("clock", Level::Note, text).advise("set this host's clock (NTP)")
        }
        _ => Check::new("clock", Level::Problem, text).advise("set this host's clock (NTP)"),
    })
}

pub(super) fn beacon(beacon: &BeaconFound) -> Check {
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
}

pub(super) fn agent(found: &Examination) -> Check {
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
        Presence::Registered {
            rival: Some(rival), ..
        } => Check::new("agent", Level::Problem, rival.to_string()).advise(CLONE_ADVICE),
        Presence::Registered { name, since, .. } => Check::new(
            "agent",
            Level::Ok,
            format!("registered as {name} for {}", ago(*since)),
        ),
        Presence::Connecting => {
            Check::new("agent", Level::Note, "it is connecting to the registry")
        }
        Presence::Offline { reason } => {
            Check::new("agent", Level::Problem, format!("not registered: {reason}"))
        }
        Presence::Rejected {
            code: Code::KeyInUse,
            detail,
        } => Check::new("agent", Level::Problem, detail.clone()).advise(CLONE_ADVICE),
        Presence::Rejected { detail, .. } => Check::new(
            "agent",
            Level::Problem,
            format!("the registry refuses it: {detail}"),
        )
        .advise("enrol it again: ringback up --enroll CODE"),
    };
    let public = status
        .public_address
        .map_or("unknown".to_owned(), |public| public.to_string());
    let socket = format!("UDP port {}, public address {public}", status.udp_port);
    check.detail([socket]).detail(links)
}
