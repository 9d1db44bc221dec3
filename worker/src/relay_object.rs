//! A room of the relay (§15): two ends of a call and their sealed datagrams, for as long as they
//! have no direct path.
//!
//! Why it is atomic: there is one object per room in the world and it runs one event at a time.
//! Every decision is made on memory and attachments without an `await`; no borrow is held across
//! one, and what may have changed in the meantime is looked at again behind it.
//!
//! Hibernation is assumed at every line. Who is in the room and what it has used stands in the
//! sockets' attachments, written with every message: the newest copy of the meter is the one
//! with the highest revision. What is in memory only may start from nothing after ten idle seconds
//! (the rate's bucket is full, nothing is on its way), or is lost as any datagram may be (the
//! backlog). The room writes no rows; the directory writes one for each lease.
//!
//! Files: `joining` is who comes and goes, `forwarding` what goes through; what they decide by is in
//! `meter` (rate, lease, counts), `outflow` (a slow peer) and `backlog` (an absent one).
//!
//! What costs is messages, so a message is passed on as it is: the room reads the first two bytes
//! of it, and walks through the datagrams only of one that does not fit the limits whole.

mod attachment;
mod backlog;
mod forwarding;
mod joining;
mod meter;
mod outflow;

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use ringback_protocol::frame::Frame;
use ringback_protocol::relay::{self, MAX_BATCH, Room};
use ringback_protocol::{Code, PeerId};
use worker::worker_sys::WebSocketRequestResponsePair;
use worker::{
    DurableObject, Env, Headers, Method, Request, RequestInit, Response, State, WebSocket,
    WebSocketIncomingMessage, durable_object, wasm_bindgen,
};

use self::attachment::{Attachment, Stage};
use self::backlog::Backlog;
use self::meter::Meter;
use self::outflow::Outflow;
use crate::clock::now_ms;
use crate::device::close;
use crate::problem::Problem;

pub const BINDING: &str = "RELAYS";

/// Headers between the frontend and the object.
mod header {
    pub(super) const ROOM: &str = "ringback-room";
    pub(super) const ORIGIN: &str = "ringback-origin";
}

/// Opens a socket to the room, which a peer has dialed at `origin`.
pub async fn socket(env: &Env, room: &Room, origin: &str) -> worker::Result<Response> {
    let headers = Headers::new();
    headers.set("upgrade", "websocket")?;
    headers.set(header::ROOM, &room.to_string())?;
    headers.set(header::ORIGIN, origin)?;
    let mut init = RequestInit::new();
    init.with_method(Method::Get).with_headers(headers);
    let request = Request::new_with_init("https://relay/socket", &init)?;
    env.durable_object(BINDING)?
        .get_by_name(&room.to_string())?
        .fetch_with_request(request)
        .await
}

#[durable_object(websocket)]
pub struct RelayObject {
    shared: Rc<Shared>,
}

impl std::fmt::Debug for RelayObject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RelayObject")
    }
}

impl DurableObject for RelayObject {
    fn new(state: State, env: Env) -> Self {
        let pair =
            WebSocketRequestResponsePair::new("ping", "pong").expect("two short texts are a pair");
        state.set_websocket_auto_response(&pair);
        crate::log::loaded("relay object");
        let shared = Shared {
            state,
            env,
            seats: RefCell::default(),
            meter: RefCell::default(),
            backlogs: RefCell::default(),
            early: RefCell::default(),
            leasing: Cell::new(false),
            retry_ms: Cell::new(0),
            refused: RefCell::default(),
        };
        shared.wake();
        Self {
            shared: Rc::new(shared),
        }
    }

    async fn fetch(&self, request: Request) -> worker::Result<Response> {
        let headers = request.headers();
        let text = |name: &str| Ok::<_, worker::Error>(headers.get(name)?.unwrap_or_default());
        let room = text(header::ROOM)?
            .parse::<Room>()
            .map_err(|error| worker::Error::from(error.to_string()))?;
        self.shared
            .accept(room, text(header::ORIGIN)?)
            .or_else(Problem::into_response)
    }

    async fn websocket_message(
        &self,
        socket: WebSocket,
        message: WebSocketIncomingMessage,
    ) -> worker::Result<()> {
        // A text that is not `ping` is ignored, but costs as any message does.
        let bytes = match message {
            WebSocketIncomingMessage::Binary(bytes) => Some(bytes),
            WebSocketIncomingMessage::String(_) => None,
        };
        self.shared.handle_message(socket, bytes).await;
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
        self.shared.ended(&socket).await;
        Ok(())
    }

    async fn websocket_error(&self, socket: WebSocket, _: worker::Error) -> worker::Result<()> {
        self.shared.ended(&socket).await;
        Ok(())
    }
}

/// The object's insides, shared with the tasks that outlive an event.
struct Shared {
    state: State,
    env: Env,
    /// The device's, then the caller's.
    seats: RefCell<[Option<Seat>; 2]>,
    meter: RefCell<Meter>,
    /// What waits for the peer of this side.
    backlogs: RefCell<[Backlog; 2]>,
    /// What peers have sent behind a Join that is not answered yet.
    early: RefCell<Vec<(WebSocket, Backlog)>>,
    /// The directory is being asked for a lease.
    leasing: Cell<bool>,
    /// It failed, and is not asked again before.
    retry_ms: Cell<u64>,
    /// It has said that there is no more: the room lives on what it has.
    refused: RefCell<Option<Problem>>,
}

/// A joined socket.
struct Seat {
    socket: WebSocket,
    opened_ms: u64,
    peer: PeerId,
    device: PeerId,
    outflow: Outflow,
    /// Since when, and how many bytes of this peer were dropped since then.
    excess: (u64, u64),
}

impl Shared {
    /// Closes sockets that have not joined in time. Done when another one comes: a timer would keep
    /// the room awake, for whoever opens a socket and says nothing.
    fn close_overdue(&self) {
        let now_ms = now_ms();
        for (socket, attachment) in self.attachments() {
            if attachment.patience_ms(now_ms) == Some(0) {
                let late = Problem::new(Code::BadFrame, "no Join within 10 s");
                reject(&socket, &late);
            }
        }
    }
}

fn reject(socket: &WebSocket, problem: &Problem) {
    crate::log::refusal("turned away from a relay", problem.code.as_str());
    send(socket, problem.clone().into_rejected()).ok();
    leave(socket, close::REJECTED, "rejected");
}

fn leave(socket: &WebSocket, code: u16, reason: &str) {
    if let Some(mut attachment) = Attachment::load(socket) {
        attachment.stage = Stage::Closed;
        attachment.store(socket).ok();
    }
    socket.close(Some(code), Some(reason)).ok();
}

fn send(socket: &WebSocket, frame: impl Into<Frame>) -> worker::Result<()> {
    socket.send_with_bytes(relay::control(&frame.into()))
}

fn is_open(socket: &WebSocket) -> bool {
    socket.as_ref().ready_state() == worker::web_sys::WebSocket::OPEN
}

fn too_large() -> Problem {
    let detail = format!("a message has at most {MAX_BATCH} bytes");
    Problem::new(Code::TooLarge, detail)
}
