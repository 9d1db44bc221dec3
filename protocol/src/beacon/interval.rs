//! How long the NAT keeps a mapping (§16.5): found with probes from a socket of its own, so that
//! the device is reachable all the while.

use std::time::Duration;

use super::{FLOOR, MAX_INTERVAL};

/// Between two answered datagrams of a new mapping: only after that do routers give it the longer
/// life of a stream (Linux: 2 s).
const WARM_UP: Duration = Duration::from_millis(2500);
/// Beyond the delay, until a late answer counts as lost.
const MARGIN: Duration = Duration::from_secs(3);
/// Until the first answer to a probe counts as lost, and the probe is sent again.
const ANSWER: Duration = Duration::from_secs(1);
/// Probes without a first answer after which the search is given up: the beacon is away.
const ATTEMPTS: u32 = 5;
/// The share of the longest life that was seen which is used.
const USED: f64 = 0.8;

/// A search for the longest interval between two keepalives: doubles the silence until the answer
/// after it is lost, then halves the gap. A silence counts as too long only when it has failed
/// twice: datagrams are lost for other reasons, too.
#[derive(Debug)]
pub struct Search {
    floor: Duration,
    /// The longest silence after which an answer came.
    good: Duration,
    /// The shortest one after which none came.
    bad: Option<Duration>,
    failures: u32,
    id: u64,
    step: Step,
}

#[derive(Debug)]
enum Step {
    /// The first exchange of a new mapping.
    Open {
        attempts: u32,
        next: Duration,
    },
    /// Waits until the mapping counts as a stream.
    Warm {
        until: Duration,
    },
    /// The probe is under way, its first answer is not here.
    Ask {
        silence: Duration,
        attempts: u32,
        next: Duration,
    },
    /// Silence.
    Silent {
        silence: Duration,
        until: Duration,
    },
    Done,
}

/// What the shell must do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Send a probe of this number and delay; from a new socket, the old one being forgotten, if
    /// `fresh`.
    Probe {
        id: u64,
        delay: Duration,
        fresh: bool,
    },
    /// The search has ended; this is the interval to use.
    Found(Duration),
    /// The beacon does not answer; search another time.
    GivenUp,
}

impl Search {
    /// `floor` is the interval that the device uses meanwhile, and the shortest that is found.
    pub fn new(floor: Duration, now: Duration) -> Self {
        Self {
            floor,
            good: Duration::ZERO,
            bad: None,
            failures: 0,
            id: 0,
            step: Step::Open {
                attempts: 0,
                next: now,
            },
        }
    }

    /// With the floor of §16.5.
    pub fn standard(now: Duration) -> Self {
        Self::new(FLOOR, now)
    }

    /// The beacon has answered the probe `id`; `late`: after its delay.
    pub fn handle_answer(&mut self, id: u64, late: bool, now: Duration) {
        if id != self.id {
            return;
        }
        match self.step {
            Step::Open { .. } if !late => {
                self.step = Step::Warm {
                    until: now + WARM_UP,
                };
            }
            Step::Ask { silence, .. } if !late => {
                self.step = Step::Silent {
                    silence,
                    until: now + silence + MARGIN,
                };
            }
            // The first answer may have been lost, or overtaken.
            Step::Ask { silence, .. } | Step::Silent { silence, .. } if late => {
                self.good = self.good.max(silence);
                self.failures = 0;
                self.next_silence(now);
            }
            _ => {}
        }
    }

    /// Call at [`poll_timeout`](Self::poll_timeout), and again while it gives something.
    pub fn handle_timeout(&mut self, now: Duration) -> Option<Action> {
        match &mut self.step {
            Step::Open { attempts, next } if *next <= now => {
                if *attempts == ATTEMPTS {
                    self.step = Step::Done;
                    return Some(Action::GivenUp);
                }
                *attempts += 1;
                *next = now + ANSWER;
                self.id += 1;
                Some(Action::Probe {
                    id: self.id,
                    delay: Duration::ZERO,
                    fresh: true,
                })
            }
            Step::Warm { until } if *until <= now => {
                self.next_silence(now);
                self.handle_timeout(now)
            }
            Step::Ask {
                silence,
                attempts,
                next,
            } if *next <= now => {
                if *attempts == ATTEMPTS {
                    self.step = Step::Done;
                    return Some(Action::GivenUp);
                }
                *attempts += 1;
                *next = now + ANSWER;
                self.id += 1;
                Some(Action::Probe {
                    id: self.id,
                    delay: *silence,
                    fresh: false,
                })
            }
            Step::Silent { silence, until } if *until <= now => {
                self.failures += 1;
                if self.failures == 2 {
                    self.bad = Some(*silence);
                    self.failures = 0;
                    if self.is_close_enough() {
                        return Some(self.found());
                    }
                }
                // The old mapping is gone, or may be.
                self.step = Step::Open {
                    attempts: 0,
                    next: now,
                };
                self.handle_timeout(now)
            }
            Step::Done if self.good > Duration::ZERO || self.bad.is_some() => {
                let found = self.found();
                self.good = Duration::ZERO;
                self.bad = None;
                Some(found)
            }
            _ => None,
        }
    }

    pub fn poll_timeout(&self) -> Option<Duration> {
        match &self.step {
            Step::Open { next, .. } | Step::Ask { next, .. } => Some(*next),
            Step::Warm { until } | Step::Silent { until, .. } => Some(*until),
            // The result has not been fetched yet.
            Step::Done if self.good > Duration::ZERO || self.bad.is_some() => Some(Duration::ZERO),
            Step::Done => None,
        }
    }

    fn next_silence(&mut self, now: Duration) {
        if self.is_close_enough() {
            self.step = Step::Done;
            return;
        }
        let whole = |silence: Duration| Duration::from_secs(silence.as_secs_f64().round() as u64);
        let silence = match self.bad {
            Some(bad) => whole((self.good + bad) / 2),
            // With the share that is used, the first success is worth the floor.
            None if self.good.is_zero() => whole(self.floor.div_f64(USED)) + Duration::from_secs(1),
            None => (self.good * 2).min(MAX_INTERVAL),
        };
        self.step = Step::Ask {
            silence,
            attempts: 0,
            next: now,
        };
    }

    /// Is more precision worth no more silence? The first silence that fails ends it, too: then
    /// the floor is used.
    fn is_close_enough(&self) -> bool {
        let gap = |bad: Duration| bad.saturating_sub(self.good);
        self.good >= MAX_INTERVAL
            || self.bad.is_some_and(|bad| {
                self.good.is_zero() || gap(bad) <= (self.good / 8).max(Duration::from_secs(1))
            })
    }

    fn found(&mut self) -> Action {
        self.step = Step::Done;
        let interval = self.good.mul_f64(USED).max(self.floor);
        self.good = Duration::ZERO;
        self.bad = None;
        Action::Found(Duration::from_secs(interval.as_secs()))
    }
}
