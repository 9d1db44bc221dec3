//! Paths (§10): which way the datagrams of a link take. Sans-IO: the shell owns the socket and the
//! clock (monotonic, from any start).
//!
//! Every candidate is pinged; the first address that answers carries the link, a clearly faster
//! one takes over, a silent one is given up for the next. Handshake datagrams of QUIC go sealed,
//! to every candidate until an address is verified, within a budget that keeps a request from
//! turning a device into a source of noise for strangers.

mod datagram;
mod remote;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

pub use datagram::{FIRST_BYTE, OVERHEAD, PathKeys, Role, link_tag};
use datagram::{Message, Opener, Sealer};
use remote::Remote;

use crate::candidate::{Candidate, Kind, MAX_CANDIDATES, canonical};
use crate::label;
use crate::receipt::{Tried, TriedResult};

/// Handshake datagrams kept for sending again when a new address shows up.
const FLIGHT: usize = 4;
/// A path takes over if its round trip is below this share of the best one's, less [`MARGIN`].
const BETTER: f64 = 0.8;
const MARGIN: Duration = Duration::from_millis(1);

/// A datagram to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transmit {
    pub to: SocketAddr,
    pub datagram: Vec<u8>,
}

/// What a path datagram brought.
#[derive(Debug, PartialEq, Eq)]
pub enum Received {
    /// Not of this link, forged or replayed. Nothing has changed.
    Nothing,
    /// Authentic; `from` is now an address of the peer.
    Authentic,
    /// A QUIC datagram of the handshake.
    Handshake(Vec<u8>),
}

/// What hearing from an address changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Heard {
    First,
    Again,
    /// Not an address of this link, and there are too many already: it is not answered.
    NoRoom,
}

/// The paths of one link. Drain [`poll_transmit`](Self::poll_transmit) after every input.
#[derive(Debug)]
pub struct PathSet {
    sealer: Sealer,
    opener: Opener,
    /// Makes ping contents that the peer can not guess.
    nonce_seed: [u8; 32],
    pings: u64,
    remotes: Vec<Remote>,
    best: Option<SocketAddr>,
    last_heard: Option<SocketAddr>,
    flight: VecDeque<Vec<u8>>,
    established: bool,
    transmits: VecDeque<Transmit>,
}

impl PathSet {
    /// `seed` must be random: it makes ping contents unguessable. `candidates` must have been
    /// through [`rank`](crate::candidate::rank).
    pub fn new(
        role: Role,
        keys: &PathKeys,
        seed: [u8; 32],
        candidates: &[Candidate],
        now: Duration,
    ) -> Self {
        let mut paths = Self {
            sealer: Sealer::new(keys, role),
            opener: Opener::new(keys, role),
            nonce_seed: seed,
            pings: 0,
            remotes: Vec::new(),
            best: None,
            last_heard: None,
            flight: VecDeque::new(),
            established: false,
            transmits: VecDeque::new(),
        };
        paths.add_candidates(candidates, now);
        paths
    }

    /// More addresses of the peer; pinged at once.
    pub fn add_candidates(&mut self, candidates: &[Candidate], now: Duration) {
        for candidate in candidates {
            self.add(candidate.address, candidate.kind, now);
        }
        self.handle_timeout(now);
    }

    /// A datagram whose first byte is [`FIRST_BYTE`] and whose tag is this link's.
    pub fn handle_datagram(
        &mut self,
        from: SocketAddr,
        datagram: &[u8],
        now: Duration,
    ) -> Received {
        let from = canonical(from);
        let Some(message) = self.opener.open(datagram) else {
            return Received::Nothing;
        };
        let heard = self.hear(from, now);
        let received = match message {
            Message::Ping(nonce) => {
                if heard != Heard::NoRoom {
                    self.push(from, &Message::Pong(nonce, from));
                }
                if heard == Heard::First {
                    self.resend_flight(from);
                }
                Received::Authentic
            }
            Message::Pong(nonce, _) => {
                let answered = self
                    .remotes
                    .iter_mut()
                    .find_map(|r| r.answered(nonce, now).then_some(r.address));
                if let Some(address) = answered {
                    self.consider(address);
                }
                Received::Authentic
            }
            Message::Handshake(quic) => Received::Handshake(quic),
            Message::Unknown => Received::Authentic,
        };
        self.handle_timeout(now);
        received
    }

    /// Seals and routes one QUIC datagram of the handshake.
    pub fn send_handshake(&mut self, quic: &[u8]) {
        if !self.established {
            if self.flight.len() == FLIGHT {
                self.flight.pop_front();
            }
            self.flight.push_back(quic.to_vec());
        }
        let only = if self.established {
            self.route()
        } else {
            self.best
        };
        match only {
            Some(to) => self.push_handshake(to, quic),
            None => {
                let all: Vec<SocketAddr> = self.remotes.iter().map(|r| r.address).collect();
                for to in all {
                    self.push_handshake(to, quic);
                }
            }
        }
    }

    /// The QUIC handshake is complete: nothing of it need be sent again, and addresses that have
    /// not answered are left alone.
    pub fn set_established(&mut self) {
        self.established = true;
        self.flight.clear();
    }

    /// Where datagrams go now: the best verified address, or the one heard last; `None` until the
    /// peer has been heard.
    pub fn route(&self) -> Option<SocketAddr> {
        self.best.or(self.last_heard)
    }

    /// Addresses that authentic datagrams came from.
    pub fn heard(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.remotes
            .iter()
            .filter(|r| r.heard.is_some())
            .map(|r| r.address)
    }

    /// Round trip of the path in use, by its last ping.
    pub fn rtt(&self) -> Option<Duration> {
        self.find(self.best?)?.rtt
    }

    /// When [`handle_timeout`](Self::handle_timeout) wants to be called.
    pub fn poll_timeout(&self) -> Option<Duration> {
        self.remotes
            .iter()
            .filter_map(|r| r.next_ping(self.established, self.best))
            .min()
    }

    /// Sends the pings that are due and gives up addresses that do not answer. The next timeout
    /// is later than `now`.
    pub fn handle_timeout(&mut self, now: Duration) {
        self.send_pings(now);
        let works = |best| self.find(best).is_some_and(Remote::is_verified);
        if self.best.is_some_and(|best| !works(best)) {
            self.fall_back();
            self.send_pings(now);
        }
    }

    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// What was tried and what came of it, for the receipt.
    pub fn report(&self) -> Vec<Tried> {
        self.remotes
            .iter()
            .map(|r| Tried {
                address: r.address,
                kind: r.kind,
                result: match r {
                    _ if Some(r.address) == self.route() => TriedResult::Won,
                    _ if r.is_verified() => TriedResult::Works,
                    _ if r.heard.is_some() => TriedResult::HeardOnly,
                    _ => TriedResult::NoAnswer,
                },
                rtt_ms: r.rtt.map(|rtt| rtt.as_secs_f64() * 1e3),
                pings: r.pings_sent,
            })
            .collect()
    }

    fn find(&self, address: SocketAddr) -> Option<&Remote> {
        self.remotes.iter().find(|r| r.address == address)
    }

    /// At most [`MAX_CANDIDATES`] addresses are tried because the peer named them, and as many
    /// because it was heard from there. Of the latter a lost one gives way to a new one; one that
    /// never answered does not, so that no peer can have strangers pinged without end.
    fn add(&mut self, address: SocketAddr, kind: Kind, now: Duration) {
        let address = canonical(address);
        if self.find(address).is_some() {
            return;
        }
        let heard = |r: &Remote| r.kind == Kind::PeerReflexive;
        let alike = |r: &&Remote| heard(r) == (kind == Kind::PeerReflexive);
        if self.remotes.iter().filter(alike).count() == MAX_CANDIDATES {
            let oldest = self
                .remotes
                .iter()
                .filter(|r| heard(r) && r.is_lost())
                .min_by_key(|r| r.heard)
                .map(|r| r.address);
            match oldest {
                Some(oldest) if kind == Kind::PeerReflexive => {
                    self.remotes.retain(|r| r.address != oldest);
                }
                _ => return,
            }
        }
        self.remotes.push(Remote::new(address, kind, now));
    }

    /// An authentic datagram came from `from`.
    fn hear(&mut self, from: SocketAddr, now: Duration) -> Heard {
        self.add(from, Kind::PeerReflexive, now);
        let best = self.best;
        let Some(remote) = self.remotes.iter_mut().find(|r| r.address == from) else {
            return Heard::NoRoom;
        };
        let first = remote.hear(now);
        self.last_heard = Some(from);
        if !first {
            return Heard::Again;
        }
        // The peer may have moved: find out soon whether the path in use still works.
        if let Some(best) = self.remotes.iter_mut().find(|r| Some(r.address) == best) {
            best.renew();
        }
        Heard::First
    }

    /// `address` has just answered: should it carry the link?
    fn consider(&mut self, address: SocketAddr) {
        let rtt = |a: SocketAddr| self.find(a).filter(|r| r.is_verified()).and_then(|r| r.rtt);
        let Some(new) = rtt(address) else { return };
        let better = match self.best.and_then(rtt) {
            Some(current) => new + MARGIN < current.mul_f64(BETTER),
            None => true,
        };
        if better {
            self.best = Some(address);
        }
    }

    /// The best path is silent: take the fastest verified one, and try every address anew.
    fn fall_back(&mut self) {
        let lost = self.best;
        self.best = self
            .remotes
            .iter()
            .filter(|r| r.is_verified())
            .min_by_key(|r| r.rtt)
            .map(|r| r.address);
        for remote in &mut self.remotes {
            if Some(remote.address) != lost {
                remote.renew();
            }
        }
    }

    fn send_pings(&mut self, now: Duration) {
        let mut due = Vec::new();
        for remote in &mut self.remotes {
            let next = remote.next_ping(self.established, self.best);
            if next.is_some_and(|at| at <= now) {
                self.pings += 1;
                let nonce = nonce(&self.nonce_seed, self.pings);
                remote.pinged(nonce, now);
                due.push((remote.address, nonce));
            }
        }
        for (to, nonce) in due {
            self.push(to, &Message::Ping(nonce));
        }
    }

    fn resend_flight(&mut self, to: SocketAddr) {
        for quic in std::mem::take(&mut self.flight) {
            self.push_handshake(to, &quic);
            self.flight.push_back(quic);
        }
    }

    fn push_handshake(&mut self, to: SocketAddr, quic: &[u8]) {
        if self
            .remotes
            .iter_mut()
            .find(|r| r.address == to)
            .is_some_and(Remote::take_handshake)
        {
            self.push(to, &Message::Handshake(quic.to_vec()));
        }
    }

    fn push(&mut self, to: SocketAddr, message: &Message) {
        if let Some(datagram) = self.sealer.seal(message) {
            self.transmits.push_back(Transmit { to, datagram });
        }
    }
}

fn nonce(seed: &[u8; 32], count: u64) -> [u8; 8] {
    let digest = label::sha256(&[seed.as_slice(), &count.to_be_bytes()].concat());
    *digest.first_chunk().expect("a digest has 32 bytes")
}
