//! What the frontend has answered, counted for `GET /v1/usage` (§5.2). In this isolate's memory
//! first, and told to the directory a few hundred at a time: to count a stranger's request must not
//! cost more than to refuse it.

use std::cell::RefCell;

use serde::{Deserialize, Serialize};

/// The directory is told of so many requests,
const EACH: u64 = 256;
/// or after so many milliseconds.
const EACH_MS: u64 = 60_000;

/// Counts of requests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    pub all: u64,
    /// Relayed to devices.
    pub relayed: u64,
    /// Answered with a problem.
    pub refused: u64,
    /// Of these: over a limit.
    pub limited: u64,
}

thread_local! {
    static PENDING: RefCell<Pending> = RefCell::default();
}

#[derive(Debug, Default)]
struct Pending {
    tally: Tally,
    since_ms: u64,
}

/// A request was answered with this status. What the directory is to be told now, if anything.
pub fn count(status: u16, is_relayed: bool, now_ms: u64) -> Option<Tally> {
    PENDING.with_borrow_mut(|pending| pending.count(status, is_relayed, now_ms))
}

/// What the directory does not know yet.
pub fn pending() -> Tally {
    PENDING.with_borrow(|pending| pending.tally)
}

/// The directory could not be told.
pub fn give_back(tally: Tally) {
    PENDING.with_borrow_mut(|pending| pending.tally.add(tally));
}

impl Pending {
    fn count(&mut self, status: u16, is_relayed: bool, now_ms: u64) -> Option<Tally> {
        if self.tally.all == 0 {
            self.since_ms = now_ms;
        }
        self.tally.add(Tally {
            all: 1,
            relayed: is_relayed.into(),
            refused: (status >= 400).into(),
            limited: (status == 429).into(),
        });
        let is_due = self.tally.all >= EACH || now_ms.saturating_sub(self.since_ms) >= EACH_MS;
        is_due.then(|| std::mem::take(&mut self.tally))
    }
}

impl Tally {
    pub fn add(&mut self, other: Self) {
        self.all += other.all;
        self.relayed += other.relayed;
        self.refused += other.refused;
        self.limited += other.limited;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_told_in_lumps_and_a_trickle_once_a_minute() {
        let mut pending = Pending::default();
        let told: Vec<_> = (0..100_000)
            .filter_map(|i| pending.count(if i % 2 == 0 { 429 } else { 404 }, false, 1_000))
            .collect();
        assert_eq!(told.len(), 100_000 / 256);
        let lump = Tally {
            all: 256,
            relayed: 0,
            refused: 256,
            limited: 128,
        };
        assert!(told.iter().all(|tally| *tally == lump));

        let mut pending = Pending::default();
        assert_eq!(pending.count(200, true, 1_000), None);
        assert_eq!(pending.count(101, false, 60_999), None);
        let both = Tally {
            all: 3,
            relayed: 1,
            refused: 0,
            limited: 0,
        };
        assert_eq!(pending.count(200, false, 61_000), Some(both));
        assert_eq!(pending.count(200, false, 62_000), None);
    }
}
