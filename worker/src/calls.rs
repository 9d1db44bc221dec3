//! One request on its way through a device's object (§5.3, §6.2), without I/O: what the caller is
//! told on each event, and the table of calls that wait.
//!
//! The table lives in memory only. That is safe because every entry belongs to an open HTTP
//! response, and an object with an open response is not hibernated; when the object dies, the
//! response dies with it and the caller knows.

use std::collections::BTreeMap;

use futures_channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded};
use ringback_protocol::envelope::Envelope;
use ringback_protocol::frame::{Answered, Delivered, Frame, Refused};
use ringback_protocol::{Code, PeerId};

use crate::problem::Problem;

/// Milliseconds that a device has to acknowledge.
pub const ACK_MS: u64 = 5_000;
/// Milliseconds that it has to answer after that.
pub const ANSWER_MS: u64 = 15_000;
/// Calls that may wait at one device: of callers that it has answered before, and as many of others.
pub const MAX_WAITING: usize = 32;
/// Calls that one device may place at a time over its socket.
pub const MAX_PLACED: usize = 8;

/// The caller of a well-formed, signed envelope for `device`.
pub fn caller_of(envelope: &[u8], device: &PeerId) -> Result<PeerId, Problem> {
    let envelope = Envelope::decode(envelope)?;
    if envelope.device != *device {
        return Err(Problem::new(
            Code::BadEnvelope,
            "the envelope is for another device",
        ));
    }
    Ok(envelope.caller)
}

/// What happens to a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    Ack,
    Answer(Vec<u8>),
    Refuse(Vec<u8>),
    /// The device's socket has closed.
    Gone,
    /// [`Call::patience_ms`] has passed.
    Timeout,
}

/// What is to be done about it.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    Tell(Vec<Frame>),
    /// The socket has not acknowledged: it is dead, close it. The caller is told by [`Call::gone`].
    CloseSocket,
    Nothing,
}

/// A call after its envelope went to the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// Until the device acknowledges.
    Delivering,
    /// Until it answers or refuses.
    Ringing,
    Ended,
}

impl Call {
    pub fn patience_ms(self) -> u64 {
        match self {
            Self::Delivering => ACK_MS,
            Self::Ringing => ANSWER_MS,
            Self::Ended => 0,
        }
    }

    /// Frames to callers carry call number 0; whoever placed several renumbers them.
    pub fn handle(&mut self, event: Event) -> Step {
        match (*self, event) {
            (Self::Ended, _) | (Self::Ringing, Event::Ack) => Step::Nothing,
            (Self::Delivering, Event::Ack) => {
                *self = Self::Ringing;
                Step::Tell(vec![Delivered { call: 0 }.into()])
            }
            (state, Event::Answer(reply)) => self.end(
                state,
                Answered {
                    call: 0,
                    reply,
                    ice: None,
                }
                .into(),
            ),
            (state, Event::Refuse(refusal)) => self.end(state, Refused { call: 0, refusal }.into()),
            (Self::Delivering, Event::Timeout) => Step::CloseSocket,
            (Self::Ringing, Event::Timeout) => {
                *self = Self::Ended;
                let problem = Problem::new(
                    Code::NoAnswer,
                    "the device took the request and did not answer",
                );
                Step::Tell(vec![problem.into_failed(0).into()])
            }
            (Self::Delivering | Self::Ringing, Event::Gone) => Step::Tell(vec![self.gone(None)]),
        }
    }

    /// Ends the call because its socket is closed; the device was last seen at that Unix time.
    pub fn gone(&mut self, last_seen: Option<u64>) -> Frame {
        *self = Self::Ended;
        Problem::offline(last_seen).into_failed(0).into()
    }

    /// An answer says as much as an acknowledgement: a device may leave that out.
    fn end(&mut self, state: Self, last: Frame) -> Step {
        *self = Self::Ended;
        match state {
            Self::Delivering => Step::Tell(vec![Delivered { call: 0 }.into(), last]),
            _ => Step::Tell(vec![last]),
        }
    }
}

/// The calls that wait for a device, by the number in their `Deliver`.
#[derive(Debug)]
pub struct CallTable {
    next: u64,
    waiting: BTreeMap<u64, Waiting>,
}

#[derive(Debug)]
struct Waiting {
    session: u64,
    caller: PeerId,
    is_answered: bool,
    opened_ms: u64,
    events: UnboundedSender<Event>,
}

impl CallTable {
    /// Numbers start from the clock, so that a device's late answer to a call from before the
    /// object hibernated does not meet a new call of the same number.
    pub fn new(now_ms: u64) -> Self {
        Self {
            next: now_ms,
            waiting: BTreeMap::new(),
        }
    }

    /// A new call to the socket of this session. `None` if too many wait: strangers have no part in
    /// the places of callers that the device has answered before.
    pub fn open(
        &mut self,
        session: u64,
        caller: PeerId,
        is_answered: bool,
        now_ms: u64,
    ) -> Option<(u64, UnboundedReceiver<Event>)> {
        // A caller's stream ends by itself in time. One that nobody reads any more is dropped here.
        let limit = ACK_MS + ANSWER_MS + 5_000;
        self.waiting
            .retain(|_, call| now_ms.abs_diff(call.opened_ms) < limit && !call.events.is_closed());
        let alike = self
            .waiting
            .values()
            .filter(|call| call.is_answered == is_answered);
        if alike.count() >= MAX_WAITING {
            return None;
        }
        let call = self.next.max(now_ms);
        self.next = call + 1;
        let (events, receiver) = unbounded();
        self.waiting.insert(
            call,
            Waiting {
                session,
                caller,
                is_answered,
                opened_ms: now_ms,
                events,
            },
        );
        Some((call, receiver))
    }

    /// An event from the socket of `session`; whose call it was. Events of unknown calls are
    /// dropped: the call has ended, or never was.
    pub fn handle(&self, session: u64, call: u64, event: Event) -> Option<PeerId> {
        let waiting = self
            .waiting
            .get(&call)
            .filter(|waiting| waiting.session == session)?;
        waiting.events.unbounded_send(event).ok();
        Some(waiting.caller)
    }

    pub fn close(&mut self, call: u64) {
        self.waiting.remove(&call);
    }

    /// The socket of `session` is closed.
    pub fn session_gone(&self, session: u64) {
        for waiting in self
            .waiting
            .values()
            .filter(|waiting| waiting.session == session)
        {
            waiting.events.unbounded_send(Event::Gone).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller() -> PeerId {
        ringback_protocol::SecretKey::from_seed(&[1; 32]).id()
    }

    fn open(
        table: &mut CallTable,
        session: u64,
        now_ms: u64,
    ) -> Option<(u64, UnboundedReceiver<Event>)> {
        table.open(session, caller(), false, now_ms)
    }

    fn tags(step: Step) -> Vec<u8> {
        match step {
            Step::Tell(frames) => frames.iter().map(Frame::tag).collect(),
            Step::CloseSocket => vec![0],
            Step::Nothing => vec![],
        }
    }

    #[test]
    fn a_call_tells_delivered_then_one_ending() {
        let mut call = Call::Delivering;
        assert_eq!(tags(call.handle(Event::Ack)), [0x51]);
        assert!(tags(call.handle(Event::Ack)).is_empty());
        assert_eq!(tags(call.handle(Event::Answer(vec![1]))), [0x52]);
        for event in [
            Event::Ack,
            Event::Answer(vec![]),
            Event::Refuse(vec![]),
            Event::Gone,
            Event::Timeout,
        ] {
            assert!(tags(call.handle(event)).is_empty(), "nothing after the end");
        }
    }

    #[test]
    fn an_answer_implies_the_acknowledgement() {
        assert_eq!(
            tags(Call::Delivering.handle(Event::Refuse(vec![1]))),
            [0x51, 0x53]
        );
    }

    #[test]
    fn silence_before_the_acknowledgement_is_a_dead_socket() {
        let mut call = Call::Delivering;
        assert_eq!(call.patience_ms(), 5_000);
        assert_eq!(call.handle(Event::Timeout), Step::CloseSocket);
        let Frame::Failed(failed) = call.gone(Some(7)) else {
            panic!()
        };
        assert_eq!(
            (failed.code, failed.last_seen),
            (Code::DeviceOffline, Some(7))
        );
    }

    #[test]
    fn silence_after_it_is_no_answer() {
        let mut call = Call::Delivering;
        call.handle(Event::Ack);
        assert_eq!(call.patience_ms(), 15_000);
        let Step::Tell(frames) = call.handle(Event::Timeout) else {
            panic!()
        };
        assert!(matches!(&frames[..], [Frame::Failed(failed)] if failed.code == Code::NoAnswer));
    }

    #[test]
    fn events_reach_their_call_and_session_only() {
        let mut table = CallTable::new(1_000);
        let (a, mut a_events) = open(&mut table, 1, 1_000).unwrap();
        let (b, mut b_events) = open(&mut table, 2, 1_000).unwrap();
        assert_ne!(a, b);
        assert_eq!(table.handle(2, a, Event::Ack), None);
        assert_eq!(table.handle(1, a + 100, Event::Ack), None);
        assert_eq!(table.handle(2, b, Event::Ack), Some(caller()));
        table.session_gone(1);
        assert_eq!(a_events.try_recv().unwrap(), Event::Gone);
        assert_eq!(b_events.try_recv().unwrap(), Event::Ack);
        assert!(b_events.try_recv().is_err());
    }

    #[test]
    fn thirty_two_wait_and_abandoned_ones_do_not_count() {
        let mut table = CallTable::new(0);
        let mut calls: Vec<_> = (0..MAX_WAITING)
            .map(|_| open(&mut table, 1, 0).unwrap())
            .collect();
        assert!(open(&mut table, 1, 0).is_none());
        let known = table.open(1, caller(), true, 0);
        assert!(known.is_some(), "strangers leave room for who is known");
        table.close(calls.pop().unwrap().0);
        assert!(open(&mut table, 1, 0).is_some());
        drop(calls);
        assert!(open(&mut table, 1, 0).is_some());
    }

    #[test]
    fn numbers_do_not_repeat_after_hibernation() {
        let mut before = CallTable::new(1_000);
        let (last, _events) = open(&mut before, 1, 1_005).unwrap();
        let (next, _events) = open(&mut CallTable::new(11_005), 1, 11_005).unwrap();
        assert!(next > last);
    }
}
