//! Requests to the device, and those that it places (§5.3, §6.2): each is a stream of frames to
//! its caller, fed by the table of calls.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use futures_channel::mpsc::UnboundedReceiver;
use futures_util::future::{Either, select};
use futures_util::{Stream, StreamExt as _, stream};
use ringback_protocol::frame::{
    Answered, Deliver, Failed, Frame, FrameReader, Place, length_prefixed,
};
use ringback_protocol::{Code, PeerId};
use worker::{Delay, Env, Response, ResponseBuilder, WebSocket};

use super::ringing::Ringing;
use super::shared::{Shared, send};
use crate::attachment::{Attachment, Stage};
use crate::calls::{Call, Event, MAX_PLACED, Step, caller_of};
use crate::clock::now_ms;
use crate::device::request;
use crate::directory::{self, Ask};
use crate::limits::Exceeded;
use crate::problem::Problem;

/// Requests to the device (§5.3, §6.2).
impl Shared {
    pub(super) async fn relay(
        self: &Rc<Self>,
        ringing: &Ringing,
        envelope: Vec<u8>,
    ) -> Result<Response, Problem> {
        let Some((socket, _)) = self.live() else {
            return self.relay_without_socket(ringing, envelope).await;
        };
        let now_ms = now_ms();
        let Some(mut attachment) = Attachment::load(&socket) else {
            return Err(Problem::offline(None));
        };
        let Stage::Registered(registration) = &mut attachment.stage else {
            return Err(Problem::offline(None));
        };
        ringing.count_in(&mut registration.requests, now_ms)?;
        let session = registration.session;
        let with_turn = ringing.is_browser && !registration.is_self_enrolled;
        attachment
            .store(&socket)
            .map_err(|error| Problem::internal("storing an attachment", &error))?;
        let relay = self.ring(session, Some(socket.clone()), now_ms, ringing, with_turn)?;
        let call = relay.call_number();
        if send(&socket, Deliver { call, envelope }).is_err() {
            drop(relay);
            let last_seen = self.give_up(&socket).await;
            return Err(Problem::offline(last_seen));
        }
        relay.into_response()
    }

    /// A place in the table for a call to the socket of this session, or to none. `with_turn`: its
    /// caller has a use for TURN, and the owner knows the device.
    pub(super) fn ring(
        self: &Rc<Self>,
        session: u64,
        socket: Option<WebSocket>,
        now_ms: u64,
        ringing: &Ringing,
        with_turn: bool,
    ) -> Result<Relay, Problem> {
        let (caller, is_answered) = (ringing.caller, ringing.is_answered);
        let opened = self
            .calls
            .borrow_mut()
            .open(session, caller, is_answered, now_ms);
        let Some((call, events)) = opened else {
            return Err(Problem::rate_limited(
                "too many calls wait at this device",
                Exceeded { retry_after_s: 5 },
            ));
        };
        let ticket = Ticket {
            shared: self.clone(),
            call,
        };
        Ok(Relay {
            ticket: Some(ticket),
            turn: with_turn.then(|| self.clone()),
            socket,
            events,
            call: Call::Delivering,
            tell: VecDeque::new(),
        })
    }

    /// Places a call of the device's own. Runs beside the socket's other messages.
    pub(super) fn place(self: &Rc<Self>, socket: WebSocket, caller: PeerId, place: Place) {
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
    let mut response = request(env, &place.device, caller, "", &place.envelope, false)
        .await
        .map_err(fault)?;
    if response.status_code() != 200 {
        return Err(response.json::<Problem>().await.unwrap_or_else(fault));
    }
    // The frontend counts those that come through it.
    directory::ask::<()>(env, &Ask::Relayed).await.ok();
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
        Frame::Answered(answered) => (Answered { call, ..answered }.into(), true),
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
        self.shared.waiting.borrow_mut().remove(&self.call);
    }
}

/// One caller's answer, as it comes.
pub(super) struct Relay {
    /// Until the call has ended.
    ticket: Option<Ticket>,
    /// Knows the TURN servers, if the caller has a use for them.
    turn: Option<Rc<Shared>>,
    /// None: the device fetches the request (§5.4).
    socket: Option<WebSocket>,
    events: UnboundedReceiver<Event>,
    call: Call,
    tell: VecDeque<Frame>,
}

impl Relay {
    /// The number that the call has towards the device.
    pub(super) fn call_number(&self) -> u64 {
        self.ticket.as_ref().map_or(0, |ticket| ticket.call)
    }

    pub(super) fn into_response(self) -> Result<Response, Problem> {
        ResponseBuilder::new()
            .with_header("content-type", "application/octet-stream")
            .and_then(|builder| builder.from_stream(self.into_stream()))
            .map_err(|error| Problem::internal("answering a caller", &error))
    }

    fn into_stream(self) -> impl Stream<Item = worker::Result<Vec<u8>>> {
        stream::unfold(self, |mut relay| async move {
            let frame = relay.next().await?;
            Some((Ok(length_prefixed(&frame.encode())), relay))
        })
    }

    async fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.tell.pop_front() {
                return Some(self.with_turn(frame).await);
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
                    let last_seen = match (&self.ticket, &self.socket) {
                        (Some(ticket), Some(socket)) => ticket.shared.give_up(socket).await,
                        _ => None,
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

impl Relay {
    /// Only an answer admits, and only who is admitted is told.
    async fn with_turn(&self, frame: Frame) -> Frame {
        match (frame, &self.turn) {
            (Frame::Answered(answered), Some(shared)) => {
                let ice = shared.turn.servers(&shared.env, now_ms()).await;
                Answered { ice, ..answered }.into()
            }
            (frame, _) => frame,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_passed_back_under_the_callers_number() {
        use ringback_protocol::frame::Delivered;
        let (frame, is_last) = renumbered(Delivered { call: 0 }.into(), 9);
        assert_eq!((frame, is_last), (Delivered { call: 9 }.into(), false));
        let (frame, is_last) = renumbered(
            Answered {
                call: 0,
                reply: vec![1],
                ice: None,
            }
            .into(),
            9,
        );
        assert_eq!(
            (frame, is_last),
            (
                Answered {
                    call: 9,
                    reply: vec![1],
                    ice: None,
                }
                .into(),
                true
            )
        );
    }
}
