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
//! placed call by its open fetch, the registration deadline by its timer (ten seconds at most,
//! dropped when the device registers). The object writes no rows; the directory writes one for each
//! registration, change of address and end of a socket, and none for heartbeats, which the runtime
//! answers by itself.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use futures_channel::mpsc::UnboundedReceiver;
use futures_util::future::{AbortHandle, Either, abortable, select};
use futures_util::{Stream, StreamExt as _, stream};
use ringback_protocol::frame::{
    Challenge, Deliver, Failed, Frame, FrameReader, MAX_FRAME, Place, Register, Registered,
    Updated, length_prefixed,
};
use ringback_protocol::registration::verify_challenge;
use ringback_protocol::{Code, PeerId};
use serde::{Deserialize, Serialize};
use worker::wasm_bindgen::{JsCast as _, JsValue};
use worker::worker_sys::WebSocketRequestResponsePair;
use worker::{
    Date, Delay, DurableObject, Env, Headers, Method, Request, RequestInit, Response,
    ResponseBuilder, State, WebSocket, WebSocketIncomingMessage, WebSocketPair, durable_object,
    js_sys, wasm_bindgen,
};

use crate::attachment::{
    Attachment, MAX_BAD_FRAMES, REGISTRATION_MS, Registration, SILENCE_MS, Stage,
};
use crate::calls::{Call, CallTable, Event, MAX_PLACED, Step, caller_of};
use crate::directory_object::{self as directory, Ask, Online};
use crate::limits::{self, Exceeded, RequestWindow};
use crate::problem::Problem;

pub const BINDING: &str = "DEVICES";
/// The WebSocket subprotocol of §6.
pub const SUBPROTOCOL: &str = "ringback.1";
/// Sockets of one device that may be registering at a time (§14).
const MAX_REGISTERING: usize = 8;
/// Bytes of the agent version that are kept.
const MAX_AGENT: usize = 64;

/// Close codes of §6.
mod close {
    pub(super) const REPLACED: u16 = 4001;
    pub(super) const REJECTED: u16 = 4003;
    pub(super) const DEAD: u16 = 4008;
}

/// Headers between the frontend and the object; the frontend builds these requests from nothing, so
/// none comes from outside.
mod header {
    pub(super) const DEVICE: &str = "ringback-device";
    pub(super) const CALLER: &str = "ringback-caller";
    pub(super) const ORIGIN: &str = "ringback-origin";
    pub(super) const FROM: &str = "ringback-from";
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

/// Relays an envelope whose signature by `caller` is verified. The answer is a stream (§5.3) or a
/// problem.
pub async fn request(
    env: &Env,
    device: &PeerId,
    caller: &PeerId,
    envelope: &[u8],
) -> worker::Result<Response> {
    let headers = headers_for(device)?;
    headers.set(header::CALLER, &caller.to_string())?;
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
            deadline: RefCell::new(None),
            missing: RefCell::default(),
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
                let envelope = request.bytes().await?;
                self.shared.relay(&device, &caller, envelope).await
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
    /// Stops the timer of the registration deadline.
    deadline: RefCell<Option<AbortHandle>>,
    /// Requests while the device has no socket, and so no attachment to count them in. They reach
    /// nobody; that memory forgets them costs only a look into the directory.
    missing: RefCell<RequestWindow>,
}

/// Registration (§6.1).
impl Shared {
    fn accept(
        self: &Rc<Self>,
        device: PeerId,
        origin: String,
        from: String,
    ) -> Result<Response, Problem> {
        self.close_overdue();
        if self
            .attachments()
            .filter(|(_, attachment)| attachment.is_registering())
            .count()
            >= MAX_REGISTERING
        {
            let exceeded = Exceeded {
                retry_after_s: (REGISTRATION_MS / 1000) as u32,
            };
            return Err(Problem::rate_limited(
                "too many sockets of this device are registering",
                exceeded,
            ));
        }
        self.challenge(device, origin, from)
            .map_err(|error| Problem::internal("opening a socket", &error))
    }

    fn challenge(
        self: &Rc<Self>,
        device: PeerId,
        origin: String,
        from: String,
    ) -> worker::Result<Response> {
        let mut nonce = [0; 32];
        getrandom::fill(&mut nonce).map_err(|error| worker::Error::RustError(error.to_string()))?;
        let now_ms = now_ms();
        let WebSocketPair { client, server } = WebSocketPair::new()?;
        self.state.accept_web_socket(&server);
        let stage = Stage::Challenged {
            nonce,
            origin,
            from,
        };
        Attachment {
            device,
            opened_ms: now_ms,
            stage,
        }
        .store(&server)?;
        send(
            &server,
            Challenge {
                nonce,
                time_ms: now_ms,
            },
        )?;
        self.watch_deadline();
        Ok(ResponseBuilder::new()
            .with_status(101)
            .with_header("sec-websocket-protocol", SUBPROTOCOL)?
            .with_websocket(client)
            .empty())
    }

    async fn register(
        self: &Rc<Self>,
        socket: WebSocket,
        mut attachment: Attachment,
        register: Register,
    ) {
        let Stage::Challenged {
            nonce,
            origin,
            from,
        } = &attachment.stage
        else {
            return;
        };
        if attachment.patience_ms(now_ms()) == Some(0) {
            return self.reject(
                &socket,
                Problem::new(Code::BadFrame, "the registration came too late"),
            );
        }
        if !verify_challenge(&attachment.device, nonce, origin, &register.signature) {
            let detail = format!("the challenge is not signed by this device for {origin}");
            return self.reject(&socket, Problem::new(Code::BadSignature, detail));
        }
        let from = from.clone();
        attachment.stage = Stage::Registering;
        if let Err(error) = attachment.store(&socket) {
            return self.reject(&socket, Problem::internal("storing an attachment", &error));
        }
        let device = attachment.device;
        let agent = printable(&register.agent, MAX_AGENT);
        let online = directory::ask(
            &self.env,
            &Ask::Online {
                device,
                agent,
                public: register.public,
            },
        )
        .await;
        match online {
            Ok(online) => {
                self.registered(socket, attachment, from, register.public, online)
                    .await;
            }
            Err(problem) => self.reject(&socket, problem),
        }
    }

    async fn registered(
        self: &Rc<Self>,
        socket: WebSocket,
        mut attachment: Attachment,
        from: String,
        public: Option<SocketAddr>,
        online: Online,
    ) {
        let device = attachment.device;
        if !is_open(&socket) {
            self.list_offline(device, online.session, now_ms()).await;
            return;
        }
        let mut registration = Registration {
            session: online.session,
            public,
            seen_ms: now_ms(),
            bad_frames: 0,
            requests: self.missing.take(),
            updates: limits::Window::default(),
        };
        for (other, mut old) in self.attachments() {
            let Stage::Registered(theirs) = &old.stage else {
                continue;
            };
            if theirs.session > online.session {
                close(
                    &socket,
                    &mut attachment,
                    close::REPLACED,
                    "replaced by a newer registration",
                );
                return;
            }
            registration.requests = theirs.requests.clone();
            let session = theirs.session;
            close(
                &other,
                &mut old,
                close::REPLACED,
                "replaced by a newer registration",
            );
            self.calls.borrow().session_gone(session);
        }
        attachment.stage = Stage::Registered(registration);
        let told = attachment.store(&socket).and_then(|()| {
            send(
                &socket,
                Registered {
                    seen: from,
                    name: online.name,
                    stun: stun_servers(&self.env),
                    beacons: Vec::new(),
                },
            )
        });
        if let Err(error) = told {
            return self.reject(
                &socket,
                Problem::internal("confirming a registration", &error),
            );
        }
        self.release_deadline();
        crate::log::event("registered", &device, "");
    }

    /// The timer of §6.1: one for all sockets, gone as soon as none is registering.
    fn watch_deadline(self: &Rc<Self>) {
        if self.deadline.borrow().is_some() {
            return;
        }
        let shared = self.clone();
        let (watch, handle) = abortable(async move {
            while let Some(patience_ms) = shared.close_overdue() {
                Delay::from(Duration::from_millis(patience_ms.max(1))).await;
            }
            shared.deadline.take();
        });
        *self.deadline.borrow_mut() = Some(handle);
        self.state.wait_until(async {
            watch.await.ok();
        });
    }

    fn release_deadline(&self) {
        if self
            .attachments()
            .any(|(_, attachment)| attachment.is_registering())
        {
            return;
        }
        if let Some(handle) = self.deadline.take() {
            handle.abort();
        }
    }

    /// Closes sockets that have not registered in time; milliseconds until the next is due.
    fn close_overdue(&self) -> Option<u64> {
        let now_ms = now_ms();
        let mut next = None;
        for (socket, attachment) in self.attachments() {
            match attachment.patience_ms(now_ms) {
                Some(0) => self.reject(
                    &socket,
                    Problem::new(Code::BadFrame, "no registration within 10 s"),
                ),
                Some(patience) => next = Some(next.unwrap_or(patience).min(patience)),
                None => {}
            }
        }
        next
    }

    fn reject(&self, socket: &WebSocket, problem: Problem) {
        let Some(mut attachment) = Attachment::load(socket) else {
            return;
        };
        crate::log::event("rejected", &attachment.device, problem.code.as_str());
        send(socket, problem.into_rejected()).ok();
        close(socket, &mut attachment, close::REJECTED, "rejected");
        self.release_deadline();
    }

    fn revoke(&self) {
        for (socket, attachment) in self.attachments() {
            let session = attachment
                .registration()
                .map(|registration| registration.session);
            self.reject(
                &socket,
                Problem::new(
                    Code::Revoked,
                    "the owner of this registry has revoked this device",
                ),
            );
            if let Some(session) = session {
                self.calls.borrow().session_gone(session);
            }
        }
    }
}

/// Frames from the device (§6).
impl Shared {
    async fn handle_message(
        self: &Rc<Self>,
        socket: WebSocket,
        mut attachment: Attachment,
        bytes: &[u8],
    ) {
        let frame = Frame::decode(bytes);
        match &mut attachment.stage {
            Stage::Challenged { .. } => match frame {
                Ok(Frame::Register(register)) => self.register(socket, attachment, register).await,
                _ if bytes.len() > MAX_FRAME => self.reject(&socket, too_large()),
                Ok(_) => self.reject(
                    &socket,
                    Problem::new(Code::BadFrame, "the first frame must be Register"),
                ),
                Err(malformed) => {
                    self.reject(&socket, Problem::new(Code::BadFrame, malformed.to_string()));
                }
            },
            // A second Register before the answer to the first, or what was under way when we closed.
            Stage::Registering | Stage::Closed => {}
            Stage::Registered(registration) => {
                registration.seen_ms = now_ms();
                let session = registration.session;
                match frame {
                    Ok(frame @ (Frame::Ack(_) | Frame::Answer(_) | Frame::Refuse(_))) => {
                        attachment.store(&socket).ok();
                        self.answered(session, frame);
                    }
                    Ok(Frame::Update(update)) => {
                        self.update(socket, attachment, update.public).await;
                    }
                    Ok(Frame::Place(place)) => {
                        attachment.store(&socket).ok();
                        self.place(socket, attachment.device, place);
                    }
                    // A later version's frame.
                    Ok(Frame::Unknown(_)) => {}
                    Ok(_) | Err(_) => self.bad_frame(&socket, attachment, session).await,
                }
            }
        }
    }

    fn answered(&self, session: u64, frame: Frame) {
        let (call, event) = match frame {
            Frame::Ack(ack) => (ack.call, Event::Ack),
            Frame::Answer(answer) => (answer.call, Event::Answer(answer.reply)),
            Frame::Refuse(refuse) => (refuse.call, Event::Refuse(refuse.refusal)),
            _ => return,
        };
        self.calls.borrow().handle(session, call, event);
    }

    async fn update(&self, socket: WebSocket, mut attachment: Attachment, public: SocketAddr) {
        let Stage::Registered(registration) = &mut attachment.stage else {
            return;
        };
        let session = registration.session;
        if registration.public != Some(public) {
            if let Err(exceeded) = registration.updates.admit(limits::UPDATES, now_ms()) {
                let problem =
                    Problem::rate_limited("the public address changes too often", exceeded);
                self.reject(&socket, problem);
                self.calls.borrow().session_gone(session);
                return self
                    .list_offline(attachment.device, session, now_ms())
                    .await;
            }
            attachment.store(&socket).ok();
            let device = attachment.device;
            if let Err(problem) = directory::ask::<()>(
                &self.env,
                &Ask::Update {
                    device,
                    session,
                    public,
                },
            )
            .await
            {
                // A fault of ours: no Updated, so the device connects anew and tells us again.
                if problem.code != Code::Internal {
                    self.reject(&socket, problem);
                }
                return;
            }
            // Other events may have changed the attachment in the meantime.
            let Some(mut attachment) = Attachment::load(&socket) else {
                return;
            };
            let Stage::Registered(registration) = &mut attachment.stage else {
                return;
            };
            registration.public = Some(public);
            attachment.store(&socket).ok();
        } else {
            attachment.store(&socket).ok();
        }
        send(&socket, Updated { public }).ok();
    }

    /// A registered device's frame that does not parse is dropped; the registration goes on. One
    /// that sends many is broken.
    async fn bad_frame(&self, socket: &WebSocket, mut attachment: Attachment, session: u64) {
        let Stage::Registered(registration) = &mut attachment.stage else {
            return;
        };
        registration.bad_frames += 1;
        let broken = registration.bad_frames >= MAX_BAD_FRAMES;
        attachment.store(socket).ok();
        crate::log::event("bad frame", &attachment.device, "");
        if broken {
            self.reject(
                socket,
                Problem::new(Code::BadFrame, "too many frames that do not parse"),
            );
            self.calls.borrow().session_gone(session);
            self.list_offline(attachment.device, session, now_ms())
                .await;
        }
    }

    /// A socket has ended by itself; the device was last seen at that time.
    async fn ended(&self, socket: &WebSocket, seen_ms: u64) {
        let Some(mut attachment) = Attachment::load(socket) else {
            return;
        };
        let registration = attachment
            .registration()
            .map(|registration| registration.session);
        let device = attachment.device;
        attachment.stage = Stage::Closed;
        attachment.store(socket).ok();
        match registration {
            Some(session) => {
                self.calls.borrow().session_gone(session);
                self.list_offline(device, session, seen_ms).await;
                crate::log::event("gone", &device, "");
            }
            None => self.release_deadline(),
        }
    }

    async fn presence(&self) -> Option<Presence> {
        let (socket, registration) = self.live()?;
        let seen_ms = self.last_sign_ms(&socket);
        if now_ms().saturating_sub(seen_ms) < SILENCE_MS {
            return Some(Presence {
                session: registration.session,
                seen: seen_ms / 1000,
            });
        }
        self.give_up(&socket).await;
        None
    }

    /// Closes a socket that shows no life, and says so in the list.
    async fn give_up(&self, socket: &WebSocket) -> Option<u64> {
        let mut attachment = Attachment::load(socket)?;
        let session = attachment.registration()?.session;
        let seen_ms = self.last_sign_ms(socket);
        close(socket, &mut attachment, close::DEAD, "no sign of life");
        self.calls.borrow().session_gone(session);
        self.list_offline(attachment.device, session, seen_ms).await;
        crate::log::event("dead socket", &attachment.device, "");
        Some(seen_ms / 1000)
    }

    async fn list_offline(&self, device: PeerId, session: u64, seen_ms: u64) {
        let ask = Ask::Offline {
            device,
            session,
            last_seen: seen_ms / 1000,
        };
        // A failure is logged where it is made; the next look at the list finds out again.
        directory::ask::<()>(&self.env, &ask).await.ok();
    }

    /// The registered socket with the newest session.
    fn live(&self) -> Option<(WebSocket, Registration)> {
        self.attachments()
            .filter_map(|(socket, attachment)| match attachment.stage {
                Stage::Registered(registration) => Some((socket, registration)),
                _ => None,
            })
            .max_by_key(|(_, registration)| registration.session)
    }

    fn attachments(&self) -> impl Iterator<Item = (WebSocket, Attachment)> {
        self.state
            .get_websockets()
            .into_iter()
            .filter(is_open)
            .filter_map(|socket| {
                let attachment = Attachment::load(&socket)?;
                Some((socket, attachment))
            })
    }

    /// Unix milliseconds of the last frame or ping.
    fn last_sign_ms(&self, socket: &WebSocket) -> u64 {
        let frame = match Attachment::load(socket) {
            Some(Attachment {
                stage: Stage::Registered(registration),
                ..
            }) => registration.seen_ms,
            Some(attachment) => attachment.opened_ms,
            None => 0,
        };
        self.last_ping_ms(socket).unwrap_or(0).max(frame)
    }

    /// When the runtime last answered a ping of this socket. Not bound by the worker crate.
    fn last_ping_ms(&self, socket: &WebSocket) -> Option<u64> {
        let state: &JsValue = self.state.as_raw().as_ref();
        let method =
            js_sys::Reflect::get(state, &"getWebSocketAutoResponseTimestamp".into()).ok()?;
        let method: js_sys::Function = method.dyn_into().ok()?;
        let date: js_sys::Date = method
            .call1(state, socket.as_ref().as_ref())
            .ok()?
            .dyn_into()
            .ok()?;
        Some(date.get_time() as u64)
    }
}

/// Requests to the device (§5.3, §6.2).
impl Shared {
    async fn relay(
        self: &Rc<Self>,
        device: &PeerId,
        caller: &PeerId,
        envelope: Vec<u8>,
    ) -> Result<Response, Problem> {
        let now_ms = now_ms();
        let limited =
            |exceeded| Problem::rate_limited("too many requests to this device", exceeded);
        let Some((socket, _)) = self.live() else {
            self.missing
                .borrow_mut()
                .admit(caller, now_ms)
                .map_err(limited)?;
            let missing = directory::ask::<()>(&self.env, &Ask::Missing { device: *device }).await;
            return Err(missing.err().unwrap_or_else(|| Problem::offline(None)));
        };
        let Some(mut attachment) = Attachment::load(&socket) else {
            return Err(Problem::offline(None));
        };
        let Stage::Registered(registration) = &mut attachment.stage else {
            return Err(Problem::offline(None));
        };
        registration
            .requests
            .admit(caller, now_ms)
            .map_err(limited)?;
        let session = registration.session;
        attachment
            .store(&socket)
            .map_err(|error| Problem::internal("storing an attachment", &error))?;
        let opened = self.calls.borrow_mut().open(session, now_ms);
        let Some((call, events)) = opened else {
            return Err(Problem::rate_limited(
                "too many calls wait at this device",
                Exceeded { retry_after_s: 5 },
            ));
        };
        if send(&socket, Deliver { call, envelope }).is_err() {
            self.calls.borrow_mut().close(call);
            let last_seen = self.give_up(&socket).await;
            return Err(Problem::offline(last_seen));
        }
        let ticket = Ticket {
            shared: self.clone(),
            call,
        };
        let relay = Relay {
            ticket: Some(ticket),
            socket,
            events,
            call: Call::Delivering,
            tell: VecDeque::new(),
        };
        ResponseBuilder::new()
            .with_header("content-type", "application/octet-stream")
            .and_then(|builder| builder.from_stream(relay.into_stream()))
            .map_err(|error| Problem::internal("answering a caller", &error))
    }

    /// Places a call of the device's own. Runs beside the socket's other messages.
    fn place(self: &Rc<Self>, socket: WebSocket, caller: PeerId, place: Place) {
        let call = place.call;
        let checked = if self.placed.get() >= MAX_PLACED {
            Err(Problem::rate_limited(
                "too many calls of this device are under way",
                Exceeded { retry_after_s: 1 },
            ))
        } else {
            match caller_of(&place.envelope, &place.device) {
                Ok(signer) if signer == caller => Ok(()),
                Ok(_) => Err(Problem::new(
                    Code::BadEnvelope,
                    "the envelope is signed by another caller",
                )),
                Err(problem) => Err(problem),
            }
        };
        if let Err(problem) = checked {
            send(&socket, problem.into_failed(call)).ok();
            return;
        }
        self.placed.update(|placed| placed + 1);
        let shared = self.clone();
        self.state.wait_until(async move {
            let ended = pass_back(&shared.env, &socket, &caller, &place).await;
            shared.placed.update(|placed| placed - 1);
            if let Err(problem) = ended {
                send(&socket, problem.into_failed(call)).ok();
            }
        });
    }
}

/// Asks the other device's object and hands its frames on with the caller's number, until the last.
async fn pass_back(
    env: &Env,
    socket: &WebSocket,
    caller: &PeerId,
    place: &Place,
) -> Result<(), Problem> {
    let fault = |error: worker::Error| Problem::internal("placing a call", &error);
    let mut response = request(env, &place.device, caller, &place.envelope)
        .await
        .map_err(fault)?;
    if response.status_code() != 200 {
        return Err(response.json::<Problem>().await.unwrap_or_else(fault));
    }
    let mut body = response.stream().map_err(fault)?;
    let mut frames = FrameReader::default();
    while let Some(bytes) = body.next().await {
        frames.push(&bytes.map_err(fault)?);
        while let Some(Ok(frame)) = frames.next_frame() {
            let (frame, is_last) = renumbered(frame, place.call);
            if send(socket, frame).is_err() || is_last {
                return Ok(());
            }
        }
    }
    Err(Problem::new(
        Code::Internal,
        "the answer ended too early; try again",
    ))
}

fn renumbered(frame: Frame, call: u64) -> (Frame, bool) {
    match frame {
        Frame::Delivered(_) => (ringback_protocol::frame::Delivered { call }.into(), false),
        Frame::Answered(answered) => (
            ringback_protocol::frame::Answered { call, ..answered }.into(),
            true,
        ),
        Frame::Refused(refused) => (
            ringback_protocol::frame::Refused { call, ..refused }.into(),
            true,
        ),
        Frame::Failed(failed) => (Failed { call, ..failed }.into(), true),
        other => (other, false),
    }
}

/// A place in the table of waiting calls. Given back as soon as the call has ended, whether or not
/// the caller still reads: the runtime does not always tell that a client has hung up.
struct Ticket {
    shared: Rc<Shared>,
    call: u64,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.shared.calls.borrow_mut().close(self.call);
    }
}

/// One caller's answer, as it comes.
struct Relay {
    /// Until the call has ended.
    ticket: Option<Ticket>,
    socket: WebSocket,
    events: UnboundedReceiver<Event>,
    call: Call,
    tell: VecDeque<Frame>,
}

impl Relay {
    fn into_stream(self) -> impl Stream<Item = worker::Result<Vec<u8>>> {
        stream::unfold(self, |mut relay| async move {
            let frame = relay.next().await?;
            Some((Ok(length_prefixed(&frame.encode())), relay))
        })
    }

    async fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.tell.pop_front() {
                return Some(frame);
            }
            if self.call == Call::Ended {
                return None;
            }
            let patience = Delay::from(Duration::from_millis(self.call.patience_ms()));
            let event = match select(self.events.next(), patience).await {
                Either::Left((event, _)) => event.unwrap_or(Event::Gone),
                Either::Right(_) => Event::Timeout,
            };
            match self.call.handle(event) {
                Step::Tell(frames) => self.tell.extend(frames),
                Step::CloseSocket => {
                    let last_seen = match &self.ticket {
                        Some(ticket) => ticket.shared.give_up(&self.socket).await,
                        None => None,
                    };
                    self.tell.push_back(self.call.gone(last_seen));
                }
                Step::Nothing => {}
            }
            if self.call == Call::Ended {
                self.ticket = None;
            }
        }
    }
}

fn send(socket: &WebSocket, frame: impl Into<Frame>) -> worker::Result<()> {
    socket.send_with_bytes(frame.into().encode())
}

fn close(socket: &WebSocket, attachment: &mut Attachment, code: u16, reason: &str) {
    attachment.stage = Stage::Closed;
    attachment.store(socket).ok();
    socket.close(Some(code), Some(reason)).ok();
}

fn is_open(socket: &WebSocket) -> bool {
    socket.as_ref().ready_state() == worker::web_sys::WebSocket::OPEN
}

fn too_large() -> Problem {
    Problem::new(
        Code::TooLarge,
        format!("a frame has at most {MAX_FRAME} bytes"),
    )
}

/// At most `max` bytes of what can be printed.
fn printable(text: &str, max: usize) -> String {
    let mut out = String::new();
    for c in text.chars().filter(|c| !c.is_control()) {
        if out.len() + c.len_utf8() > max {
            break;
        }
        out.push(c);
    }
    out
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_version_is_short_and_printable() {
        assert_eq!(
            printable("ringback/0.1.0\n\u{1b}[31m", 64),
            "ringback/0.1.0[31m"
        );
        assert_eq!(printable(&"é".repeat(40), 64).len(), 64);
    }

    #[test]
    fn frames_are_passed_back_under_the_callers_number() {
        use ringback_protocol::frame::{Answered, Delivered};
        let (frame, is_last) = renumbered(Delivered { call: 0 }.into(), 9);
        assert_eq!((frame, is_last), (Delivered { call: 9 }.into(), false));
        let (frame, is_last) = renumbered(
            Answered {
                call: 0,
                reply: vec![1],
            }
            .into(),
            9,
        );
        assert_eq!(
            (frame, is_last),
            (
                Answered {
                    call: 9,
                    reply: vec![1]
                }
                .into(),
                true
            )
        );
    }
}
