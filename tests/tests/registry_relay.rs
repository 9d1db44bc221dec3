//! The registry's relay (PROTOCOL.md, section 15), on real workerd: who gets into a room, what goes
//! through it, what does not, and that all of it is counted.

use std::time::{Duration, Instant};

use ringback_protocol::SecretKey;
use ringback_protocol::frame::{Ack, Frame, Joined, Marked};
use ringback_protocol::path::Role;
use ringback_protocol::registration::sign_join;
use ringback_protocol::relay::{MAX_BATCH, Room, control};
use ringback_tests::registry::{Registry, new_key};
use ringback_tests::room::{Arrival, Peer, message_of, new_room};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite;

/// A device and a caller in a room, both told that the other is there.
async fn pair(registry: &Registry, room: Room) -> (Peer, Peer, SecretKey, SecretKey) {
    let (device, caller) = (registry.enrolled("nas").await, new_key());
    let (mut d, _) = Peer::device(registry, room, &device).await;
    d.expect_presence(false).await;
    let (mut c, _) = Peer::caller(registry, room, &caller, device.id()).await;
    c.expect_presence(true).await;
    d.expect_presence(true).await;
    (d, c, device, caller)
}

async fn set_relay(registry: &Registry, relay: Value) {
    let reply = registry
        .owner("PUT", "/v1/policy", json!({ "relay": relay }))
        .await;
    assert_eq!(reply.status, 200, "{reply:?}");
}

async fn usage(registry: &Registry) -> Value {
    let reply = registry.owner("GET", "/v1/usage", Value::Null).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    reply.body
}

/// The day's counts of the relay, once every lease is back.
async fn settled(registry: &Registry) -> Value {
    let wait = async {
        loop {
            let relay = usage(registry).await["relay"].clone();
            if relay["reserved_bytes"] == 0 {
                return relay;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait)
        .await
        .expect("leases come back")
}

#[tokio::test]
async fn datagrams_go_both_ways_as_they_are() {
    let registry = Registry::start();
    let (mut d, mut c, ..) = pair(&registry, new_room()).await;
    c.send_datagrams(&[b"one", &[7; 1200], &[8; 2048]]).await;
    let arrived = d.expect_datagrams().await;
    assert_eq!(arrived, [b"one".to_vec(), vec![7; 1200], vec![8; 2048]]);
    d.send_datagrams(&[b"back"]).await;
    assert_eq!(c.expect_datagrams().await, [b"back"]);
    let full: Vec<&[u8]> = vec![&[9; 2046]; 32];
    assert_eq!(message_of(&full).len(), MAX_BATCH);
    c.send_datagrams(&full).await;
    assert_eq!(d.expect_datagrams().await, full);
    for n in 0..200_u8 {
        c.send_datagrams(&[&[n]]).await;
    }
    for n in 0..200_u8 {
        assert_eq!(d.expect_datagrams().await, [[n]], "in order");
    }
}

#[tokio::test]
async fn peers_join_in_either_order_and_leave() {
    let registry = Registry::start();
    let (room, device) = (new_room(), registry.enrolled("nas").await);
    let caller = new_key();
    let (mut c, joined) = Peer::caller(&registry, room, &caller, device.id()).await;
    assert_eq!(
        joined,
        Joined {
            rate_bytes_s: 4 << 20,
            remaining_bytes: 10 << 30
        }
    );
    c.expect_presence(false).await;
    // Right behind the Join, as a peer in a hurry does.
    let mut d = Peer::connect(&registry, room).await;
    let join = d.join_of(&registry, &device, Role::Device, device.id());
    d.send(join).await;
    d.send_datagrams(&[b"early"]).await;
    d.expect_joined().await;
    d.expect_presence(true).await;
    c.expect_presence(true).await;
    assert_eq!(c.expect_datagrams().await, [b"early"]);
    d.close().await;
    c.expect_presence(false).await;
    let (mut d, _) = Peer::device(&registry, room, &device).await;
    d.expect_presence(true).await;
    c.expect_presence(true).await;
    drop(c);
    d.expect_presence(false).await;
}

#[tokio::test]
async fn an_absent_peer_gets_the_newest_datagrams() {
    let registry = Registry::start();
    let (room, device) = (new_room(), registry.enrolled("nas").await);
    let (mut d, _) = Peer::device(&registry, room, &device).await;
    d.expect_presence(false).await;
    for n in 0..40_u8 {
        d.send_datagrams(&[&[n]]).await;
    }
    d.expect_quiet().await;
    let (mut c, _) = Peer::caller(&registry, room, &new_key(), device.id()).await;
    c.expect_presence(true).await;
    for n in 8..40_u8 {
        assert_eq!(c.expect_datagrams().await, [[n]]);
    }
    c.expect_quiet().await;
    drop(c);
    d.expect_presence(true).await;
    d.expect_presence(false).await;
    for n in 0..10_u8 {
        let datagram = [n; 2000];
        d.send_datagrams(&[&datagram, &datagram, &datagram, &datagram, &datagram])
            .await;
    }
    d.expect_quiet().await;
    let (mut c, _) = Peer::caller(&registry, room, &new_key(), device.id()).await;
    c.expect_presence(true).await;
    for n in 6..10_u8 {
        assert_eq!(c.expect_datagrams().await[4], [n; 2000], "48 KiB of them");
    }
    c.expect_quiet().await;
}

#[tokio::test]
async fn a_newer_socket_of_a_peer_replaces_the_older() {
    let registry = Registry::start();
    let room = new_room();
    let (mut d, mut c, device, caller) = pair(&registry, room).await;
    let (mut newer, _) = Peer::caller(&registry, room, &caller, device.id()).await;
    newer.expect_presence(true).await;
    assert_eq!(c.next().await, Arrival::Closed(4001));
    drop(c);
    d.send_datagrams(&[b"to the newer"]).await;
    assert_eq!(newer.expect_datagrams().await, [b"to the newer"]);
    newer.send_datagrams(&[b"from the newer"]).await;
    assert_eq!(
        d.expect_datagrams().await,
        [b"from the newer"],
        "and the device was not told of any absence"
    );
    let (mut again, _) = Peer::device(&registry, room, &device).await;
    again.expect_presence(true).await;
    assert_eq!(d.next().await, Arrival::Closed(4001));
    newer.send_datagrams(&[b"on"]).await;
    assert_eq!(again.expect_datagrams().await, [b"on"]);
}

#[tokio::test]
async fn only_the_two_ends_get_in() {
    let registry = Registry::start();
    let room = new_room();
    let (mut d, mut c, device, _) = pair(&registry, room).await;
    let stranger = new_key();
    let other_device = registry.enrolled("other").await;
    let id = device.id();
    // A third: another caller, another device, the same device under another key.
    for (key, role, of, code) in [
        (&stranger, Role::Caller, id, "unknown_device"),
        (&stranger, Role::Caller, stranger.id(), "unknown_device"),
        (
            &other_device,
            Role::Device,
            other_device.id(),
            "unknown_device",
        ),
        (&other_device, Role::Device, id, "bad_frame"),
    ] {
        let mut third = Peer::connect(&registry, room).await;
        let join = third.join_of(&registry, key, role, of);
        third.send(join).await;
        assert_eq!(third.expect_rejected().await.0, code);
    }
    c.send_datagrams(&[b"undisturbed"]).await;
    assert_eq!(d.expect_datagrams().await, [b"undisturbed"]);

    // Signatures: by another key, for another room, for another origin, to another challenge.
    let old = Peer::connect(&registry, new_room()).await;
    let fresh = new_room();
    let nonce = |peer: &Peer| peer.challenge.nonce;
    let origin = registry.origin();
    for case in 0..4 {
        let mut peer = Peer::connect(&registry, fresh).await;
        let signature = match case {
            0 => sign_join(&stranger, &fresh, &nonce(&peer), &origin),
            1 => sign_join(&device, &room, &nonce(&peer), &origin),
            2 => sign_join(&device, &fresh, &nonce(&peer), "https://other.example"),
            _ => sign_join(&device, &fresh, &nonce(&old), &origin),
        };
        let mut join = peer.join_of(&registry, &device, Role::Device, id);
        join.signature = signature;
        peer.send(join).await;
        assert_eq!(peer.expect_rejected().await.0, "bad_signature", "{case}");
    }
}

#[tokio::test]
async fn devices_must_be_enrolled() {
    let registry = Registry::start();
    let rejected = async |key: &SecretKey| {
        let mut peer = Peer::connect(&registry, new_room()).await;
        let join = peer.join_of(&registry, key, Role::Device, key.id());
        peer.send(join).await;
        peer.expect_rejected().await.0
    };
    assert_eq!(rejected(&new_key()).await, "not_enrolled");
    let device = registry.enrolled("nas").await;
    let path = format!("/v1/devices/{}", device.id());
    registry.owner("DELETE", &path, Value::Null).await;
    assert_eq!(rejected(&device).await, "revoked");
    let relay = settled(&registry).await;
    assert_eq!(
        (&relay["rooms"], &relay["messages"]),
        (&json!(0), &json!(0)),
        "rooms without a device cost no row"
    );
}

#[tokio::test]
async fn only_a_join_opens() {
    let registry = Registry::start();
    let room = new_room();
    let too_much = vec![1; MAX_BATCH + 1];
    for (what, bytes, code) in [
        ("nothing", vec![], "bad_frame"),
        ("datagrams", message_of(&[b"x"]), "bad_frame"),
        (
            "another frame",
            control(&Ack { call: 1 }.into()),
            "bad_frame",
        ),
        ("a frame cut off", vec![0, 0, 0, 9, 7], "bad_frame"),
        ("no CBOR", vec![0, 0, 0, 2, 7, 0xff], "bad_frame"),
        ("too much", too_much, "too_large"),
    ] {
        let mut peer = Peer::connect(&registry, room).await;
        peer.send_bytes(bytes).await;
        assert_eq!(peer.expect_rejected().await.0, code, "{what}");
    }
    for (path, protocol) in [
        (room.to_string().as_str(), None),
        (room.to_string().as_str(), Some("ringback.2")),
        ("0123", Some("ringback.1")),
        (&"A".repeat(32), Some("ringback.1")),
    ] {
        match Peer::open(&registry, path, protocol).await {
            Err(tungstenite::Error::Http(response)) => assert_eq!(response.status(), 400),
            other => panic!("{other:?}"),
        }
    }
    let reply = registry.get(&format!("/v1/relays/{room}")).await;
    assert_eq!(reply.problem(), (400, "bad_request"));
}

#[tokio::test]
async fn eight_sockets_may_be_joining_for_ten_seconds_and_keep_nothing_awake() {
    let registry = Registry::start();
    let room = new_room();
    let mut silent = Vec::new();
    for _ in 0..8 {
        silent.push(Peer::connect(&registry, room).await);
    }
    match Peer::open(&registry, &room.to_string(), Some("ringback.1")).await {
        Err(tungstenite::Error::Http(response)) => assert_eq!(response.status(), 429),
        other => panic!("{other:?}"),
    }
    Peer::connect(&registry, new_room()).await;
    let loads = || {
        let log = registry.server.log();
        log.matches("relay object loaded").count()
    };
    let before = loads();
    // workerd hibernates an object ten seconds after its last event.
    tokio::time::sleep(Duration::from_secs(12)).await;
    pair(&registry, room).await;
    assert!(
        loads() > before,
        "the room slept while sockets said nothing"
    );
    for peer in &mut silent {
        assert_eq!(peer.expect_rejected().await.0, "bad_frame");
    }
}

#[tokio::test]
async fn what_is_out_of_form_does_no_harm() {
    let registry = Registry::start();
    let (mut d, mut c, ..) = pair(&registry, new_room()).await;
    for bytes in [
        vec![],
        vec![0],
        vec![0, 0],
        vec![0, 0, 0, 0],
        vec![0, 0, 0xff, 0xff, 1],
        vec![0, 9, 1],
        vec![0xff; 100],
        control(&Frame::Unknown(0x7f)),
        control(&Marked { number: 99 }.into()),
        control(&Ack { call: 1 }.into()),
    ] {
        c.send_bytes(bytes).await;
    }
    c.send_text("hello").await;
    // Whatever follows the first datagram is the receiver's to judge.
    let hidden = [message_of(&[b"good"]), control(&Ack { call: 1 }.into())].concat();
    c.send_datagrams(&[b"after all that"]).await;
    assert_eq!(d.expect_datagrams().await, [b"after all that"]);
    c.send_bytes(hidden.clone()).await;
    d.expect_raw(&hidden).await;

    c.send_bytes(vec![1; MAX_BATCH + 1]).await;
    assert_eq!(c.expect_rejected().await.0, "too_large");
    d.expect_presence(false).await;
}

#[tokio::test]
async fn a_room_sleeps_and_wakes() {
    let registry = Registry::start();
    let room = new_room();
    let (mut d, mut c, device, caller) = pair(&registry, room).await;
    c.send_datagrams(&[&[1; 1000]]).await;
    d.expect_datagrams().await;
    let loads = |registry: &Registry| registry.server.log().matches("relay object loaded").count();
    let before = loads(&registry);
    hibernation().await;
    d.expect_quiet().await;
    assert_eq!(loads(&registry), before, "a ping does not wake it");
    c.send_datagrams(&[&[2; 1000]]).await;
    assert_eq!(d.expect_datagrams().await, [[2; 1000]]);
    assert_eq!(loads(&registry), before + 1, "it did hibernate");
    d.send_datagrams(&[&[3; 1000]]).await;
    assert_eq!(c.expect_datagrams().await, [[3; 1000]]);
    hibernation().await;
    // What wakes it is an end; what has been counted before is not lost, and nothing twice.
    drop(c);
    d.expect_presence(false).await;
    let (mut c, _) = Peer::caller(&registry, room, &caller, device.id()).await;
    c.expect_presence(true).await;
    d.expect_presence(true).await;
    hibernation().await;
    c.close().await;
    d.expect_presence(false).await;
    d.close().await;
    let relay = settled(&registry).await;
    assert_eq!(loads(&registry), before + 3);
    assert_eq!(relay["bytes"], 3 * 1002);
    assert_eq!((&relay["sockets"], &relay["rooms"]), (&json!(3), &json!(1)));
    assert_eq!(relay["messages"], 6, "3 Joins and 3 messages");
}

/// workerd hibernates an object ten seconds after its last event. Looking would wake it.
async fn hibernation() {
    tokio::time::sleep(Duration::from_secs(12)).await;
}

/// Sends messages of 32 KiB at this rate in bytes per second, for so long, and tells how many bytes
/// came out at the other end.
async fn stream(from: &mut Peer, to: &mut Peer, rate: f64, time: Duration) -> usize {
    let datagrams: Vec<&[u8]> = vec![&[5; 1022]; 32];
    let message = message_of(&datagrams);
    let started = Instant::now();
    let mut pace = tokio::time::interval(Duration::from_secs_f64(message.len() as f64 / rate));
    let mut bytes = 0;
    while started.elapsed() < time {
        tokio::select! {
            _ = pace.tick() => from.send_bytes(message.clone()).await,
            arrival = to.arrival() => match arrival {
                Arrival::Datagrams(datagrams) => bytes += datagrams.len() * 1024,
                other => panic!("{other:?}"),
            },
        }
    }
    bytes
}

#[tokio::test]
async fn the_rate_limits_what_goes_through() {
    let registry = Registry::start();
    set_relay(&registry, json!({ "rate_bytes_s": 500_000 })).await;
    let (mut d, mut c, ..) = pair(&registry, new_room()).await;
    let bytes = stream(&mut c, &mut d, 2e6, Duration::from_secs(5)).await;
    // 5 s at the rate, and the burst of one second.
    assert!((2_400_000..3_200_000).contains(&bytes), "{bytes}");
    drop((c, d));
    let relay = settled(&registry).await;
    let relayed = relay["bytes"].as_u64().unwrap() as usize;
    assert!((bytes..3_300_000).contains(&relayed), "{relay}");
    let dropped = relay["dropped_bytes"].as_u64().unwrap() as usize;
    assert!((6_000_000..8_000_000).contains(&dropped), "{relay}");
}

#[tokio::test]
async fn a_flood_is_turned_away() {
    let registry = Registry::start();
    set_relay(&registry, json!({ "rate_bytes_s": 500_000 })).await;
    let room = new_room();
    let (mut d, mut c, device, caller) = pair(&registry, room).await;
    let datagrams: Vec<&[u8]> = vec![&[5; 1022]; 64];
    let message = message_of(&datagrams);
    let mut sent = 0;
    let code = loop {
        tokio::select! {
            biased;
            arrival = c.arrival() => match arrival {
                Arrival::Control(Frame::Rejected(rejected)) => break rejected.code.to_string(),
                other => panic!("{other:?}"),
            },
            () = tokio::task::yield_now() => {
                sent += message.len();
                assert!(sent < 1 << 30, "it is never turned away");
                if c.try_send_bytes(message.clone()).await.is_err() {
                    break "closed".into();
                }
            }
        }
    };
    assert!(
        ["rate_limited", "closed"].contains(&code.as_str()),
        "{code}"
    );
    drop(c);
    let mut arrived = 0;
    loop {
        match d.next().await {
            Arrival::Datagrams(datagrams) => arrived += datagrams.len() * 1024,
            Arrival::Control(Frame::PeerPresence(presence)) => break assert!(!presence.present),
            other => panic!("{other:?}"),
        }
    }
    assert!(arrived < 3_000_000, "{arrived}");
    // The device is still there, and the caller may come back.
    let (mut c, _) = Peer::caller(&registry, room, &caller, device.id()).await;
    c.expect_presence(true).await;
    d.expect_presence(true).await;
    c.send_datagrams(&[b"calm"]).await;
    assert_eq!(d.expect_datagrams().await, [b"calm"]);
}

#[tokio::test]
async fn a_peer_that_reads_slowly_has_a_short_queue() {
    let registry = Registry::start();
    let (mut d, mut c, ..) = pair(&registry, new_room()).await;
    d.confirms = false;
    let bytes = stream(&mut c, &mut d, 2e6, Duration::from_secs(3)).await;
    assert!((200_000..=262_144).contains(&bytes), "one window: {bytes}");
    d.send_datagrams(&[b"the other way is free"]).await;
    assert_eq!(c.expect_datagrams().await, [b"the other way is free"]);
}

#[tokio::test]
async fn the_days_allowance_is_used_up_and_told() {
    let registry = Registry::start();
    set_relay(&registry, json!({ "daily_bytes": 300_000 })).await;
    let room = new_room();
    let (mut d, mut c, device, _) = pair(&registry, room).await;
    let datagrams: Vec<&[u8]> = vec![&[5; 998]; 20];
    for _ in 0..15 {
        c.send_datagrams(&datagrams).await;
        assert_eq!(d.expect_datagrams().await.len(), 20);
    }
    c.send_datagrams(&[b"one too many"]).await;
    let now = registry.get("/v1/registry").await.body["time"]
        .as_u64()
        .unwrap();
    let midnight = 86_400 - now % 86_400;
    for peer in [&mut c, &mut d] {
        let (code, retry_after_s) = peer.expect_rejected().await;
        assert_eq!(code, "relay_exhausted");
        assert!(u64::from(retry_after_s.unwrap()).abs_diff(midnight) < 10);
    }
    let relay = settled(&registry).await;
    assert_eq!(
        (&relay["bytes"], &relay["share"]),
        (&json!(300_000), &json!(1.0))
    );

    let mut late = Peer::connect(&registry, room).await;
    let join = late.join_of(&registry, &device, Role::Device, device.id());
    late.send(join).await;
    assert_eq!(late.expect_rejected().await.0, "relay_exhausted");
    set_relay(&registry, json!({ "daily_bytes": 400_000 })).await;
    let (_, joined) = Peer::device(&registry, room, &device).await;
    assert_eq!(joined.remaining_bytes, 100_000);
}

#[tokio::test]
async fn the_owner_switches_the_relay_off() {
    let registry = Registry::start();
    let (room, device) = (new_room(), registry.enrolled("nas").await);
    set_relay(&registry, json!({ "enabled": false })).await;
    let policy = registry.owner("GET", "/v1/policy", Value::Null).await.body;
    assert_eq!(
        policy,
        json!({
            "registration": "closed",
            "relay": { "enabled": false, "rate_bytes_s": 4_194_304, "daily_bytes": 10_737_418_240_u64 }
        })
    );
    for (key, role) in [(&device, Role::Device), (&new_key(), Role::Caller)] {
        let mut peer = Peer::connect(&registry, room).await;
        let join = peer.join_of(&registry, key, role, device.id());
        peer.send(join).await;
        assert_eq!(
            peer.expect_rejected().await,
            ("relay_disabled".into(), None)
        );
    }
    set_relay(&registry, json!({ "enabled": true })).await;
    Peer::device(&registry, room, &device).await;
}

#[tokio::test]
async fn a_running_room_ends_with_its_next_lease() {
    let registry = Registry::start();
    // Half of the first lease, which is 1 MiB.
    let datagram = [1; 2000];
    let message = [&datagram[..]; 30];
    let messages = (1 << 19) / message_of(&message).len() + 1;
    for code in ["relay_disabled", "revoked"] {
        let device = registry.enrolled("nas").await;
        let room = new_room();
        let (mut d, _) = Peer::device(&registry, room, &device).await;
        d.expect_presence(false).await;
        let (mut c, _) = Peer::caller(&registry, room, &new_key(), device.id()).await;
        c.expect_presence(true).await;
        d.expect_presence(true).await;
        let device = format!("/v1/devices/{}", device.id());
        if code == "revoked" {
            registry.owner("DELETE", &device, Value::Null).await;
        } else {
            set_relay(&registry, json!({ "enabled": false })).await;
        }
        for _ in 0..messages {
            c.send_datagrams(&message).await;
            assert_eq!(d.expect_datagrams().await.len(), 30, "on the old lease");
        }
        assert_eq!(d.expect_rejected().await.0, code);
        assert_eq!(c.expect_rejected().await.0, code);
        settled(&registry).await;
        set_relay(&registry, json!({ "enabled": true })).await;
        registry.owner("DELETE", &device, Value::Null).await;
    }
}

#[tokio::test]
async fn usage_is_what_was_counted() {
    let registry = Registry::start();
    let before = usage(&registry).await;
    assert_eq!(before["relay"]["messages"], 0);
    assert_eq!(before["registrations"]["count"], 0);
    let mut messages = 0_u64;
    let mut bytes = 0;
    let device = registry.enrolled("nas").await;
    for rounds in [3, 50] {
        let room = new_room();
        let (mut d, _) = Peer::device(&registry, room, &device).await;
        d.expect_presence(false).await;
        let (mut c, _) = Peer::caller(&registry, room, &new_key(), device.id()).await;
        c.expect_presence(true).await;
        d.expect_presence(true).await;
        messages += 2;
        for n in 0..rounds {
            let datagram = vec![1; 100 + n];
            c.send_datagrams(&[&datagram, &datagram]).await;
            d.expect_datagrams().await;
            d.send_datagrams(&[&datagram]).await;
            c.expect_datagrams().await;
            messages += 2;
            bytes += 3 * (2 + datagram.len());
        }
        let relay = usage(&registry).await["relay"].clone();
        assert_eq!(relay["reserved_bytes"], 1 << 20, "a small lease is out");
        c.close().await;
        d.expect_presence(false).await;
        d.close().await;
        settled(&registry).await;
    }
    registry.registered(&device).await.close().await;
    let after = usage(&registry).await;
    let relay = &after["relay"];
    assert_eq!(relay["messages"], messages);
    assert_eq!(relay["bytes"], bytes);
    assert_eq!(
        (&relay["rooms"], &relay["sockets"], &relay["leases"]),
        (&json!(2), &json!(4), &json!(2))
    );
    assert_eq!(relay["dropped_bytes"], 0);
    assert_eq!(relay["requests"]["used"], 2 * 4 + 2 + messages.div_ceil(20));
    assert_eq!(after["registrations"]["count"], 1);
    assert_eq!(after["registrations"]["requests"]["used"], 2);
    assert!(after["rows_written"]["used"].as_u64() > Some(5));
    let now = registry.get("/v1/registry").await.body["time"]
        .as_u64()
        .unwrap();
    let resets_at = after["resets_at"].as_u64().unwrap();
    assert!(resets_at % 86_400 == 0 && resets_at.abs_diff(now) <= 86_400);
}
