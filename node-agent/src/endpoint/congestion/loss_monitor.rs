//! What is lost of what is sent, and what that says of the network.

use std::time::{Duration, Instant};

/// Packets after which the share of lost ones says something, and after which counting starts anew.
const MIN_SAMPLE: u64 = 400;
const SAMPLE: u64 = 1600;
/// Packets have to be lost in so many round trips: a queue that overflows once loses many in one.
const MIN_ROUNDS: u32 = 4;
/// Share of packets that a network loses by itself if the round trip says that no queue has grown.
const RANDOM: f64 = 0.005;
/// Share that counts as random whatever the round trip says, as CUBIC has its smallest window then.
/// Fewer packets are enough, as there may be few in a second.
pub(super) const HEAVY: f64 = 0.05;
const MIN_SAMPLE_HEAVY: u64 = 64;
/// Less than this share of [`CLEAN_SAMPLE`] packets means that the network does not lose them any more.
const CLEAN: f64 = 0.001;
const CLEAN_SAMPLE: u64 = 5000;
/// BBR's own losses may look random: CUBIC is tried again after this long, and after twice that each
/// time, up to the second.
const RETRY: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(960));

/// Counts what is lost of what is sent. See the [module](self).
#[derive(Debug, Clone)]
pub(super) struct LossMonitor {
    pub(super) cause: Cause,
    /// Packets since counting began.
    arrived: u64,
    lost: u64,
    /// Round trips in which some were lost, and when the last of them began.
    rounds: u32,
    round: Instant,
    /// The round trip is longer than the path's own.
    has_queue: bool,
    /// The next stay with BBR.
    stay: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// The link sends too much: CUBIC.
    Congestion,
    /// The network loses packets by itself: BBR, until then at most.
    Random { until: Instant },
}

impl LossMonitor {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            cause: Cause::Congestion,
            arrived: 0,
            lost: 0,
            rounds: 0,
            round: now,
            has_queue: false,
            stay: RETRY.0,
        }
    }

    /// A packet was acknowledged. Has the cause changed?
    pub(super) fn on_ack(&mut self, has_queue: bool, now: Instant) -> bool {
        self.has_queue = has_queue;
        self.arrived += 1;
        let total = self.arrived + self.lost;
        match self.cause {
            Cause::Congestion if total >= SAMPLE => {
                self.count_anew();
                false
            }
            Cause::Random { .. } if total >= CLEAN_SAMPLE => {
                let is_clean = self.share() < CLEAN;
                self.count_anew();
                if is_clean {
                    self.stay = RETRY.0;
                    self.cause = Cause::Congestion;
                }
                is_clean
            }
            Cause::Random { until } if until <= now => {
                self.count_anew();
                self.stay = (self.stay * 2).min(RETRY.1);
                self.cause = Cause::Congestion;
                true
            }
            Cause::Congestion | Cause::Random { .. } => false,
        }
    }

    /// So many packets were lost, the last of which was sent at `sent`. Has the cause changed?
    pub(super) fn on_loss(&mut self, packets: u64, sent: Instant, now: Instant) -> bool {
        self.lost += packets;
        if sent > self.round || self.rounds == 0 {
            self.rounds += 1;
            self.round = now;
        }
        if self.cause != Cause::Congestion || self.rounds < MIN_ROUNDS {
            return false;
        }
        let (total, share) = (self.arrived + self.lost, self.share());
        let is_random = total >= MIN_SAMPLE && share >= RANDOM && !self.has_queue;
        let is_heavy = total >= MIN_SAMPLE_HEAVY && share >= HEAVY;
        if !is_random && !is_heavy {
            return false;
        }
        self.cause = Cause::Random {
            until: now + self.stay,
        };
        self.count_anew();
        true
    }

    pub(super) fn share(&self) -> f64 {
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
    fn change(losses: &mut LossMonitor, nth: u64, count: u64, has_queue: bool) -> Option<Duration> {
        let start = losses.round;
        for number in 1..=count {
            let now = start + Duration::from_millis(number);
            let changed = if nth > 0 && number.is_multiple_of(nth) {
                losses.on_loss(1, now - RTT, now)
            } else {
                losses.on_ack(has_queue, now)
            };
            if changed {
                losses.round = now;
                return Some(now - start);
            }
        }
        None
    }

    #[test]
    fn steady_loss_without_a_queue_is_random() {
        let mut losses = LossMonitor::new(Instant::now() + RTT);
        let after = change(&mut losses, 100, 5000, false).expect("1 % is random");
        assert!(after < Duration::from_millis(600), "{after:?}");
        assert!(matches!(losses.cause, Cause::Random { .. }));
        // Nothing is lost any more.
        assert!(change(&mut losses, 0, 6000, false).is_some());
        assert_eq!(losses.cause, Cause::Congestion);
    }

    #[test]
    fn little_loss_and_that_of_a_queue_are_not() {
        let fresh = || LossMonitor::new(Instant::now() + RTT);
        assert_eq!(change(&mut fresh(), 1000, 50_000, false), None, "0.1 %");
        assert_eq!(
            change(&mut fresh(), 100, 50_000, true),
            None,
            "a full queue"
        );
        // Slow start has gone too far: half of a large window is lost within a round trip.
        let mut losses = fresh();
        let start = losses.round;
        for number in 0..3000 {
            let now = start + Duration::from_micros(10 * number);
            assert!(!losses.on_ack(false, now));
            assert!(!losses.on_loss(1, start + Duration::from_nanos(1), now));
        }
    }

    #[test]
    fn heavy_loss_is_random_however_round_trips_vary_and_cubic_is_tried_again() {
        let mut losses = LossMonitor::new(Instant::now() + RTT);
        let mut stays = Vec::new();
        for _ in 0..6 {
            let after = change(&mut losses, 4, 5000, true).expect("25 % is heavy");
            assert!(after < Duration::from_millis(300), "{after:?}");
            let began = losses.round;
            let Cause::Random { until } = losses.cause else {
                panic!("{losses:?}")
            };
            stays.push((until - began).as_secs());
            assert!(losses.on_ack(true, until));
            assert_eq!(losses.cause, Cause::Congestion);
            losses.round = until;
        }
        assert_eq!(stays, [60, 120, 240, 480, 960, 960]);
    }
}
