//! Requests through the registry (PROTOCOL.md, 5.3 and 6.2), on real workerd: every way that a call
//! can end, the limits, and that hibernation changes nothing.

use std::time::{Duration, Instant};

use ringback_protocol::frame::{
    Ack, Answer, Answered, Delivered, Failed, Frame, Place, Refuse, Refused,
};
use ringback_protocol::{Code, SecretKey};
use ringback_tests::registry::{Incident, Registry, Ring, Socket, envelope, new_key};
use serde_json::{Value, json};

async fn failed(ring: &mut Ring) -> Failed {
    match ring.next().await {
        Some(Frame::Failed(failed)) => {
            assert_eq!(ring.next().await, None, "nothing comes after the end");
            failed
        }
        other => panic!("not failed: {other:?}"),
    }
}

#[tokio::test]
async fn a_request_is_delivered_and_answered() {
    let registry = Registry::start();
    let (device, mut socket) = registry.online("nas").await;
    let request = envelope(&new_key(), &device.id());
    let mut ring = registry.ring(&device.id(), request.clone()).await;
    let deliver = socket.expect_deliver_unacknowledged().await;
    assert_eq!(deliver.envelope, request, "not a byte is changed");
    socket.send(Ack { call: deliver.call }).await;
    // The device has not answered yet: Delivered is not held back.
    let acknowledged = Instant::now();
    assert_eq!(ring.next().await, Some(Delivered { call: 0 }.into()));
    assert!(acknowledged.elapsed() < Duration::from_secs(1));
    let reply = vec![7; 3000];
    socket
        .send(Answer {
            call: deliver.call,
            reply: reply.clone(),
        })
        .await;
    assert_eq!(
        ring.next().await,
        Some(
            Answered {
                call: 0,
                reply,
                ice: None
            }
            .into()
        )
    );
    assert_eq!(ring.next().await, None);
    // What comes late reaches nobody.
    socket
        .send(Answer {
            call: deliver.call,
            reply: vec![8],
        })
        .await;
    socket.send(Ack { call: deliver.call }).await;
    socket.expect_quiet().await;
}

#[tokio::test]
async fn a_request_is_refused_in_the_devices_words() {
    let registry = Registry::start();
    let (device, mut socket) = registry.online("nas").await;
    let mut ring = registry
        .ring(&device.id(), envelope(&new_key(), &device.id()))
        .await;
    let call = socket.expect_deliver_unacknowledged().await.call;
    let refusal = b"signed by the device".to_vec();
    socket
        .send(Refuse {
            call,
            refusal: refusal.clone(),
        })
        .await;
    assert_eq!(
        ring.next().await,
        Some(Delivered { call: 0 }.into()),
        "a refusal is an acknowledgement"
    );
    assert_eq!(ring.next().await, Some(Refused { call: 0, refusal }.into()));
    assert_eq!(ring.next().await, None);
}

#[tokio::test]
async fn a_device_that_is_not_there_is_told_of() {
    let registry = Registry::start();
    let caller = new_key();
    let stranger = new_key().id();
    let reply = registry
        .ring_refused(&stranger, envelope(&caller, &stranger))
        .await;
    assert_eq!(reply.problem(), (404, "unknown_device"));

    let never = registry.enrolled("never").await.id();
    let reply = registry
        .ring_refused(&never, envelope(&caller, &never))
        .await;
    assert_eq!(reply.problem(), (409, "device_offline"));
    assert_eq!(reply.body["last_seen"], Value::Null);

    let (key, socket) = registry.online("nas").await;
    socket.close().await;
    let row = registry.await_row(&key.id(), "online", json!(false)).await;
    let reply = registry
        .ring_refused(&key.id(), envelope(&caller, &key.id()))
        .await;
    assert_eq!(reply.problem(), (409, "device_offline"));
    assert_eq!(reply.body["last_seen"], row["last_seen"]);
}

#[tokio::test]
async fn a_socket_that_does_not_acknowledge_is_dead() {
    let registry = Registry::start();
    let (device, mut socket) = registry.online("nas").await;
    let started = Instant::now();
    let mut ring = registry
        .ring(&device.id(), envelope(&new_key(), &device.id()))
        .await;
    let failed = failed(&mut ring).await;
    assert_eq!(failed.code, Code::DeviceOffline);
    assert!(failed.last_seen.is_some());
    assert!(
        (4900..8000).contains(&started.elapsed().as_millis()),
        "{:?}",
        started.elapsed()
    );
    assert_eq!(registry.row(&device.id()).await["online"], false);
    socket.expect_deliver_unacknowledged().await;
    assert_eq!(socket.next().await, Incident::Closed(4008));
    let reply = registry
        .ring_refused(&device.id(), envelope(&new_key(), &device.id()))
        .await;
    assert_eq!(reply.problem(), (409, "device_offline"));
    registry.registered(&device).await;
}

#[tokio::test]
async fn a_device_that_does_not_answer_is_no_answer() {
    let registry = Registry::start();
    let (device, mut socket) = registry.online("nas").await;
    let mut ring = registry
        .ring(&device.id(), envelope(&new_key(), &device.id()))
        .await;
    socket.expect_deliver().await;
    assert!(matches!(ring.next().await, Some(Frame::Delivered(_))));
    let delivered = Instant::now();
    assert_eq!(failed(&mut ring).await.code, Code::NoAnswer);
    assert!(
        (14_500..18_000).contains(&delivered.elapsed().as_millis()),
        "{:?}",
        delivered.elapsed()
    );
    socket.expect_quiet().await;
    assert_eq!(
        registry.row(&device.id()).await["online"],
        true,
        "it acknowledged, so it lives"
    );
}

#[tokio::test]
async fn a_socket_that_ends_in_a_call_ends_the_call() {
    let registry = Registry::start();
    let (device, mut socket) = registry.online("nas").await;
    let started = Instant::now();
    let mut ring = registry
        .ring(&device.id(), envelope(&new_key(), &device.id()))
        .await;
    socket.expect_deliver().await;
    assert!(matches!(ring.next().await, Some(Frame::Delivered(_))));
    drop(socket);
    assert_eq!(failed(&mut ring).await.code, Code::DeviceOffline);

    let mut socket = registry.registered(&device).await;
    let mut ring = registry
        .ring(&device.id(), envelope(&new_key(), &device.id()))
        .await;
    socket.expect_deliver().await;
    assert!(matches!(ring.next().await, Some(Frame::Delivered(_))));
    let mut newer = registry.registered(&device).await;
    assert_eq!(
        failed(&mut ring).await.code,
        Code::DeviceOffline,
        "replaced"
    );
    let mut ring = registry
        .ring(&device.id(), envelope(&new_key(), &device.id()))
        .await;
    newer.expect_deliver().await;
    registry
        .owner(
            "DELETE",
            &format!("/v1/devices/{}", device.id()),
            Value::Null,
        )
        .await;
    assert!(matches!(ring.next().await, Some(Frame::Delivered(_))));
    assert_eq!(failed(&mut ring).await.code, Code::DeviceOffline, "revoked");
    assert!(started.elapsed() < Duration::from_secs(5), "nobody waited");
}

#[tokio::test]
async fn envelopes_are_checked_before_the_device_hears_of_them() {
    let registry = Registry::start();
    let (device, mut socket) = registry.online("nas").await;
    let caller = new_key();
    let good = envelope(&caller, &device.id());
    let elsewhere = envelope(&caller, &new_key().id());
    let mut version = good.clone();
    assert_eq!(version[2], 1, "the version is the first value of the map");
    version[2] = 2;
    for (what, body, code) in [
        ("nothing", vec![], "bad_envelope"),
        ("garbage", vec![0xff; 400], "bad_envelope"),
        ("cut off", good[..good.len() - 1].to_vec(), "bad_envelope"),
        ("too long", [&good[..], &[0]].concat(), "bad_envelope"),
        ("for another device", elsewhere, "bad_envelope"),
        ("of another version", version, "bad_version"),
    ] {
        let reply = registry.ring_refused(&device.id(), body).await;
        assert_eq!(reply.problem(), (400, code), "{what}");
    }
    // A spread of single flipped bits, over every field.
    for at in (0..good.len()).step_by(5) {
        let mut flipped = good.clone();
        flipped[at] ^= 1 << (at % 8);
        let reply = registry.ring_refused(&device.id(), flipped).await;
        assert_eq!(reply.problem().0, 400, "byte {at}: {reply:?}");
    }
    socket.expect_quiet().await;
    let mut ring = registry.ring(&device.id(), good).await;
    socket.expect_deliver().await;
    assert!(
        matches!(ring.next().await, Some(Frame::Delivered(_))),
        "and none of it was counted as a request"
    );
}

#[tokio::test]
async fn a_caller_has_twenty_requests_a_minute_through_hibernation() {
    let registry = Registry::start();
    let (device, mut socket) = registry.online("nas").await;
    let caller = new_key();
    for _ in 0..20 {
        let mut ring = registry
            .ring(&device.id(), envelope(&caller, &device.id()))
            .await;
        let call = socket.expect_deliver().await.call;
        socket
            .send(Answer {
                call,
                reply: vec![],
            })
            .await;
        while ring.next().await.is_some() {}
    }
    let refused = registry
        .ring_refused(&device.id(), envelope(&caller, &device.id()))
        .await;
    assert_eq!(refused.problem(), (429, "rate_limited"));
    let retry = refused.body["retry_after_s"].as_u64().unwrap();
    assert!((1..=60).contains(&retry));

    let loads = |registry: &Registry| registry.server.log().matches("object loaded").count();
    let before = loads(&registry);
    hibernation().await;
    let again = registry
        .ring_refused(&device.id(), envelope(&caller, &device.id()))
        .await;
    assert_eq!(
        again.problem(),
        (429, "rate_limited"),
        "waiting for the object to forget does not help"
    );
    assert!(loads(&registry) > before, "the object did hibernate");
    assert!(again.body["retry_after_s"].as_u64().unwrap() < retry);

    let mut ring = registry
        .ring(&device.id(), envelope(&new_key(), &device.id()))
        .await;
    let call = socket.expect_deliver().await.call;
    socket
        .send(Answer {
            call,
            reply: vec![1],
        })
        .await;
    assert!(
        matches!(ring.next().await, Some(Frame::Delivered(_))),
        "others are not touched"
    );
    assert!(matches!(ring.next().await, Some(Frame::Answered(_))));
}

#[tokio::test]
async fn a_socket_sleeps_and_wakes() {
    let registry = Registry::start();
    let (device, mut socket) = registry.online("nas").await;
    let other = registry.enrolled("other").await;
    let mut registering = Socket::connect(&registry, &other).await;
    registering.register(&other, &registry.origin(), None).await;
    registering.expect_registered().await;
    let asleep = Instant::now();
    hibernation().await;
    socket.expect_quiet().await;
    let mut ring = registry
        .ring(&device.id(), envelope(&new_key(), &device.id()))
        .await;
    let call = socket.expect_deliver().await.call;
    socket
        .send(Answer {
            call,
            reply: vec![1],
        })
        .await;
    assert!(matches!(ring.next().await, Some(Frame::Delivered(_))));
    assert!(matches!(ring.next().await, Some(Frame::Answered(_))));
    let public = "203.0.113.9:9".parse().unwrap();
    registering
        .send(ringback_protocol::frame::Update { public })
        .await;
    assert!(
        matches!(registering.next().await, Incident::Frame(Frame::Updated(_))),
        "a frame wakes it, too"
    );
    assert!(asleep.elapsed() > Duration::from_secs(11));
    drop(socket);
    registry
        .await_row(&device.id(), "online", json!(false))
        .await;
}

/// workerd hibernates an object ten seconds after its last event. Looking would wake it.
async fn hibernation() {
    tokio::time::sleep(Duration::from_secs(12)).await;
}

/// Rings as somebody at this address, and has the device answer or refuse. The status if the
/// registry does not take the request.
async fn ring_from(
    registry: &Registry,
    socket: &mut Socket,
    caller: &SecretKey,
    address: &str,
    answers: bool,
) -> Result<(), u16> {
    let device = socket.device;
    let path = format!("/v1/devices/{device}/requests");
    let headers = [("cf-connecting-ip", address)];
    let response = registry
        .http("POST", &path, &headers, envelope(caller, &device))
        .await;
    if response.status() != 200 {
        return Err(response.status().as_u16());
    }
    let mut ring = Ring::of(response);
    let call = socket.expect_deliver().await.call;
    if answers {
        let reply = vec![1];
        socket.send(Answer { call, reply }).await;
    } else {
        let refusal = vec![2];
        socket.send(Refuse { call, refusal }).await;
    }
    while ring.next().await.is_some() {}
    Ok(())
}

/// Six throw-away keys a minute kept everybody out.
#[tokio::test]
async fn strangers_keep_out_strangers_only() {
    let registry = Registry::start();
    let (device, mut socket) = registry.online("nas").await;
    let known = new_key();
    let ringing = async |socket: &mut Socket, caller: &SecretKey, address: &str, answers| {
        ring_from(&registry, socket, caller, address, answers).await
    };
    assert_eq!(
        ringing(&mut socket, &known, "192.0.2.1", true).await,
        Ok(())
    );

    // From one address, or one /64, forty; then from elsewhere up to a hundred and twenty.
    let mut junk = 0;
    for n in 0..200 {
        let address = match n {
            0..100 => format!("2001:db8:1:2::{n:x}"),
            _ => format!("198.51.100.{n}"),
        };
        let taken = ringing(&mut socket, &new_key(), &address, false).await;
        assert!(taken == Ok(()) || taken == Err(429), "{taken:?}");
        junk += usize::from(taken.is_ok());
        if n == 99 {
            assert_eq!(junk, 40, "all from one /64");
        }
    }
    assert_eq!(
        junk, 119,
        "a hundred and twenty with the first of the known caller"
    );
    let mut newer = registry.registered(&device).await;
    assert_eq!(
        ringing(&mut newer, &new_key(), "203.0.113.9", true).await,
        Err(429),
        "a newer socket does not reset what the older one has counted"
    );
    for _ in 0..18 {
        assert_eq!(
            ringing(&mut newer, &known, "2001:db8:1:2::1", true).await,
            Ok(())
        );
    }
    // Nor does it forget who was answered, which outlives sockets and the object's sleep.
    newer.close().await;
    registry
        .await_row(&device.id(), "online", json!(false))
        .await;
    hibernation().await;
    let mut newest = registry.registered(&device).await;
    for n in 0..200 {
        let address = format!("198.51.100.{n}");
        ringing(&mut newest, &new_key(), &address, false).await.ok();
    }
    assert_eq!(
        ringing(&mut newest, &new_key(), "203.0.113.9", true).await,
        Err(429)
    );
    assert_eq!(
        ringing(&mut newest, &known, "203.0.113.9", true).await,
        Ok(())
    );
}

#[tokio::test]
async fn thirty_two_calls_may_wait() {
    let registry = Registry::start();
    let (device, mut socket) = registry.online("nas").await;
    let callers = [new_key(), new_key(), new_key()];
    let mut rings = Vec::new();
    let mut calls = Vec::new();
    for i in 0..32 {
        let mut ring = registry
            .ring(&device.id(), envelope(&callers[i / 16], &device.id()))
            .await;
        calls.push(socket.expect_deliver().await.call);
        assert!(matches!(ring.next().await, Some(Frame::Delivered(_))));
        rings.push(ring);
    }
    let reply = registry
        .ring_refused(&device.id(), envelope(&callers[2], &device.id()))
        .await;
    assert_eq!(reply.problem(), (429, "rate_limited"));

    // Every caller hangs up; the device answers one of them all the same.
    drop(rings);
    socket
        .send(Answer {
            call: calls[0],
            reply: vec![],
        })
        .await;
    socket.expect_quiet().await;
    let mut ring = registry
        .ring(&device.id(), envelope(&callers[2], &device.id()))
        .await;
    socket.expect_deliver().await;
    assert!(matches!(ring.next().await, Some(Frame::Delivered(_))));
}

#[tokio::test]
async fn a_device_places_calls_of_its_own() {
    let registry = Registry::start();
    let (device, mut socket) = registry.online("nas").await;
    let (caller, mut own) = registry.online("laptop").await;
    let request = envelope(&caller, &device.id());
    own.send(Place {
        call: 41,
        device: device.id(),
        envelope: request.clone(),
    })
    .await;
    let first = socket.expect_deliver().await;
    assert_eq!(first.envelope, request);
    assert_eq!(
        own.next().await,
        Incident::Frame(Delivered { call: 41 }.into())
    );

    // A second one while the first is waiting, and other messages in between.
    own.send(Place {
        call: 7,
        device: device.id(),
        envelope: envelope(&caller, &device.id()),
    })
    .await;
    let second = socket.expect_deliver_unacknowledged().await;
    let public = "203.0.113.9:9".parse().unwrap();
    own.send(ringback_protocol::frame::Update { public }).await;
    assert!(
        matches!(own.next().await, Incident::Frame(Frame::Updated(_))),
        "the socket is not blocked"
    );
    socket
        .send(Refuse {
            call: second.call,
            refusal: vec![2],
        })
        .await;
    assert_eq!(
        own.next().await,
        Incident::Frame(Delivered { call: 7 }.into())
    );
    assert_eq!(
        own.next().await,
        Incident::Frame(
            Refused {
                call: 7,
                refusal: vec![2]
            }
            .into()
        )
    );
    socket
        .send(Answer {
            call: first.call,
            reply: vec![1],
        })
        .await;
    assert_eq!(
        own.next().await,
        Incident::Frame(
            Answered {
                call: 41,
                reply: vec![1],
                ice: None,
            }
            .into()
        )
    );

    // To itself.
    own.send(Place {
        call: 8,
        device: caller.id(),
        envelope: envelope(&caller, &caller.id()),
    })
    .await;
    let to_itself = own.expect_deliver().await;
    assert_eq!(
        own.next().await,
        Incident::Frame(Delivered { call: 8 }.into())
    );
    own.send(Answer {
        call: to_itself.call,
        reply: vec![3],
    })
    .await;
    assert_eq!(
        own.next().await,
        Incident::Frame(
            Answered {
                call: 8,
                reply: vec![3],
                ice: None,
            }
            .into()
        )
    );
}

#[tokio::test]
async fn placed_calls_fail_as_others_do() {
    let registry = Registry::start();
    let (caller, mut own) = registry.online("laptop").await;
    let offline = registry.enrolled("nas").await.id();
    let stranger = new_key().id();
    let mut flipped = envelope(&caller, &offline);
    flipped[100] ^= 1;
    for (device, envelope, code) in [
        (offline, envelope(&caller, &offline), Code::DeviceOffline),
        (stranger, envelope(&caller, &stranger), Code::UnknownDevice),
        (offline, envelope(&caller, &stranger), Code::BadEnvelope),
        (offline, envelope(&new_key(), &offline), Code::BadEnvelope),
        (offline, flipped, Code::BadEnvelope),
        (offline, vec![], Code::BadEnvelope),
        (offline, vec![0; 17 * 1024], Code::TooLarge),
    ] {
        own.send(Place {
            call: 5,
            device,
            envelope,
        })
        .await;
        match own.next().await {
            Incident::Frame(Frame::Failed(failed)) => {
                assert_eq!((failed.call, failed.code), (5, code));
            }
            other => panic!("{code}: {other:?}"),
        }
    }

    let (busy, mut socket) = registry.online("busy").await;
    for call in 0..8 {
        own.send(Place {
            call,
            device: busy.id(),
            envelope: envelope(&caller, &busy.id()),
        })
        .await;
        socket.expect_deliver().await;
        assert!(matches!(
            own.next().await,
            Incident::Frame(Frame::Delivered(_))
        ));
    }
    own.send(Place {
        call: 8,
        device: busy.id(),
        envelope: envelope(&caller, &busy.id()),
    })
    .await;
    match own.next().await {
        Incident::Frame(Frame::Failed(failed)) => {
            assert_eq!((failed.call, failed.code), (8, Code::RateLimited));
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_death_of_the_registry_ends_calls_and_they_can_be_made_again() {
    let mut registry = Registry::start();
    let (device, mut socket) = registry.online("nas").await;
    let mut ring = registry
        .ring(&device.id(), envelope(&new_key(), &device.id()))
        .await;
    socket.expect_deliver().await;
    assert!(matches!(ring.next().await, Some(Frame::Delivered(_))));
    registry.server.restart().unwrap();
    assert_eq!(socket.next().await, Incident::Closed(1006));
    let mut socket = registry.registered(&device).await;
    let mut ring = registry
        .ring(&device.id(), envelope(&new_key(), &device.id()))
        .await;
    let call = socket.expect_deliver().await.call;
    socket
        .send(Answer {
            call,
            reply: vec![1],
        })
        .await;
    assert!(matches!(ring.next().await, Some(Frame::Delivered(_))));
    assert!(matches!(ring.next().await, Some(Frame::Answered(_))));
}
