//! What strangers cost the owner of a registry (PROTOCOL.md, 5.8), on real workerd: objects that they
//! wake, rows that they have written, and that the owner sees it.

use ringback_tests::registry::{OWNER_SECRET, Registry, envelope, new_key};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{self, http};

async fn usage(registry: &Registry) -> Value {
    registry.owner("GET", "/v1/usage", Value::Null).await.body
}

fn asked(registry: &Registry) -> usize {
    registry.server.log().matches("directory asked").count()
}

#[tokio::test]
async fn what_anybody_may_ask_is_answered_without_the_directory() {
    let registry = Registry::start();
    registry.enrolled("nas").await;
    let rows = usage(&registry).await["rows_written"]["used"].clone();
    let before = asked(&registry);
    for n in 0..100 {
        assert_eq!(registry.get("/v1/registry").await.status, 200);
        assert_eq!(registry.get("/v1/aliases/nas").await.status, 200);
        let reply = registry.get(&format!("/v1/aliases/no-{n}")).await;
        assert_eq!(reply.problem(), (404, "unknown_alias"));
    }
    // Two copies, and maybe a second look for what was not there.
    let questions = asked(&registry) - before;
    assert!(questions <= 5, "{questions}");
    let after = usage(&registry).await;
    let counted = &after["frontend"];
    assert_eq!(counted["refused"], 100, "{after}");
    let all = counted["requests"]["used"].as_u64().unwrap();
    assert!((302..310).contains(&all), "{after}");
    let written = after["rows_written"]["used"].as_u64().unwrap() - rows.as_u64().unwrap();
    assert!(written <= 2, "a row for hundreds: {written}");

    // A change is not hidden by the copy.
    let device = registry.get("/v1/aliases/nas").await.body["device"].clone();
    let path = format!("/v1/devices/{}", device.as_str().unwrap());
    registry
        .owner("PATCH", &path, json!({ "name": "attic" }))
        .await;
    assert_eq!(registry.get("/v1/aliases/nas").await.status, 404);
    assert_eq!(
        registry.get("/v1/aliases/attic").await.body["device"],
        device
    );
    let open = json!({ "registration": "open" });
    registry.owner("PUT", "/v1/policy", open).await;
    assert_eq!(
        registry.get("/v1/registry").await.body["registration"],
        "open"
    );
}

#[tokio::test]
async fn whether_a_device_is_enrolled_is_told_without_waking_it() {
    let registry = Registry::start();
    let key = registry.enrolled("nas").await;
    let path = format!("/v1/devices/{}", key.id());
    let before = asked(&registry);
    let loaded = || {
        let log = registry.server.log();
        log.matches("device object loaded").count()
    };
    let awake = loaded();
    for _ in 0..60 {
        let known = registry.get(&path).await;
        assert_eq!(known.status, 200);
        // Neither the name nor the presence is told to strangers.
        assert_eq!(known.body, json!({ "device": key.id() }));
        let nobody = format!("/v1/devices/{}", new_key().id());
        let reply = registry.get(&nobody).await;
        assert_eq!(reply.problem(), (404, "unknown_device"));
    }
    assert_eq!(loaded(), awake);
    let questions = asked(&registry) - before;
    assert!(questions <= 5, "{questions}");

    let mistyped = registry.get(&path.replace(&path[40..41], "!")).await;
    assert_eq!(mistyped.problem(), (400, "bad_request"));
    registry.owner("DELETE", &path, Value::Null).await;
    assert_eq!(registry.get(&path).await.problem(), (403, "revoked"));
}

#[tokio::test]
async fn requests_to_nobody_wake_thirty_objects_a_minute_of_an_address() {
    let registry = Registry::start();
    registry.enrolled("nas").await;
    let caller = new_key();
    let rows = usage(&registry).await["rows_written"]["used"].clone();
    let ring = async |address: &str| {
        let device = new_key().id();
        let path = format!("/v1/devices/{device}/requests");
        let headers = [("cf-connecting-ip", address)];
        let body = envelope(&caller, &device);
        registry.reply("POST", &path, &headers, body).await.status
    };
    let mut statuses = Vec::new();
    for n in 0..60 {
        statuses.push(ring(&format!("2001:db8:5:5::{n:x}")).await);
    }
    assert_eq!(statuses[..30], [404; 30]);
    assert_eq!(statuses[30..], [429; 30]);
    assert_eq!(ring("2001:db8:5:6::1").await, 404, "another address");
    let loads = registry
        .server
        .log()
        .matches("device object loaded")
        .count();
    assert!(loads <= 31, "{loads}");
    let after = usage(&registry).await;
    assert_eq!(after["frontend"]["refused"], 61);
    assert_eq!(after["frontend"]["limited"], 30);
    assert_eq!(after["requests"]["count"], 0);
    assert_eq!(after["rows_written"]["used"], rows);
}

async fn open_owner(registry: &Registry, offered: &str) -> Result<(), u16> {
    let addr = registry.server.addr();
    let mut request = format!("ws://{addr}/v1/devices/socket")
        .into_client_request()
        .unwrap();
    let offered = http::HeaderValue::from_str(offered).unwrap();
    request
        .headers_mut()
        .insert("sec-websocket-protocol", offered);
    let stream = TcpStream::connect(addr).await.unwrap();
    match tokio_tungstenite::client_async(request, stream).await {
        Ok((_, response)) => {
            let chosen = &response.headers()["sec-websocket-protocol"];
            assert_eq!(chosen, "ringback.owner.1");
            Ok(())
        }
        Err(tungstenite::Error::Http(response)) => Err(response.status().as_u16()),
        Err(other) => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_owners_socket_opens_by_a_ticket_whatever_strangers_do() {
    let registry = Registry::start();
    let mut opened = 0;
    for _ in 0..40 {
        match open_owner(&registry, "ringback.owner.1").await {
            Ok(()) => opened += 1,
            Err(status) => assert_eq!(status, 429),
        }
    }
    assert_eq!(opened, 30, "as pages of before have it, with a limit");
    let reply = registry.owner("POST", "/v1/tickets", Value::Null).await;
    assert_eq!(reply.status, 201, "{reply:?}");
    let ticket = reply.body["ticket"].as_str().unwrap();
    for _ in 0..40 {
        let offered = format!("ringback.owner.1, ringback.ticket.{ticket}");
        assert_eq!(open_owner(&registry, &offered).await, Ok(()));
    }
    let forged = format!("ringback.owner.1, ringback.ticket.{}", &ticket[4..]);
    assert_eq!(open_owner(&registry, &forged).await, Err(401));
    let bearer = format!("Bearer {OWNER_SECRET}x");
    let headers = [("authorization", bearer.as_str())];
    let reply = registry.reply("POST", "/v1/tickets", &headers, "").await;
    assert_eq!(reply.problem(), (401, "unauthorized"));
}

#[tokio::test]
async fn a_secret_that_can_be_guessed_makes_nobody_the_owner() {
    for weak in ["letmein", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"] {
        let registry = Registry::with(|config| {
            config.bindings.insert("OWNER_SECRET".into(), weak.into());
        });
        let bearer = format!("Bearer {weak}");
        let headers = [("authorization", bearer.as_str())];
        let reply = registry.reply("GET", "/v1/devices", &headers, "").await;
        assert_eq!(reply.problem(), (503, "owner_secret_weak"));
    }
}
