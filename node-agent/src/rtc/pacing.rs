//! How much may be under way to the browser, in SCTP's buffer and in the network together: what the
//! path delivers in a round trip, and a little more to see whether it takes that, too. More would only
//! wait in SCTP's one queue, in front of what other channels have to say: a terminal beside a download
//! would be seconds late. sctp-proto looks at every chunk that is under way whenever it is polled: what
//! is not needed there is slow. And it sends what was lost again at one packet in a round trip, so that
//! a queue that overflows costs seconds.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

const FIRST: usize = 192 * 1024;
const LEAST: usize = 64 * 1024;
/// Bytes by which that may grow in a round trip, at most: what goes beyond a path's rate has to fit
/// into the smallest queue on it, which is the browser's own socket buffer.
const MORE: f64 = 64_000.0;
/// What is delivered is looked at over a round trip, but not more often than this.
const SHORTEST: Duration = Duration::from_millis(4);
/// Bytes that go at once after a pause.
const BURST: f64 = 24_000.0;
/// What waits is looked at so often; shorter timers there are none.
pub(super) const TICK: Duration = Duration::from_millis(1);
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
            let more = (0.5 * in_window).min(MORE);
            let wanted = ((in_window + more) as usize).clamp(LEAST, self.most);
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

    /// Bytes per second at which that is sent: a little faster than it is delivered, so that the
    /// pace never is what limits. On short paths it is not held to any: timers are too coarse, and
    /// what is lost there is sent again at once.
    pub(super) fn rate(&self, rtt: Option<Duration>) -> f64 {
        let window = rtt.unwrap_or(Duration::from_millis(50));
        if window < SHORTEST {
            return f64::INFINITY;
        }
        1.25 * self.limit as f64 / window.as_secs_f64()
    }

    /// All that there was has been handed over.
    pub(super) fn idle(&mut self) {
        self.backlogged = false;
    }
}

/// Spreads the datagrams that SCTP gives over the round trip. Acknowledgements come in bursts, and
/// sctp-proto answers each with all that it allows: more at a time than a browser's socket buffer
/// holds (64 KiB with the kernel's overhead in it, some 56 datagrams), which would lose the rest,
/// and half of SCTP's window with it.
#[derive(Debug)]
pub(super) struct Smoother {
    waiting: VecDeque<(SocketAddr, Vec<u8>)>,
    /// Bytes that may go at once.
    room: f64,
    since: Instant,
}

impl Smoother {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            waiting: VecDeque::new(),
            room: BURST,
            since: now,
        }
    }

    /// Whether a datagram may go at once. If not, it is to be given to [`Self::push`].
    pub(super) fn allows(&mut self, bytes: usize, rate: f64, now: Instant) -> bool {
        self.fill(rate, now);
        if !self.waiting.is_empty() || self.room < 0.0 {
            return false;
        }
        self.room -= bytes as f64;
        true
    }

    pub(super) fn push(&mut self, to: SocketAddr, datagram: Vec<u8>) {
        self.waiting.push_back((to, datagram));
    }

    /// The next one whose time has come.
    pub(super) fn pop(&mut self, rate: f64, now: Instant) -> Option<(SocketAddr, Vec<u8>)> {
        self.fill(rate, now);
        if self.room < 0.0 {
            return None;
        }
        let next = self.waiting.pop_front()?;
        self.room -= next.1.len() as f64;
        Some(next)
    }

    /// Whatever waits, at once: nothing more follows.
    pub(super) fn rest(&mut self) -> VecDeque<(SocketAddr, Vec<u8>)> {
        std::mem::take(&mut self.waiting)
    }

    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    fn fill(&mut self, rate: f64, now: Instant) {
        let elapsed = now.saturating_duration_since(self.since).as_secs_f64();
        self.since = now;
        if rate.is_infinite() {
            self.room = BURST;
            return;
        }
        // A timer may be late by more than its own length.
        let most = BURST.max(2.0 * rate * TICK.as_secs_f64());
        self.room = (self.room + rate * elapsed).min(most);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_spread_over_the_round_trip() {
        let start = Instant::now();
        let to = SocketAddr::from(([192, 0, 2, 1], 9));
        let mut smoother = Smoother::new(start);
        // 100 datagrams at 1.2 MB/s: one a millisecond.
        let at_once = (0..100)
            .filter(|_| {
                let allowed = smoother.allows(1200, 1_200_000.0, start);
                if !allowed {
                    smoother.push(to, vec![0; 1200]);
                }
                allowed
            })
            .count();
        assert_eq!(at_once, (BURST / 1200.0) as usize + 1);
        let mut sent = at_once;
        for millisecond in 1..=100 {
            let now = start + Duration::from_millis(millisecond);
            while smoother.pop(1_200_000.0, now).is_some() {
                sent += 1;
            }
            let most = at_once + millisecond as usize + 1;
            assert!(sent <= most.min(100), "{sent} at {millisecond} ms");
        }
        assert_eq!(sent, 100);
        assert!(!smoother.is_waiting());
    }

    const RTT: Duration = Duration::from_millis(40);

    #[test]
    fn follows_what_the_path_delivers() {
        let mut now = Instant::now();
        let mut pacing = Pacing::new(8 << 20, now);
        let mut delivered = 0_u64;
        // 100 MB/s: 4 MB in a round trip.
        for _ in 0..200 {
            now += RTT;
            delivered += pacing.limit.min(4_000_000) as u64;
            pacing.limit(delivered, Some(RTT), now);
        }
        assert!(
            (4_050_000..=4_064_000).contains(&pacing.limit),
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
