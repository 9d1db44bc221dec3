//! Two path sets and the ways between them, in virtual time: which way carries the data, and how
//! soon another one does when it fails.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::time::Duration;

use ringback_protocol::candidate::{Candidate, Kind};
use ringback_protocol::path::{Class, FULL, PathSet, Received, Role, SEARCH_SOCKETS, Traffic, Via};
use ringback_protocol::receipt::{Nat, PathKind, Transport, TriedResult};

mod vector;

const TICK: Duration = Duration::from_millis(5);
const TRAFFIC_TICK: Duration = Duration::from_millis(100);

/// One way between the two ends: how each calls it, and what it does to datagrams.
#[derive(Debug, Clone)]
struct Way {
    vias: [Via; 2],
    delay: Duration,
    works: bool,
    /// Longer datagrams are lost.
    most: usize,
}

struct End {
    paths: PathSet,
    data_at: Vec<Duration>,
    traffic: Traffic,
    route: Option<Via>,
}

struct World {
    now: Duration,
    ends: [End; 2],
    ways: Vec<Way>,
    flying: BTreeMap<(Duration, u64), Flying>,
    sequence: u64,
    sending: [bool; 2],
    next_traffic: Duration,
    /// Sent on ways that do not exist.
    strays: u32,
    /// Path datagrams in full size that were sent.
    full: u32,
}

/// To whom, by which of its ways, and a path datagram or else data.
type Flying = (usize, Via, Option<Vec<u8>>);

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Bytes of a datagram of data, of the longest that most ways take, and of one that some way does not.
const DATA: usize = 1200;
const ENOUGH: usize = 1472;
const SHORT: usize = 1124 - 28;

const DEVICE: usize = 0;
const CALLER: usize = 1;

impl World {
    /// A link by UDP with a relay as standby, on which only the other end than `receiver` sends.
    fn with_standby(receiver: usize) -> Self {
        let mut world = Self::new();
        world.until(Class::Udp, ms(300));
        world.connect(1, Class::Relay, ms(40));
        world.sending[receiver] = false;
        world.run(ms(5000));
        world
    }

    /// Each end knows the UDP address of the other one, and that it pads.
    fn new() -> Self {
        let mut world = Self::of_old_peers();
        for end in &mut world.ends {
            end.paths.set_padding(Duration::ZERO);
        }
        world
    }

    /// Neither has been told that the other one answers pings in their length.
    fn of_old_peers() -> Self {
        let (_, keys) = vector::seal();
        let [device, caller] = [address("202.204.16.13:20000"), address("4.17.168.2:20000")];
        let end = |role, peer| End {
            paths: PathSet::new(
                role,
                &keys.path,
                [role as u8; 32],
                &[Candidate::udp(Kind::ServerReflexive, peer)],
                Duration::ZERO,
            ),
            data_at: Vec::new(),
            traffic: Traffic::default(),
            route: None,
        };
        let mut world = Self {
            now: Duration::ZERO,
            ends: [end(Role::Device, caller), end(Role::Caller, device)],
            ways: vec![Way {
                vias: [Via::udp(caller), Via::udp(device)],
                delay: ms(20),
                works: true,
                most: ENOUGH,
            }],
            flying: BTreeMap::new(),
            sequence: 0,
            sending: [true, true],
            next_traffic: TRAFFIC_TICK,
            strays: 0,
            full: 0,
        };
        for end in &mut world.ends {
            end.paths.set_established();
        }
        world
    }

    fn connect(&mut self, number: u32, class: Class, delay: Duration) {
        let transport = match class {
            Class::Relay => Transport::WebSocket,
            _ => Transport::Tcp,
        };
        for end in &mut self.ends {
            assert!(end.paths.add_connection(
                number,
                class,
                transport,
                Kind::Relayed,
                address("130.74.23.6:443"),
                self.now
            ));
        }
        self.ways.push(Way {
            vias: [Via::Connection(number); 2],
            delay,
            works: true,
            most: ENOUGH,
        });
    }

    fn set(&mut self, way: usize, works: bool) {
        self.ways[way].works = works;
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now += TICK;
            self.step();
        }
    }

    /// Until both ends use that class; how long it took.
    fn until(&mut self, class: Class, patience: Duration) -> Duration {
        let start = self.now;
        while self.ends.iter().any(|end| end.paths.class() != Some(class)) {
            assert!(
                self.now < start + patience,
                "not {class:?} after {patience:?}: {:?}",
                self.ends
                    .iter()
                    .map(|end| end.paths.report())
                    .collect::<Vec<_>>()
            );
            self.run(TICK);
        }
        self.now - start
    }

    /// The longest time without data at an end since `since`.
    fn longest_stall(&self, end: usize, since: Duration) -> Duration {
        let times = self.ends[end].data_at.iter().filter(|at| **at >= since);
        let mut last = since;
        let mut longest = Duration::ZERO;
        for at in times.chain([&self.now]) {
            longest = longest.max(at.saturating_sub(last));
            last = *at;
        }
        longest
    }

    fn step(&mut self) {
        let now = self.now;
        let due: Vec<_> = self
            .flying
            .range(..=(now, u64::MAX))
            .map(|(key, _)| *key)
            .collect();
        for key in due {
            let (to, via, datagram) = self.flying.remove(&key).expect("listed");
            let end = &mut self.ends[to];
            match datagram {
                Some(datagram) => {
                    let received = end.paths.handle_datagram(via, &datagram, now);
                    assert_ne!(received, Received::Nothing);
                    if end.paths.route() == Some(via) {
                        end.traffic.unanswered_since = None;
                    }
                }
                None => {
                    end.data_at.push(now);
                    if end.paths.route() == Some(via) {
                        end.traffic = Traffic {
                            unanswered_since: None,
                            last_received: Some(now),
                            ..end.traffic
                        };
                    } else {
                        end.paths.heard_data(via, now);
                    }
                }
            }
        }
        let ticks = now >= self.next_traffic;
        if ticks {
            self.next_traffic = now + TRAFFIC_TICK;
        }
        for from in [DEVICE, CALLER] {
            let end = &mut self.ends[from];
            if end.paths.route() != end.route {
                end.route = end.paths.route();
                end.traffic = Traffic::default();
            }
            if ticks {
                end.paths.note_traffic(end.traffic, now);
                end.traffic.sent = false;
            }
            if end.paths.poll_timeout().is_some_and(|at| at <= now) {
                end.paths.handle_timeout(now);
                assert!(end.paths.poll_timeout().is_none_or(|at| at > now));
            }
            let mut out: Vec<(Via, Option<Vec<u8>>)> = Vec::new();
            while let Some(transmit) = end.paths.poll_transmit() {
                out.push((transmit.via, Some(transmit.datagram)));
            }
            if self.sending[from]
                && let Some(route) = end.paths.route()
            {
                end.traffic.unanswered_since.get_or_insert(now);
                end.traffic.sent = true;
                out.push((route, None));
            }
            for (via, datagram) in out {
                self.send(from, via, datagram);
            }
        }
    }

    fn send(&mut self, from: usize, via: Via, datagram: Option<Vec<u8>>) {
        let Some(way) = self.ways.iter().find(|way| way.vias[from] == via) else {
            self.strays += 1;
            return;
        };
        let length = datagram.as_ref().map_or(DATA, Vec::len);
        self.full += u32::from(datagram.is_some() && length >= FULL);
        if way.works && length <= way.most {
            self.sequence += 1;
            let key = (self.now + way.delay, self.sequence);
            let to = 1 - from;
            self.flying.insert(key, (to, way.vias[to], datagram));
        }
    }
}

#[test]
fn a_link_starts_on_the_relay_and_moves_to_better_paths() {
    let mut world = World::new();
    world.set(0, false);
    world.connect(1, Class::Relay, ms(40));
    world.until(Class::Relay, ms(200));
    world.run(ms(3000));
    world.connect(2, Class::Tcp, ms(60));
    world.until(Class::Tcp, ms(300));
    // Whatever its round trip, and as soon as it is there.
    world.set(0, true);
    world.ways[0].delay = ms(150);
    let took = world.until(Class::Udp, ms(31_000));
    assert!(took > ms(300), "{took:?}");
    assert_eq!(
        world.ends[CALLER]
            .paths
            .in_use()
            .map(|p| (p.path, p.transport)),
        Some((PathKind::Direct, Transport::Udp))
    );
}

/// The stall at the receiver of a download, when the sender's acknowledgements are all that the
/// other end sends.
#[test]
fn a_silent_path_gives_way_within_a_second_and_takes_over_again_when_it_heals() {
    for receiver in [DEVICE, CALLER] {
        let mut world = World::with_standby(receiver);
        for round in 0..5 {
            let lost = world.now;
            world.set(0, false);
            world.run(ms(4000));
            let stall = world.longest_stall(receiver, lost);
            assert!(stall < ms(1000), "round {round}: {stall:?}");
            assert_eq!(world.ends[1 - receiver].paths.class(), Some(Class::Relay));
            let healed = world.now;
            world.set(0, true);
            let took = world.until(Class::Udp, ms(3000));
            world.run(ms(2000));
            let stall = world.longest_stall(receiver, healed);
            assert!(stall < ms(200), "round {round}: {stall:?} after {took:?}");
        }
    }
}

/// Each end notices by itself: the one that sends, and the one that only received.
#[test]
fn both_ends_of_a_download_notice_a_silent_path() {
    let mut world = World::new();
    world.sending = [true, false];
    world.until(Class::Udp, ms(300));
    world.run(ms(5000));
    world.set(0, false);
    let cut = world.now;
    while world.ends.iter().any(|end| end.paths.class().is_some()) {
        assert!(
            world.now < cut + ms(1000),
            "not noticed within a second: {:?}",
            world
                .ends
                .each_ref()
                .map(|end| (end.paths.class(), end.traffic, end.paths.report()))
        );
        world.run(TICK);
    }
}

/// A tunnel on the way has a small MTU, and nobody says so.
#[test]
fn a_path_that_takes_short_datagrams_only_carries_nothing() {
    let mut world = World::new();
    world.ways[0].most = SHORT;
    world.connect(1, Class::Relay, ms(40));
    world.until(Class::Relay, ms(200));
    let start = world.now;
    world.run(Duration::from_secs(60));
    for end in [DEVICE, CALLER] {
        assert!(world.longest_stall(end, start) < ms(100));
        let report = world.ends[end].paths.report();
        let udp = report.iter().find(|way| way.transport == Transport::Udp);
        let udp = udp.expect("an address");
        assert_eq!(udp.result, TriedResult::ShortOnly);
        assert!(udp.pings < 40, "{}", udp.pings);
    }
    world.ways[0].most = ENOUGH;
    world.until(Class::Udp, Duration::from_secs(35));
}

/// The way changes somewhere in the middle, and takes only what is short from then on.
#[test]
fn a_path_that_begins_to_lose_long_datagrams_gives_way_within_a_second() {
    for receiver in [DEVICE, CALLER] {
        let mut world = World::with_standby(receiver);
        let shrunk = world.now;
        world.ways[0].most = SHORT;
        world.run(ms(8000));
        let stall = world.longest_stall(receiver, shrunk);
        assert!(stall < ms(1000), "{stall:?}");
        assert_eq!(world.ends[1 - receiver].paths.class(), Some(Class::Relay));
        world.ways[0].most = ENOUGH;
        world.until(Class::Udp, ms(3000));
    }
}

/// What is typed is answered all the time; what is pasted is lost.
#[test]
fn short_answers_do_not_hide_that_long_datagrams_are_lost() {
    let mut world = World::new();
    world.until(Class::Udp, ms(300));
    world.connect(1, Class::Relay, ms(40));
    world.run(ms(5000));
    world.ways[0].most = SHORT;
    let start = world.now;
    while world.ends[CALLER].paths.class() == Some(Class::Udp) {
        assert!(world.now < start + ms(9000), "not noticed");
        world.run(TICK);
        for end in &mut world.ends {
            end.traffic.unanswered_since = None;
            end.traffic.last_received = Some(world.now);
        }
    }
}

#[test]
fn an_idle_path_is_asked_with_short_pings() {
    let mut world = World::new();
    world.sending = [false, false];
    world.until(Class::Udp, ms(300));
    world.connect(1, Class::Relay, ms(40));
    world.run(ms(6000));
    let before = world.full;
    world.run(Duration::from_secs(600));
    assert_eq!(world.full, before);
    world.sending = [true, true];
    world.run(Duration::from_secs(10));
    assert!(
        world.full > before,
        "one that is used is asked in full size"
    );
}

/// A peer of an earlier version answers short pings only, and does not say that it pads.
#[test]
fn a_peer_that_does_not_pad_is_asked_as_before() {
    let mut world = World::of_old_peers();
    world.until(Class::Udp, ms(100));
    world.connect(1, Class::Relay, ms(40));
    world.run(Duration::from_secs(30));
    assert_eq!(world.full, 0);
    assert_eq!(world.ends[CALLER].paths.class(), Some(Class::Udp));
}

/// A caller knocks before the device has answered, and learns only then that it pads.
#[test]
fn what_was_verified_by_short_pings_is_verified_anew() {
    let mut world = World::of_old_peers();
    world.ways[0].most = SHORT;
    world.until(Class::Udp, ms(100));
    world.connect(1, Class::Relay, ms(40));
    let now = world.now;
    world.ends[CALLER].paths.set_padding(now);
    world.ends[DEVICE].paths.set_padding(now);
    world.until(Class::Relay, ms(200));
    // The peer's ping in full size says the same as its word.
    let mut world = World::of_old_peers();
    world.until(Class::Udp, ms(100));
    let now = world.now;
    world.ends[DEVICE].paths.set_padding(now);
    world.run(ms(200));
    let full = world.full;
    assert!(full >= 4, "each end has asked and been answered: {full}");
    assert_eq!(world.ends[CALLER].paths.class(), Some(Class::Udp));
}

/// Whoever's address it is: one ping in full size, and no more as long as nobody is heard from there.
#[test]
fn a_stranger_gets_one_ping_in_full_size() {
    let (_, keys) = vector::seal();
    let victim = [Candidate::udp(Kind::Host, address("203.0.113.7:9"))];
    let mut paths = PathSet::new(Role::Device, &keys.path, [7; 32], &[], Duration::ZERO);
    paths.set_padding(Duration::ZERO);
    paths.add_candidates(&victim, Duration::ZERO);
    let mut sent = Vec::new();
    for second in 0..3600 {
        paths.handle_timeout(Duration::from_secs(second));
        sent.extend(std::iter::from_fn(|| paths.poll_transmit()));
    }
    let full = sent.iter().filter(|sent| sent.datagram.len() >= FULL);
    assert_eq!((full.count(), sent.len()), (1, 12));
}

/// Without data nobody minds: an idle link keeps its path for as long as before.
/// What the first ping waits for is the handshake, not the path.
#[test]
fn the_round_trip_that_is_told_is_the_paths_own() {
    let mut world = World::new();
    world.ways[0].delay = ms(35);
    world.until(Class::Udp, ms(500));
    world.ways[0].delay = TICK;
    world.run(ms(100));
    for end in &mut world.ends {
        assert!(end.paths.is_measured());
        // What came before the end of the handshake does not count.
        end.paths.set_established();
        assert!(!end.paths.is_measured());
    }
    world.run(ms(100));
    for end in &world.ends {
        assert!(end.paths.is_measured());
        assert!(end.paths.rtt() <= Some(4 * TICK), "{:?}", end.paths.rtt());
    }
    // It follows the path when that grows longer.
    world.ways[0].delay = ms(80);
    world.run(Duration::from_secs(30));
    for end in &world.ends {
        assert!(end.paths.rtt() >= Some(ms(160)), "{:?}", end.paths.rtt());
    }
}

#[test]
fn a_relay_is_not_asked_again_to_be_measured() {
    let mut world = World::new();
    world.set(0, false);
    world.connect(1, Class::Relay, ms(10));
    world.until(Class::Relay, ms(1000));
    world.run(ms(100));
    for end in &world.ends {
        assert!(end.paths.is_measured());
        let report = end.paths.report();
        let relay = report.iter().find(|tried| tried.rtt_ms.is_some());
        assert!(relay.is_some_and(|relay| relay.pings <= 2), "{report:?}");
    }
}

#[test]
fn an_idle_path_is_not_doubted() {
    let mut world = World::new();
    world.sending = [false, false];
    world.until(Class::Udp, ms(300));
    world.connect(1, Class::Relay, ms(40));
    world.run(ms(6000));
    let relayed = |world: &World| {
        let report = world.ends[CALLER].paths.report();
        report
            .iter()
            .filter(|tried| tried.transport == Transport::WebSocket)
            .map(|tried| tried.pings)
            .sum::<u32>()
    };
    let before = relayed(&world);
    world.run(Duration::from_secs(600));
    assert_eq!(relayed(&world), before, "a relay that is not needed sleeps");
    assert_eq!(world.ends[CALLER].paths.class(), Some(Class::Udp));
}

#[test]
fn a_connection_that_ends_is_left_at_once() {
    let mut world = World::new();
    world.set(0, false);
    world.connect(1, Class::Relay, ms(40));
    world.connect(2, Class::Tcp, ms(20));
    world.until(Class::Tcp, ms(500));
    world.run(ms(500));
    let now = world.now;
    for end in &mut world.ends {
        end.paths.remove_connection(2, now);
        assert_eq!(end.paths.class(), Some(Class::Relay));
    }
    for number in 3..20 {
        let added = world.ends[0].paths.add_connection(
            number,
            Class::Tcp,
            Transport::Tcp,
            Kind::Host,
            address("4.17.168.2:9"),
            now,
        );
        assert_eq!(added, number < 14, "{number}: a link has at most 12");
    }
}

/// A router has given new ports to everything: the peer is told where, by the relay.
#[test]
fn new_whereabouts_reach_the_peer_by_the_relay() {
    let mut world = World::new();
    world.until(Class::Udp, ms(300));
    world.connect(1, Class::Relay, ms(40));
    world.run(ms(3000));
    let device = address("202.204.16.77:21000");
    let caller = address("4.17.168.2:20000");
    world.ways[0].vias[CALLER] = Via::udp(device);
    // Neither hears of the other's new address by itself: the old way is dead for both.
    world.ways[0].vias[DEVICE] = Via::udp(address("203.0.113.1:1"));
    let changed = world.now;
    world.run(ms(1500));
    world.ways[0].vias[DEVICE] = Via::udp(caller);
    world.set(0, false);
    let new = [Candidate::udp(Kind::ServerReflexive, device)];
    let now = world.now;
    world.ends[DEVICE]
        .paths
        .offer(&new, Nat::EndpointIndependent, now);
    world.run(ms(200));
    world.set(0, true);
    world.until(Class::Udp, ms(3000));
    let stall = world.longest_stall(CALLER, changed);
    assert!(stall < ms(1000), "{stall:?}");
    assert_eq!(
        world.ends[CALLER].paths.in_use().map(|p| p.remote),
        Some(device)
    );
}

/// The NAT of the caller gives each destination another port; the device's router lets in only
/// whom the device has written to.
#[test]
fn a_search_finds_a_way_through_a_symmetric_nat() {
    let mut found_in = Vec::new();
    for seed in 0..40 {
        let (_, keys) = vector::seal();
        let device_at = address("202.204.16.13:20000");
        let caller_ip = "4.17.168.2";
        let set = |role, seed, peer: SocketAddr| {
            PathSet::new(
                role,
                &keys.path,
                [seed; 32],
                &[Candidate::udp(Kind::ServerReflexive, peer)],
                Duration::ZERO,
            )
        };
        let stun_port = address(&format!("{caller_ip}:61000"));
        let mut device = set(Role::Device, seed, stun_port);
        let mut caller = set(Role::Caller, seed + 100, device_at);
        device.set_nats(
            Nat::EndpointIndependent,
            Nat::EndpointDependent,
            Duration::ZERO,
        );
        caller.set_nats(
            Nat::EndpointDependent,
            Nat::EndpointIndependent,
            Duration::ZERO,
        );
        let mut rng = Rng(u64::from(seed) * 7919 + 1);
        // The caller's router: a port for each of its sockets.
        let mut mapped: HashMap<u16, u16> = HashMap::new();
        let mut opened: Vec<SocketAddr> = Vec::new();
        let mut now = Duration::ZERO;
        let mut sent = [0u32; 2];
        while device.class().is_none() || caller.class().is_none() {
            now += TICK;
            if now > Duration::from_secs(6) {
                break;
            }
            for paths in [&mut device, &mut caller] {
                if paths.poll_timeout().is_some_and(|at| at <= now) {
                    paths.handle_timeout(now);
                }
            }
            // What is sent arrives within the tick; the round trip does not matter here.
            loop {
                let mut quiet = true;
                while let Some(transmit) = caller.poll_transmit() {
                    quiet = false;
                    sent[CALLER] += 1;
                    let Via::Udp { socket, to } = transmit.via else {
                        panic!("no connections here");
                    };
                    assert!(socket <= SEARCH_SOCKETS);
                    let port = *mapped
                        .entry(socket)
                        .or_insert_with(|| 1024 + (rng.next() % 64_512) as u16);
                    let from = address(&format!("{caller_ip}:{port}"));
                    if to == device_at && opened.contains(&from) {
                        device.handle_datagram(Via::udp(from), &transmit.datagram, now);
                    }
                }
                while let Some(transmit) = device.poll_transmit() {
                    quiet = false;
                    sent[DEVICE] += 1;
                    let to = transmit.via.address().expect("UDP");
                    opened.push(to);
                    let socket = mapped
                        .iter()
                        .find(|(_, port)| **port == to.port())
                        .map(|(socket, _)| *socket);
                    if let Some(socket) = socket {
                        let via = Via::Udp {
                            socket,
                            to: device_at,
                        };
                        caller.handle_datagram(via, &transmit.datagram, now);
                    }
                }
                if quiet {
                    break;
                }
            }
        }
        assert!(sent[DEVICE] < 3_200 && sent[CALLER] < 2_500, "{sent:?}");
        if device.class().is_some() && caller.class().is_some() {
            found_in.push(now);
        }
    }
    found_in.sort();
    assert!(found_in.len() >= 39, "{} of 40", found_in.len());
    assert!(found_in[37] < Duration::from_secs(4), "{found_in:?}");
}

/// SplitMix64.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// A peer that claims a symmetric NAT and names other hosts again and again turns this end into no
/// source of noise for them.
#[test]
fn searches_of_one_link_are_bounded_whatever_the_peer_names() {
    let (_, keys) = vector::seal();
    let [device_at, caller_at] = [address("202.204.16.13:1"), address("4.17.168.2:1")];
    let set = |role, peer| {
        let named = [Candidate::udp(Kind::ServerReflexive, peer)];
        PathSet::new(role, &keys.path, [role as u8; 32], &named, Duration::ZERO)
    };
    let mut device = set(Role::Device, caller_at);
    let mut caller = set(Role::Caller, device_at);
    let (own, peer) = (Nat::EndpointIndependent, Nat::EndpointDependent);
    device.set_nats(own, peer, Duration::ZERO);
    // The caller hears the device, and answers nothing.
    let ping = device.poll_transmit().expect("a ping").datagram;
    caller.handle_datagram(Via::udp(device_at), &ping, Duration::ZERO);
    let mut probes: HashMap<SocketAddr, u32> = HashMap::new();
    let mut now = Duration::ZERO;
    for host in 1..=30 {
        let victim = address(&format!("203.0.113.{host}:9"));
        while caller.poll_transmit().is_some() {}
        caller.offer(&[Candidate::udp(Kind::ServerReflexive, victim)], peer, now);
        while let Some(transmit) = caller.poll_transmit() {
            device.handle_datagram(Via::udp(caller_at), &transmit.datagram, now);
        }
        let end = now + ms(7000);
        while now < end {
            now += ms(20);
            device.handle_timeout(now);
            while let Some(transmit) = device.poll_transmit() {
                let to = transmit.via.address().expect("UDP");
                *probes.entry((to.ip(), 0).into()).or_default() += 1;
            }
        }
    }
    let searched = probes
        .iter()
        .filter(|(to, sent)| to.ip() != caller_at.ip() && **sent > 100);
    let searched = searched.count();
    assert!((3..=8).contains(&searched), "{searched} hosts: {probes:?}");
}

/// Lists of addresses of one link are taken 200 times, each only once; what comes later is
/// authentic, and changes nothing.
#[test]
fn whereabouts_of_one_link_are_bounded() {
    const MAX: usize = 200;
    let (_, keys) = vector::seal();
    let [device_at, caller_at] = [address("202.204.16.13:1"), address("4.17.168.2:1")];
    let set = |role, peer| {
        let named = [Candidate::udp(Kind::ServerReflexive, peer)];
        PathSet::new(role, &keys.path, [role as u8; 32], &named, Duration::ZERO)
    };
    let mut device = set(Role::Device, caller_at);
    let mut caller = set(Role::Caller, device_at);
    let ping = device.poll_transmit().expect("a ping").datagram;
    caller.handle_datagram(Via::udp(device_at), &ping, Duration::ZERO);
    while caller.poll_transmit().is_some() {}
    let mut taken = 0;
    let mut last = None;
    for number in 0..MAX + 20 {
        let now = ms(number as u64);
        let port = 1000 + number as u16;
        let named = Candidate::udp(Kind::ServerReflexive, (caller_at.ip(), port).into());
        caller.offer(&[named], Nat::EndpointIndependent, now);
        let mut news = 0;
        while let Some(transmit) = caller.poll_transmit() {
            let from = Via::udp(caller_at);
            for again in [false, true] {
                match device.handle_datagram(from, &transmit.datagram, now) {
                    Received::Candidates(candidates) => {
                        assert!(!again, "a datagram counts once");
                        last = candidates.first().map(|c| c.address.port());
                        news += 1;
                    }
                    Received::Authentic => assert!(!again, "a datagram counts once"),
                    Received::Nothing => assert!(again),
                    other @ Received::Handshake(_) => panic!("{other:?}"),
                }
            }
        }
        taken += news;
        assert_eq!(news, usize::from(number < MAX), "offer {number}");
    }
    assert_eq!((taken, last), (MAX, Some(1000 + MAX as u16 - 1)));
    let named =
        |tried: &ringback_protocol::receipt::Tried| tried.address.port() >= 1000 + MAX as u16;
    assert!(!device.report().iter().any(named));
}
