//! What a relay forwards has a rate for each call. What a sender has on its line beyond that would be
//! dropped by the relay, and cost the line and the relay's owner all the same.

use std::net::Ipv4Addr;

use anyhow::{Result, ensure};
use ringback_tests::{
    download::Download,
    lab::{
        Lab, beacon::Beacon, coturn::Coturn, cut::Cut, file_server::FileServer, registry::Registry,
    },
    profile::Profile,
};

const BYTES: u64 = 24_000_000;
/// What may cross the device's line, of all kinds and in both directions, for a byte of the files.
const MOST: f64 = 1.1;

/// Each of these callers fetches a file at the same time, and the share that crossed the device's line.
fn share(lab: &Lab, registry: &Registry, transport: &str, callers: &[&str]) -> Result<f64> {
    let _files = FileServer::start(lab.device().host(), (Ipv4Addr::LOCALHOST, 80))?;
    let device = Profile::new(lab, registry, lab.device().host(), "nas");
    device.expose(&[("web", "http://127.0.0.1")])?;
    let up = device.up(registry, &[])?;
    lab.cut(Cut::All)?;
    let mut links = Vec::new();
    for (name, port) in callers.iter().zip(8080..) {
        let caller = Profile::new(lab, registry, lab.caller().host(), name);
        let connect = caller.connect(&up.id, &[(port, "web")])?;
        let receipt = connect.event("connected", 1)?["receipt"].clone();
        let told = (receipt["path"].as_str(), receipt["transport"].as_str());
        ensure!(told == (Some("relay"), Some(transport)), "{receipt}");
        links.push((connect, port));
    }
    let leg = lab.device().leg();
    let before = lab.inet().counter(leg)?;
    let downloads = links.iter().map(|(_, port)| {
        let host = lab.caller().host();
        Download::start(host, Profile::local(*port), 7, BYTES, None)
    });
    let downloads: Vec<Download> = downloads.collect::<Result<_>>()?;
    let mut slowest = f64::INFINITY;
    for download in downloads {
        let done = download.finish()?;
        slowest = slowest.min(done.megabytes_per_second());
    }
    let crossed = (lab.inet().counter(leg)? - before).bytes() as f64;
    let share = crossed / (BYTES * links.len() as u64) as f64;
    println!(
        "{transport}, {} at a time: {share:.3} of the payload, the slowest {slowest:.2} MB/s",
        links.len()
    );
    ensure!(
        share < MOST,
        "{share:.3} times the payload crossed the device's line"
    );
    Ok(share)
}

#[test]
fn the_registrys_relay_is_sent_no_more_than_it_forwards() -> Result<()> {
    for callers in [&["laptop"][..], &["laptop", "desk"]] {
        let lab = Lab::builder().build()?;
        let _coturn = Coturn::start(&lab)?;
        let registry = Registry::start(&lab)?;
        share(&lab, &registry, "websocket", callers)?;
    }
    Ok(())
}

#[test]
fn an_owners_relay_is_sent_no_more_than_it_forwards() -> Result<()> {
    for callers in [&["laptop"][..], &["laptop", "desk"]] {
        let lab = Lab::builder().build()?;
        let registry = Registry::start(&lab)?;
        let _beacon = Beacon::start(&lab, &registry, &["--relay"])?;
        share(&lab, &registry, "udp", callers)?;
    }
    Ok(())
}
