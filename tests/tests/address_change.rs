//! The router's public address and mapped ports change while a device is registered, and the
//! device list follows by itself within one keepalive interval; calls made after that are direct.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use ringback_tests::{
    download::fetch,
    lab::{
        Lab, STUN, STUN_PORT, coturn::Coturn, file_server::FileServer, kind::Kind,
        registry::Registry,
    },
    profile::{Ended, Profile, row, until},
};
use serde_json::Value;

/// The pause between two keepalives of the tested agents.
const KEEPALIVE: Duration = Duration::from_secs(3);
/// Beyond the interval: the STUN exchange that finds the change, a second one that asks all servers,
/// the connection to the registry, which a new address breaks off, and a busy machine.
const MARGIN: Duration = Duration::from_secs(2);
/// Where the device's router moves to.
const NEW_PUBLIC: Ipv4Addr = Ipv4Addr::new(202, 204, 16, 77);

/// The device's mapping to the first STUN server, as its router has it.
fn mapping(lab: &Lab, agent: &Profile<'_>) -> Result<Option<SocketAddrV4>> {
    let port = agent.status()?["udp_port"].to_string();
    let mut conntrack = lab.device().router().command("conntrack");
    let table = Ended::of(conntrack.args([
        "-L",
        "-p",
        "udp",
        "--orig-port-src",
        &port,
        "--orig-dst",
        &STUN[0].to_string(),
        "--orig-port-dst",
        &STUN_PORT.to_string(),
    ]))?;
    ensure!(table.code == 0, "{table:?}");
    // src=… dst=… sport=… dport=… of what the host sent, then the same of the answer.
    let Some(line) = table.stdout.lines().find(|line| line.contains("src=")) else {
        return Ok(None);
    };
    let last = |key: &str| {
        let mut words = line.split_whitespace().rev();
        words
            .find_map(|word| word.strip_prefix(key))
            .map(str::to_owned)
    };
    let address = last("dst=").context("no address")?.parse()?;
    let port = last("dport=").context("no port")?.parse()?;
    Ok(Some(SocketAddrV4::new(address, port)))
}

fn listed(row: &Value) -> Option<SocketAddrV4> {
    let address = row["public_address"].as_str()?.parse().ok()?;
    let port = row["mapped_port"].as_u64()?.try_into().ok()?;
    Some(SocketAddrV4::new(address, port))
}

/// Changes something, waits until the list says what the router does, and calls.
fn the_list_follows(what: &str, kind: Kind, change: impl Fn(&Lab) -> Result<()>) -> Result<()> {
    let lab = Lab::builder().device(kind).build()?;
    let _coturn = Coturn::start(&lab)?;
    let registry = Registry::start(&lab)?;
    let host = lab.device().host();
    let _web = FileServer::start(host, (Ipv4Addr::LOCALHOST, 80))?;
    let device = Profile::new(&lab, &registry, host, "nas");
    device.expose(&[("web", "http://127.0.0.1")])?;
    let up = device.up(
        &registry,
        &["--keepalive-s", &KEEPALIVE.as_secs().to_string()],
    )?;
    let before = || -> Result<_> {
        let listed = listed(&row(&lab, &registry, &up.id)?);
        Ok(listed.filter(|listed| mapping(&lab, &device).is_ok_and(|real| real == Some(*listed))))
    };
    let (before, _) = until(
        Duration::from_secs(10),
        "the list is right at first",
        before,
    )?;

    let changed = Instant::now();
    change(&lab)?;
    // Right is what the router's table says, whatever the agent believes.
    let right = || -> Result<_> {
        let row = row(&lab, &registry, &up.id)?;
        let real = mapping(&lab, &device)?;
        let is_new = real.is_some() && real != Some(before);
        Ok((is_new && row["online"] == true && listed(&row) == real).then_some(real))
    };
    let (now, _) = until(Duration::from_secs(30), what, right)?;
    let took = changed.elapsed();
    let now = now.context("known")?;
    println!(
        "{what}: {before} became {now}, in the list after {took:.2?} (keepalives every {KEEPALIVE:?})"
    );
    assert_eq!(*now.ip(), lab.device().public());
    if kind.translates_ports() {
        assert_ne!(now.port(), before.port());
    }
    ensure!(took <= KEEPALIVE + MARGIN, "{what}: it took {took:?}");

    let caller = Profile::new(&lab, &registry, lab.caller().host(), "laptop");
    let call = caller.connect(&up.id, &[(8080, "web")])?;
    let receipt = &call.event("connected", 1)?["receipt"];
    assert_eq!(receipt["path"], "direct");
    fetch(lab.caller().host(), Profile::local(8080), 1, 10_000_000)?;
    assert_eq!(
        receipt["remote"],
        now.to_string(),
        "by the mapping that the list has"
    );
    Ok(())
}

#[test]
fn another_public_address() -> Result<()> {
    the_list_follows("another public address", Kind::PortRestricted, |lab| {
        lab.change_public_address(lab.device(), NEW_PUBLIC)
    })
}

#[test]
fn another_public_address_of_an_address_only_nat() -> Result<()> {
    the_list_follows(
        "another public address, same ports",
        Kind::AddressOnly,
        |lab| lab.change_public_address(lab.device(), NEW_PUBLIC),
    )
}

#[test]
fn other_mapped_ports() -> Result<()> {
    the_list_follows("other mapped ports", Kind::PortRestricted, |lab| {
        lab.device().forget_mappings()
    })
}

/// Many routers drop what they do not know instead of letting it through to be reset: then nothing
/// tells the agent that its connection to the registry is dead.
#[test]
fn another_public_address_and_old_connections_fall_silent() -> Result<()> {
    the_list_follows(
        "another public address, silently",
        Kind::PortRestricted,
        |lab| {
            lab.device()
                .router()
                .set_sysctl("net/netfilter/nf_conntrack_tcp_loose", "0")?;
            lab.change_public_address(lab.device(), NEW_PUBLIC)
        },
    )
}

/// Two port-restricted routers let nothing through to a mapping that is new, so the link is lost;
/// the caller finds the device again by itself, without its command being started anew.
#[test]
fn a_link_goes_on_when_its_mapping_is_gone() -> Result<()> {
    let lab = Lab::builder().build()?;
    let _coturn = Coturn::start(&lab)?;
    let registry = Registry::start(&lab)?;
    let host = lab.device().host();
    let _web = FileServer::start(host, (Ipv4Addr::LOCALHOST, 80))?;
    let device = Profile::new(&lab, &registry, host, "nas");
    device.expose(&[("web", "http://127.0.0.1")])?;
    let up = device.up(&registry, &["--keepalive-s", "3"])?;
    let caller = Profile::new(&lab, &registry, lab.caller().host(), "laptop");
    let call = caller.connect(&up.id, &[(8080, "web")])?;
    fetch(lab.caller().host(), Profile::local(8080), 1, 1_000_000)?;
    lab.device().forget_mappings()?;
    let gone = Instant::now();
    fetch(lab.caller().host(), Profile::local(8080), 2, 10_000_000)?;
    println!(
        "a download after all mappings are gone: {:.1?}",
        gone.elapsed()
    );
    assert!(
        !call.process.stdout().contains("\"lost\""),
        "the link is the same"
    );
    Ok(())
}
