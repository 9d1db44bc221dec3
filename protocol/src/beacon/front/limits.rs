//! Token buckets, per source and in all, that stand before any work for strangers.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::candidate::counted_as;

/// Sources that have a bucket of their own; further ones share one until some are idle.
const MAX_SOURCES: usize = 16_384;
/// Between two looks for idle sources, which cost time when they are many.
const PURGE_INTERVAL: Duration = Duration::from_secs(1);

/// Tokens a second, and how many may be saved up.
#[derive(Debug, Clone, Copy)]
struct Rate {
    per_second: f64,
    burst: f64,
}

const fn rate(per_second: f64, burst: f64) -> Rate {
    Rate { per_second, burst }
}

const HELLO: Rate = rate(20.0, 100.0);
const STUN: Rate = rate(20.0, 100.0);
const JOIN: Rate = rate(10.0, 50.0);
/// Devices that the beacon has not met, each of which costs a public-key operation and a question
/// to the registry, which answers 600 of those a minute.
const INTRODUCTION: Rate = rate(2.0, 30.0);
const HELLOS_IN_ALL: Rate = rate(20_000.0, 20_000.0);
const STUN_IN_ALL: Rate = rate(20_000.0, 20_000.0);
const JOINS_IN_ALL: Rate = rate(1_000.0, 2_000.0);
const INTRODUCTIONS_IN_ALL: Rate = rate(20.0, 1_000.0);
/// Seen frames, under the registry's 600 a minute (§6.3).
const REPORT: Rate = rate(9.0, 50.0);

#[derive(Debug, Default)]
pub(super) struct Limits {
    hello: Limit,
    stun: Limit,
    join: Limit,
    introduction: Limit,
}

impl Limits {
    pub(super) fn hello(&mut self, from: SocketAddr, now: Duration) -> bool {
        self.hello.take(from, HELLO, HELLOS_IN_ALL, now)
    }

    pub(super) fn stun(&mut self, from: SocketAddr, now: Duration) -> bool {
        self.stun.take(from, STUN, STUN_IN_ALL, now)
    }

    pub(super) fn join(&mut self, from: SocketAddr, now: Duration) -> bool {
        self.join.take(from, JOIN, JOINS_IN_ALL, now)
    }

    pub(super) fn introduction(&mut self, from: SocketAddr, now: Duration) -> bool {
        self.introduction
            .take(from, INTRODUCTION, INTRODUCTIONS_IN_ALL, now)
    }
}

/// How fast the registry is told of devices.
#[derive(Debug, Default)]
pub(super) struct ReportPace(Bucket);

impl ReportPace {
    pub(super) fn take(&mut self, now: Duration) -> bool {
        self.0.take(REPORT, 1.0, now)
    }

    /// When there is one token again.
    pub(super) fn next(&self, now: Duration) -> Duration {
        let mut bucket = self.0;
        bucket.refill(REPORT, now);
        let lacking = (bucket.used + 1.0 - REPORT.burst).max(0.0);
        now + Duration::from_secs_f64(lacking / REPORT.per_second)
    }
}

#[derive(Debug, Default)]
struct Limit {
    sources: HashMap<IpAddr, Bucket>,
    /// Of the sources that have none of their own.
    others: Bucket,
    all: Bucket,
    purged: Duration,
}

impl Limit {
    fn take(&mut self, from: SocketAddr, each: Rate, all: Rate, now: Duration) -> bool {
        let source = counted_as(from.ip());
        if self.sources.len() >= MAX_SOURCES
            && !self.sources.contains_key(&source)
            && now >= self.purged + PURGE_INTERVAL
        {
            self.purged = now;
            self.sources.retain(|_, bucket| !bucket.is_full(each, now));
        }
        let bucket = if self.sources.len() < MAX_SOURCES || self.sources.contains_key(&source) {
            self.sources.entry(source).or_default()
        } else {
            &mut self.others
        };
        // The order matters: what one source has used up does not count against all.
        bucket.take(each, 1.0, now) && self.all.take(all, 1.0, now)
    }
}

/// Full at first.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Bucket {
    used: f64,
    at: Duration,
}

impl Bucket {
    /// Takes `tokens` if there are so many.
    pub(super) fn spend(
        &mut self,
        per_second: f64,
        burst: f64,
        tokens: f64,
        now: Duration,
    ) -> bool {
        self.take(Rate { per_second, burst }, tokens, now)
    }

    fn take(&mut self, rate: Rate, tokens: f64, now: Duration) -> bool {
        self.refill(rate, now);
        if self.used + tokens > rate.burst {
            return false;
        }
        self.used += tokens;
        true
    }

    fn is_full(&self, rate: Rate, now: Duration) -> bool {
        let mut bucket = *self;
        bucket.refill(rate, now);
        bucket.used <= 0.0
    }

    fn refill(&mut self, rate: Rate, now: Duration) {
        let gained = now.saturating_sub(self.at).as_secs_f64() * rate.per_second;
        self.used = (self.used - gained).max(0.0);
        self.at = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_source_does_not_use_up_what_others_need() {
        let mut limits = Limits::default();
        let (greedy, modest) = (
            "192.0.2.1:7".parse().unwrap(),
            "192.0.2.2:7".parse().unwrap(),
        );
        let now = Duration::from_secs(5);
        let allowed = (0..100_000).filter(|_| limits.hello(greedy, now)).count();
        assert_eq!(allowed, HELLO.burst as usize);
        assert!(limits.hello(modest, now));
        let later = now + Duration::from_secs(1);
        let allowed = (0..100).filter(|_| limits.hello(greedy, later)).count();
        assert_eq!(allowed, HELLO.per_second as usize);
    }

    #[test]
    fn sources_are_bounded_and_idle_ones_forgotten() {
        let mut limits = Limits::default();
        let address = |n: u32| SocketAddr::new(IpAddr::V4(n.into()), 7);
        let now = Duration::from_secs(5);
        for n in 0..2 * MAX_SOURCES as u32 {
            limits.hello(address(n), now);
        }
        assert_eq!(limits.hello.sources.len(), MAX_SOURCES);
        let later = now + Duration::from_secs(10);
        assert!(limits.hello(address(u32::MAX), later));
        assert_eq!(limits.hello.sources.len(), 1);
    }

    #[test]
    fn an_ipv6_network_is_one_source() {
        let mut limits = Limits::default();
        let now = Duration::ZERO;
        let allowed = (0..1000u16)
            .filter(|n| limits.join(format!("[2001:db8::{n:x}]:7").parse().unwrap(), now))
            .count();
        assert_eq!(allowed, JOIN.burst as usize);
    }
}
