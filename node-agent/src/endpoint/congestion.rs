//! Congestion control that knows bad weather from a full pipe.
//!
//! CUBIC takes every loss for a full queue. On a network that loses packets for reasons of its own
//! (Wi-Fi, mobile, a bad line) it starves: 1 % of loss at 40 ms leaves 4 Mb/s of what BBR carries 80
//! with. BBR does not look at loss, so it takes no turns where loss does mean a full queue, and costs
//! more where there is none. So a link begins with CUBIC, changes to BBR when what is lost can not be
//! its own doing, and comes back when the weather is fine, or to see.

use std::any::Any;
use std::sync::Arc;
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
/// BBR starts with at least this window, in packets.
const START: u64 = 32;

/// Makes a [`Changing`] for each link.
#[derive(Debug, Default)]
pub(super) struct Weatherwise;

impl ControllerFactory for Weatherwise {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        Box::new(Changing {
            inner: Arc::new(CubicConfig::default()).build(now, current_mtu),
            weather: Weather::new(now),
            mtu: current_mtu,
        })
    }
}

/// One of two controllers.
struct Changing {
    inner: Box<dyn Controller>,
    weather: Weather,
    mtu: u16,
}

impl Changing {
    fn change(&mut self, now: Instant) {
        let window = self.inner.window();
        self.inner = match self.weather.sky {
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
        self.inner.on_ack(now, sent, bytes, app_limited, rtt);
        let crowded = rtt.get() > rtt.min().mul_f64(1.5) + Duration::from_millis(5);
        if self.weather.arrived(crowded, now) {
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
        self.inner
            .on_congestion_event(now, sent, is_persistent_congestion, lost_bytes);
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
