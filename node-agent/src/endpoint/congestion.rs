//! Congestion control that knows bad weather from a full pipe.
//!
//! CUBIC takes every loss for a full queue. On a network that loses packets for reasons of its own
//! (Wi-Fi, mobile, a bad line) it starves: 1 % of loss at 40 ms leaves 4 Mb/s of what BBR carries 80
//! with. BBR does not look at loss, so it takes no turns where loss does mean a full queue, and costs
//! more where there is none. So a link begins with CUBIC, changes to BBR when what is lost can not be
//! its own doing, and comes back when the weather is fine, or to see.
//!
//! What was learned of one path says nothing of another (RFC 9000, 9.4). quinn sees one address per link
//! and does not know when the path behind it changes, so it is told here, by [`Moves`]: then everything
//! begins anew, and what was sent before counts neither as delivered nor as lost. quinn's own estimate
//! of the round trip can not be reset; it follows within a few round trips, but for its minimum, which
//! only falls and is not used here for that reason.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use quinn::congestion::{BbrConfig, Controller, ControllerFactory, ControllerMetrics, CubicConfig};
use quinn_proto::RttEstimator;

/// Packets after which a share of lost ones is one, and after which counting starts anew.
const ENOUGH: u64 = 400;
const WINDOW: u64 = 1600;
/// Lost at least in so many round trips: a queue that overflows once loses much in one of them.
const ROUNDS: u32 = 4;
/// More than this is lost while the round trip says that no queue has grown: the network loses them.
const LOSSY: f64 = 0.005;
/// More than this is the network's even if round trips vary, as CUBIC has its smallest window then.
/// So few packets are enough, as there may be few in a second.
const STORMY: f64 = 0.05;
const ENOUGH_STORMY: u64 = 64;
/// Less than this of [`FINE_WINDOW`] packets is fine weather.
const FINE: f64 = 0.001;
const FINE_WINDOW: u64 = 5000;
/// BBR's own losses may look like weather: CUBIC is tried again after this long, and after twice
/// that each time.
const RETRY: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(960));
/// A round trip that is longer by half, and by this much more, has a queue in it.
const CROWDED: Duration = Duration::from_millis(5);
/// For so long after a move, silence may have begun on the path before.
const SETTLING: Duration = Duration::from_secs(1);
/// BBR starts with at least this window, in packets.
const START: u64 = 32;

/// How often a link has changed to a path that has nothing to do with the one before. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Moves(Arc<AtomicU32>);

impl Moves {
    pub(super) fn note(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn count(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Makes a [`Changing`] for a link.
#[derive(Debug)]
pub(super) struct Weatherwise(pub(super) Moves);

impl ControllerFactory for Weatherwise {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        Box::new(Changing {
            inner: Arc::new(CubicConfig::default()).build(now, current_mtu),
            weather: Weather::new(now),
            mtu: current_mtu,
            seen: self.0.count(),
            moves: self.0.clone(),
            path: Path::new(now),
        })
    }
}

/// One of two controllers.
struct Changing {
    inner: Box<dyn Controller>,
    weather: Weather,
    mtu: u16,
    moves: Moves,
    /// Of the moves.
    seen: u32,
    path: Path,
}

/// What is measured of the path in use.
#[derive(Debug, Clone)]
struct Path {
    /// What was sent before this went another way.
    since: Instant,
    min_rtt: Option<Duration>,
    /// quinn's minimum, which may be of another path.
    known_min: Duration,
    /// The round trip is longer than the path's own.
    is_crowded: bool,
}

impl Path {
    fn new(since: Instant) -> Self {
        Self {
            since,
            min_rtt: None,
            known_min: Duration::ZERO,
            is_crowded: false,
        }
    }

    fn measure(&mut self, sent: Instant, now: Instant, rtt: &RttEstimator) {
        let sample = now.saturating_duration_since(sent);
        let min = self.min_rtt.map_or(sample, |min| min.min(sample));
        self.min_rtt = Some(min);
        self.known_min = rtt.min();
        self.is_crowded = rtt.get() > min.mul_f64(1.5) + CROWDED;
    }

    /// quinn takes the path for much shorter than it is. BBR reckons its window by that.
    fn is_misjudged(&self) -> bool {
        self.min_rtt
            .is_some_and(|min| min > self.known_min.mul_f64(1.5) + CROWDED)
    }
}

impl Changing {
    /// Begins anew when the path is another.
    fn follow(&mut self, now: Instant) {
        let count = self.moves.count();
        if count == self.seen {
            return;
        }
        self.seen = count;
        self.inner = Arc::new(CubicConfig::default()).build(now, self.mtu);
        self.weather = Weather::new(now);
        self.path = Path::new(now);
        tracing::debug!("congestion control begins anew on another path");
    }

    /// BBR would do badly here, and what is lost without a queue is no sign of congestion.
    fn overlooks_loss(&self) -> bool {
        let is_bad = matches!(self.weather.sky, Sky::Bad { .. });
        is_bad && self.path.is_misjudged() && !self.path.is_crowded && self.weather.share() < STORMY
    }

    fn change(&mut self, now: Instant) {
        let window = self.inner.window();
        self.inner = match self.weather.sky {
            // Slow start once more, with what is lost overlooked as far as it is no queue's.
            Sky::Bad { .. } if self.path.is_misjudged() => {
                let mut config = CubicConfig::default();
                config.initial_window(window.max(START * u64::from(self.mtu)));
                Arc::new(config).build(now, self.mtu)
            }
            Sky::Fine => {
                let mut config = CubicConfig::default();
                config.initial_window(window);
                Arc::new(config).build(now, self.mtu)
            }
            Sky::Bad { .. } => {
                let mut config = BbrConfig::default();
                config.initial_window(window.max(START * u64::from(self.mtu)));
                Arc::new(config).build(now, self.mtu)
            }
        };
        tracing::debug!(sky = ?self.weather.sky, window, "congestion control has changed");
    }
}

impl Controller for Changing {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        self.follow(now);
        self.inner.on_sent(now, bytes, last_packet_number);
    }

    fn on_ack(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        app_limited: bool,
        rtt: &RttEstimator,
    ) {
        self.follow(now);
        if sent < self.path.since {
            return;
        }
        self.path.measure(sent, now, rtt);
        self.inner.on_ack(now, sent, bytes, app_limited, rtt);
        if self.weather.arrived(self.path.is_crowded, now) {
            self.change(now);
        }
    }

    fn on_end_acks(
        &mut self,
        now: Instant,
        in_flight: u64,
        app_limited: bool,
        largest_packet_num_acked: Option<u64>,
    ) {
        self.inner
            .on_end_acks(now, in_flight, app_limited, largest_packet_num_acked);
    }

    fn on_congestion_event(
        &mut self,
        now: Instant,
        sent: Instant,
        is_persistent_congestion: bool,
        lost_bytes: u64,
    ) {
        self.follow(now);
        if sent < self.path.since {
            return;
        }
        // Silence that began on the path before is none of this one's.
        let persists = is_persistent_congestion && sent > self.path.since + SETTLING;
        if !self.overlooks_loss() {
            self.inner
                .on_congestion_event(now, sent, persists, lost_bytes);
        }
        let lost = lost_bytes.div_ceil(u64::from(self.mtu));
        if self.weather.lost(lost, sent, now) {
            self.change(now);
        }
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.mtu = new_mtu;
        self.inner.on_mtu_update(new_mtu);
    }

    fn window(&self) -> u64 {
        self.inner.window()
    }

    fn metrics(&self) -> ControllerMetrics {
        self.inner.metrics()
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(Self {
            inner: self.inner.clone_box(),
            weather: self.weather.clone(),
            mtu: self.mtu,
            moves: self.moves.clone(),
            seen: self.seen,
            path: self.path.clone(),
        })
    }

    fn initial_window(&self) -> u64 {
        self.inner.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

/// What is lost of what is sent, and what that says of the network.
#[derive(Debug, Clone)]
struct Weather {
    sky: Sky,
    /// Packets since counting began.
    arrived: u64,
    lost: u64,
    /// Round trips in which some were lost, and when the last of them began.
    rounds: u32,
    round: Instant,
    /// The round trip is longer than the network's own.
    crowded: bool,
    /// The next stay with BBR.
    patience: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sky {
    Fine,
    Bad { until: Instant },
}

impl Weather {
    fn new(now: Instant) -> Self {
        Self {
            sky: Sky::Fine,
            arrived: 0,
            lost: 0,
            rounds: 0,
            round: now,
            crowded: false,
            patience: RETRY.0,
        }
    }

    /// A packet was acknowledged. Has the sky changed?
    fn arrived(&mut self, crowded: bool, now: Instant) -> bool {
        self.crowded = crowded;
        self.arrived += 1;
        let total = self.arrived + self.lost;
        match self.sky {
            Sky::Fine if total >= WINDOW => {
                self.count_anew();
                false
            }
            Sky::Bad { .. } if total >= FINE_WINDOW => {
                let clears = self.share() < FINE;
                self.count_anew();
                if clears {
                    self.patience = RETRY.0;
                    self.sky = Sky::Fine;
                }
                clears
            }
            Sky::Bad { until } if until <= now => {
                self.count_anew();
                self.patience = (self.patience * 2).min(RETRY.1);
                self.sky = Sky::Fine;
                true
            }
            Sky::Fine | Sky::Bad { .. } => false,
        }
    }

    /// So many packets are lost, the last of them sent then. Has the sky changed?
    fn lost(&mut self, packets: u64, sent: Instant, now: Instant) -> bool {
        self.lost += packets;
        if sent > self.round || self.rounds == 0 {
            self.rounds += 1;
            self.round = now;
        }
        if self.sky != Sky::Fine || self.rounds < ROUNDS {
            return false;
        }
        let (total, share) = (self.arrived + self.lost, self.share());
        let is_lossy = total >= ENOUGH && share >= LOSSY && !self.crowded;
        let is_stormy = total >= ENOUGH_STORMY && share >= STORMY;
        if !is_lossy && !is_stormy {
            return false;
        }
        self.sky = Sky::Bad {
            until: now + self.patience,
        };
        self.count_anew();
        true
    }

    fn share(&self) -> f64 {
        self.lost as f64 / (self.arrived + self.lost).max(1) as f64
    }

    fn count_anew(&mut self) {
        (self.arrived, self.lost, self.rounds) = (0, 0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RTT: Duration = Duration::from_millis(40);

    /// Sends packets of which every `nth` is lost, one a millisecond; gives the time of the first
    /// change.
    fn change(weather: &mut Weather, nth: u64, count: u64, crowded: bool) -> Option<Duration> {
        let start = weather.round;
        for number in 1..=count {
            let now = start + Duration::from_millis(number);
            let changed = if nth > 0 && number.is_multiple_of(nth) {
                weather.lost(1, now - RTT, now)
            } else {
                weather.arrived(crowded, now)
            };
            if changed {
                weather.round = now;
                return Some(now - start);
            }
        }
        None
    }

    #[test]
    fn another_path_begins_anew_and_what_was_sent_before_does_not_count() {
        let moves = Moves::default();
        let start = Instant::now();
        let mut control = Arc::new(Weatherwise(moves.clone())).build(start, 1200);
        let at = |ms| start + Duration::from_millis(ms);
        let fresh = control.window();
        control.on_sent(at(1), 1200, 1);
        control.on_congestion_event(at(50), at(1), false, 1200);
        let reduced = control.window();
        assert!(reduced < fresh, "{reduced} of {fresh}");
        control.on_sent(at(60), 1200, 2);
        assert_eq!(control.window(), reduced, "the same path");
        moves.note();
        control.on_sent(at(70), 1200, 3);
        assert_eq!(control.window(), fresh);
        control.on_congestion_event(at(80), at(60), false, 1200);
        assert_eq!(control.window(), fresh, "lost on the path before");
        control.on_congestion_event(at(90), at(75), false, 1200);
        assert!(control.window() < fresh);
    }

    #[test]
    fn steady_loss_without_a_queue_is_weather() {
        let mut weather = Weather::new(Instant::now() + RTT);
        let after = change(&mut weather, 100, 5000, false).expect("1 % is bad weather");
        assert!(after < Duration::from_millis(600), "{after:?}");
        assert!(matches!(weather.sky, Sky::Bad { .. }));
        // It clears up.
        assert!(change(&mut weather, 0, 6000, false).is_some());
        assert_eq!(weather.sky, Sky::Fine);
    }

    #[test]
    fn little_loss_and_that_of_a_queue_are_not() {
        let fresh = || Weather::new(Instant::now() + RTT);
        assert_eq!(change(&mut fresh(), 1000, 50_000, false), None, "0.1 %");
        assert_eq!(
            change(&mut fresh(), 100, 50_000, true),
            None,
            "a full queue"
        );
        // Slow start has gone too far: half of a large window is lost within a round trip.
        let mut weather = fresh();
        let start = weather.round;
        for number in 0..3000 {
            let now = start + Duration::from_micros(10 * number);
            assert!(!weather.arrived(false, now));
            assert!(!weather.lost(1, start + Duration::from_nanos(1), now));
        }
    }

    #[test]
    fn a_storm_is_one_however_round_trips_vary_and_cubic_is_tried_again() {
        let mut weather = Weather::new(Instant::now() + RTT);
        let mut stays = Vec::new();
        for _ in 0..6 {
            let after = change(&mut weather, 4, 5000, true).expect("25 % is a storm");
            assert!(after < Duration::from_millis(300), "{after:?}");
            let began = weather.round;
            let Sky::Bad { until } = weather.sky else {
                panic!("{weather:?}")
            };
            stays.push((until - began).as_secs());
            assert!(weather.arrived(true, until));
            assert_eq!(weather.sky, Sky::Fine);
            weather.round = until;
        }
        assert_eq!(stays, [60, 120, 240, 480, 960, 960]);
    }
}
