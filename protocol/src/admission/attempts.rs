//! How often callers may try a secret (§7.1). Times are those of a clock that is never set.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use crate::candidate::counted_as;
use crate::{PeerId, label};

/// Failures of one caller key within [`CALLER_WINDOW`] after which it must wait.
pub const CALLER_FAILURES: usize = 5;
/// Seconds.
pub const CALLER_WINDOW: u64 = 300;
/// Failures of all strangers together within [`TOTAL_WINDOW`] after which their secrets are refused: of
/// those that the registry relays, and as many of those on the LAN.
pub const TOTAL_FAILURES: usize = 60;
/// The same of strangers from one source of the LAN.
pub const SOURCE_FAILURES: usize = 20;
/// Seconds.
pub const TOTAL_WINDOW: u64 = 600;
/// The way that a request has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// Relayed; where it comes from is not told.
    Registry,
    /// From this address of the LAN.
    Lan(IpAddr),
}

/// Failed attempts, as long as they count.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    /// Callers are free to make, but no more than [`TOTAL_FAILURES`] of those that are not known are
    /// ever counted on either way.
    by_caller: HashMap<PeerId, VecDeque<Failure>>,
    by_source: HashMap<IpAddr, VecDeque<Duration>>,
    /// Strangers' by the registry.
    registry: VecDeque<Duration>,
    /// Strangers' on the LAN.
    lan: VecDeque<Duration>,
}

#[derive(Debug, Clone, Copy)]
struct Failure {
    at: Duration,
    envelope: [u8; 32],
}

impl Attempts {
    /// May `caller` try a secret? Otherwise the seconds until it may. Callers that are `known` share
    /// no limit with strangers.
    pub(super) fn check(
        &mut self,
        caller: &PeerId,
        from: Arrival,
        known: bool,
        now: Duration,
    ) -> Result<(), u32> {
        self.by_caller.retain(|_, failures| {
            failures.retain(|failure| is_within(failure.at, now, CALLER_WINDOW));
            !failures.is_empty()
        });
        self.by_source.retain(|_, times| {
            times.retain(|time| is_within(*time, now, TOTAL_WINDOW));
            !times.is_empty()
        });
        for total in [&mut self.registry, &mut self.lan] {
            total.retain(|time| is_within(*time, now, TOTAL_WINDOW));
        }
        let own = self.by_caller.get(caller).and_then(|failures| {
            let times = failures.iter().map(|failure| failure.at);
            wait(times, CALLER_FAILURES, now, CALLER_WINDOW)
        });
        let total = |times: &VecDeque<Duration>, limit| {
            wait(times.iter().copied(), limit, now, TOTAL_WINDOW).filter(|_| !known)
        };
        let others = match from {
            Arrival::Registry => total(&self.registry, TOTAL_FAILURES),
            Arrival::Lan(ip) => {
                let of_source = self.by_source.get(&counted_as(ip));
                let of_source = of_source.and_then(|times| total(times, SOURCE_FAILURES));
                of_source.max(total(&self.lan, TOTAL_FAILURES))
            }
        };
        own.max(others).map_or(Ok(()), Err)
    }

    /// Counts a wrong secret. The same envelope counts once, so that nobody can use up another one's
    /// attempts by repeating what that one has sent.
    pub(super) fn count(
        &mut self,
        caller: PeerId,
        from: Arrival,
        known: bool,
        envelope: &[u8],
        now: Duration,
    ) {
        let envelope = label::sha256(envelope);
        let failures = self.by_caller.entry(caller).or_default();
        if failures.iter().any(|failure| failure.envelope == envelope) {
            return;
        }
        failures.push_back(Failure { at: now, envelope });
        if known {
            return;
        }
        match from {
            Arrival::Registry => self.registry.push_back(now),
            Arrival::Lan(ip) => {
                self.lan.push_back(now);
                self.by_source
                    .entry(counted_as(ip))
                    .or_default()
                    .push_back(now);
            }
        }
    }
}

fn is_within(time: Duration, now: Duration, window: u64) -> bool {
    now.saturating_sub(time) < Duration::from_secs(window)
}

/// Seconds until fewer than `limit` of the `times`, oldest first, are in the window; `None` if that is
/// so already.
fn wait(
    mut times: impl ExactSizeIterator<Item = Duration>,
    limit: usize,
    now: Duration,
    window: u64,
) -> Option<u32> {
    let blocking = times.len().checked_sub(limit)?;
    let since = times.nth(blocking)?;
    let rest = Duration::from_secs(window).saturating_sub(now.saturating_sub(since));
    let seconds = rest.as_secs() + u64::from(rest.subsec_nanos() > 0);
    Some(u32::try_from(seconds).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SecretKey;

    fn seconds(number: u64) -> Duration {
        Duration::from_secs(number)
    }

    fn caller(number: u64) -> PeerId {
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&number.to_be_bytes());
        SecretKey::from_seed(&seed).id()
    }

    fn lan(text: &str) -> Arrival {
        Arrival::Lan(text.parse().unwrap())
    }

    /// Tries `number`, a wrong secret of a caller of its own.
    fn fail(attempts: &mut Attempts, number: u64, from: Arrival, now: u64) -> Result<(), u32> {
        let now = seconds(now);
        attempts.check(&caller(number), from, false, now)?;
        attempts.count(caller(number), from, false, &number.to_be_bytes(), now);
        Ok(())
    }

    #[test]
    fn a_flood_of_callers_is_bounded_in_memory() {
        let mut attempts = Attempts::default();
        let mut limited = 0;
        for number in 0..3_000_u64 {
            let from = match number % 2 {
                0 => Arrival::Registry,
                _ => lan(&format!("2001:db8:{number:x}::1")),
            };
            limited += usize::from(fail(&mut attempts, number, from, number).is_err());
            assert!(attempts.registry.len() <= TOTAL_FAILURES);
            assert!(attempts.lan.len() <= TOTAL_FAILURES);
            assert!(attempts.by_source.len() <= TOTAL_FAILURES);
            assert!(attempts.by_caller.len() <= 2 * TOTAL_FAILURES);
        }
        assert_eq!(limited, 3_000 - 2 * 5 * TOTAL_FAILURES);
    }

    #[test]
    fn what_comes_from_one_source_of_the_lan_costs_that_source() {
        let mut attempts = Attempts::default();
        for number in 0..SOURCE_FAILURES as u64 {
            let from = lan(&format!("fd00::{number:x}"));
            fail(&mut attempts, number, from, 0).unwrap();
        }
        assert_eq!(fail(&mut attempts, 100, lan("fd00::ffff"), 60), Err(540));
        for other in [lan("fd00:0:0:1::1"), lan("192.168.1.2"), Arrival::Registry] {
            assert_eq!(
                attempts.check(&caller(101), other, false, seconds(60)),
                Ok(())
            );
        }
        let known = attempts.check(&caller(101), lan("fd00::ffff"), true, seconds(60));
        assert_eq!(known, Ok(()));
    }

    #[test]
    fn what_comes_by_the_registry_costs_nobody_on_the_lan() {
        let mut attempts = Attempts::default();
        for number in 0..TOTAL_FAILURES as u64 {
            fail(&mut attempts, number, Arrival::Registry, 0).unwrap();
        }
        assert_eq!(fail(&mut attempts, 100, Arrival::Registry, 1), Err(599));
        assert_eq!(fail(&mut attempts, 100, lan("192.168.1.2"), 1), Ok(()));
    }

    #[test]
    fn a_failure_that_somebody_repeats_counts_once() {
        let mut attempts = Attempts::default();
        let from = Arrival::Registry;
        for now in (0..100).map(seconds) {
            assert_eq!(attempts.check(&caller(1), from, false, now), Ok(()));
            attempts.count(caller(1), from, false, b"the same", now);
        }
        assert_eq!(attempts.registry.len(), 1);
    }
}
