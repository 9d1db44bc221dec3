//! The STUN servers of the lab: the real one on all its addresses, and the one that lies.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Context as _, Result};
use ringback_tests::lab::{
    CALLER_PUBLIC, Lab, STUN6,
    coturn::Coturn,
    kind::Kind,
    lying_stun::{Lie, LyingStun},
    probe::{any, public},
    stun::{self, Answer, Behaviour, Change},
};

const PATIENCE: Duration = Duration::from_secs(5);

#[test]
fn stun_sees_the_public_address() -> Result<()> {
    let lab = Lab::builder().build()?;
    let _coturn = Coturn::start(&lab)?;
    for kind in Kind::ALL {
        for site in [lab.caller(), lab.device()] {
            site.set_kind(kind)?;
            let [first, second] = Coturn::servers_for(site.host())?;
            if kind != Kind::Only443 {
                for server in [first, second] {
                    let stream = site.host().connect(server)?;
                    let seen = stun::mapped_address_by_tcp(&stream, PATIENCE)?;
                    assert_eq!(seen.ip(), public(site), "{kind}: by TCP");
                    let is_same = seen == stream.local_addr()?;
                    assert_eq!(
                        is_same,
                        matches!(kind, Kind::Open | Kind::Ipv6Only),
                        "{kind}"
                    );
                }
            }
            if !kind.passes_udp() {
                continue;
            }
            let socket = site.host().udp((any(site), 0))?;
            let seen = stun::mapped_address(&socket, first, PATIENCE)?;
            assert_eq!(seen.ip(), public(site), "{kind}");
            let seen_by_second = stun::mapped_address(&socket, second, PATIENCE)?;
            assert_eq!(seen_by_second != seen, kind.is_symmetric(), "{kind}");
        }
    }
    Ok(())
}

#[test]
fn nat_behaviour_is_discovered_as_rfc_5780_says() -> Result<()> {
    let lab = Lab::builder().build()?;
    let _coturn = Coturn::start(&lab)?;
    let site = lab.device();
    for kind in Kind::ALL.into_iter().filter(|kind| kind.passes_udp()) {
        site.set_kind(kind)?;
        let socket = site.host().udp((any(site), 0))?;
        let server = Coturn::servers_for(site.host())?[0];
        let found = stun::behaviour(&socket, server, Duration::from_millis(300))?;
        let expected = Behaviour {
            independent_mapping: !kind.is_symmetric(),
            independent_filtering: kind.lets_strangers_in(),
            address_filtering: kind.lets_strangers_in(),
        };
        assert_eq!(found, expected, "{kind}");
    }
    Ok(())
}

/// By UDP and by TCP, on an IPv4 and an IPv6 address.
#[test]
fn a_liar_answers_with_what_it_was_told_or_nothing_of_use() -> Result<()> {
    let lab = Lab::builder().device(Kind::Ipv6Only).build()?;
    let wrong: SocketAddr = (CALLER_PUBLIC, 4).into();
    for site in [lab.caller(), lab.device()] {
        let [server, _] = Coturn::servers_for(site.host())?;
        let socket = site.host().udp((any(site), 0))?;
        let gone = stun::ask(&socket, server, Change::Nothing, Duration::from_millis(300))?;
        assert_eq!(gone, None);

        let liar = LyingStun::start(&lab, Lie::Address(wrong))?;
        let told = stun::ask(&socket, server, Change::Nothing, PATIENCE)?;
        let expected = Answer {
            mapped: wrong,
            other: None,
            from: server,
        };
        assert_eq!(told, Some(expected));
        let stream = site.host().connect(server)?;
        assert_eq!(stun::mapped_address_by_tcp(&stream, PATIENCE)?, wrong);
        assert_eq!(liar.asked(), 2);
        drop(liar);

        let liar = LyingStun::start(&lab, Lie::Garbage)?;
        let told = stun::ask(&socket, server, Change::Nothing, Duration::from_millis(900))?;
        assert_eq!(told, None);
        assert!(liar.asked() >= 5, "all sorts were tried: {}", liar.asked());
        let mut stream = site.host().connect(server)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(&[&[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42][..], &[7; 12]].concat())?;
        assert!(stream.read(&mut [0; 100])? > 0);
        drop(liar);

        let liar = LyingStun::start(&lab, Lie::Silence)?;
        let told = stun::ask(&socket, server, Change::Nothing, Duration::from_millis(300))?;
        assert_eq!(told, None);
        assert!(liar.asked() >= 2);
        let stream = site.host().connect(server)?;
        let silent = stun::mapped_address_by_tcp(&stream, Duration::from_millis(300));
        let error = silent.expect_err("it says nothing");
        let error = error
            .downcast_ref::<std::io::Error>()
            .context("a timeout")?;
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
    }
    Ok(())
}

#[test]
fn both_families_are_there_for_those_who_have_them() -> Result<()> {
    let lab = Lab::builder().device(Kind::Ipv6Only).build()?;
    let [caller, device] = [lab.caller().host(), lab.device().host()];
    assert_eq!(Coturn::servers_for(caller)?, Coturn::servers());
    assert_eq!(Coturn::servers_for(device)?, Coturn::servers6());
    assert_eq!(Coturn::servers6()[1].ip(), IpAddr::V6(STUN6[1]));
    Ok(())
}
