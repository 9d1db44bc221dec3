//! A registry that lies: it stands between agents and a real registry, passes everything on as it
//! is, and tells the one lie that a test gives it.
//!
//! To an agent it *is* the registry. It sees every frame after the real registry has checked it, and
//! can change, drop, repeat or make up any: exactly the power of a registry that somebody has taken
//! over.

use std::{
    collections::HashMap,
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::{
    Request, Response,
    body::{Frame as BodyFrame, Incoming},
    client::conn::http1 as client,
    header::{CONTENT_LENGTH, HOST, HeaderValue, UPGRADE},
    server::conn::http1 as server,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use ringback_protocol::{
    PeerId,
    frame::{Frame, FrameReader, length_prefixed},
};
use serde_json::json;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, handshake::derive_accept_key, protocol::Role},
};

use crate::{loopback::PATIENCE, registry::Registry};

/// What becomes of a frame on its way, in either direction: the frames that go on in its place.
type Lie = Box<dyn Fn(Frame) -> Vec<Frame> + Send + Sync>;
type Body = BoxBody<Bytes, Infallible>;

/// A lying registry on a port of its own. Ends with the runtime that it was started in.
#[derive(Clone)]
pub struct Liar {
    shared: Arc<Shared>,
}

struct Shared {
    addr: SocketAddr,
    registry: SocketAddr,
    /// The `Host` that the real registry is told, where that is not the liar's own.
    host: Option<String>,
    lie: Mutex<Option<Lie>>,
    aliases: Mutex<HashMap<String, PeerId>>,
    /// The sockets of devices, by the ID in their path.
    devices: Mutex<HashMap<String, mpsc::UnboundedSender<Frame>>>,
    /// Every frame as it came, before the lie.
    heard: watch::Sender<Vec<Frame>>,
}

impl std::fmt::Debug for Liar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Liar({})", self.shared.addr)
    }
}

impl Liar {
    /// In front of `registry`, as if it were that registry's own address.
    pub async fn start(registry: &Registry) -> Self {
        Self::with(registry, None).await
    }

    /// A registry of its own, which passes what devices say on to `victim` as if they had said it
    /// there.
    pub async fn passing_on_to(victim: &Registry) -> Self {
        Self::with(victim, Some(victim.server.addr().to_string())).await
    }

    async fn with(registry: &Registry, host: Option<String>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let shared = Arc::new(Shared {
            addr: listener.local_addr().expect("an address"),
            registry: registry.server.addr(),
            host,
            lie: Mutex::default(),
            aliases: Mutex::default(),
            devices: Mutex::default(),
            heard: watch::Sender::default(),
        });
        tokio::spawn(accept(listener, Arc::clone(&shared)));
        Self { shared }
    }

    /// The address that agents take for the registry's.
    pub fn url(&self) -> String {
        format!("http://{}", self.shared.addr)
    }

    /// From now on every frame goes through this.
    pub fn lie(&self, lie: impl Fn(Frame) -> Vec<Frame> + Send + Sync + 'static) {
        *self.shared.lie.lock().expect("not poisoned") = Some(Box::new(lie));
    }

    /// From now on everything is passed on as it is.
    pub fn be_honest(&self) {
        *self.shared.lie.lock().expect("not poisoned") = None;
        self.shared.aliases.lock().expect("not poisoned").clear();
    }

    /// Says from now on that the name belongs to this device.
    pub fn say_alias(&self, name: &str, device: PeerId) {
        let mut aliases = self.shared.aliases.lock().expect("not poisoned");
        aliases.insert(name.to_owned(), device);
    }

    /// Sends a device a frame that the real registry knows nothing of.
    pub fn send(&self, device: &str, frame: impl Into<Frame>) {
        let devices = self.shared.devices.lock().expect("not poisoned");
        let socket = devices.get(device).expect("the device has been here");
        socket
            .send(frame.into())
            .expect("the device's socket is open");
    }

    /// Waits for the first frame that `pick` takes, past ones included.
    pub async fn heard<T>(&self, mut pick: impl FnMut(&Frame) -> Option<T>) -> T {
        let mut heard = self.shared.heard.subscribe();
        let mut seen = 0;
        let find = async {
            loop {
                let found = {
                    let frames = heard.borrow_and_update();
                    let found = frames[seen..].iter().find_map(&mut pick);
                    seen = frames.len();
                    found
                };
                match found {
                    Some(found) => return found,
                    None => heard.changed().await.expect("the liar lives"),
                }
            }
        };
        tokio::time::timeout(PATIENCE, find)
            .await
            .expect("the awaited frame comes in time")
    }

    /// How many frames so far `pick` accepts.
    pub fn count(&self, pick: impl Fn(&Frame) -> bool) -> usize {
        let heard = self.shared.heard.borrow();
        heard.iter().filter(|frame| pick(frame)).count()
    }
}

impl Shared {
    fn pass(&self, frame: Frame) -> Vec<Frame> {
        self.heard.send_modify(|heard| heard.push(frame.clone()));
        match &*self.lie.lock().expect("not poisoned") {
            Some(lie) => lie(frame),
            None => vec![frame],
        }
    }

    fn alias(&self, name: &str) -> Option<(String, PeerId)> {
        let aliases = self.aliases.lock().expect("not poisoned");
        aliases.get(name).map(|device| (name.to_owned(), *device))
    }

    fn message(&self, message: Message) -> Vec<Message> {
        match message {
            Message::Binary(bytes) => {
                let frame = Frame::decode(&bytes).expect("agents and registry send whole frames");
                let frames = self.pass(frame).into_iter();
                frames
                    .map(|frame| Message::binary(frame.encode()))
                    .collect()
            }
            // tungstenite answers these itself, on each side.
            Message::Ping(_) | Message::Pong(_) => Vec::new(),
            other => vec![other],
        }
    }

    /// The same request as the real registry is to see it.
    fn forwarded<B>(&self, request: Request<B>) -> Request<B> {
        let mut request = request;
        if let Some(host) = &self.host {
            let host = HeaderValue::from_str(host).expect("an address");
            request.headers_mut().insert(HOST, host);
        }
        request
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept().await {
        let shared = Arc::clone(&shared);
        let service = service_fn(move |request| answer(Arc::clone(&shared), request));
        let connection = server::Builder::new().serve_connection(TokioIo::new(stream), service);
        // Ends when the agent or the registry has enough.
        tokio::spawn(connection.with_upgrades());
    }
}

async fn answer(
    shared: Arc<Shared>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Box<dyn std::error::Error + Send + Sync>> {
    let path = request.uri().path().to_owned();
    if request.headers().contains_key(UPGRADE) {
        return socket(shared, request, &path).await;
    }
    let alias = path
        .strip_prefix("/v1/aliases/")
        .and_then(|name| shared.alias(name));
    if let Some((name, device)) = alias {
        let body = json!({ "device": device, "name": name }).to_string();
        return Ok(Response::new(Full::new(body.into()).boxed()));
    }
    let stream = TcpStream::connect(shared.registry).await?;
    let (mut registry, connection) = client::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let response = registry.send_request(shared.forwarded(request)).await?;
    if !(path.ends_with("/requests") && response.status().is_success()) {
        return Ok(response.map(|body| body.map_err(|error| panic!("{error}")).boxed()));
    }
    let (mut head, body) = response.into_parts();
    head.headers.remove(CONTENT_LENGTH);
    Ok(Response::from_parts(head, frames(shared, body)))
}

/// The frames that answer a request, each through the lie.
fn frames(shared: Arc<Shared>, mut body: Incoming) -> Body {
    let (sender, receiver) = mpsc::unbounded_channel::<Frame>();
    tokio::spawn(async move {
        let mut reader = FrameReader::default();
        while let Some(Ok(part)) = body.frame().await {
            if let Some(data) = part.data_ref() {
                reader.push(data);
            }
            while let Some(frame) = reader.next_frame() {
                for frame in shared.pass(frame.expect("the registry sends whole frames")) {
                    // The caller may have ended.
                    let _ = sender.send(frame);
                }
            }
        }
    });
    let stream = futures_util::stream::unfold(receiver, |mut receiver| async move {
        let frame = receiver.recv().await?;
        let bytes = length_prefixed(&frame.encode());
        Some((Ok(BodyFrame::data(Bytes::from(bytes))), receiver))
    });
    BodyExt::boxed(StreamBody::new(stream))
}

/// A device's socket: one to the device, one to the real registry.
async fn socket(
    shared: Arc<Shared>,
    mut request: Request<Incoming>,
    path: &str,
) -> Result<Response<Body>, Box<dyn std::error::Error + Send + Sync>> {
    let device = path.split('/').nth(3).unwrap_or_default().to_owned();
    let upgrade = hyper::upgrade::on(&mut request);
    let mut upward = shared.forwarded(Request::builder().uri(path).body(())?);
    for (name, value) in request.headers() {
        // What is signed for the liar's address shows that it is not the registry's. A liar that leaves
        // it out looks like an agent of before, and gets as far as the challenge.
        let is_proof = name.as_str().starts_with("ringback-");
        if !is_proof && !upward.headers().contains_key(name) {
            upward.headers_mut().insert(name, value.clone());
        }
    }
    let key = request.headers()["sec-websocket-key"].as_bytes().to_vec();
    // tungstenite wants a whole address, and sets its own Host from it.
    let authority = upward.headers()[HOST].to_str()?.to_owned();
    *upward.uri_mut() = format!("ws://{authority}{path}").parse()?;
    let stream = TcpStream::connect(shared.registry).await?;
    let (registry, response) = match tokio_tungstenite::client_async(upward, stream).await {
        Ok(connected) => connected,
        Err(tokio_tungstenite::tungstenite::Error::Http(response)) => {
            let (head, body) = response.into_parts();
            let body = Bytes::from(body.unwrap_or_default());
            return Ok(Response::from_parts(head, Full::new(body).boxed()));
        }
        Err(error) => return Err(error.into()),
    };
    let mut answer = Response::new(Full::new(Bytes::new()).boxed());
    *answer.status_mut() = response.status();
    for name in ["connection", "upgrade", "sec-websocket-protocol"] {
        if let Some(value) = response.headers().get(name) {
            answer.headers_mut().insert(name, value.clone());
        }
    }
    let accept = HeaderValue::from_str(&derive_accept_key(&key))?;
    answer.headers_mut().insert("sec-websocket-accept", accept);
    tokio::spawn(async move {
        if let Ok(upgraded) = upgrade.await {
            let agent =
                WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
            relay(&shared, device, agent, registry).await;
        }
    });
    Ok(answer)
}

async fn relay(
    shared: &Shared,
    device: String,
    mut agent: WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>,
    mut registry: WebSocketStream<TcpStream>,
) {
    let (sender, mut made_up) = mpsc::unbounded_channel();
    shared
        .devices
        .lock()
        .expect("not poisoned")
        .insert(device, sender);
    loop {
        tokio::select! {
            message = agent.next() => match message {
                Some(Ok(message)) => for message in shared.message(message) {
                    if registry.send(message).await.is_err() { return }
                },
                _ => break,
            },
            message = registry.next() => match message {
                Some(Ok(message)) => for message in shared.message(message) {
                    if agent.send(message).await.is_err() { return }
                },
                _ => break,
            },
            Some(frame) = made_up.recv() => {
                if agent.send(Message::binary(Frame::encode(&frame))).await.is_err() { return }
            }
        }
    }
    // Whoever is still there sees the end.
    let _ = agent.close(None).await;
    let _ = registry.close(None).await;
}
