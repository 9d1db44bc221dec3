//! A room of the relay (§15): two ends of a call and their sealed datagrams, for as long as they
//! have no direct path.
//!
//! Why it is atomic: there is one object per room in the world and it runs one event at a time.
//! Every decision is made on memory and attachments without an `await`; no borrow is held across
//! one, and what may have changed in the meantime is looked at again behind it.
//!
//! Hibernation is assumed at every line. Who is in the room and what it has used stands in the
//! sockets' [`Attachment`]s, written with every message: the newest copy of the meter is the one
//! with the highest revision. What is in memory only may start from nothing after ten idle seconds
//! (the rate's bucket is full, nothing is on its way), or is lost as any datagram may be (the
//! backlog). The room writes no rows; the directory writes one for each lease.
//!
//! What costs is messages, so a message is passed on as it is: the room reads the first two bytes
//! of it, and walks through the datagrams only of one that does not fit the limits whole.

mod attachment;
mod backlog;
mod meter;
mod outflow;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use ringback_protocol::frame::{Challenge, Frame, Join, Joined, Mark, PeerPresence};
use ringback_protocol::registration::verify_join;
use ringback_protocol::relay::{self, Item, MAX_BATCH, Room};
use ringback_protocol::{Code, PeerId};
use worker::worker_sys::WebSocketRequestResponsePair;
use worker::{
    Date, DurableObject, Env, Headers, Method, Request, RequestInit, Response, ResponseBuilder,
    State, WebSocket, WebSocketIncomingMessage, WebSocketPair, durable_object, wasm_bindgen,
};

use self::attachment::{Attachment, JOIN_MS, Member, Side, Stage};
use self::backlog::Backlog;
use self::meter::{Meter, Verdict};
use self::outflow::Outflow;
use crate::deadline::{Deadline, Watched};
use crate::device_object::{SUBPROTOCOL, close};
use crate::directory_object::{self as directory, Ask, Spent, Terms};
use crate::limits::Exceeded;
use crate::problem::Problem;

pub const BINDING: &str = "RELAYS";
/// Sockets that may be joining a room at a time (§14).
const MAX_JOINING: usize = 8;
/// Milliseconds until a directory that has failed is asked for a lease again.
const RETRY_MS: u64 = 1_000;

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
            deadline: Deadline::default(),
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
    /// By [`Side`].
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
    deadline: Deadline,
}

/// A joined socket.
struct Seat {
    socket: WebSocket,
    peer: PeerId,
    device: PeerId,
    outflow: Outflow,
}

impl Watched for Shared {
    fn deadline(&self) -> &Deadline {
        &self.deadline
    }

    fn close_overdue(&self) -> Option<u64> {
        let now_ms = now_ms();
        let mut next: Option<u64> = None;
        for (socket, attachment) in self.attachments() {
            match attachment.patience_ms(now_ms) {
                Some(0) => {
                    reject(
                        &socket,
                        &Problem::new(Code::BadFrame, "no Join within 10 s"),
                    );
                }
                Some(patience) => next = Some(next.unwrap_or(patience).min(patience)),
                None => {}
            }
        }
        next
    }
}

/// Coming and going (§15.2).
impl Shared {
    /// Reads back from the attachments what memory held before the object slept.
    fn wake(&self) {
        for (socket, attachment) in self.attachments() {
            let Stage::Joined(member) = attachment.stage else {
                continue;
            };
            self.recall(&member.meter);
            let outflow = Outflow::new(self.meter.borrow().rate_bytes_s());
            self.seats.borrow_mut()[member.side as usize] = Some(Seat {
                socket,
                peer: member.peer,
                device: member.device,
                outflow,
            });
        }
    }

    fn recall(&self, meter: &Meter) {
        if meter.revision > self.meter.borrow().revision {
            *self.meter.borrow_mut() = meter.clone();
        }
    }

    fn accept(self: &Rc<Self>, room: Room, origin: String) -> Result<Response, Problem> {
        let now_ms = now_ms();
        self.close_overdue();
        let joining = self
            .attachments()
            .filter(|(_, attachment)| attachment.patience_ms(now_ms).is_some())
            .count();
        if joining >= MAX_JOINING {
            let exceeded = Exceeded {
                retry_after_s: (JOIN_MS / 1000) as u32,
            };
            let detail = "too many sockets are joining this room";
            return Err(Problem::rate_limited(detail, exceeded));
        }
        self.challenge(room, origin, now_ms)
            .map_err(|error| Problem::internal("opening a socket to a room", &error))
    }

    fn challenge(
        self: &Rc<Self>,
        room: Room,
        origin: String,
        now_ms: u64,
    ) -> worker::Result<Response> {
        let mut nonce = [0; 32];
        getrandom::fill(&mut nonce).map_err(|error| worker::Error::RustError(error.to_string()))?;
        let WebSocketPair { client, server } = WebSocketPair::new()?;
        self.state.accept_web_socket(&server);
        let stage = Stage::Challenged {
            room: room.0,
            nonce,
            origin,
        };
        Attachment {
            opened_ms: now_ms,
            stage,
        }
        .store(&server)?;
        let time_ms = now_ms;
        send(&server, Challenge { nonce, time_ms })?;
        Deadline::watch(self, &self.state);
        Ok(ResponseBuilder::new()
            .with_status(101)
            .with_header("sec-websocket-protocol", SUBPROTOCOL)?
            .with_websocket(client)
            .empty())
    }

    async fn join(self: &Rc<Self>, socket: WebSocket, mut attachment: Attachment, message: &[u8]) {
        let join = match self.checked_join(&attachment, message) {
            Ok(join) => join,
            Err(problem) => return self.turn_away(&socket, &problem),
        };
        attachment.stage = Stage::Joining;
        if let Err(error) = attachment.store(&socket) {
            let problem = Problem::internal("storing an attachment", &error);
            return self.turn_away(&socket, &problem);
        }
        self.early
            .borrow_mut()
            .push((socket.clone(), Backlog::default()));
        let side = Side::from(join.role);
        let is_other_there = self.seats.borrow()[side.other() as usize].is_some();
        // The second one in brings the lease.
        let spent = (is_other_there && !self.meter.borrow().has_lease())
            .then(|| self.begin_lease())
            .flatten();
        let ask = Ask::Join {
            device: (side == Side::Device).then_some(join.peer),
            spent: spent.clone(),
            wants_lease: spent.is_some(),
        };
        let terms = directory::ask::<Terms>(&self.env, &ask).await;
        if let Some(spent) = spent {
            self.end_lease(&spent, &terms);
        }
        match terms {
            Ok(terms) => self.joined(&socket, attachment, &join, terms),
            Err(problem) => self.turn_away(&socket, &problem),
        }
        self.end_if_empty().await;
    }

    /// What can be said of a Join without the directory.
    fn checked_join(&self, attachment: &Attachment, message: &[u8]) -> Result<Join, Problem> {
        let Stage::Challenged {
            room,
            nonce,
            origin,
        } = &attachment.stage
        else {
            return Err(Problem::new(Code::BadFrame, "a second Join"));
        };
        if message.len() > MAX_BATCH {
            return Err(too_large());
        }
        let frame = match relay::items(message).next() {
            Some(Item::Control(frame)) => Frame::decode(frame),
            _ => {
                return Err(Problem::new(
                    Code::BadFrame,
                    "the first message must be a Join",
                ));
            }
        };
        let Ok(Frame::Join(join)) = frame else {
            return Err(Problem::new(Code::BadFrame, "the first frame must be Join"));
        };
        let side = Side::from(join.role);
        if side == Side::Device && join.peer != join.device {
            let detail = "the device of a room joins in its own name";
            return Err(Problem::new(Code::BadFrame, detail));
        }
        if !verify_join(&join.peer, &Room(*room), nonce, origin, &join.signature) {
            let detail = format!("the challenge is not signed by this peer for {origin}");
            return Err(Problem::new(Code::BadSignature, detail));
        }
        self.check_seats(&join)?;
        Ok(join)
    }

    /// A room belongs to the device that its first peer has named, and a seat to its peer.
    fn check_seats(&self, join: &Join) -> Result<(), Problem> {
        let seats = self.seats.borrow();
        if seats
            .iter()
            .flatten()
            .any(|seat| seat.device != join.device)
        {
            let detail = "this room belongs to another device";
            return Err(Problem::new(Code::UnknownDevice, detail));
        }
        match &seats[Side::from(join.role) as usize] {
            Some(seat) if seat.peer != join.peer => {
                let detail = "this side of the room is another peer's";
                Err(Problem::new(Code::UnknownDevice, detail))
            }
            _ => Ok(()),
        }
    }

    fn joined(
        self: &Rc<Self>,
        socket: &WebSocket,
        mut attachment: Attachment,
        join: &Join,
        terms: Terms,
    ) {
        let now_ms = now_ms();
        let early = self.take_early(socket);
        // Other events may have come in between.
        if !is_open(socket) {
            return self.release_deadline();
        }
        if let Err(problem) = self.check_seats(join) {
            return self.turn_away(socket, &problem);
        }
        let side = Side::from(join.role);
        {
            let mut meter = self.meter.borrow_mut();
            meter.agree(&terms);
            meter.joined(side == Side::Device);
            meter.event(now_ms);
        }
        let seat = Seat {
            socket: socket.clone(),
            peer: join.peer,
            device: join.device,
            outflow: Outflow::new(terms.rate_bytes_s),
        };
        let member = Member {
            side,
            peer: join.peer,
            device: join.device,
            meter: self.meter.borrow().clone(),
        };
        attachment.stage = Stage::Joined(member);
        let replaced = self.seats.borrow_mut()[side as usize].replace(seat);
        if let Some(old) = &replaced {
            leave(&old.socket, close::REPLACED, "replaced by a newer socket");
        }
        let other = self.socket_of(side.other());
        let told = attachment.store(socket).and_then(|()| {
            let present = other.is_some();
            send(socket, Joined::from(terms))?;
            send(socket, PeerPresence { present })
        });
        if let Err(error) = told {
            crate::log::fault("letting a peer into a room", &error);
        }
        if let (Some(other), None) = (&other, replaced) {
            send(other, PeerPresence { present: true }).ok();
        }
        self.release_deadline();
        crate::log::event("joined", &join.device, "relay");
        for message in early {
            self.forward(side, message, now_ms);
        }
        self.flush(side, now_ms);
        if other.is_some() && !self.meter.borrow().has_lease() {
            self.renew(now_ms);
        }
    }

    /// A socket that may not join.
    fn turn_away(&self, socket: &WebSocket, problem: &Problem) {
        self.take_early(socket);
        reject(socket, problem);
        self.release_deadline();
    }

    /// A socket has ended by itself.
    async fn ended(&self, socket: &WebSocket) {
        self.take_early(socket);
        if let Some(mut attachment) = Attachment::load(socket) {
            if let Stage::Joined(member) = &attachment.stage {
                // It may hold the newest meter, if the room was asleep.
                self.recall(&member.meter);
            }
            attachment.stage = Stage::Closed;
            attachment.store(socket).ok();
        }
        let left = [Side::Device, Side::Caller]
            .into_iter()
            .find(|side| self.socket_of(*side).as_ref() == Some(socket));
        if let Some(side) = left {
            self.vacate(side);
        }
        self.release_deadline();
        self.end_if_empty().await;
    }

    fn vacate(&self, side: Side) {
        self.seats.borrow_mut()[side as usize] = None;
        self.meter.borrow_mut().event(now_ms());
        if let Some(other) = self.socket_of(side.other()) {
            self.store_meter(&other);
            send(&other, PeerPresence { present: false }).ok();
        }
    }

    /// The lease of a room that nobody is in goes back.
    async fn end_if_empty(&self) {
        if self.seats.borrow().iter().any(Option::is_some) || !self.early.borrow().is_empty() {
            return;
        }
        self.backlogs.take();
        self.refused.take();
        // A room that never had a device costs no row.
        if !self.meter.borrow().is_worth_telling() {
            return;
        }
        let spent = self.meter.borrow_mut().settle(true, now_ms());
        // A failure is logged where it is made. The lease is reserved until the day ends then.
        directory::ask::<()>(&self.env, &Ask::Spent(spent))
            .await
            .ok();
    }

    /// The relay may not go on: both are told, and leave.
    async fn end_room(&self, problem: &Problem) {
        for seat in self.seats.take().into_iter().flatten() {
            reject(&seat.socket, problem);
        }
        self.end_if_empty().await;
    }

    fn release_deadline(&self) {
        let now_ms = now_ms();
        let is_joining =
            |(_, attachment): (WebSocket, Attachment)| attachment.patience_ms(now_ms).is_some();
        if !self.attachments().any(is_joining) {
            self.deadline.release();
        }
    }

    fn take_early(&self, socket: &WebSocket) -> VecDeque<Vec<u8>> {
        let mut early = self.early.borrow_mut();
        let at = early.iter().position(|(theirs, _)| theirs == socket);
        let messages = at.map(|at| early.swap_remove(at).1.take());
        messages.unwrap_or_default()
    }

    fn socket_of(&self, side: Side) -> Option<WebSocket> {
        let seats = self.seats.borrow();
        seats[side as usize]
            .as_ref()
            .map(|seat| seat.socket.clone())
    }

    fn attachments(&self) -> impl Iterator<Item = (WebSocket, Attachment)> {
        let sockets = self.state.get_websockets().into_iter().filter(is_open);
        sockets.filter_map(|socket| {
            let attachment = Attachment::load(&socket)?;
            Some((socket, attachment))
        })
    }
}

/// Datagrams (§15.3).
impl Shared {
    async fn handle_message(self: &Rc<Self>, socket: WebSocket, message: Option<Vec<u8>>) {
        let now_ms = now_ms();
        self.meter.borrow_mut().message(now_ms);
        let seated = [Side::Device, Side::Caller]
            .into_iter()
            .find(|side| self.socket_of(*side).as_ref() == Some(&socket));
        if let Some(side) = seated {
            if let Some(message) = message {
                self.handle_peer(side, &socket, message, now_ms).await;
            }
            self.store_meter(&socket);
            return;
        }
        let Some(attachment) = Attachment::load(&socket) else {
            socket.close(Some(close::DEAD), Some("unknown socket")).ok();
            return;
        };
        match (&attachment.stage, message) {
            (Stage::Challenged { .. }, Some(_)) if attachment.patience_ms(now_ms) == Some(0) => {
                let problem = Problem::new(Code::BadFrame, "the Join came too late");
                self.turn_away(&socket, &problem);
            }
            (Stage::Challenged { .. }, Some(message)) => {
                self.join(socket, attachment, &message).await;
            }
            (Stage::Joining, Some(message)) if is_datagrams(&message) => {
                let mut early = self.early.borrow_mut();
                if let Some((_, backlog)) = early.iter_mut().find(|(theirs, _)| *theirs == socket) {
                    backlog.push(message);
                }
            }
            // What was under way when we closed.
            _ => {}
        }
    }

    async fn handle_peer(
        self: &Rc<Self>,
        side: Side,
        socket: &WebSocket,
        message: Vec<u8>,
        now_ms: u64,
    ) {
        if is_datagrams(&message) {
            if self.forward(side, message, now_ms) {
                let refused = self.refused.borrow().clone();
                if let Some(problem) = refused {
                    self.end_room(&problem).await;
                }
            }
        } else if message.len() > MAX_BATCH {
            reject(socket, &too_large());
            self.vacate(side);
            self.end_if_empty().await;
        } else if let Some(Item::Control(frame)) = relay::items(&message).next() {
            let Ok(Frame::Marked(marked)) = Frame::decode(frame) else {
                return;
            };
            let mut seats = self.seats.borrow_mut();
            let due = seats[side as usize]
                .as_mut()
                .and_then(|seat| seat.outflow.confirmed(marked.number, now_ms));
            if let Some(number) = due {
                send(socket, Mark { number }).ok();
            }
        } else {
            self.meter.borrow_mut().forwarded(0, message.len());
        }
    }

    /// Passes a message of datagrams on, as far as the limits go. True if the room is used up.
    fn forward(self: &Rc<Self>, from: Side, message: Vec<u8>, now_ms: u64) -> bool {
        let to = from.other();
        if self.seats.borrow()[to as usize].is_none() {
            self.keep(to, message);
            return false;
        }
        let verdict = self.meter.borrow_mut().judge(message.len(), now_ms);
        let budget = match verdict {
            Verdict::Pass => message.len(),
            Verdict::Upto(bytes) => bytes,
            Verdict::NoLease if self.refused.borrow().is_some() => return true,
            Verdict::NoLease => {
                self.keep(to, message);
                self.renew(now_ms);
                return false;
            }
        };
        self.pass(to, &message, budget, now_ms);
        if self.meter.borrow().is_low(now_ms) && self.refused.borrow().is_none() {
            self.renew(now_ms);
        }
        false
    }

    fn pass(&self, to: Side, message: &[u8], budget: usize, now_ms: u64) {
        let mut seats = self.seats.borrow_mut();
        let Some(seat) = &mut seats[to as usize] else {
            return;
        };
        let budget = budget.min(seat.outflow.room());
        let end = if budget >= message.len() {
            message.len()
        } else {
            relay::prefix_within(message, budget)
        };
        let is_sent = end > 0 && seat.socket.send_with_bytes(&message[..end]).is_ok();
        let passed = if is_sent { end } else { 0 };
        self.meter
            .borrow_mut()
            .forwarded(passed, message.len() - passed);
        if let Some(number) = seat.outflow.sent(passed, now_ms) {
            send(&seat.socket, Mark { number }).ok();
        }
        if seat.outflow.is_dead(now_ms) {
            leave(&seat.socket, close::DEAD, "no confirmation");
            drop(seats);
            self.vacate(to);
        }
    }

    fn keep(&self, to: Side, message: Vec<u8>) {
        let lost = self.backlogs.borrow_mut()[to as usize].push(message);
        self.meter.borrow_mut().forwarded(0, lost);
    }

    /// What has waited for the peer of this side goes to it.
    fn flush(self: &Rc<Self>, to: Side, now_ms: u64) {
        let backlog = std::mem::take(&mut self.backlogs.borrow_mut()[to as usize]).take();
        for message in backlog {
            self.forward(to.other(), message, now_ms);
        }
    }

    fn store_meter(&self, socket: &WebSocket) {
        let Some(mut attachment) = Attachment::load(socket) else {
            return;
        };
        if let Stage::Joined(member) = &mut attachment.stage {
            member.meter = self.meter.borrow().clone();
            if let Err(error) = attachment.store(socket) {
                crate::log::fault("storing an attachment", &error);
            }
        }
    }

    /// Asks for the next lease beside the socket's other messages.
    fn renew(self: &Rc<Self>, now_ms: u64) {
        let device = match self.seats.borrow().iter().flatten().next() {
            Some(seat) if now_ms >= self.retry_ms.get() => seat.device,
            _ => return,
        };
        let Some(spent) = self.begin_lease() else {
            return;
        };
        let shared = self.clone();
        self.state.wait_until(async move {
            let ask = Ask::Lease {
                device,
                spent: spent.clone(),
            };
            let terms = directory::ask::<Terms>(&shared.env, &ask).await;
            shared.end_lease(&spent, &terms);
            let now_ms = self::now_ms();
            match terms {
                Ok(terms) => {
                    shared.meter.borrow_mut().agree(&terms);
                    shared.flush(Side::Device, now_ms);
                    shared.flush(Side::Caller, now_ms);
                }
                Err(problem) if problem.code == Code::Internal => {
                    shared.retry_ms.set(now_ms + RETRY_MS);
                }
                // The room may use up what it has.
                Err(problem)
                    if problem.code == Code::RelayExhausted
                        && shared.meter.borrow().has_lease() =>
                {
                    *shared.refused.borrow_mut() = Some(problem);
                }
                Err(problem) => shared.end_room(&problem).await,
            }
            for side in [Side::Device, Side::Caller] {
                if let Some(socket) = shared.socket_of(side) {
                    shared.store_meter(&socket);
                }
            }
            // They may all have left while the directory was thinking.
            shared.end_if_empty().await;
        });
    }

    /// What to tell the directory with the question for a lease; `None` if it is being asked.
    fn begin_lease(&self) -> Option<Spent> {
        if self.leasing.replace(true) {
            return None;
        }
        Some(self.meter.borrow_mut().settle(false, now_ms()))
    }

    fn end_lease(&self, spent: &Spent, terms: &Result<Terms, Problem>) {
        self.leasing.set(false);
        if terms
            .as_ref()
            .is_err_and(|problem| problem.code == Code::Internal)
        {
            self.meter.borrow_mut().unsettle(spent);
        }
    }
}

/// Not a control frame, not too large, and a datagram at its beginning.
fn is_datagrams(message: &[u8]) -> bool {
    message.len() <= MAX_BATCH
        && relay::items(message)
            .next()
            .is_some_and(|item| matches!(item, Item::Datagram(_)))
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

fn now_ms() -> u64 {
    Date::now().as_millis()
}
