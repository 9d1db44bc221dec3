//! The beacon (§16) in virtual time: devices, a registry and a network that loses, repeats and
//! reorders; and strangers who forge.

mod vector;

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use proptest::prelude::*;
use ringback_protocol::beacon::datagram::{COOKIE_LEN, HELLO_LEN, REGISTER_LEN, SESSION_LEN};
use ringback_protocol::beacon::{
    Config, Device, DeviceOutput, Front, Member, MemberOutput, RelayConfig, Report, Search,
    SearchAction, Source, Standing,
};
use ringback_protocol::path::Role;
use ringback_protocol::relay::Room;
use ringback_protocol::{Code, SecretKey};
use vector::{caller, device};

const INTERVAL: Duration = Duration::from_secs(25);

fn beacon() -> SecretKey {
    SecretKey::from_seed(&[0xbe; 32])
}

fn front() -> Front {
    let config = Config {
        relay: Some(RelayConfig::default()),
        ..Config::default()
    };
    let mut front = Front::new(beacon(), &config, &[0x5e; 32]);
    front.set_registry(true);
    front
}

fn source(address: &str) -> Source {
    Source::Udp {
        remote: address.parse().unwrap(),
        local: None,
    }
}

fn secs(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

/// A small generator with a seed: what fails can be run again.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// What the network does to each datagram.
#[derive(Clone, Copy)]
struct Weather {
    loss: f64,
    repeat: f64,
    jitter: Duration,
}

const FAIR: Weather = Weather {
    loss: 0.0,
    repeat: 0.0,
    jitter: Duration::ZERO,
};
const STORM: Weather = Weather {
    loss: 0.3,
    repeat: 0.2,
    jitter: Duration::from_millis(300),
};
const DELAY: Duration = Duration::from_millis(20);

enum Event {
    ToFront(Source, Vec<u8>),
    ToDevice(Vec<u8>),
}

/// One device behind a NAT, a beacon, and a registry that knows the device or not.
struct World {
    now: Duration,
    front: Front,
    device: Device,
    /// The device's mapping.
    address: Source,
    weather: Weather,
    dice: Dice,
    events: BTreeMap<(Duration, u64), Event>,
    count: u64,
    refusal: Option<Code>,
    /// What the registry was told, and when.
    list: Vec<(Duration, Report)>,
    registered: Vec<(Duration, SocketAddr, Standing)>,
    notified: Vec<Duration>,
    lost: usize,
    sent_by_device: usize,
}

impl World {
    fn new(weather: Weather, seed: u64) -> Self {
        Self {
            now: Duration::ZERO,
            front: front(),
            device: Device::new(
                device(),
                beacon().id(),
                INTERVAL,
                [seed as u8; 32],
                Duration::ZERO,
            ),
            address: source("202.204.16.13:41000"),
            weather,
            dice: Dice(seed * 2 + 1),
            events: BTreeMap::new(),
            count: 0,
            refusal: None,
            list: Vec::new(),
            registered: Vec::new(),
            notified: Vec::new(),
            lost: 0,
            sent_by_device: 0,
        }
    }

    fn put(&mut self, event: impl Fn() -> Event) {
        let copies = 1 + usize::from(self.dice.roll() < self.weather.repeat);
        for _ in 0..copies {
            if self.dice.roll() >= self.weather.loss {
                let at = self.now + DELAY + self.weather.jitter.mul_f64(self.dice.roll());
                self.count += 1;
                self.events.insert((at, self.count), event());
            }
        }
    }

    fn drain(&mut self) {
        while let Some(output) = self.device.poll_output() {
            match output {
                DeviceOutput::Send(datagram) => {
                    self.sent_by_device += 1;
                    let from = self.address;
                    self.put(|| Event::ToFront(from, datagram.clone()));
                }
                DeviceOutput::Registered { public, standing } => {
                    self.registered.push((self.now, public, standing));
                }
                DeviceOutput::Notified => self.notified.push(self.now),
                DeviceOutput::Probed { .. } => {}
                DeviceOutput::Lost => self.lost += 1,
            }
        }
        while let Some((to, datagram)) = self.front.poll_send() {
            // What goes to an old mapping is lost.
            if to == self.address {
                self.put(|| Event::ToDevice(datagram.clone()));
            }
        }
        while let Some(report) = self.front.poll_report(self.now) {
            self.list.push((self.now, report));
            if let Report::Seen { device, .. } = report {
                let refusal = self.refusal.clone();
                self.front.handle_known(&device, refusal.as_ref(), self.now);
            }
        }
    }

    fn run(&mut self, until: Duration) {
        loop {
            self.drain();
            let timers = [
                self.device.poll_timeout(),
                self.front.poll_timeout(),
                self.front.poll_report_timeout(self.now),
                self.events.keys().next().map(|(at, _)| *at),
            ];
            let next = timers.into_iter().flatten().min();
            let Some(next) = next.filter(|next| *next <= until) else {
                self.now = until;
                return;
            };
            self.now = self.now.max(next);
            while let Some(entry) = self.events.first_entry()
                && entry.key().0 <= self.now
            {
                match entry.remove() {
                    Event::ToFront(from, datagram) => {
                        assert_eq!(self.front.handle_datagram(from, &datagram, self.now), None);
                    }
                    Event::ToDevice(datagram) => self.device.handle_datagram(&datagram, self.now),
                }
            }
            if self.device.poll_timeout().is_some_and(|at| at <= self.now) {
                self.device.handle_timeout(self.now);
            }
            if self.front.poll_timeout().is_some_and(|at| at <= self.now) {
                self.front.handle_timeout(self.now);
            }
        }
    }

    fn seen(&self) -> Option<(Duration, SocketAddr)> {
        self.list
            .iter()
            .rev()
            .find_map(|(at, report)| match report {
                Report::Seen { public, .. } => Some((*at, *public)),
                _ => None,
            })
    }

    fn standing(&self) -> Option<Standing> {
        self.registered.last().map(|(_, _, standing)| *standing)
    }
}

#[test]
fn a_device_registers_in_two_round_trips_and_then_costs_a_datagram_an_interval() {
    let mut world = World::new(FAIR, 1);
    world.run(secs(1.0));
    let address = world.address.address();
    assert_eq!(
        world.registered[0],
        (DELAY * 4, address, Standing::Pending),
        "two round trips"
    );
    assert_eq!(world.standing(), Some(Standing::Good));
    assert_eq!(world.seen(), Some((DELAY * 3, address)));
    assert_eq!(world.front.devices(), 1);
    // Hello, Register, and a Keepalive that asks for the registry's word.
    assert_eq!(world.sent_by_device, 3);
    world.run(secs(3600.0));
    assert_eq!(world.sent_by_device, 3 + 3599 / 25);
    assert_eq!((world.lost, world.front.devices()), (0, 1));
    // An unchanged device is told of every ten minutes.
    let seen = world.list.len();
    assert!((6..=7).contains(&seen), "{seen}");
    let counters = world.front.counters();
    assert!(counters.bytes_out <= counters.bytes_in, "{counters:?}");
    assert_eq!(counters.keepalives, 1 + 3599 / 25);
}

#[test]
fn another_address_is_in_the_list_within_an_interval() {
    let mut world = World::new(FAIR, 2);
    world.run(secs(60.0));
    world.address = source("202.204.16.77:5000");
    world.run(secs(60.0) + INTERVAL + DELAY);
    let (at, public) = world.seen().unwrap();
    assert_eq!(public, world.address.address());
    assert!(at <= secs(60.0) + INTERVAL + DELAY, "{at:?}");
    world.run(world.now + DELAY);
    assert_eq!(world.registered.last().unwrap().1, public);
    assert_eq!(world.front.counters().address_changes, 1);
}

#[test]
fn somebody_rings() {
    let mut world = World::new(FAIR, 3);
    world.run(secs(10.0));
    assert!(world.front.handle_notify(&device().id(), world.now));
    world.run(secs(20.0));
    assert_eq!(world.notified, [secs(10.0) + DELAY]);
    assert_eq!(world.front.counters().notifications, 1, "no repetition");
    assert_eq!(world.front.counters().notified, 1);
    // The next call is another notification.
    assert!(world.front.handle_notify(&device().id(), world.now));
    world.run(secs(30.0));
    assert_eq!(world.notified.len(), 2);
    assert!(!world.front.handle_notify(&caller().id(), world.now));
}

#[test]
fn loss_reordering_and_repetition_delay_and_do_no_more() {
    let (mut rung, mut heard) = (0, 0);
    for seed in 1..=200 {
        let mut world = World::new(STORM, seed);
        world.run(secs(60.0));
        assert_eq!(world.standing(), Some(Standing::Good), "seed {seed}");
        let mut at = 60.0;
        for _ in 0..5 {
            let before = world.notified.len();
            if world.front.handle_notify(&device().id(), world.now) {
                rung += 1;
                at += 10.0;
                world.run(secs(at));
                let news = world.notified.len() - before;
                assert!(news <= 1, "seed {seed}: told {news} times of one call");
                heard += news;
            }
        }
        let counters = world.front.counters();
        assert_eq!((counters.forged, counters.malformed), (0, 0), "seed {seed}");
        assert!(
            counters.bytes_out <= counters.bytes_in + 5 * counters.notifications * 66,
            "seed {seed}"
        );
    }
    // Five transmissions, each of which comes through with 0.7.
    assert!(heard * 1000 >= rung * 990, "{heard} of {rung}");
    assert!(rung > 990, "{rung}");
}

#[test]
fn a_beacon_that_restarts_is_registered_at_again() {
    let mut world = World::new(FAIR, 4);
    world.run(secs(30.0));
    world.front = front();
    // Its next keepalive is not answered; after that and the repetitions it says hello.
    world.run(secs(30.0) + INTERVAL + secs(10.0));
    assert_eq!(world.front.devices(), 1);
    assert_eq!(world.standing(), Some(Standing::Good));
    assert!(world.front.counters().unknown > 0);
    assert!(world.front.handle_notify(&device().id(), world.now));
    world.run(world.now + secs(1.0));
    assert_eq!(world.notified.len(), 1);
}

#[test]
fn a_device_that_falls_silent_or_leaves_is_gone() {
    let mut world = World::new(FAIR, 5);
    world.run(secs(30.0));
    world.weather.loss = 1.0;
    world.run(secs(200.0));
    let gone = Report::Gone {
        device: device().id(),
    };
    assert_eq!(world.list.last().unwrap().1, gone);
    assert_eq!(world.front.devices(), 0);
    assert!(world.lost > 0);
    world.weather.loss = 0.0;
    world.run(secs(300.0));
    assert_eq!(world.front.devices(), 1, "and comes back");
    world.device.leave();
    world.run(secs(301.0));
    assert_eq!(world.list.last().unwrap().1, gone);
    assert_eq!(world.front.devices(), 0);
}

#[test]
fn devices_that_the_registry_does_not_know_are_told_and_forgotten() {
    for (code, standing) in [
        (Code::NotEnrolled, Standing::NotEnrolled),
        (Code::Revoked, Standing::Revoked),
    ] {
        let mut world = World::new(FAIR, 6);
        world.refusal = Some(code);
        world.run(secs(5.0));
        assert_eq!(world.standing(), Some(standing));
        assert_eq!(world.front.devices(), 0);
        assert!(!world.front.handle_notify(&device().id(), world.now));
        // It asks again, and is let in when it is enrolled meanwhile.
        world.refusal = None;
        world.run(secs(300.0));
        assert_eq!(world.standing(), Some(Standing::Good));
    }
}

#[test]
fn a_registry_that_comes_back_is_told_of_everybody() {
    let mut world = World::new(FAIR, 7);
    world.run(secs(30.0));
    world.front.set_registry(false);
    world.run(secs(60.0));
    assert_eq!(world.standing(), Some(Standing::RegistryAway));
    let told = world.list.len();
    world.front.set_registry(true);
    world.run(secs(61.0));
    assert_eq!(world.list.len(), told + 1);
    world.run(secs(70.0));
    assert_eq!(world.standing(), Some(Standing::Good));
}

/// Everything that a device and a beacon have said to each other until they know each other.
fn exchange(front: &mut Front, from: Source, now: Duration) -> (Device, Vec<Vec<u8>>) {
    let mut client = Device::new(device(), beacon().id(), INTERVAL, [9; 32], now);
    let mut said = Vec::new();
    loop {
        let mut quiet = true;
        while let Some(output) = client.poll_output() {
            if let DeviceOutput::Send(datagram) = output {
                front.handle_datagram(from, &datagram, now);
                said.push(datagram);
                quiet = false;
            }
        }
        while let Some((_, datagram)) = front.poll_send() {
            client.handle_datagram(&datagram, now);
        }
        while let Some(report) = front.poll_report(now) {
            if let Report::Seen { device, .. } = report {
                front.handle_known(&device, None, now);
            }
        }
        if quiet {
            return (client, said);
        }
    }
}

#[test]
fn what_strangers_send_leaves_no_trace() {
    let mut front = front();
    let home = source("202.204.16.13:41000");
    let now = secs(10.0);
    let (mut client, mut said) = exchange(&mut front, home, now);
    client.check(now);
    while let Some(output) = client.poll_output() {
        if let DeviceOutput::Send(datagram) = output {
            said.push(datagram);
        }
    }
    assert_eq!(
        said.iter().map(Vec::len).collect::<Vec<_>>(),
        [HELLO_LEN, REGISTER_LEN, SESSION_LEN]
    );
    let devices = front.devices();
    let stranger = source("192.0.2.66:6666");
    let before = front.counters().clone();
    let mut out = 0;
    // Every bit and every length of everything but the Hello, from here and from there.
    for from in [home, stranger] {
        for datagram in &said[1..] {
            for bit in 0..datagram.len() * 8 {
                let mut forged = datagram.clone();
                forged[bit / 8] ^= 1 << (bit % 8);
                let asked = forged.len();
                front.handle_datagram(from, &forged, now);
                while let Some((to, answer)) = front.poll_send() {
                    assert_eq!(to, from);
                    assert!(answer.len() <= asked);
                    out += 1;
                }
            }
            for len in 0..datagram.len() {
                front.handle_datagram(from, &datagram[..len], now);
            }
            for extra in [1, 100, 1200, 2000] {
                let mut long = datagram.clone();
                long.resize(datagram.len() + extra, 0);
                front.handle_datagram(from, &long, now);
            }
        }
    }
    assert_eq!(out, 0, "nothing was answered");
    assert_eq!(front.devices(), devices);
    assert_eq!(front.poll_report(now), None);
    let after = front.counters();
    let dropped = |c: &ringback_protocol::beacon::Counters| {
        c.malformed
            + c.oversized
            + c.rate_limited
            + c.bad_cookie
            + c.forged
            + c.replayed
            + c.unknown
    };
    assert_eq!(
        dropped(after) - dropped(&before),
        after.received - before.received,
        "each is counted"
    );
    assert!(after.forged > before.forged && after.unknown > before.unknown);
    assert!(after.bad_cookie > before.bad_cookie && after.oversized > before.oversized);
    // Replays: the Register from here is the same session again, from there its cookie is wrong.
    let replayed = front.counters().replayed;
    front.handle_datagram(home, &said[1], now);
    assert_eq!(front.counters().replayed, replayed + 1);
    // The real keepalive still counts, once.
    front.handle_datagram(home, &said[2], now);
    assert!(front.poll_send().is_some());
    front.handle_datagram(stranger, &said[2], now);
    assert!(front.poll_send().is_none());
    // A session that is over does not come back.
    let later = now + secs(1.0);
    exchange(&mut front, home, later);
    front.handle_datagram(home, &said[1], later);
    assert!(front.poll_send().is_none());
    assert!(front.handle_notify(&device().id(), later));
}

#[test]
fn a_flood_of_hellos_is_answered_a_little_and_never_with_more() {
    let mut front = front();
    let mut hello = vec![9, 1];
    hello.resize(HELLO_LEN, 7);
    let now = secs(10.0);
    for _ in 0..100_000 {
        front.handle_datagram(source("192.0.2.66:6666"), &hello, now);
    }
    let mut answers = 0;
    while let Some((_, answer)) = front.poll_send() {
        assert_eq!(answer.len(), COOKIE_LEN);
        answers += 1;
    }
    assert_eq!(answers, 100);
    assert_eq!(front.counters().rate_limited, 100_000 - 100);
    // Somebody else is not concerned.
    let (_, said) = exchange(&mut front, source("202.204.16.13:41000"), now);
    assert_eq!(said.len(), 2);
    assert_eq!(front.devices(), 1);
}

#[test]
fn strangers_with_keys_are_bounded() {
    let mut front = front();
    let now = secs(10.0);
    let mut registered = 0;
    for n in 0..2000u32 {
        let mut seed = [0; 32];
        seed[..4].copy_from_slice(&n.to_be_bytes());
        let key = SecretKey::from_seed(&seed);
        let ip = IpAddr::V4((0xc000_0200 + n / 10).into());
        let from = Source::Udp {
            remote: (ip, 1024 + n as u16).into(),
            local: None,
        };
        let mut client = Device::new(key, beacon().id(), INTERVAL, [1; 32], now);
        for _ in 0..2 {
            while let Some(output) = client.poll_output() {
                match output {
                    DeviceOutput::Send(datagram) => {
                        front.handle_datagram(from, &datagram, now);
                    }
                    DeviceOutput::Registered { .. } => registered += 1,
                    _ => {}
                }
            }
            while let Some((_, answer)) = front.poll_send() {
                client.handle_datagram(&answer, now);
            }
        }
        while let Some(DeviceOutput::Registered { .. }) = client.poll_output() {
            registered += 1;
        }
    }
    assert_eq!(registered, 1000, "the limit on introductions");
    let mut reports = 0;
    let mut now = now;
    for _ in 0..60 {
        while front.poll_report(now).is_some() {
            reports += 1;
        }
        now += secs(1.0);
    }
    assert!((540..=600).contains(&reports), "{reports} in a minute");
}

#[test]
fn probes_are_answered_at_once_and_after_their_delay() {
    let mut front = front();
    let home = source("202.204.16.13:41000");
    let elsewhere = source("202.204.16.13:41001");
    let now = secs(10.0);
    let (mut client, _) = exchange(&mut front, home, now);
    for id in 1..=6 {
        let probe = client.probe(id, secs(30.0)).unwrap();
        front.handle_datagram(elsewhere, &probe, now);
    }
    let mut firsts = 0;
    while let Some((to, answer)) = front.poll_send() {
        assert_eq!(to, elsewhere);
        client.handle_datagram(&answer, now);
        assert!(matches!(
            client.poll_output(),
            Some(DeviceOutput::Probed { late: false, .. })
        ));
        firsts += 1;
    }
    assert_eq!(firsts, 6);
    front.handle_timeout(now + secs(29.9));
    assert_eq!(front.poll_send(), None);
    front.handle_timeout(now + secs(30.0));
    let mut late = Vec::new();
    while let Some((to, answer)) = front.poll_send() {
        assert_eq!(to, elsewhere);
        client.handle_datagram(&answer, now);
        if let Some(DeviceOutput::Probed { id, late: true }) = client.poll_output() {
            late.push(id);
        }
    }
    assert_eq!(late, [1, 2, 3, 4], "four wait at a time");
    let counters = front.counters();
    assert!(counters.bytes_out <= counters.bytes_in);
    // The device is still where it was.
    assert!(front.handle_notify(&device().id(), now));
    assert_eq!(front.poll_send().unwrap().0, home);
}

/// A NAT that forgets a mapping after `life` without a datagram; what the search finds behind it,
/// how long it took, and how many probes it sent.
fn search(life: Duration, floor: Duration, loss: f64, seed: u64) -> (Option<Duration>, Duration) {
    let mut dice = Dice(seed * 2 + 1);
    let mut now = Duration::ZERO;
    let mut search = Search::new(floor, now);
    let mut mapping = Duration::ZERO;
    let mut answers: BTreeMap<(Duration, u64, bool), ()> = BTreeMap::new();
    for _ in 0..10_000 {
        while let Some(action) = search.handle_timeout(now) {
            match action {
                SearchAction::Probe { id, delay, fresh } => {
                    if fresh {
                        answers.clear();
                    }
                    mapping = now;
                    if dice.roll() >= loss {
                        answers.insert((now + DELAY * 2, id, false), ());
                        if !delay.is_zero() {
                            answers.insert((now + DELAY * 2 + delay, id, true), ());
                        }
                    }
                }
                SearchAction::Found(interval) => return (Some(interval), now),
                SearchAction::GivenUp => return (None, now),
            }
        }
        let next = [
            search.poll_timeout(),
            answers.keys().next().map(|(at, ..)| *at),
        ];
        now = next
            .into_iter()
            .flatten()
            .min()
            .expect("not stuck")
            .max(now);
        while let Some(entry) = answers.first_entry()
            && entry.key().0 <= now
        {
            let (at, id, late) = *entry.key();
            entry.remove();
            if at <= mapping + life && dice.roll() >= loss {
                mapping = at;
                search.handle_answer(id, late, now);
            }
        }
    }
    panic!("no end");
}

#[test]
fn the_longest_interval_that_the_nat_bears_is_found() {
    let floor = Duration::from_secs(25);
    for life in [10, 26, 33, 45, 60, 64, 120, 180, 300, 599, 700, 7200] {
        let life = Duration::from_secs(life);
        let (found, took) = search(life, floor, 0.0, 1);
        let found = found.unwrap();
        assert!(found >= floor, "{life:?}: {found:?}");
        if life > secs(32.5) {
            assert!(
                found <= life.mul_f64(0.81),
                "{life:?}: {found:?} is too long"
            );
            let best = life.min(Duration::from_secs(600));
            assert!(
                found >= best.mul_f64(0.68),
                "{life:?}: {found:?} is too short"
            );
        } else {
            assert_eq!(found, floor, "{life:?}");
        }
        assert!(took < Duration::from_secs(2 * 3600), "{life:?}: {took:?}");
    }
}

#[test]
fn loss_makes_the_interval_shorter_at_worst() {
    for seed in 1..=100 {
        let life = Duration::from_secs(120);
        if let (Some(found), _) = search(life, Duration::from_secs(25), 0.1, seed) {
            assert!(found >= Duration::from_secs(25) && found <= life.mul_f64(0.81));
        }
    }
    // A beacon that is away.
    let (found, took) = search(Duration::ZERO, Duration::from_secs(25), 1.0, 1);
    assert_eq!((found, took), (None, secs(5.0)));
}

/// Two members of a room, and what they were told.
struct Call {
    front: Front,
    members: HashMap<Source, Member>,
    told: HashMap<Source, Vec<MemberOutput>>,
    known: Option<Code>,
    now: Duration,
}

impl Call {
    fn new(config: Option<RelayConfig>) -> Self {
        let config = Config {
            relay: config,
            ..Config::default()
        };
        let mut front = Front::new(beacon(), &config, &[0x5e; 32]);
        front.set_registry(true);
        Self {
            front,
            members: HashMap::new(),
            told: HashMap::new(),
            known: None,
            now: secs(1.0),
        }
    }

    fn enter(&mut self, from: Source, key: SecretKey, role: Role, room: u8) {
        let member = Member::new(
            key,
            role,
            device().id(),
            Room([room; 16]),
            beacon().id(),
            [room; 32],
            self.now,
        );
        self.members.insert(from, member);
        self.settle();
    }

    fn settle(&mut self) {
        for _ in 0..10 {
            for (from, member) in &mut self.members {
                if member.poll_timeout().is_some_and(|at| at <= self.now) {
                    member.handle_timeout(self.now);
                }
                while let Some(output) = member.poll_output() {
                    match output {
                        MemberOutput::Send(datagram) => {
                            self.front.handle_datagram(*from, &datagram, self.now);
                        }
                        other => self.told.entry(*from).or_default().push(other),
                    }
                }
            }
            while let Some((to, datagram)) = self.front.poll_send() {
                if let Some(member) = self.members.get_mut(&to) {
                    member.handle_datagram(&datagram, self.now);
                }
            }
            while let Some(report) = self.front.poll_report(self.now) {
                if let Report::Check { device } = report {
                    let known = self.known.clone();
                    self.front.handle_known(&device, known.as_ref(), self.now);
                }
            }
        }
    }

    fn wait(&mut self, seconds: f64) {
        let end = self.now + secs(seconds);
        while self.now < end {
            self.now += secs(0.1);
            if self.front.poll_timeout().is_some_and(|at| at <= self.now) {
                self.front.handle_timeout(self.now);
            }
            self.settle();
        }
    }

    fn told(&self, from: Source) -> &[MemberOutput] {
        self.told.get(&from).map_or(&[], Vec::as_slice)
    }
}

const DATAGRAM: [u8; 1200] = [0x40; 1200];

fn joined(present: bool) -> MemberOutput {
    MemberOutput::Joined {
        present,
        rate: 4 << 20,
    }
}

#[test]
fn two_members_of_a_room_reach_each_other_and_nobody_else() {
    let mut call = Call::new(Some(RelayConfig::default()));
    let (d, c) = (source("202.204.16.13:1"), source("4.17.168.2:2"));
    let tcp = Source::Tcp(7, "192.0.2.9:9".parse().unwrap());
    call.enter(c, caller(), Role::Caller, 1);
    assert_eq!(call.told(c), [joined(false)]);
    assert_eq!(call.front.handle_datagram(c, &DATAGRAM, call.now), None);
    call.enter(d, device(), Role::Device, 1);
    // The registry is asked about the device first.
    call.wait(1.0);
    assert_eq!(call.told(d), [joined(true)]);
    assert_eq!(call.told(c), [joined(false), joined(true)]);
    assert_eq!(call.front.handle_datagram(c, &DATAGRAM, call.now), Some(d));
    assert_eq!(call.front.handle_datagram(d, &DATAGRAM, call.now), Some(c));
    // A stranger, and a member of another room.
    let stranger = source("192.0.2.66:6666");
    assert_eq!(
        call.front.handle_datagram(stranger, &DATAGRAM, call.now),
        None
    );
    call.enter(tcp, caller(), Role::Caller, 2);
    assert_eq!(call.told(tcp), [joined(false)]);
    assert_eq!(call.front.handle_datagram(tcp, &DATAGRAM, call.now), None);
    assert_eq!(call.front.rooms(), 2);
    // Somebody else can not take a place that is taken.
    let thief = source("192.0.2.67:6667");
    call.enter(thief, SecretKey::from_seed(&[3; 32]), Role::Caller, 1);
    assert_eq!(call.told(thief), [MemberOutput::Refused(Standing::Busy)]);
    // The same peer from a new address can, and the old address is out.
    let moved = source("4.17.168.3:3");
    call.members.remove(&c);
    call.enter(moved, caller(), Role::Caller, 1);
    assert_eq!(
        call.front.handle_datagram(d, &DATAGRAM, call.now),
        Some(moved)
    );
    assert_eq!(call.front.handle_datagram(c, &DATAGRAM, call.now), None);
    // Who leaves is missed at once, who falls silent after a minute.
    call.members.get_mut(&moved).unwrap().leave();
    call.settle();
    assert_eq!(call.told(d).last(), Some(&joined(false)));
    call.members.clear();
    call.front.handle_closed(tcp);
    call.wait(70.0);
    assert_eq!(call.front.rooms(), 0);
}

#[test]
fn rooms_are_for_devices_that_the_registry_knows() {
    let d = source("202.204.16.13:1");
    for (code, standing) in [
        (Code::NotEnrolled, Standing::NotEnrolled),
        (Code::Revoked, Standing::Revoked),
    ] {
        let mut call = Call::new(Some(RelayConfig::default()));
        call.known = Some(code);
        call.enter(d, device(), Role::Device, 1);
        call.wait(1.0);
        assert_eq!(call.told(d), [MemberOutput::Refused(standing)]);
        assert_eq!(call.front.rooms(), 0);
    }
    let mut call = Call::new(None);
    call.enter(d, device(), Role::Device, 1);
    assert_eq!(
        call.told(d),
        [MemberOutput::Refused(Standing::RelayDisabled)]
    );
}

#[test]
fn rate_and_allowance_hold() {
    let config = RelayConfig {
        rate: 120_000,
        daily: Some(1_200_000),
        ..RelayConfig::default()
    };
    let mut call = Call::new(Some(config));
    let (d, c) = (source("202.204.16.13:1"), source("4.17.168.2:2"));
    call.enter(d, device(), Role::Device, 1);
    call.wait(1.0);
    call.enter(c, caller(), Role::Caller, 1);
    let mut through = 0;
    for second in 0..20 {
        let now = call.now + secs(f64::from(second));
        for _ in 0..200 {
            through += usize::from(call.front.handle_datagram(c, &DATAGRAM, now).is_some());
        }
        if second < 9 {
            assert_eq!(through, 100 * (second as usize + 1), "100 a second");
        }
    }
    assert_eq!(through, 1000, "the day's allowance");
    call.wait(25.0);
    assert_eq!(
        call.told(c).last(),
        Some(&MemberOutput::Refused(Standing::Exhausted))
    );
}

#[test]
fn a_relay_that_restarts_is_joined_again() {
    let mut call = Call::new(Some(RelayConfig::default()));
    let d = source("202.204.16.13:1");
    call.enter(d, device(), Role::Device, 1);
    call.wait(1.0);
    let mut front = Call::new(Some(RelayConfig::default())).front;
    front.set_registry(true);
    call.front = front;
    call.wait(40.0);
    assert_eq!(call.told(d).last(), Some(&joined(false)));
    assert!(call.told(d).contains(&MemberOutput::Lost));
    assert_eq!(call.front.rooms(), 1);
}

fn sent(device: &mut Device) -> Vec<DeviceOutput> {
    std::iter::from_fn(|| device.poll_output()).collect()
}

/// Byte-exact, by a second implementation (§17).
#[test]
fn a_device_says_what_the_document_says() {
    use vector::beacon as expected;
    let hex = |text: &str| DeviceOutput::Send(vector::bytes(text));
    let seed = [0x5e; 32];
    assert_eq!(beacon().id().to_string(), expected::BEACON_TEXT);
    let mut client = Device::new(device(), beacon().id(), INTERVAL, seed, Duration::ZERO);
    assert_eq!(sent(&mut client), [hex(expected::HELLO)]);
    client.handle_datagram(&vector::bytes(expected::COOKIE), secs(1.0));
    assert_eq!(sent(&mut client), [hex(expected::REGISTER)]);
    client.handle_datagram(&vector::bytes(expected::REGISTERED), secs(1.0));
    let public = vector::address(vector::DEVICE_PUBLIC_ADDRESS);
    let standing = Standing::Good;
    assert_eq!(
        sent(&mut client),
        [DeviceOutput::Registered { public, standing }]
    );
    client.handle_timeout(secs(26.0));
    assert_eq!(sent(&mut client), [hex(expected::KEEPALIVE)]);
    client.handle_datagram(&vector::bytes(expected::NOTIFICATION), secs(27.0));
    assert_eq!(
        sent(&mut client),
        [hex(expected::NOTIFIED), DeviceOutput::Notified]
    );
    assert_eq!(
        client.probe(9, secs(60.0)),
        Some(vector::bytes(expected::PROBE))
    );
    client.handle_datagram(&vector::bytes(expected::PROBED), secs(87.0));
    assert_eq!(
        sent(&mut client),
        [DeviceOutput::Probed { id: 9, late: true }]
    );
    client.leave();
    assert_eq!(sent(&mut client), [hex(expected::LEAVE)]);

    let room: Room = vector::ROOM.parse().unwrap();
    let mut member = Member::new(
        caller(),
        Role::Caller,
        device().id(),
        room,
        beacon().id(),
        seed,
        Duration::ZERO,
    );
    let hex = |text: &str| Some(MemberOutput::Send(vector::bytes(text)));
    assert_eq!(member.poll_output(), hex(expected::HELLO));
    member.handle_datagram(&vector::bytes(expected::COOKIE), secs(1.0));
    assert_eq!(member.poll_output(), hex(expected::RELAY_JOIN));
    member.handle_datagram(&vector::bytes(expected::RELAY_JOINED), secs(1.0));
    assert_eq!(member.poll_output(), Some(joined(true)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Nothing that anybody can send makes a beacon panic, answer with more, or remember.
    #[test]
    fn any_bytes_leave_no_trace(kind in 0u8..0x20, mut bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let mut front = front();
        if bytes.len() > 1 {
            bytes[0] = 9;
            bytes[1] = kind;
        }
        let asked = bytes.len();
        let to = front.handle_datagram(source("192.0.2.1:1"), &bytes, secs(1.0));
        prop_assert_eq!(to, None);
        let mut answered = 0;
        while let Some((_, answer)) = front.poll_send() {
            answered += answer.len();
        }
        prop_assert!(answered <= asked);
        prop_assert_eq!((front.devices(), front.rooms()), (0, 0));
        prop_assert_eq!(front.poll_report(secs(1.0)), None);
    }

    /// Nor does a device or a member take anything of what it was not sent by its beacon.
    #[test]
    fn clients_take_nothing_from_strangers(kind in 0u8..0x20, mut bytes in proptest::collection::vec(any::<u8>(), 2..200)) {
        bytes[0] = 9;
        bytes[1] = kind;
        let mut front = front();
        let (mut client, _) = exchange(&mut front, source("192.0.2.1:1"), secs(1.0));
        client.handle_datagram(&bytes, secs(1.0));
        prop_assert_eq!(client.poll_output(), None);
        let mut member = Member::new(caller(), Role::Caller, device().id(), Room([1; 16]), beacon().id(), [2; 32], secs(1.0));
        while member.poll_output().is_some() {}
        member.handle_datagram(&bytes, secs(1.0));
        prop_assert_eq!(member.poll_output(), None);
    }

    /// Whatever interval and addresses: what the device is told is what the beacon saw.
    #[test]
    fn the_reflected_address_is_the_source(ip in any::<[u8; 16]>(), v4 in any::<bool>(), port in 1u16.., seconds in 1u64..600) {
        let ip: IpAddr = if v4 {
            IpAddr::from([ip[0], ip[1], ip[2], ip[3]])
        } else {
            // Mapped addresses are IPv4 on every way in.
            IpAddr::from(ip).to_canonical()
        };
        let from = Source::Udp { remote: (ip, port).into(), local: None };
        let mut front = front();
        let now = secs(1.0);
        let mut client = Device::new(device(), beacon().id(), Duration::from_secs(seconds), [9; 32], now);
        let mut told = None;
        for _ in 0..4 {
            while let Some(output) = client.poll_output() {
                match output {
                    DeviceOutput::Send(datagram) => { front.handle_datagram(from, &datagram, now); }
                    DeviceOutput::Registered { public, .. } => told = Some(public),
                    _ => {}
                }
            }
            while let Some((_, answer)) = front.poll_send() {
                client.handle_datagram(&answer, now);
            }
        }
        prop_assert_eq!(told, Some(from.address()));
    }
}
