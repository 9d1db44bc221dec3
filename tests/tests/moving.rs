//! A download goes on while the networks under its link change: the bytes stay whole, the client
//! notices nothing but a pause, and the pause is measured.

use std::{net::Ipv4Addr, time::Duration};

use anyhow::{Result, ensure};
use ringback_tests::{
    download::Download,
    lab::{Lab, beacon::Beacon, cut::Cut, file_server::FileServer, kind::Kind, registry::Registry},
    profile::{Connect, Profile, until},
    web_scene::WebScene,
};

const LOCAL: u16 = 8080;
/// Bytes of the download, and how many of them curl takes in a second, so that it outlasts what is
/// done to it.
const SIZE: u64 = 2 << 30;
const RATE: u64 = 120 << 20;

fn download(scene: &WebScene<'_>) -> Result<Download> {
    let local = Profile::local(LOCAL);
    Download::start(scene.caller.namespace(), local, 7, SIZE, Some(RATE))
}

/// Waits for the event that says that the link's path is of that kind now.
fn await_path(connect: &Connect, path: &str, transport: &str) -> Result<Duration> {
    let (_, took) = until(Duration::from_secs(20), path, || {
        let (now, by) = connect.path()?;
        Ok((now == path && by == transport).then_some(()))
    })?;
    Ok(took)
}

/// Longest pauses that are allowed: where another path was known before, and where not. The
/// machine may be busy with other tests.
const KNOWN: Duration = Duration::from_millis(1000);
const UNKNOWN: Duration = Duration::from_millis(3000);
const BUSY: Duration = Duration::from_millis(1000);

/// Waits for the next bytes, and says how long none came.
fn pause(download: &Download, what: &str, limit: Duration) -> Result<()> {
    download.await_bytes(download.arrived() + 2_000_000)?;
    let pause = download.longest_pause();
    println!("{what}: longest pause {} ms", pause.as_millis());
    ensure!(
        pause < limit + BUSY,
        "{what}: a pause of {pause:?}, {limit:?} is the aim"
    );
    Ok(())
}

/// Waits until what was on its way has arrived and nothing follows, or the download goes on as if
/// nothing had happened.
fn await_change(download: &Download) -> Result<()> {
    let before = download.arrived();
    until(Duration::from_secs(20), "a pause, or bytes", || {
        let goes_on = download.arrived() > before + 100_000_000;
        Ok((goes_on || download.is_pausing(Duration::from_millis(100))).then_some(()))
    })?;
    Ok(())
}

fn finish(download: Download) -> Result<()> {
    let done = download.finish()?;
    println!(
        "{} bytes, whole, {:.0} MB/s",
        done.bytes,
        done.megabytes_per_second()
    );
    Ok(())
}

#[test]
fn udp_blocked_between_the_sites_gives_way_to_tcp_and_back() -> Result<()> {
    let lab = Lab::builder().device(Kind::AddressOnly).build()?;
    let scene = WebScene::set(&lab)?;
    let up = scene.device.up(&scene.registry, &["--no-port-mapping"])?;
    let connect = scene.caller.connect(&up.id, &[(LOCAL, "web")])?;
    await_path(&connect, "direct", "udp")?;
    let download = download(&scene)?;
    download.await_bytes(20_000_000)?;
    download.longest_pause();
    lab.cut(Cut::Udp)?;
    await_path(&connect, "direct", "tcp")?;
    pause(&download, "UDP blocked, TCP not known before", UNKNOWN)?;
    lab.cut(Cut::Nothing)?;
    await_path(&connect, "direct", "udp")?;
    pause(&download, "TCP → UDP", KNOWN)?;
    finish(download)
}

#[test]
fn relay_to_direct_to_relay_to_direct() -> Result<()> {
    let lab = Lab::builder().build()?;
    let mut scene = WebScene::set(&lab)?;
    let up = scene.device.up(&scene.registry, &[])?;
    lab.cut(Cut::All)?;
    let connect = scene.caller.connect(&up.id, &[(LOCAL, "web")])?;
    await_path(&connect, "relay", "websocket")?;
    let download = download(&scene)?;
    download.await_bytes(2_000_000)?;
    download.longest_pause();
    lab.cut(Cut::Nothing)?;
    await_path(&connect, "direct", "udp")?;
    pause(&download, "relay → direct", KNOWN)?;
    for round in 1..=2 {
        lab.cut(Cut::All)?;
        await_path(&connect, "relay", "websocket")?;
        pause(&download, &format!("direct → relay, {round}"), KNOWN)?;
        lab.cut(Cut::Nothing)?;
        await_path(&connect, "direct", "udp")?;
        pause(&download, &format!("relay → direct, {round}"), KNOWN)?;
    }
    // The registry is not needed for what is direct.
    scene.registry.workerd().kill9();
    scene.registry.workerd().restart()?;
    pause(&download, "restart of the registry", KNOWN)?;
    finish(download)
}

#[test]
fn a_link_on_the_relay_survives_a_restart_of_the_registry() -> Result<()> {
    let lab = Lab::builder().build()?;
    let mut scene = WebScene::set(&lab)?;
    let up = scene.device.up(&scene.registry, &[])?;
    lab.cut(Cut::All)?;
    let connect = scene.caller.connect(&up.id, &[(LOCAL, "web")])?;
    await_path(&connect, "relay", "websocket")?;
    let download = Download::start(
        scene.caller.namespace(),
        Profile::local(LOCAL),
        8,
        30_000_000,
        None,
    )?;
    download.await_bytes(2_000_000)?;
    download.longest_pause();
    scene.registry.workerd().kill9();
    scene.registry.workerd().restart()?;
    pause(
        &download,
        "restart of the registry that relays",
        UNKNOWN * 2,
    )?;
    finish(download)
}

#[test]
fn the_device_gets_another_address_and_other_ports() -> Result<()> {
    let lab = Lab::builder().build()?;
    let scene = WebScene::set(&lab)?;
    let up = scene.device.up(&scene.registry, &[])?;
    let connect = scene.caller.connect(&up.id, &[(LOCAL, "web")])?;
    await_path(&connect, "direct", "udp")?;
    let download = download(&scene)?;
    download.await_bytes(20_000_000)?;
    // The standby is there once the link is a second and a half old.
    download.await_bytes(400_000_000)?;
    download.longest_pause();
    lab.change_public_address(lab.device(), Ipv4Addr::new(202, 204, 16, 99))?;
    await_change(&download)?;
    pause(&download, "another public address of the device", UNKNOWN)?;
    await_path(&connect, "direct", "udp")?;
    pause(&download, "direct again", KNOWN)?;
    lab.device().forget_mappings()?;
    await_change(&download)?;
    pause(&download, "other ports on the device's router", UNKNOWN)?;
    await_path(&connect, "direct", "udp")?;
    lab.device().reboot_router(Duration::from_millis(500))?;
    await_change(&download)?;
    pause(&download, "restart of the device's router, 0.5 s", UNKNOWN)?;
    await_path(&connect, "direct", "udp")?;
    finish(download)
}

#[test]
fn the_caller_moves_to_another_network() -> Result<()> {
    let lab = Lab::builder()
        .visitor(
            "cafe",
            Ipv4Addr::new(81, 2, 69, 142),
            Ipv4Addr::new(192, 168, 1, 77),
            Kind::PortRestricted,
        )
        .build()?;
    let scene = WebScene::set(&lab)?;
    let up = scene.device.up(&scene.registry, &[])?;
    let connect = scene.caller.connect(&up.id, &[(LOCAL, "web")])?;
    await_path(&connect, "direct", "udp")?;
    let download = download(&scene)?;
    download.await_bytes(400_000_000)?;
    download.longest_pause();
    lab.caller()
        .change_host_address(Ipv4Addr::new(192, 168, 1, 40))?;
    await_change(&download)?;
    pause(&download, "another address on the caller's LAN", UNKNOWN)?;
    await_path(&connect, "direct", "udp")?;
    lab.move_host(
        lab.caller(),
        &lab.visitors()[0],
        Ipv4Addr::new(192, 168, 1, 78),
    )?;
    await_change(&download)?;
    pause(&download, "the caller in another network", UNKNOWN)?;
    await_path(&connect, "direct", "udp")?;
    finish(download)
}

/// Beacon and STUN server are one here: the owner's machine is all that the two ends have beside the
/// registry.
#[test]
fn an_owners_relay_is_preferred_to_the_registrys() -> Result<()> {
    let lab = Lab::builder().build()?;
    let registry = Registry::start(&lab)?;
    let mut beacon = Beacon::start(&lab, &registry, &["--relay"])?;
    let _files = FileServer::start(lab.device().host(), (Ipv4Addr::LOCALHOST, 80))?;
    let device = Profile::new(&lab, &registry, lab.device().host(), "nas");
    device.expose(&[("web", "http://127.0.0.1")])?;
    let caller = Profile::new(&lab, &registry, lab.caller().host(), "laptop");
    let up = device.up(&registry, &[])?;
    lab.cut(Cut::All)?;
    let connect = caller.connect(&up.id, &[(LOCAL, "web")])?;
    await_path(&connect, "relay", "udp")?;
    let before = lab.registry_traffic()?;
    let local = Profile::local(LOCAL);
    let download = Download::start(caller.namespace(), local, 9, 12_000_000, None)?;
    download.await_bytes(6_000_000)?;
    let crossed = (lab.registry_traffic()? - before).bytes();
    ensure!(crossed < 1_000_000, "the registry carried {crossed} bytes");
    // Without it the registry's own is what is left.
    download.longest_pause();
    beacon.process.kill9()?;
    await_path(&connect, "relay", "websocket")?;
    pause(&download, "the owner's relay is gone", UNKNOWN * 3)?;
    finish(download)
}
