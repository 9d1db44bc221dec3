//! Browsers' links through NAT (PROTOCOL §19): the device's checks are the dial-back. The peer does
//! what a browser does, in the caller's place.

use std::io::Write as _;
use std::net::{Ipv4Addr, TcpListener};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use ringback_protocol::candidate::{Candidate, Kind as Address};
use ringback_tests::{
    lab::{CALLER_HOST, DEVICE_PUBLIC, Lab, coturn::Coturn, kind::Kind, registry::Registry, stun},
    profile::{PASSWORD, Profile},
    registry::new_key,
    rtc_caller::{Asking, Browser, PATIENCE, accepted, outcome},
};

/// Bytes that flow between the two, none of them through the registry.
const SIZE: usize = 20_000_000;

/// Calls from behind one kind to a device behind another, and gives how many milliseconds that
/// took after the device's answer.
fn call(caller: Kind, device: Kind) -> Result<f64> {
    let lab = Lab::builder().caller(caller).device(device).build()?;
    let _coturn = Coturn::start(&lab)?;
    let registry = Registry::start(&lab)?;
    let host = lab.device().host();
    let listener: TcpListener = host.listen((Ipv4Addr::LOCALHOST, 9000))?;
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            // The other end's fault is what the test is about.
            let _ = stream.write_all(&vec![0x5a; SIZE]);
        }
    });
    let profile = Profile::new(&lab, &registry, host, "nas");
    profile.expose(&[("source", "127.0.0.1:9000")])?;
    let up = profile.up(&registry, &[])?;

    let place = lab.caller().host();
    let socket = place.udp((Ipv4Addr::UNSPECIFIED, 0))?;
    let own = (CALLER_HOST, socket.local_addr()?.port()).into();
    let [server, _] = Coturn::servers();
    let public = stun::mapped_address(&socket, server, PATIENCE)?;
    let mut browser = Browser::new(
        socket,
        &[
            Candidate::udp(Address::Host, own),
            Candidate::udp(Address::ServerReflexive, public),
        ],
    )?;
    let key = new_key();
    let asking = Asking {
        key: &key,
        device: up.id.parse()?,
        password: Some(PASSWORD),
        service: "source",
        remember: false,
    };
    let mut offer = browser.offer()?;
    // A browser hides its own address behind a name.
    offer.candidates[0] = offer.candidates[0].replace(&CALLER_HOST.to_string(), "a-b-c.local");
    let mut call = asking.seal(offer)?;
    let envelope = lab.dir().join("envelope");
    std::fs::write(&envelope, call.envelope())?;
    let mut curl = place.command("curl");
    curl.args(["-sS", "--fail", "--max-time", "20", "--cacert"])
        .arg(registry.ca())
        .args(["-H", "content-type: application/octet-stream"])
        .arg("--data-binary")
        .arg(format!("@{}", envelope.display()))
        .arg(format!("{}/v1/devices/{}/requests", registry.url(), up.id));
    let answer = curl.output()?;
    ensure!(answer.status.success(), "{answer:?}");
    let reply = accepted(outcome(&mut call, &answer.stdout)?)?;
    browser.answered(&reply.webrtc.context("a description")?)?;
    let started = Instant::now();
    browser.until("a connection", |browser| browser.connected)?;
    let connected = started.elapsed().as_secs_f64() * 1e3;

    let before = lab.registry_traffic()?;
    let id = browser.open("source");
    let started = Instant::now();
    let all = browser.read_to_end(id)?;
    let seconds = started.elapsed().as_secs_f64();
    ensure!(all.len() == SIZE && all.iter().all(|byte| *byte == 0x5a));
    let relayed = (lab.registry_traffic()? - before).bytes();
    println!(
        "{caller:?} calls {device:?}: connected in {connected:.0} ms, {:.1} MB/s, {relayed} bytes at the registry",
        SIZE as f64 / 1e6 / seconds
    );
    ensure!(relayed < 100_000, "{relayed} bytes went over the registry");
    if device != Kind::Open {
        let from = browser.heard.keys();
        let direct = |from: &&std::net::SocketAddr| from.ip() == DEVICE_PUBLIC;
        ensure!(from.filter(direct).count() > 0, "{:?}", browser.heard);
    }
    Ok(connected)
}

#[test]
fn both_behind_port_restricted_nat() -> Result<()> {
    let connected = call(Kind::PortRestricted, Kind::PortRestricted)?;
    ensure!(Duration::from_secs_f64(connected / 1e3) < Duration::from_secs(3));
    Ok(())
}

#[test]
fn a_symmetric_caller_and_an_open_device() -> Result<()> {
    call(Kind::Symmetric, Kind::Open).map(drop)
}

#[test]
fn a_port_restricted_caller_and_a_device_behind_a_full_cone() -> Result<()> {
    call(Kind::PortRestricted, Kind::FullCone).map(drop)
}
