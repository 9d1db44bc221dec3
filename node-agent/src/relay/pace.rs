//! How fast an end sends through a relay that forwards so many bytes a second, of both ends together:
//! what is sent faster is dropped there, after it has cost this host's line and the relay's owner.
//! What waits here too long is dropped before it has cost anything, and congestion control sees that.
//!
//! Each end keeps the relay's own account, by what it sends and what it hears. Half of the rate is its
//! own, whatever the other end sends; of the rest it takes what the other one leaves.

use std::time::{Duration, Instant};

/// Of the relay's rate, what is used: clocks differ, and the relay counts a little more than this end.
const SHARE: f64 = 0.95;
/// What may be sent at once, in seconds of the rate. Relays allow one.
const BURST: f64 = 0.2;

/// The account of one room. Time is passed in.
#[derive(Debug)]
pub(super) struct Pace {
    /// None: the relay has not told its rate.
    buckets: Option<Buckets>,
    at: Instant,
}

#[derive(Debug)]
struct Buckets {
    /// What both ends send.
    both: Bucket,
    /// What this one sends, of its half.
    own: Bucket,
}

/// Bytes, and bytes a second.
#[derive(Debug)]
struct Bucket {
    left: f64,
    rate: f64,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            buckets: None,
            at: now,
        }
    }

    /// The relay has told its rate in bytes a second; 0: it does not say.
    pub(super) fn set_rate(&mut self, rate: u64, now: Instant) {
        let rate = rate as f64 * SHARE;
        let known = self.buckets.as_ref().map_or(0.0, |known| known.both.rate);
        if known != rate {
            self.buckets = (rate > 0.0).then(|| Buckets {
                both: Bucket::full(rate),
                own: Bucket::full(rate / 2.0),
            });
            self.at = now;
        }
    }

    /// So many bytes have been sent.
    pub(super) fn sent(&mut self, bytes: usize, now: Instant) {
        if let Some(buckets) = self.refilled(now) {
            buckets.both.take(bytes);
            buckets.own.take(bytes);
        }
    }

    /// So many bytes have come from the other end.
    pub(super) fn heard(&mut self, bytes: usize, now: Instant) {
        if let Some(buckets) = self.refilled(now) {
            buckets.both.take(bytes);
        }
    }

    /// May more be sent now?
    pub(super) fn is_open(&mut self, now: Instant) -> bool {
        self.refilled(now)
            .is_none_or(|buckets| buckets.both.left > 0.0 || buckets.own.left > 0.0)
    }

    /// When more may be sent.
    pub(super) fn opens_at(&mut self, now: Instant) -> Instant {
        match self.refilled(now) {
            Some(buckets) => now + buckets.both.opens_in().min(buckets.own.opens_in()),
            None => now,
        }
    }

    fn refilled(&mut self, now: Instant) -> Option<&mut Buckets> {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = now.max(self.at);
        let buckets = self.buckets.as_mut()?;
        buckets.both.refill(passed);
        buckets.own.refill(passed);
        Some(buckets)
    }
}

impl Bucket {
    fn full(rate: f64) -> Self {
        Self {
            left: rate * BURST,
            rate,
        }
    }

    fn refill(&mut self, seconds: f64) {
        self.left = (self.left + seconds * self.rate).min(self.rate * BURST);
    }

    /// What is owed is a burst at most.
    fn take(&mut self, bytes: usize) {
        self.left = (self.left - bytes as f64).max(-self.rate * BURST);
    }

    fn opens_in(&self) -> Duration {
        if self.left > 0.0 {
            Duration::ZERO
        } else {
            Duration::from_secs_f64((1.0 - self.left) / self.rate)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: u64 = 4 << 20;
    const DATAGRAM: usize = 1200;

    /// Ends that always have something to send, for ten seconds: what each has sent.
    fn race(mut ends: Vec<Pace>) -> Vec<usize> {
        let start = Instant::now();
        let mut sent = vec![0; ends.len()];
        for end in &mut ends {
            end.set_rate(RATE, start);
        }
        for step in 0..100_000 {
            let now = start + Duration::from_micros(step * 100);
            for one in 0..ends.len() {
                if !ends[one].is_open(now) {
                    continue;
                }
                sent[one] += DATAGRAM;
                for (other, end) in ends.iter_mut().enumerate() {
                    if other == one {
                        end.sent(DATAGRAM, now);
                    } else {
                        end.heard(DATAGRAM, now);
                    }
                }
            }
        }
        sent
    }

    #[test]
    fn what_is_sent_is_what_the_relay_forwards() {
        let sent = race(vec![Pace::new(Instant::now())])[0] as f64;
        let forwarded = 10.0 * RATE as f64;
        assert!(sent < forwarded && sent > 0.9 * forwarded, "{sent}");
    }

    #[test]
    fn two_ends_that_both_send_share_the_rate() {
        let now = Instant::now();
        let sent = race(vec![Pace::new(now), Pace::new(now)]);
        let all: usize = sent.iter().sum();
        assert!((all as f64) < 10.0 * RATE as f64, "{sent:?}");
        let least = *sent.iter().min().unwrap() as f64;
        assert!(least > 0.4 * all as f64, "{sent:?}");
    }

    #[test]
    fn a_relay_that_does_not_say_is_not_waited_for() {
        let now = Instant::now();
        let mut pace = Pace::new(now);
        for rate in [None, Some(0)] {
            if let Some(rate) = rate {
                pace.set_rate(rate, now);
            }
            pace.sent(1 << 30, now);
            assert!(pace.is_open(now));
            assert_eq!(pace.opens_at(now), now);
        }
    }

    #[test]
    fn it_opens_when_it_says() {
        let now = Instant::now();
        let mut pace = Pace::new(now);
        pace.set_rate(RATE, now);
        while pace.is_open(now) {
            pace.sent(DATAGRAM, now);
        }
        let at = pace.opens_at(now);
        assert!(at > now && at < now + Duration::from_millis(10));
        assert!(pace.is_open(at));
    }
}
