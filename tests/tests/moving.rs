//! A download goes on while the networks under its link change: the bytes stay whole, the client
//! notices nothing but a pause, and the pause is measured.

use std::{net::Ipv4Addr, time::Duration};

use anyhow::{Context as _, Result, ensure};
use ringback_tests::{
    download::Download,
    lab::{Lab, coturn::Coturn, file_server::FileServer, kind::Kind, registry::Registry},
    profile::{Connect, Profile, until},
};

const LOCAL: u16 = 8080;
/// Bytes of the download, and how many of them curl takes in a second, so that it outlasts what is
/// done to it.
const SIZE: u64 = 2 << 30;
const RATE: u64 = 120 << 20;

struct Scene<'a> {
    _coturn: Coturn,
    _files: FileServer,
    registry: Registry,
    device: Profile<'a>,
    caller: Profile<'a>,
}

impl<'a> Scene<'a> {
    fn set(lab: &'a Lab) -> Result<Self> {
        let coturn = Coturn::start(lab)?;
        let registry = Registry::start(lab)?;
        let files = FileServer::start(lab.device().host(), (Ipv4Addr::LOCALHOST, 80))?;
        let device = Profile::new(lab, &registry, lab.device().host(), "nas");
        device.expose(&[("web", "http://127.0.0.1")])?;
        let caller = Profile::new(lab, &registry, lab.caller().host(), "laptop");
        Ok(Self {
            _coturn: coturn,
            _files: files,
            registry,
            device,
            caller,
        })
    }

    fn download(&self) -> Result<Download> {
        let local = Profile::local(LOCAL);
        Download::start(self.caller.namespace(), local, 7, SIZE, Some(RATE))
    }
}

/// What the core drops between the two sites; the registry stays reachable.
#[derive(Clone, Copy)]
enum Cut {
    Nothing,
    Udp,
    All,
}

fn cut(lab: &Lab, what: Cut) -> Result<()> {
    let rule = match what {
        Cut::Nothing => "",
        Cut::Udp => "meta l4proto udp drop",
        Cut::All => "drop",
    };
    let rules = match what {
        Cut::Nothing => String::new(),
        _ => format!(
            "iifname \"caller\" oifname \"device\" {rule}\n\
             iifname \"device\" oifname \"caller\" {rule}\n"
        ),
    };
    let script = format!(
        "table ip cut\ndelete table ip cut\ntable ip cut {{\nchain forward {{\n\
         type filter hook forward priority 0\n{rules}}}\n}}\n"
    );
    let mut nft = lab.inet().command("nft");
    let output = nft.arg(script).output()?;
    ensure!(output.status.success(), "nft: {output:?}");
    Ok(())
}

/// Waits for the event that says that the link's path is of that kind now.
fn await_path(connect: &Connect, path: &str, transport: &str) -> Result<Duration> {
    let (_, took) = until(Duration::from_secs(20), path, || {
        let last = connect
            .process
            .stdout()
            .lines()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
            .filter_map(|event| match event["event"].as_str() {
                Some("path") => Some(event["path"].clone()),
                Some("connected") => Some(event["receipt"].clone()),
                _ => None,
            })
            .next_back()
            .context("no path yet")?;
        Ok((last["path"] == path && last["transport"] == transport).then_some(()))
    })?;
    Ok(took)
}

#[test]
fn udp_blocked_between_the_sites_gives_way_to_tcp_and_back() -> Result<()> {
    let lab = Lab::builder().device(Kind::AddressOnly).build()?;
    let scene = Scene::set(&lab)?;
    let up = scene.device.up(&scene.registry, &["--no-port-mapping"])?;
    let connect = scene.caller.connect(&up.id, &[(LOCAL, "web")])?;
    await_path(&connect, "direct", "udp")?;
    let download = scene.download()?;
    download.await_bytes(20_000_000)?;
    download.longest_pause();
    cut(&lab, Cut::Udp)?;
    let took = await_path(&connect, "direct", "tcp")?;
    println!(
        "UDP blocked: TCP after {took:?}, pause {:?}",
        download.longest_pause()
    );
    cut(&lab, Cut::Nothing)?;
    let took = await_path(&connect, "direct", "udp")?;
    println!(
        "UDP again after {took:?}, pause {:?}",
        download.longest_pause()
    );
    let done = download.finish()?;
    println!(
        "{} bytes, {:.0} MB/s",
        done.bytes,
        done.megabytes_per_second()
    );
    Ok(())
}
