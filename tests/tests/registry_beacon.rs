//! Beacons, and devices that hold no socket (PROTOCOL.md, 5.4 and 6.3), on real workerd.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use http_body_util::BodyExt as _;
use ringback_protocol::Code;
use ringback_protocol::frame::{
    Ack, Answer, Answered, Beacon, Deliver, Delivered, Failed, Frame, FrameReader, Gone, Known,
    ListedBeacon, Notify, Place, Refuse, Refused, Seen, length_prefixed,
};
use ringback_protocol::registration::{sign_answers, sign_fetch};
use ringback_protocol::{PeerId, SecretKey};
use ringback_tests::registry::{Incident, Registry, Reply, Ring, Socket, envelope, new_key};
use serde_json::{Value, json};

const PUBLIC: &str = "203.0.113.7:4000";

fn announcement() -> Beacon {
    Beacon {
        udp: "beacon.example:3478".into(),
        tcp: Some("beacon.example:443".into()),
        relay: true,
    }
}

/// A key enrolled in the role of a beacon.
async fn enrolled_beacon(registry: &Registry, name: &str) -> SecretKey {
    let key = new_key();
    let code = registry
        .code(json!({ "name": name, "role": "beacon" }))
        .await;
    let reply = registry
        .post("/v1/enrollments", &registry.enrolment(&key, &code))
        .await;
    assert_eq!(reply.status, 201, "{reply:?}");
    key
}

/// A beacon that has said where it listens.
async fn beacon(registry: &Registry) -> (SecretKey, Socket) {
    let key = enrolled_beacon(registry, "front").await;
    let mut socket = registry.registered(&key).await;
    socket.send(announcement()).await;
    await_beacon(registry, &key.id(), true).await;
    (key, socket)
}

/// Waits until the registry tells everybody of this beacon as being there, or not.
async fn await_beacon(registry: &Registry, id: &PeerId, online: bool) -> Value {
    let wait = async {
        loop {
            let listed = registry.get("/v1/registry").await.body["beacons"].clone();
            let beacons = listed.as_array().expect("a list").iter();
            let mut ours = beacons.filter(|beacon| beacon["id"] == json!(id));
            if let Some(beacon) = ours.next().filter(|beacon| beacon["online"] == online) {
                return beacon.clone();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait)
        .await
        .expect("the beacon is listed")
}

/// The beacon tells of a device, and what it hears of it.
async fn seen(socket: &mut Socket, device: PeerId, public: &str) -> Option<Code> {
    let public = Some(public.parse().expect("an address"));
    socket.send(Seen { device, public }).await;
    match socket.next().await {
        Incident::Frame(Frame::Known(known)) => {
            assert_eq!(known.device, device);
            known.code
        }
        other => panic!("not Known: {other:?}"),
    }
}

fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970")
        .as_millis() as u64
}

fn headers(time_ms: u64, signature: [u8; 64]) -> [(&'static str, String); 2] {
    [
        ("ringback-time", time_ms.to_string()),
        (
            "ringback-signature",
            BASE64_URL_SAFE_NO_PAD.encode(signature),
        ),
    ]
}

async fn fetch(registry: &Registry, key: &SecretKey) -> Vec<Deliver> {
    let time_ms = now_ms();
    let headers = headers(time_ms, sign_fetch(key, &registry.origin(), time_ms));
    let headers = headers
        .each_ref()
        .map(|(name, value)| (*name, value.as_str()));
    let path = format!("/v1/devices/{}/requests?wait=0", key.id());
    let response = registry.http("GET", &path, &headers, "").await;
    assert_eq!(response.status(), 200);
    assert_eq!(
        response.headers()["content-type"],
        "application/octet-stream"
    );
    let body = response.into_body().collect().await.expect("a whole body");
    let mut reader = FrameReader::default();
    reader.push(&body.to_bytes());
    let mut delivered = Vec::new();
    while let Some(frame) = reader.next_frame() {
        match frame {
            Ok(Frame::Deliver(deliver)) => delivered.push(deliver),
            other => panic!("not Deliver: {other:?}"),
        }
    }
    assert!(reader.into_rest().is_empty());
    delivered
}

async fn answer(registry: &Registry, key: &SecretKey, frames: &[Frame]) -> Reply {
    let body: Vec<u8> = frames
        .iter()
        .flat_map(|frame| length_prefixed(&frame.encode()))
        .collect();
    let time_ms = now_ms();
    let headers = headers(
        time_ms,
        sign_answers(key, &registry.origin(), time_ms, &body),
    );
    let headers = headers
        .each_ref()
        .map(|(name, value)| (*name, value.as_str()));
    let path = format!("/v1/devices/{}/answers", key.id());
    registry.reply("POST", &path, &headers, body).await
}

async fn expect_notify(socket: &mut Socket, device: PeerId) {
    assert_eq!(
        socket.next().await,
        Incident::Frame(Notify { device }.into())
    );
}

async fn failed(ring: &mut Ring) -> Failed {
    match ring.next().await {
        Some(Frame::Failed(failed)) => failed,
        other => panic!("not failed: {other:?}"),
    }
}

#[tokio::test]
async fn a_beacon_is_told_of_to_everybody() {
    let registry = Registry::start();
    assert_eq!(
        registry.get("/v1/registry").await.body["beacons"],
        json!([])
    );
    let (key, socket) = beacon(&registry).await;
    let listed = await_beacon(&registry, &key.id(), true).await;
    assert_eq!(
        listed,
        json!({
            "id": key.id(),
            "udp": "beacon.example:3478",
            "tcp": "beacon.example:443",
            "relay": true,
            "online": true,
        })
    );
    let row = registry.row(&key.id()).await;
    assert_eq!(
        (&row["role"], &row["via"]),
        (&json!("beacon"), &json!("socket"))
    );
    let device = registry.enrolled("nas").await;
    let row = registry.row(&device.id()).await;
    assert_eq!(
        (&row["role"], &row["via"]),
        (&json!("device"), &Value::Null)
    );
    let mut of_device = Socket::connect(&registry, &device).await;
    of_device.register(&device, &registry.origin(), None).await;
    let Beacon { udp, tcp, relay } = announcement();
    assert_eq!(
        of_device.expect_registered().await.beacons,
        [ListedBeacon {
            udp,
            tcp,
            relay,
            id: key.id()
        }]
    );
    socket.close().await;
    await_beacon(&registry, &key.id(), false).await;
    let path = format!("/v1/devices/{}", key.id());
    registry.owner("DELETE", &path, Value::Null).await;
    assert_eq!(
        registry.get("/v1/registry").await.body["beacons"],
        json!([])
    );
}

#[tokio::test]
async fn only_a_beacon_speaks_for_others() {
    let registry = Registry::start();
    let (_, mut socket) = registry.online("nas").await;
    let other = registry.enrolled("other").await.id();
    let public = Some(PUBLIC.parse().unwrap());
    for frame in [
        announcement().into(),
        Seen {
            device: other,
            public,
        }
        .into(),
        Frame::from(Gone { device: other }),
    ] {
        socket.send(frame).await;
    }
    socket.expect_quiet().await;
    assert_eq!(
        registry.get("/v1/registry").await.body["beacons"],
        json!([])
    );
    assert_eq!(registry.row(&other).await["online"], false);
    for _ in 0..13 {
        socket.send(Gone { device: other }).await;
    }
    assert_eq!(socket.expect_rejected().await, "bad_frame", "the 16th");
}

#[tokio::test]
async fn a_seen_device_is_listed_where_it_was_seen() {
    let registry = Registry::start();
    let (beacon_key, mut socket) = beacon(&registry).await;
    let device = registry.enrolled("nas").await.id();
    assert_eq!(seen(&mut socket, device, PUBLIC).await, None);
    let row = registry.row(&device).await;
    assert_eq!(
        (
            &row["online"],
            &row["via"],
            &row["public_address"],
            &row["mapped_port"]
        ),
        (
            &json!(true),
            &json!("beacon"),
            &json!("203.0.113.7"),
            &json!(4000)
        )
    );
    assert_eq!(seen(&mut socket, device, PUBLIC).await, None, "again");
    assert_eq!(seen(&mut socket, device, "203.0.113.8:5000").await, None);
    assert_eq!(registry.row(&device).await["mapped_port"], 5000);
    let rows = async || {
        let usage = registry.owner("GET", "/v1/usage", Value::Null).await.body;
        usage["rows_written"]["used"].as_u64().unwrap()
    };
    let before = rows().await;
    for _ in 0..5 {
        seen(&mut socket, device, "203.0.113.8:5000").await;
    }
    assert_eq!(rows().await, before, "what is not new costs no row");

    socket.send(Gone { device }).await;
    let row = registry.await_row(&device, "online", json!(false)).await;
    assert!(row["last_seen"].as_u64().is_some());
    assert_eq!(row["via"], Value::Null);

    let stranger = new_key().id();
    assert_eq!(
        seen(&mut socket, stranger, PUBLIC).await,
        Some(Code::NotEnrolled)
    );
    assert_eq!(seen(&mut socket, device, PUBLIC).await, None);
    let path = format!("/v1/devices/{device}");
    registry.owner("DELETE", &path, Value::Null).await;
    assert_eq!(
        socket.next().await,
        Incident::Frame(
            Known {
                device,
                code: Some(Code::Revoked)
            }
            .into()
        ),
        "the beacon hears of it at once"
    );
    assert_eq!(seen(&mut socket, device, PUBLIC).await, Some(Code::Revoked));
    assert_eq!(registry.row(&device).await["online"], false);
    assert_eq!(registry.row(&beacon_key.id()).await["online"], true);
}

#[tokio::test]
async fn a_request_waits_until_it_is_fetched_and_answered() {
    let registry = Registry::start();
    let (_, mut socket) = beacon(&registry).await;
    let device = registry.enrolled("nas").await;
    assert_eq!(seen(&mut socket, device.id(), PUBLIC).await, None);
    let requests = [0, 1].map(|_| envelope(&new_key(), &device.id()));
    let mut first = registry.ring(&device.id(), requests[0].clone()).await;
    expect_notify(&mut socket, device.id()).await;
    let mut second = registry.ring(&device.id(), requests[1].clone()).await;
    expect_notify(&mut socket, device.id()).await;

    let fetched = fetch(&registry, &device).await;
    let envelopes: Vec<_> = fetched.iter().map(|one| one.envelope.clone()).collect();
    assert_eq!(envelopes, requests, "not a byte is changed");
    assert_eq!(first.next().await, Some(Delivered { call: 0 }.into()));
    assert_eq!(second.next().await, Some(Delivered { call: 0 }.into()));
    assert_eq!(
        fetch(&registry, &device).await,
        fetched,
        "the first answer may have been lost"
    );
    let frames = [
        Answer {
            call: fetched[0].call,
            reply: vec![7; 3000],
        }
        .into(),
        Refuse {
            call: fetched[1].call,
            refusal: vec![9; 90],
        }
        .into(),
        Answer {
            call: 12_345,
            reply: vec![],
        }
        .into(),
    ];
    let reply = answer(&registry, &device, &frames).await;
    assert_eq!((reply.status, &reply.body), (204, &Value::Null));
    let reply = vec![7; 3000];
    assert_eq!(
        first.next().await,
        Some(
            Answered {
                call: 0,
                reply,
                ice: None
            }
            .into()
        )
    );
    assert_eq!(first.next().await, None);
    let refusal = vec![9; 90];
    assert_eq!(
        second.next().await,
        Some(Refused { call: 0, refusal }.into())
    );
    assert_eq!(second.next().await, None);
    assert_eq!(
        fetch(&registry, &device).await,
        [],
        "nothing waits any more"
    );
    let usage = registry.owner("GET", "/v1/usage", Value::Null).await.body;
    assert_eq!(usage["requests"]["count"], 2);
}

#[tokio::test]
async fn a_placed_request_waits_as_well() {
    let registry = Registry::start();
    let (_, mut socket) = beacon(&registry).await;
    let device = registry.enrolled("nas").await;
    assert_eq!(seen(&mut socket, device.id(), PUBLIC).await, None);
    let (caller, mut of_caller) = registry.online("laptop").await;
    let place = Place {
        call: 5,
        device: device.id(),
        envelope: envelope(&caller, &device.id()),
    };
    of_caller.send(place).await;
    expect_notify(&mut socket, device.id()).await;
    let call = fetch(&registry, &device).await[0].call;
    let delivered = Incident::Frame(Delivered { call: 5 }.into());
    assert_eq!(of_caller.next().await, delivered);
    let reply = vec![1];
    let frames = [Answer { call, reply }.into()];
    assert_eq!(answer(&registry, &device, &frames).await.status, 204);
    let reply = vec![1];
    assert_eq!(
        of_caller.next().await,
        Incident::Frame(
            Answered {
                call: 5,
                reply,
                ice: None
            }
            .into()
        )
    );
}

#[tokio::test]
async fn who_does_not_come_or_does_not_answer_is_told_of() {
    let registry = Registry::start();
    let (_, mut socket) = beacon(&registry).await;
    let device = registry.enrolled("nas").await;
    assert_eq!(seen(&mut socket, device.id(), PUBLIC).await, None);
    let request = || envelope(&new_key(), &device.id());
    let started = Instant::now();
    let mut ring = registry.ring(&device.id(), request()).await;
    expect_notify(&mut socket, device.id()).await;
    assert_eq!(failed(&mut ring).await.code, Code::DeviceOffline);
    let waited = started.elapsed().as_millis();
    assert!((4_900..8_000).contains(&waited), "{waited}");
    assert_eq!(fetch(&registry, &device).await, [], "too late");

    let mut ring = registry.ring(&device.id(), request()).await;
    expect_notify(&mut socket, device.id()).await;
    assert_eq!(fetch(&registry, &device).await.len(), 1);
    assert!(matches!(ring.next().await, Some(Frame::Delivered(_))));
    assert_eq!(failed(&mut ring).await.code, Code::NoAnswer);
    let waited = started.elapsed().as_millis();
    assert!((19_800..26_000).contains(&waited), "{waited}");

    socket
        .send(Gone {
            device: device.id(),
        })
        .await;
    registry
        .await_row(&device.id(), "online", json!(false))
        .await;
    let reply = registry.ring_refused(&device.id(), request()).await;
    assert_eq!(reply.problem(), (409, "device_offline"));
}

#[tokio::test]
async fn a_beacon_that_reconnects_is_asked_again() {
    let registry = Registry::start();
    let (key, mut socket) = beacon(&registry).await;
    let device = registry.enrolled("nas").await;
    assert_eq!(seen(&mut socket, device.id(), PUBLIC).await, None);
    socket.close().await;
    registry.await_row(&key.id(), "online", json!(false)).await;
    assert_eq!(
        registry.row(&device.id()).await["via"],
        "beacon",
        "it may be back in a moment"
    );
    let mut ring = registry
        .ring(&device.id(), envelope(&new_key(), &device.id()))
        .await;
    let mut socket = registry.registered(&key).await;
    expect_notify(&mut socket, device.id()).await;
    let call = fetch(&registry, &device).await[0].call;
    let reply = vec![1];
    let frames = [Answer { call, reply }.into()];
    answer(&registry, &device, &frames).await;
    assert!(matches!(ring.next().await, Some(Frame::Delivered(_))));
    assert!(matches!(ring.next().await, Some(Frame::Answered(_))));
}

#[tokio::test]
async fn only_the_device_fetches_and_answers_in_time() {
    let registry = Registry::start();
    let (_, mut socket) = beacon(&registry).await;
    let device = registry.enrolled("nas").await;
    let (id, origin) = (device.id(), registry.origin());
    assert_eq!(seen(&mut socket, id, PUBLIC).await, None);
    let mut ring = registry.ring(&id, envelope(&new_key(), &id)).await;
    expect_notify(&mut socket, id).await;

    let other = new_key();
    let now = now_ms();
    let body = b"".as_slice();
    let get = format!("/v1/devices/{id}/requests");
    let post = format!("/v1/devices/{id}/answers");
    let ask = async |method: &str, path: &str, time: String, signature: String| {
        let headers = [
            ("ringback-time", time.as_str()),
            ("ringback-signature", signature.as_str()),
        ];
        registry.reply(method, path, &headers, body).await
    };
    let text = |signature: [u8; 64]| BASE64_URL_SAFE_NO_PAD.encode(signature);
    for signature in [
        sign_fetch(&other, &origin, now),
        sign_fetch(&device, "https://other.example", now),
        sign_fetch(&device, &origin, now + 1),
        sign_answers(&device, &origin, now, body),
    ] {
        let reply = ask("GET", &get, now.to_string(), text(signature)).await;
        assert_eq!(reply.problem(), (403, "bad_signature"));
    }
    for signature in [
        sign_answers(&other, &origin, now, body),
        sign_answers(&device, &origin, now, b"another body"),
        sign_fetch(&device, &origin, now),
    ] {
        let reply = ask("POST", &post, now.to_string(), text(signature)).await;
        assert_eq!(reply.problem(), (403, "bad_signature"));
    }
    for time in [now - 125_000, now + 125_000, 0, u64::MAX] {
        let fetch = text(sign_fetch(&device, &origin, time));
        let answers = text(sign_answers(&device, &origin, time, body));
        for reply in [
            ask("GET", &get, time.to_string(), fetch).await,
            ask("POST", &post, time.to_string(), answers).await,
        ] {
            assert_eq!(reply.problem(), (403, "stale"));
            let time_ms = reply.body["time_ms"].as_u64().expect("the right time");
            assert!(time_ms.abs_diff(now) < 20_000);
        }
    }
    for (time, signature) in [
        (String::new(), text([0; 64])),
        ("soon".into(), text([0; 64])),
        (now.to_string(), String::new()),
        (now.to_string(), "AAAA".into()),
    ] {
        let reply = ask("GET", &get, time, signature).await;
        assert_eq!(reply.problem(), (400, "bad_request"));
    }
    let call = fetch(&registry, &device).await[0].call;
    let bad = [Frame::from(Ack { call })];
    let reply = answer(&registry, &device, &bad).await;
    assert_eq!(reply.problem(), (400, "bad_frame"));
    assert!(matches!(ring.next().await, Some(Frame::Delivered(_))));
    let frames = [Answer {
        call,
        reply: vec![3],
    }
    .into()];
    assert_eq!(answer(&registry, &device, &frames).await.status, 204);
    assert!(matches!(ring.next().await, Some(Frame::Answered(_))));
}

#[tokio::test]
async fn a_caller_has_twenty_requests_a_minute_through_hibernation() {
    let registry = Registry::start();
    let (_, mut socket) = beacon(&registry).await;
    let device = registry.enrolled("nas").await;
    let id = device.id();
    assert_eq!(seen(&mut socket, id, PUBLIC).await, None);
    let caller = new_key();
    for _ in 0..20 {
        let mut ring = registry.ring(&id, envelope(&caller, &id)).await;
        expect_notify(&mut socket, id).await;
        let call = fetch(&registry, &device).await[0].call;
        let reply = vec![];
        let frames = [Answer { call, reply }.into()];
        answer(&registry, &device, &frames).await;
        while ring.next().await.is_some() {}
    }
    let refused = registry.ring_refused(&id, envelope(&caller, &id)).await;
    assert_eq!(refused.problem(), (429, "rate_limited"));
    let loads = |registry: &Registry| {
        registry
            .server
            .log()
            .matches("device object loaded")
            .count()
    };
    let before = loads(&registry);
    // workerd hibernates an object ten seconds after its last event. Looking would wake it.
    tokio::time::sleep(Duration::from_secs(12)).await;
    let again = registry.ring_refused(&id, envelope(&caller, &id)).await;
    assert_eq!(again.problem(), (429, "rate_limited"));
    assert!(loads(&registry) > before, "the object did sleep");
    assert_eq!(
        seen(&mut socket, id, PUBLIC).await,
        None,
        "and the beacon's object wakes"
    );
    let _ring = registry.ring(&id, envelope(&new_key(), &id)).await;
    expect_notify(&mut socket, id).await;
}

#[tokio::test]
async fn a_code_gives_its_role_again() {
    let registry = Registry::start();
    let key = registry.enrolled("nas").await;
    let code = registry.code(json!({ "role": "beacon" })).await;
    let enrolment = registry.enrolment(&key, &code);
    assert_eq!(
        registry.post("/v1/enrollments", &enrolment).await.status,
        201
    );
    let row = registry.row(&key.id()).await;
    assert_eq!(
        (&row["role"], &row["name"]),
        (&json!("beacon"), &json!("nas"))
    );
    let code = registry.code(json!({})).await;
    let enrolment = registry.enrolment(&key, &code);
    assert_eq!(
        registry.post("/v1/enrollments", &enrolment).await.status,
        201
    );
    assert_eq!(registry.row(&key.id()).await["role"], "device");
}
