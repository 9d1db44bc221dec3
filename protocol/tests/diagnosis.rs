//! What the doctor says, as tables: NATs from what STUN servers saw, whom a host reaches, and why a
//! call took its path.

use std::net::{IpAddr, SocketAddr};

use ringback_protocol::SecretKey;
use ringback_protocol::candidate::{Candidate, Kind};
use ringback_protocol::diagnosis::behaviour::contradicting;
use ringback_protocol::diagnosis::{
    Cause, Diagnosis, Filtering, Here, Mapping, Outlook, Peer, Ports, Reason, Remedy, Side,
    Sighting, Standing, Way,
};
use ringback_protocol::receipt::{Nat, PathKind, Receipt, Transport, Tried, TriedResult};

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap_or_else(|_| panic!("{text}"))
}

/// `server saw address`, in pairs.
fn sightings(pairs: &[(&str, &str)]) -> Vec<Sighting> {
    pairs
        .iter()
        .map(|(server, seen)| Sighting {
            server: address(server),
            seen: address(seen),
        })
        .collect()
}

#[test]
fn a_mapping_is_known_by_what_servers_saw() {
    const A: &str = "130.74.23.7:3478";
    const A2: &str = "130.74.23.7:3479";
    const B: &str = "130.74.23.8:3478";
    const C: &str = "130.74.23.9:3478";
    const ONE: &str = "4.17.168.2:20001";
    const TWO: &str = "4.17.168.2:20002";
    const THREE: &str = "4.17.168.2:20003";
    const LIE: &str = "6.6.6.6:20001";
    const OWN: &str = "198.51.100.5:4000";
    let hosts: Vec<IpAddr> = vec!["192.168.1.11".parse().unwrap(), address(OWN).ip()];
    for (pairs, mapping) in [
        (&[][..], Mapping::Unknown),
        (&[(A, ONE)], Mapping::Unknown),
        // Another port of the same server does not tell what another server would see.
        (&[(A, ONE), (A2, ONE)], Mapping::Unknown),
        (&[(A, OWN)], Mapping::None),
        (&[(A, OWN), (B, OWN)], Mapping::None),
        (&[(A, ONE), (B, ONE)], Mapping::EndpointIndependent),
        (
            &[(A, ONE), (A2, ONE), (B, ONE)],
            Mapping::EndpointIndependent,
        ),
        (&[(A, ONE), (B, TWO)], Mapping::EndpointDependent),
        (&[(A, ONE), (A2, ONE), (B, TWO)], Mapping::AddressDependent),
        (
            &[(A, ONE), (A2, TWO), (B, THREE)],
            Mapping::AddressAndPortDependent,
        ),
        // One that alone contradicts two others on the address is not believed.
        (
            &[(A, ONE), (B, LIE), (C, ONE)],
            Mapping::EndpointIndependent,
        ),
        (&[(A, OWN), (B, LIE), (C, OWN)], Mapping::None),
        // One against one: there is no telling.
        (&[(A, ONE), (B, LIE)], Mapping::EndpointDependent),
    ] {
        assert_eq!(Mapping::of(&hosts, &sightings(pairs)), mapping, "{pairs:?}");
    }
    let seen = sightings(&[(A, ONE), (B, LIE), (C, ONE)]);
    let wrong: Vec<_> = contradicting(&seen).map(|s| s.server).collect();
    assert_eq!(wrong, [address(B)]);
    assert_eq!(contradicting(&seen[..2]).count(), 0);
}

#[test]
fn a_filter_is_known_by_what_came_back() {
    assert_eq!(Filtering::of(true, true), Filtering::EndpointIndependent);
    // The datagram from the other port was lost.
    assert_eq!(Filtering::of(true, false), Filtering::EndpointIndependent);
    assert_eq!(Filtering::of(false, true), Filtering::AddressDependent);
    assert_eq!(
        Filtering::of(false, false),
        Filtering::AddressAndPortDependent
    );
}

#[test]
fn ports_follow_each_other_or_not() {
    for (pairs, ports) in [
        (&[][..], Ports::Unknown),
        (&[(4000, 20_000)], Ports::Unknown),
        (&[(4000, 4000)], Ports::Preserved),
        (&[(4000, 4000), (51, 51)], Ports::Preserved),
        (&[(4000, 20_000), (51, 20_001)], Ports::Sequential),
        (&[(4000, 20_000), (51, 20_008)], Ports::Sequential),
        (&[(4000, 20_000), (51, 20_009)], Ports::Scattered),
        (&[(4000, 20_000), (51, 19_999)], Ports::Scattered),
        (&[(4000, 65_535), (51, 1)], Ports::Sequential),
        (&[(4000, 4000), (51, 20_001)], Ports::Scattered),
    ] {
        assert_eq!(Ports::of(pairs), ports, "{pairs:?}");
    }
}

const HOME: Standing = Standing {
    ipv4: true,
    udp: true,
    mapping: Mapping::EndpointIndependent,
    filtering: Filtering::AddressAndPortDependent,
    udp_forwarded: false,
    tcp_forwarded: false,
    tcp: Some(true),
    tcp_mapping: Mapping::EndpointIndependent,
    ipv6_udp: false,
    ipv6_tcp: false,
    double_nat: false,
    registry: true,
    relay_allowed: true,
};

const WITH_IPV6: Standing = Standing {
    ipv6_udp: true,
    ipv6_tcp: true,
    ..HOME
};

#[test]
fn whom_a_host_reaches_follows_from_its_network() {
    use Way::{None, Relay, Tcp, Udp, UdpSearch as Search};
    let symmetric = Standing {
        mapping: Mapping::AddressAndPortDependent,
        tcp_mapping: Mapping::EndpointDependent,
        ..HOME
    };
    let forwarded = Standing {
        udp_forwarded: true,
        tcp_forwarded: true,
        ..symmetric
    };
    let public = Standing {
        mapping: Mapping::None,
        filtering: Filtering::EndpointIndependent,
        tcp_mapping: Mapping::None,
        ..HOME
    };
    let blocked = Standing {
        udp: false,
        mapping: Mapping::Unknown,
        filtering: Filtering::Unknown,
        ..HOME
    };
    let walled = Standing {
        tcp: Some(false),
        tcp_mapping: Mapping::Unknown,
        ..blocked
    };
    // Public, restricted, symmetric, UDP blocked, IPv6 only.
    for (name, standing, ways) in [
        ("home", HOME, [Udp, Udp, Search, Tcp, Relay]),
        ("home with IPv6", WITH_IPV6, [Udp, Udp, Search, Tcp, Udp]),
        (
            "address-restricted",
            Standing {
                filtering: Filtering::AddressDependent,
                ..HOME
            },
            [Udp, Udp, Udp, Tcp, Relay],
        ),
        (
            "full cone",
            Standing {
                filtering: Filtering::EndpointIndependent,
                ..HOME
            },
            [Udp, Udp, Udp, Tcp, Relay],
        ),
        ("symmetric", symmetric, [Udp, Search, Relay, Relay, Relay]),
        ("forwarded", forwarded, [Udp, Udp, Udp, Tcp, Relay]),
        ("public", public, [Udp, Udp, Udp, Tcp, Relay]),
        (
            "public behind a firewall",
            Standing {
                filtering: Filtering::AddressAndPortDependent,
                ..public
            },
            [Udp, Udp, Search, Tcp, Relay],
        ),
        ("UDP blocked", blocked, [Tcp, Tcp, Relay, Tcp, Relay]),
        (
            "IPv6 alone",
            Standing {
                ipv4: false,
                ..Standing {
                    udp: false,
                    ..WITH_IPV6
                }
            },
            [Relay, Relay, Relay, Relay, Udp],
        ),
        (
            "IPv6 alone, UDP blocked",
            Standing {
                ipv4: false,
                ipv6_udp: false,
                ..Standing {
                    udp: false,
                    ..WITH_IPV6
                }
            },
            [Relay, Relay, Relay, Relay, Tcp],
        ),
        (
            "UDP blocked, TCP by another port for each",
            Standing {
                tcp_mapping: Mapping::EndpointDependent,
                ..blocked
            },
            [Tcp, Relay, Relay, Relay, Relay],
        ),
        (
            "UDP blocked, TCP not known",
            Standing {
                tcp: Option::None,
                tcp_mapping: Mapping::Unknown,
                ..blocked
            },
            [Tcp, Relay, Relay, Relay, Relay],
        ),
        ("only 443", walled, [Relay; 5]),
        (
            "only 443, no relay",
            Standing {
                relay_allowed: false,
                ..walled
            },
            [None; 5],
        ),
        (
            "registry gone",
            Standing {
                registry: false,
                ..HOME
            },
            [Udp, Udp, Search, Tcp, None],
        ),
        (
            "nothing",
            Standing {
                tcp: Some(false),
                ..Standing::default()
            },
            [None; 5],
        ),
    ] {
        let outlook = Outlook::of(&standing);
        let found = outlook.peers.iter().map(|p| p.way);
        assert_eq!(found.collect::<Vec<_>>(), ways, "{name}");
        assert_eq!(outlook.way_to(Peer::Symmetric), ways[2], "{name}");
        let direct = ways.iter().any(|way| !matches!(way, Relay | None));
        assert_eq!(outlook.is_direct(), direct, "{name}");
    }
}

#[test]
fn advice_is_what_helps() {
    let remedies = |standing: Standing| -> Vec<Remedy> {
        let advice = Outlook::of(&standing).advice;
        assert!(advice.iter().all(|advice| advice.side == Side::Here));
        advice.into_iter().map(|advice| advice.remedy).collect()
    };
    use Remedy::{
        AllowInbound, AllowRelay, AllowUdp, AskProvider, EnableIpv4, EnableIpv6, ForwardPort,
        MapPort,
    };
    for (name, standing, advice) in [
        ("home", HOME, &[MapPort, ForwardPort, EnableIpv6][..]),
        ("with IPv6", WITH_IPV6, &[MapPort, ForwardPort]),
        (
            "forwarded",
            Standing {
                udp_forwarded: true,
                tcp_forwarded: true,
                ..HOME
            },
            &[],
        ),
        (
            "double NAT",
            Standing {
                double_nat: true,
                ..HOME
            },
            &[AskProvider, EnableIpv6],
        ),
        (
            "public behind a firewall",
            Standing {
                mapping: Mapping::None,
                ..WITH_IPV6
            },
            &[AllowInbound],
        ),
        (
            "UDP blocked, no relay",
            Standing {
                udp: false,
                mapping: Mapping::Unknown,
                relay_allowed: false,
                ..HOME
            },
            &[AllowUdp, MapPort, ForwardPort, EnableIpv6, AllowRelay],
        ),
        (
            "IPv6 alone",
            Standing {
                ipv4: false,
                ..Standing {
                    udp: false,
                    ..WITH_IPV6
                }
            },
            &[EnableIpv4],
        ),
        (
            "registry gone: that the relay is, too, is nothing to switch on",
            Standing {
                registry: false,
                ..HOME
            },
            &[MapPort, ForwardPort, EnableIpv6],
        ),
    ] {
        assert_eq!(remedies(standing), advice, "{name}");
    }
}

// Calls. The lab's addresses: the LANs on both sides use the same range.

const CALLER_PUBLIC: &str = "4.17.168.2";
const DEVICE: &str = "202.204.16.13:25000";

fn here() -> Here {
    Here {
        addresses: vec![("192.168.1.11".parse().unwrap(), 24)],
        public: vec![CALLER_PUBLIC.parse().unwrap()],
        direct_only: false,
    }
}

fn tried(kind: Kind, at: &str, result: TriedResult) -> Tried {
    Tried {
        address: address(at),
        transport: Transport::Udp,
        kind,
        result,
        rtt_ms: (result != TriedResult::NoAnswer).then_some(20.0),
        pings: 5,
    }
}

/// A relayed call in which these were tried in vain.
fn relayed(nats: (Nat, Nat), silent: &[(Kind, &str)]) -> Receipt {
    let mut paths: Vec<Tried> = silent
        .iter()
        .map(|(kind, at)| tried(*kind, at, TriedResult::NoAnswer))
        .collect();
    let relay = tried(Kind::Relayed, "130.74.23.6:443", TriedResult::Won);
    paths.push(Tried {
        transport: Transport::WebSocket,
        ..relay
    });
    Receipt {
        device: SecretKey::from_seed(&[1; 32]).id(),
        path: PathKind::Relay,
        transport: Transport::WebSocket,
        remote: address("130.74.23.6:443"),
        rtt_ms: Some(40.0),
        caller_nat: nats.0,
        device_nat: nats.1,
        steps: Vec::new(),
        paths,
    }
}

fn direct(transport: Transport, nats: (Nat, Nat), silent: &[(Kind, &str)]) -> Receipt {
    let mut receipt = relayed(nats, silent);
    receipt.path = PathKind::Direct;
    receipt.transport = transport;
    receipt.remote = address(DEVICE);
    for tried in &mut receipt.paths {
        if tried.kind == Kind::Relayed {
            tried.result = TriedResult::Works;
        }
    }
    receipt.paths.push(Tried {
        transport,
        ..tried(Kind::ServerReflexive, DEVICE, TriedResult::Won)
    });
    receipt
}

/// The device's candidates, as its answer names them.
fn candidates(of: &[(Kind, &str)]) -> Vec<Candidate> {
    let udp = of
        .iter()
        .map(|(kind, at)| Candidate::udp(*kind, address(at)));
    udp.collect()
}

const EI: Nat = Nat::EndpointIndependent;
const ED: Nat = Nat::EndpointDependent;

#[test]
fn a_relayed_call_has_a_cause_and_a_remedy() {
    use Remedy::*;
    use Side::{Device, Either, Here as H};
    let nas = [
        (Kind::ServerReflexive, DEVICE),
        (Kind::Host, "192.168.1.3:25000"),
    ];
    let lan_only = [(Kind::Host, "192.168.1.3:25000")];
    let ipv6 = [(Kind::Host, "[2001:db8:2::3]:25000")];
    let same_router = [
        (Kind::ServerReflexive, "4.17.168.2:25000"),
        (Kind::Host, "192.168.1.3:25000"),
    ];
    let blind = Here {
        public: Vec::new(),
        ..here()
    };
    let carrier = Here {
        addresses: vec![("100.64.3.4".parse().unwrap(), 10)],
        ..here()
    };
    type Advised<'a> = &'a [(Side, Remedy)];
    for (name, nats, device, here, cause, advice) in [
        (
            "both symmetric",
            (ED, ED),
            &nas[..],
            here(),
            Cause::SymmetricBoth,
            &[(Either, MapPort), (Either, ForwardPort)] as Advised<'_>,
        ),
        (
            "symmetric here",
            (ED, EI),
            &nas,
            here(),
            Cause::SymmetricHere,
            &[(H, MapPort), (H, ForwardPort)],
        ),
        (
            "symmetric there",
            (EI, ED),
            &nas,
            here(),
            Cause::SymmetricThere,
            &[(Device, MapPort), (Device, ForwardPort)],
        ),
        (
            "a firewall",
            (EI, EI),
            &nas,
            here(),
            Cause::Firewall,
            &[(Either, MapPort), (Either, AllowInbound)],
        ),
        (
            "UDP blocked here",
            (Nat::Unknown, EI),
            &nas,
            blind.clone(),
            Cause::UdpBlockedHere,
            &[(H, AllowUdp), (Device, MapPort), (Device, ForwardPort)],
        ),
        (
            "one STUN server is not none",
            (Nat::Unknown, EI),
            &nas,
            here(),
            Cause::Firewall,
            &[(Either, MapPort), (Either, AllowInbound)],
        ),
        (
            "UDP blocked there",
            (EI, Nat::Unknown),
            &lan_only,
            here(),
            Cause::UdpBlockedThere,
            &[(Device, AllowUdp), (H, MapPort), (H, ForwardPort)],
        ),
        (
            "UDP blocked on both sides",
            (Nat::Unknown, Nat::Unknown),
            &lan_only,
            blind,
            Cause::UdpBlockedBoth,
            &[(Either, AllowUdp)],
        ),
        (
            "behind one router",
            (EI, EI),
            &same_router,
            here(),
            Cause::SameRouter,
            &[(Either, JoinLan)],
        ),
        (
            "IPv4 only and IPv6 only",
            (EI, Nat::None),
            &ipv6,
            here(),
            Cause::NoCommonFamily,
            &[(H, EnableIpv6)],
        ),
        (
            "in a carrier's NAT",
            (ED, ED),
            &nas,
            carrier,
            Cause::SymmetricBoth,
            &[(Either, MapPort), (Either, ForwardPort), (H, AskProvider)],
        ),
        (
            "the answer was lost",
            (EI, Nat::Unknown),
            &[],
            here(),
            Cause::Unknown,
            &[],
        ),
    ] {
        let receipt = relayed(nats, device);
        let diagnosis = Diagnosis::of(&receipt, &here, &candidates(device));
        assert_eq!(diagnosis.cause, cause, "{name}");
        let found = diagnosis.advice.iter().map(|a| (a.side, a.remedy));
        assert_eq!(found.collect::<Vec<_>>(), advice, "{name}");
        assert_eq!(diagnosis.text, cause.to_string(), "{name}");
        assert!(!diagnosis.is_best(), "{name}");
        assert_eq!(diagnosis.tried[0].reason, Reason::InUse, "{name}");
    }
}

#[test]
fn each_address_has_its_reason() {
    let mut dual = here();
    dual.addresses.push(("2001:db8:1::b".parse().unwrap(), 64));
    let no_udp = Here {
        public: Vec::new(),
        ..here()
    };
    // Seen at an IPv4 address all the same: the network translates.
    let nat64 = Here {
        addresses: vec![("2001:db8:1::b".parse().unwrap(), 64)],
        ..here()
    };
    let v6_only = Here {
        public: vec!["2001:db8:1::b".parse().unwrap()],
        ..nat64.clone()
    };
    use Kind::{Host, Mapped, ServerReflexive as Seen, Static};
    for (nats, kind, at, here, reason) in [
        (
            (EI, EI),
            Host,
            "192.168.1.3:9",
            here(),
            Reason::SamePrivateRange,
        ),
        (
            (EI, EI),
            Host,
            "10.9.8.7:9",
            here(),
            Reason::PrivateElsewhere,
        ),
        ((EI, EI), Host, "172.17.0.1:9", here(), Reason::Bridge),
        ((EI, EI), Host, "100.70.1.2:9", here(), Reason::CarrierRange),
        (
            (EI, EI),
            Host,
            "[fd00::1]:9",
            dual.clone(),
            Reason::PrivateElsewhere,
        ),
        (
            (EI, EI),
            Host,
            "[2001:db8:2::3]:9",
            here(),
            Reason::NoIpv6Here,
        ),
        (
            (EI, EI),
            Host,
            "[2001:db8:2::3]:9",
            dual,
            Reason::Ipv6Filtered,
        ),
        ((EI, EI), Seen, DEVICE, v6_only, Reason::NoIpv4Here),
        ((EI, EI), Seen, DEVICE, nat64, Reason::Filtered),
        ((EI, EI), Seen, DEVICE, here(), Reason::Filtered),
        ((ED, EI), Seen, DEVICE, here(), Reason::SymmetricHere),
        ((EI, ED), Seen, DEVICE, here(), Reason::SymmetricThere),
        ((ED, ED), Seen, DEVICE, here(), Reason::SymmetricBoth),
        ((EI, Nat::None), Host, DEVICE, here(), Reason::PublicSilent),
        ((EI, EI), Mapped, DEVICE, here(), Reason::ForwardSilent),
        ((ED, ED), Static, DEVICE, here(), Reason::ForwardSilent),
        ((EI, EI), Seen, "4.17.168.2:9", here(), Reason::OwnRouter),
        (
            (Nat::Unknown, EI),
            Seen,
            DEVICE,
            no_udp,
            Reason::UdpBlockedHere,
        ),
    ] {
        let silent = [(kind, at)];
        let receipt = relayed(nats, &silent);
        let diagnosis = Diagnosis::of(&receipt, &here, &candidates(&silent));
        let explained = diagnosis.tried.iter().find(|t| t.address == address(at));
        let explained = explained.unwrap_or_else(|| panic!("{at}: {diagnosis:?}"));
        assert_eq!(explained.reason, reason, "{at} {nats:?}");
        assert_eq!(explained.text, reason.to_string());
    }
}

#[test]
fn behind_one_router_the_lan_is_blamed() {
    let device = [
        (Kind::ServerReflexive, "4.17.168.2:25000"),
        (Kind::Host, "192.168.1.3:25000"),
    ];
    let diagnosis = Diagnosis::of(&relayed((EI, EI), &device), &here(), &candidates(&device));
    let reasons: Vec<Reason> = diagnosis.tried.iter().map(|t| t.reason).collect();
    assert_eq!(
        reasons,
        [Reason::InUse, Reason::OwnRouter, Reason::SameLanSilent]
    );
}

#[test]
fn a_direct_path_by_udp_is_the_best_and_one_by_tcp_is_not() {
    let nas = [(Kind::Host, "192.168.1.3:25000")];
    let mut device = candidates(&[(Kind::ServerReflexive, DEVICE), nas[0]]);
    device.push(Candidate::tcp(Kind::Host, address("192.168.1.3:25000")));
    let receipt = direct(Transport::Udp, (EI, EI), &nas);
    let diagnosis = Diagnosis::of(&receipt, &here(), &device);
    assert!(diagnosis.is_best());
    assert_eq!(diagnosis.cause, Cause::Best);
    assert!(diagnosis.advice.is_empty());
    let reasons: Vec<_> = diagnosis.tried.iter().map(|t| t.reason).collect();
    assert_eq!(
        reasons,
        [
            Reason::InUse,
            Reason::SamePrivateRange,
            Reason::Standby,
            Reason::NotNeeded
        ]
    );

    let mut receipt = direct(Transport::Tcp, (Nat::Unknown, EI), &nas);
    receipt.paths.truncate(0);
    let no_udp = Here {
        public: Vec::new(),
        ..here()
    };
    let diagnosis = Diagnosis::of(&receipt, &no_udp, &device);
    assert_eq!(diagnosis.cause, Cause::UdpBlockedHere);
    let remedies: Vec<_> = diagnosis.advice.iter().map(|a| a.remedy).collect();
    assert_eq!(remedies, [Remedy::AllowUdp]);
}

/// Scripts and the web UI read these.
#[test]
fn codes_are_stable() {
    let device = [(Kind::ServerReflexive, DEVICE)];
    let diagnosis = Diagnosis::of(&relayed((ED, ED), &device), &here(), &candidates(&device));
    let json = serde_json::to_value(&diagnosis).unwrap();
    assert_eq!(json["cause"], "symmetric-both");
    assert_eq!(json["tried"][0]["reason"], "in-use");
    assert_eq!(json["tried"][1]["reason"], "symmetric-both");
    assert_eq!(json["advice"][0]["side"], "either");
    assert_eq!(json["advice"][0]["remedy"], "map-port");
    let again: Diagnosis = serde_json::from_value(json).unwrap();
    assert_eq!(again, diagnosis);
}

/// Texts are single sentences for a line that goes on after a colon.
#[test]
fn texts_are_plain() {
    let device = [(Kind::ServerReflexive, DEVICE), (Kind::Host, "10.1.1.1:1")];
    let diagnosis = Diagnosis::of(&relayed((ED, EI), &device), &here(), &candidates(&device));
    let advice = diagnosis.advice.iter().map(|a| &a.text);
    let tried = diagnosis.tried.iter().map(|t| &t.text);
    for text in advice.chain(tried).chain([&diagnosis.text]) {
        assert!(
            !text.is_empty() && !text.ends_with('.') && !text.contains('\n'),
            "{text}"
        );
        assert!(text.chars().count() <= 180, "{text}");
    }
}
