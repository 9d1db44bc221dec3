//! The device's side of a beacon (§16.3): registered, heard of when its address changes, notified.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::datagram::{
    self, Body, KEEPALIVE, LEAVE, NOTIFIED, NOTIFY, PROBE, PROBED, REGISTERED, SESSION_HEADER,
    Standing,
};
use super::session::{End, Session};
use super::{FIRST_BYTE, MAX_INTERVAL};
use crate::{PeerId, SecretKey};

/// First wait for an answer; doubles with every repetition.
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// The longest wait between two attempts at a beacon that does not answer.
const MAX_WAIT: Duration = Duration::from_secs(15);
/// Repetitions of a Register or a Keepalive before it starts with a Hello again.
const REPETITIONS: u32 = 3;
/// While the registry has not answered yet, or is away, the device asks again this often.
const PENDING: Duration = Duration::from_millis(500);
const REGISTRY_AWAY: Duration = Duration::from_secs(5);
/// A refused device asks again this often: it may be enrolled meanwhile.
const REFUSED: Duration = Duration::from_secs(60);

/// A device at a beacon, from the first Hello to Leave. Time is monotonic, from any start. Drain
/// [`poll_output`](Self::poll_output) after every input.
#[derive(Debug)]
pub struct Device {
    key: SecretKey,
    beacon: PeerId,
    shared: Zeroizing<[u8; 32]>,
    interval: Duration,
    seed: [u8; 32],
    nonces: u64,
    state: State,
    /// The last notification that was told; its repetitions are only acknowledged.
    noticed: Option<u64>,
    /// What was last told of this device's standing.
    told: Option<(SocketAddr, Standing)>,
    outputs: VecDeque<Output>,
}

#[derive(Debug)]
enum State {
    /// Wants a cookie.
    Hello {
        nonce: [u8; 16],
        attempts: u32,
        next: Duration,
        /// A session that did not answer any more: a notification in it still counts.
        old: Option<Box<Session>>,
    },
    /// Has a cookie, wants Registered.
    Register {
        nonce: [u8; 16],
        cookie: [u8; 32],
        session: Box<Session>,
        attempts: u32,
        next: Duration,
    },
    Live {
        session: Box<Session>,
        next: Duration,
        /// Keepalives since the last answer.
        unanswered: u32,
    },
    Left,
}

/// What the shell must do.
#[derive(Debug, PartialEq, Eq)]
pub enum Output {
    /// Send to the beacon from the device's main socket.
    Send(Vec<u8>),
    /// The beacon has answered: the device's public address and its standing, when either is new.
    Registered {
        public: SocketAddr,
        standing: Standing,
    },
    /// Somebody rings: fetch the requests (§5.4).
    Notified,
    /// A probe's answer; `late`: after its delay.
    Probed { id: u64, late: bool },
    /// The beacon does not answer. It is asked on.
    Lost,
}

impl Device {
    /// `seed` must be 32 bytes of a cryptographic random source.
    pub fn new(
        key: SecretKey,
        beacon: PeerId,
        interval: Duration,
        seed: [u8; 32],
        now: Duration,
    ) -> Self {
        let shared = key.agree(&beacon);
        let mut device = Self {
            key,
            beacon,
            shared,
            interval: interval.min(MAX_INTERVAL),
            seed,
            nonces: 0,
            state: State::Left,
            noticed: None,
            told: None,
            outputs: VecDeque::new(),
        };
        device.say_hello(None, now);
        device
    }

    /// A datagram from the beacon's address. What is not authentic is dropped without a trace.
    pub fn handle_datagram(&mut self, datagram: &[u8], now: Duration) {
        let Some(kind) = datagram::kind(datagram) else {
            return;
        };
        match &mut self.state {
            State::Hello { nonce, old, .. } => {
                if let Some(cookie) = datagram::read_cookie(datagram, nonce) {
                    let nonce = *nonce;
                    self.register(nonce, cookie, now);
                } else if let Some(session) = old
                    && let Some(Body::Notice(id)) = open(session, kind, datagram)
                    && kind == NOTIFY
                {
                    let (answer, _) = session.seal(NOTIFIED, &Body::Notice(id));
                    self.notified(id, answer);
                }
            }
            State::Register { session, .. } | State::Live { session, .. } => {
                let Some(body) = open(session, kind, datagram) else {
                    return;
                };
                match (kind, body) {
                    (
                        REGISTERED,
                        Body::Registered {
                            public, standing, ..
                        },
                    ) => self.registered(public, standing, now),
                    (NOTIFY, Body::Notice(id)) => {
                        let (answer, _) = session.seal(NOTIFIED, &Body::Notice(id));
                        self.notified(id, answer);
                    }
                    (PROBED, Body::Probed { id, late }) => {
                        self.outputs.push_back(Output::Probed { id, late });
                    }
                    _ => {}
                }
            }
            State::Left => {}
        }
    }

    pub fn handle_timeout(&mut self, now: Duration) {
        match &mut self.state {
            State::Hello { attempts, next, .. } if *next <= now => {
                *attempts += 1;
                if *attempts == REPETITIONS {
                    self.told = None;
                    self.outputs.push_back(Output::Lost);
                }
                self.send_hello(now);
            }
            State::Register { attempts, next, .. } if *next <= now => {
                *attempts += 1;
                if *attempts > REPETITIONS {
                    self.say_hello(None, now);
                } else {
                    self.send_register(now);
                }
            }
            State::Live {
                next, unanswered, ..
            } if *next <= now => {
                if *unanswered > REPETITIONS {
                    self.say_hello(None, now);
                } else {
                    self.send_keepalive(now);
                }
            }
            _ => {}
        }
    }

    /// The network may have changed: the beacon hears of this device now.
    pub fn check(&mut self, now: Duration) {
        match &mut self.state {
            State::Live {
                next, unanswered, ..
            } => {
                *unanswered = 0;
                *next = now;
            }
            State::Hello { next, attempts, .. } | State::Register { next, attempts, .. } => {
                *attempts = 0;
                *next = now;
            }
            State::Left => {}
        }
        self.handle_timeout(now);
    }

    /// Another pause between two keepalives, from the next one on; the beacon learns it with that.
    pub fn set_interval(&mut self, interval: Duration, now: Duration) {
        let interval = interval.min(MAX_INTERVAL);
        let shorter = interval < self.interval;
        self.interval = interval;
        if shorter && let State::Live { next, .. } = &mut self.state {
            *next = (*next).min(now + interval);
        }
    }

    /// A probe (§16.5), to be sent from a socket of its own: the beacon answers there at once and
    /// once more after `delay`. `None` without a session.
    pub fn probe(&mut self, id: u64, delay: Duration) -> Option<Vec<u8>> {
        let State::Live { session, .. } = &mut self.state else {
            return None;
        };
        let delay_s = delay.min(MAX_INTERVAL).as_secs() as u16;
        Some(session.seal(PROBE, &Body::Probe { id, delay_s }).0)
    }

    /// Takes the device out of the beacon's table. Nothing comes after it.
    pub fn leave(&mut self) {
        if let State::Live { session, .. } = &mut self.state {
            let (datagram, _) = session.seal(LEAVE, &Body::Leave);
            self.outputs.push_back(Output::Send(datagram));
        }
        self.state = State::Left;
    }

    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`handle_timeout`](Self::handle_timeout) wants to be called.
    pub fn poll_timeout(&self) -> Option<Duration> {
        match &self.state {
            State::Hello { next, .. } | State::Register { next, .. } | State::Live { next, .. } => {
                Some(*next)
            }
            State::Left => None,
        }
    }

    fn say_hello(&mut self, old: Option<Box<Session>>, now: Duration) {
        let old = old.or(match std::mem::replace(&mut self.state, State::Left) {
            State::Live { session, .. } => Some(session),
            State::Hello { old, .. } => old,
            _ => None,
        });
        let nonce = self.nonce();
        self.state = State::Hello {
            nonce,
            attempts: 0,
            next: now,
            old,
        };
        self.send_hello(now);
    }

    fn send_hello(&mut self, now: Duration) {
        if let State::Hello {
            nonce,
            attempts,
            next,
            ..
        } = &mut self.state
        {
            *next = now + wait(*attempts);
            self.outputs.push_back(Output::Send(datagram::hello(nonce)));
        }
    }

    fn register(&mut self, nonce: [u8; 16], cookie: [u8; 32], now: Duration) {
        let session = Session::new(
            End::Device,
            &self.shared,
            &self.key.id(),
            &self.beacon,
            &nonce,
            &cookie,
        );
        self.state = State::Register {
            nonce,
            cookie,
            session: Box::new(session),
            attempts: 0,
            next: now,
        };
        self.send_register(now);
    }

    fn send_register(&mut self, now: Duration) {
        let interval_s = self.interval.as_secs() as u16;
        if let State::Register {
            nonce,
            cookie,
            session,
            attempts,
            next,
        } = &mut self.state
        {
            *next = now + wait(*attempts);
            let (datagram, _) = session.seal_register(&self.key.id(), nonce, cookie, interval_s);
            self.outputs.push_back(Output::Send(datagram));
        }
    }

    fn send_keepalive(&mut self, now: Duration) {
        let interval_s = self.interval.as_secs() as u16;
        if let State::Live {
            session,
            next,
            unanswered,
        } = &mut self.state
        {
            *next = now + wait(*unanswered);
            *unanswered += 1;
            let (datagram, _) = session.seal(KEEPALIVE, &Body::Interval(interval_s));
            self.outputs.push_back(Output::Send(datagram));
        }
    }

    fn registered(&mut self, public: SocketAddr, standing: Standing, now: Duration) {
        let pause = match standing {
            Standing::Pending => PENDING.min(self.interval),
            Standing::RegistryAway => REGISTRY_AWAY.min(self.interval),
            Standing::NotEnrolled | Standing::Revoked => REFUSED,
            _ => self.interval,
        };
        let session = match std::mem::replace(&mut self.state, State::Left) {
            State::Register { session, .. } | State::Live { session, .. } => session,
            other => {
                self.state = other;
                return;
            }
        };
        self.state = State::Live {
            session,
            next: now + pause,
            unanswered: 0,
        };
        if self.told != Some((public, standing)) {
            self.told = Some((public, standing));
            self.outputs
                .push_back(Output::Registered { public, standing });
        }
    }

    fn notified(&mut self, id: u64, answer: Vec<u8>) {
        self.outputs.push_back(Output::Send(answer));
        if self.noticed != Some(id) {
            self.noticed = Some(id);
            self.outputs.push_back(Output::Notified);
        }
    }

    fn nonce(&mut self) -> [u8; 16] {
        self.nonces += 1;
        let digest = Sha256::new()
            .chain_update(self.seed)
            .chain_update(self.nonces.to_be_bytes())
            .finalize();
        *digest.first_chunk().expect("32 bytes")
    }
}

/// The beacon's datagrams of a session carry its tag.
fn open(session: &mut Session, kind: u8, datagram: &[u8]) -> Option<Body> {
    debug_assert_eq!(datagram.first(), Some(&FIRST_BYTE));
    if !matches!(kind, REGISTERED | NOTIFY | PROBED)
        || datagram[2..SESSION_HEADER - 8] != session.tag()
    {
        return None;
    }
    Some(session.open(kind, datagram).ok()?.body)
}

fn wait(attempts: u32) -> Duration {
    (FIRST_WAIT * 2u32.pow(attempts.min(5))).min(MAX_WAIT)
}
