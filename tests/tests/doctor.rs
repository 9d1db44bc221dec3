//! `ringback doctor`: what it finds out about real kernel NAT and a real STUN server, what it says
//! of it, and how it ends; for this host alone, and for a call to a device.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use ringback_tests::{
    agent::PATIENCE,
    lab::{
        DEVICE_PUBLIC, Lab, REGISTRY,
        coturn::Coturn,
        kind::Kind,
        lying_stun::{Lie, LyingStun},
        mapping_router::{MappingRouter, Settings},
        namespace::Namespace,
        reach::{Expected, Transport},
        registry::Registry,
        site::Site,
        stun,
    },
    profile::{Ended, PASSWORD, Profile, until},
};
use serde_json::{Value, json};

/// Longest time that the doctor may take, on a busy machine.
const LIMIT: Duration = Duration::from_secs(25);

fn nft(namespace: &Namespace, script: &str) -> Result<()> {
    let output = namespace.command("nft").arg(script).output()?;
    ensure!(
        output.status.success(),
        "{script}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// Before the router's own translation: another port for each destination.
fn make_symmetric(site: &Site) -> Result<()> {
    site.set_kind(Kind::PortRestricted)?;
    let public = site.public();
    nft(
        site.router(),
        &format!(
            "add table ip symmetric; \
             add chain ip symmetric out {{ type nat hook postrouting priority 90; }}; \
             add rule ip symmetric out oifname wan meta l4proto udp \
             snat to {public}:30000-60000 fully-random"
        ),
    )
}

/// The router lets out what `rule` does not match.
fn drop_at(site: &Site, rule: &str) -> Result<()> {
    nft(
        site.router(),
        &format!(
            "add table ip wall; \
             add chain ip wall forward {{ type filter hook forward priority -10; }}; \
             add rule ip wall forward oifname wan {rule} drop"
        ),
    )
}

struct Told {
    json: Value,
    ended: Ended,
}

impl Told {
    fn check(&self, name: &str) -> Result<&Value> {
        let checks = self.json["checks"].as_array().context("no checks")?;
        let check = checks.iter().find(|check| check["check"] == name);
        check.with_context(|| format!("no check {name}: {}", self.json))
    }

    fn level(&self, name: &str) -> Result<&str> {
        Ok(self.check(name)?["level"].as_str().unwrap_or_default())
    }

    /// The ways to the kinds of peers, in their order.
    fn ways(&self) -> Vec<(&str, &str)> {
        let peers = self.json["outlook"]["peers"].as_array();
        peers
            .into_iter()
            .flatten()
            .map(|prospect| {
                (
                    prospect["peer"].as_str().unwrap_or_default(),
                    prospect["way"].as_str().unwrap_or_default(),
                )
            })
            .collect()
    }

    fn advice(&self) -> Vec<&str> {
        let advice = self.json["outlook"]["advice"].as_array();
        advice
            .into_iter()
            .flatten()
            .filter_map(|advice| advice["remedy"].as_str())
            .collect()
    }
}

fn told(ended: Ended) -> Result<Told> {
    ensure!(ended.time < LIMIT, "{ended:?}");
    ensure!(!ended.stderr.contains("panicked"), "{ended:?}");
    let json: Value = serde_json::from_str(&ended.stdout).with_context(|| format!("{ended:?}"))?;
    ensure!(json["exit"] == ended.code, "{ended:?}");
    Ok(Told { json, ended })
}

/// Runs the doctor, and shows what a person would see, too.
fn doctor(profile: &Profile<'_>, more: &[&str]) -> Result<Told> {
    let arguments = [&["doctor", "--json"], more].concat();
    told(Ended::of(&mut profile.registry_command(&arguments)?)?)
}

fn text(profile: &Profile<'_>, arguments: &[&str]) -> Result<Ended> {
    let ended = Ended::of(&mut profile.registry_command(arguments)?)?;
    println!("{}\n{}\n{:.1?}\n", ended.stdout, ended.stderr, ended.time);
    for line in ended.stdout.lines() {
        ensure!(line.chars().count() <= 80, "too wide: {line}");
        ensure!(!line.contains('\x1b'), "colours without a terminal: {line}");
    }
    Ok(ended)
}

#[test]
fn nats_are_told_apart() -> Result<()> {
    let lab = Lab::builder().build()?;
    let _coturn = Coturn::start(&lab)?;
    let registry = Registry::start(&lab)?;
    let site = lab.caller();
    let person = Profile::new(&lab, &registry, site.host(), "person");
    let all = |restricted: &'static str, symmetric: &'static str, blocked: &'static str| {
        vec![
            ("public", "udp"),
            ("restricted", restricted),
            ("symmetric", symmetric),
            ("udp-blocked", blocked),
            ("ipv6-only", "relay"),
        ]
    };
    for (kind, name, mapping, filtering, ports, hairpin, ways) in [
        (
            Some(Kind::Open),
            "no NAT",
            "none",
            "endpoint-independent",
            Some("preserved"),
            Value::Null,
            all("udp", "udp", "tcp"),
        ),
        (
            Some(Kind::FullCone),
            "full cone",
            "endpoint-independent",
            "endpoint-independent",
            Some("scattered"),
            json!(false),
            all("udp", "udp", "tcp"),
        ),
        (
            Some(Kind::PortRestricted),
            "port-restricted",
            "endpoint-independent",
            "address-and-port-dependent",
            Some("scattered"),
            json!(false),
            all("udp", "udp-search", "tcp"),
        ),
        (
            Some(Kind::AddressOnly),
            "full cone",
            "endpoint-independent",
            "endpoint-independent",
            Some("preserved"),
            json!(false),
            all("udp", "udp", "tcp"),
        ),
        (
            None,
            "symmetric",
            "address-and-port-dependent",
            "address-and-port-dependent",
            Some("scattered"),
            json!(false),
            all("udp-search", "relay", "tcp"),
        ),
    ] {
        match kind {
            Some(kind) => site.set_kind(kind)?,
            None => make_symmetric(site)?,
        }
        let told = doctor(&person, &[])?;
        let udp = &told.json["found"]["udp"];
        let shown = (
            &udp["mapping"],
            &udp["filtering"],
            &udp["ports"],
            &udp["hairpin"],
        );
        println!("{name}: {shown:?}, {:.1?}", told.ended.time);
        assert_eq!(told.json["nat"], name, "{}", told.json);
        assert_eq!(udp["mapping"], mapping, "{udp}");
        assert_eq!(udp["filtering"], filtering, "{udp}");
        assert_eq!(udp["ports"], json!(ports), "{udp}");
        assert_eq!(udp["hairpin"], hairpin, "{udp}");
        assert_eq!(told.ways(), ways, "{}", told.json);
        assert_eq!(told.ended.code, 0, "{}", told.json);
        assert_eq!(told.level("registry")?, "ok");
        assert_eq!(told.level("websocket")?, "ok");
        assert_eq!(told.level("clock")?, "ok");
        assert_eq!(told.level("udp")?, "ok");
        assert_eq!(told.level("tcp")?, "ok");
        text(&person, &["doctor"])?;
    }
    Ok(())
}

/// What the router offers is told, used for the verdict, and given back.
#[test]
fn a_port_mapping_is_tried_and_given_back() -> Result<()> {
    let lab = Lab::builder().build()?;
    let _coturn = Coturn::start(&lab)?;
    let registry = Registry::start(&lab)?;
    make_symmetric(lab.device())?;
    let router = MappingRouter::start(&lab, lab.device(), Settings::default())?;
    let person = Profile::new(&lab, &registry, lab.device().host(), "person");
    let told = doctor(&person, &[])?;
    let check = told.check("port-mapping")?;
    assert_eq!(check["level"], "ok", "{}", told.json);
    let found = check["found"].as_str().unwrap_or_default();
    assert!(
        found.starts_with(&format!("PCP gives UDP {DEVICE_PUBLIC}:")),
        "{found}"
    );
    assert!(found.contains(&format!("TCP {DEVICE_PUBLIC}:")), "{found}");
    assert_eq!(told.level("double-nat")?, "ok");
    // Symmetric, and yet everybody's datagrams come in.
    assert_eq!(told.json["nat"], "symmetric");
    assert_eq!(
        told.ways()[..4],
        [
            ("public", "udp"),
            ("restricted", "udp"),
            ("symmetric", "udp"),
            ("udp-blocked", "tcp")
        ]
    );
    assert_eq!(router.forwarded()?, []);

    // The agent may not use it: then it does not count.
    std::fs::write(person.dir().join("config.toml"), "port_mapping = false\n")?;
    let told = doctor(&person, &[])?;
    assert_eq!(told.level("port-mapping")?, "note");
    assert_eq!(told.ways()[2], ("symmetric", "relay"));
    text(&person, &["doctor"])?;
    assert_eq!(router.forwarded()?, []);
    Ok(())
}

#[test]
fn a_router_behind_another_nat_is_found() -> Result<()> {
    let lab = Lab::builder().build()?;
    let _coturn = Coturn::start(&lab)?;
    let registry = Registry::start(&lab)?;
    let settings = Settings {
        behind_nat: true,
        ..Settings::default()
    };
    let _router = MappingRouter::start(&lab, lab.device(), settings)?;
    let person = Profile::new(&lab, &registry, lab.device().host(), "person");
    let told = doctor(&person, &[])?;
    assert_eq!(told.level("double-nat")?, "problem", "{}", told.json);
    assert!(told.advice().contains(&"ask-provider"), "{}", told.json);
    assert!(!told.advice().contains(&"map-port"), "{}", told.json);
    text(&person, &["doctor"])?;
    Ok(())
}

#[test]
fn without_udp_tcp_is_left_and_without_both_the_relay() -> Result<()> {
    let lab = Lab::builder().build()?;
    let _coturn = Coturn::start(&lab)?;
    let registry = Registry::start(&lab)?;
    let site = lab.caller();
    let person = Profile::new(&lab, &registry, site.host(), "person");
    drop_at(site, "meta l4proto udp")?;
    let told = doctor(&person, &[])?;
    assert_eq!(told.level("udp")?, "problem", "{}", told.json);
    assert_eq!(told.level("tcp")?, "ok", "{}", told.json);
    assert_eq!(told.json["found"]["tcp"]["mapping"], "endpoint-independent");
    assert_eq!(told.ways()[0], ("public", "tcp"));
    assert_eq!(told.advice()[0], "allow-udp");
    assert_eq!(told.ended.code, 0);
    text(&person, &["doctor"])?;

    drop_at(site, "tcp dport != 443")?;
    let told = doctor(&person, &[])?;
    assert_eq!(told.level("tcp")?, "problem", "{}", told.json);
    assert!(
        told.ways().iter().all(|(_, way)| *way == "relay"),
        "{}",
        told.json
    );
    assert_eq!(told.ended.code, 7);
    told.ended.check(7, "only through the relay")?;
    let told = doctor(&person, &["--no-relay"])?;
    assert!(
        told.ways().iter().all(|(_, way)| *way == "none"),
        "{}",
        told.json
    );
    told.ended.check(7, "no path to any peer")?;
    text(&person, &["doctor"])?;
    Ok(())
}

#[test]
fn a_stun_server_that_does_not_know_rfc_5780_is_told() -> Result<()> {
    let lab = Lab::builder().build()?;
    let registry = Registry::start(&lab)?;
    // With one address it has none to answer from otherwise.
    let mut command = lab.registry().command("turnserver");
    command.args(["-n", "--stun-only", "--no-tls", "--no-dtls", "--no-cli"]);
    command.args([
        "--log-file",
        "stdout",
        "--listening-ip",
        &REGISTRY.to_string(),
    ]);
    command.arg("--pidfile").arg(lab.dir().join("plain.pid"));
    let _plain = lab.spawn("plain-stun", command)?;
    let socket = lab.registry().udp((REGISTRY, 0))?;
    stun::mapped_address(&socket, (REGISTRY, 3478).into(), Duration::from_secs(10))?;

    let person = Profile::new(&lab, &registry, lab.caller().host(), "person");
    let arguments = ["doctor", "--json", "--registry", &registry.url()];
    let mut command = person.command(&arguments)?;
    command.arg("--registry-ca").arg(registry.ca());
    command.args(["--stun", &format!("{REGISTRY}:3478")]);
    let told = told(Ended::of(&mut command)?)?;
    let nat = told.check("nat")?;
    assert_eq!(told.json["found"]["udp"]["filtering"], "unknown");
    assert_eq!(nat["level"], "note", "{nat}");
    let found = nat["found"].as_str().unwrap_or_default();
    assert!(found.contains("only one STUN server answers"), "{found}");
    Ok(())
}

#[test]
fn it_ends_with_3_when_the_registry_is_not_reachable() -> Result<()> {
    let lab = Lab::builder().build()?;
    let _coturn = Coturn::start(&lab)?;
    let registry = Registry::start(&lab)?;
    let site = lab.caller();
    let person = Profile::new(&lab, &registry, site.host(), "person");
    // Another CA.
    let other = lab.dir().join("other");
    std::fs::create_dir_all(&other)?;
    let authority = ringback_tests::lab::certificate::Authority::create(&other)?;
    let mut command = person.command(&["doctor", "--json", "--registry", &registry.url()])?;
    command.arg("--registry-ca").arg(&authority.ca);
    let wrong = told(Ended::of(&mut command)?)?;
    let found = wrong.check("registry")?;
    assert!(
        found["found"]
            .as_str()
            .unwrap_or_default()
            .contains("not signed by a CA"),
        "{found}"
    );
    assert_eq!(wrong.ended.code, 3);
    // No STUN server was named there but the registry's.
    assert_eq!(wrong.level("udp")?, "problem");

    lab.black_hole(&["registry"])?;
    let told = doctor(&person, &[])?;
    assert_eq!(told.level("registry")?, "problem", "{}", told.json);
    // The rest is found all the same.
    assert_eq!(told.json["nat"], "port-restricted", "{}", told.json);
    assert!(told.ways().contains(&("ipv6-only", "none")));
    told.ended.check(3, "the registry is not reachable")?;
    text(&person, &["doctor"])?;

    // Nothing known at all.
    let nobody = Profile::new(&lab, &registry, site.host(), "nobody");
    let bare = Ended::of(&mut nobody.command(&["doctor", "--json"])?)?;
    let bare = self::told(bare)?;
    assert_eq!(bare.ended.code, 3);
    let found = bare.check("registry")?["found"].to_string();
    assert!(found.contains("--registry"), "{found}");
    Ok(())
}

#[test]
fn it_ends_when_there_is_no_network_at_all() -> Result<()> {
    let lab = Lab::builder().build()?;
    let registry = Registry::start(&lab)?;
    let site = lab.caller();
    let person = Profile::new(&lab, &registry, site.host(), "person");
    let down = site
        .command("ip")
        .args(["link", "set", "eth0", "down"])
        .status()?;
    ensure!(down.success());
    let start = Instant::now();
    let told = doctor(&person, &[])?;
    println!("{:.1?}", start.elapsed());
    assert_eq!(told.level("network")?, "problem", "{}", told.json);
    assert_eq!(told.level("registry")?, "problem", "{}", told.json);
    assert!(
        told.ways().iter().all(|(_, way)| !way.contains("relay")),
        "{}",
        told.json
    );
    assert_eq!(told.ended.code, 3);
    text(&person, &["doctor"])?;
    let ended = text(&person, &["doctor", "nas", "--password", PASSWORD])?;
    ended.check(3, "can not reach the registry")?;
    Ok(())
}

#[test]
fn the_agent_of_the_host_is_told() -> Result<()> {
    let lab = Lab::builder().build()?;
    let _coturn = Coturn::start(&lab)?;
    let registry = Registry::start(&lab)?;
    let device = Profile::new(&lab, &registry, lab.device().host(), "nas");
    device.expose(&[("ssh", "127.0.0.1:22")])?;
    let up = device.up(&registry, &[])?;
    let person = Profile::new(&lab, &registry, lab.caller().host(), "person");
    let _call = person.connect(&up.id, &[(8022, "ssh")])?;
    let told = doctor(&device, &[])?;
    let agent = told.check("agent")?;
    let registered = agent["found"].as_str().unwrap_or_default();
    assert!(registered.starts_with("registered as nas for "), "{agent}");
    let link = agent["details"][1].as_str().unwrap_or_default();
    assert!(link.contains("direct to 4.17.168.2:"), "{agent}");
    // It looked for itself: the agent's link and registration are as before.
    let status = device.status()?;
    assert_eq!(status["presence"]["state"], "registered", "{status}");
    assert_eq!(
        status["links"].as_array().map(Vec::len),
        Some(1),
        "{status}"
    );
    text(&device, &["doctor"])?;
    Ok(())
}

/// A call that can be direct, by a device that exposes nothing.
#[test]
fn a_direct_call_is_explained() -> Result<()> {
    let lab = Lab::builder().build()?;
    let _coturn = Coturn::start(&lab)?;
    let registry = Registry::start(&lab)?;
    let device = Profile::new(&lab, &registry, lab.device().host(), "nas");
    let up = device.up(&registry, &[])?;
    let person = Profile::new(&lab, &registry, lab.caller().host(), "person");
    let told = doctor(&person, &[&up.id, "--password", PASSWORD])?;
    assert_eq!(told.ended.code, 0, "{}", told.json);
    let diagnosis = &told.json["diagnosis"];
    assert_eq!(diagnosis["cause"], "best", "{diagnosis}");
    assert_eq!(diagnosis["path"]["path"], "direct", "{diagnosis}");
    assert_eq!(diagnosis["advice"], json!([]), "{diagnosis}");
    let tried = diagnosis["tried"].as_array().context("nothing tried")?;
    assert_eq!(tried[0]["reason"], "in-use", "{diagnosis}");
    let private = tried.iter().find(|t| {
        t["address"]
            .as_str()
            .is_some_and(|a| a.starts_with("192.168.1.3:"))
    });
    let reason = private.map(|tried| &tried["reason"]);
    assert!(
        reason == Some(&json!("same-private-range")),
        "the LANs look alike: {diagnosis}"
    );
    text(&person, &["doctor", &up.id, "--password", PASSWORD])?;

    // Errors are those of any call.
    let wrong =
        Ended::of(&mut person.registry_command(&["doctor", &up.id, "--password", "no"])?)?;
    wrong.check(5, "wrong password")?;
    let nobody = Ended::of(&mut person.registry_command(&["doctor", "nobody"])?)?;
    nobody.check(4, "nobody")?;
    Ok(())
}

/// Two symmetric NATs: nothing gets through but the relay.
#[test]
fn a_relayed_call_is_explained() -> Result<()> {
    let lab = Lab::builder().build()?;
    let _coturn = Coturn::start(&lab)?;
    let registry = Registry::start(&lab)?;
    make_symmetric(lab.caller())?;
    make_symmetric(lab.device())?;
    for site in [lab.caller(), lab.device()] {
        drop_at(site, "tcp dport != { 443, 3478, 3479 }")?;
    }
    let device = Profile::new(&lab, &registry, lab.device().host(), "nas");
    device.expose(&[("ssh", "127.0.0.1:22")])?;
    let up = device.up(&registry, &[])?;
    let person = Profile::new(&lab, &registry, lab.caller().host(), "person");
    let told = doctor(&person, &[&up.id, "--password", PASSWORD])?;
    told.ended.check(7, "relayed")?;
    let diagnosis = &told.json["diagnosis"];
    assert_eq!(diagnosis["path"]["path"], "relay", "{diagnosis}");
    assert_eq!(diagnosis["cause"], "symmetric-both", "{diagnosis}");
    let remedies: Vec<_> = diagnosis["advice"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|advice| (advice["side"].as_str(), advice["remedy"].as_str()))
        .collect();
    assert_eq!(
        remedies,
        [
            (Some("either"), Some("map-port")),
            (Some("either"), Some("forward-port"))
        ]
    );
    let tried = diagnosis["tried"].as_array().context("nothing tried")?;
    assert!(
        tried.iter().any(|t| t["reason"] == "symmetric-both"),
        "{diagnosis}"
    );
    let ended = text(&person, &["doctor", &up.id, "--password", PASSWORD])?;
    assert_eq!(ended.code, 7);

    // `connect -v` tells the same.
    let call = person.calling(&up.id, &[(8022, "ssh")], &["--password", PASSWORD, "-v"])?;
    call.event("connected", 1)?;
    until(PATIENCE, "the path is explained", || {
        let said = call.process.stderr();
        let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
        let words = ["symmetric NAT", "here or at the device: switch on UPnP"];
        Ok(words.iter().all(|words| said.contains(words)).then_some(()))
    })?;
    Ok(())
}

#[test]
fn help_says_what_it_does() -> Result<()> {
    let lab = Lab::builder().build()?;
    let registry = Registry::start(&lab)?;
    let person = Profile::new(&lab, &registry, lab.caller().host(), "person");
    let help = person.run(&["doctor", "--help"])?;
    for words in [
        "Find out what stands between this host and its peers",
        "Usage: ringback doctor [OPTIONS] [DEVICE]",
        "Call this device, and explain the path that the call takes",
        "--no-relay",
        "Ends with 0 if peers can be reached directly",
    ] {
        assert!(help.stdout.contains(words), "no '{words}': {}", help.stdout);
    }
    Ok(())
}

/// Every kind of router that the lab has: named as people know it, and the outlook is what physics
/// says of it and the peer's.
#[test]
fn every_kind_of_router_is_named() -> Result<()> {
    let lab = Lab::builder().build()?;
    let _coturn = Coturn::start(&lab)?;
    let registry = Registry::start(&lab)?;
    let site = lab.caller();
    let mut failures = Vec::new();
    for (kind, name, filtering, mapped) in [
        (Kind::Open, "no NAT", "endpoint-independent", None),
        (Kind::FullCone, "full cone", "endpoint-independent", None),
        (Kind::AddressOnly, "full cone", "endpoint-independent", None),
        (
            Kind::PortRestricted,
            "port-restricted",
            "address-and-port-dependent",
            None,
        ),
        (
            Kind::Symmetric,
            "symmetric",
            "address-and-port-dependent",
            None,
        ),
        (
            Kind::SymmetricUpnp,
            "symmetric",
            "address-and-port-dependent",
            Some("UPnP"),
        ),
        (
            Kind::PortRestrictedPcp,
            "port-restricted",
            "address-and-port-dependent",
            Some("PCP"),
        ),
        (
            Kind::CarrierNat,
            "port-restricted",
            "address-and-port-dependent",
            None,
        ),
        (Kind::UdpBlocked, "unknown", "unknown", None),
        (Kind::Only443, "unknown", "unknown", None),
        (Kind::Ipv6Only, "unknown", "unknown", None),
        (
            Kind::Nat64,
            "port-restricted",
            "address-and-port-dependent",
            None,
        ),
    ] {
        site.set_kind(kind)?;
        let person = Profile::new(&lab, &registry, site.host(), "person");
        let mut command = person.command(&["doctor", "--json", "--registry", &registry.url()])?;
        command.arg("--registry-ca").arg(registry.ca());
        for server in Coturn::servers().iter().chain(&Coturn::servers6()) {
            command.args(["--stun", &server.to_string()]);
        }
        let told = told(Ended::of(&mut command)?)?;
        println!("{kind}: {:.1?}", told.ended.time);
        let peers = [
            Kind::Open,
            Kind::PortRestricted,
            Kind::Symmetric,
            Kind::UdpBlocked,
            Kind::Ipv6Only,
        ];
        let ways: Vec<&str> = peers
            .into_iter()
            .map(|peer| match kind.reach(peer) {
                Expected::Direct(Transport::Udp) => "udp",
                Expected::Direct(Transport::Tcp) => "tcp",
                Expected::Relay(_) => "relay",
            })
            .collect();
        let found: Vec<_> = told
            .ways()
            .iter()
            // A search is UDP, too.
            .map(|(_, way)| way.trim_end_matches("-search"))
            .collect();
        let only_relay = ways.iter().all(|way| *way == "relay");
        let is = (
            told.json["nat"].as_str().unwrap_or_default(),
            told.json["found"]["udp"]["filtering"]
                .as_str()
                .unwrap_or_default(),
            told.json["found"]["port_mapping"]["udp"]["method"].as_str(),
            found,
            told.ended.code,
        );
        let should = (
            name,
            filtering,
            mapped,
            ways,
            if only_relay { 7 } else { 0 },
        );
        if is != should {
            failures.push(format!(
                "{kind}: {is:?} instead of {should:?}: {}",
                told.json
            ));
        }
    }
    ensure!(failures.is_empty(), "{}", failures.join("\n"));
    ensure!(site.port_mappings()?.is_empty(), "mappings are left");
    Ok(())
}

/// IPv6 alone: what its firewall does is told, and that IPv4 is missing.
#[test]
fn ipv6_alone_is_examined() -> Result<()> {
    let lab = Lab::builder().caller(Kind::Ipv6Only).build()?;
    let _coturn = Coturn::start(&lab)?;
    let registry = Registry::start(&lab)?;
    let person = Profile::new(&lab, &registry, lab.caller().host(), "person");
    let mut command = person.command(&["doctor", "--json", "--registry", &registry.url()])?;
    command.arg("--registry-ca").arg(registry.ca());
    for server in Coturn::servers6() {
        command.args(["--stun", &server.to_string()]);
    }
    let told = told(Ended::of(&mut command)?)?;
    let ipv6 = &told.json["found"]["udp_ipv6"];
    assert_eq!(ipv6["mapping"], "none", "{}", told.json);
    assert_eq!(ipv6["filtering"], "address-and-port-dependent", "{ipv6}");
    assert_eq!(told.level("ipv6")?, "ok", "{}", told.json);
    assert_eq!(told.level("udp")?, "note", "{}", told.json);
    assert_eq!(told.level("tcp")?, "ok", "{}", told.json);
    assert_eq!(told.advice(), ["enable-ipv4"]);
    assert_eq!(told.ended.code, 0);
    let mut command = person.command(&["doctor", "--registry", &registry.url()])?;
    command.arg("--registry-ca").arg(registry.ca());
    command.args(["--stun", &Coturn::servers6()[0].to_string()]);
    println!("{}", Ended::of(&mut command)?.stdout);
    Ok(())
}

fn ip6(namespace: &Namespace, arguments: &str) -> Result<()> {
    let mut command = namespace.command("ip");
    command.arg("-6").args(arguments.split(' '));
    let output = command.output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{arguments}: {said}");
    Ok(())
}

/// Addresses of fd00::/8 (RFC 4193), which routers hand out by themselves, lead nowhere beyond the
/// site: a host that has no others has no IPv6 for calls, unless its router translates them.
#[test]
fn local_ipv6_addresses_are_not_taken_for_public_ones() -> Result<()> {
    const LOCAL: &str = "fd12:3456:789a::11";
    const ROUTER: &str = "fd12:3456:789a::1";
    let lab = Lab::builder().caller(Kind::PortRestricted).build()?;
    let _coturn = Coturn::start(&lab)?;
    let registry = Registry::start(&lab)?;
    let site = lab.caller();
    let (host, router) = (site.host(), site.router());
    let person = Profile::new(&lab, &registry, host, "person");

    let told_by_ipv4 = doctor(&person, &[])?;
    let ipv6 = told_by_ipv4.check("ipv6")?.to_string();
    ensure!(ipv6.contains("no IPv6 address"), "{ipv6}");
    host.set_sysctl("net/ipv6/conf/eth0/disable_ipv6", "0")?;
    ip6(host, &format!("addr add {LOCAL}/64 dev eth0 nodad"))?;
    let told_by_ipv4 = doctor(&person, &[])?;
    let ipv6 = told_by_ipv4.check("ipv6")?.to_string();
    assert_eq!(told_by_ipv4.level("ipv6")?, "note", "{ipv6}");
    for words in [LOCAL, "for the local network only", "no public IPv6"] {
        ensure!(ipv6.contains(words), "'{words}' is missing: {ipv6}");
    }

    // Beside a public address it is not what is spoken of; alone, it works where it is translated.
    site.set_kind(Kind::Ipv6Only)?;
    let examine = || {
        let mut command = person.command(&["doctor", "--json", "--registry", &registry.url()])?;
        command.arg("--registry-ca").arg(registry.ca());
        for server in Coturn::servers6() {
            command.args(["--stun", &server.to_string()]);
        }
        told(Ended::of(&mut command)?)
    };
    ip6(host, &format!("addr add {LOCAL}/64 dev eth0 nodad"))?;
    let both = examine()?;
    let (ipv6, public) = (both.check("ipv6")?.to_string(), site.address6());
    assert_eq!(both.level("ipv6")?, "ok", "{ipv6}");
    ensure!(ipv6.contains(&format!("{public} works")), "{ipv6}");
    ip6(host, &format!("addr del {public}/64 dev eth0"))?;
    ip6(router, &format!("addr add {ROUTER}/64 dev lan nodad"))?;
    ip6(
        host,
        &format!("route replace default via {ROUTER} dev eth0"),
    )?;
    let untranslated = examine()?;
    let ipv6 = untranslated.check("ipv6")?.to_string();
    assert_eq!(untranslated.level("ipv6")?, "note", "{ipv6}");
    ensure!(ipv6.contains("for the local network only"), "{ipv6}");
    nft(
        router,
        &format!(
            "add table ip6 nat66; \
             add chain ip6 nat66 out {{ type nat hook postrouting priority 100; }}; \
             add rule ip6 nat66 out oifname wan ip6 saddr {LOCAL} snat to {public}"
        ),
    )?;
    let translated = examine()?;
    let ipv6 = translated.check("ipv6")?.to_string();
    assert_eq!(translated.level("ipv6")?, "ok", "{ipv6}");
    ensure!(ipv6.contains(&format!("{public} works")), "{ipv6}");
    Ok(())
}

/// STUN servers that answer nonsense, or nothing, are as good as none; what all of them agree on
/// has to be believed.
#[test]
fn stun_servers_that_are_wrong_do_no_harm() -> Result<()> {
    let lab = Lab::builder().build()?;
    let registry = Registry::start(&lab)?;
    let person = Profile::new(&lab, &registry, lab.caller().host(), "person");
    for lie in [Lie::Garbage, Lie::Silence] {
        let _liar = LyingStun::start(&lab, lie)?;
        let told = doctor(&person, &[])?;
        assert_eq!(told.level("udp")?, "problem", "{lie:?}: {}", told.json);
        assert_eq!(told.level("registry")?, "ok", "{lie:?}: {}", told.json);
        assert_eq!(told.json["found"]["udp"]["seen"], json!([]), "{lie:?}");
    }
    let _liar = LyingStun::start(&lab, Lie::Address("6.6.6.6:666".parse()?))?;
    let told = doctor(&person, &[])?;
    assert_eq!(
        told.json["found"]["udp"]["filtering"], "unknown",
        "{}",
        told.json
    );
    let nat = told.check("nat")?["found"].to_string();
    assert!(nat.contains("does not offer RFC 5780"), "{nat}");
    Ok(())
}
