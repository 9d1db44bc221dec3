//! Calls on bad networks and beside bad servers: they go through, and streams keep their bytes.

use std::{net::Ipv4Addr, time::Duration};

use anyhow::Result;
use ringback_tests::{
    download::fetch,
    lab::{
        Lab,
        coturn::Coturn,
        file_server::FileServer,
        impairment::Impairment,
        lying_stun::{Lie, LyingStun},
        registry::Registry,
    },
    profile::Profile,
};

const LOCAL: u16 = 8080;
const BYTES: u64 = 3_000_000;
/// At 30 % loss congestion control hardly leaves its smallest window.
const FEW: u64 = 100_000;

/// One call between two port-restricted NATs and a download through it; the path it began on.
fn call(lab: &Lab, bytes: u64) -> Result<String> {
    let registry = Registry::start(lab)?;
    let _files = FileServer::start(lab.device().host(), (Ipv4Addr::LOCALHOST, 80))?;
    let device = Profile::new(lab, &registry, lab.device().host(), "nas");
    device.expose(&[("web", "http://127.0.0.1")])?;
    let caller = Profile::new(lab, &registry, lab.caller().host(), "laptop");
    let up = device.up(&registry, &[])?;
    let connect = caller.connect(&up.id, &[(LOCAL, "web")])?;
    let receipt = connect.event("connected", 1)?;
    let done = fetch(caller.namespace(), Profile::local(LOCAL), 3, bytes)?;
    let path = receipt["receipt"]["path"]
        .as_str()
        .unwrap_or("none")
        .to_owned();
    println!("{path}, {:.3} MB/s", done.megabytes_per_second());
    Ok(path)
}

#[test]
fn a_direct_path_that_loses_delays_doubles_and_reorders() -> Result<()> {
    let lab = Lab::builder()
        .impairment(Impairment {
            delay: Duration::from_millis(10),
            jitter: Duration::from_millis(200),
            loss: 0.3,
            reorder: 0.2,
            duplicate: 0.1,
            scope: Lab::udp_between_sites(),
            ..Impairment::default()
        })
        .build()?;
    let _coturn = Coturn::start(&lab)?;
    call(&lab, FEW)?;
    Ok(())
}

#[test]
fn stun_servers_that_are_gone_lie_or_talk_nonsense() -> Result<()> {
    let stranger = "203.0.113.9:4000".parse()?;
    for lie in [
        None,
        Some(Lie::Address(stranger)),
        Some(Lie::Garbage),
        Some(Lie::Silence),
    ] {
        let lab = Lab::builder().build()?;
        let _stun = lie.map(|lie| LyingStun::start(&lab, lie)).transpose()?;
        let path = call(&lab, BYTES)?;
        println!("{lie:?}: {path}");
    }
    Ok(())
}
