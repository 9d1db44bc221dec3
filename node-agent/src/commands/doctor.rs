//! `doctor`: what stands between this host and its peers, and why a call to a device takes the path
//! that it takes.

use std::io::{IsTerminal as _, Write as _};
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Result, bail};
use ringback_protocol::candidate::Kind;
use ringback_protocol::diagnosis::{Diagnosis, Outlook, Side};
use ringback_protocol::name::NO_SERVICE;
use ringback_protocol::path::Class;
use ringback_protocol::receipt::{PathKind, Receipt};
use ringback_protocol::{PeerId, SecretKey};
use serde::Serialize;

use super::page::{Mark, Page};
use super::preparation::{self, Prepared};
use super::{target, terminal};
use crate::caller::{Caller, Completed};
use crate::cli::{Doctor, Global, Target};
use crate::config::Config;
use crate::doctor::check::{self, Check, Level};
use crate::doctor::{self, Examination, Subject};
use crate::endpoint::Endpoint;
use crate::failure::{Exit, Failure};
use crate::profile::Profile;

/// How long the round trip may take to be measured.
const MEASURING: Duration = Duration::from_secs(3);
/// A direct path has this long to take over from the relay.
const DIRECT_PATIENCE: Duration = Duration::from_secs(6);

pub(super) async fn run(global: &Global, profile: &Profile, doctor: Doctor) -> Result<()> {
    let Doctor { device, target } = doctor;
    match device {
        None => examine(global, profile, &target).await,
        Some(device) => call(global, profile, &target, &device).await,
    }
}

/// The host's own examination, as `--json` prints it.
#[derive(Serialize)]
struct Examined {
    verdict: String,
    /// What the command ends with.
    exit: u8,
    nat: &'static str,
    outlook: Outlook,
    checks: Vec<Check>,
    found: Examination,
}

async fn examine(global: &Global, profile: &Profile, target: &Target) -> Result<()> {
    let examined = look(global, profile, target).await?;
    terminal::data(global, &examined, page)?;
    conclude(&examined)
}

async fn look(global: &Global, profile: &Profile, target: &Target) -> Result<Examined> {
    let config = Config::load(profile)?;
    let registry = target::registry(&target.registry, &config).map_err(|e| format!("{e:#}"));
    let key = profile
        .existing_key()?
        .unwrap_or_else(|| SecretKey::from_seed(&rand::random()));
    let subject = Subject {
        profile,
        registry,
        key,
        stun: target.registry.stun.clone().or_else(|| config.stun.clone()),
        stun_known: target::known_stun(profile),
        maps_ports: !target.no_port_mapping && config.port_mapping.unwrap_or(true),
        fixed_port: config.port.filter(|port| *port != 0),
        relays: !target.no_relay && config.relay.unwrap_or(true),
    };
    let waiting = Waiting::show(global, "looking at the network, a few seconds");
    let found = Examination::make(subject).await;
    drop(waiting);
    let outlook = Outlook::of(&found.standing());
    let exit = if !found.registry.is_well() {
        Exit::Registry as u8
    } else if !outlook.is_direct() {
        Exit::NoPath as u8
    } else {
        0
    };
    Ok(Examined {
        verdict: check::sentence(&found, &outlook),
        exit,
        nat: doctor::nat_name(found.udp.mapping, found.udp.filtering),
        checks: check::all(&found),
        outlook,
        found,
    })
}

fn conclude(examined: &Examined) -> Result<()> {
    match examined.exit {
        0 => Ok(()),
        exit => bail!(Failure::from_code(exit, examined.verdict.clone())),
    }
}

fn page(examined: &Examined) -> String {
    let mut page = Page::on_stdout();
    for check in &examined.checks {
        let (mark, level) = match check.level {
            Level::Ok => (Mark::Good, "ok"),
            Level::Note => (Mark::Middling, "note"),
            Level::Problem => (Mark::Bad, "problem"),
        };
        page.row(mark, level, title(check.check), &check.found);
        for detail in &check.details {
            page.detail(detail);
        }
        if let Some(advice) = &check.advice {
            page.advice(advice);
        }
    }
    page.heading(&examined.verdict);
    if !examined.found.registry.is_well() {
        if !examined.outlook.is_direct() {
            return page.finish();
        }
        page.heading("Apart from that, peers would be reached:");
    }
    let mut ways: Vec<(String, Vec<String>, bool)> = Vec::new();
    for prospect in &examined.outlook.peers {
        let way = prospect.way.to_string();
        let peer = prospect.peer.to_string();
        match ways.iter_mut().find(|(known, ..)| *known == way) {
            Some((_, peers, _)) => peers.push(peer),
            None => ways.push((way, vec![peer], prospect.way.is_direct())),
        }
    }
    for (way, peers, direct) in ways {
        let mark = if direct { Mark::Good } else { Mark::Middling };
        page.pair(mark, &way, &format!("peers {}", peers.join("; ")));
    }
    if !examined.outlook.advice.is_empty() {
        page.heading("To reach more of them directly, one of:");
        for advice in &examined.outlook.advice {
            page.item(&advice.text);
        }
    }
    page.finish()
}

fn title(check: &str) -> &'static str {
    match check {
        "network" => "Network",
        "ipv6" => "IPv6",
        "udp" => "UDP",
        "nat" => "NAT",
        "hairpin" => "Hairpin",
        "port-mapping" => "Port mapping",
        "double-nat" => "Double NAT",
        "tcp" => "TCP",
        "registry" => "Registry",
        "websocket" => "WebSocket",
        "clock" => "Clock",
        "beacon" => "Beacon",
        _ => "Agent",
    }
}

/// A call's explanation, as `--json` prints it.
#[derive(Serialize)]
struct Explained {
    device: PeerId,
    exit: u8,
    diagnosis: Diagnosis,
    receipt: Receipt,
}

async fn call(global: &Global, profile: &Profile, target: &Target, device: &str) -> Result<()> {
    let prepared = preparation::prepare(profile, target, device, NO_SERVICE).await?;
    let Prepared {
        resolved,
        registry,
        config,
        ..
    } = prepared;
    // A path of its own, even if the agent has a link to the device: what is asked for is how a
    // path comes about.
    let (caller, mapping) = preparation::own_caller(profile, target, &registry, &config).await?;
    let waiting = Waiting::show(global, "calling, and waiting for the best path");
    let result = best(&caller, &resolved.ring).await;
    drop(waiting);
    let public = public(&caller.endpoint);
    preparation::close_caller(&caller, mapping).await;
    let Completed {
        receipt,
        candidates,
        ..
    } = match result {
        Ok(completed) => completed,
        Err(error) if Failure::exit_code(&error) == Exit::NoPath as u8 => {
            // No path, no receipt; this host's side can still be looked at.
            let examined = look(global, profile, target).await?;
            terminal::data(global, &examined, page)?;
            return Err(error);
        }
        Err(error) => return Err(target::explain(error, &registry, &resolved).await),
    };
    let here = doctor::here(public, resolved.ring.direct_only);
    let diagnosis = Diagnosis::of(&receipt, &here, &candidates);
    let is_direct = receipt.path == PathKind::Direct;
    let explained = Explained {
        device: receipt.device,
        exit: if is_direct { 0 } else { Exit::NoPath as u8 },
        diagnosis,
        receipt,
    };
    terminal::data(global, &explained, |explained| {
        let mut page = Page::on_stdout();
        explain(&mut page, &explained.receipt, &explained.diagnosis);
        page.finish()
    })?;
    if is_direct {
        return Ok(());
    }
    bail!(Failure::new(
        Exit::NoPath,
        "no direct path came about within 6 s: the link is relayed"
    ))
}

/// The call's receipt once the best path has had its time to form.
async fn best(caller: &Caller, ring: &crate::caller::Ring) -> Result<Completed> {
    let dialled = caller.call(ring).await?;
    let mut completed = dialled.completed.await??;
    let paths = &dialled.link.paths;
    let mut in_use = paths.in_use();
    let is_best = |class: Option<Class>| class == Some(Class::Udp);
    let wait = in_use.wait_for(|in_use| is_best(in_use.verified));
    let _ = tokio::time::timeout(DIRECT_PATIENCE, wait).await;
    completed.measure(&dialled.link, MEASURING).await;
    if let Some(now) = paths.path() {
        let receipt = &mut completed.receipt;
        receipt.path = now.path;
        receipt.transport = now.transport;
        receipt.remote = now.remote;
    }
    Ok(completed)
}

/// As STUN servers see this host.
pub(super) fn public(endpoint: &Endpoint) -> Vec<IpAddr> {
    let addresses = endpoint.own_addresses().known();
    let seen = addresses.candidates.iter();
    seen.filter(|candidate| candidate.kind == Kind::ServerReflexive)
        .map(|candidate| candidate.address.ip())
        .chain(addresses.public.map(|public| public.ip()))
        .collect()
}

/// Path, NATs, why, and the rest.
fn explain(page: &mut Page, receipt: &Receipt, diagnosis: &Diagnosis) {
    let (mark, level) = match (receipt.path, diagnosis.is_best()) {
        (PathKind::Direct, true) => (Mark::Good, "ok"),
        (PathKind::Direct, false) => (Mark::Middling, "note"),
        (PathKind::Relay, _) => (Mark::Bad, "problem"),
    };
    let rtt = receipt
        .rtt_ms
        .map_or(String::new(), |rtt| format!(", round trip {rtt:.1} ms"));
    page.row(
        mark,
        level,
        "Path",
        &format!("{}{rtt}", terminal::path(&receipt.in_use())),
    );
    page.row(mark, "", "NAT here", terminal::nat(receipt.caller_nat));
    page.row(mark, "", "NAT there", terminal::nat(receipt.device_nat));
    page.row(mark, "", "Why", &diagnosis.text);
    explain_tried(page, diagnosis);
}

/// Every address, and what to do for a better path.
pub(super) fn explain_tried(page: &mut Page, diagnosis: &Diagnosis) {
    page.heading("Addresses tried");
    for tried in &diagnosis.tried {
        let rtt = tried
            .rtt_ms
            .map_or(String::new(), |rtt| format!(", {rtt:.1} ms"));
        let transport = terminal::transport(tried.transport);
        page.entry(
            &format!(
                "{transport} {} ({})",
                tried.address,
                terminal::kind(tried.kind)
            ),
            &format!("{}{rtt}", tried.text),
        );
    }
    if !diagnosis.advice.is_empty() {
        page.heading("For a better path, one of:");
        for advice in &diagnosis.advice {
            let side = match advice.side {
                Side::Here => "here",
                Side::Device => "at the device",
                Side::Either => "here or at the device",
            };
            page.item(&format!("{side}: {}", advice.text));
        }
    }
}

/// A line on the terminal for as long as nothing else can be shown.
struct Waiting(bool);

impl Waiting {
    fn show(global: &Global, what: &str) -> Self {
        let shown = !global.json && global.verbose == 0 && std::io::stderr().is_terminal();
        if shown {
            let _ = write!(std::io::stderr(), "{what} …");
        }
        Self(shown)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.0 {
            // Back to the line's begin, and empty it.
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}
