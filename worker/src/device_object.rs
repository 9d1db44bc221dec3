//! A device's object: its socket, the proof of its key, and the requests that go through (§5.3, §6).
//!
//! Why it is atomic: there is one object per device in the world and it runs one event at a time.
//! Every decision is made on attachments and memory without an `await`, and stored before the next
//! one; no borrow is held across an `await`. Who is registered is decided by the directory, which
//! numbers registrations (the *session*): when two sockets of a device register at once, the
//! higher session stays and the other one is closed, in whatever order the answers arrive.
//!
//! Hibernation is assumed at every line. What must survive it stands in the socket's
//! [`Attachment`]: the challenge, the registration, the windows of the limits. What is in memory
//! only is held by something that keeps the object awake: a waiting call by its open response, a
//! placed call by its open fetch. Nothing else does: a socket that does not register is closed when
//! the next one comes. The object writes a row when a caller is answered for the first
//! time, and for one in twenty requests to a device without a socket; the directory writes one for each registration, change of address and end
//! of a socket, one to count each registration and request, and none for heartbeats, which the
//! runtime answers by itself.
//!
//! Files: `registration` and `socket` are the life of a socket, `relaying` what goes through
//! it, `callers` who was answered before, `waiting` the requests of devices without a socket, `beacon` what a beacon's socket does
//! besides.

mod beacon;
mod callers;
mod registration;
mod relaying;
mod socket;
mod waiting;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use ringback_protocol::frame::Frame;
use ringback_protocol::{Code, PeerId};
use serde::{Deserialize, Serialize};
use worker::wasm_bindgen::JsValue;
use worker::worker_sys::WebSocketRequestResponsePair;
use worker::{
    Date, DurableObject, Env, Headers, Method, Request, RequestInit, Response, State, WebSocket,
    WebSocketIncomingMessage, durable_object, js_sys, wasm_bindgen,
};

use self::beacon::KnownDevices;
use self::relaying::Ringing;
use self::waiting::{FetchWindows, Waiting};
use crate::attachment::{Attachment, Stage};
use crate::calls::CallTable;
use crate::ice::Turn;
use crate::limits::{AnsweredCallers, RequestWindow, Source};
use crate::problem::Problem;

pub const BINDING: &str = "DEVICES";
/// The WebSocket subprotocol of §6.
pub const SUBPROTOCOL: &str = "ringback.1";
/// Bytes of the agent version that are kept.
const MAX_AGENT: usize = 64;

/// Close codes of §6.
pub(crate) mod close {
    pub(crate) const REPLACED: u16 = 4001;
    pub(crate) const REJECTED: u16 = 4003;
    pub(crate) const DEAD: u16 = 4008;
}

/// Headers between the frontend and the object; the frontend builds these requests from nothing, so
/// none comes from outside.
mod header {
    pub(super) const DEVICE: &str = "ringback-device";
    pub(super) const CALLER: &str = "ringback-caller";
    /// The caller takes ICE servers.
    pub(super) const BROWSER: &str = "ringback-browser";
    pub(super) const ORIGIN: &str = "ringback-origin";
    pub(super) const FROM: &str = "ringback-from";
    /// The device that a beacon is told of.
    pub(super) const SUBJECT: &str = "ringback-subject";
}

/// A device's registered socket, for the directory's list.
#[derive(Debug, Serialize, Deserialize)]
pub struct Presence {
    pub session: u64,
    /// Unix time of the last sign of life.
    pub seen: u64,
}

/// Opens a socket for the device, which `from` (an address as text, or empty) has dialed at `origin`.
pub async fn socket(
    env: &Env,
    device: &PeerId,
    origin: &str,
    from: &str,
) -> worker::Result<Response> {
    let headers = headers_for(device)?;
    headers.set("upgrade", "websocket")?;
    headers.set(header::ORIGIN, origin)?;
    headers.set(header::FROM, from)?;
    fetch(env, device, Method::Get, "socket", headers, None).await
}

/// Relays an envelope whose signature by `caller` is verified, and which has come from there (an
/// address as text; empty if another device has placed it). The answer is a stream (§5.3) or a
/// problem. A browser that is admitted is told of TURN servers.
pub async fn request(
    env: &Env,
    device: &PeerId,
    caller: &PeerId,
    from: &str,
    envelope: &[u8],
    is_browser: bool,
) -> worker::Result<Response> {
    let headers = headers_for(device)?;
    headers.set(header::CALLER, &caller.to_string())?;
    headers.set(header::FROM, from)?;
    if is_browser {
        headers.set(header::BROWSER, "1")?;
    }
    let body = js_sys::Uint8Array::from(envelope);
    fetch(
        env,
        device,
        Method::Post,
        "requests",
        headers,
        Some(body.into()),
    )
    .await
}

/// Is the device there? Closes a socket that has been silent for too long.
pub async fn presence(env: &Env, device: &PeerId) -> worker::Result<Option<Presence>> {
    fetch(
        env,
        device,
        Method::Get,
        "presence",
        headers_for(device)?,
        None,
    )
    .await?
    .json()
    .await
}

/// The requests that wait for a device without a socket, as length-prefixed frames (§5.4). Its
/// signature is verified.
pub async fn fetch_waiting(env: &Env, device: &PeerId) -> worker::Result<Response> {
    fetch(
        env,
        device,
        Method::Get,
        "waiting",
        headers_for(device)?,
        None,
    )
    .await
}

/// The answers of a device without a socket. Their signature is verified.
pub async fn answers(env: &Env, device: &PeerId, body: &[u8]) -> worker::Result<Response> {
    let body = js_sys::Uint8Array::from(body);
    fetch(
        env,
        device,
        Method::Post,
        "answers",
        headers_for(device)?,
        Some(body.into()),
    )
    .await
}

/// Asks a beacon to notify `device`; false if the beacon has no socket.
pub async fn notify(env: &Env, beacon: &PeerId, device: &PeerId) -> worker::Result<bool> {
    let headers = headers_for(beacon)?;
    headers.set(header::SUBJECT, &device.to_string())?;
    fetch(env, beacon, Method::Post, "notify", headers, None)
        .await?
        .json()
        .await
}

/// Tells a beacon that the directory has revoked `device`.
pub async fn disown(env: &Env, beacon: &PeerId, device: &PeerId) -> worker::Result<()> {
    let headers = headers_for(beacon)?;
    headers.set(header::SUBJECT, &device.to_string())?;
    fetch(env, beacon, Method::Post, "disown", headers, None)
        .await
        .map(drop)
}

/// Closes the sockets of a device that the directory has revoked.
pub async fn revoke(env: &Env, device: &PeerId) -> worker::Result<()> {
    fetch(
        env,
        device,
        Method::Post,
        "revoke",
        headers_for(device)?,
        None,
    )
    .await
    .map(drop)
}

fn headers_for(device: &PeerId) -> worker::Result<Headers> {
    let headers = Headers::new();
    headers.set(header::DEVICE, &device.to_string())?;
    Ok(headers)
}

async fn fetch(
    env: &Env,
    device: &PeerId,
    method: Method,
    what: &str,
    headers: Headers,
    body: Option<JsValue>,
) -> worker::Result<Response> {
    let mut init = RequestInit::new();
    init.with_method(method)
        .with_headers(headers)
        .with_body(body);
    let request = Request::new_with_init(&format!("https://device/{what}"), &init)?;
    env.durable_object(BINDING)?
        .get_by_name(&device.to_string())?
        .fetch_with_request(request)
        .await
}

#[durable_object(websocket)]
pub struct DeviceObject {
    shared: Rc<Shared>,
}

impl std::fmt::Debug for DeviceObject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DeviceObject")
    }
}

impl DurableObject for DeviceObject {
    fn new(state: State, env: Env) -> Self {
        let pair =
            WebSocketRequestResponsePair::new("ping", "pong").expect("two short texts are a pair");
        state.set_websocket_auto_response(&pair);
        crate::log::loaded("device object");
        let shared = Shared {
            state,
            env,
            calls: RefCell::new(CallTable::new(now_ms())),
            placed: Cell::new(0),
            missing: RefCell::default(),
            answered: RefCell::default(),
            waiting: RefCell::default(),
            fetched: RefCell::default(),
            known: RefCell::default(),
            turn: Turn::default(),
        };
        Self {
            shared: Rc::new(shared),
        }
    }

    async fn fetch(&self, mut request: Request) -> worker::Result<Response> {
        let headers = request.headers();
        let text = |name: &str| Ok::<_, worker::Error>(headers.get(name)?.unwrap_or_default());
        let id = |name: &str| {
            text(name)?
                .parse::<PeerId>()
                .map_err(|error| worker::Error::from(error.to_string()))
        };
        let device = id(header::DEVICE)?;
        let answer = match request.path().as_str() {
            "/socket" => self
                .shared
                .accept(device, text(header::ORIGIN)?, text(header::FROM)?),
            "/requests" => {
                let caller = id(header::CALLER)?;
                let source = Source::parse(&text(header::FROM)?);
                let is_browser = headers.has(header::BROWSER)?;
                let envelope = request.bytes().await?;
                let ringing = Ringing {
                    device,
                    caller,
                    source,
                    is_browser,
                    is_answered: self.shared.is_answered(&caller).await,
                };
                self.shared.relay(&ringing, envelope).await
            }
            "/waiting" => self.shared.fetch_waiting(),
            "/answers" => {
                let body = request.bytes().await?;
                self.shared.take_answers(&body).await
            }
            "/notify" => {
                let told = self.shared.notify(id(header::SUBJECT)?);
                return Response::from_json(&told);
            }
            "/disown" => {
                self.shared.disown(id(header::SUBJECT)?);
                return Response::empty();
            }
            "/presence" => return Response::from_json(&self.shared.presence().await),
            "/revoke" => {
                self.shared.revoke();
                return Response::empty();
            }
            other => return Err(format!("a device's object has no {other}").into()),
        };
        answer.or_else(Problem::into_response)
    }

    async fn websocket_message(
        &self,
        socket: WebSocket,
        message: WebSocketIncomingMessage,
    ) -> worker::Result<()> {
        // A text that is not `ping` is ignored; `ping` does not even come here.
        let WebSocketIncomingMessage::Binary(bytes) = message else {
            return Ok(());
        };
        let Some(attachment) = Attachment::load(&socket) else {
            socket.close(Some(close::DEAD), Some("unknown socket")).ok();
            return Ok(());
        };
        self.shared.handle_message(socket, attachment, &bytes).await;
        Ok(())
    }

    async fn websocket_close(
        &self,
        socket: WebSocket,
        _: usize,
        _: String,
        _: bool,
    ) -> worker::Result<()> {
        socket.close(Some(1000), Some("")).ok();
        self.shared.ended(&socket, now_ms()).await;
        Ok(())
    }

    async fn websocket_error(&self, socket: WebSocket, _: worker::Error) -> worker::Result<()> {
        let seen_ms = self.shared.last_sign_ms(&socket);
        self.shared.ended(&socket, seen_ms).await;
        Ok(())
    }
}

/// The object's insides, shared with the streams and tasks that outlive an event.
struct Shared {
    state: State,
    env: Env,
    calls: RefCell<CallTable>,
    /// Calls that this device has placed and that are under way.
    placed: Cell<usize>,
    /// Requests while the device has no socket, and so no attachment to count them in; `None` until
    /// it was read from storage.
    missing: RefCell<Option<RequestWindow>>,
    /// `None` until it was read from storage.
    answered: RefCell<Option<AnsweredCallers>>,
    /// Requests that the device comes for, by call.
    waiting: RefCell<BTreeMap<u64, Waiting>>,
    fetched: RefCell<FetchWindows>,
    known: RefCell<KnownDevices>,
    /// For admitted browsers.
    turn: Turn,
}

impl Shared {
    /// Closes sockets that have not registered in time. Done when another one comes: a timer would
    /// keep the object awake, for whoever opens a socket and says nothing.
    fn close_overdue(&self) {
        let now_ms = now_ms();
        for (socket, attachment) in self.attachments() {
            if attachment.patience_ms(now_ms) == Some(0) {
                let late = Problem::new(Code::BadFrame, "no registration within 10 s");
                self.reject(&socket, late);
            }
        }
    }
}

fn send(socket: &WebSocket, frame: impl Into<Frame>) -> worker::Result<()> {
    socket.send_with_bytes(frame.into().encode())
}

fn close_socket(socket: &WebSocket, attachment: &mut Attachment, code: u16, reason: &str) {
    attachment.stage = Stage::Closed;
    attachment.store(socket).ok();
    socket.close(Some(code), Some(reason)).ok();
}

fn is_open(socket: &WebSocket) -> bool {
    socket.as_ref().ready_state() == worker::web_sys::WebSocket::OPEN
}

/// The text variable `STUN_SERVERS`: `host:port`, separated by commas.
pub fn stun_servers(env: &Env) -> Vec<String> {
    let listed = env
        .var("STUN_SERVERS")
        .map(|servers| servers.to_string())
        .unwrap_or_default();
    listed
        .split(',')
        .map(str::trim)
        .filter(|server| !server.is_empty())
        .map(str::to_owned)
        .collect()
}

fn now_ms() -> u64 {
    Date::now().as_millis()
}
