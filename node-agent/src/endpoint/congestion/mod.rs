//! Congestion control that tells random loss from congestion.
//!
//! CUBIC takes every loss for a full queue. It starves on a network that loses packets for other reasons
//! (Wi-Fi, mobile, a bad line): with 1 % of loss and a round trip of 40 ms it reaches 4 Mb/s where BBR
//! reaches 80. BBR does not look at loss; it pushes aside whoever shares a full queue with it, and costs
//! more CPU where nothing is lost. So a link begins with CUBIC, changes to BBR when its own sending cannot
//! be the cause of what is lost, and returns when little is lost, or after a while to find out.
//!
//! What was learned of one path says nothing of another (RFC 9000, 9.4). quinn sees one address per link
//! and does not know when the path behind it changes, so [`Moves`] tells it here: then everything begins
//! anew, and what was sent before counts neither as delivered nor as lost. quinn's own estimate of the
//! round trip cannot be reset. It follows within a few round trips, but its minimum only falls; for that
//! reason the minimum is measured here.

mod loss_monitor;

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use quinn::congestion::{BbrConfig, Controller, ControllerFactory, ControllerMetrics, CubicConfig};
use quinn_proto::RttEstimator;

use loss_monitor::{Cause, HEAVY, LossMonitor};

/// A round trip that is longer by half, and by this much more, has a queue in it.
const QUEUE: Duration = Duration::from_millis(5);
/// Silence that ends within this time after a move may have begun on the path before.
const SETTLING: Duration = Duration::from_secs(1);
/// Where loss is random, the window is at least this at first, in packets.
const RANDOM_WINDOW: u64 = 32;

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

/// Makes a [`LossAwareController`] for a link.
#[derive(Debug)]
pub(super) struct LossAware(pub(super) Moves);

impl ControllerFactory for LossAware {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        Box::new(LossAwareController {
            inner: Arc::new(CubicConfig::default()).build(now, current_mtu),
            losses: LossMonitor::new(now),
            mtu: current_mtu,
            seen: self.0.count(),
            moves: self.0.clone(),
            path: Path::new(now),
        })
    }
}

/// CUBIC or BBR.
struct LossAwareController {
    inner: Box<dyn Controller>,
    losses: LossMonitor,
    mtu: u16,
    moves: Moves,
    /// How many of the moves were followed.
    seen: u32,
    path: Path,
}

/// What is measured of the path in use.
#[derive(Debug, Clone)]
struct Path {
    /// What was sent before this time took another path.
    since: Instant,
    min_rtt: Option<Duration>,
    /// quinn's minimum, which may be of another path.
    known_min: Duration,
    /// The round trip is longer than the path's own.
    has_queue: bool,
}

impl Path {
    fn new(since: Instant) -> Self {
        Self {
            since,
            min_rtt: None,
            known_min: Duration::ZERO,
            has_queue: false,
        }
    }

    fn measure(&mut self, sent: Instant, now: Instant, rtt: &RttEstimator) {
        let sample = now.saturating_duration_since(sent);
        let min = self.min_rtt.map_or(sample, |min| min.min(sample));
        self.min_rtt = Some(min);
        self.known_min = rtt.min();
        self.has_queue = rtt.get() > min.mul_f64(1.5) + QUEUE;
    }

    /// quinn takes the round trip for much shorter than it is, and BBR computes its window by quinn's.
    fn is_misjudged(&self) -> bool {
        self.min_rtt
            .is_some_and(|min| min > self.known_min.mul_f64(1.5) + QUEUE)
    }
}

impl LossAwareController {
    /// Begins anew when the path is another.
    fn follow(&mut self, now: Instant) {
        let count = self.moves.count();
        if count == self.seen {
            return;
        }
        self.seen = count;
        self.inner = Arc::new(CubicConfig::default()).build(now, self.mtu);
        self.losses = LossMonitor::new(now);
        self.path = Path::new(now);
        tracing::debug!("congestion control begins anew on another path");
    }

    /// BBR would do badly here, and loss without a queue is no sign of congestion.
    fn overlooks_loss(&self) -> bool {
        let is_random = matches!(self.losses.cause, Cause::Random { .. });
        is_random && self.path.is_misjudged() && !self.path.has_queue && self.losses.share() < HEAVY
    }

    fn change(&mut self, now: Instant) {
        let window = self.inner.window();
        let large = window.max(RANDOM_WINDOW * u64::from(self.mtu));
        let cubic = |window| {
            let mut config = CubicConfig::default();
            config.initial_window(window);
            Arc::new(config).build(now, self.mtu)
        };
        self.inner = match self.losses.cause {
            Cause::Congestion => cubic(window),
            // Slow start once more; loss without a queue is overlooked.
            Cause::Random { .. } if self.path.is_misjudged() => cubic(large),
            Cause::Random { .. } => {
                let mut config = BbrConfig::default();
                config.initial_window(large);
                Arc::new(config).build(now, self.mtu)
            }
        };
        tracing::debug!(cause = ?self.losses.cause, window, "congestion control has changed");
    }
}

impl Controller for LossAwareController {
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
        if self.losses.on_ack(self.path.has_queue, now) {
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
        if self.losses.on_loss(lost, sent, now) {
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
            losses: self.losses.clone(),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_path_begins_anew_and_what_was_sent_before_does_not_count() {
        let moves = Moves::default();
        let start = Instant::now();
        let mut control = Arc::new(LossAware(moves.clone())).build(start, 1200);
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
}
