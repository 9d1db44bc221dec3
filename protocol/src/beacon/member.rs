//! A member of a room at a beacon that relays (§16.6): joins, keeps its place, and comes back.

use std::collections::VecDeque;
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use super::datagram::{self, Join, Joined, RELAY_LEAVE, RELAY_PING, Standing};
use crate::path::Role;
use crate::registration::sign_join;
use crate::relay::Room;
use crate::{PeerId, SecretKey};

/// First wait for an answer; doubles with every repetition.
const FIRST_WAIT: Duration = Duration::from_millis(400);
const MAX_WAIT: Duration = Duration::from_secs(15);
/// Between two pings that keep the place and the NAT's mapping.
const PING_INTERVAL: Duration = Duration::from_secs(20);
/// Pings without an answer after which it joins anew.
const PINGS: u32 = 3;
/// Joins without an answer after which it wants a new cookie.
const JOINS: u32 = 3;
/// Until it asks again while the registry is being asked about the device.
const PENDING: Duration = Duration::from_millis(300);

/// The origin that stands for a beacon in the signature of a Join (§15.2).
pub(super) fn origin(beacon: &PeerId) -> String {
    format!("beacon:{beacon}")
}

/// One end of a call at a beacon's relay. Drain [`poll_output`](Self::poll_output) after every
/// input.
#[derive(Debug)]
pub struct Member {
    key: SecretKey,
    role: Role,
    device: PeerId,
    room: Room,
    beacon: PeerId,
    seed: [u8; 32],
    nonces: u64,
    nonce: [u8; 16],
    state: State,
    outputs: VecDeque<Output>,
}

#[derive(Debug)]
enum State {
    Hello {
        attempts: u32,
        next: Duration,
    },
    Join {
        join: Box<Join>,
        attempts: u32,
        next: Duration,
    },
    Joined {
        present: bool,
        unanswered: u32,
        next: Duration,
    },
    Ended,
}

/// What the shell must do.
#[derive(Debug, PartialEq, Eq)]
pub enum Output {
    Send(Vec<u8>),
    /// Datagrams may be sent from now on. Told again when `present`, the other member's being
    /// there, changes.
    Joined {
        present: bool,
        rate: u32,
    },
    /// The beacon does not answer. It is asked on.
    Lost,
    /// The beacon will not relay this call; nothing comes after it.
    Refused(Standing),
}

impl Member {
    /// `seed` must be 32 bytes of a cryptographic random source.
    pub fn new(
        key: SecretKey,
        role: Role,
        device: PeerId,
        room: Room,
        beacon: PeerId,
        seed: [u8; 32],
        now: Duration,
    ) -> Self {
        let mut member = Self {
            key,
            role,
            device,
            room,
            beacon,
            seed,
            nonces: 0,
            nonce: [0; 16],
            state: State::Ended,
            outputs: VecDeque::new(),
        };
        member.say_hello(now);
        member
    }

    /// A datagram from the beacon whose first byte is [`FIRST_BYTE`](super::FIRST_BYTE).
    pub fn handle_datagram(&mut self, datagram: &[u8], now: Duration) {
        if let State::Hello { .. } = self.state {
            if let Some(cookie) = datagram::read_cookie(datagram, &self.nonce) {
                self.join(cookie, now);
            }
            return;
        }
        let Some(joined) = Joined::decode(datagram).filter(|joined| joined.nonce == self.nonce)
        else {
            return;
        };
        match (&mut self.state, joined.standing) {
            (State::Hello { .. } | State::Ended, _) => {}
            (State::Join { next, .. }, Standing::Pending) => *next = now + PENDING,
            (State::Joined { .. }, Standing::Pending) => {}
            (
                State::Joined {
                    present,
                    unanswered,
                    next,
                },
                Standing::Good,
            ) => {
                *unanswered = 0;
                *next = now + PING_INTERVAL;
                if std::mem::replace(present, joined.present) != joined.present {
                    self.tell(&joined);
                }
            }
            (State::Join { .. }, Standing::Good) => {
                self.state = State::Joined {
                    present: joined.present,
                    unanswered: 0,
                    next: now + PING_INTERVAL,
                };
                self.tell(&joined);
            }
            (_, standing) => {
                self.state = State::Ended;
                self.outputs.push_back(Output::Refused(standing));
            }
        }
    }

    pub fn handle_timeout(&mut self, now: Duration) {
        match &mut self.state {
            State::Hello { attempts, next } if *next <= now => {
                *attempts += 1;
                if *attempts == JOINS {
                    self.outputs.push_back(Output::Lost);
                }
                self.send_hello(now);
            }
            State::Join { attempts, next, .. } if *next <= now => {
                *attempts += 1;
                // A cookie lives for a minute, and answers that say "pending" are answers.
                if *attempts > 8 * JOINS {
                    self.say_hello(now);
                } else {
                    self.send_join(now);
                }
            }
            State::Joined {
                unanswered, next, ..
            } if *next <= now => {
                if *unanswered >= PINGS {
                    self.outputs.push_back(Output::Lost);
                    self.say_hello(now);
                } else {
                    *next = now + wait(*unanswered);
                    *unanswered += 1;
                    let ping = datagram::relay(RELAY_PING, &self.nonce);
                    self.outputs.push_back(Output::Send(ping));
                }
            }
            _ => {}
        }
    }

    /// The network may have changed: finds out whether the place is still held.
    pub fn check(&mut self, now: Duration) {
        match &mut self.state {
            State::Joined { next, .. } | State::Hello { next, .. } | State::Join { next, .. } => {
                *next = now;
            }
            State::Ended => {}
        }
        self.handle_timeout(now);
    }

    /// Gives the place back. Nothing comes after it.
    pub fn leave(&mut self) {
        if matches!(self.state, State::Joined { .. }) {
            let leave = datagram::relay(RELAY_LEAVE, &self.nonce);
            self.outputs.push_back(Output::Send(leave));
        }
        self.state = State::Ended;
    }

    pub fn is_joined(&self) -> bool {
        matches!(self.state, State::Joined { .. })
    }

    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`handle_timeout`](Self::handle_timeout) wants to be called.
    pub fn poll_timeout(&self) -> Option<Duration> {
        match &self.state {
            State::Hello { next, .. } | State::Join { next, .. } | State::Joined { next, .. } => {
                Some(*next)
            }
            State::Ended => None,
        }
    }

    fn tell(&mut self, joined: &Joined) {
        self.outputs.push_back(Output::Joined {
            present: joined.present,
            rate: joined.rate,
        });
    }

    fn say_hello(&mut self, now: Duration) {
        self.nonces += 1;
        let digest = Sha256::new()
            .chain_update(self.seed)
            .chain_update(self.nonces.to_be_bytes())
            .finalize();
        self.nonce = *digest.first_chunk().expect("32 bytes");
        self.state = State::Hello {
            attempts: 0,
            next: now,
        };
        self.send_hello(now);
    }

    fn send_hello(&mut self, now: Duration) {
        if let State::Hello { attempts, next } = &mut self.state {
            *next = now + wait(*attempts);
            self.outputs
                .push_back(Output::Send(datagram::hello(&self.nonce)));
        }
    }

    fn join(&mut self, cookie: [u8; 32], now: Duration) {
        let signature = sign_join(&self.key, &self.room, &cookie, &origin(&self.beacon));
        let join = Join {
            role: role_byte(self.role),
            peer: *self.key.id().as_bytes(),
            device: *self.device.as_bytes(),
            room: self.room.0,
            nonce: self.nonce,
            cookie,
            signature,
        };
        self.state = State::Join {
            join: Box::new(join),
            attempts: 0,
            next: now,
        };
        self.send_join(now);
    }

    fn send_join(&mut self, now: Duration) {
        if let State::Join {
            join,
            attempts,
            next,
        } = &mut self.state
        {
            *next = now + wait((*attempts).min(2));
            self.outputs.push_back(Output::Send(join.encode()));
        }
    }
}

/// As in the registry's Join (§15.2).
fn role_byte(role: Role) -> u8 {
    match role {
        Role::Device => 0,
        Role::Caller => 1,
    }
}

fn wait(attempts: u32) -> Duration {
    (FIRST_WAIT * 2u32.pow(attempts.min(6))).min(MAX_WAIT)
}
