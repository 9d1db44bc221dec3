//! `status`: what the agent of this host is doing.

use anyhow::{Result, bail};

use super::terminal;
use crate::beacon::front::BeaconStatus;
use crate::cli::Global;
use crate::clock::ago;
use crate::control::{AnyStatus, Ask, Control, Status};
use crate::failure::{Exit, Failure};
use crate::port_mapping::{Mappings, Trouble};
use crate::presence::Presence;
use crate::profile::Profile;

pub(super) async fn run(global: &Global, profile: &Profile) -> Result<()> {
    let Some(control) = Control::connect(profile).await? else {
        bail!(Failure::new(
            Exit::Other,
            "no agent runs here; start it with: ringback up"
        ));
    };
    let status = control.ask_any(&Ask::Status).await?;
    terminal::data(global, &status, text)
}

fn text(status: &AnyStatus) -> String {
    match status {
        AnyStatus::Agent(status) => agent(status),
        AnyStatus::Beacon(status) => beacon(status),
    }
}

fn presence(presence: &Presence) -> String {
    match presence {
        Presence::Connecting => "connecting".to_owned(),
        Presence::Registered {
            name,
            rival: Some(rival),
            ..
        } => format!("registered as {name}; {rival}"),
        Presence::Registered { name, .. } => format!("registered as {name}"),
        Presence::Offline { reason } => format!("not connected: {reason}"),
        Presence::Rejected { detail, .. } => format!("refused: {detail}"),
    }
}

fn beacon(status: &BeaconStatus) -> String {
    let numbers = &status.beacon;
    let counters = &numbers.counters;
    let address = numbers.udp.as_deref().unwrap_or("unknown");
    let mut out = format!(
        "ID        {}\nRegistry  {}, {}\nBeacon    port {}, public {address}\n\
         Devices   {} here, {} registrations, {} keepalives, {} address changes\n\
         Notified  {} of {} datagrams acknowledged\n\
         STUN      {} answered\n\
         Traffic   {} in, {} out\n\
         Dropped   {} malformed, {} oversized, {} over the rate, {} bad cookies, {} forged, {} replayed, {} unknown, {} for want of room\n",
        status.id,
        status.registry,
        presence(&status.presence),
        numbers.port,
        numbers.devices,
        counters.registrations,
        counters.keepalives,
        counters.address_changes,
        counters.notified,
        counters.notifications,
        counters.stun,
        bytes(counters.bytes_in),
        bytes(counters.bytes_out),
        counters.malformed,
        counters.oversized,
        counters.rate_limited,
        counters.bad_cookie,
        counters.forged,
        counters.replayed,
        counters.unknown,
        counters.table_full,
    );
    if let Some(tcp) = &numbers.tcp {
        out += &format!(
            "Relay     {tcp} and UDP, {} rooms, {} relayed, {} datagrams dropped\n",
            numbers.rooms,
            bytes(counters.relayed_bytes),
            counters.relay_dropped,
        );
    }
    out
}

fn agent(status: &Status) -> String {
    let presence = presence(&status.presence);
    let public = status
        .public_address
        .map_or("unknown".to_owned(), |address| address.to_string());
    let mut out = format!(
        "ID        {}\nRegistry  {}, {presence}\nUDP       port {}, public {public}, NAT {}\n",
        status.id,
        status.registry,
        status.udp_port,
        terminal::nat(status.nat),
    );
    if let Some(mappings) = &status.port_mapping {
        out += &format!("Router    {}\n", mapped(mappings));
    }
    if let Some(beacon) = &status.beacon {
        out += &format!(
            "Beacon    {}, a datagram every {} s\n",
            beacon.address, beacon.interval_s
        );
    }
    for (name, service) in &status.services {
        out += &format!("Service   {name} → {service}\n");
    }
    for link in &status.links {
        let path = link
            .path
            .map_or("without a path".to_owned(), |path| terminal::path(&path));
        let rtt = link
            .rtt_ms
            .map_or(String::new(), |rtt| format!(", {rtt:.1} ms"));
        out += &format!(
            "Link      {}{} {path}{rtt}, for {}, {} sent, {} received\n",
            link.caller,
            if link.browser { " (browser)" } else { "" },
            ago(link.since),
            bytes(link.bytes_sent),
            bytes(link.bytes_received),
        );
    }
    out
}

fn mapped(mappings: &Mappings) -> String {
    let ports: Vec<String> = [("UDP", &mappings.udp), ("TCP", &mappings.tcp)]
        .into_iter()
        .filter_map(|(transport, mapping)| {
            let mapping = mapping.as_ref()?;
            Some(format!(
                "forwards {transport} {} by {}",
                mapping.external, mapping.method
            ))
        })
        .collect();
    let trouble = match &mappings.trouble {
        None if !mappings.tried => Some("is being asked for a port mapping".into()),
        None => None,
        Some(Trouble::NoRouter) => Some("none, there is no IPv4 default route".into()),
        Some(Trouble::NotNeeded) => Some("maps nothing, this host has a public address".into()),
        Some(Trouble::Silent) => Some("maps no ports: switch on UPnP, NAT-PMP or PCP on it".into()),
        Some(Trouble::Refused { reason }) => Some(format!("refuses to map a port: {reason}")),
        Some(Trouble::DoubleNat { external }) => {
            let instead = external.map_or(String::new(), |ip| format!(" but {ip}"));
            Some(format!(
                "has no public address{instead}: it is behind another NAT, and can forward nothing"
            ))
        }
    };
    ports
        .into_iter()
        .chain(trouble)
        .collect::<Vec<_>>()
        .join(", ")
}

fn bytes(count: u64) -> String {
    match count {
        0..10_000 => format!("{count} B"),
        10_000..10_000_000 => format!("{:.1} kB", count as f64 / 1e3),
        _ => format!("{:.1} MB", count as f64 / 1e6),
    }
}
