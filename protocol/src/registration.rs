//! Registration (§5.2, §6.1): a device proves its key to the registry and stays connected. The
//! device's side is the state machine [`Registration`]; the registry's checks are functions, and
//! so are the other proofs of a key: to a relay (§15), and of a device without a socket (§5.4).

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use crate::frame::{Deliver, Frame, Register, Registered, Rejected, Update};
use crate::relay::Room;
use crate::{PeerId, SecretKey, label};

/// Between two pings on an idle socket.
pub const PING_INTERVAL: Duration = Duration::from_secs(25);
/// Without a pong for this long the socket is dead.
pub const PONG_TIMEOUT: Duration = Duration::from_secs(10);
/// Without `Updated` for this long the socket is dead.
pub const UPDATE_TIMEOUT: Duration = Duration::from_secs(5);
/// Each step of the registration must be done in this time.
pub const STEP_TIMEOUT: Duration = Duration::from_secs(10);

/// Signs the registry's challenge (§6.1). `origin` is the ASCII origin that the device dials.
pub fn sign_challenge(device: &SecretKey, nonce: &[u8; 32], origin: &str) -> [u8; 64] {
    device.sign(
        label::REGISTER,
        &[
            device.id().as_bytes(),
            nonce,
            &label::sha256(origin.as_bytes()),
        ],
    )
}

/// Has `device` signed this challenge of the registry at `origin`?
pub fn verify_challenge(
    device: &PeerId,
    nonce: &[u8; 32],
    origin: &str,
    signature: &[u8; 64],
) -> bool {
    device.verify(
        label::REGISTER,
        &[device.as_bytes(), nonce, &label::sha256(origin.as_bytes())],
        signature,
    )
}

/// Signs an enrolment (§5.2) with `code` as the owner gave it; empty on an open registry.
pub fn sign_enrolment(device: &SecretKey, origin: &str, code: &str) -> [u8; 64] {
    let code = canonical_code(code);
    device.sign(
        label::ENROL,
        &[
            device.id().as_bytes(),
            &label::sha256(origin.as_bytes()),
            code.as_bytes(),
        ],
    )
}

/// Has `device` signed its enrolment with `code` at `origin`?
pub fn verify_enrolment(device: &PeerId, origin: &str, code: &str, signature: &[u8; 64]) -> bool {
    let code = canonical_code(code);
    device.verify(
        label::ENROL,
        &[
            device.as_bytes(),
            &label::sha256(origin.as_bytes()),
            code.as_bytes(),
        ],
        signature,
    )
}

/// Signs a relay's challenge (§15). `origin` is the registry's as dialed, or `beacon:` and the
/// beacon's ID.
pub fn sign_join(peer: &SecretKey, room: &Room, nonce: &[u8; 32], origin: &str) -> [u8; 64] {
    let origin = label::sha256(origin.as_bytes());
    let id = peer.id();
    peer.sign(label::JOIN, &[id.as_bytes(), &room.0, nonce, &origin])
}

/// Has `peer` signed this challenge of the relay at `origin`, for this room?
pub fn verify_join(
    peer: &PeerId,
    room: &Room,
    nonce: &[u8; 32],
    origin: &str,
    signature: &[u8; 64],
) -> bool {
    let origin = label::sha256(origin.as_bytes());
    let parts: [&[u8]; 4] = [peer.as_bytes(), &room.0, nonce, &origin];
    peer.verify(label::JOIN, &parts, signature)
}

/// Signs a device's fetching of its waiting requests (§5.4).
pub fn sign_fetch(device: &SecretKey, origin: &str, time_ms: u64) -> [u8; 64] {
    let origin = label::sha256(origin.as_bytes());
    let (id, time) = (device.id(), time_ms.to_be_bytes());
    device.sign(label::FETCH, &[id.as_bytes(), &origin, &time])
}

/// Has `device` signed this fetching at `origin`? Whether the time is fresh is another question.
pub fn verify_fetch(device: &PeerId, origin: &str, time_ms: u64, signature: &[u8; 64]) -> bool {
    let origin = label::sha256(origin.as_bytes());
    let parts: [&[u8]; 3] = [device.as_bytes(), &origin, &time_ms.to_be_bytes()];
    device.verify(label::FETCH, &parts, signature)
}

/// Signs a device's answers to fetched requests (§5.4); `body` are the length-prefixed frames.
pub fn sign_answers(device: &SecretKey, origin: &str, time_ms: u64, body: &[u8]) -> [u8; 64] {
    let (origin, body) = (label::sha256(origin.as_bytes()), label::sha256(body));
    let (id, time) = (device.id(), time_ms.to_be_bytes());
    device.sign(label::ANSWER, &[id.as_bytes(), &origin, &time, &body])
}

/// Has `device` signed these answers at `origin`? Whether the time is fresh is another question.
pub fn verify_answers(
    device: &PeerId,
    origin: &str,
    time_ms: u64,
    body: &[u8],
    signature: &[u8; 64],
) -> bool {
    let (origin, body) = (label::sha256(origin.as_bytes()), label::sha256(body));
    let time = time_ms.to_be_bytes();
    let parts: [&[u8]; 4] = [device.as_bytes(), &origin, &time, &body];
    device.verify(label::ANSWER, &parts, signature)
}

/// Signs the opening of a WebSocket at `path` of the registry (§5.8), before which it does nothing.
pub fn sign_upgrade(peer: &SecretKey, origin: &str, path: &str, time_ms: u64) -> [u8; 64] {
    let origin = label::sha256(origin.as_bytes());
    let (id, time) = (peer.id(), time_ms.to_be_bytes());
    let parts: [&[u8]; 4] = [id.as_bytes(), &origin, &time, path.as_bytes()];
    peer.sign(label::UPGRADE, &parts)
}

/// Has `peer` signed this opening at `origin`? Whether the time is fresh is another question.
pub fn verify_upgrade(
    peer: &PeerId,
    origin: &str,
    path: &str,
    time_ms: u64,
    signature: &[u8; 64],
) -> bool {
    let origin = label::sha256(origin.as_bytes());
    let time = time_ms.to_be_bytes();
    let parts: [&[u8]; 4] = [peer.as_bytes(), &origin, &time, path.as_bytes()];
    peer.verify(label::UPGRADE, &parts, signature)
}

/// An enrolment code without dashes and blanks, in upper case, with Crockford's look-alikes read
/// as what they look like.
pub fn canonical_code(code: &str) -> String {
    code.chars()
        .filter(|c| !c.is_whitespace() && *c != '-')
        .map(|c| match c.to_ascii_uppercase() {
            'O' => '0',
            'I' | 'L' => '1',
            other => other,
        })
        .collect()
}

/// A device's socket to the registry, from the first frame to the last. Time is monotonic, from
/// any start. Drain [`poll_output`](Self::poll_output) after every input.
#[derive(Debug)]
pub struct Registration {
    device: SecretKey,
    origin: String,
    agent: String,
    public: Option<SocketAddr>,
    instance: Option<u64>,
    state: State,
    outputs: VecDeque<Output>,
}

#[derive(Debug)]
enum State {
    AwaitChallenge {
        deadline: Duration,
    },
    AwaitRegistered {
        deadline: Duration,
        told: Option<SocketAddr>,
    },
    Live {
        next_ping: Duration,
        pong_deadline: Option<Duration>,
        update_deadline: Option<Duration>,
    },
    Closed,
}

/// What the shell must do.
#[derive(Debug, PartialEq, Eq)]
pub enum Output {
    Send(Frame),
    /// Send the text message `ping`.
    SendPing,
    /// The registry's clock in Unix milliseconds, for telling the user of a wrong clock.
    Time(u64),
    Registered(Registered),
    /// Acknowledged already; open it, then send `Answer` or `Refuse`.
    Deliver(Deliver),
    /// A frame about a call that this device has placed.
    Placed(Frame),
    /// A frame to a beacon: `Known` or `Notify` (§6.3). A device that is none ignores it.
    Beacon(Frame),
    /// Close the socket and connect anew, or not, as the reason says.
    Close(CloseReason),
}

/// Why the socket is given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CloseReason {
    /// The registry will not have this device.
    Rejected(Rejected),
    /// Nothing was heard in time.
    Dead,
    /// The registry does not keep to the protocol.
    Misbehaved(String),
}

impl Registration {
    /// On a socket that has just been opened.
    pub fn new(
        device: SecretKey,
        origin: String,
        agent: String,
        public: Option<SocketAddr>,
        now: Duration,
    ) -> Self {
        Self {
            device,
            origin,
            agent,
            public,
            instance: None,
            state: State::AwaitChallenge {
                deadline: now + STEP_TIMEOUT,
            },
            outputs: VecDeque::new(),
        }
    }

    /// Says which start of the agent this is: any number, but the same for all its sockets.
    #[must_use]
    pub fn of_instance(mut self, instance: u64) -> Self {
        self.instance = Some(instance);
        self
    }

    /// A binary message from the registry.
    pub fn handle_message(&mut self, message: &[u8], now: Duration) {
        if matches!(self.state, State::Closed) {
            return;
        }
        match Frame::decode(message) {
            Ok(frame) => self.handle_frame(frame, now),
            Err(malformed) => self.close(CloseReason::Misbehaved(malformed.to_string())),
        }
    }

    fn handle_frame(&mut self, frame: Frame, now: Duration) {
        match (&mut self.state, frame) {
            (State::Closed, _) | (_, Frame::Unknown(_)) => {}
            (_, Frame::Rejected(rejected)) => self.close(CloseReason::Rejected(rejected)),
            (State::AwaitChallenge { .. }, Frame::Challenge(challenge)) => {
                self.outputs.push_back(Output::Time(challenge.time_ms));
                let signature = sign_challenge(&self.device, &challenge.nonce, &self.origin);
                let register = Register {
                    signature,
                    agent: self.agent.clone(),
                    public: self.public,
                    instance: self.instance,
                };
                self.outputs.push_back(Output::Send(register.into()));
                self.state = State::AwaitRegistered {
                    deadline: now + STEP_TIMEOUT,
                    told: self.public,
                };
            }
            (State::AwaitRegistered { told, .. }, Frame::Registered(registered)) => {
                let told = *told;
                self.outputs.push_back(Output::Registered(registered));
                self.state = State::Live {
                    next_ping: now + PING_INTERVAL,
                    pong_deadline: None,
                    update_deadline: None,
                };
                if told != self.public {
                    self.send_update(now);
                }
            }
            (State::Live { .. }, Frame::Deliver(deliver)) => {
                self.outputs.push_back(Output::Send(
                    crate::frame::Ack { call: deliver.call }.into(),
                ));
                self.outputs.push_back(Output::Deliver(deliver));
            }
            (
                State::Live {
                    update_deadline, ..
                },
                Frame::Updated(updated),
            ) => {
                if Some(updated.public) == self.public {
                    *update_deadline = None;
                }
            }
            (
                State::Live { .. },
                frame @ (Frame::Delivered(_)
                | Frame::Answered(_)
                | Frame::Refused(_)
                | Frame::Failed(_)),
            ) => self.outputs.push_back(Output::Placed(frame)),
            (State::Live { .. }, frame @ (Frame::Known(_) | Frame::Notify(_))) => {
                self.outputs.push_back(Output::Beacon(frame));
            }
            (_, frame) => {
                let tag = frame.tag();
                self.close(CloseReason::Misbehaved(format!(
                    "frame 0x{tag:02x} is out of place"
                )));
            }
        }
    }

    /// The text message `pong` from the registry.
    pub fn handle_pong(&mut self) {
        if let State::Live { pong_deadline, .. } = &mut self.state {
            *pong_deadline = None;
        }
    }

    /// STUN has shown this public address; the registry is told if it is new.
    pub fn set_public(&mut self, public: SocketAddr, now: Duration) {
        if self.public == Some(public) {
            return;
        }
        self.public = Some(public);
        if matches!(self.state, State::Live { .. }) {
            self.send_update(now);
        }
    }

    /// Finds out at once whether the socket still lives, after a change of network.
    pub fn check(&mut self, now: Duration) {
        if let State::Live {
            next_ping,
            pong_deadline: None,
            ..
        } = &mut self.state
        {
            *next_ping = now;
            self.handle_timeout(now);
        }
    }

    pub fn handle_timeout(&mut self, now: Duration) {
        match &mut self.state {
            State::AwaitChallenge { deadline } | State::AwaitRegistered { deadline, .. } => {
                if *deadline <= now {
                    self.close(CloseReason::Dead);
                }
            }
            State::Live {
                next_ping,
                pong_deadline,
                update_deadline,
            } => {
                let overdue = |deadline: &Option<Duration>| deadline.is_some_and(|d| d <= now);
                if overdue(pong_deadline) || overdue(update_deadline) {
                    self.close(CloseReason::Dead);
                } else if *next_ping <= now {
                    *next_ping = now + PING_INTERVAL;
                    pong_deadline.get_or_insert(now + PONG_TIMEOUT);
                    self.outputs.push_back(Output::SendPing);
                }
            }
            State::Closed => {}
        }
    }

    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`handle_timeout`](Self::handle_timeout) wants to be called.
    pub fn poll_timeout(&self) -> Option<Duration> {
        match &self.state {
            State::AwaitChallenge { deadline } | State::AwaitRegistered { deadline, .. } => {
                Some(*deadline)
            }
            State::Live {
                next_ping,
                pong_deadline,
                update_deadline,
            } => [Some(*next_ping), *pong_deadline, *update_deadline]
                .into_iter()
                .flatten()
                .min(),
            State::Closed => None,
        }
    }

    pub fn is_live(&self) -> bool {
        matches!(self.state, State::Live { .. })
    }

    fn send_update(&mut self, now: Duration) {
        let (
            State::Live {
                update_deadline, ..
            },
            Some(public),
        ) = (&mut self.state, self.public)
        else {
            return;
        };
        *update_deadline = Some(now + UPDATE_TIMEOUT);
        self.outputs
            .push_back(Output::Send(Update { public }.into()));
    }

    fn close(&mut self, reason: CloseReason) {
        self.state = State::Closed;
        self.outputs.push_back(Output::Close(reason));
    }
}
