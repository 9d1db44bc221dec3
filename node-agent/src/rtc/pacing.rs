//! How much may be under way to the browser, in SCTP's buffer and in the network together: half as
//! much again as the path delivers in a round trip. More would only wait in SCTP's one queue, in
//! front of what other channels have to say: a terminal beside a download would be seconds late. And
//! sctp-proto looks at every chunk that is under way whenever it is polled: what is not needed there
//! is slow.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

const FIRST: usize = 192 * 1024;
const LEAST: usize = 64 * 1024;
/// What is delivered is looked at over a round trip, but not more often than this.
const SHORTEST: Duration = Duration::from_millis(4);
/// Round trips of ICE's checks that are remembered; there is one every 3 s.
const CHECKS: usize = 6;

/// Round trips of ICE's checks. The least of the last ones is the path's own; the others have
/// queues in them, which must not make the queues longer.
#[derive(Debug, Default)]
pub(super) struct RoundTrips {
    asked: VecDeque<([u8; 12], Instant)>,
    answered: VecDeque<Duration>,
}

impl RoundTrips {
    /// A datagram goes out. True if it is STUN.
    pub(super) fn sent(&mut self, datagram: &[u8], now: Instant) -> bool {
        if let Some(transaction) = transaction(datagram, [0x00, 0x01]) {
            self.asked.truncate(63);
            self.asked.push_front((transaction, now));
        }
        datagram.first().is_some_and(|first| *first < 4)
    }

    pub(super) fn received(&mut self, datagram: &[u8], now: Instant) {
        let Some(transaction) = transaction(datagram, [0x01, 0x01]) else {
            return;
        };
        let of = |(asked, _): &([u8; 12], Instant)| *asked == transaction;
        if let Some(at) = self.asked.iter().position(of)
            && let Some((_, asked)) = self.asked.remove(at)
        {
            self.answered.truncate(CHECKS - 1);
            self.answered
                .push_front(now.saturating_duration_since(asked));
        }
    }

    pub(super) fn least(&self) -> Option<Duration> {
        self.answered.iter().min().copied()
    }
}

/// The transaction of a STUN message of this type.
fn transaction(datagram: &[u8], kind: [u8; 2]) -> Option<[u8; 12]> {
    let transaction = datagram.get(8..20)?;
    datagram
        .starts_with(&kind)
        .then(|| transaction.try_into().expect("12 bytes"))
}

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
            let wanted = ((1.5 * in_window) as usize).clamp(LEAST, self.most);
            // What nobody wanted to send says nothing about the path. Acknowledgements come in
            // bursts: half of the way is enough for one look.
            if wanted > self.limit || self.backlogged {
                self.limit = usize::midpoint(self.limit, wanted);
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
        for _ in 0..30 {
            now += RTT;
            delivered += pacing.limit.min(4_000_000) as u64;
            pacing.limit(delivered, Some(RTT), now);
        }
        assert!(
            (5_900_000..=6_000_000).contains(&pacing.limit),
            "{pacing:?}"
        );
        // Then 2 MB/s, with something to send all the time.
        for _ in 0..30 {
            now += RTT;
            delivered += 80_000;
            pacing.limit(delivered, Some(RTT), now);
        }
        assert!((119_000..=121_000).contains(&pacing.limit), "{pacing:?}");
    }

    #[test]
    fn the_least_of_the_last_round_trips_counts() {
        let start = Instant::now();
        let mut trips = RoundTrips::default();
        let mut check = |number: u8, milliseconds| {
            let mut datagram = [number; 20];
            datagram[..2].copy_from_slice(&[0, 1]);
            assert!(trips.sent(&datagram, start));
            datagram[..2].copy_from_slice(&[1, 1]);
            trips.received(&datagram, start + Duration::from_millis(milliseconds));
            // Answered once already.
            trips.received(&datagram, start);
            trips.least().expect("one at least").as_millis()
        };
        assert_eq!(check(1, 40), 40);
        assert_eq!(check(2, 400), 40);
        for number in 3..=6 {
            assert_eq!(check(number, 90), 40);
        }
        assert_eq!(check(7, 95), 90);
        assert!(!trips.sent(&[22; 40], start));
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
