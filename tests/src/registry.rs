//! A registry for tests: the built worker on a local workerd, and clients of the three kinds that
//! it has. They speak PROTOCOL.md by hand, frame by frame, so that they can also break it.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use futures_util::{SinkExt as _, StreamExt as _};
use http_body_util::{BodyExt as _, Full};
use hyper::Request as HttpRequest;
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use ringback_protocol::envelope::{Envelope, LIFETIME, Proof, Request};
use ringback_protocol::frame::{Ack, Challenge, Deliver, Frame, FrameReader, Register, Registered};
use ringback_protocol::receipt::Nat;
use ringback_protocol::registration::{sign_challenge, sign_enrolment, sign_upgrade};
use ringback_protocol::{PeerId, SecretKey};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{self, Message};
use xtask::workerd::{Config, Workerd};

/// The owner secret of every registry here.
pub const OWNER_SECRET: &str = "the owner of the tests";

/// Longer than any wait that the protocol has; reaching it fails the test.
const PATIENCE: Duration = Duration::from_secs(40);

/// A registry on a port of its own, with empty storage. Ends with the value.
#[derive(Debug)]
pub struct Registry {
    pub server: Workerd,
    _storage: TempDir,
}

/// A response with a JSON body, or none.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: hyper::HeaderMap,
    /// Null if the body is empty.
    pub body: Value,
}

impl Reply {
    /// The header's value, empty if there is none.
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().expect("headers are ASCII"))
    }

    /// `(status, code)` of a problem document, which must be a whole one.
    #[track_caller]
    pub fn problem(&self) -> (u16, &str) {
        assert_eq!(
            self.header("content-type"),
            "application/problem+json",
            "{self:?}"
        );
        assert_eq!(self.body["status"], self.status, "{self:?}");
        assert_eq!(self.body["type"], "about:blank", "{self:?}");
        let text = |member: &str| {
            self.body[member]
                .as_str()
                .filter(|text| !text.is_empty() && !text.contains('\n'))
        };
        assert!(
            text("title").is_some() && text("detail").is_some(),
            "{self:?}"
        );
        let retry_after = self.body["retry_after_s"]
            .as_u64()
            .map(|s| s.to_string())
            .unwrap_or_default();
        assert_eq!(self.header("retry-after"), retry_after, "{self:?}");
        (self.status, text("code").expect("a problem has a code"))
    }
}

impl Registry {
    pub fn start() -> Self {
        Self::with(|_| {})
    }

    /// With changes to its configuration.
    pub fn with(change: impl FnOnce(&mut Config)) -> Self {
        let storage = TempDir::new().expect("a temporary directory");
        let mut config = Config::registry(storage.path(), OWNER_SECRET)
            .expect("the worker is built: run `cargo xtask worker`");
        change(&mut config);
        Self {
            server: Workerd::start(config).expect("workerd starts"),
            _storage: storage,
        }
    }

    /// What devices sign.
    pub fn origin(&self) -> String {
        self.server.url()
    }

    /// One request, with its body at once, on a connection of its own. `host` is set if it is not
    /// among the headers.
    pub async fn http(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> hyper::Response<Incoming> {
        let addr = self.server.addr();
        let exchange = async {
            let stream = TcpStream::connect(addr).await.expect("workerd listens");
            let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
                .await
                .expect("HTTP/1.1");
            tokio::spawn(connection);
            let mut request = HttpRequest::builder().method(method).uri(path);
            if !headers.iter().any(|(name, _)| *name == "host") {
                request = request.header("host", addr.to_string());
            }
            let request = headers.iter().fold(request, |request, (name, value)| {
                request.header(*name, *value)
            });
            sender
                .send_request(request.body(Full::new(body.into())).expect("a request"))
                .await
                .expect("a response")
        };
        timeout(PATIENCE, exchange)
            .await
            .expect("a response in time")
    }

    pub async fn reply(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Reply {
        let (head, body) = self.http(method, path, headers, body).await.into_parts();
        let bytes = timeout(PATIENCE, body.collect())
            .await
            .expect("a body in time")
            .expect("a whole body")
            .to_bytes();
        let body = if bytes.is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(&bytes).unwrap_or_else(|_| {
                panic!(
                    "{method} {path}: not JSON: {}",
                    String::from_utf8_lossy(&bytes)
                )
            })
        };
        Reply {
            status: head.status.as_u16(),
            headers: head.headers,
            body,
        }
    }

    pub async fn get(&self, path: &str) -> Reply {
        self.reply("GET", path, &[], "").await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Reply {
        self.reply("POST", path, &[], body.to_string()).await
    }

    /// As the owner. A null body is sent as none.
    pub async fn owner(&self, method: &str, path: &str, body: Value) -> Reply {
        let secret = format!("Bearer {OWNER_SECRET}");
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        self.reply(method, path, &[("authorization", &secret)], body)
            .await
    }

    /// A fresh enrolment code.
    pub async fn code(&self, body: Value) -> String {
        let reply = self.owner("POST", "/v1/codes", body).await;
        assert_eq!(reply.status, 201, "{reply:?}");
        reply.body["code"].as_str().expect("a code").to_owned()
    }

    /// The body of an enrolment, well signed.
    pub fn enrolment(&self, key: &SecretKey, code: &str) -> Value {
        let signature = BASE64_URL_SAFE_NO_PAD.encode(sign_enrolment(key, &self.origin(), code));
        json!({ "code": code, "device": key.id(), "signature": signature })
    }

    /// A new device, enrolled under this name.
    pub async fn enrolled(&self, name: &str) -> SecretKey {
        let key = new_key();
        let code = self.code(json!({ "name": name })).await;
        let reply = self
            .post("/v1/enrollments", &self.enrolment(&key, &code))
            .await;
        assert_eq!(reply.status, 201, "{reply:?}");
        key
    }

    /// A new device, enrolled and on line.
    pub async fn online(&self, name: &str) -> (SecretKey, Socket) {
        let key = self.enrolled(name).await;
        let socket = self.registered(&key).await;
        (key, socket)
    }

    /// A registered socket of an enrolled device.
    pub async fn registered(&self, key: &SecretKey) -> Socket {
        let mut socket = Socket::connect(self, key).await;
        socket.register(key, &self.origin(), None).await;
        socket.expect_registered().await;
        socket
    }

    /// This device's row in the list.
    pub async fn row(&self, device: &PeerId) -> Value {
        let reply = self.owner("GET", "/v1/devices", Value::Null).await;
        let rows = reply.body["devices"]
            .as_array()
            .unwrap_or_else(|| panic!("no list: {reply:?}"));
        rows.iter()
            .find(|row| row["id"] == json!(device))
            .cloned()
            .unwrap_or_default()
    }

    /// Waits until this device's row has this value, which must come by itself.
    pub async fn await_row(&self, device: &PeerId, column: &str, value: Value) -> Value {
        let wait = async {
            loop {
                let row = self.row(device).await;
                if row[column] == value {
                    return row;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(PATIENCE, wait)
            .await
            .unwrap_or_else(|_| panic!("{column} does not become {value}"))
    }

    /// Rings a device with an envelope as it is.
    pub async fn ring(&self, device: &PeerId, envelope: impl Into<Bytes>) -> Ring {
        let path = format!("/v1/devices/{device}/requests");
        let response = self
            .http(
                "POST",
                &path,
                &[("content-type", "application/octet-stream")],
                envelope,
            )
            .await;
        Ring::of(response)
    }

    /// Rings a device, which the registry refuses.
    pub async fn ring_refused(&self, device: &PeerId, envelope: impl Into<Bytes>) -> Reply {
        self.reply(
            "POST",
            &format!("/v1/devices/{device}/requests"),
            &[],
            envelope,
        )
        .await
    }
}

/// The answer to a request, as it comes.
#[derive(Debug)]
pub struct Ring {
    body: Incoming,
    frames: FrameReader,
}

impl Ring {
    /// The response to a request that is taken.
    pub fn of(response: hyper::Response<Incoming>) -> Self {
        assert_eq!(response.status(), 200, "the request is taken");
        assert_eq!(
            response.headers()["content-type"],
            "application/octet-stream"
        );
        Self {
            body: response.into_body(),
            frames: FrameReader::default(),
        }
    }

    /// The next frame; `None` at the end.
    pub async fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.frames.next_frame() {
                return Some(frame.expect("the registry sends whole frames"));
            }
            let chunk = timeout(PATIENCE, self.body.frame())
                .await
                .expect("a frame in time")?;
            self.frames.push(
                &chunk
                    .expect("a whole stream")
                    .into_data()
                    .expect("no trailers"),
            );
        }
    }
}

/// A device's socket.
#[derive(Debug)]
pub struct Socket {
    stream: WebSocketStream<TcpStream>,
    pub device: PeerId,
    pub challenge: Challenge,
    /// Which start of an agent this is the socket of; agents of before do not say.
    pub instance: Option<u64>,
}

/// What comes over a device's socket.
#[derive(Debug, PartialEq)]
pub enum Incident {
    Frame(Frame),
    Text(String),
    /// Closed with this code; 1006 if the connection has just ended.
    Closed(u16),
}

impl Socket {
    /// Opens a socket and takes the challenge.
    pub async fn connect(registry: &Registry, key: &SecretKey) -> Self {
        let stream = Self::open(registry, &key.id(), Some(key), Some("ringback.1")).await;
        Self::challenged(stream.expect("the socket opens"), &key.id()).await
    }

    /// The same as an old agent, which does not sign the upgrade.
    pub async fn connect_unsigned(registry: &Registry, device: &PeerId) -> Self {
        let stream = Self::open(registry, device, None, Some("ringback.1")).await;
        Self::challenged(stream.expect("the socket opens"), device).await
    }

    async fn challenged(mut stream: WebSocketStream<TcpStream>, device: &PeerId) -> Self {
        let message = timeout(PATIENCE, stream.next())
            .await
            .expect("a challenge in time");
        let challenge = match message {
            Some(Ok(Message::Binary(bytes))) => Frame::decode(&bytes),
            other => panic!("no challenge: {other:?}"),
        };
        let Ok(Frame::Challenge(challenge)) = challenge else {
            panic!("no challenge: {challenge:?}")
        };
        Self {
            stream,
            device: *device,
            challenge,
            instance: None,
        }
    }

    /// The WebSocket handshake alone, signed by a key or not.
    pub async fn open(
        registry: &Registry,
        device: &PeerId,
        signer: Option<&SecretKey>,
        protocol: Option<&'static str>,
    ) -> Result<WebSocketStream<TcpStream>, tungstenite::Error> {
        let addr: SocketAddr = registry.server.addr();
        let path = format!("/v1/devices/{device}/socket");
        let mut request = format!("ws://{addr}{path}").into_client_request()?;
        if let Some(signer) = signer {
            sign(&mut request, signer, &registry.origin(), &path);
        }
        if let Some(protocol) = protocol {
            request
                .headers_mut()
                .insert("sec-websocket-protocol", protocol.parse().expect("ASCII"));
        }
        let stream = TcpStream::connect(addr).await.expect("workerd listens");
        let (stream, response) = tokio_tungstenite::client_async(request, stream).await?;
        assert_eq!(response.headers()["sec-websocket-protocol"], "ringback.1");
        Ok(stream)
    }

    /// Answers the challenge, as somebody who dials `origin`.
    pub async fn register(&mut self, key: &SecretKey, origin: &str, public: Option<SocketAddr>) {
        let signature = sign_challenge(key, &self.challenge.nonce, origin);
        self.send(Register {
            signature,
            agent: "ringback-tests/1".into(),
            public,
            instance: self.instance,
        })
        .await;
    }

    pub async fn expect_registered(&mut self) -> Registered {
        match self.next().await {
            Incident::Frame(Frame::Registered(registered)) => registered,
            other => panic!("not registered: {other:?}"),
        }
    }

    /// The request that arrives next, acknowledged.
    pub async fn expect_deliver(&mut self) -> Deliver {
        let deliver = self.expect_deliver_unacknowledged().await;
        self.send(Ack { call: deliver.call }).await;
        deliver
    }

    pub async fn expect_deliver_unacknowledged(&mut self) -> Deliver {
        match self.next().await {
            Incident::Frame(Frame::Deliver(deliver)) => deliver,
            other => panic!("no request: {other:?}"),
        }
    }

    /// The code of the `Rejected` that comes next; the socket must be closed after it.
    pub async fn expect_rejected(&mut self) -> String {
        let code = match self.next().await {
            Incident::Frame(Frame::Rejected(rejected)) => rejected.code.to_string(),
            other => panic!("not rejected: {other:?}"),
        };
        assert_eq!(self.next().await, Incident::Closed(4003));
        code
    }

    pub async fn send(&mut self, frame: impl Into<Frame>) {
        self.send_bytes(frame.into().encode()).await;
    }

    pub async fn send_bytes(&mut self, bytes: impl Into<Bytes>) {
        self.stream
            .send(Message::Binary(bytes.into()))
            .await
            .expect("the socket is open");
    }

    pub async fn send_text(&mut self, text: &str) {
        self.stream
            .send(Message::text(text))
            .await
            .expect("the socket is open");
    }

    pub async fn next(&mut self) -> Incident {
        loop {
            return match timeout(PATIENCE, self.stream.next())
                .await
                .expect("something in time")
            {
                Some(Ok(Message::Binary(bytes))) => {
                    Incident::Frame(Frame::decode(&bytes).expect("a frame"))
                }
                Some(Ok(Message::Text(text))) => Incident::Text(text.to_string()),
                Some(Ok(Message::Close(close))) => {
                    Incident::Closed(close.map_or(1005, |close| close.code.into()))
                }
                Some(Ok(_)) => continue,
                Some(Err(_)) | None => Incident::Closed(1006),
            };
        }
    }

    /// Nothing has come, and a ping is answered: whatever was sent before is dealt with.
    pub async fn expect_quiet(&mut self) {
        self.send_text("ping").await;
        assert_eq!(self.next().await, Incident::Text("pong".into()));
    }

    /// Ends with the closing handshake.
    pub async fn close(mut self) {
        self.stream.close(None).await.ok();
        while let Some(Ok(_)) = timeout(PATIENCE, self.stream.next())
            .await
            .expect("the end in time")
        {}
    }
}

/// Signs the opening of a WebSocket (PROTOCOL.md, 5.8).
pub fn sign<T>(request: &mut HttpRequest<T>, signer: &SecretKey, origin: &str, path: &str) {
    let time_ms = unix_time().as_millis() as u64;
    let signature = sign_upgrade(signer, origin, path, time_ms);
    for (name, value) in [
        ("ringback-peer", signer.id().to_string()),
        ("ringback-time", time_ms.to_string()),
        (
            "ringback-signature",
            BASE64_URL_SAFE_NO_PAD.encode(signature),
        ),
    ] {
        let value = value.parse().expect("ASCII");
        request.headers_mut().insert(name, value);
    }
}

fn unix_time() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970")
}

/// A key that nobody has seen before.
pub fn new_key() -> SecretKey {
    SecretKey::from_seed(&rand::random())
}

/// A well-formed envelope, sealed for the device by its caller's key alone.
pub fn envelope(caller: &SecretKey, device: &PeerId) -> Vec<u8> {
    let now = unix_time().as_secs();
    let request = Request {
        id: rand::random(),
        issued_at: now,
        expires_at: now + LIFETIME,
        service: "ssh".into(),
        candidates: Vec::new(),
        remember: false,
        webrtc: None,
        path: 0,
        nat: Nat::Unknown,
    };
    let (envelope, _) =
        Envelope::seal(&request, caller, device, Proof::Key, &mut rand::rng()).expect("it seals");
    envelope.encode()
}
