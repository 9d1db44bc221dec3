//! A device's socket (PROTOCOL.md, section 6), on real workerd: the proof of its key, what the
//! device list makes of it, and what becomes of those who do not keep to the protocol.

use std::time::{Duration, Instant};

use ringback_protocol::frame::{Ack, Answer, Frame, Place, Register, Update, Updated};
use ringback_protocol::registration::sign_challenge;
use ringback_tests::registry::{Incident, Registry, Socket, envelope, new_key};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite;

#[tokio::test]
async fn a_device_registers_and_is_listed() {
    let registry = Registry::start();
    let key = registry.enrolled("nas").await;
    let mut socket = Socket::connect(&registry, &key).await;
    assert_ne!(socket.challenge.nonce, [0; 32]);
    let now = registry.get("/v1/registry").await.body["time"]
        .as_u64()
        .unwrap();
    assert!(now.abs_diff(socket.challenge.time_ms / 1000) < 5);

    socket
        .register(
            &key,
            &registry.origin(),
            Some("203.0.113.7:4000".parse().unwrap()),
        )
        .await;
    let registered = socket.expect_registered().await;
    assert_eq!(registered.name, "nas");
    assert_eq!(registered.seen, "127.0.0.1");
    let row = registry.row(&key.id()).await;
    assert_eq!(row["online"], true);
    assert_eq!(
        (&row["public_address"], &row["mapped_port"]),
        (&json!("203.0.113.7"), &json!(4000))
    );
    assert_eq!(row["agent"], "ringback-tests/1");
    assert!(row["last_seen"].as_u64().unwrap() >= now);

    let moved = "[2001:db8::7]:5000".parse().unwrap();
    socket.send(Update { public: moved }).await;
    assert_eq!(
        socket.next().await,
        Incident::Frame(Updated { public: moved }.into())
    );
    let row = registry.row(&key.id()).await;
    assert_eq!(
        (&row["public_address"], &row["mapped_port"]),
        (&json!("2001:db8::7"), &json!(5000))
    );

    socket.close().await;
    let row = registry.await_row(&key.id(), "online", json!(false)).await;
    assert_eq!(
        row["public_address"], "2001:db8::7",
        "the last one known stays"
    );
    assert!(row["last_seen"].as_u64().unwrap() >= now);
}

#[tokio::test]
async fn a_connection_that_just_ends_is_noticed() {
    let registry = Registry::start();
    let (key, socket) = registry.online("nas").await;
    drop(socket);
    registry.await_row(&key.id(), "online", json!(false)).await;
}

#[tokio::test]
async fn pings_are_answered_and_other_texts_ignored() {
    let registry = Registry::start();
    let (_, mut socket) = registry.online("nas").await;
    socket.send_text("hello").await;
    socket.send_text("").await;
    socket.expect_quiet().await;
}

#[tokio::test]
async fn only_the_key_registers() {
    let registry = Registry::start();
    let key = registry.enrolled("nas").await;
    let origin = registry.origin();

    let mut socket = Socket::connect(&registry, &key).await;
    socket.register(&new_key(), &origin, None).await;
    assert_eq!(socket.expect_rejected().await, "bad_signature");

    let mut socket = Socket::connect(&registry, &key).await;
    socket
        .register(&key, "https://other-registry.example", None)
        .await;
    assert_eq!(
        socket.expect_rejected().await,
        "bad_signature",
        "a challenge passed on by another registry"
    );

    let old = Socket::connect(&registry, &key).await;
    let mut socket = Socket::connect(&registry, &key).await;
    let signature = sign_challenge(&key, &old.challenge.nonce, &origin);
    socket
        .send(Register {
            signature,
            agent: String::new(),
            public: None,
            instance: None,
        })
        .await;
    assert_eq!(
        socket.expect_rejected().await,
        "bad_signature",
        "the answer to another challenge"
    );

    let mut socket = Socket::connect(&registry, &key).await;
    let mut signature = sign_challenge(&key, &socket.challenge.nonce, &origin);
    signature[40] ^= 0x10;
    socket
        .send(Register {
            signature,
            agent: String::new(),
            public: None,
            instance: None,
        })
        .await;
    assert_eq!(
        socket.expect_rejected().await,
        "bad_signature",
        "a flipped bit"
    );

    assert_eq!(registry.row(&key.id()).await["online"], false);
    registry.registered(&key).await;
}

#[tokio::test]
async fn only_register_opens() {
    let registry = Registry::start();
    let key = registry.enrolled("nas").await;
    let register = Register {
        signature: [0; 64],
        agent: "a".repeat(40_000),
        public: None,
        instance: None,
    };
    for (what, bytes, code) in [
        ("nothing", vec![], "bad_frame"),
        ("a tag alone", vec![1], "bad_frame"),
        (
            "a tag that is not known",
            Frame::Unknown(0x77).encode(),
            "bad_frame",
        ),
        ("not CBOR", vec![1, 0xff, 0xff], "bad_frame"),
        (
            "another frame",
            Frame::from(Ack { call: 1 }).encode(),
            "bad_frame",
        ),
        (
            "a request",
            Frame::from(Place {
                call: 1,
                device: key.id(),
                envelope: vec![],
            })
            .encode(),
            "bad_frame",
        ),
        ("too much", Frame::from(register).encode(), "too_large"),
    ] {
        let mut socket = Socket::connect(&registry, &key).await;
        socket.send_bytes(bytes).await;
        assert_eq!(socket.expect_rejected().await, code, "{what}");
    }
    registry.registered(&key).await;
}

#[tokio::test]
async fn a_socket_is_a_websocket_of_this_protocol_to_a_device() {
    let registry = Registry::start();
    let device = registry.enrolled("nas").await.id();
    let reply = registry.get(&format!("/v1/devices/{device}/socket")).await;
    assert_eq!(reply.problem(), (400, "bad_request"));
    for protocol in [None, Some("ringback.2")] {
        match Socket::open(&registry, &device, None, protocol).await {
            Err(tungstenite::Error::Http(response)) => assert_eq!(response.status(), 400),
            other => panic!("{other:?}"),
        }
    }
    let reply = registry
        .reply(
            "GET",
            "/v1/devices/rb1x/socket",
            &[("upgrade", "websocket"), ("connection", "upgrade")],
            "",
        )
        .await;
    assert_eq!(reply.problem(), (400, "bad_request"));
}

#[tokio::test]
async fn a_newer_registration_replaces_the_older() {
    let registry = Registry::start();
    let (key, mut old) = registry.online("nas").await;
    let mut new = registry.registered(&key).await;
    assert_eq!(old.next().await, Incident::Closed(4001));
    drop(old);
    new.expect_quiet().await;
    assert_eq!(
        registry.row(&key.id()).await["online"],
        true,
        "the end of the old one is not the device's"
    );
    let mut ring = registry
        .ring(&key.id(), envelope(&new_key(), &key.id()))
        .await;
    let call = new.expect_deliver().await.call;
    new.send(Answer {
        call,
        reply: vec![1],
    })
    .await;
    assert!(matches!(ring.next().await, Some(Frame::Delivered(_))));
    assert!(matches!(ring.next().await, Some(Frame::Answered(_))));
}

/// As two agents with one key do, of which each takes the place from the other.
#[tokio::test]
async fn two_agents_with_one_key_are_told_and_the_owner_is() {
    let registry = Registry::start();
    let key = registry.enrolled("nas").await;
    let register = async |instance| {
        let mut socket = Socket::connect(&registry, &key).await;
        socket.instance = instance;
        socket.register(&key, &registry.origin(), None).await;
        let registered = socket.expect_registered().await;
        (socket, registered.rival)
    };
    let (mut first, rival) = register(Some(1)).await;
    assert_eq!(rival, None);
    let (mut second, rival) = register(Some(2)).await;
    assert_eq!(rival, None, "it may have been started anew");
    assert_eq!(first.next().await, Incident::Closed(4001));
    assert_eq!(registry.row(&key.id()).await["clone"], Value::Null);

    let (mut first, rival) = register(Some(1)).await;
    assert_eq!(rival.as_deref(), Some("127.0.0.1"), "it came back");
    match second.next().await {
        Incident::Frame(Frame::Rejected(rejected)) => {
            assert_eq!(rejected.code.as_str(), "key_in_use");
            assert_eq!(rejected.retry_after_s, Some(60));
            assert!(rejected.detail.contains("from 127.0.0.1"), "{rejected:?}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(second.next().await, Incident::Closed(4003));
    first.expect_quiet().await;
    let row = registry.row(&key.id()).await;
    assert_eq!(row["online"], true);
    assert_eq!(row["clone"]["addresses"], json!(["127.0.0.1"]));
    assert!(row["clone"]["seen"].as_u64().unwrap() > 1_700_000_000);

    // The same device on another network is alone.
    let (mut moved, rival) = register(Some(1)).await;
    assert_eq!(rival, None);
    assert_eq!(first.next().await, Incident::Closed(4001));
    moved.expect_quiet().await;

    // Agents of before do not say who they are, and are known by their haste.
    let other = registry.enrolled("old").await;
    let mut codes = Vec::new();
    let mut last = registry.registered(&other).await;
    for _ in 0..7 {
        let next = registry.registered(&other).await;
        codes.push(match last.next().await {
            Incident::Closed(code) => code.to_string(),
            Incident::Frame(Frame::Rejected(rejected)) => rejected.code.to_string(),
            other => panic!("{other:?}"),
        });
        last = next;
    }
    assert_eq!(codes[..5], ["4001"; 5]);
    assert_eq!(codes[5..], ["key_in_use"; 2]);
}

#[tokio::test]
async fn registrations_at_once_leave_one() {
    let started = Instant::now();
    let registry = Registry::start();
    let key = registry.enrolled("nas").await;
    let mut sockets = Vec::new();
    for _ in 0..6 {
        sockets.push(Socket::connect(&registry, &key).await);
    }
    for socket in &mut sockets {
        socket.register(&key, &registry.origin(), None).await;
    }
    // All but one are replaced, in whatever order the registry came to see them.
    while sockets.len() > 1 {
        let mut left = Vec::new();
        for mut socket in sockets {
            match tokio::time::timeout(Duration::from_millis(20), socket.next()).await {
                Ok(Incident::Closed(code)) => assert_eq!(code, 4001),
                Ok(Incident::Frame(Frame::Registered(_))) | Err(_) => left.push(socket),
                Ok(other) => panic!("{other:?}"),
            }
        }
        assert!(!left.is_empty(), "one stays");
        assert!(
            started.elapsed() < Duration::from_secs(20),
            "{} stay",
            left.len()
        );
        sockets = left;
    }
    let mut last = sockets.pop().expect("one is left");
    last.send_text("ping").await;
    loop {
        match last.next().await {
            Incident::Frame(Frame::Registered(_)) => {}
            Incident::Text(text) => break assert_eq!(text, "pong"),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(registry.row(&key.id()).await["online"], true);
}

#[tokio::test]
async fn revoking_closes_the_socket_at_once() {
    let registry = Registry::start();
    let (key, mut socket) = registry.online("nas").await;
    let path = format!("/v1/devices/{}", key.id());
    assert_eq!(
        registry.owner("DELETE", &path, Value::Null).await.status,
        204
    );
    assert_eq!(socket.expect_rejected().await, "revoked");
    let row = registry.row(&key.id()).await;
    assert_eq!(
        (&row["online"], &row["revoked"]),
        (&json!(false), &json!(true))
    );

    let mut socket = Socket::connect(&registry, &key).await;
    socket.register(&key, &registry.origin(), None).await;
    assert_eq!(socket.expect_rejected().await, "revoked");
    let reply = registry
        .ring_refused(&key.id(), envelope(&new_key(), &key.id()))
        .await;
    assert_eq!(reply.problem(), (403, "revoked"));

    let code = registry.code(json!({})).await;
    assert_eq!(
        registry
            .post("/v1/enrollments", &registry.enrolment(&key, &code))
            .await
            .status,
        201
    );
    registry.registered(&key).await;
}

#[tokio::test]
async fn a_registered_socket_outlives_bad_frames() {
    let registry = Registry::start();
    let (key, mut socket) = registry.online("nas").await;
    let good = Frame::from(Update {
        public: "203.0.113.7:4000".parse().unwrap(),
    })
    .encode();
    let mut flipped = good.clone();
    flipped[1] ^= 0x40;
    for bytes in [
        vec![],
        vec![2],
        vec![0x02, 0xff],
        flipped,
        vec![3; 33 * 1024],
        good[..good.len() - 1].to_vec(),
    ] {
        socket.send_bytes(bytes).await;
    }
    // Not even bad: a later version's frame, an answer to nobody, a frame that only the registry sends.
    socket.send(Frame::Unknown(0x3f)).await;
    socket
        .send(Answer {
            call: 99,
            reply: vec![],
        })
        .await;
    socket
        .send(Updated {
            public: "203.0.113.7:1".parse().unwrap(),
        })
        .await;
    socket.send_bytes(good).await;
    assert!(
        matches!(socket.next().await, Incident::Frame(Frame::Updated(_))),
        "the registration goes on"
    );
    assert_eq!(registry.row(&key.id()).await["mapped_port"], 4000);

    for _ in 0..16 {
        socket.send_bytes(vec![0x02]).await;
    }
    assert_eq!(
        socket.expect_rejected().await,
        "bad_frame",
        "a device that sends nothing else is broken"
    );
    registry.await_row(&key.id(), "online", json!(false)).await;
}

#[tokio::test]
async fn addresses_do_not_change_too_often() {
    let registry = Registry::start();
    let (key, mut socket) = registry.online("nas").await;
    for port in 1..=30 {
        let public = format!("203.0.113.7:{port}").parse().unwrap();
        for _ in 0..2 {
            socket.send(Update { public }).await;
            assert_eq!(
                socket.next().await,
                Incident::Frame(Updated { public }.into())
            );
        }
    }
    socket
        .send(Update {
            public: "203.0.113.7:31".parse().unwrap(),
        })
        .await;
    assert_eq!(socket.expect_rejected().await, "rate_limited");
    assert_eq!(
        registry.await_row(&key.id(), "online", json!(false)).await["mapped_port"],
        30
    );
}

#[tokio::test]
async fn eight_sockets_may_be_registering_for_ten_seconds_and_keep_nothing_awake() {
    let registry = Registry::start();
    let key = registry.enrolled("nas").await;
    let mut silent = Vec::new();
    for _ in 0..8 {
        silent.push(Socket::connect(&registry, &key).await);
    }
    match Socket::open(&registry, &key.id(), Some(&key), Some("ringback.1")).await {
        Err(tungstenite::Error::Http(response)) => {
            assert_eq!(response.status(), 429);
            assert_eq!(response.headers()["retry-after"], "10");
        }
        other => panic!("{other:?}"),
    }
    let other = registry.enrolled("other").await;
    registry.registered(&other).await;
    let loads = || {
        let log = registry.server.log();
        log.matches("device object loaded").count()
    };
    let before = loads();
    // workerd hibernates an object ten seconds after its last event.
    tokio::time::sleep(Duration::from_secs(12)).await;
    registry.registered(&key).await;
    assert!(
        loads() > before,
        "the object slept while sockets said nothing"
    );
    for socket in &mut silent {
        assert_eq!(socket.expect_rejected().await, "bad_frame");
    }
}

#[tokio::test]
async fn an_old_agent_registers_without_signing_its_upgrade_and_a_forged_one_is_refused() {
    let registry = Registry::start();
    let key = registry.enrolled("nas").await;
    let mut socket = Socket::connect_unsigned(&registry, &key.id()).await;
    socket.register(&key, &registry.origin(), None).await;
    socket.expect_registered().await;

    let loads = registry
        .server
        .log()
        .matches("device object loaded")
        .count();
    match Socket::open(&registry, &key.id(), Some(&new_key()), Some("ringback.1")).await {
        Err(tungstenite::Error::Http(response)) => assert_eq!(response.status(), 403),
        other => panic!("{other:?}"),
    }
    // A stranger's own key opens a socket in its own name only, and soon not even that.
    let mut opened = 0;
    for n in 0..80_u8 {
        let stranger = new_key();
        let signer = (n % 2 == 0).then_some(&stranger);
        let socket = Socket::open(&registry, &stranger.id(), signer, Some("ringback.1")).await;
        match socket {
            Ok(_) => opened += 1,
            Err(tungstenite::Error::Http(response)) => assert_eq!(response.status(), 429),
            Err(other) => panic!("{other:?}"),
        }
    }
    assert_eq!(opened, 29, "with the old agent thirty a minute");
    assert_eq!(
        registry
            .server
            .log()
            .matches("device object loaded")
            .count()
            - loads,
        29,
        "no object for what is refused"
    );
    registry.registered(&key).await;
}
