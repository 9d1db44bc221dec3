//! How fast a link is three seconds after its path has changed, beside a link that began on that path:
//! what was learned of one path must not count on another.

use std::{net::Ipv4Addr, time::Duration};

use anyhow::{Result, ensure};
use ringback_tests::{
    download::Download,
    lab::{
        DEVICE_PUBLIC, Lab, REGISTRY, STUN,
        beacon::Beacon,
        cut::Cut,
        file_server::FileServer,
        impairment::{Impairment, Scope},
        namespace::Namespace,
        registry::Registry,
    },
    profile::{Connect, Profile, until},
    web_scene::WebScene,
};
use serde::Serialize;

use super::{
    figure::Figure,
    report::{Aim, Report},
};

/// From so long after a move on, and for that long, a rate is measured.
const SETTLED: Duration = Duration::from_secs(3);
/// Half of the way to the relay and back: a link on it has a round trip of 80 ms, a direct one less
/// than a millisecond.
const DISTANCE: Duration = Duration::from_millis(20);
/// Share of packets lost between the device and the owner's relay.
const LOSS: f64 = 0.02;
/// Bytes of a download, and how many a second the client takes: less than the lab carries, so that the
/// link is measured and not the machine.
const SIZE: u64 = 2 << 30;
const RATE: u64 = 12 << 20;
const LOCAL: u16 = 8080;

/// MB/s of links that began on a path and of those that moved to it.
#[derive(Debug, Default, Serialize)]
pub(super) struct Case {
    fresh: Figure,
    moved: Figure,
}

#[derive(Debug, Default, Serialize)]
pub(super) struct Figures {
    /// From a direct path to the registry's relay.
    relay: Case,
    /// And back.
    direct: Case,
    /// From a direct path to the owner's relay, on the way to which packets are lost.
    lossy: Case,
}

pub(super) fn measure(runs: u32) -> Result<Figures> {
    let mut figures = Figures::default();
    for run in 1..=runs {
        to_the_relay_and_back(&mut figures)?;
        to_a_lossy_relay(&mut figures.lossy)?;
        eprintln!("moves, run {run} of {runs}");
    }
    Ok(figures)
}

fn to_the_relay_and_back(figures: &mut Figures) -> Result<()> {
    let lab = Lab::builder()
        .impairment(Impairment {
            distance: vec![(REGISTRY.into(), DISTANCE)],
            ..Impairment::default()
        })
        .build()?;
    let scene = WebScene::set(&lab)?;
    let up = scene.device.up(&scene.registry, &[])?;
    let caller = &scene.caller;
    for (cut, path, case) in [
        (Cut::All, "relay", &mut figures.relay),
        (Cut::Nothing, "direct", &mut figures.direct),
    ] {
        lab.cut(cut)?;
        case.fresh.add(fresh(caller, &up.id, path)?);
    }
    let connect = caller.connect(&up.id, &[(LOCAL, "web")])?;
    await_path(&connect, "direct")?;
    let _download = download(caller)?;
    rate(caller.namespace())?;
    for (cut, path, case) in [
        (Cut::All, "relay", &mut figures.relay),
        (Cut::Nothing, "direct", &mut figures.direct),
    ] {
        lab.cut(cut)?;
        await_path(&connect, path)?;
        case.moved.add(rate(caller.namespace())?);
    }
    Ok(())
}

fn to_a_lossy_relay(case: &mut Case) -> Result<()> {
    let lab = Lab::builder()
        .impairment(Impairment {
            distance: vec![(STUN[0].into(), DISTANCE)],
            loss: LOSS,
            scope: Scope::UdpBetween(STUN[0].into(), DEVICE_PUBLIC.into()),
            ..Impairment::default()
        })
        .build()?;
    let registry = Registry::start(&lab)?;
    let _beacon = Beacon::start(&lab, &registry, &["--relay"])?;
    let _files = FileServer::start(lab.device().host(), (Ipv4Addr::LOCALHOST, 80))?;
    let device = Profile::new(&lab, &registry, lab.device().host(), "nas");
    device.expose(&[("web", "http://127.0.0.1")])?;
    let caller = Profile::new(&lab, &registry, lab.caller().host(), "laptop");
    let up = device.up(&registry, &[])?;
    lab.cut(Cut::All)?;
    case.fresh.add(fresh(&caller, &up.id, "relay")?);
    lab.cut(Cut::Nothing)?;
    let connect = caller.connect(&up.id, &[(LOCAL, "web")])?;
    await_path(&connect, "direct")?;
    let _download = download(&caller)?;
    rate(caller.namespace())?;
    lab.cut(Cut::All)?;
    await_path(&connect, "relay")?;
    case.moved.add(rate(caller.namespace())?);
    Ok(())
}

/// The rate of a link that begins on that path.
fn fresh(caller: &Profile<'_>, id: &str, path: &str) -> Result<f64> {
    let connect = caller.connect(id, &[(LOCAL, "web")])?;
    await_path(&connect, path)?;
    let _download = download(caller)?;
    rate(caller.namespace())
}

fn download(caller: &Profile<'_>) -> Result<Download> {
    let local = Profile::local(LOCAL);
    Download::start(caller.namespace(), local, 9, SIZE, Some(RATE))
}

fn await_path(connect: &Connect, path: &str) -> Result<()> {
    until(Duration::from_secs(20), path, || {
        Ok((connect.path()?.0 == path).then_some(()))
    })?;
    Ok(())
}

/// MB/s that come to a host. (What the two ends still hold for a client that is slower goes on for
/// seconds after a move.)
fn rate(host: &Namespace) -> Result<f64> {
    std::thread::sleep(SETTLED);
    let before = host.counter("eth0")?.rx_bytes;
    std::thread::sleep(SETTLED);
    let came = host.counter("eth0")?.rx_bytes - before;
    ensure!(came > 0, "nothing comes");
    Ok(came as f64 / SETTLED.as_secs_f64() / 1e6)
}

impl Figures {
    pub(super) fn report(&self, report: &mut Report) {
        let part = "three seconds after another path, beside a link that began on it";
        for (name, case) in [
            ("to the registry's relay, 80 ms", &self.relay),
            ("back to the direct path, < 1 ms", &self.direct),
            ("to the owner's relay, 80 ms, 2 % lost", &self.lossy),
        ] {
            let share = case.moved.median / case.fresh.median;
            report.aim(part, name, share, "×", Aim::AtLeast(0.8));
            report.add(part, "  began there", case.fresh.median * 8e3, "kb/s");
        }
    }
}
