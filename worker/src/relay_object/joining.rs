//! Who comes into a room and who leaves it (§15.2).

use std::collections::VecDeque;
use std::rc::Rc;

use ringback_protocol::Code;
use ringback_protocol::frame::{Challenge, Frame, Join, Joined, PeerPresence};
use ringback_protocol::registration::verify_join;
use ringback_protocol::relay::{self, Item, MAX_BATCH, Room};
use worker::{Response, ResponseBuilder, WebSocket, WebSocketPair};

use super::attachment::{Attachment, JOIN_MS, Member, Side, Stage};
use super::backlog::Backlog;
use super::meter::Meter;
use super::outflow::Outflow;
use super::{Seat, Shared, is_open, leave, reject, send, too_large};
use crate::clock::now_ms;
use crate::device::{SUBPROTOCOL, close};
use crate::directory::{self, Ask, Terms};
use crate::limits::Exceeded;
use crate::problem::Problem;

/// Sockets that may be joining a room at a time (§14).
const MAX_JOINING: usize = 8;

impl Shared {
    /// Reads back from the attachments what memory held before the object slept.
    pub(super) fn wake(&self) {
        for (socket, attachment) in self.attachments() {
            let Stage::Joined(member) = attachment.stage else {
                continue;
            };
            self.recall(&member.meter);
            let outflow = Outflow::new(self.meter.borrow().rate_bytes_s());
            self.seats.borrow_mut()[member.side as usize] = Some(Seat {
                socket,
                opened_ms: attachment.opened_ms,
                peer: member.peer,
                device: member.device,
                outflow,
                excess: (0, 0),
            });
        }
    }

    fn recall(&self, meter: &Meter) {
        if meter.revision > self.meter.borrow().revision {
            *self.meter.borrow_mut() = meter.clone();
        }
    }

    pub(super) fn accept(self: &Rc<Self>, room: Room, origin: String) -> Result<Response, Problem> {
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
        Ok(ResponseBuilder::new()
            .with_status(101)
            .with_header("sec-websocket-protocol", SUBPROTOCOL)?
            .with_websocket(client)
            .empty())
    }

    pub(super) async fn join(
        self: &Rc<Self>,
        socket: WebSocket,
        mut attachment: Attachment,
        message: &[u8],
    ) {
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
            Ok(terms) => {
                // Whatever becomes of the socket, the room has the lease now.
                self.meter.borrow_mut().agree(&terms);
                self.joined(&socket, attachment, &join, terms);
            }
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
            return;
        }
        if let Err(problem) = self.check_seats(join) {
            return self.turn_away(socket, &problem);
        }
        let side = Side::from(join.role);
        {
            let mut meter = self.meter.borrow_mut();
            meter.joined(side == Side::Device);
            meter.event(now_ms);
        }
        let seat = Seat {
            socket: socket.clone(),
            opened_ms: attachment.opened_ms,
            peer: join.peer,
            device: join.device,
            outflow: Outflow::new(terms.rate_bytes_s),
            excess: (0, 0),
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
    pub(super) fn turn_away(&self, socket: &WebSocket, problem: &Problem) {
        self.take_early(socket);
        reject(socket, problem);
    }

    /// A socket has ended by itself.
    pub(super) async fn ended(&self, socket: &WebSocket) {
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
        self.end_if_empty().await;
    }

    pub(super) fn vacate(&self, side: Side) {
        self.seats.borrow_mut()[side as usize] = None;
        self.meter.borrow_mut().event(now_ms());
        if let Some(other) = self.socket_of(side.other()) {
            self.store_meter(side.other());
            send(&other, PeerPresence { present: false }).ok();
        }
    }

    /// The lease of a room that nobody is in goes back.
    pub(super) async fn end_if_empty(&self) {
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
    pub(super) async fn end_room(&self, problem: &Problem) {
        for seat in self.seats.take().into_iter().flatten() {
            reject(&seat.socket, problem);
        }
        self.end_if_empty().await;
    }

    pub(super) fn take_early(&self, socket: &WebSocket) -> VecDeque<Vec<u8>> {
        let mut early = self.early.borrow_mut();
        let at = early.iter().position(|(theirs, _)| theirs == socket);
        let messages = at.map(|at| early.swap_remove(at).1.take());
        messages.unwrap_or_default()
    }

    pub(super) fn socket_of(&self, side: Side) -> Option<WebSocket> {
        let seats = self.seats.borrow();
        seats[side as usize]
            .as_ref()
            .map(|seat| seat.socket.clone())
    }

    pub(super) fn attachments(&self) -> impl Iterator<Item = (WebSocket, Attachment)> {
        let sockets = self.state.get_websockets().into_iter().filter(is_open);
        sockets.filter_map(|socket| {
            let attachment = Attachment::load(&socket)?;
            Some((socket, attachment))
        })
    }
}
