//! Properties of everything on the wire: what is written is read back, what is unknown is let
//! pass, what is damaged is refused, and nothing panics.

mod vector;

use std::net::SocketAddr;
use std::time::Duration;

use proptest::array::{uniform16, uniform32};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use ringback_protocol::admission::Admission;
use ringback_protocol::candidate::{
    Candidate, Kind, MAX_CANDIDATES, MAX_TCP, TCP, UDP, address, canonical, rank,
};
use ringback_protocol::envelope::{Envelope, Request};
use ringback_protocol::frame::{
    Ack, Answer, Answered, Beacon, Challenge, Deliver, Delivered, Failed, Frame, FrameReader, Gone,
    Join, Joined, Known, ListedBeacon, MAX_FRAME, Mark, Marked, Notify, PeerPresence, Place,
    Refuse, Refused, Register, Registered, Rejected, Seen, Update, Updated, length_prefixed,
};
use ringback_protocol::path::{PathSet, Received, Role, Via};
use ringback_protocol::receipt::Nat;
use ringback_protocol::refusal::Refusal;
use ringback_protocol::registration::{CloseReason, Output, Registration};
use ringback_protocol::reply::{Datagram, MAX_DATAGRAM, MAX_FLIGHT, Reply};
use ringback_protocol::rtc::{Description, Leg};
use ringback_protocol::secret::PASSWORD_ID;
use ringback_protocol::stream::{MAX_HEADER, Mode, Open, Opening, StreamRefused};
use ringback_protocol::{Code, PeerId, SecretKey};
use vector::{ISSUED_AT, bytes, device, psk, reply, request};

fn peer() -> impl Strategy<Value = PeerId> {
    uniform32(any::<u8>()).prop_map(|seed| SecretKey::from_seed(&seed).id())
}

fn socket_address() -> impl Strategy<Value = SocketAddr> {
    any::<SocketAddr>().prop_map(canonical)
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        Just(Kind::Host),
        Just(Kind::ServerReflexive),
        Just(Kind::Mapped),
        Just(Kind::Static),
        (5..=255_u8).prop_map(Kind::Unknown),
        Just(Kind::Unknown(0)),
    ]
}

fn candidate() -> impl Strategy<Value = Candidate> {
    (kind(), socket_address(), any::<u8>()).prop_map(|(kind, address, transport)| Candidate {
        kind,
        address,
        transport,
    })
}

fn code() -> impl Strategy<Value = Code> {
    prop_oneof![
        proptest::sample::select(Code::ALL),
        "later_[a-z0-9_]{1,58}".prop_map(Code::Unknown),
    ]
}

fn blob() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..300)
}

fn text() -> impl Strategy<Value = String> {
    ".{0,40}"
}

fn listed_beacon() -> impl Strategy<Value = ListedBeacon> {
    (text(), option::of(text()), any::<bool>(), peer()).prop_map(|(udp, tcp, relay, id)| {
        ListedBeacon {
            udp,
            tcp,
            relay,
            id,
        }
    })
}

fn frame() -> impl Strategy<Value = Frame> {
    let signature = || (uniform32(any::<u8>()), uniform32(any::<u8>()));
    let call = any::<u64>;
    prop_oneof![
        (
            signature(),
            text(),
            option::of(socket_address()),
            option::of(any::<u64>())
        )
            .prop_map(|((a, b), agent, public, instance)| {
                let signature = [a, b].concat().try_into().expect("64 bytes");
                Register {
                    signature,
                    agent,
                    public,
                    instance,
                }
                .into()
            }),
        socket_address().prop_map(|public| Update { public }.into()),
        call().prop_map(|call| Ack { call }.into()),
        (call(), blob()).prop_map(|(call, reply)| Answer { call, reply }.into()),
        (call(), blob()).prop_map(|(call, refusal)| Refuse { call, refusal }.into()),
        (call(), peer(), blob()).prop_map(|(call, device, envelope)| {
            Place {
                call,
                device,
                envelope,
            }
            .into()
        }),
        (uniform32(any::<u8>()), any::<u64>()).prop_map(|(nonce, time_ms)| Challenge {
            nonce,
            time_ms
        }
        .into()),
        (
            text(),
            text(),
            vec(text(), 0..4),
            vec(listed_beacon(), 0..3),
            option::of(text())
        )
            .prop_map(|(seen, name, stun, beacons, rival)| Registered {
                seen,
                name,
                stun,
                beacons,
                rival,
            }
            .into()),
        (any::<bool>(), peer(), peer(), signature()).prop_map(
            |(is_device, peer, device, (a, b))| {
                Join {
                    role: if is_device {
                        Role::Device
                    } else {
                        Role::Caller
                    },
                    peer,
                    device,
                    signature: [a, b].concat().try_into().expect("64 bytes"),
                }
                .into()
            }
        ),
        listed_beacon().prop_map(
            |ListedBeacon {
                 udp, tcp, relay, ..
             }| { Beacon { udp, tcp, relay }.into() }
        ),
        (peer(), proptest::option::of(socket_address())).prop_map(|(device, public)| Seen {
            device,
            public
        }
        .into()),
        peer().prop_map(|device| Gone { device }.into()),
        any::<(u64, u64)>().prop_map(|(rate_bytes_s, remaining_bytes)| {
            Joined {
                rate_bytes_s,
                remaining_bytes,
            }
            .into()
        }),
        any::<u64>().prop_map(|number| Mark { number }.into()),
        any::<u64>().prop_map(|number| Marked { number }.into()),
        any::<bool>().prop_map(|present| PeerPresence { present }.into()),
        (peer(), option::of(code())).prop_map(|(device, code)| Known { device, code }.into()),
        peer().prop_map(|device| Notify { device }.into()),
        (call(), blob()).prop_map(|(call, envelope)| Deliver { call, envelope }.into()),
        (code(), text(), option::of(any::<u32>())).prop_map(|(code, detail, retry_after_s)| {
            Rejected {
                code,
                detail,
                retry_after_s,
            }
            .into()
        }),
        socket_address().prop_map(|public| Updated { public }.into()),
        call().prop_map(|call| Delivered { call }.into()),
        (call(), blob(), proptest::option::of("\\PC{0,64}"))
            .prop_map(|(call, reply, ice)| Answered { call, reply, ice }.into()),
        (call(), blob()).prop_map(|(call, refusal)| Refused { call, refusal }.into()),
        (
            call(),
            code(),
            text(),
            option::of(any::<u32>()),
            option::of(any::<u64>())
        )
            .prop_map(|(call, code, detail, retry_after_s, last_seen)| {
                Failed {
                    call,
                    code,
                    detail,
                    retry_after_s,
                    last_seen,
                }
                .into()
            }),
    ]
}

fn description() -> impl Strategy<Value = Description> {
    (
        "[a-zA-Z0-9+/]{4,256}",
        "[a-zA-Z0-9+/]{22,256}",
        uniform32(any::<u8>()),
        vec("candidate:[ -~]{0,246}", 0..=MAX_CANDIDATES),
        vec(leg(), 0..=4),
    )
        .prop_map(|(ufrag, pwd, fingerprint, candidates, legs)| Description {
            ufrag,
            pwd,
            fingerprint,
            candidates,
            legs,
        })
}

fn leg() -> impl Strategy<Value = Leg> {
    (
        "[a-zA-Z0-9+/]{4,8}",
        "[a-zA-Z0-9+/]{22,32}",
        vec("candidate:[ -~]{0,60}", 0..=2),
    )
        .prop_map(|(ufrag, pwd, candidates)| Leg {
            ufrag,
            pwd,
            candidates,
        })
}

fn a_request() -> impl Strategy<Value = Request> {
    (
        (uniform16(any::<u8>()), any::<u64>(), any::<u64>()),
        text(),
        vec(candidate(), 0..20),
        (any::<bool>(), option::of(description()), any::<u32>()),
    )
        .prop_map(
            |((id, issued_at, expires_at), service, candidates, (remember, webrtc, path))| {
                Request {
                    id,
                    issued_at,
                    expires_at,
                    service,
                    candidates,
                    remember,
                    webrtc,
                    path,
                    nat: Nat::Unknown,
                }
            },
        )
}

fn a_reply() -> impl Strategy<Value = Reply> {
    let nat = proptest::sample::select(&[
        Nat::Unknown,
        Nat::None,
        Nat::EndpointIndependent,
        Nat::EndpointDependent,
    ]);
    (
        uniform16(any::<u8>()),
        vec(candidate(), 0..20),
        any::<bool>(),
        nat,
        option::of(description()),
        vec(vec(any::<u8>(), 0..=MAX_DATAGRAM), 0..=MAX_FLIGHT),
        any::<u32>(),
    )
        .prop_map(
            |(request_id, candidates, remembered, nat, webrtc, flight, path)| Reply {
                request_id,
                candidates,
                remembered,
                nat,
                webrtc,
                flight: flight.into_iter().map(Datagram::from).collect(),
                path,
            },
        )
}

/// The same map with one more key, 100, that nobody knows.
fn with_unknown_key(map: &[u8], value: &[u8]) -> Vec<u8> {
    assert!((0xa0..0xb7).contains(&map[0]), "a short map");
    let mut longer = map.to_vec();
    longer[0] += 1;
    longer.extend_from_slice(&[0x18, 100]);
    longer.extend_from_slice(value);
    longer
}

/// CBOR values of every shape.
const VALUES: [&[u8]; 7] = [
    &[0x00],
    &[0x39, 0x01, 0x00],
    &[0x43, 1, 2, 3],
    &[0x9f, 0x61, b'x', 0xff],
    &[0xa1, 0x61, b'k', 0x82, 0xf5, 0xf6],
    &[0xc1, 0xfb, 0x3f, 0xf0, 0, 0, 0, 0, 0, 0],
    &[0x5f, 0x41, 0, 0x41, 1, 0xff],
];

/// Every copy of `original` with one bit flipped, then every proper beginning of it.
fn damaged(original: &[u8]) -> impl Iterator<Item = Vec<u8>> + '_ {
    let flipped = (0..original.len() * 8).map(|bit| {
        let mut copy = original.to_vec();
        copy[bit / 8] ^= 1 << (bit % 8);
        copy
    });
    flipped.chain((0..original.len()).map(|len| original[..len].to_vec()))
}

fn vectors() -> Vec<Vec<u8>> {
    [
        vector::REGISTER,
        vector::UPDATE,
        vector::ACK,
        vector::ANSWER,
        vector::REFUSE,
        vector::PLACE,
        vector::CHALLENGE,
        vector::REGISTERED,
        vector::DELIVER,
        vector::REJECTED,
        vector::UPDATED,
        vector::DELIVERED,
        vector::ANSWERED,
        vector::REFUSED,
        vector::FAILED,
        vector::JOIN,
        vector::BEACON,
        vector::SEEN,
        vector::GONE,
        vector::REGISTERED_BEACONS,
        vector::JOINED,
        vector::PEER_PRESENCE,
        vector::KNOWN_NOT,
        vector::NOTIFY,
        vector::MARK,
        vector::MARKED,
    ]
    .map(bytes)
    .to_vec()
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(128)
    })]

    #[test]
    fn frames(frame in frame()) {
        let encoded = frame.encode();
        prop_assert_eq!(Frame::decode(&encoded), Ok(frame.clone()));
        for value in VALUES {
            let mut longer = vec![encoded[0]];
            longer.extend(with_unknown_key(&encoded[1..], value));
            prop_assert_eq!(Frame::decode(&longer), Ok(frame.clone()));
        }
        use Frame::{Answered, Delivered, Failed, Refused};
        let is_answer = matches!(frame, Delivered(_) | Answered(_) | Refused(_) | Failed(_));
        let answer = if is_answer { frame } else { Frame::Unknown(encoded[0]) };
        prop_assert_eq!(Frame::decode_answer(&encoded), Ok(answer));
    }

    #[test]
    fn unknown_frames_are_kept_apart(tag in any::<u8>(), body in blob()) {
        let known = vectors().iter().any(|frame| frame[0] == tag);
        let decoded = Frame::decode(&[&[tag], body.as_slice()].concat());
        if !known {
            prop_assert_eq!(&decoded, &Ok(Frame::Unknown(tag)));
            prop_assert_eq!(Frame::decode(&Frame::Unknown(tag).encode()), decoded);
        }
    }

    #[test]
    fn requests_and_replies(request in a_request(), reply in a_reply()) {
        let encoded = minicbor::to_vec(&request).expect("CBOR");
        prop_assert_eq!(&minicbor::decode::<Request>(&encoded).expect("a request"), &request);
        for value in VALUES {
            let longer = with_unknown_key(&encoded, value);
            prop_assert_eq!(&minicbor::decode::<Request>(&longer).expect("a request"), &request);
        }
        let encoded = minicbor::to_vec(&reply).expect("CBOR");
        prop_assert_eq!(&minicbor::decode::<Reply>(&encoded).expect("a reply"), &reply);
        for value in VALUES {
            let longer = with_unknown_key(&encoded, value);
            prop_assert_eq!(&minicbor::decode::<Reply>(&longer).expect("a reply"), &reply);
        }
        let (_, keys) = vector::seal();
        let sealed = keys.reply.clone().seal(&reply);
        prop_assert_eq!(keys.reply.open(&sealed, &reply.request_id), Ok(reply));
    }

    #[test]
    fn refusals(code in code(), retry in option::of(any::<u32>()), time in any::<u64>()) {
        let envelope = b"an envelope";
        let refusal = Refusal::sign(&device(), envelope, code, retry, time);
        let encoded = refusal.encode();
        prop_assert_eq!(
            Refusal::decode(&encoded, &device().id(), envelope),
            Ok(refusal.clone())
        );
        let longer = with_unknown_key(&encoded, VALUES[4]);
        prop_assert_eq!(Refusal::decode(&longer, &device().id(), envelope), Ok(refusal));
    }

    #[test]
    fn candidates(candidate in candidate()) {
        let encoded = minicbor::to_vec(&candidate).expect("CBOR");
        prop_assert_eq!(minicbor::decode::<Candidate>(&encoded).expect("read"), candidate);
    }

    #[test]
    fn candidates_are_ranked_capped_and_usable(
        candidates in vec(candidate(), 0..60),
        loopback in any::<bool>(),
    ) {
        let ranked = rank(&candidates, loopback);
        prop_assert!(ranked.len() <= MAX_CANDIDATES);
        for (at, one) in ranked.iter().enumerate() {
            prop_assert!(candidates.contains(one));
            prop_assert!(one.transport <= TCP && one.address.port() != 0);
            prop_assert!(!one.address.ip().is_unspecified() && !one.address.ip().is_multicast());
            prop_assert!(loopback || !one.address.ip().is_loopback());
            let same = |other: &Candidate| (other.address, other.transport) == (one.address, one.transport);
            prop_assert!(!ranked[..at].iter().any(same));
        }
        // Neither transport crowds out the other.
        let usable = rank_all(&candidates, loopback, TCP).len().min(MAX_TCP);
        prop_assert!(ranked.iter().filter(|one| one.is_tcp()).count() >= usable);
        let usable = rank_all(&candidates, loopback, UDP).len().min(MAX_CANDIDATES - MAX_TCP);
        prop_assert!(ranked.iter().filter(|one| one.is_udp()).count() >= usable);
        prop_assert_eq!(&rank(&ranked, loopback), &ranked);
    }

    #[test]
    fn socket_addresses(address in any::<SocketAddr>()) {
        let wire = address::to_bytes(address);
        prop_assert_eq!(address::from_bytes(&wire), Some(canonical(address)));
        let len = if canonical(address).is_ipv4() { 6 } else { 18 };
        prop_assert_eq!(wire.len(), len);
    }

    #[test]
    fn identities(id in peer()) {
        let text = id.to_string();
        prop_assert_eq!(text.len(), 61);
        prop_assert_eq!(text.parse::<PeerId>(), Ok(id));
        prop_assert_eq!(text.to_uppercase().parse::<PeerId>(), Ok(id));
        prop_assert_eq!(PeerId::from_bytes(*id.as_bytes()), Ok(id));
        let json = serde_json::to_string(&id).expect("JSON");
        prop_assert_eq!(serde_json::from_str::<PeerId>(&json).expect("an ID"), id);
    }

    #[test]
    fn stream_headers(service in text(), mode in 0..4u64, code in code(), detail in text()) {
        let mode = match mode {
            0 => Mode::Raw,
            1 => Mode::Http,
            number => Mode::Unknown(number),
        };
        let open = Open { service, mode };
        prop_assert_eq!(Open::decode(&open.encode()[2..]), Ok(open));
        let refused = Opening::Refused(StreamRefused { code, detail });
        for opening in [Opening::Opened, refused] {
            prop_assert_eq!(Opening::decode(&opening.encode()[2..]), Ok(opening));
        }
    }

    #[test]
    fn frames_come_whole_out_of_any_chunks(
        frames in vec(frame(), 0..8),
        cuts in vec(1..40_usize, 1..40),
        rest in vec(any::<u8>(), 0..2),
    ) {
        let mut stream: Vec<u8> = frames
            .iter()
            .flat_map(|frame| length_prefixed(&frame.encode()))
            .collect();
        stream.extend_from_slice(&rest);
        let mut reader = FrameReader::default();
        let mut read = Vec::new();
        let mut left = stream.as_slice();
        for cut in cuts.into_iter().cycle() {
            let (chunk, after) = left.split_at(cut.min(left.len()));
            reader.push(chunk);
            while let Some(frame) = reader.next_frame() {
                read.push(frame.expect("a frame"));
            }
            left = after;
            if left.is_empty() {
                break;
            }
        }
        prop_assert_eq!(read, frames);
        prop_assert_eq!(reader.into_rest(), rest);
    }

    #[test]
    fn arbitrary_bytes_do_no_harm(noise in vec(any::<u8>(), 0..600)) {
        feed(&noise);
    }

    #[test]
    fn almost_valid_bytes_do_no_harm(
        original in proptest::sample::select(vectors()),
        at in any::<prop::sample::Index>(),
        noise in vec(any::<u8>(), 0..12),
        cut in 0..12_usize,
    ) {
        let at = at.index(original.len());
        let end = (at + cut).min(original.len());
        feed(&[&original[..at], &noise, &original[end..]].concat());
    }
}

/// Hands `noise` to everything that reads from the network.
fn feed(noise: &[u8]) {
    let _ = Frame::decode(noise);
    let _ = Open::decode(noise);
    let _ = Opening::decode(noise);
    let _ = minicbor::decode::<Request>(noise);
    let _ = minicbor::decode::<Reply>(noise);
    let _ = minicbor::decode::<Candidate>(noise);
    let _ = address::from_bytes(noise);
    let _ = String::from_utf8_lossy(noise).parse::<PeerId>();
    assert!(Refusal::decode(noise, &device().id(), b"an envelope").is_err());
    assert!(Envelope::decode(noise).is_err());
    let (_, keys) = vector::seal();
    assert!(keys.reply.open(noise, &request().id).is_err());
    let from = vector::address(vector::CALLER_PUBLIC_ADDRESS);
    let mut paths = PathSet::new(Role::Device, &keys.path, [0; 32], &[], Duration::ZERO);
    let mut with_tag = vec![8];
    with_tag.extend_from_slice(&keys.path.tag());
    with_tag.extend_from_slice(noise);
    for datagram in [noise, &with_tag] {
        let received = paths.handle_datagram(Via::udp(from), datagram, Duration::ZERO);
        assert_eq!(received, Received::Nothing);
    }
    assert_eq!(paths.route(), None);
    assert_eq!(paths.poll_transmit(), None);
    let mut reader = FrameReader::default();
    reader.push(noise);
    while reader.next_frame().is_some() {}
    let mut registration = Registration::new(
        device(),
        vector::ORIGIN.into(),
        "test".into(),
        None,
        Duration::ZERO,
    );
    for _ in 0..2 {
        registration.handle_message(noise, Duration::ZERO);
    }
    let closed = std::iter::from_fn(|| registration.poll_output())
        .filter(|output| matches!(output, Output::Close(_)))
        .count();
    assert!(closed <= 1, "closed {closed} times");
}

#[test]
fn every_damaged_envelope_is_refused() {
    let mut admission = Admission::new(device(), ISSUED_AT);
    admission.set_secret(PASSWORD_ID, psk());
    let envelope = bytes(vector::ENVELOPE);
    for damaged in damaged(&envelope) {
        assert!(
            Envelope::decode(&damaged).is_err(),
            "{}",
            hex::encode(&damaged)
        );
        let refusal = admission.admit(&damaged, ISSUED_AT).expect_err("refused");
        assert!([Code::BadEnvelope, Code::BadVersion].contains(&refusal.code));
    }
    assert!(admission.admit(&envelope, ISSUED_AT).is_ok());
}

#[test]
fn every_damaged_reply_is_refused() {
    let (_, keys) = vector::seal();
    let sealed = bytes(vector::REPLY);
    for damaged in damaged(&sealed) {
        assert!(keys.reply.open(&damaged, &request().id).is_err());
    }
    assert_eq!(keys.reply.open(&sealed, &request().id), Ok(reply()));
    assert!(
        keys.reply.open(&sealed, &[0; 16]).is_err(),
        "another request"
    );
}

#[test]
fn of_a_replys_flight_only_so_much_is_taken() {
    let (_, keys) = vector::seal();
    let opened = |sizes: &[usize]| {
        let flight = sizes.iter().map(|size| vec![0xc0; *size].into()).collect();
        let sealed = keys.reply.clone().seal(&Reply { flight, ..reply() });
        let reply = keys.reply.open(&sealed, &request().id).expect("a reply");
        let sizes = reply.flight.iter().map(|datagram| datagram.len());
        sizes.collect::<Vec<_>>()
    };
    assert_eq!(opened(&[1200; MAX_FLIGHT]), [1200; MAX_FLIGHT]);
    assert_eq!(opened(&[1200; MAX_FLIGHT + 1]), [1200; MAX_FLIGHT]);
    assert_eq!(opened(&[MAX_DATAGRAM, MAX_DATAGRAM + 1]), [MAX_DATAGRAM]);
}

#[test]
fn every_damaged_refusal_is_refused() {
    let envelope = bytes(vector::ENVELOPE);
    for original in [vector::REFUSAL, vector::REFUSAL_PLAIN].map(bytes) {
        for damaged in damaged(&original) {
            assert!(
                Refusal::decode(&damaged, &device().id(), &envelope).is_err(),
                "{}",
                hex::encode(&damaged)
            );
        }
        assert!(Refusal::decode(&original, &device().id(), &envelope).is_ok());
    }
}

#[test]
fn every_damaged_path_datagram_is_dropped() {
    let (_, keys) = vector::seal();
    let from = vector::address(vector::DEVICE_PUBLIC_ADDRESS);
    let mut paths = PathSet::new(Role::Caller, &keys.path, [0; 32], &[], Duration::ZERO);
    for original in [vector::PING, vector::HANDSHAKE].map(bytes) {
        for damaged in damaged(&original) {
            let received = paths.handle_datagram(Via::udp(from), &damaged, Duration::ZERO);
            assert_eq!(received, Received::Nothing, "{}", hex::encode(&damaged));
        }
        assert_eq!((paths.poll_timeout(), paths.poll_transmit()), (None, None));
    }
    for original in [vector::HANDSHAKE, vector::PING].map(bytes) {
        assert_ne!(
            paths.handle_datagram(Via::udp(from), &original, Duration::ZERO),
            Received::Nothing
        );
        assert_eq!(
            paths.handle_datagram(Via::udp(from), &original, Duration::ZERO),
            Received::Nothing,
            "a replay"
        );
    }
    // The caller's own datagram, sent back to it.
    assert_eq!(
        paths.handle_datagram(Via::udp(from), &bytes(vector::PONG), Duration::ZERO),
        Received::Nothing
    );
}

#[test]
fn an_unknown_key_changes_no_envelope_and_no_stream_header() {
    for value in VALUES {
        let longer = with_unknown_key(&bytes(vector::ENVELOPE), value);
        let envelope = Envelope::decode(&longer).expect("an envelope");
        assert_eq!(envelope.encode(), bytes(vector::ENVELOPE));
        let open = bytes(vector::OPEN);
        let longer = [&open[2..3], &with_unknown_key(&open[3..], value)].concat();
        assert_eq!(Open::decode(&longer).expect("an Open").service, "ssh");
        let opened = bytes(vector::OPENED);
        let longer = [&opened[2..3], &with_unknown_key(&opened[3..], value)].concat();
        assert_eq!(Opening::decode(&longer), Ok(Opening::Opened));
    }
}

/// The usable candidates of one transport.
fn rank_all(candidates: &[Candidate], loopback: bool, transport: u8) -> Vec<Candidate> {
    let of_it: Vec<Candidate> = candidates
        .iter()
        .filter(|one| one.transport == transport)
        .cloned()
        .collect();
    rank(&of_it, loopback)
}

#[test]
fn numbers_of_a_later_version_are_let_pass() {
    // NAT 4 in a reply; kind 9 and transport 2 in a candidate.
    let mut encoded = minicbor::to_vec(reply()).expect("CBOR");
    assert_eq!(encoded[encoded.len() - 2..], [0x03, 0x02]);
    *encoded.last_mut().expect("not empty") = 4;
    let decoded: Reply = minicbor::decode(&encoded).expect("a reply");
    assert_eq!(decoded.nat, Nat::Unknown);
    let candidate: Candidate =
        minicbor::decode(&bytes("a300090146c0a8010b1b580202")).expect("a candidate");
    assert_eq!((candidate.kind, candidate.transport), (Kind::Unknown(9), 2));
    assert_eq!(rank(&[candidate], true), []);
}

/// An unknown value may be nested as deep as a frame is long; reading past it takes no stack.
#[test]
fn deep_nesting_is_skipped() {
    for opening in [0x81, 0x9f, 0xa1, 0xc1] {
        let mut deep = vec![opening; 30_000];
        deep.push(0);
        let mut frame = vec![0x03];
        frame.extend(with_unknown_key(&[0xa1, 0x00, 0x07], &deep));
        let _ = Frame::decode(&frame);
    }
    let mut deep = vec![0x81; 30_000];
    deep.push(0);
    let mut frame = vec![0x03];
    frame.extend(with_unknown_key(&[0xa1, 0x00, 0x07], &deep));
    assert_eq!(Frame::decode(&frame), Ok(Ack { call: 7 }.into()));
}

#[test]
fn sizes_over_the_limit_are_refused() {
    let mut frame = vec![0x7f; MAX_FRAME];
    assert_eq!(Frame::decode(&frame), Ok(Frame::Unknown(0x7f)));
    frame.push(0);
    assert!(Frame::decode(&frame).is_err());
    assert!(Frame::decode(&[]).is_err());
    let open = Open::new("s".repeat(MAX_HEADER));
    assert!(Open::decode(&open.encode()[2..]).is_err());
    let mut ack = bytes(vector::ACK);
    ack.push(0);
    assert!(Frame::decode(&ack).is_err(), "a byte too many");
}

#[test]
fn an_id_has_one_text() {
    assert!(vector::ID_PADDED.parse::<PeerId>().is_err());
}

#[test]
fn a_registration_keeps_to_its_order() {
    let registered = bytes(vector::REGISTERED);
    for early in [
        vector::REGISTERED,
        vector::DELIVER,
        vector::UPDATED,
        vector::ACK,
    ] {
        let mut registration = Registration::new(
            device(),
            vector::ORIGIN.into(),
            "test".into(),
            None,
            Duration::ZERO,
        );
        registration.handle_message(&bytes(early), Duration::ZERO);
        assert!(matches!(
            registration.poll_output(),
            Some(Output::Close(CloseReason::Misbehaved(_)))
        ));
        registration.handle_message(&registered, Duration::ZERO);
        assert_eq!(registration.poll_output(), None);
        assert_eq!(registration.poll_timeout(), None);
    }
}
