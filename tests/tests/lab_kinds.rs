//! Each kind of router behaves as named (in the terms of RFC 4787), measured with plain sockets,
//! and what [`Kind::reach`] says of a pair of kinds can be done, or can not.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use ringback_tests::lab::{
    DEVICE_PUBLIC, Lab, REGISTRY, REGISTRY6,
    coturn::Coturn,
    kind::{Kind, MAPPED_PORTS},
    probe::{self, SILENCE, any, arrives, public, seen_by, servers},
    reach::{Expected, Transport},
    site::Site,
    stun,
};

const SECOND: Duration = Duration::from_secs(1);

/// An address of the registry that the site can reach.
fn registry(site: &Site) -> IpAddr {
    if site.kind().is_ipv6() {
        REGISTRY6.into()
    } else {
        REGISTRY.into()
    }
}

/// Measures mapping and filtering of UDP.
fn behaves_as_named(lab: &Lab, site: &Site) -> Result<()> {
    let kind = site.kind();
    let [first, second] = servers(site);
    let [server, other] = [lab.stun().udp((first, 0))?, lab.stun().udp((first, 0))?];
    let elsewhere = lab.stun().udp((second, 0))?;
    let inside = site.host().udp((any(site), 40001))?;

    // Unsolicited, before anything was sent: only what has no mappings and no firewall lets it in.
    assert_eq!(
        arrives(&server, (public(site), 40001), &inside)?,
        matches!(kind, Kind::Open | Kind::AddressOnly),
        "{kind}: unsolicited"
    );
    if !kind.passes_udp() {
        for server in [&server, &elsewhere] {
            assert!(!arrives(&inside, server.local_addr()?, server)?, "{kind}");
        }
        return Ok(());
    }

    // Mapping: the same for every destination, or another.
    let mapped = seen_by(&inside, &server)?;
    assert_eq!(mapped.ip(), public(site), "{kind}");
    assert_eq!(
        MAPPED_PORTS.contains(&mapped.port()),
        kind.translates_ports(),
        "{kind}: {mapped}"
    );
    if !kind.translates_ports() {
        assert_eq!(mapped.port(), 40001, "{kind}");
    }
    assert_eq!(seen_by(&inside, &server)?, mapped, "{kind}: it is gone");
    let mapped_elsewhere = seen_by(&inside, &elsewhere)?;
    // One of ten thousand ports: equal by chance once in as many runs, or twice here.
    let mapped_other = seen_by(&inside, &other)?;
    for mapped_for in [mapped_elsewhere, mapped_other] {
        assert_eq!(
            mapped_for != mapped,
            kind.is_symmetric(),
            "{kind}: {mapped_for}, {mapped}"
        );
    }

    // Filtering: who was sent to can answer; a stranger's port or address only if the kind says so.
    assert!(arrives(&server, mapped, &inside)?, "{kind}: answer");
    assert!(
        arrives(&elsewhere, mapped_elsewhere, &inside)?,
        "{kind}: answer of the second"
    );
    let new_port = lab.stun().udp((first, 0))?;
    let stranger = lab.registry().udp((registry(site), 0))?;
    for (from, name) in [(&new_port, "other port"), (&stranger, "stranger")] {
        assert_eq!(
            arrives(from, mapped, &inside)?,
            kind.lets_strangers_in(),
            "{kind}: {name}"
        );
    }
    if kind.is_symmetric() {
        assert!(
            !arrives(&other, mapped, &inside)?,
            "{kind}: by another's mapping"
        );
    }

    // What was turned away has not spoilt the mapping: one now reaches the stranger.
    let mapped_stranger = seen_by(&inside, &stranger)?;
    assert_eq!(
        mapped_stranger != mapped,
        kind.is_symmetric(),
        "{kind}: spoilt"
    );
    assert!(
        arrives(&stranger, mapped_stranger, &inside)?,
        "{kind}: no stranger any more"
    );

    // Another socket of the host has a mapping of its own.
    let second = site.host().udp((any(site), 40002))?;
    assert_ne!(seen_by(&second, &server)?, mapped, "{kind}");
    assert!(
        arrives(&server, mapped, &inside)?,
        "{kind}: the first mapping still stands"
    );
    Ok(())
}

#[test]
fn each_kind_behaves_as_named_on_both_sides() -> Result<()> {
    let lab = Lab::builder().build()?;
    for kind in Kind::ALL {
        for site in [lab.caller(), lab.device()] {
            site.set_kind(kind)?;
            behaves_as_named(&lab, site).with_context(|| kind.to_string())?;
        }
    }
    Ok(())
}

#[test]
fn ports_of_a_symmetric_nat_follow_no_order() -> Result<()> {
    let lab = Lab::builder().device(Kind::Symmetric).build()?;
    let socket = lab.device().host().udp((any(lab.device()), 0))?;
    let mut ports = Vec::new();
    for _ in 0..32 {
        let observer = lab.stun().udp((servers(lab.device())[0], 0))?;
        ports.push(i32::from(seen_by(&socket, &observer)?.port()));
    }
    let steps: Vec<i32> = ports.windows(2).map(|pair| pair[1] - pair[0]).collect();
    // Any guess of the next port from the last is far off, most of the time.
    let near = steps.iter().filter(|step| step.abs() <= 50).count();
    assert!(near <= 4, "{ports:?}");
    let up = steps.iter().filter(|step| **step > 0).count();
    assert!((4..=27).contains(&up), "{ports:?}");
    Ok(())
}

#[test]
fn a_carrier_nat_is_two_nats_in_a_row() -> Result<()> {
    let lab = Lab::builder().device(Kind::CarrierNat).build()?;
    let site = lab.device();
    let observer = lab.stun().udp((servers(site)[0], 0))?;
    let socket = site.host().udp((any(site), 40001))?;
    let mapped = seen_by(&socket, &observer)?;
    let table = |namespace: &ringback_tests::lab::namespace::Namespace| -> Result<String> {
        let output = namespace
            .command("conntrack")
            .args(["-L", "-p", "udp"])
            .output()?;
        Ok(String::from_utf8(output.stdout)?)
    };
    let (home, carrier) = (
        table(site.router())?,
        table(site.carrier().context("there is one")?)?,
    );
    assert!(
        home.contains("src=192.168.1.3 ") && home.contains(" dst=100.64."),
        "{home}"
    );
    assert!(carrier.contains("src=100.64."), "{carrier}");
    assert!(
        carrier.contains(&format!("dst={DEVICE_PUBLIC} ")),
        "{carrier}"
    );
    assert!(
        carrier.contains(&format!("dport={}", mapped.port())),
        "{carrier}"
    );
    assert!(
        !home.contains(&format!("dport={}", mapped.port())),
        "one port twice: {home}"
    );
    // Both forget: the mapping is another then, and stays another kind's no more.
    site.forget_mappings()?;
    assert_ne!(seen_by(&socket, &observer)?, mapped);
    site.set_kind(Kind::PortRestricted)?;
    let alone = seen_by(&socket, &observer)?;
    assert!(table(site.router())?.contains(&format!("dport={}", alone.port())));
    Ok(())
}

/// Punches by what an observer tells each about the other.
fn punches(lab: &Lab) -> Result<bool> {
    let [caller, device] = [lab.caller(), lab.device()];
    let observer = lab.stun().udp((servers(caller)[0], 0))?;
    let a = caller.host().udp((any(caller), 0))?;
    let b = device.host().udp((any(device), 0))?;
    let (a_mapped, b_mapped) = (seen_by(&a, &observer)?, seen_by(&b, &observer)?);
    // The device's first datagram may be turned away; that must not spoil anything.
    b.send_to(b"first", a_mapped)?;
    let there = arrives(&a, b_mapped, &b)?;
    let back = arrives(&b, a_mapped, &a)?;
    Ok(there && back && arrives(&a, b_mapped, &b)?)
}

#[test]
fn every_pair_whose_ports_can_be_told_can_punch() -> Result<()> {
    let lab = Lab::builder().build()?;
    for caller in Kind::ALL {
        lab.caller().set_kind(caller)?;
        for device in Kind::ALL {
            if caller.is_symmetric() || device.is_symmetric() {
                continue;
            }
            if caller.reach(device) != Expected::Direct(Transport::Udp) {
                continue;
            }
            lab.device().set_kind(device)?;
            assert!(punches(&lab)?, "{caller}, {device}");
        }
    }
    Ok(())
}

/// Many sockets on the symmetric side, many ports tried from the other: how many were tried.
fn searches(lab: &Lab) -> Result<Option<u32>> {
    let [caller, device] = [lab.caller(), lab.device()];
    let observer = lab.stun().udp((servers(caller)[0], 0))?;
    let a = caller.host().udp((any(caller), 0))?;
    let a_mapped = seen_by(&a, &observer)?;
    let sockets = std::iter::repeat_with(|| device.host().udp((any(device), 0)));
    let sockets = sockets.take(256).collect::<Result<Vec<UdpSocket>>>()?;
    for socket in &sockets {
        socket.send_to(b"opening", a_mapped)?;
    }
    a.set_nonblocking(true)?;
    for tried in 1..=4000 {
        let port = fastrand::u16(MAPPED_PORTS);
        a.send_to(b"is it you", (DEVICE_PUBLIC, port))?;
        // All namespaces are on this machine: what gets through is there when this returns.
        if tried % 50 == 0 {
            for socket in &sockets {
                socket.set_nonblocking(true)?;
                if let Ok((_, from)) = socket.recv_from(&mut [0; 64]) {
                    socket.set_nonblocking(false)?;
                    a.set_nonblocking(false)?;
                    assert!(arrives(socket, from, &a)?, "and back");
                    return Ok(Some(tried));
                }
            }
        }
    }
    Ok(None)
}

#[test]
fn a_symmetric_nat_is_found_by_search_and_not_otherwise() -> Result<()> {
    let lab = Lab::builder().device(Kind::Symmetric).build()?;
    for caller in [Kind::PortRestricted, Kind::CarrierNat] {
        lab.caller().set_kind(caller)?;
        assert!(!punches(&lab)?, "{caller}");
        let tried = searches(&lab)?.with_context(|| format!("{caller}: not found"))?;
        // Once in 10^11 runs it takes more.
        assert!(tried <= 1000, "{caller}: {tried}");
    }
    lab.caller().set_kind(Kind::Symmetric)?;
    assert!(!punches(&lab)?);
    Ok(())
}

#[test]
fn two_families_do_not_meet() -> Result<()> {
    let lab = Lab::builder()
        .caller(Kind::Ipv6Only)
        .device(Kind::Open)
        .build()?;
    let b = lab.device().host().udp((any(lab.device()), 7000))?;
    let a = lab.caller().host().udp((any(lab.caller()), 0))?;
    for to in [
        IpAddr::V4(DEVICE_PUBLIC),
        IpAddr::V6(DEVICE_PUBLIC.to_ipv6_mapped()),
    ] {
        assert!(a.send_to(b"x", (to, 7000)).is_err(), "{to}");
    }
    assert!(b.send_to(b"x", (lab.caller().address6(), 7000)).is_err());
    let ip = lab
        .caller()
        .command("ip")
        .args(["-4", "address", "show", "eth0"])
        .output()?;
    assert!(ip.stdout.is_empty(), "no IPv4 at all: {ip:?}");
    Ok(())
}

#[test]
fn tcp_passes_as_the_kind_says() -> Result<()> {
    let lab = Lab::builder().build()?;
    let site = lab.device();
    for kind in Kind::ALL {
        site.set_kind(kind)?;
        let outside = lab.registry().listen((registry(site), 443))?;
        let elsewhere = lab.stun().listen((servers(site)[0], 443))?;
        let local = SocketAddr::new(any(site), 8000);
        let connect =
            |to: SocketAddr, timeout| probe::connect(probe::tcp(site.host(), local)?, to, timeout);
        // Outward, from one port to two places.
        let first = connect(outside.local_addr()?, 5 * SECOND)?;
        let from = outside.accept()?.1;
        let second = connect(elsewhere.local_addr()?, 5 * SECOND)?;
        let from_there = elsewhere.accept()?.1;
        assert_eq!(from.ip(), public(site), "{kind}");
        assert_eq!(
            from != from_there,
            kind.is_symmetric(),
            "{kind}: {from}, {from_there}"
        );
        assert_eq!(
            MAPPED_PORTS.contains(&from.port()),
            kind.translates_ports(),
            "{kind}"
        );
        // To another port than 443.
        let high = lab.registry().listen((registry(site), 8443))?;
        let reached = connect(high.local_addr()?, SILENCE);
        assert_eq!(
            reached.is_ok(),
            kind != Kind::Only443,
            "{kind}: {reached:?}"
        );
        // Inward, to the port that is mapped and to the port as it is.
        let inside = probe::tcp(site.host(), local)?;
        inside.listen(8)?;
        for port in [from.port(), 8000] {
            let reached = lab
                .registry()
                .enter(|| TcpStream::connect_timeout(&(public(site), port).into(), SILENCE))?;
            let open = matches!(kind, Kind::Open | Kind::AddressOnly);
            assert_eq!(reached.is_ok(), open, "{kind}: {port}: {reached:?}");
        }
        drop((first, second));
    }
    Ok(())
}

/// A TCP port on a site's main host and how STUN over TCP sees it. The connection to the server
/// stays, and with it the mapping.
fn told_tcp_port(site: &Site) -> Result<(socket2::Socket, SocketAddr, TcpStream)> {
    let probe = probe::tcp(site.host(), SocketAddr::new(any(site), 0))?;
    let local = probe.local_addr()?.as_socket().context("an address")?;
    let server = Coturn::servers_for(site.host())?[0];
    let stream = probe::connect(probe, server, 5 * SECOND)?;
    let seen = stun::mapped_address_by_tcp(&stream, 5 * SECOND)?;
    let socket = probe::tcp(site.host(), local)?;
    Ok((socket, seen, stream))
}

fn opens_tcp_simultaneously(lab: &Lab, timeout: Duration) -> Result<()> {
    let (a, a_seen, _a_server) = told_tcp_port(lab.caller())?;
    let (b, b_seen, _b_server) = told_tcp_port(lab.device())?;
    let [a, b] = probe::open_simultaneously((a, a_seen), (b, b_seen), timeout)?;
    ensure!(a.peer_addr()? == b_seen && b.peer_addr()? == a_seen);
    for (mut from, mut to) in [(&a, &b), (&b, &a)] {
        from.write_all(b"direct")?;
        let mut buffer = [0; 6];
        to.set_read_timeout(Some(5 * SECOND))?;
        to.read_exact(&mut buffer)?;
        ensure!(&buffer == b"direct");
    }
    Ok(())
}

/// The cells that are direct by TCP, and what stands for the rest of them.
#[test]
fn tcp_is_opened_from_both_sides_where_both_ports_can_be_told() -> Result<()> {
    let lab = Lab::builder().build()?;
    let _coturn = Coturn::start(&lab)?;
    for (caller, device) in [
        (Kind::UdpBlocked, Kind::UdpBlocked),
        (Kind::UdpBlocked, Kind::PortRestricted),
        (Kind::FullCone, Kind::UdpBlocked),
        (Kind::CarrierNat, Kind::UdpBlocked),
        (Kind::CarrierNat, Kind::CarrierNat),
        (Kind::Ipv6Only, Kind::Ipv6Only),
    ] {
        lab.caller().set_kind(caller)?;
        lab.device().set_kind(device)?;
        let start = Instant::now();
        opens_tcp_simultaneously(&lab, 10 * SECOND)
            .with_context(|| format!("{caller}, {device}"))?;
        println!("{caller}, {device}: open after {:.0?}", start.elapsed());
    }
    // A port that is another for each destination can not be told.
    lab.caller().set_kind(Kind::UdpBlocked)?;
    lab.device().set_kind(Kind::Symmetric)?;
    assert!(opens_tcp_simultaneously(&lab, 2 * SECOND).is_err());
    Ok(())
}

#[test]
fn a_changed_public_address_ends_old_mappings_and_starts_new_ones() -> Result<()> {
    let lab = Lab::builder().build()?;
    let new = Ipv4Addr::new(202, 204, 99, 44);
    let site = lab.device();
    for kind in Kind::ALL.into_iter().filter(|kind| kind.passes_udp()) {
        site.set_kind(kind)?;
        let server = lab.stun().udp((servers(site)[0], 0))?;
        let socket = site.host().udp((any(site), 40001))?;
        let before = seen_by(&socket, &server)?;
        lab.change_public_address(site, new)?;
        assert!(
            !arrives(&server, before, &socket)?,
            "{kind}: the old mapping still works"
        );
        let after = seen_by(&socket, &server)?;
        assert_eq!(after.ip(), public(site), "{kind}");
        assert_ne!(after.ip(), before.ip(), "{kind}");
        assert!(arrives(&server, after, &socket)?, "{kind}");
        site.forget_mappings()?;
        let remapped = seen_by(&socket, &server)?;
        assert_eq!(remapped.ip(), public(site), "{kind}");
        // One of ten thousand ports: equal by chance once in as many runs.
        assert_eq!(
            remapped != after,
            kind.translates_ports(),
            "{kind}: {after}, {remapped}"
        );
        lab.change_public_address(site, DEVICE_PUBLIC)?;
    }
    Ok(())
}

#[test]
fn a_mapping_that_is_not_used_expires() -> Result<()> {
    let lab = Lab::builder().build()?;
    let site = lab.device();
    site.set_mapping_lifetime(1, 1)?;
    let server = lab.stun().udp((servers(site)[0], 0))?;
    let socket = site.host().udp((any(site), 0))?;
    let mapped = seen_by(&socket, &server)?;
    assert!(arrives(&server, mapped, &socket)?);
    // The kernel collects expired entries when it looks at them; each try here is such a look, and
    // none that is turned away renews the mapping.
    let deadline = Instant::now() + 10 * SECOND;
    let mut expired = false;
    while !expired && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(1100));
        expired = !arrives(&server, mapped, &socket)?;
    }
    assert!(expired);
    Ok(())
}
