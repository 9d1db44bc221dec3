//! Descriptions (§19.1): nothing gets in that could end a line of SDP, and candidates are read as
//! RFC 8839 writes them.

use ringback_protocol::candidate::{Candidate, Kind, TCP, rank};
use ringback_protocol::rtc::{Description, MAX_CANDIDATE, candidate_lines, read_candidate};

fn description() -> Description {
    Description {
        ufrag: "abcd".into(),
        pwd: "abcdefghijklmnopqrstuv".into(),
        fingerprint: [1; 32],
        candidates: vec!["candidate:1 1 udp 1 192.168.1.2 5000 typ host".into()],
        legs: Vec::new(),
    }
}

#[test]
fn out_of_bounds_is_neither_sent_nor_taken() {
    assert_eq!(description().check(), Ok(()));
    type Change = fn(&mut Description);
    let changes: [(&str, Change); 11] = [
        ("short ufrag", |d| d.ufrag = "abc".into()),
        ("long ufrag", |d| d.ufrag = "a".repeat(257)),
        ("ufrag ends its line", |d| d.ufrag = "abcd\r\na=x".into()),
        ("ufrag with a colon", |d| d.ufrag = "ab:cd".into()),
        ("short pwd", |d| d.pwd = "a".repeat(21)),
        ("long pwd", |d| d.pwd = "a".repeat(257)),
        ("pwd ends its line", |d| d.pwd.push('\n')),
        ("17 candidates", |d| {
            d.candidates = vec![d.candidates[0].clone(); 17];
        }),
        ("long candidate", |d| {
            d.candidates = vec![format!("candidate:{}", "x".repeat(MAX_CANDIDATE))];
        }),
        ("candidate ends its line", |d| {
            d.candidates[0].push_str("\r\na=fingerprint:sha-256 00");
        }),
        ("another attribute", |d| d.candidates[0] = "ice-lite".into()),
    ];
    for (what, change) in changes {
        let mut changed = description();
        change(&mut changed);
        assert!(changed.check().is_err(), "{what} is sent");
        let bytes = minicbor::to_vec(&changed).expect("CBOR");
        assert!(
            minicbor::decode::<Description>(&bytes).is_err(),
            "{what} is taken"
        );
    }
}

#[test]
fn candidates_are_read_as_they_are_written() {
    for (line, expected) in [
        (
            "candidate:1 1 udp 2113937151 192.168.1.2 5000 typ host generation 0 network-cost 999",
            Some((Kind::Host, "192.168.1.2:5000")),
        ),
        (
            "candidate:842163049 1 UDP 1677729535 4.17.168.2 40000 typ srflx raddr 0.0.0.0 rport 0",
            Some((Kind::ServerReflexive, "4.17.168.2:40000")),
        ),
        (
            "candidate:1 1 udp 1 2001:db8::3 5000 typ relay raddr :: rport 0",
            Some((Kind::Relayed, "[2001:db8::3]:5000")),
        ),
        (
            "candidate:1 1 udp 1 ::ffff:4.17.168.2 5000 typ host",
            Some((Kind::Host, "4.17.168.2:5000")),
        ),
        (
            "candidate:1 1 udp 1 0b0e4b6d-8b55-4d0e-9d6e-5a8e6f6b8f55.local 5000 typ host",
            None,
        ),
        (
            "candidate:1 1 tcp 1 192.168.1.2 9 typ host tcptype active",
            None,
        ),
        ("candidate:1 2 udp 1 192.168.1.2 5000 typ host", None),
        ("candidate:1 1 udp 1 192.168.1.2 70000 typ host", None),
        ("candidate:1 1 udp x 192.168.1.2 5000 typ host", None),
        ("candidate:1 1 udp 1 192.168.1.2 5000 typ other", None),
        ("candidate:1 1 udp 1 192.168.1.2", None),
        ("candidate:", None),
    ] {
        let expected = expected
            .map(|(kind, address)| Candidate::udp(kind, address.parse().expect("an address")));
        assert_eq!(read_candidate(line), expected, "{line}");
    }
}

#[test]
fn lines_keep_the_order_and_leave_tcp_out() {
    let address = |text: &str| text.parse().expect("an address");
    let candidates = [
        Candidate::udp(Kind::Static, address("4.17.168.2:7000")),
        Candidate {
            transport: TCP,
            ..Candidate::udp(Kind::Host, address("192.168.1.2:7000"))
        },
        Candidate::udp(Kind::Host, address("192.168.1.2:7000")),
        Candidate::udp(Kind::Host, address("[2001:db8::3]:7000")),
    ];
    let lines = candidate_lines(&candidates);
    assert_eq!(
        lines,
        [
            "candidate:0 1 udp 1694498815 4.17.168.2 7000 typ srflx raddr 0.0.0.0 rport 0",
            "candidate:1 1 udp 2130706175 192.168.1.2 7000 typ host",
            "candidate:2 1 udp 2130705919 2001:db8::3 7000 typ host",
        ]
    );
    let sent = Description {
        candidates: lines,
        ..description()
    };
    assert_eq!(sent.check(), Ok(()));
    assert_eq!(sent.addresses().len(), 3);
}

/// A request can not make a device send to addresses where nobody can be meant.
#[test]
fn hostile_addresses_are_left_out() {
    let lines = [
        "candidate:1 1 udp 1 224.0.0.1 5000 typ host",
        "candidate:1 1 udp 1 255.255.255.255 5000 typ host",
        "candidate:1 1 udp 1 0.0.0.0 5000 typ host",
        "candidate:1 1 udp 1 127.0.0.1 5000 typ host",
        "candidate:1 1 udp 1 169.254.169.254 80 typ host",
        "candidate:1 1 udp 1 ff02::1 5000 typ host",
        "candidate:1 1 udp 1 fe80::1 5000 typ host",
        "candidate:1 1 udp 1 ::ffff:127.0.0.1 5000 typ host",
        "candidate:1 1 udp 1 192.168.1.2 0 typ host",
        "candidate:1 1 udp 1 192.168.1.2 5000 typ host",
        "candidate:2 1 udp 2 192.168.1.2 5000 typ srflx raddr 0.0.0.0 rport 0",
    ];
    let hostile = Description {
        candidates: lines.map(str::to_owned).to_vec(),
        ..description()
    };
    assert_eq!(hostile.check(), Ok(()));
    let used = rank(&hostile.addresses(), false);
    let addresses: Vec<String> = used.iter().map(|c| c.address.to_string()).collect();
    assert_eq!(addresses, ["192.168.1.2:5000"]);
}

#[test]
fn debug_output_has_no_secret() {
    let shown = format!("{:?}", description());
    assert!(
        !shown.contains("abcd") && !shown.contains("192.168"),
        "{shown}"
    );
}
