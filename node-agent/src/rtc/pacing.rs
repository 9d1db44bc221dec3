//! How much may be under way to the browser, in SCTP's buffer and in the network together: about
//! twice what the path delivers in a round trip. More would only wait in SCTP's one queue, in front
//! of what other channels have to say: a terminal beside a download would be seconds late.

use std::time::{Duration, Instant};

const FIRST: usize = 256 * 1024;
const LEAST: usize = 64 * 1024;
/// What is delivered is looked at over a round trip, but not more often than this.
const SHORTEST: Duration = Duration::from_millis(10);

#[derive(Debug)]
pub(super) struct Pacing {
    most: usize,
    limit: usize,
    since: Instant,
    delivered: u64,
    /// There was more to send than was allowed to, all the time since.
    backlogged: bool,
}

impl Pacing {
    pub(super) fn new(most: usize, now: Instant) -> Self {
        Self {
            most,
            limit: FIRST,
            since: now,
            delivered: 0,
            backlogged: false,
        }
    }

    /// Bytes that may be under way now, if `delivered` have been delivered since the start.
    pub(super) fn limit(&mut self, delivered: u64, rtt: Option<Duration>, now: Instant) -> usize {
        let window = rtt.unwrap_or(Duration::from_millis(50)).max(SHORTEST);
        let elapsed = now.saturating_duration_since(self.since);
        if elapsed >= window {
            let bytes = delivered.saturating_sub(self.delivered) as f64;
            // Looked at late, as after a pause: what counts is the rate.
            let in_window = bytes * window.as_secs_f64() / elapsed.as_secs_f64();
            let wanted = ((2.0 * in_window) as usize).clamp(LEAST, self.most);
            // What nobody wanted to send says nothing about the path.
            if wanted > self.limit || self.backlogged {
                self.limit = wanted;
            }
            self.since = now;
            self.delivered = delivered;
            self.backlogged = true;
        }
        self.limit
    }

    /// All that there was has been handed over.
    pub(super) fn idle(&mut self) {
        self.backlogged = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RTT: Duration = Duration::from_millis(40);

    #[test]
    fn follows_what_the_path_delivers() {
        let mut now = Instant::now();
        let mut pacing = Pacing::new(8 << 20, now);
        let mut delivered = 0_u64;
        // 100 MB/s: 4 MB in a round trip.
        for _ in 0..12 {
            now += RTT;
            delivered += pacing.limit.min(4_000_000) as u64;
            pacing.limit(delivered, Some(RTT), now);
        }
        assert_eq!(pacing.limit, 8_000_000);
        // Then 1 MB/s, with something to send all the time.
        for _ in 0..12 {
            now += RTT;
            delivered += 40_000;
            pacing.limit(delivered, Some(RTT), now);
        }
        assert_eq!(pacing.limit, 80_000);
    }

    #[test]
    fn a_pause_changes_nothing() {
        let mut now = Instant::now();
        let mut pacing = Pacing::new(8 << 20, now);
        for _ in 0..100 {
            now += RTT;
            pacing.idle();
            assert_eq!(pacing.limit(0, Some(RTT), now), FIRST);
        }
    }
}
