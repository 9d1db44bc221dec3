//! When to go back to the registry after a connection has ended, without a clock of its own.
//!
//! A registry that restarts is asked soon again, and then less and less often. An agent whose place
//! another one with the same key has taken must not take it back at once: the other one would do
//! the same, a hundred times a minute (PROTOCOL §6.1). A connection that stood for a second proves
//! nothing in either case, so only one that stood long enough starts the count anew.

use std::time::Duration;

use tokio::time::Instant;

/// First pause; doubles up to [`MAX`], or to [`MAX_LATER`] once the registry has been away for
/// [`PATIENCE`].
const FIRST: Duration = Duration::from_millis(250);
const MAX: Duration = Duration::from_secs(3);
const MAX_LATER: Duration = Duration::from_secs(30);
const PATIENCE: Duration = Duration::from_secs(600);
/// A registration that stood for so long was a good one.
const STANDING: Duration = Duration::from_secs(60);
/// First pause after another agent has taken the place, and after the registry has said that it has
/// the same key. Doubles up to [`MAX_RIVAL`].
const REPLACED: Duration = Duration::from_secs(15);
const KEY_IN_USE: Duration = Duration::from_secs(60);
const MAX_RIVAL: Duration = Duration::from_secs(300);
/// The other one is gone when a registration has stood for so many of those pauses.
const RIVAL_GONE: u32 = 3;

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// It broke off, or did not come about.
    Lost,
    /// The registry will not have this agent.
    Refused,
    /// Another agent has registered with this key.
    Replaced,
    /// The same, and the registry knows that the two take the place from each other.
    KeyInUse,
}

/// The pauses of one agent.
#[derive(Debug)]
pub(crate) struct Reconnect {
    pause: Duration,
    rival_pause: Option<Duration>,
    away_since: Instant,
}

impl Reconnect {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            pause: FIRST,
            rival_pause: None,
            away_since: now,
        }
    }

    /// How long to stay away, before jitter. `registered`: since when the connection that has ended
    /// was registered, if it was.
    pub(crate) fn pause(
        &mut self,
        ended: Ended,
        registered: Option<Instant>,
        now: Instant,
    ) -> Duration {
        let stood = registered.map_or(Duration::ZERO, |since| now - since);
        if stood >= STANDING {
            self.pause = FIRST;
            self.away_since = now;
        }
        self.rival_pause = self
            .rival_pause
            .filter(|pause| stood < STANDING.max(*pause * RIVAL_GONE));
        match ended {
            Ended::Lost => {
                let pause = self.pause;
                let most = if now - self.away_since < PATIENCE {
                    MAX
                } else {
                    MAX_LATER
                };
                self.pause = (pause * 2).min(most);
                pause
            }
            Ended::Refused => MAX_LATER,
            Ended::Replaced | Ended::KeyInUse => {
                let first = if ended == Ended::Replaced {
                    REPLACED
                } else {
                    KEY_IN_USE
                };
                let pause = self
                    .rival_pause
                    .map_or(first, |last| (last * 2).clamp(first, MAX_RIVAL));
                self.rival_pause = Some(pause);
                pause
            }
        }
    }
}

/// Others do the same at the same moment: a deploy drops all sockets.
pub(crate) fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(rand::random_range(0.5..1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(pause: Duration) -> u128 {
        pause.as_millis()
    }

    #[test]
    fn a_registry_that_is_away_is_asked_less_and_less_often() {
        let start = Instant::now();
        let mut reconnect = Reconnect::new(start);
        let mut now = start;
        let mut pauses = Vec::new();
        for _ in 0..220 {
            let pause = reconnect.pause(Ended::Lost, None, now);
            pauses.push(ms(pause));
            now += pause;
        }
        assert_eq!(pauses[..5], [250, 500, 1000, 2000, 3000]);
        assert!(pauses[5..200].iter().all(|pause| *pause == 3000));
        assert_eq!(*pauses.last().unwrap(), 30_000, "after ten minutes");
    }

    #[test]
    fn a_success_of_a_second_proves_nothing() {
        let start = Instant::now();
        let mut reconnect = Reconnect::new(start);
        let mut now = start;
        let mut registrations = 0;
        while now < start + Duration::from_secs(40) {
            registrations += 1;
            let since = now;
            now += Duration::from_millis(50);
            now += reconnect.pause(Ended::Lost, Some(since), now);
        }
        assert!(registrations < 20, "{registrations}");
        let since = now;
        now += STANDING;
        assert_eq!(reconnect.pause(Ended::Lost, Some(since), now), FIRST);
    }

    /// Two agents with one key, at a registry that lets the newest in: 190 registrations in 40 s once.
    #[test]
    fn two_agents_with_one_key_meet_ever_more_seldom() {
        for told in [Ended::Replaced, Ended::KeyInUse] {
            let start = Instant::now();
            let mut agents = [Reconnect::new(start), Reconnect::new(start)];
            let mut since = start;
            let mut now = start;
            let mut registrations = Vec::new();
            // The one on the socket, and when the other one comes back.
            let mut on = 0;
            while now < start + Duration::from_secs(3_600) {
                let lost = agents[on].pause(told, Some(since), now);
                registrations.push(now - start);
                on = 1 - on;
                since = now;
                now += lost;
            }
            let within = |secs| {
                let span = Duration::from_secs(secs);
                registrations.iter().filter(|at| **at < span).count()
            };
            assert!(within(40) <= 3, "{told:?}: {registrations:?}");
            assert!(within(3_600) < 25, "{told:?}: {}", within(3_600));
        }
    }

    #[test]
    fn when_the_other_one_is_gone_the_count_starts_anew() {
        let start = Instant::now();
        let mut reconnect = Reconnect::new(start);
        assert_eq!(reconnect.pause(Ended::KeyInUse, None, start), KEY_IN_USE);
        let stood = start + Duration::from_secs(100);
        let again = reconnect.pause(Ended::KeyInUse, Some(start), stood);
        assert_eq!(again, KEY_IN_USE * 2, "it had not stood for long");
        let stood = start + Duration::from_secs(1_000);
        let last = reconnect.pause(Ended::Replaced, Some(start), stood);
        assert_eq!(last, REPLACED);
    }
}
