//! A device, a caller, their routers and a registry in virtual time: seeded, without a socket or a
//! clock, bounded in steps. Datagrams may be lost, doubled, delayed and reordered; the registry's
//! messages arrive in order.

#![allow(dead_code, unreachable_pub)]

pub mod handshake;
pub mod router;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng as _;
use ringback_protocol::admission::Admission;
use ringback_protocol::call::{Call, Outcome, Progress};
use ringback_protocol::candidate::{Candidate, Kind, rank};
use ringback_protocol::envelope::{LIFETIME, PADS, Proof, Request};
use ringback_protocol::frame::{
    Answer, Answered, Challenge, Deliver, Delivered, Frame, Refuse, Refused, Registered, Updated,
};
use ringback_protocol::path::{FIRST_BYTE, PathSet, Received, Role, Via};
use ringback_protocol::receipt::Nat;
use ringback_protocol::registration::{CloseReason, Output, Registration, verify_challenge};
use ringback_protocol::reply::Reply;
use ringback_protocol::secret::{PASSWORD_ID, Psk};
use ringback_protocol::{PeerId, SecretKey, UnixTime};

use handshake::Handshake;
use router::{NatKind, Router};

/// Unix time at the start of every run.
pub const EPOCH: UnixTime = 1_800_000_000;
/// Between two looks at the public address, as the agent's STUN keepalive does.
pub const KEEPALIVE: Duration = Duration::from_secs(20);

const ORIGIN: &str = "https://registry.example";
/// First byte of a QUIC datagram with a short header.
const BARE: u8 = 0x40;
/// Between two bare datagrams on a link.
const DATA_INTERVAL: Duration = Duration::from_millis(100);
const MAX_STEPS: u32 = 100_000;

/// What the network does to datagrams.
#[derive(Debug, Clone, Copy)]
pub struct Conditions {
    pub loss: f64,
    pub duplicates: f64,
    /// One way, in milliseconds: a datagram takes between the two.
    pub delay_ms: (u64, u64),
    /// One way, in milliseconds, to and from the registry.
    pub registry_delay_ms: u64,
}

impl Conditions {
    pub const CALM: Self = Self {
        loss: 0.0,
        duplicates: 0.0,
        delay_ms: (20, 20),
        registry_delay_ms: 20,
    };

    pub const fn rough(loss: f64) -> Self {
        Self {
            loss,
            duplicates: 0.1,
            delay_ms: (10, 90),
            registry_delay_ms: 30,
        }
    }
}

/// One end of the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    Device,
    Caller,
}

/// A peer's UDP side: what is behind the router.
#[derive(Debug)]
pub struct Side {
    pub router: Router,
    pub paths: Option<PathSet>,
    pub handshake: Handshake,
    /// When bare datagrams of the peer arrived.
    pub heard_bare: Vec<Duration>,
    /// Everything this side has sent.
    pub sent: u32,
    next_data: Option<Duration>,
}

/// Datagrams that somebody got who is not the peer.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Spray {
    pub pings: u32,
    pub handshakes: u32,
    pub others: u32,
}

#[derive(Debug)]
enum Event {
    Datagram {
        from: SocketAddr,
        to: SocketAddr,
        bytes: Vec<u8>,
    },
    ToDevice(Vec<u8>),
    PongToDevice,
    FromDevice(Frame),
    PingFromDevice,
    ToCaller(Frame),
    FromCaller(Vec<u8>),
}

/// The registry of a run: it relays, and keeps one row of the device list.
#[derive(Debug, Default)]
pub struct Registry {
    pub public: Option<SocketAddr>,
    /// Takes no notice of anything any more, with the connection still open.
    pub silent: bool,
    /// Acknowledges pings but forgets updates.
    pub loses_updates: bool,
    /// Holds the answer back for this long.
    pub slow_by: Duration,
}

#[derive(Debug)]
pub struct World {
    pub now: Duration,
    pub conditions: Conditions,
    /// No datagram arrives in this time.
    pub blackout: Option<(Duration, Duration)>,
    pub device: Side,
    pub caller: Side,
    pub registry: Registry,
    pub registration: Registration,
    pub closed: Option<(CloseReason, Duration)>,
    pub admission: Admission,
    pub call: Option<Call>,
    pub delivered: bool,
    pub outcome: Option<Outcome>,
    pub strangers: BTreeMap<(End, SocketAddr), Spray>,
    /// Instead of the candidates that the caller's router gives it.
    pub caller_candidates: Option<Vec<Candidate>>,
    pub device_candidates: Option<Vec<Candidate>>,
    device_id: PeerId,
    rng: Rng,
    next_stun: Duration,
    events: BTreeMap<(Duration, u64), Event>,
    sequence: u64,
    steps: u32,
}

pub fn device_key() -> SecretKey {
    SecretKey::from_seed(&[0xd0; 32])
}

pub fn caller_key() -> SecretKey {
    SecretKey::from_seed(&[0xca; 32])
}

pub fn psk() -> Psk {
    Psk::from_bytes([0x9a; 32])
}

impl World {
    /// A device that has just connected to the registry, and a caller, in the two homes of the
    /// origin's drawing: overlapping private ranges.
    pub fn new(caller: NatKind, device: NatKind, conditions: Conditions, seed: u64) -> Self {
        let device_router = Router::new(device, "192.168.1.3:7000", "202.204.16.13");
        let caller_router = Router::new(caller, "192.168.1.11:7000", "4.17.168.2");
        let mut admission = Admission::new(device_key(), EPOCH);
        admission.set_secret(PASSWORD_ID, psk());
        let registration = Registration::new(
            device_key(),
            ORIGIN.into(),
            "sim".into(),
            Some(device_router.public()),
            Duration::ZERO,
        );
        let mut world = Self {
            now: Duration::ZERO,
            conditions,
            blackout: None,
            device: Side::new(device_router),
            caller: Side::new(caller_router),
            registry: Registry::default(),
            registration,
            closed: None,
            admission,
            call: None,
            delivered: false,
            outcome: None,
            strangers: BTreeMap::new(),
            caller_candidates: None,
            device_candidates: None,
            device_id: device_key().id(),
            rng: Rng(seed),
            next_stun: KEEPALIVE,
            events: BTreeMap::new(),
            sequence: 0,
            steps: 0,
        };
        let challenge = Challenge {
            nonce: [7; 32],
            time_ms: EPOCH * 1000,
        };
        world.tell_device(&challenge.into());
        world
    }

    /// Rings the device.
    pub fn ring(&mut self, psk: &Psk) {
        let request = Request {
            id: self.rng.bytes(),
            issued_at: self.unix(),
            expires_at: self.unix() + LIFETIME,
            service: "ssh".into(),
            candidates: self
                .caller_candidates
                .clone()
                .unwrap_or_else(|| self.caller.router.candidates()),
            remember: false,
            webrtc: None,
            path: 0,
            nat: Nat::Unknown,
        };
        let proof = Proof::Secret {
            psk_id: PASSWORD_ID,
            psk,
        };
        let mut rng = ChaCha8Rng::from_seed(self.rng.bytes());
        let call = Call::seal(&request, &caller_key(), self.device_id, proof, &mut rng)
            .expect("the request is sealed");
        let envelope = call.envelope().to_vec();
        self.call = Some(call);
        self.at_registry(Duration::ZERO, Event::FromCaller(envelope));
    }

    /// Registers, rings and waits until the link is up and carries data both ways.
    pub fn connect(&mut self) {
        let up = Duration::from_secs(2);
        assert!(self.run(up, |w| w.registration.is_live()), "not registered");
        self.ring(&psk());
        let patience = Duration::from_secs(60);
        assert!(
            self.run(patience, World::is_linked),
            "no link: {:?} {:?}",
            self.outcome,
            [&self.device, &self.caller]
                .map(|side| (&side.handshake, side.paths.as_ref().map(PathSet::report)))
        );
    }

    /// Is the path verified on both sides, the handshake done, and has data come both ways?
    pub fn is_linked(&self) -> bool {
        [&self.device, &self.caller].iter().all(|side| {
            side.handshake.is_done()
                && side.paths.as_ref().is_some_and(|p| p.rtt().is_some())
                && !side.heard_bare.is_empty()
        })
    }

    /// Has data come both ways since `since`?
    pub fn carries_since(&self, since: Duration) -> bool {
        [&self.device, &self.caller]
            .iter()
            .all(|side| side.heard_bare.last().is_some_and(|at| *at > since))
    }

    /// Lets time pass until `done`, at most for `patience`; says whether it was.
    pub fn run(&mut self, patience: Duration, done: impl Fn(&Self) -> bool) -> bool {
        let deadline = self.now + patience;
        loop {
            if done(self) {
                return true;
            }
            let next = self.next_time();
            if next > deadline {
                self.now = deadline;
                return false;
            }
            self.steps += 1;
            assert!(self.steps < MAX_STEPS, "no end at {:?}", self.now);
            self.now = self.now.max(next);
            self.step();
        }
    }

    pub fn pass(&mut self, time: Duration) {
        self.run(time, |_| false);
    }

    pub fn side(&mut self, end: End) -> &mut Side {
        match end {
            End::Device => &mut self.device,
            End::Caller => &mut self.caller,
        }
    }

    pub fn paths(&self, end: End) -> &PathSet {
        match end {
            End::Device => self.device.paths.as_ref(),
            End::Caller => self.caller.paths.as_ref(),
        }
        .expect("a link")
    }

    fn unix(&self) -> UnixTime {
        EPOCH + self.now.as_secs()
    }

    fn next_time(&self) -> Duration {
        let sides = [&self.device, &self.caller];
        let timers = sides.iter().flat_map(|side| {
            [
                side.paths.as_ref().and_then(PathSet::poll_timeout),
                side.handshake.poll_timeout(),
                side.next_data,
            ]
        });
        timers
            .chain([
                self.registration.poll_timeout(),
                self.events.keys().next().map(|(at, _)| *at),
                Some(self.next_stun),
            ])
            .flatten()
            .min()
            .expect("the keepalive never ends")
    }

    /// Does what is due now: one event, or the timers.
    fn step(&mut self) {
        if let Some(entry) = self.events.first_entry()
            && entry.key().0 <= self.now
        {
            let event = entry.remove();
            self.handle(event);
            return;
        }
        self.registration.handle_timeout(self.now);
        let later = self.registration.poll_timeout();
        assert!(later.is_none_or(|at| at > self.now), "a busy registration");
        self.drain_registration();
        if self.next_stun <= self.now {
            self.next_stun = self.now + KEEPALIVE;
            let public = self.device.router.public();
            self.registration.set_public(public, self.now);
            self.drain_registration();
        }
        for end in [End::Device, End::Caller] {
            let now = self.now;
            let side = self.side(end);
            if let Some(paths) = &mut side.paths {
                paths.handle_timeout(now);
                let later = paths.poll_timeout();
                assert!(later.is_none_or(|at| at > now), "a busy path set");
                for quic in side.handshake.handle_timeout(now) {
                    paths.send_handshake(&quic);
                }
            }
            self.drain_paths(end);
            self.send_data(end);
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Datagram { from, to, bytes } => self.datagram_arrives(from, to, &bytes),
            Event::ToDevice(message) => {
                self.registration.handle_message(&message, self.now);
                self.drain_registration();
            }
            Event::PongToDevice => self.registration.handle_pong(),
            Event::FromDevice(_) | Event::PingFromDevice if self.registry.silent => {}
            Event::PingFromDevice => self.at_registry(Duration::ZERO, Event::PongToDevice),
            Event::FromDevice(frame) => self.registry_hears_device(frame),
            Event::FromCaller(envelope) => {
                self.tell_device(&Deliver { call: 1, envelope }.into());
            }
            Event::ToCaller(frame) => self.caller_hears(frame),
        }
    }

    fn registry_hears_device(&mut self, frame: Frame) {
        match frame {
            Frame::Register(register) => {
                let fits = verify_challenge(&self.device_id, &[7; 32], ORIGIN, &register.signature);
                assert!(fits, "a registration that does not verify");
                self.registry.public = register.public;
                let registered = Registered {
                    seen: String::new(),
                    name: "nas".into(),
                    stun: Vec::new(),
                    beacons: Vec::new(),
                    rival: None,
                };
                self.tell_device(&registered.into());
            }
            Frame::Update(update) => {
                self.registry.public = Some(update.public);
                if !self.registry.loses_updates {
                    let public = update.public;
                    self.tell_device(&Updated { public }.into());
                }
            }
            Frame::Ack(_) => self.tell_caller(Duration::ZERO, Delivered { call: 0 }.into()),
            Frame::Answer(Answer { reply, .. }) => {
                self.tell_caller(
                    self.registry.slow_by,
                    Answered {
                        call: 0,
                        reply,
                        ice: None,
                    }
                    .into(),
                );
            }
            Frame::Refuse(Refuse { refusal, .. }) => {
                self.tell_caller(Duration::ZERO, Refused { call: 0, refusal }.into());
            }
            other => panic!("a device does not send {other:?}"),
        }
    }

    fn caller_hears(&mut self, frame: Frame) {
        let call = self.call.as_mut().expect("a call");
        match call.handle_frame(frame) {
            Some(Progress::Delivered) => self.delivered = true,
            Some(Progress::Ended(outcome)) => {
                if let Outcome::Accepted(reply) = &outcome {
                    let mut paths = PathSet::new(
                        Role::Caller,
                        &call.keys().path,
                        [2; 32],
                        &rank(&reply.candidates, false),
                        self.now,
                    );
                    paths.set_padding(self.now);
                    self.caller.paths = Some(paths);
                    self.caller.handshake = Handshake::server();
                }
                self.outcome = Some(outcome);
                self.drain_paths(End::Caller);
            }
            None => {}
        }
    }

    fn drain_registration(&mut self) {
        while let Some(output) = self.registration.poll_output() {
            match output {
                Output::Send(frame) => self.at_registry(Duration::ZERO, Event::FromDevice(frame)),
                Output::SendPing => self.at_registry(Duration::ZERO, Event::PingFromDevice),
                Output::Deliver(deliver) => self.device_is_rung(&deliver),
                Output::Close(reason) => {
                    assert!(self.closed.is_none(), "closed twice");
                    self.closed = Some((reason, self.now));
                }
                Output::Time(_) | Output::Registered(_) | Output::Placed(_) | Output::Beacon(_) => {
                }
            }
        }
    }

    fn device_is_rung(&mut self, deliver: &Deliver) {
        let call = deliver.call;
        let answer: Frame = match self.admission.admit(&deliver.envelope, self.unix()) {
            Err(refusal) => Refuse {
                call,
                refusal: refusal.encode(),
            }
            .into(),
            Ok(admitted) => {
                let reply = Reply {
                    request_id: admitted.request.id,
                    candidates: self
                        .device_candidates
                        .clone()
                        .unwrap_or_else(|| self.device.router.candidates()),
                    remembered: false,
                    webrtc: None,
                    nat: Nat::Unknown,
                    flight: Vec::new(),
                    path: PADS,
                };
                self.device.handshake = Handshake::client(self.now);
                let candidates = rank(&admitted.request.candidates, false);
                let mut paths =
                    PathSet::new(Role::Device, &admitted.keys.path, [1; 32], &[], self.now);
                paths.set_padding(self.now);
                paths.add_candidates(&candidates, self.now);
                self.device.paths = Some(paths);
                self.drain_paths(End::Device);
                Answer {
                    call,
                    reply: admitted.keys.reply.seal(&reply),
                }
                .into()
            }
        };
        self.at_registry(Duration::ZERO, Event::FromDevice(answer));
    }

    fn datagram_arrives(&mut self, from: SocketAddr, to: SocketAddr, bytes: &[u8]) {
        let now = self.now;
        let end = if self.device.router.public() == to {
            End::Device
        } else if self.caller.router.public() == to {
            End::Caller
        } else {
            return;
        };
        let side = self.side(end);
        if !side.router.lets_in(from) {
            return;
        }
        let Some(paths) = &mut side.paths else { return };
        if bytes[0] != FIRST_BYTE {
            side.heard_bare.push(now);
            side.handshake.confirm();
            return;
        }
        if let Received::Handshake(quic) = paths.handle_datagram(Via::udp(from), bytes, now) {
            for quic in side.handshake.handle(&quic, now) {
                paths.send_handshake(&quic);
            }
            if side.handshake.is_done() {
                paths.set_established();
                side.next_data.get_or_insert(now);
            }
        }
        self.drain_paths(end);
    }

    fn drain_paths(&mut self, end: End) {
        while let Some(transmit) = self
            .side(end)
            .paths
            .as_mut()
            .and_then(PathSet::poll_transmit)
        {
            let to = transmit.via.address().expect("the simulator has only UDP");
            self.send(end, to, &transmit.datagram);
        }
    }

    fn send_data(&mut self, end: End) {
        let now = self.now;
        let side = self.side(end);
        if side.next_data.is_none_or(|at| at > now) {
            return;
        }
        side.next_data = Some(now + DATA_INTERVAL);
        let route = side.paths.as_ref().and_then(PathSet::route);
        if let Some(to) = route.and_then(Via::address) {
            self.send(end, to, &[BARE; 64]);
        }
    }

    /// Puts a datagram on the wire.
    fn send(&mut self, end: End, to: SocketAddr, bytes: &[u8]) {
        let now = self.now;
        let peer = match end {
            End::Device => &self.caller,
            End::Caller => &self.device,
        };
        if !peer.router.ever_had(to) {
            let spray = self.strangers.entry((end, to)).or_default();
            match bytes.len() {
                38 => spray.pings += 1,
                len if len >= handshake::DATAGRAM => spray.handshakes += 1,
                _ => spray.others += 1,
            }
        }
        let side = self.side(end);
        side.sent += 1;
        let from = side.router.sends(to);
        if self
            .blackout
            .is_some_and(|(start, end)| (start..end).contains(&now))
        {
            return;
        }
        let copies = 1 + usize::from(self.rng.chance(self.conditions.duplicates));
        for _ in 0..copies {
            if !self.rng.chance(self.conditions.loss) {
                let (least, most) = self.conditions.delay_ms;
                let delay = Duration::from_millis(self.rng.between(least, most));
                let bytes = bytes.to_vec();
                self.schedule(delay, Event::Datagram { from, to, bytes });
            }
        }
    }

    fn tell_device(&mut self, frame: &Frame) {
        self.at_registry(Duration::ZERO, Event::ToDevice(frame.encode()));
    }

    fn tell_caller(&mut self, late: Duration, frame: Frame) {
        self.at_registry(late, Event::ToCaller(frame));
    }

    fn at_registry(&mut self, late: Duration, event: Event) {
        let delay = Duration::from_millis(self.conditions.registry_delay_ms);
        self.schedule(delay + late, event);
    }

    fn schedule(&mut self, delay: Duration, event: Event) {
        self.sequence += 1;
        self.events.insert((self.now + delay, self.sequence), event);
    }
}

impl Side {
    fn new(router: Router) -> Self {
        Self {
            router,
            paths: None,
            handshake: Handshake::Idle,
            heard_bare: Vec::new(),
            sent: 0,
            next_data: None,
        }
    }
}

/// SplitMix64: small, seeded, the same everywhere.
#[derive(Debug)]
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn chance(&mut self, probability: f64) -> bool {
        ((self.next() >> 11) as f64) < probability * (1u64 << 53) as f64
    }

    /// From `least` to `most`, both included.
    pub fn between(&mut self, least: u64, most: u64) -> u64 {
        least + self.next() % (most - least + 1)
    }

    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.next() as u8)
    }
}

/// A candidate where nobody expects a call.
pub fn stranger(number: u8) -> Candidate {
    Candidate::udp(Kind::ServerReflexive, ([203, 0, 113, number], 9).into())
}
