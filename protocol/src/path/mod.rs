//! Paths (§10): which way the datagrams of a link take. Sans-IO: the shell owns sockets, connections
//! and the clock (monotonic, from any start).
//!
//! Every way to the peer is pinged; the first that answers a ping as long as QUIC's datagrams carries
//! the link. UDP between the peers is preferred to TCP between them, that to a relay, and within a
//! class the clearly faster one. A path that falls silent while data is sent is given up within half
//! a second if another is known, and tried on until it heals. Handshake datagrams of QUIC go sealed,
//! to every way until one is verified, within a budget that keeps a request from turning a device
//! into a source of noise for strangers.

mod datagram;
mod remote;
mod search;
mod via;
mod whereabouts;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

pub use datagram::{FIRST_BYTE, FULL, OVERHEAD, PathKeys, Role, link_tag};
use datagram::{Message, Opener, Sealer, Whereabouts};
use remote::{Remote, Situation};
use search::Search;
pub use search::{PROBES as SEARCH_PROBES, SOCKETS as SEARCH_SOCKETS};
pub use via::{Class, Purpose, Transmit, Via};
use whereabouts::{Offers, forget_unnamed};

use crate::candidate::{Candidate, Kind, MAX_CANDIDATES, canonical, rank};
use crate::label;
use crate::receipt::{Nat, PathInUse, PathKind, Transport, Tried, TriedResult};
use crate::reply::MAX_FLIGHT;

/// QUIC: set in the first byte of long headers (RFC 9000, 17.2).
const LONG_HEADER: u8 = 0x80;
/// Handshake datagrams kept for sending again when a new way shows up; the first of them go with
/// the reply, too.
const FLIGHT: usize = MAX_FLIGHT;
/// A path takes over if its round trip is below this share of the best one's, less [`MARGIN`].
const BETTER: f64 = 0.8;
const MARGIN: Duration = Duration::from_millis(1);
/// Data that is unanswered for this long, or for one and a half of the path's timeouts, puts the
/// path in doubt.
const DOUBT: Duration = Duration::from_millis(250);
/// Data of the peer that stops for this long, or for one and a half of the path's timeouts, has the
/// path checked once: a peer that is cut off can not say so.
const QUIET: Duration = Duration::from_millis(300);
/// The peer's data has come another way, and nothing the old one for this long: it has moved.
const MOVED: Duration = Duration::from_millis(200);
/// Connections of one link at a time.
const MAX_CONNECTIONS: usize = 12;
/// Searches of one link, whatever addresses the peer names: each sends to hosts of its choice.
const MAX_SEARCHES: u32 = 8;

/// What a path datagram brought.
#[derive(Debug, PartialEq, Eq)]
pub enum Received {
    /// Not of this link, forged or replayed. Nothing has changed.
    Nothing,
    /// Authentic; where it came from is now a way to the peer.
    Authentic,
    /// A QUIC datagram of the handshake.
    Handshake(Vec<u8>),
    /// The peer may now be reached here; its UDP candidates are pinged already.
    Candidates(Vec<Candidate>),
}

/// Data of the link that the shell has seen on the path in use.
#[derive(Debug, Clone, Copy, Default)]
pub struct Traffic {
    /// When data was first sent that nothing has followed from the peer.
    pub unanswered_since: Option<Duration>,
    /// When data last came from the peer.
    pub last_received: Option<Duration>,
    /// Data was sent since this was told last.
    pub sent: bool,
}

/// What hearing from a way changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Heard {
    First,
    Again,
    /// Not a way of this link, and there are too many already: it is not answered.
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
    best: Option<Via>,
    /// When `best` was taken into use, and when it worked for certain.
    taken_at: Duration,
    worked_at: Duration,
    loopback: bool,
    last_heard: Option<Via>,
    flight: VecDeque<Vec<u8>>,
    established: bool,
    traffic: Traffic,
    /// When data was last seen to be sent.
    sent_at: Option<Duration>,
    /// The peer answers a ping in its length.
    peer_pads: bool,
    nats: (Nat, Nat),
    search: Option<Search>,
    searches: u32,
    offers: Offers,
    transmits: VecDeque<Transmit>,
}

impl PathSet {
    /// `seed` must be random: it makes ping contents unguessable. `candidates` must have been
    /// through [`rank`]; TCP ones are the shell's to connect to.
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
            taken_at: now,
            worked_at: now,
            loopback: false,
            last_heard: None,
            flight: VecDeque::new(),
            established: false,
            traffic: Traffic::default(),
            sent_at: None,
            peer_pads: false,
            nats: (Nat::Unknown, Nat::Unknown),
            search: None,
            searches: 0,
            offers: Offers::default(),
            transmits: VecDeque::new(),
        };
        paths.add_candidates(candidates, now);
        paths
    }

    /// More addresses of the peer; UDP ones are pinged at once.
    pub fn add_candidates(&mut self, candidates: &[Candidate], now: Duration) {
        for candidate in candidates.iter().filter(|c| c.is_udp()) {
            self.add(Via::udp(candidate.address), candidate.kind, now);
        }
        self.plan_search(now);
        self.handle_timeout(now);
    }

    /// The registry is on this host: the peer may name loopback addresses later on, too.
    pub fn allow_loopback(&mut self) {
        self.loopback = true;
    }

    /// The peer answers pings in their length. A way is verified from now on when it takes datagrams
    /// as long as those of QUIC.
    pub fn set_padding(&mut self, now: Duration) {
        self.learn_padding();
        self.handle_timeout(now);
    }

    /// What the two NATs do to ports. If one gives every destination another port and the other
    /// does not, and no UDP path is found soon, a search (§10.2) begins.
    pub fn set_nats(&mut self, own: Nat, peer: Nat, now: Duration) {
        self.nats = (own, peer);
        self.plan_search(now);
    }

    /// A connection that carries datagrams to the peer: TCP to `address`, or a relay there. Pinged
    /// at once. `false`: there are too many.
    pub fn add_connection(
        &mut self,
        number: u32,
        class: Class,
        transport: Transport,
        kind: Kind,
        address: SocketAddr,
        now: Duration,
    ) -> bool {
        let is_connection = |r: &&Remote| r.via.address().is_none();
        if self.remotes.iter().filter(is_connection).count() >= MAX_CONNECTIONS {
            return false;
        }
        let via = Via::Connection(number);
        let remote = Remote::new(via, class, transport, kind, address, now);
        self.remotes.push(remote);
        self.resend_flight(via);
        self.handle_timeout(now);
        true
    }

    /// The connection has ended.
    pub fn remove_connection(&mut self, number: u32, now: Duration) {
        let via = Via::Connection(number);
        self.remotes.retain(|r| r.via != via);
        if self.last_heard == Some(via) {
            self.last_heard = None;
        }
        if self.best == Some(via) {
            self.fall_back(now);
        }
        self.handle_timeout(now);
    }

    /// A datagram whose first byte is [`FIRST_BYTE`] and whose tag is this link's.
    pub fn handle_datagram(&mut self, via: Via, datagram: &[u8], now: Duration) -> Received {
        let via = canonical_via(via);
        let Some(message) = self.opener.open(datagram) else {
            return Received::Nothing;
        };
        let heard = self.hear(via, now);
        let is_full = datagram.len() >= FULL;
        let pads = self.peer_pads;
        let received = match message {
            Message::Ping(nonce) => {
                if is_full {
                    self.learn_padding();
                }
                if heard != Heard::NoRoom {
                    let seen = self.find(via).map(|r| r.address);
                    if let Some(seen) = seen {
                        let length = if is_full { FULL } else { 0 };
                        self.push_padded(via, &Message::Pong(nonce, seen), length);
                    }
                }
                if heard == Heard::First {
                    self.resend_flight(via);
                }
                Received::Authentic
            }
            Message::Pong(nonce, _) => {
                let answered = self
                    .remotes
                    .iter_mut()
                    .find_map(|r| Some((r.via, r.answered(nonce, is_full, pads, now)?)));
                if let Some((via, sent)) = answered {
                    self.consider(via, now);
                    if self.best == Some(via) {
                        self.worked_at = sent;
                    }
                }
                Received::Authentic
            }
            Message::Handshake(quic) => Received::Handshake(quic),
            Message::Whereabouts(whereabouts) => self.note(via, whereabouts, now),
            Message::Noted(serial) => {
                self.offers.noted(serial);
                Received::Authentic
            }
            Message::Unknown => Received::Authentic,
        };
        self.handle_timeout(now);
        received
    }

    /// Data of the peer has come by a way that is not [`route`](Self::route), as it does while the
    /// two ends change over. A better way is taken at once, a worse one when the better is silent.
    pub fn heard_data(&mut self, via: Via, now: Duration) {
        let via = canonical_via(via);
        let Some(class) = self.find(via).map(|r| r.class) else {
            return;
        };
        self.last_heard = Some(via);
        let Some(best) = self.best.filter(|best| *best != via) else {
            return;
        };
        let patience = MOVED.max(self.find(via).map_or(MOVED, Remote::timeout));
        let last = self.traffic.last_received.unwrap_or_default();
        let silent = last.max(self.taken_at) + patience <= now;
        let is_better = self.find(best).is_some_and(|b| class < b.class);
        if !silent && !is_better {
            return;
        }
        if self.find(via).is_some_and(Remote::is_verified) {
            self.take(via, now);
        }
        // The one that is verified already is asked again: it may be gone.
        for remote in &mut self.remotes {
            if remote.via == via && !remote.is_verified() || remote.via == best {
                remote.renew();
            }
        }
        self.handle_timeout(now);
    }

    /// What the shell has seen of the link's data on the path in use. Call it about every 100 ms
    /// while data is sent.
    pub fn note_traffic(&mut self, traffic: Traffic, now: Duration) {
        self.traffic = traffic;
        if traffic.sent {
            self.sent_at = Some(now);
        }
        self.handle_timeout(now);
    }

    /// This end's network has changed: every way is tried anew.
    pub fn network_changed(&mut self, now: Duration) {
        for remote in &mut self.remotes {
            remote.renew();
        }
        self.search = None;
        self.plan_search(now);
        self.handle_timeout(now);
    }

    /// Tells the peer where this end may be reached from now on.
    pub fn offer(&mut self, candidates: &[Candidate], nat: Nat, now: Duration) {
        self.nats.0 = nat;
        self.plan_search(now);
        self.offers.make(candidates, nat, now);
        self.handle_timeout(now);
    }

    /// The datagrams of the handshake that were sent last, and are kept until it is complete.
    pub fn flight(&self) -> impl Iterator<Item = &[u8]> {
        self.flight.iter().map(Vec::as_slice)
    }

    /// Seals and routes one QUIC datagram of the handshake, or of what follows it before the peer
    /// has been heard.
    pub fn send_handshake(&mut self, quic: &[u8]) {
        // Data is QUIC's to send again.
        if !self.established && is_long_header(quic) {
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
            Some(via) => self.push_handshake(via, quic),
            None => {
                let all: Vec<Via> = self.remotes.iter().map(|r| r.via).collect();
                for via in all {
                    self.push_handshake(via, quic);
                }
            }
        }
    }

    /// The QUIC handshake is complete: nothing of it need be sent again, and addresses that have
    /// not answered are left alone unless they would be better.
    pub fn set_established(&mut self) {
        self.established = true;
        self.flight.clear();
        for remote in &mut self.remotes {
            remote.measure_anew();
        }
    }

    /// Where datagrams go now: the best verified way, or the one heard last; `None` until the peer
    /// has been heard.
    pub fn route(&self) -> Option<Via> {
        self.best.or(self.last_heard)
    }

    /// The path that [`route`](Self::route) is, for people.
    pub fn in_use(&self) -> Option<PathInUse> {
        let remote = self.find(self.route()?)?;
        Some(PathInUse {
            path: if remote.class.is_relay() {
                PathKind::Relay
            } else {
                PathKind::Direct
            },
            transport: remote.transport,
            remote: remote.address,
        })
    }

    /// Class of the best verified path.
    pub fn class(&self) -> Option<Class> {
        self.best
            .and_then(|best| self.find(best))
            .map(|remote| remote.class)
    }

    /// Ways that authentic datagrams came by.
    pub fn heard(&self) -> impl Iterator<Item = Via> + '_ {
        self.remotes
            .iter()
            .filter(|r| r.heard.is_some())
            .map(|r| r.via)
    }

    /// Round trip of the path in use: the shortest of the last few.
    pub fn rtt(&self) -> Option<Duration> {
        self.find(self.best?).and_then(Remote::round_trip)
    }

    /// Has the path in use answered often enough for [`rtt`](Self::rtt) to be its own, and not the
    /// handshake's?
    pub fn is_measured(&self) -> bool {
        self.best
            .and_then(|best| self.find(best))
            .is_some_and(Remote::is_measured)
    }

    /// Is the search still sending from many sockets? If not, those through which nobody was heard
    /// can be closed.
    pub fn is_searching(&self) -> bool {
        self.search_next().is_some()
    }

    /// When [`handle_timeout`](Self::handle_timeout) wants to be called.
    pub fn poll_timeout(&self) -> Option<Duration> {
        // In doubt or not, whichever is earlier: what is late comes again.
        let situation = self.situation(None);
        self.remotes
            .iter()
            .filter_map(|r| r.next_ping(&situation))
            .chain(self.doubt_at())
            .chain(self.search_next())
            .chain(self.offers.next())
            .min()
    }

    /// Sends the pings that are due and gives up ways that do not answer. The next timeout is later
    /// than `now`.
    pub fn handle_timeout(&mut self, now: Duration) {
        self.send_pings(now);
        let works = |best| self.find(best).is_some_and(Remote::is_verified);
        if self.best.is_some_and(|best| !works(best)) {
            self.fall_back(now);
            self.send_pings(now);
        }
        self.send_search(now);
        self.send_offer(now);
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
                transport: r.transport,
                kind: r.kind,
                result: match r {
                    _ if Some(r.via) == self.route() => TriedResult::Won,
                    _ if r.is_verified() => TriedResult::Works,
                    _ if r.is_short() => TriedResult::ShortOnly,
                    _ if r.heard.is_some() => TriedResult::HeardOnly,
                    _ => TriedResult::NoAnswer,
                },
                rtt_ms: r.round_trip().map(|rtt| rtt.as_secs_f64() * 1e3),
                pings: r.pings_sent,
            })
            .collect()
    }

    fn find(&self, via: Via) -> Option<&Remote> {
        self.remotes.iter().find(|r| r.via == via)
    }

    fn find_mut(&mut self, via: Via) -> Option<&mut Remote> {
        self.remotes.iter_mut().find(|r| r.via == via)
    }

    fn situation(&self, now: Option<Duration>) -> Situation {
        Situation {
            established: self.established,
            best: self.best,
            best_class: self.class(),
            in_doubt: match (self.doubt_at(), now) {
                (Some(at), Some(now)) => at <= now,
                _ => false,
            },
            pads: self.peer_pads,
            sent_at: self.sent_at,
        }
    }

    /// Is more to be learned of the path in use from [`note_traffic`](Self::note_traffic)? If not,
    /// it need not be called until there is data again.
    pub fn is_watching(&self) -> bool {
        self.doubt_at().is_some()
    }

    /// When the path in use is in doubt, and then when it is to be pinged next.
    fn doubt_at(&self) -> Option<Duration> {
        let best = self.find(self.best?).filter(|best| best.is_verified())?;
        let patience = best.timeout().mul_f64(1.5);
        let unanswered = self.traffic.unanswered_since;
        let stopped = self.traffic.last_received.filter(|at| *at > self.worked_at);
        let at = unanswered
            .map(|since| since + DOUBT.max(patience))
            .into_iter()
            .chain(stopped.map(|at| at + QUIET.max(patience)))
            .min()?;
        let doubtful = Situation {
            established: self.established,
            best: self.best,
            best_class: Some(best.class),
            in_doubt: true,
            pads: self.peer_pads,
            sent_at: self.sent_at,
        };
        Some(best.next_ping(&doubtful).map_or(at, |next| next.max(at)))
    }

    /// At most [`MAX_CANDIDATES`] addresses are tried because the peer named them, and as many
    /// because it was heard from there. Of the latter a lost one gives way to a new one; one that
    /// never answered does not, so that no peer can have strangers pinged without end.
    fn add(&mut self, via: Via, kind: Kind, now: Duration) {
        let Some(address) = via.address().filter(|_| self.find(via).is_none()) else {
            return;
        };
        let is_udp = |r: &&Remote| r.class == Class::Udp;
        let heard = |r: &Remote| r.kind == Kind::PeerReflexive;
        let alike = |r: &&Remote| heard(r) == (kind == Kind::PeerReflexive);
        if self.remotes.iter().filter(is_udp).filter(alike).count() == MAX_CANDIDATES {
            let oldest = self
                .remotes
                .iter()
                .filter(is_udp)
                .filter(|r| heard(r) && r.is_lost())
                .min_by_key(|r| r.heard)
                .map(|r| r.via);
            match oldest {
                Some(oldest) if kind == Kind::PeerReflexive => {
                    self.remotes.retain(|r| r.via != oldest);
                }
                _ => return,
            }
        }
        self.remotes.push(Remote::udp(via, address, kind, now));
    }

    /// An authentic datagram came by `via`.
    fn hear(&mut self, via: Via, now: Duration) -> Heard {
        self.add(via, Kind::PeerReflexive, now);
        let best = self.best;
        let Some(remote) = self.find_mut(via) else {
            return Heard::NoRoom;
        };
        let first = remote.hear(now);
        self.last_heard = Some(via);
        if !first {
            return Heard::Again;
        }
        // The peer may have moved: find out soon whether the path in use still works.
        if let Some(best) = best.and_then(|best| self.find_mut(best)) {
            best.renew();
        }
        Heard::First
    }

    /// `via` has just answered: should it carry the link?
    fn consider(&mut self, via: Via, now: Duration) {
        let known = |via: Via| {
            let remote = self.find(via).filter(|r| r.is_verified())?;
            Some((remote.class, remote.rtt?))
        };
        let Some((class, rtt)) = known(via) else {
            return;
        };
        let better = match self.best.and_then(known) {
            Some((best, _)) if class != best => class < best,
            Some((_, current)) => rtt + MARGIN < current.mul_f64(BETTER),
            None => true,
        };
        if better && self.best != Some(via) {
            self.take(via, now);
        }
    }

    fn take(&mut self, via: Via, now: Duration) {
        self.best = Some(via);
        self.taken_at = now;
        self.traffic = Traffic::default();
    }

    /// The best path is silent: take the best verified one, and try every way anew.
    fn fall_back(&mut self, now: Duration) {
        let lost = self.best;
        self.best = self
            .remotes
            .iter()
            .filter(|r| r.is_verified())
            .min_by_key(|r| (r.class, r.rtt))
            .map(|r| r.via);
        self.taken_at = now;
        self.traffic = Traffic::default();
        for remote in &mut self.remotes {
            if Some(remote.via) != lost {
                remote.renew();
            }
        }
    }

    fn send_pings(&mut self, now: Duration) {
        let situation = self.situation(Some(now));
        let mut due = Vec::new();
        for remote in &mut self.remotes {
            let next = remote.next_ping(&situation);
            if next.is_some_and(|at| at <= now) {
                let in_doubt = situation.in_doubt && situation.best == Some(remote.via);
                let full = remote.takes_full_ping(&situation);
                self.pings += 1;
                let nonce = nonce(&self.nonce_seed, self.pings);
                remote.pinged(nonce, full, in_doubt, now);
                due.push((remote.via, nonce, if full { FULL } else { 0 }));
            }
        }
        for (via, nonce, length) in due {
            self.push_padded(via, &Message::Ping(nonce), length);
        }
    }

    fn plan_search(&mut self, now: Duration) {
        let public: Vec<SocketAddr> = self
            .remotes
            .iter()
            .filter(|r| matches!(r.kind, Kind::ServerReflexive | Kind::Mapped))
            .map(|r| r.address)
            .collect();
        let seed = label::sha256(&[self.nonce_seed.as_slice(), b"search"].concat());
        let seed = u64::from_be_bytes(*seed.first_chunk().expect("a digest has 32 bytes"));
        let (own, peer) = self.nats;
        let plan = Search::plan(own, peer, &public, seed, now);
        let keeps = match (&self.search, &plan) {
            (Some(old), Some(new)) => old.fits(new),
            _ => false,
        };
        if !keeps {
            self.search = plan.filter(|_| self.searches < MAX_SEARCHES);
            self.searches += u32::from(self.search.is_some());
        }
    }

    fn search_next(&self) -> Option<Duration> {
        let lacks = self.class().is_none_or(|class| class > Class::Udp);
        self.search
            .as_ref()
            .filter(|_| lacks)
            .and_then(Search::next)
    }

    fn send_search(&mut self, now: Duration) {
        if self.search_next().is_none_or(|next| next > now) {
            return;
        }
        let ways = self.search.as_mut().map(|search| search.tick(now));
        for via in ways.into_iter().flatten() {
            self.pings += 1;
            let nonce = nonce(&self.nonce_seed, self.pings);
            self.push_for(Purpose::Search, via, &Message::Ping(nonce), 0);
        }
    }

    fn send_offer(&mut self, now: Duration) {
        let Some(message) = self.offers.due(now) else {
            return;
        };
        // By the path in use, and by a relay, which is there when the rest is not.
        let route = self.route();
        let ways: Vec<Via> = self
            .remotes
            .iter()
            .filter(|r| Some(r.via) == route || r.class.is_relay())
            .map(|r| r.via)
            .collect();
        for via in ways {
            self.push(via, &message);
        }
    }

    /// The peer's new whereabouts.
    fn note(&mut self, via: Via, whereabouts: Whereabouts, now: Duration) -> Received {
        let Whereabouts {
            serial,
            candidates,
            nat,
        } = whereabouts;
        self.push(via, &Message::Noted(serial));
        if !self.offers.take(serial) {
            return Received::Authentic;
        }
        let candidates = rank(&candidates, self.loopback);
        forget_unnamed(&mut self.remotes, &candidates);
        self.nats.1 = nat;
        self.add_candidates(&candidates, now);
        Received::Candidates(candidates)
    }

    fn resend_flight(&mut self, via: Via) {
        for quic in std::mem::take(&mut self.flight) {
            self.push_handshake(via, &quic);
            self.flight.push_back(quic);
        }
    }

    fn push_handshake(&mut self, via: Via, quic: &[u8]) {
        if self.find_mut(via).is_some_and(Remote::take_handshake) {
            self.push(via, &Message::Handshake(quic.to_vec()));
        }
    }

    fn learn_padding(&mut self) {
        if !std::mem::replace(&mut self.peer_pads, true) {
            self.remotes.iter_mut().for_each(Remote::doubt_size);
        }
    }

    fn push(&mut self, via: Via, message: &Message) {
        self.push_padded(via, message, 0);
    }

    /// Of pings and pongs: padded to `length` bytes.
    fn push_padded(&mut self, via: Via, message: &Message, length: usize) {
        let is_heard = self.find(via).is_some_and(|r| r.heard.is_some());
        let purpose = if is_heard || via.address().is_none() {
            Purpose::Answered
        } else {
            Purpose::Unproven
        };
        self.push_for(purpose, via, message, length);
    }

    fn push_for(&mut self, purpose: Purpose, via: Via, message: &Message, length: usize) {
        if let Some(datagram) = self.sealer.seal(message, length) {
            self.transmits.push_back(Transmit {
                via,
                datagram,
                purpose,
            });
        }
    }
}

/// Is it a QUIC datagram of the handshake? Must be QUIC's: others are not told apart here.
pub fn is_long_header(quic: &[u8]) -> bool {
    quic.first().is_some_and(|first| first & LONG_HEADER != 0)
}

fn canonical_via(via: Via) -> Via {
    match via {
        Via::Udp { socket, to } => Via::Udp {
            socket,
            to: canonical(to),
        },
        connection @ Via::Connection(_) => connection,
    }
}

fn nonce(seed: &[u8; 32], count: u64) -> [u8; 8] {
    let digest = label::sha256(&[seed.as_slice(), &count.to_be_bytes()].concat());
    *digest.first_chunk().expect("a digest has 32 bytes")
}
