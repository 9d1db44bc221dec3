//! One stream through each path, beside plain TCP between the same two hosts: one round measures
//! both, so that what else the machine does falls on both alike.
//!
//! Every host of the lab shares this machine's cores: a relay's work is paid by the same ones as
//! the two ends'.

use std::{io::ErrorKind, time::Duration};

use anyhow::{Context as _, Result, ensure};
use ringback_tests::{
    agent::{Call, Device, LOCAL, Link},
    case::SETTLE,
    profile::until,
};
use serde::Serialize;
use serde_json::Value;

use super::{
    super::{TCP_PORT, direct, figure::Figure, report::Report, throughput::fetch},
    PathKind,
    scene::{Policy, Scene},
};

/// Share of the bytes that a relay carries in one run, as it is slower: own, and the registry's.
const OWN_RELAY: u64 = 8;
const RELAY: u64 = 16;
/// The same under the default policy.
const LIMITED: u64 = 48;

#[derive(Debug, Default, Serialize)]
pub(super) struct Figures {
    paths: Vec<Case>,
    /// The registry's relay under its default policy, once; Mb/s.
    default_policy: Option<f64>,
    /// What the registry's relay counted with its rate out of the way, and under the default policy.
    pub(super) raised_usage: Option<Used>,
    pub(super) default_usage: Option<Used>,
}

/// Mb/s.
#[derive(Debug, Serialize)]
struct Case {
    path: PathKind,
    bytes: u64,
    stream: Figure,
    plain_tcp: Figure,
    /// The median of the runs' ratios.
    to_plain_tcp: Figure,
}

/// What `/v1/usage` counts of a relay.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Used {
    pub(super) bytes: u64,
    pub(super) sockets: u64,
    pub(super) leases: u64,
    pub(super) messages: u64,
    /// Object-seconds of 128 MB, in GB-s.
    pub(super) gb_s: f64,
    pub(super) rows: u64,
}

impl Figures {
    pub(super) fn measure(
        &mut self,
        scene: &Scene,
        path: PathKind,
        runs: u32,
        bytes: u64,
    ) -> Result<()> {
        let bytes = match path {
            // It is a wire of its own, and as fast as UDP between two routers.
            PathKind::Lan => return Ok(()),
            PathKind::Udp | PathKind::Tcp => bytes,
            PathKind::OwnRelay => bytes / OWN_RELAY,
            PathKind::Relay => bytes / RELAY,
        };
        scene.set_policy(Policy::Raised)?;
        scene.leave(path, true)?;
        let before = Used::now(scene)?;
        let mut case = Case {
            path,
            bytes,
            stream: Figure::default(),
            plain_tcp: Figure::default(),
            to_plain_tcp: Figure::default(),
        };
        {
            let link = link(scene, path)?;
            for run in 1..=runs {
                let plain = tcp(scene, &direct(TCP_PORT), bytes)?;
                let stream = tcp(scene, &LOCAL.to_string(), bytes)?;
                case.plain_tcp.add(plain);
                case.stream.add(stream);
                case.to_plain_tcp.add(stream / plain);
                eprintln!("throughput by {path}, run {run} of {runs}");
            }
            check(&link, path)?;
        }
        self.paths.push(case);
        if path == PathKind::Relay {
            self.raised_usage = Some(Used::since(scene, before)?);
            scene.set_policy(Policy::Default)?;
            let before = Used::now(scene)?;
            let link = link(scene, path)?;
            self.default_policy = Some(tcp(scene, &LOCAL.to_string(), bytes * RELAY / LIMITED)?);
            check(&link, path)?;
            drop(link);
            self.default_usage = Some(Used::since(scene, before)?);
        }
        Ok(())
    }

    pub(super) fn report(&self, report: &mut Report) {
        let part = "throughput of one stream by each path";
        for case in &self.paths {
            report.add(part, case.path.to_string(), case.stream.median, "Mb/s");
            let plain = case.plain_tcp.median;
            report.add(part, "  plain TCP in the same rounds", plain, "Mb/s");
            let ratio = case.to_plain_tcp.median;
            report.add(part, "  to plain TCP", ratio, "×");
        }
        if let Some(rate) = self.default_policy {
            let name = "registry's relay, default policy (4 MiB/s), once";
            report.add(part, name, rate, "Mb/s");
        }
    }
}

/// A link, and the device, which is to live as long.
struct Linked {
    link: Link,
    _device: Device,
}

/// A link to a new device, which has settled on its path.
fn link(scene: &Scene, path: PathKind) -> Result<Linked> {
    let (lab, registry) = (&scene.lab, &scene.registry);
    let device = scene.device(&format!("through-{:08x}", fastrand::u32(..)))?;
    let caller = lab.caller().host();
    // What a caller has heard of the registry's beacons it believes for a day.
    match std::fs::remove_dir_all(lab.dir().join("caller")) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    let link = Call::start(lab, registry, caller, &device, &[(LOCAL, "bulk")])?.connected()?;
    link.takes(path.expected(), SETTLE)
        .with_context(|| format!("the link does not take {path}: {:?}", link.way()))?;
    let is_there = || Ok((link.way().transport == path.transport()).then_some(()));
    until(SETTLE, "the link's transport", is_there)
        .with_context(|| format!("the link does not take {path}: {:?}", link.way()))?;
    Ok(Linked {
        link,
        _device: device,
    })
}

fn check(linked: &Linked, path: PathKind) -> Result<()> {
    let way = linked.link.way();
    ensure!(
        way.is(path.expected()) && way.transport == path.transport(),
        "the link has left {path} for {way:?}"
    );
    Ok(())
}

fn tcp(scene: &Scene, server: &str, bytes: u64) -> Result<f64> {
    let caller = scene.lab.caller();
    let mut command = caller.command(std::env::current_exe()?);
    command.args(["tcp-fetch", server]);
    Ok(fetch(command, bytes)?.megabits_s)
}

impl Used {
    fn now(scene: &Scene) -> Result<Self> {
        let (status, usage) = scene.owner("GET", "/v1/usage", None)?;
        ensure!(status == 200, "no usage: {status} {usage}");
        let relay = &usage["relay"];
        let number = |of: &Value, name: &str| {
            let number = of[name].as_u64();
            number.with_context(|| format!("no {name} in {usage}"))
        };
        Ok(Self {
            bytes: number(relay, "bytes")?,
            sockets: number(relay, "sockets")?,
            leases: number(relay, "leases")?,
            messages: number(relay, "messages")?,
            gb_s: relay["gb_s"]["used"].as_f64().context("no gb_s")?,
            rows: number(&usage["rows_written"], "used")?,
        })
    }

    /// What was used since then. A room tells when it is empty: waits until nothing is out on lease.
    fn since(scene: &Scene, before: Self) -> Result<Self> {
        let settled = || -> Result<Option<()>> {
            let (_, usage) = scene.owner("GET", "/v1/usage", None)?;
            Ok((usage["relay"]["reserved_bytes"] == 0).then_some(()))
        };
        until(Duration::from_secs(20), "the relay's count", settled)?;
        let now = Self::now(scene)?;
        Ok(Self {
            bytes: now.bytes - before.bytes,
            sockets: now.sockets - before.sockets,
            leases: now.leases - before.leases,
            messages: now.messages - before.messages,
            gb_s: now.gb_s - before.gb_s,
            rows: now.rows - before.rows,
        })
    }
}
