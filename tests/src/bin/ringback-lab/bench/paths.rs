//! What each path gives and costs: time to first byte, throughput, the bytes that keep an idle
//! device reachable, and the registry's bill.
//!
//! Two labs: in one a caller and a device, whose path is made by cutting the others; in the other
//! devices that nobody calls, watched for as long as the rest takes.

mod bill;
mod first_byte;
mod keepalive;
mod plan;
mod scene;
mod throughput;

use std::{fmt, time::Duration};

use anyhow::Result;
use ringback_tests::lab::reach::{Expected, Transport};
use serde::Serialize;

use self::{keepalive::Ground, scene::Scene};
use super::report::Report;

/// For how long idle devices are watched at least: two intervals of the longest keepalive.
const WINDOW: Duration = Duration::from_secs(200);

#[derive(Debug, Serialize)]
pub(super) struct Figures {
    first_byte: Vec<first_byte::Case>,
    throughput: throughput::Figures,
    keepalive: Vec<keepalive::Mode>,
    bill: bill::Figures,
}

/// The paths of PROTOCOL §10 and §15, the best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum PathKind {
    Lan,
    Udp,
    Tcp,
    OwnRelay,
    Relay,
}

pub(super) fn measure(runs: u32, bytes: u64) -> Result<Figures> {
    let ground = Ground::set()?;
    let watch = ground.watch()?;
    let scene = Scene::set()?;
    let mut first_byte = Vec::new();
    let mut throughput = throughput::Figures::default();
    for path in [PathKind::Lan, PathKind::Udp, PathKind::Tcp, PathKind::Relay] {
        first_byte.extend(first_byte::measure(&scene, path, runs)?);
        throughput.measure(&scene, path, runs, bytes)?;
    }
    let scene = scene.with_own_relay()?;
    let path = PathKind::OwnRelay;
    first_byte.extend(first_byte::measure(&scene, path, runs)?);
    throughput.measure(&scene, path, runs, bytes)?;
    drop(scene);
    let counted = bill::Counted::registry()?;
    let mut idle = watch.finish(WINDOW)?;
    Ok(Figures {
        keepalive: std::mem::take(&mut idle.modes),
        bill: bill::Figures::of(&counted, idle, &throughput),
        first_byte,
        throughput,
    })
}

impl Figures {
    pub(super) fn report(&self, report: &mut Report) {
        for case in &self.first_byte {
            case.report(report);
        }
        self.throughput.report(report);
        for mode in &self.keepalive {
            mode.report(report);
        }
        self.bill.report(report);
    }
}

impl PathKind {
    /// What a receipt calls it.
    fn expected(self) -> Expected {
        match self {
            Self::Lan | Self::Udp => Expected::Direct(Transport::Udp),
            Self::Tcp => Expected::Direct(Transport::Tcp),
            Self::OwnRelay | Self::Relay => Expected::Relay("all else is cut"),
        }
    }

    /// What carries it, in the words of the receipt.
    fn transport(self) -> &'static str {
        match self {
            Self::Lan | Self::Udp | Self::OwnRelay => "udp",
            Self::Tcp => "tcp",
            Self::Relay => "websocket",
        }
    }
}

impl fmt::Display for PathKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Lan => "LAN",
            Self::Udp => "UDP direct",
            Self::Tcp => "TCP direct",
            Self::OwnRelay => "own relay (beacon)",
            Self::Relay => "registry's relay",
        })
    }
}
