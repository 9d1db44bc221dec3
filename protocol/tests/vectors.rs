//! Byte-exact vectors: what this crate sends is what PROTOCOL.md says, bit for bit.

mod vector;

use std::time::Duration;

use ringback_protocol::candidate::{Candidate, Kind, address};
use ringback_protocol::channel::Channel;
use ringback_protocol::envelope::{Envelope, Proof, Request};
use ringback_protocol::frame::{
    Ack, Answer, Answered, Beacon, Challenge, Deliver, Delivered, Failed, Frame, Gone, Join,
    Joined, Known, ListedBeacon, Mark, Marked, Notify, PeerPresence, Place, Refuse, Refused,
    Register, Registered, Rejected, Seen, Update, Updated, length_prefixed,
};
use ringback_protocol::path::{PathSet, Received, Role, Via, link_tag};
use ringback_protocol::refusal::Refusal;
use ringback_protocol::registration::{
    sign_answers, sign_challenge, sign_enrolment, sign_fetch, sign_join, sign_upgrade,
    verify_answers, verify_challenge, verify_enrolment, verify_fetch, verify_join, verify_upgrade,
};
use ringback_protocol::relay;
use ringback_protocol::reply::Reply;
use ringback_protocol::secret::Psk;
use ringback_protocol::stream::{Open, Opening, StreamRefused};
use ringback_protocol::{Code, PeerId, label};
use vector::{bytes, caller, device, psk, reply, request};

fn nonce() -> [u8; 32] {
    std::array::from_fn(|i| 32 + i as u8)
}

/// `frame` is written as `expected`, and read back from it.
fn assert_frame(frame: impl Into<Frame>, expected: &str) {
    let frame = frame.into();
    assert_eq!(hex::encode(frame.encode()), expected, "{frame:?}");
    assert_eq!(Frame::decode(&bytes(expected)), Ok(frame));
}

#[test]
fn identities() {
    for (key, id) in [(device(), vector::DEVICE_ID), (caller(), vector::CALLER_ID)] {
        assert_eq!(key.id().to_string(), id);
        assert_eq!(id.parse::<PeerId>(), Ok(key.id()));
        assert_eq!(id.to_uppercase().parse::<PeerId>(), Ok(key.id()));
    }
    assert_eq!(hex::encode(device().id().as_bytes()), vector::DEVICE_PUBLIC);
    assert_eq!(hex::encode(caller().id().as_bytes()), vector::CALLER_PUBLIC);
    assert_eq!(*device().seed(), [0xd0; 32]);
}

#[test]
fn password() {
    let derived = Psk::from_password(vector::PASSWORD, &device().id()).expect("a password");
    assert_eq!(hex::encode(derived.as_bytes()), vector::PSK);
}

#[test]
fn envelope_by_password() {
    let (envelope, _) = vector::seal();
    assert_eq!(hex::encode(envelope.encode()), vector::ENVELOPE);
    let received = Envelope::decode(&bytes(vector::ENVELOPE)).expect("an envelope");
    assert_eq!(received, envelope);
    let (opened, _) = received.open(&device(), Some(&psk())).expect("it opens");
    assert_eq!(opened, request());
    assert_eq!(
        hex::encode(minicbor::to_vec(request()).expect("CBOR")),
        vector::REQUEST
    );
}

#[test]
fn envelope_by_key() {
    let (envelope, _) = vector::seal_with(Proof::Key);
    assert_eq!(hex::encode(envelope.encode()), vector::ENVELOPE_BY_KEY);
    let received = Envelope::decode(&bytes(vector::ENVELOPE_BY_KEY)).expect("an envelope");
    let (opened, _) = received.open(&device(), None).expect("it opens");
    assert_eq!(opened, request());
}

#[test]
fn sealed_reply() {
    let (_, at_caller) = vector::seal();
    let (_, at_device) = Envelope::decode(&bytes(vector::ENVELOPE))
        .expect("an envelope")
        .open(&device(), Some(&psk()))
        .expect("it opens");
    assert_eq!(hex::encode(at_device.reply.seal(&reply())), vector::REPLY);
    let opened = at_caller
        .reply
        .open(&bytes(vector::REPLY), &request().id)
        .expect("it opens");
    assert_eq!(opened, reply());
    assert_eq!(
        hex::encode(minicbor::to_vec(reply()).expect("CBOR")),
        vector::REPLY_PLAIN
    );
}

/// §19
#[test]
fn browser_descriptions() {
    let (request, reply) = (vector::browser_request(), vector::browser_reply());
    let encoded = minicbor::to_vec(&request).expect("CBOR");
    assert_eq!(hex::encode(&encoded), vector::BROWSER_REQUEST);
    let decoded: Request = minicbor::decode(&encoded).expect("a request");
    assert_eq!(decoded, request);
    let encoded = minicbor::to_vec(&reply).expect("CBOR");
    assert_eq!(hex::encode(&encoded), vector::BROWSER_REPLY);
    let decoded: Reply = minicbor::decode(&encoded).expect("a reply");
    assert_eq!(decoded, reply);
    let addresses = request.webrtc.expect("a description").addresses();
    let public = vector::address(vector::CALLER_PUBLIC_ADDRESS);
    assert_eq!(
        addresses,
        [Candidate::udp(Kind::ServerReflexive, public)],
        "the mDNS name is left out"
    );
}

/// §19.2
#[test]
fn channel_messages() {
    let open = Open::new("ssh");
    let mut channel = Channel::caller(&open);
    let mut poll = || channel.poll_message().map(hex::encode);
    assert_eq!(poll().as_deref(), Some(vector::CHANNEL_HEADER));
    assert_eq!(poll(), None);
    assert_eq!(channel.write(b"hi"), 2);
    channel.finish();
    let mut poll = || channel.poll_message().map(hex::encode);
    assert_eq!(poll().as_deref(), Some(vector::CHANNEL_DATA));
    assert_eq!(poll().as_deref(), Some(vector::CHANNEL_END));
    assert_eq!(poll(), None);

    let mut device = Channel::device();
    assert_eq!(
        device.handle_message(&bytes(vector::CHANNEL_HEADER)),
        Ok(())
    );
    assert_eq!(device.header(), Some(bytes(&vector::CHANNEL_HEADER[2..])));
    for _ in 0..4 {
        let data = [&[0][..], &[7; 65_535]].concat();
        assert_eq!(device.handle_message(&data), Ok(()));
    }
    while device.read().is_some() {}
    assert_eq!(
        device.poll_message(),
        None,
        "not yet a quarter of the window"
    );
    assert_eq!(device.handle_message(&[0, 1, 2, 3, 4]), Ok(()));
    assert!(device.read().is_some());
    let credit = device.poll_message().map(hex::encode);
    assert_eq!(credit.as_deref(), Some(vector::CHANNEL_CREDIT));
    device.reset(3);
    let reset = device.poll_message().map(hex::encode);
    assert_eq!(reset.as_deref(), Some(vector::CHANNEL_RESET));
    assert!(device.is_over());
}

#[test]
fn signed_refusals() {
    let envelope = bytes(vector::ENVELOPE);
    for (code, retry, expected) in [
        (Code::RateLimited, Some(271), vector::REFUSAL),
        (Code::WrongPassword, None, vector::REFUSAL_PLAIN),
    ] {
        let time = vector::ISSUED_AT + 1;
        let refusal = Refusal::sign(&device(), &envelope, code, retry, time);
        assert_eq!(hex::encode(refusal.encode()), expected);
        assert_eq!(
            Refusal::decode(&bytes(expected), &device().id(), &envelope),
            Ok(refusal)
        );
    }
}

#[test]
fn path_datagrams() {
    let (_, keys) = vector::seal();
    let keys = keys.path;
    let to_caller = vector::address(vector::CALLER_PUBLIC_ADDRESS);
    let to_device = vector::address(vector::DEVICE_PUBLIC_ADDRESS);
    let mut from_device = PathSet::new(
        Role::Device,
        &keys,
        vector::DEVICE_PATH_SEED,
        &[Candidate::udp(Kind::ServerReflexive, to_caller)],
        Duration::ZERO,
    );
    let ping = from_device.poll_transmit().expect("a ping");
    assert_eq!(ping.via, Via::udp(to_caller));
    assert_eq!(hex::encode(&ping.datagram), vector::PING);
    let quic = bytes(vector::QUIC_INITIAL);
    from_device.send_handshake(&quic);
    let handshake = from_device.poll_transmit().expect("a handshake");
    assert_eq!(hex::encode(&handshake.datagram), vector::HANDSHAKE);
    assert_eq!(
        link_tag(&ping.datagram).map(hex::encode).as_deref(),
        Some(vector::LINK_TAG)
    );

    let mut from_caller = PathSet::new(
        Role::Caller,
        &keys,
        vector::CALLER_PATH_SEED,
        &[Candidate::udp(Kind::Mapped, to_device)],
        Duration::ZERO,
    );
    from_caller.poll_transmit().expect("a ping of its own");
    let now = Duration::from_millis(20);
    assert_eq!(
        from_caller.handle_datagram(Via::udp(to_device), &bytes(vector::PING), now),
        Received::Authentic
    );
    let pong = from_caller.poll_transmit().expect("a pong");
    assert_eq!(pong.via, Via::udp(to_device));
    assert_eq!(hex::encode(&pong.datagram), vector::PONG);
    assert_eq!(
        from_caller.handle_datagram(Via::udp(to_device), &bytes(vector::HANDSHAKE), now),
        Received::Handshake(quic)
    );
    assert_eq!(
        from_device.handle_datagram(Via::udp(to_caller), &bytes(vector::PONG), now),
        Received::Authentic
    );
    assert_eq!(from_device.rtt(), Some(now));
}

#[test]
fn signatures_of_registration() {
    let signature = sign_challenge(&device(), &nonce(), vector::ORIGIN);
    assert_eq!(hex::encode(signature), vector::REGISTER_SIGNATURE);
    assert!(verify_challenge(
        &device().id(),
        &nonce(),
        vector::ORIGIN,
        &signature
    ));
    assert!(!verify_challenge(
        &device().id(),
        &nonce(),
        "https://other.example",
        &signature
    ));
    let signature = sign_enrolment(&device(), vector::ORIGIN, "olab-23cd-45ef-67gh");
    assert_eq!(hex::encode(signature), vector::ENROL_SIGNATURE);
    let canonical = "01AB23CD45EF67GH";
    assert!(verify_enrolment(
        &device().id(),
        vector::ORIGIN,
        canonical,
        &signature
    ));
}

#[test]
fn frames_of_the_device() {
    let public = vector::address(vector::DEVICE_PUBLIC_ADDRESS);
    let signature = sign_challenge(&device(), &nonce(), vector::ORIGIN);
    let agent = "ringback/0.1.0".to_owned();
    assert_frame(
        Register {
            signature,
            agent: agent.clone(),
            public: Some(public),
            instance: None,
        },
        vector::REGISTER,
    );
    assert_frame(
        Register {
            signature,
            agent: agent.clone(),
            public: None,
            instance: None,
        },
        vector::REGISTER_UNKNOWN_ADDRESS,
    );
    assert_frame(
        Register {
            signature,
            agent,
            public: None,
            instance: Some(0x0102_0304_0506_0708),
        },
        vector::REGISTER_OF_INSTANCE,
    );
    let public = vector::address("[2001:db8::3]:443");
    assert_frame(Update { public }, vector::UPDATE);
    assert_frame(Ack { call: 7 }, vector::ACK);
    assert_frame(
        Answer {
            call: 7,
            reply: bytes(vector::REPLY),
        },
        vector::ANSWER,
    );
    assert_frame(
        Refuse {
            call: 7,
            refusal: bytes(vector::REFUSAL),
        },
        vector::REFUSE,
    );
    assert_frame(
        Place {
            call: 9,
            device: device().id(),
            envelope: bytes(vector::ENVELOPE),
        },
        vector::PLACE,
    );
}

#[test]
fn frames_of_the_registry_to_a_device() {
    let public = vector::address("[2001:db8::3]:443");
    assert_frame(
        Challenge {
            nonce: nonce(),
            time_ms: 1_800_000_000_123,
        },
        vector::CHALLENGE,
    );
    assert_frame(
        Registered {
            seen: "202.204.16.13".into(),
            name: "nas".into(),
            stun: vec!["stun.example:3478".into()],
            beacons: Vec::new(),
            rival: None,
        },
        vector::REGISTERED,
    );
    assert_frame(
        Registered {
            seen: "203.0.113.7".into(),
            name: "nas".into(),
            stun: Vec::new(),
            beacons: Vec::new(),
            rival: Some("203.0.113.8".into()),
        },
        vector::REGISTERED_WITH_RIVAL,
    );
    let with_tcp = ListedBeacon {
        udp: "beacon.example:3478".into(),
        tcp: Some("beacon.example:443".into()),
        relay: true,
        id: caller().id(),
    };
    let udp_only = ListedBeacon {
        udp: "203.0.113.5:3478".into(),
        tcp: None,
        relay: false,
        id: device().id(),
    };
    assert_frame(
        Registered {
            seen: "202.204.16.13".into(),
            name: "nas".into(),
            stun: vec!["stun.example:3478".into()],
            beacons: vec![with_tcp, udp_only],
            rival: None,
        },
        vector::REGISTERED_BEACONS,
    );
    assert_frame(
        Deliver {
            call: 7,
            envelope: bytes(vector::ENVELOPE),
        },
        vector::DELIVER,
    );
    assert_frame(
        Rejected {
            code: Code::RateLimited,
            detail: "too many attempts".into(),
            retry_after_s: Some(60),
        },
        vector::REJECTED,
    );
    assert_frame(
        Rejected {
            code: Code::Revoked,
            detail: "the owner has revoked this device".into(),
            retry_after_s: None,
        },
        vector::REJECTED_FOR_GOOD,
    );
    assert_frame(Updated { public }, vector::UPDATED);
}

#[test]
fn frames_of_a_beacon() {
    let public = vector::address(vector::DEVICE_PUBLIC_ADDRESS);
    let device = device().id();
    assert_frame(
        Beacon {
            udp: "beacon.example:3478".into(),
            tcp: Some("beacon.example:443".into()),
            relay: true,
        },
        vector::BEACON,
    );
    assert_frame(
        Beacon {
            udp: "203.0.113.5:3478".into(),
            tcp: None,
            relay: false,
        },
        vector::BEACON_UDP_ONLY,
    );
    let public = Some(public);
    assert_frame(Seen { device, public }, vector::SEEN);
    assert_frame(Gone { device }, vector::GONE);
    assert_frame(Known { device, code: None }, vector::KNOWN);
    let code = Some(Code::Revoked);
    assert_frame(Known { device, code }, vector::KNOWN_NOT);
    assert_frame(Notify { device }, vector::NOTIFY);
}

#[test]
fn the_relay() {
    let (_, keys) = vector::seal();
    let room = keys.relay;
    assert_eq!(room.to_string(), vector::ROOM);
    assert_eq!(vector::ROOM.parse(), Ok(room));
    assert!(!format!("{keys:?}").contains(vector::ROOM));
    for (key, role, expected) in [
        (device(), Role::Device, vector::JOIN),
        (caller(), Role::Caller, vector::JOIN_BY_CALLER),
    ] {
        let signature = sign_join(&key, &room, &nonce(), vector::ORIGIN);
        let peer = key.id();
        assert_frame(
            Join {
                role,
                peer,
                device: device().id(),
                signature,
            },
            expected,
        );
        let other_room = relay::Room([1; 16]);
        let other_origin = "https://other.example";
        let fits =
            |room, nonce: [u8; 32], origin| verify_join(&peer, room, &nonce, origin, &signature);
        assert!(fits(&room, nonce(), vector::ORIGIN));
        assert!(!fits(&other_room, nonce(), vector::ORIGIN));
        assert!(!fits(&room, [0; 32], vector::ORIGIN));
        assert!(!fits(&room, nonce(), other_origin));
    }
    let rate_bytes_s = 4 << 20;
    let remaining_bytes = 10 << 30;
    assert_frame(
        Joined {
            rate_bytes_s,
            remaining_bytes,
        },
        vector::JOINED,
    );
    assert_frame(Mark { number: 7 }, vector::MARK);
    assert_frame(Marked { number: 7 }, vector::MARKED);
    let presence = PeerPresence { present: true };
    assert_frame(presence.clone(), vector::PEER_PRESENCE);
    let message = relay::control(&presence.into());
    assert_eq!(hex::encode(message), vector::RELAY_CONTROL);
}

#[test]
fn signatures_of_a_device_without_a_socket() {
    let time_ms = 1_800_000_000_123;
    let id = device().id();
    let signature = sign_fetch(&device(), vector::ORIGIN, time_ms);
    assert_eq!(hex::encode(signature), vector::FETCH_SIGNATURE);
    assert!(verify_fetch(&id, vector::ORIGIN, time_ms, &signature));
    assert!(!verify_fetch(&id, vector::ORIGIN, time_ms + 1, &signature));
    assert!(!verify_fetch(&id, "https://b", time_ms, &signature));
    let body = length_prefixed(&bytes(vector::ACK));
    let signature = sign_answers(&device(), vector::ORIGIN, time_ms, &body);
    assert_eq!(hex::encode(signature), vector::ANSWERS_SIGNATURE);
    let fits = |time, body: &[u8]| verify_answers(&id, vector::ORIGIN, time, body, &signature);
    assert!(fits(time_ms, &body));
    assert!(!fits(time_ms - 1, &body));
    assert!(!fits(time_ms, &body[..5]));
}

#[test]
fn signature_of_an_upgrade() {
    let (id, time_ms) = (device().id(), 1_800_000_000_123);
    let path = "/v1/relays/000102030405060708090a0b0c0d0e0f";
    let signature = sign_upgrade(&device(), vector::ORIGIN, path, time_ms);
    assert_eq!(hex::encode(signature), vector::UPGRADE_SIGNATURE);
    let fits = |origin, path, time_ms| verify_upgrade(&id, origin, path, time_ms, &signature);
    assert!(fits(vector::ORIGIN, path, time_ms));
    assert!(!fits(vector::ORIGIN, path, time_ms + 1));
    assert!(!fits(vector::ORIGIN, "/v1/relays/", time_ms));
    assert!(!fits("https://b", path, time_ms));
}

#[test]
fn frames_of_the_registry_to_a_caller() {
    assert_frame(Delivered { call: 0 }, vector::DELIVERED);
    assert_frame(
        Answered {
            call: 0,
            reply: bytes(vector::REPLY),
            ice: None,
        },
        vector::ANSWERED,
    );
    assert_frame(
        Refused {
            call: 0,
            refusal: bytes(vector::REFUSAL),
        },
        vector::REFUSED,
    );
    assert_frame(
        Failed {
            call: 0,
            code: Code::DeviceOffline,
            detail: "the device is not connected".into(),
            retry_after_s: None,
            last_seen: Some(1_799_990_000),
        },
        vector::FAILED,
    );
    assert_frame(
        Failed {
            call: 0,
            code: Code::RateLimited,
            detail: "too many attempts".into(),
            retry_after_s: Some(60),
            last_seen: None,
        },
        vector::FAILED_LIMITED,
    );
    let delivered = bytes(vector::DELIVERED);
    assert_eq!(
        length_prefixed(&delivered),
        [&[0, 4], delivered.as_slice()].concat()
    );
}

#[test]
fn stream_headers() {
    let open = Open::new("ssh");
    assert_eq!(hex::encode(open.encode()), vector::OPEN);
    assert_eq!(Open::decode(&bytes(vector::OPEN)[2..]), Ok(open));
    let refused = Opening::Refused(StreamRefused {
        code: Code::UnknownService,
        detail: "no service of this name".into(),
    });
    for (opening, expected) in [
        (Opening::Opened, vector::OPENED),
        (refused, vector::STREAM_REFUSED),
    ] {
        assert_eq!(hex::encode(opening.encode()), expected);
        assert_eq!(Opening::decode(&bytes(expected)[2..]), Ok(opening));
    }
}

#[test]
fn addresses() {
    for (text, expected) in [
        ("4.17.168.2:40000", "0411a8029c40"),
        ("[2001:db8::3]:443", "20010db800000000000000000000000301bb"),
        ("[::ffff:4.17.168.2]:40000", "0411a8029c40"),
    ] {
        let wire = address::to_bytes(vector::address(text));
        assert_eq!(hex::encode(wire), expected, "{text}");
    }
    assert_eq!(
        address::from_bytes(&bytes("00000000000000000000ffff0411a8029c40")),
        Some(vector::address("4.17.168.2:40000")),
        "a mapped address is read as IPv4"
    );
}

/// The document shows these very bytes, names every frame with its tag, every label and every code.
#[test]
fn the_document_says_the_same() {
    let document = include_str!("../../PROTOCOL.md");
    let hex_only: String = document
        .lines()
        .map(|line| line.trim().replace(' ', ""))
        .collect();
    for (what, hex_text) in [
        ("device public key", vector::DEVICE_PUBLIC),
        ("psk", vector::PSK),
        ("request", vector::REQUEST),
        ("envelope", vector::ENVELOPE),
        ("reply plaintext", vector::REPLY_PLAIN),
        ("reply", vector::REPLY),
        ("refusal", vector::REFUSAL),
        ("ping", vector::PING),
        ("pong", vector::PONG),
        ("challenge", vector::CHALLENGE),
        ("register", vector::REGISTER),
        ("open", vector::OPEN),
        ("room", vector::ROOM),
        ("join", vector::JOIN),
        ("control message", vector::RELAY_CONTROL),
        ("fetch signature", vector::FETCH_SIGNATURE),
        ("upgrade signature", vector::UPGRADE_SIGNATURE),
        ("browser's request", vector::BROWSER_REQUEST),
        ("reply to a browser", vector::BROWSER_REPLY),
        ("channel's Header", vector::CHANNEL_HEADER),
        ("channel's Data", vector::CHANNEL_DATA),
        ("channel's Credit", vector::CHANNEL_CREDIT),
        ("channel's Reset", vector::CHANNEL_RESET),
        ("beacon's Register", vector::beacon::REGISTER),
        ("beacon's Registered", vector::beacon::REGISTERED),
        ("beacon's Keepalive", vector::beacon::KEEPALIVE),
        ("beacon's Notify", vector::beacon::NOTIFICATION),
        ("beacon's Notified", vector::beacon::NOTIFIED),
        ("beacon's Join", vector::beacon::RELAY_JOIN),
    ] {
        assert!(hex_only.contains(hex_text), "no {what} among the examples");
    }
    for id in [vector::DEVICE_ID, vector::CALLER_ID] {
        assert!(document.contains(id), "no {id} among the examples");
    }
    for label in [
        label::PASSWORD,
        label::ENROL,
        label::REGISTER,
        label::REQUEST,
        label::ENVELOPE,
        label::REPLY,
        label::REFUSAL,
        label::PATH_DEVICE,
        label::PATH_CALLER,
        label::PATH_TAG,
        label::RELAY,
        label::JOIN,
        label::BEACON,
        label::COOKIE,
        label::FETCH,
        label::ANSWER,
        label::UPGRADE,
    ] {
        assert!(document.contains(&format!("| `{label}` |")), "{label}");
    }
    for code in Code::ALL {
        let status = match code.http_status() {
            0 => "–".to_owned(),
            status => status.to_string(),
        };
        let row = format!("| `{code}` | {status} |");
        assert!(document.contains(&row), "no row {row} in section 13");
    }
    for (vector, name) in [
        (vector::REGISTER, "Register"),
        (vector::UPDATE, "Update"),
        (vector::ACK, "Ack"),
        (vector::ANSWER, "Answer"),
        (vector::REFUSE, "Refuse"),
        (vector::PLACE, "Place"),
        (vector::JOIN, "Join"),
        (vector::BEACON, "Beacon"),
        (vector::SEEN, "Seen"),
        (vector::GONE, "Gone"),
        (vector::JOINED, "Joined"),
        (vector::PEER_PRESENCE, "PeerPresence"),
        (vector::KNOWN, "Known"),
        (vector::NOTIFY, "Notify"),
        (vector::MARK, "Mark"),
        (vector::MARKED, "Marked"),
        (vector::CHALLENGE, "Challenge"),
        (vector::REGISTERED, "Registered"),
        (vector::DELIVER, "Deliver"),
        (vector::REJECTED, "Rejected"),
        (vector::UPDATED, "Updated"),
        (vector::DELIVERED, "Delivered"),
        (vector::ANSWERED, "Answered"),
        (vector::REFUSED, "Refused"),
        (vector::FAILED, "Failed"),
    ] {
        let row = format!("| `0x{}` | {name} |", &vector[..2]);
        assert!(document.contains(&row), "no row {row} in section 6");
    }
}
