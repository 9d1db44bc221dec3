//! The owner's socket (§5.6): who may watch the device list, and what is told when.

use std::time::{Duration, Instant};

use futures_util::{SinkExt as _, StreamExt as _};
use ringback_protocol::PeerId;
use ringback_tests::{
    loopback::Device,
    registry::{OWNER_SECRET, Registry, new_key},
};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{self, Message, client::IntoClientRequest as _},
};

const PATIENCE: Duration = Duration::from_secs(20);
/// How soon a page knows what has changed.
const SOON: Duration = Duration::from_secs(1);

/// A page that watches the list.
struct Watcher(WebSocketStream<TcpStream>);

#[derive(Debug, PartialEq)]
enum Told {
    Json(Value),
    Text(String),
    Closed(u16),
}

impl Watcher {
    async fn open(registry: &Registry, protocol: Option<&str>) -> Result<Self, tungstenite::Error> {
        let addr = registry.server.addr();
        let mut request = format!("ws://{addr}/v1/devices/socket").into_client_request()?;
        if let Some(protocol) = protocol {
            let headers = request.headers_mut();
            headers.insert("sec-websocket-protocol", protocol.parse().expect("ASCII"));
        }
        let stream = TcpStream::connect(addr).await.expect("workerd listens");
        let (stream, _) = tokio_tungstenite::client_async(request, stream).await?;
        Ok(Self(stream))
    }

    /// With a ticket, as the page opens it, and not signed in.
    async fn unknown(registry: &Registry) -> Self {
        let reply = registry.owner("POST", "/v1/tickets", Value::Null).await;
        let ticket = reply.body["ticket"].as_str().unwrap_or_default();
        let offered = format!("ringback.owner.1, ringback.ticket.{ticket}");
        let opened = Self::open(registry, Some(&offered)).await;
        opened.expect("the socket opens")
    }

    /// Signed in, with the list.
    async fn owner(registry: &Registry) -> (Self, Value) {
        let mut watcher = Self::unknown(registry).await;
        watcher
            .send(&json!({ "owner": OWNER_SECRET }).to_string())
            .await;
        match watcher.next().await {
            Told::Json(mut told) => (watcher, told["devices"].take()),
            other => panic!("no list: {other:?}"),
        }
    }

    async fn send(&mut self, text: &str) {
        let message = Message::text(text);
        self.0.send(message).await.expect("the socket is open");
    }

    async fn next(&mut self) -> Told {
        match timeout(PATIENCE, self.0.next())
            .await
            .expect("something in time")
        {
            Some(Ok(Message::Text(text))) => match serde_json::from_str(&text) {
                Ok(json) => Told::Json(json),
                Err(_) => Told::Text(text.to_string()),
            },
            Some(Ok(Message::Close(close))) => {
                Told::Closed(close.map_or(1005, |close| close.code.into()))
            }
            other => panic!("{other:?}"),
        }
    }

    /// What is told of this device next; nothing is told of others.
    async fn device(&mut self, device: &str) -> Value {
        match self.next().await {
            Told::Json(mut told) if told["device"]["id"] == device => told["device"].take(),
            other => panic!("not about {device}: {other:?}"),
        }
    }

    /// Waits until this device is told with this value, and says how long it took.
    async fn until(&mut self, device: &str, column: &str, value: &Value) -> Duration {
        let start = Instant::now();
        while self.device(device).await[column] != *value {}
        start.elapsed()
    }

    /// Refused with this code, and closed.
    async fn refused(&mut self) -> String {
        let Told::Json(told) = self.next().await else {
            panic!("no refusal");
        };
        assert_eq!(self.next().await, Told::Closed(4003));
        told["error"].as_str().expect("a code").to_owned()
    }

    /// Nothing has come, and a ping is answered without the object.
    async fn quiet(&mut self) {
        self.send("ping").await;
        assert_eq!(self.next().await, Told::Text("pong".into()));
    }
}

#[tokio::test]
async fn the_list_and_then_every_change_is_told() {
    let registry = Registry::start();
    let key = registry.enrolled("nas").await;
    let id = key.id().to_string();
    let (mut watcher, list) = Watcher::owner(&registry).await;
    assert_eq!(list.as_array().map(Vec::len), Some(1), "{list}");
    assert_eq!(
        (&list[0]["id"], &list[0]["online"]),
        (&json!(id), &json!(false))
    );
    watcher.quiet().await;

    let socket = registry.registered(&key).await;
    let told = watcher.device(&id).await;
    assert_eq!(
        (&told["online"], &told["via"]),
        (&json!(true), &json!("socket"))
    );
    assert_eq!(told, registry.row(&key.id()).await, "as in the list");

    let path = format!("/v1/devices/{id}");
    let renamed = registry
        .owner("PATCH", &path, json!({ "name": "attic" }))
        .await;
    assert_eq!(renamed.status, 200);
    assert_eq!(watcher.device(&id).await["name"], "attic");

    socket.close().await;
    assert_eq!(watcher.device(&id).await["online"], false);

    let other = registry.enrolled("other").await.id().to_string();
    let told = watcher.device(&other).await;
    assert_eq!(
        (&told["name"], &told["last_seen"]),
        (&json!("other"), &Value::Null)
    );

    let revoked = registry.owner("DELETE", &path, Value::Null).await;
    assert_eq!(revoked.status, 204);
    assert_eq!(watcher.device(&id).await["revoked"], true);
    watcher.quiet().await;
}

#[tokio::test]
async fn two_pages_are_told_the_same() {
    let registry = Registry::start();
    let (mut one, _) = Watcher::owner(&registry).await;
    let (mut two, _) = Watcher::owner(&registry).await;
    let id = registry.enrolled("nas").await.id().to_string();
    assert_eq!(one.device(&id).await, two.device(&id).await);
    drop(one);
    let path = format!("/v1/devices/{id}");
    registry
        .owner("PATCH", &path, json!({ "name": "attic" }))
        .await;
    assert_eq!(two.device(&id).await["name"], "attic");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agents_start_rename_and_kill_are_seen_within_a_second() {
    let registry = Registry::start();
    let code = registry.code(json!({ "name": "nas" })).await;
    let (mut watcher, _) = Watcher::owner(&registry).await;
    let origin = registry.origin();
    let started = {
        let code = code.clone();
        tokio::task::spawn_blocking(move || Device::start(&origin, &code, "hello"))
    };
    // Enrolled first, then online; the agent itself waits for the latter.
    let Told::Json(enrolled) = watcher.next().await else {
        panic!("nothing told")
    };
    let id = enrolled["device"]["id"].as_str().expect("an ID").to_owned();
    watcher.until(&id, "online", &json!(true)).await;
    let mut device = started.await.expect("it starts");
    assert_eq!(device.id, id);

    let path = format!("/v1/devices/{id}");
    let start = Instant::now();
    registry
        .owner("PATCH", &path, json!({ "name": "attic" }))
        .await;
    watcher.until(&id, "name", &json!("attic")).await;
    assert!(
        start.elapsed() < SOON,
        "renamed after {:?}",
        start.elapsed()
    );

    let start = Instant::now();
    device.process.kill9().expect("it runs");
    watcher.until(&id, "online", &json!(false)).await;
    assert!(start.elapsed() < SOON, "gone after {:?}", start.elapsed());

    let restarted = tokio::task::spawn_blocking(move || device.restart());
    watcher.until(&id, "online", &json!(true)).await;
    restarted.await.expect("it starts again");
}

#[tokio::test]
async fn without_the_secret_nothing_is_told() {
    let registry = Registry::start();
    for (first, code) in [
        (json!({ "owner": "a guess" }).to_string(), "unauthorized"),
        (json!({ "owner": "" }).to_string(), "unauthorized"),
        (json!({ "secret": OWNER_SECRET }).to_string(), "bad_frame"),
        (OWNER_SECRET.to_owned(), "bad_frame"),
        (
            json!({ "owner": OWNER_SECRET, "pad": "x".repeat(5000) }).to_string(),
            "bad_frame",
        ),
    ] {
        let mut watcher = Watcher::unknown(&registry).await;
        watcher.send(&first).await;
        registry
            .enrolled(&format!("n{:x}", fastrand::u32(..)))
            .await;
        assert_eq!(watcher.refused().await, code, "{first}");
    }
    // Who says nothing is closed when the next one comes, or speaks too late.
    let mut silent = Watcher::unknown(&registry).await;
    let mut late = Watcher::unknown(&registry).await;
    tokio::time::sleep(Duration::from_secs(11)).await;
    late.send(&json!({ "owner": OWNER_SECRET }).to_string())
        .await;
    assert_eq!(late.refused().await, "unauthorized");
    Watcher::owner(&registry).await;
    assert_eq!(silent.refused().await, "unauthorized");

    let open = Registry::with(|config| {
        config.bindings.remove("OWNER_SECRET");
    });
    let mut watcher = Watcher::open(&open, Some("ringback.owner.1"))
        .await
        .unwrap();
    watcher.send(&json!({ "owner": "" }).to_string()).await;
    assert_eq!(watcher.refused().await, "owner_secret_unset");
}

#[tokio::test]
async fn the_subprotocol_is_asked_for() {
    let registry = Registry::start();
    for protocol in [None, Some("ringback.1")] {
        let Err(tungstenite::Error::Http(response)) = Watcher::open(&registry, protocol).await
        else {
            panic!("{protocol:?}: opened");
        };
        assert_eq!(response.status(), 400, "{protocol:?}");
    }
}

/// Whoever opens many sockets without the secret keeps nobody out who has it.
#[tokio::test]
async fn too_many_sockets_close_the_oldest() {
    let registry = Registry::start();
    let (mut owner, _) = Watcher::owner(&registry).await;
    let mut strangers = Vec::new();
    for _ in 0..33 {
        strangers.push(Watcher::unknown(&registry).await);
    }
    assert_eq!(strangers[0].next().await, Told::Closed(4001));
    strangers[1].quiet().await;
    owner.quiet().await;
    let (mut late, _) = Watcher::owner(&registry).await;
    late.quiet().await;

    let mut owners = Vec::new();
    for _ in 0..31 {
        owners.push(Watcher::owner(&registry).await.0);
    }
    assert_eq!(owner.next().await, Told::Closed(4001));
    late.quiet().await;
}

/// As of a machine whose power was cut: nothing closes the socket.
#[tokio::test]
async fn a_device_that_falls_silent_is_not_online_after_45_seconds() {
    let registry = Registry::start();
    let (key, mut socket) = registry.online("nas").await;
    socket.expect_quiet().await;
    let start = Instant::now();
    let heard = registry.row(&key.id()).await["last_seen"].as_u64().unwrap();
    let silent = loop {
        let row = registry.row(&key.id()).await;
        if row["online"] == false {
            break row;
        }
        assert!(start.elapsed() < Duration::from_secs(50), "{row}");
        tokio::time::sleep(Duration::from_millis(500)).await;
    };
    let took = start.elapsed().as_secs();
    assert!((43..48).contains(&took), "{took} s");
    assert_eq!(silent["silent"], true);
    assert_eq!(silent["via"], Value::Null);
    let seen = silent["last_seen"].as_u64().unwrap();
    assert!(seen.abs_diff(heard) < 3, "{silent}");
    // It was not gone: the next sign of life brings it back.
    socket.expect_quiet().await;
    let row = registry.row(&key.id()).await;
    assert_eq!(
        (&row["online"], &row["silent"]),
        (&json!(true), &json!(false))
    );
}

/// A page may ask anew; it gets the list that is read with doubt.
#[tokio::test]
async fn the_list_is_sent_again_when_it_is_asked_for() {
    let registry = Registry::start();
    let key = new_key();
    let id: PeerId = key.id();
    let (mut watcher, list) = Watcher::owner(&registry).await;
    assert_eq!(list, json!([]));
    // Too soon: nothing comes but what happens.
    watcher.send("{}").await;
    watcher.quiet().await;
    let code = registry.code(json!({ "name": "nas" })).await;
    let enrolment = registry.enrolment(&key, &code);
    registry.post("/v1/enrollments", &enrolment).await;
    assert_eq!(watcher.device(&id.to_string()).await["name"], "nas");
    let list = timeout(PATIENCE, async {
        loop {
            watcher.send("{}").await;
            watcher.send("ping").await;
            match watcher.next().await {
                Told::Json(told) => return told,
                Told::Text(_) => tokio::time::sleep(Duration::from_millis(100)).await,
                Told::Closed(code) => panic!("closed with {code}"),
            }
        }
    });
    let list = list.await.expect("a list in time");
    assert_eq!(list["devices"][0]["id"], json!(id));
}
