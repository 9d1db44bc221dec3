//! What happens to a router and its LAN while the lab runs: UDP blocked, restarts, hosts that move,
//! two hosts behind one router.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use ringback_tests::lab::{
    CALLER_HOST, DEVICE_HOST, Lab, REGISTRY, SEGMENT_HOST, STUN, Topology,
    kind::Kind,
    probe::{any, arrives, public, seen_by, servers},
    site::Site,
};

const SECOND: Duration = Duration::from_secs(1);

/// A socket on a site's main host, one of a server, and how that sees the first.
fn mapped(lab: &Lab, site: &Site) -> Result<(UdpSocket, UdpSocket, SocketAddr)> {
    let server = lab.stun().udp((servers(site)[0], 0))?;
    let inside = site.host().udp((any(site), 0))?;
    let seen = seen_by(&inside, &server)?;
    assert!(arrives(&server, seen, &inside)?);
    Ok((inside, server, seen))
}

#[test]
fn udp_can_be_blocked_while_everything_else_stays() -> Result<()> {
    let lab = Lab::builder().build()?;
    let site = lab.device();
    for kind in Kind::ALL.into_iter().filter(|kind| kind.passes_udp()) {
        site.set_kind(kind)?;
        let (inside, server, seen) = mapped(&lab, site)?;
        let listener = lab.stun().listen((servers(site)[0], 443))?;
        let mut stream = site.host().connect(listener.local_addr()?)?;
        let mut far = listener.accept()?.0;
        for _ in 0..2 {
            site.block_udp(true)?;
            assert!(!arrives(&server, seen, &inside)?, "{kind}: in");
            assert!(
                !arrives(&inside, server.local_addr()?, &server)?,
                "{kind}: out"
            );
            stream.write_all(b"tcp")?;
            far.read_exact(&mut [0; 3])?;
            site.block_udp(false)?;
            assert!(arrives(&server, seen, &inside)?, "{kind}: in again");
            assert_eq!(
                seen_by(&inside, &server)?,
                seen,
                "{kind}: by the same mapping"
            );
        }
    }
    Ok(())
}

#[test]
fn a_router_restarts_with_nothing_of_what_it_knew() -> Result<()> {
    let lab = Lab::builder().build()?;
    let site = lab.device();
    let nas = site.add_host("nas", Ipv4Addr::new(192, 168, 1, 5))?;
    let on_nas = nas.udp((Ipv4Addr::new(192, 168, 1, 5), 5000))?;
    for kind in Kind::ALL.into_iter().filter(|kind| kind.passes_udp()) {
        site.set_kind(kind)?;
        let (inside, server, seen) = mapped(&lab, site)?;
        site.power_off()?;
        assert!(!arrives(&server, seen, &inside)?, "{kind}: in");
        assert!(
            !arrives(&inside, server.local_addr()?, &server)?,
            "{kind}: out"
        );
        if !kind.is_ipv6() {
            assert!(
                arrives(&inside, on_nas.local_addr()?, &on_nas)?,
                "{kind}: on the LAN"
            );
        }
        site.power_on()?;
        let is_without_state = matches!(kind, Kind::Open | Kind::AddressOnly);
        assert_eq!(arrives(&server, seen, &inside)?, is_without_state, "{kind}");
        let now = seen_by(&inside, &server)?;
        assert_eq!(
            now != seen,
            kind.translates_ports(),
            "{kind}: {seen}, {now}"
        );
        assert!(arrives(&server, now, &inside)?, "{kind}: it works again");
    }
    let start = Instant::now();
    site.reboot_router(SECOND)?;
    assert!(start.elapsed() >= SECOND);
    Ok(())
}

#[test]
fn a_host_gets_another_address_on_its_lan() -> Result<()> {
    let lab = Lab::builder().build()?;
    let site = lab.device();
    let new = Ipv4Addr::new(192, 168, 1, 77);
    for kind in [Kind::PortRestricted, Kind::AddressOnly, Kind::Symmetric] {
        site.set_kind(kind)?;
        let (old, server, seen) = mapped(&lab, site)?;
        site.change_host_address(new)?;
        assert_eq!(site.address(), new);
        assert!(!arrives(&server, seen, &old)?, "{kind}: mapped to nobody");
        // A socket that is bound to no address goes on from the new one.
        let now = seen_by(&old, &server)?;
        assert_eq!(now.ip(), public(site), "{kind}");
        assert!(arrives(&server, now, &old)?, "{kind}");
        assert!(
            site.host().udp((DEVICE_HOST, 0)).is_err(),
            "the old address is gone"
        );
        site.change_host_address(DEVICE_HOST)?;
    }
    site.set_kind(Kind::Open)?;
    assert!(site.change_host_address(new).is_err());
    Ok(())
}

#[test]
fn a_host_moves_to_another_lan_and_back() -> Result<()> {
    let office = Ipv4Addr::new(77, 20, 30, 40);
    let lab = Lab::builder()
        .visitor(
            "office",
            office,
            Ipv4Addr::new(192, 168, 1, 20),
            Kind::Symmetric,
        )
        .build()?;
    let (caller, office) = (lab.caller(), &lab.visitors()[0]);
    for (home, away) in [
        (Kind::PortRestricted, Kind::Symmetric),
        (Kind::Open, Kind::PortRestricted),
        (Kind::CarrierNat, Kind::UdpBlocked),
        (Kind::Ipv6Only, Kind::PortRestricted),
        (Kind::PortRestricted, Kind::Ipv6Only),
        (Kind::AddressOnly, Kind::CarrierNat),
    ] {
        caller.set_kind(home)?;
        office.set_kind(away)?;
        let (_, _, before) = mapped(&lab, caller)?;
        assert_eq!(before.ip(), public(caller));
        let moved = Ipv4Addr::new(192, 168, 1, 33);
        lab.move_host(caller, office, moved)?;
        assert_eq!(caller.address(), moved);
        // What the site is asked for is about the host, wherever it is; the ways are the office's.
        if away.passes_udp() {
            let server = lab.stun().udp((servers(office)[0], 0))?;
            let inside = caller.host().udp((any(office), 0))?;
            let seen = seen_by(&inside, &server)?;
            if away.is_ipv6() {
                assert_ne!(seen.ip(), before.ip(), "{home}, {away}");
            } else {
                assert_eq!(seen.ip(), public(office), "{home}, {away}");
            }
            assert!(arrives(&server, seen, &inside)?, "{home}, {away}");
        } else {
            let listener = lab.registry().listen((REGISTRY, 443))?;
            let _stream = caller.host().connect(listener.local_addr()?)?;
            assert_eq!(listener.accept()?.1.ip(), public(office));
        }
        lab.move_host(caller, caller, CALLER_HOST)?;
        let (_, _, after) = mapped(&lab, caller)?;
        assert_eq!(after.ip(), before.ip(), "{home}, {away}: back");
    }
    Ok(())
}

#[test]
fn two_hosts_behind_one_router_reach_each_other_on_the_lan() -> Result<()> {
    let lab = Lab::builder().build()?;
    for kind in [
        Kind::PortRestricted,
        Kind::UdpBlocked,
        Kind::Symmetric,
        Kind::CarrierNat,
    ] {
        lab.set_topology(Topology::Apart)?;
        lab.device().set_kind(kind)?;
        lab.set_topology(Topology::SameRouter)?;
        let a = lab.caller().host().udp((CALLER_HOST, 0))?;
        let b = lab.device().host().udp((DEVICE_HOST, 0))?;
        assert!(arrives(&a, b.local_addr()?, &b)?, "{kind}");
        assert!(arrives(&b, a.local_addr()?, &a)?, "{kind}");
        if !kind.passes_udp() {
            continue;
        }
        // Both are seen at one address, and no mapping leads from one to the other.
        let observer = lab.stun().udp((STUN[0], 0))?;
        let (a_seen, b_seen) = (seen_by(&a, &observer)?, seen_by(&b, &observer)?);
        assert_eq!(a_seen.ip(), public(lab.device()), "{kind}");
        assert_eq!(b_seen.ip(), a_seen.ip(), "{kind}");
        assert!(!arrives(&a, b_seen, &b)?, "{kind}: no hairpin");
        // On the LAN they meet even when the internet is gone.
        lab.set_link("device", false)?;
        assert!(
            arrives(&a, b.local_addr()?, &b)?,
            "{kind}: without internet"
        );
        lab.set_link("device", true)?;
        assert_eq!(seen_by(&a, &observer)?.ip(), a_seen.ip());
    }
    Ok(())
}

#[test]
fn a_router_loops_what_is_sent_to_its_own_mappings() -> Result<()> {
    let lab = Lab::builder().build()?;
    lab.set_topology(Topology::Hairpin)?;
    let observer = lab.stun().udp((STUN[0], 0))?;
    for both_at_once in [false, true] {
        let a = lab.caller().host().udp((SEGMENT_HOST, 0))?;
        let b = lab.device().host().udp((DEVICE_HOST, 0))?;
        for (from, to) in [(&a, &b), (&b, &a)] {
            assert!(
                !arrives(from, to.local_addr()?, to)?,
                "the segments are apart"
            );
        }
        let (a_seen, b_seen) = (seen_by(&a, &observer)?, seen_by(&b, &observer)?);
        assert_eq!(a_seen.ip(), public(lab.device()));
        if both_at_once {
            b.send_to(b"at once", a_seen)?;
        }
        for _ in 0..3 {
            for (from, to, from_seen, to_seen) in
                [(&a, &b, a_seen, b_seen), (&b, &a, b_seen, a_seen)]
            {
                assert!(arrives(from, to_seen, to)?, "{from_seen} to {to_seen}");
                // It comes from the sender's mapping, as it would from outside.
                from.send_to(b"who", to_seen)?;
                let mut buffer = [0; 64];
                loop {
                    let (length, seen) = to.recv_from(&mut buffer)?;
                    if &buffer[..length] == b"who" {
                        assert_eq!(seen, from_seen);
                        break;
                    }
                }
            }
        }
        // Strangers are still turned away, and what is not mapped leads nowhere.
        let stranger = lab.registry().udp((REGISTRY, 0))?;
        assert!(!arrives(&stranger, b_seen, &b)?);
        assert!(!arrives(&a, (public(lab.device()), 9), &b)?);
    }
    lab.set_topology(Topology::Apart)?;
    let (_, _, seen) = mapped(&lab, lab.caller())?;
    assert_eq!(seen.ip(), public(lab.caller()));
    lab.device().set_kind(Kind::Open)?;
    let refused = lab.set_topology(Topology::SameRouter);
    refused
        .err()
        .context("an open site has one address for one host")?;
    Ok(())
}
