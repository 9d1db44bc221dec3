//! When a link's data went and came: what the fast path may note without the path set, which reads it
//! now and then.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use ringback_protocol::path::Traffic;

/// Shorter datagrams, in bytes, are taken for acknowledgements, which nothing follows.
const SHORT: usize = 60;

/// When data went and came, in microseconds since the socket was made; 0 is never.
#[derive(Debug, Default)]
pub(super) struct Marks {
    unanswered_since: AtomicU64,
    last_received: AtomicU64,
    /// Data was sent since the last tick.
    sent: AtomicBool,
    /// There was data since the last tick, or what it means is not known yet.
    pub(super) active: AtomicBool,
}

impl Marks {
    /// Data is being sent. True if the driver has to be woken.
    pub(super) fn sent(&self, length: usize, now: impl FnOnce() -> Duration) -> bool {
        if length <= SHORT {
            return false;
        }
        if !self.sent.load(Ordering::Relaxed) {
            self.sent.store(true, Ordering::Relaxed);
        }
        if self.unanswered_since.load(Ordering::Relaxed) == 0 {
            self.unanswered_since
                .store(micros(now()), Ordering::Relaxed);
        }
        !self.active.load(Ordering::Relaxed) && !self.active.swap(true, Ordering::Relaxed)
    }

    /// Data has come by the route. True if the driver has to be woken.
    pub(super) fn received(&self, now: Duration) -> bool {
        self.answered();
        self.last_received.store(micros(now), Ordering::Relaxed);
        !self.active.load(Ordering::Relaxed) && !self.active.swap(true, Ordering::Relaxed)
    }

    /// Something has come by the route.
    pub(super) fn answered(&self) {
        self.unanswered_since.store(0, Ordering::Relaxed);
    }

    pub(super) fn reset(&self) {
        self.unanswered_since.store(0, Ordering::Relaxed);
        self.last_received.store(0, Ordering::Relaxed);
    }

    pub(super) fn traffic(&self) -> Traffic {
        let read = |mark: &AtomicU64| match mark.load(Ordering::Relaxed) {
            0 => None,
            at => Some(Duration::from_micros(at)),
        };
        Traffic {
            unanswered_since: read(&self.unanswered_since),
            last_received: read(&self.last_received),
            sent: self.sent.swap(false, Ordering::Relaxed),
        }
    }
}

fn micros(time: Duration) -> u64 {
    (time.as_micros() as u64).max(1)
}
