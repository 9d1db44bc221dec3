//! How far a transfer is: its run tells it, and views follow it.

use leptos::task::spawn_local;

use crate::{
    browser,
    live::{Kept, Live},
    sentence::Failure,
};

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum State {
    /// Others are before it.
    Queued,
    Running,
    Paused,
    /// The link is being made anew.
    Waiting,
    /// All is carried; the hash is being compared.
    Checking,
    Done,
    Failed(Failure),
}

/// How far one transfer is.
#[derive(Clone, Copy)]
pub(crate) struct Progress {
    pub(crate) state: Live<State>,
    pub(crate) done: Live<f64>,
    /// Bytes per second.
    pub(crate) rate: Live<f64>,
    tick: Kept<(f64, f64)>,
    pulse: Pulse,
}

/// Counts what has happened to any of a call's transfers, at a pace that a view of all of them can
/// follow.
#[derive(Clone, Copy)]
pub(crate) struct Pulse {
    count: Live<u32>,
    /// [`Pulse::count`] will count.
    is_coming: Kept<bool>,
}

impl Progress {
    pub(super) fn new(pulse: Pulse) -> Self {
        Self {
            state: Live::new(State::Queued),
            done: Live::new(0.0),
            rate: Live::new(0.0),
            tick: Kept::new((0.0, 0.0)),
            pulse,
        }
    }

    pub(super) fn turn_to(self, state: State) {
        self.state.set(state);
        self.pulse.tell();
    }

    /// `done` bytes are carried.
    pub(super) fn note(self, done: u64) {
        const EVERY_MS: f64 = 500.0;
        self.done.set(done as f64);
        self.pulse.tell();
        let now = browser::clock_ms();
        let (then, before) = self.tick.get_value();
        if now - then >= EVERY_MS {
            self.tick.set_value((now, done as f64));
            if then > 0.0 && now - then < 5_000.0 {
                let rate = ((done as f64 - before) / (now - then) * 1000.0).max(0.0);
                self.rate.update(|shown| {
                    *shown = if *shown == 0.0 {
                        rate
                    } else {
                        *shown * 0.6 + rate * 0.4
                    };
                });
            }
        }
    }
}

impl State {
    pub(crate) fn goes_on(&self) -> bool {
        match self {
            Self::Queued | Self::Running | Self::Waiting | Self::Checking => true,
            Self::Paused | Self::Done | Self::Failed(_) => false,
        }
    }
}

impl Pulse {
    pub(crate) fn new() -> Self {
        Self {
            count: Live::new(0),
            is_coming: Kept::new(false),
        }
    }

    /// What reads it runs again with what happens.
    pub(super) fn follow(self) {
        self.count.get();
    }

    /// Something has happened to one of the transfers.
    fn tell(self) {
        const PACE_MS: u32 = 150;
        let was_coming = self
            .is_coming
            .try_update_value(|it| std::mem::replace(it, true));
        if was_coming == Some(false) {
            spawn_local(async move {
                browser::sleep(PACE_MS).await;
                self.is_coming.set_value(false);
                self.count.update(|count| *count = count.wrapping_add(1));
            });
        }
    }
}
