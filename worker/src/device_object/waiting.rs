//! Requests to a device that holds no socket (§5.4): they wait here while its beacon tells it, and
//! it comes for them by HTTP.
//!
//! They are in memory, as the table of calls is: an open response keeps the object awake. So is the
//! window of the limit; without a socket there is no attachment to count in, and ten seconds of
//! memory would let a caller start from zero each time, so it is stored now and then: a row for one
//! in twenty requests at most.

use std::rc::Rc;
use std::time::Duration;

use ringback_protocol::frame::{Deliver, Frame, FrameReader, length_prefixed};
use ringback_protocol::{Code, PeerId};
use worker::{Delay, Response, ResponseBuilder};

use super::ringing::{Ringing, Waiting};
use super::shared::Shared;
use crate::calls::Event;
use crate::clock::now_ms;
use crate::device::notify;
use crate::directory::{self, Ask, Reach};
use crate::limits::{self, RequestWindow};
use crate::problem::Problem;

/// The session of calls that go to no socket; the directory counts from 1.
const NO_SESSION: u64 = 0;
/// Where the window of the limit is stored.
const WINDOW_KEY: &str = "requests";
/// Times that a beacon is asked to notify, a second apart, while it has no socket.
const NOTIFY_TRIES: usize = 3;

impl Shared {
    pub(super) async fn relay_without_socket(
        self: &Rc<Self>,
        ringing: &Ringing,
        envelope: Vec<u8>,
    ) -> Result<Response, Problem> {
        let Ringing { device, caller, .. } = *ringing;
        if self.missing.borrow().is_none() {
            let stored: Option<RequestWindow> = self.stored(WINDOW_KEY).await;
            self.missing
                .borrow_mut()
                .get_or_insert_with(|| stored.unwrap_or_default());
        }
        let worth_a_row = {
            let mut missing = self.missing.borrow_mut();
            let window = missing.get_or_insert_default();
            ringing.count_in(window, now_ms())?;
            window.is_worth_storing(&caller).then(|| window.clone())
        };
        // Whoever is not there costs no row.
        let Reach {
            beacon,
            is_self_enrolled,
        } = directory::ask(&self.env, &Ask::Missing { device }).await?;
        if let Some(window) = worth_a_row {
            self.store(WINDOW_KEY, &window).await;
        }
        let with_turn = ringing.is_browser && !is_self_enrolled;
        let relay = self.ring(NO_SESSION, None, now_ms(), ringing, with_turn)?;
        let call = relay.call_number();
        self.waiting.borrow_mut().insert(call, Waiting { envelope });
        let shared = self.clone();
        self.state.wait_until(async move {
            shared.tell_beacon(&beacon, &device, call).await;
        });
        relay.into_response()
    }

    async fn tell_beacon(&self, beacon: &PeerId, device: &PeerId, call: u64) {
        for attempt in 0..NOTIFY_TRIES {
            if attempt > 0 {
                Delay::from(Duration::from_secs(1)).await;
            }
            if !self.waiting.borrow().contains_key(&call) {
                return;
            }
            match notify(&self.env, beacon, device).await {
                Ok(true) => return,
                // Between two sockets of the beacon.
                Ok(false) => {}
                Err(error) => crate::log::fault("asking a beacon to notify", &error),
            }
        }
    }

    /// `GET …/requests`: everything that waits. A second fetch gets it again, in case the first
    /// answer was lost.
    pub(super) fn fetch_waiting(&self) -> Result<Response, Problem> {
        self.fetched
            .borrow_mut()
            .fetches
            .admit(limits::FETCHES, now_ms())
            .map_err(|exceeded| Problem::rate_limited("too many fetches", exceeded))?;
        let waiting = self.waiting.borrow().clone();
        let mut body = Vec::new();
        for (call, Waiting { envelope }) in waiting {
            let frame = Frame::from(Deliver { call, envelope });
            body.extend(length_prefixed(&frame.encode()));
            self.calls.borrow().handle(NO_SESSION, call, Event::Ack);
        }
        ResponseBuilder::new()
            .with_header("content-type", "application/octet-stream")
            .map(|builder| builder.fixed(body))
            .map_err(|error| Problem::internal("answering a fetch", &error))
    }

    /// `POST …/answers`: the body's frames, all of them in form or none is taken.
    pub(super) async fn take_answers(&self, body: &[u8]) -> Result<Response, Problem> {
        self.fetched
            .borrow_mut()
            .answers
            .admit(limits::FETCHES, now_ms())
            .map_err(|exceeded| Problem::rate_limited("too many answers", exceeded))?;
        for (call, event) in answers_in(body)? {
            // Answered: nothing to fetch any more.
            self.waiting.borrow_mut().remove(&call);
            self.device_says(NO_SESSION, call, event).await;
        }
        Ok(ResponseBuilder::new().with_status(204).empty())
    }
}

fn answers_in(body: &[u8]) -> Result<Vec<(u64, Event)>, Problem> {
    let bad = |detail: String| Problem::new(Code::BadFrame, detail);
    let mut reader = FrameReader::default();
    reader.push(body);
    let mut answers = Vec::new();
    while let Some(frame) = reader.next_frame() {
        match frame.map_err(|error| bad(error.to_string()))? {
            Frame::Answer(answer) => answers.push((answer.call, Event::Answer(answer.reply))),
            Frame::Refuse(refuse) => answers.push((refuse.call, Event::Refuse(refuse.refusal))),
            other => return Err(bad(format!("frame 0x{:02x} is no answer", other.tag()))),
        }
    }
    if reader.into_rest().is_empty() {
        Ok(answers)
    } else {
        Err(bad("the last frame is cut off".into()))
    }
}

#[cfg(test)]
mod tests {
    use ringback_protocol::frame::{Ack, Answer, Refuse};

    use super::*;

    #[test]
    fn answers_are_taken_whole_or_not_at_all() {
        let answer = Answer {
            call: 7,
            reply: vec![1],
        };
        let refuse = Refuse {
            call: 8,
            refusal: vec![2],
        };
        let [answer, refuse, ack] = [answer.into(), refuse.into(), Ack { call: 7 }.into()]
            .map(|frame: Frame| length_prefixed(&frame.encode()));
        let both = [answer.clone(), refuse].concat();
        assert_eq!(
            answers_in(&both),
            Ok(vec![
                (7, Event::Answer(vec![1])),
                (8, Event::Refuse(vec![2]))
            ])
        );
        assert_eq!(answers_in(&[]), Ok(vec![]));
        for wrong in [&both[..both.len() - 1], &[answer, ack].concat(), &[0, 0]] {
            assert_eq!(answers_in(wrong).unwrap_err().code, Code::BadFrame);
        }
    }
}
