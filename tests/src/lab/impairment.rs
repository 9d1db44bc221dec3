//! What a bad network does to packets, in virtual time: no clock, no sockets, seeded randomness.

use std::{
    collections::{BinaryHeap, HashMap},
    net::IpAddr,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

/// How the core treats each packet that crosses it. The default does nothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Impairment {
    /// Time from leg to leg, one way.
    pub delay: Duration,
    /// Further time, drawn evenly from zero to this. It does not reorder the packets of one flow.
    pub jitter: Duration,
    /// Share of packets that are lost, 0 to 1.
    pub loss: f64,
    /// Share of packets that are held back by [`Impairment::hold`] so that later ones overtake.
    pub reorder: f64,
    /// Share of packets that arrive twice.
    pub duplicate: f64,
    /// Further one-way delay of packets to or from an address.
    pub distance: Vec<(IpAddr, Duration)>,
    /// Which packets jitter, loss, reordering and duplication are for. Delay and distance are for
    /// all.
    pub scope: Scope,
    /// Seed of all the drawing of lots.
    pub seed: u64,
}

/// Which packets have bad luck.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// All of them.
    #[default]
    All,
    /// All between two addresses, in both directions.
    Between(IpAddr, IpAddr),
    /// UDP between two addresses, in both directions.
    UdpBetween(IpAddr, IpAddr),
    /// UDP that none of these addresses sends or receives: with the servers' addresses, the direct
    /// way between two sites, wherever they move.
    UdpBeside(Vec<IpAddr>),
}

/// What the headers of a packet say, as far as it decides what happens to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flow {
    /// The sender.
    pub source: IpAddr,
    /// The receiver.
    pub destination: IpAddr,
    /// Whether it is UDP.
    pub is_udp: bool,
}

/// What has happened to packets so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Packets that came in.
    pub received: u64,
    /// Packets that went out, copies included.
    pub sent: u64,
    /// Packets lost by lot.
    pub lost: u64,
    /// Packets lost because [`Line::CAPACITY`] were under way.
    pub overflowed: u64,
    /// Packets held back.
    pub reordered: u64,
    /// Packets that went out a second time.
    pub duplicated: u64,
}

/// Packets under way. After each [`handle_input`](Line::handle_input) and whenever the time that
/// [`poll_timeout`](Line::poll_timeout) names has come, drain [`poll_output`](Line::poll_output).
#[derive(Debug)]
pub struct Line<P> {
    impairment: Impairment,
    lots: fastrand::Rng,
    under_way: BinaryHeap<Departure<P>>,
    last: HashMap<Flow, Instant>,
    sequence: u64,
    tally: Tally,
}

impl Default for Impairment {
    fn default() -> Self {
        Self {
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            loss: 0.0,
            reorder: 0.0,
            duplicate: 0.0,
            distance: Vec::new(),
            scope: Scope::All,
            seed: 1,
        }
    }
}

impl Impairment {
    /// Whether packets pass as if there were none.
    pub fn is_none(&self) -> bool {
        *self
            == Self {
                seed: self.seed,
                scope: self.scope.clone(),
                ..Self::default()
            }
    }

    /// How much longer a reordered packet is held: a quarter of the delay, and at least 1 ms.
    pub fn hold(&self) -> Duration {
        (self.delay / 4).max(Duration::from_millis(1))
    }
}

impl Scope {
    /// Whether a packet is meant.
    pub fn has(&self, flow: &Flow) -> bool {
        let ends = [flow.source, flow.destination];
        let between = |a: &IpAddr, b: &IpAddr| ends == [*a, *b] || ends == [*b, *a];
        match self {
            Self::All => true,
            Self::Between(a, b) => between(a, b),
            Self::UdpBetween(a, b) => flow.is_udp && between(a, b),
            Self::UdpBeside(others) => flow.is_udp && !ends.iter().any(|end| others.contains(end)),
        }
    }
}

impl<P: Clone> Line<P> {
    /// Packets that can be under way at once; more are lost, as in a router whose queue is full.
    pub const CAPACITY: usize = 65536;

    /// An empty line.
    pub fn new(impairment: Impairment) -> Self {
        Self {
            lots: fastrand::Rng::with_seed(impairment.seed),
            impairment,
            under_way: BinaryHeap::new(),
            last: HashMap::new(),
            sequence: 0,
            tally: Tally::default(),
        }
    }

    /// Changes what happens to later packets. The lots go on unless the seed is another.
    pub fn set(&mut self, impairment: Impairment) {
        if impairment.seed != self.impairment.seed {
            self.lots = fastrand::Rng::with_seed(impairment.seed);
        }
        self.impairment = impairment;
    }

    /// Takes a packet that came in now.
    pub fn handle_input(&mut self, flow: Flow, packet: P, now: Instant) {
        self.tally.received += 1;
        let meant = self.impairment.scope.has(&flow);
        if meant && self.draw(self.impairment.loss) {
            self.tally.lost += 1;
            return;
        }
        if self.under_way.len() >= Self::CAPACITY {
            self.tally.overflowed += 1;
            return;
        }
        let copy = (meant && self.draw(self.impairment.duplicate)).then(|| packet.clone());
        let mut due = now + self.transit(flow, meant);
        if meant && self.draw(self.impairment.reorder) {
            self.tally.reordered += 1;
            due += self.impairment.hold();
        } else {
            let last = self.last.entry(flow).or_insert(due);
            due = due.max(*last);
            *last = due;
        }
        self.push(due, packet);
        if let Some(copy) = copy {
            self.tally.duplicated += 1;
            self.push(due, copy);
        }
    }

    /// The next packet that is due.
    pub fn poll_output(&mut self, now: Instant) -> Option<P> {
        if self.under_way.peek()?.due > now {
            return None;
        }
        self.tally.sent += 1;
        self.under_way.pop().map(|departure| departure.packet)
    }

    /// When the next packet is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.under_way.peek().map(|departure| departure.due)
    }

    /// What has happened so far.
    pub fn tally(&self) -> Tally {
        self.tally
    }

    fn transit(&mut self, flow: Flow, meant: bool) -> Duration {
        let Impairment {
            delay,
            jitter,
            distance,
            ..
        } = &self.impairment;
        let further = distance
            .iter()
            .filter(|(end, _)| *end == flow.source || *end == flow.destination);
        let further = further.map(|(_, delay)| *delay).sum::<Duration>();
        let jitter = if jitter.is_zero() || !meant {
            Duration::ZERO
        } else {
            jitter.mul_f64(self.lots.f64())
        };
        *delay + further + jitter
    }

    /// Draws no lot for an impossible event, so that one impairment does not move another's lots.
    fn draw(&mut self, share: f64) -> bool {
        share > 0.0 && self.lots.f64() < share
    }

    fn push(&mut self, due: Instant, packet: P) {
        self.sequence += 1;
        self.under_way.push(Departure {
            due,
            sequence: self.sequence,
            packet,
        });
    }
}

#[derive(Debug)]
struct Departure<P> {
    due: Instant,
    sequence: u64,
    packet: P,
}

impl<P> Ord for Departure<P> {
    /// The earliest is the greatest, as the heap gives that first.
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (other.due, other.sequence).cmp(&(self.due, self.sequence))
    }
}

impl<P> PartialOrd for Departure<P> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<P> PartialEq for Departure<P> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<P> Eq for Departure<P> {}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const fn udp(source: IpAddr, destination: IpAddr) -> Flow {
        Flow {
            source,
            destination,
            is_udp: true,
        }
    }

    const CALLER: IpAddr = IpAddr::V4(Ipv4Addr::new(4, 17, 168, 2));
    const DEVICE: IpAddr = IpAddr::V4(Ipv4Addr::new(202, 204, 16, 13));
    const REGISTRY: IpAddr = IpAddr::V4(Ipv4Addr::new(130, 74, 23, 6));
    const FLOW: Flow = udp(CALLER, DEVICE);
    const BACK: Flow = udp(DEVICE, CALLER);
    const MS: Duration = Duration::from_millis(1);

    /// Sends `count` packets, one a millisecond, and gives (number, time of arrival in µs).
    fn carry(impairment: Impairment, flow: Flow, count: u32) -> (Vec<(u32, u128)>, Tally) {
        let start = Instant::now();
        let mut line = Line::new(impairment);
        let mut arrived = Vec::new();
        let mut drain = |line: &mut Line<u32>, now: Instant| {
            while let Some(due) = line.poll_timeout().filter(|due| *due <= now) {
                assert_eq!(
                    line.poll_output(due - Duration::from_nanos(1)),
                    None,
                    "not early"
                );
                let packet = line.poll_output(due).expect("due");
                arrived.push((packet, (due - start).as_micros()));
            }
        };
        for number in 0..count {
            let now = start + number * MS;
            drain(&mut line, now);
            line.handle_input(flow, number, now);
        }
        drain(&mut line, start + 3600 * 1000 * MS);
        assert_eq!(line.poll_timeout(), None);
        (arrived, line.tally())
    }

    #[test]
    fn delay_moves_every_packet_by_the_same_time() {
        let (arrived, _) = carry(
            Impairment {
                delay: 20 * MS,
                ..Impairment::default()
            },
            FLOW,
            50,
        );
        let expected = (0..50)
            .map(|n| (n, u128::from(n) * 1000 + 20_000))
            .collect::<Vec<_>>();
        assert_eq!(arrived, expected);
    }

    #[test]
    fn distance_counts_for_both_ends_and_both_directions() {
        let impairment = Impairment {
            delay: 5 * MS,
            distance: vec![(CALLER, 10 * MS), (DEVICE, 20 * MS)],
            ..Impairment::default()
        };
        for flow in [FLOW, BACK] {
            assert_eq!(carry(impairment.clone(), flow, 1).0, [(0, 35_000)]);
        }
        assert_eq!(carry(impairment, udp(CALLER, CALLER), 1).0, [(0, 15_000)]);
    }

    #[test]
    fn loss_takes_its_share_and_is_the_same_for_the_same_seed() {
        let impairment = Impairment {
            loss: 0.1,
            seed: 7,
            ..Impairment::default()
        };
        let (arrived, tally) = carry(impairment.clone(), FLOW, 10_000);
        assert!((900..1100).contains(&tally.lost), "{tally:?}");
        assert_eq!(arrived.len() as u64 + tally.lost, 10_000);
        assert_eq!(carry(impairment.clone(), FLOW, 10_000).0, arrived);
        assert_ne!(
            carry(
                Impairment {
                    seed: 8,
                    ..impairment
                },
                FLOW,
                10_000
            )
            .0,
            arrived
        );
    }

    #[test]
    fn jitter_spreads_but_keeps_the_order_of_a_flow() {
        let impairment = Impairment {
            delay: 20 * MS,
            jitter: 10 * MS,
            ..Impairment::default()
        };
        let (arrived, _) = carry(impairment, FLOW, 1000);
        assert!(arrived.is_sorted(), "in order of number and of time");
        let transit = |&(n, at): &(u32, u128)| at - u128::from(n) * 1000;
        assert!(
            arrived
                .iter()
                .all(|packet| (20_000..=30_000).contains(&transit(packet)))
        );
        assert!(arrived.iter().any(|packet| transit(packet) < 23_000));
        assert!(arrived.iter().any(|packet| transit(packet) > 27_000));
    }

    #[test]
    fn reordered_packets_are_overtaken_and_none_is_missing() {
        let impairment = Impairment {
            delay: 20 * MS,
            reorder: 0.1,
            ..Impairment::default()
        };
        let (arrived, tally) = carry(impairment, FLOW, 1000);
        let overtaken = arrived
            .windows(2)
            .filter(|pair| pair[0].0 > pair[1].0)
            .count() as u64;
        assert!((50..150).contains(&tally.reordered), "{tally:?}");
        assert!(overtaken > tally.reordered / 2, "{overtaken} of {tally:?}");
        let mut numbers = arrived.iter().map(|packet| packet.0).collect::<Vec<_>>();
        numbers.sort_unstable();
        assert_eq!(numbers, (0..1000).collect::<Vec<_>>());
    }

    #[test]
    fn duplicates_follow_at_once() {
        let (arrived, tally) = carry(
            Impairment {
                duplicate: 0.5,
                ..Impairment::default()
            },
            FLOW,
            1000,
        );
        assert!((400..600).contains(&tally.duplicated), "{tally:?}");
        assert_eq!(arrived.len() as u64, 1000 + tally.duplicated);
        assert!(arrived.is_sorted());
    }

    #[test]
    fn only_what_is_meant_has_bad_luck_and_all_is_delayed() {
        let tcp = |flow: Flow| Flow {
            is_udp: false,
            ..flow
        };
        let to_registry = udp(CALLER, REGISTRY);
        let meant = |scope: &Scope| {
            [FLOW, BACK, to_registry, tcp(FLOW)].map(|flow| {
                let impairment = Impairment {
                    delay: 20 * MS,
                    loss: 1.0,
                    scope: scope.clone(),
                    ..Impairment::default()
                };
                let (arrived, _) = carry(impairment, flow, 3);
                assert!(arrived.is_empty() || arrived[0] == (0, 20_000) && arrived.len() == 3);
                arrived.is_empty()
            })
        };
        assert_eq!(meant(&Scope::All), [true, true, true, true]);
        let between = Scope::Between(DEVICE, CALLER);
        assert_eq!(meant(&between), [true, true, false, true]);
        let udp_between = Scope::UdpBetween(DEVICE, CALLER);
        assert_eq!(meant(&udp_between), [true, true, false, false]);
        let beside = Scope::UdpBeside(vec![REGISTRY]);
        assert_eq!(meant(&beside), [true, true, false, false]);
        for scope in [between, udp_between, beside] {
            let nothing = Impairment {
                scope,
                ..Impairment::default()
            };
            assert!(nothing.is_none());
        }
    }

    #[test]
    fn jitter_reordering_and_duplicates_spare_what_is_not_meant() {
        let impairment = Impairment {
            delay: 20 * MS,
            jitter: 200 * MS,
            reorder: 0.3,
            duplicate: 0.3,
            scope: Scope::UdpBetween(CALLER, DEVICE),
            ..Impairment::default()
        };
        let spared = carry(impairment.clone(), udp(CALLER, REGISTRY), 100);
        let plain = Impairment {
            delay: 20 * MS,
            ..Impairment::default()
        };
        assert_eq!(spared, carry(plain, udp(CALLER, REGISTRY), 100));
        let (arrived, tally) = carry(impairment, FLOW, 1000);
        assert_eq!(arrived.len() as u64, 1000 + tally.duplicated);
        assert!((200..400).contains(&tally.reordered), "{tally:?}");
        let last = |&(n, at): &(u32, u128)| at - u128::from(n) * 1000;
        assert!(arrived.iter().any(|packet| last(packet) > 150_000));
    }

    #[test]
    fn a_full_line_loses_what_comes_later() {
        let now = Instant::now();
        let mut line = Line::new(Impairment {
            delay: MS,
            ..Impairment::default()
        });
        for number in 0..Line::<usize>::CAPACITY + 3 {
            line.handle_input(FLOW, number, now);
        }
        assert_eq!(line.tally().overflowed, 3);
        let left = std::iter::from_fn(|| line.poll_output(now + MS)).collect::<Vec<_>>();
        assert_eq!(left, (0..Line::<usize>::CAPACITY).collect::<Vec<_>>());
    }

    #[test]
    fn a_change_is_for_later_packets_only() {
        let now = Instant::now();
        let mut line = Line::new(Impairment {
            delay: 50 * MS,
            ..Impairment::default()
        });
        line.handle_input(FLOW, 1, now);
        line.set(Impairment {
            delay: 10 * MS,
            ..Impairment::default()
        });
        line.handle_input(BACK, 2, now);
        assert_eq!(line.poll_output(now + 10 * MS), Some(2));
        assert_eq!(line.poll_output(now + 49 * MS), None);
        assert_eq!(line.poll_output(now + 50 * MS), Some(1));
    }
}
