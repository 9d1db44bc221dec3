//! Datagrams on their way through a room, and the lease that they use up (§15.3).

use std::rc::Rc;

use ringback_protocol::Code;
use ringback_protocol::frame::{Frame, Mark};
use ringback_protocol::relay::{self, Item, MAX_BATCH};
use worker::WebSocket;

use super::attachment::{Attachment, Member, Side, Stage};
use super::meter::Verdict;
use super::{Shared, leave, reject, send, too_large};
use crate::clock::now_ms;
use crate::device::close;
use crate::directory::{self, Ask, Spent, Terms};
use crate::limits::Exceeded;
use crate::problem::Problem;

/// Milliseconds until a directory that has failed is asked for a lease again.
const RETRY_MS: u64 = 1_000;
/// Seconds of the rate, dropped of one peer within a second, that make a flood.
const FLOOD: u64 = 8;
/// The same in bytes, at least.
const MIN_FLOOD: u64 = 8 << 20;
/// Seconds that a flooding peer is asked to stay away.
const FLOOD_PAUSE_S: u32 = 5;

impl Shared {
    pub(super) async fn handle_message(
        self: &Rc<Self>,
        socket: WebSocket,
        message: Option<Vec<u8>>,
    ) {
        let now_ms = now_ms();
        self.meter.borrow_mut().message(now_ms);
        let seated = [Side::Device, Side::Caller]
            .into_iter()
            .find(|side| self.socket_of(*side).as_ref() == Some(&socket));
        if let Some(side) = seated {
            if let Some(message) = message {
                self.handle_peer(side, &socket, message, now_ms).await;
            }
            self.store_meter(side);
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
        let dropped = self.meter.borrow().dropped();
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
        let dropped = self.meter.borrow().dropped().saturating_sub(dropped);
        if dropped > 0 && self.is_flood(side, dropped, now_ms) {
            let exceeded = Exceeded {
                retry_after_s: FLOOD_PAUSE_S,
            };
            let detail = "this peer sends far more than the relay forwards";
            reject(socket, &Problem::rate_limited(detail, exceeded));
            self.vacate(side);
            self.end_if_empty().await;
        }
    }

    /// A sender with congestion control adapts to what is dropped; one that has none takes the
    /// object's time from the other side.
    fn is_flood(&self, side: Side, dropped: usize, now_ms: u64) -> bool {
        let limit = (FLOOD * self.meter.borrow().rate_bytes_s()).max(MIN_FLOOD);
        let mut seats = self.seats.borrow_mut();
        let Some(seat) = &mut seats[side as usize] else {
            return false;
        };
        let (since_ms, bytes) = &mut seat.excess;
        if now_ms.abs_diff(*since_ms) >= 1_000 {
            (*since_ms, *bytes) = (now_ms, 0);
        }
        *bytes += dropped as u64;
        *bytes > limit
    }

    /// Passes a message of datagrams on, as far as the limits go. True if the room is used up.
    pub(super) fn forward(self: &Rc<Self>, from: Side, message: Vec<u8>, now_ms: u64) -> bool {
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
    pub(super) fn flush(self: &Rc<Self>, to: Side, now_ms: u64) {
        let backlog = std::mem::take(&mut self.backlogs.borrow_mut()[to as usize]).take();
        for message in backlog {
            self.forward(to.other(), message, now_ms);
        }
    }

    /// Writes the meter to where it survives hibernation.
    pub(super) fn store_meter(&self, side: Side) {
        let seats = self.seats.borrow();
        let Some(seat) = &seats[side as usize] else {
            return;
        };
        let member = Member {
            side,
            peer: seat.peer,
            device: seat.device,
            meter: self.meter.borrow().clone(),
        };
        let attachment = Attachment {
            opened_ms: seat.opened_ms,
            stage: Stage::Joined(member),
        };
        if let Err(error) = attachment.store(&seat.socket) {
            crate::log::fault("storing an attachment", &error);
        }
    }

    /// Asks for the next lease beside the socket's other messages.
    pub(super) fn renew(self: &Rc<Self>, now_ms: u64) {
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
            let now_ms = super::now_ms();
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
                shared.store_meter(side);
            }
            // They may all have left while the directory was thinking.
            shared.end_if_empty().await;
        });
    }

    /// What to tell the directory with the question for a lease; `None` if it is being asked.
    pub(super) fn begin_lease(&self) -> Option<Spent> {
        if self.leasing.replace(true) {
            return None;
        }
        Some(self.meter.borrow_mut().settle(false, now_ms()))
    }

    pub(super) fn end_lease(&self, spent: &Spent, terms: &Result<Terms, Problem>) {
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
