//! How much the streams of all browsers' links hold that nobody has read yet. Each stream starts with
//! a credit of 1 MiB (PROTOCOL §19.2), and there may be thousands of them: who has too much loses the
//! stream that has most.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use parking_lot::Mutex;
use ringback_protocol::channel::WINDOW;
use ringback_protocol::rtc::MAX_CHANNELS;

/// Bytes of one caller: what one link with all its channels may have by its credit.
const OF_ONE_CALLER: usize = WINDOW as usize * MAX_CHANNELS;
/// Bytes of all callers together.
const IN_ALL: usize = 128 << 20;

/// What is held, by caller and by stream. Cheap to clone; all clones are of the same account.
#[derive(Debug)]
pub(super) struct Unread<C, S>(Arc<Mutex<Account<C, S>>>);

#[derive(Debug)]
struct Account<C, S> {
    callers: HashMap<C, Held<S>>,
    total: usize,
    next: u64,
}

#[derive(Debug)]
struct Held<S> {
    bytes: usize,
    streams: HashMap<u64, (usize, S)>,
}

/// Which stream of the account it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry(u64);

impl<C, S> Clone for Unread<C, S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<C, S> Default for Unread<C, S> {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Account {
            callers: HashMap::new(),
            total: 0,
            next: 0,
        })))
    }
}

impl<C: Copy + Eq + Hash, S: Clone> Unread<C, S> {
    /// A number for a stream that may come to hold something.
    pub(super) fn entry(&self) -> Entry {
        let mut account = self.0.lock();
        account.next += 1;
        Entry(account.next)
    }

    /// The stream holds that many bytes now. If that is too much, the stream that has to go, which may
    /// be another one.
    pub(super) fn set(&self, caller: C, entry: Entry, stream: &S, bytes: usize) -> Option<S> {
        let mut account = self.0.lock();
        let Account { callers, total, .. } = &mut *account;
        let held = callers.entry(caller).or_insert_with(|| Held {
            bytes: 0,
            streams: HashMap::new(),
        });
        let before = if bytes == 0 {
            held.streams
                .remove(&entry.0)
                .map_or(0, |(before, _)| before)
        } else {
            let stream = (bytes, stream.clone());
            let before = held.streams.insert(entry.0, stream);
            before.map_or(0, |(before, _)| before)
        };
        held.bytes = held.bytes.saturating_sub(before).saturating_add(bytes);
        *total = total.saturating_sub(before).saturating_add(bytes);
        let own = held.bytes;
        if held.streams.is_empty() {
            callers.remove(&caller);
        }
        if bytes <= before {
            return None;
        }
        if own > OF_ONE_CALLER {
            callers.get(&caller).and_then(Held::fullest)
        } else if *total > IN_ALL {
            let greediest = callers.values().max_by_key(|held| held.bytes);
            greediest.and_then(Held::fullest)
        } else {
            None
        }
    }
}

#[cfg(test)]
impl<C, S> Unread<C, S> {
    pub(super) fn total(&self) -> usize {
        self.0.lock().total
    }
}

impl<S: Clone> Held<S> {
    fn fullest(&self) -> Option<S> {
        let streams = self.streams.values();
        let fullest = streams.max_by_key(|(bytes, _)| *bytes);
        fullest.map(|(_, stream)| stream.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: usize = WINDOW as usize;
    const MIB: usize = 1 << 20;

    /// Streams are told by number here, and lose what they hold when they have to go.
    #[derive(Default)]
    struct World {
        unread: Unread<usize, (usize, usize)>,
        streams: Vec<(usize, Entry, usize)>,
    }

    impl World {
        fn open(&mut self, caller: usize) -> usize {
            self.streams.push((caller, self.unread.entry(), 0));
            self.streams.len() - 1
        }

        /// Who had to go.
        fn hold(&mut self, at: usize, bytes: usize) -> Option<usize> {
            let (caller, entry, held) = &mut self.streams[at];
            *held = bytes;
            let (_, lost) = self.unread.set(*caller, *entry, &(*caller, at), bytes)?;
            let (caller, entry, held) = &mut self.streams[lost];
            *held = 0;
            assert!(
                self.unread
                    .set(*caller, *entry, &(*caller, lost), 0)
                    .is_none()
            );
            Some(lost)
        }

        fn sum(&self, of: impl Fn(usize) -> bool) -> usize {
            let of_these = self.streams.iter().filter(|(caller, ..)| of(*caller));
            of_these.map(|(.., held)| held).sum()
        }
    }

    #[test]
    fn one_link_has_all_that_it_has_credit_for() {
        let mut world = World::default();
        for _ in 0..MAX_CHANNELS {
            let stream = world.open(1);
            assert_eq!(world.hold(stream, FULL), None);
        }
    }

    #[test]
    fn however_many_streams_there_are_they_hold_no_more_in_all() {
        let mut world = World::default();
        for caller in 0..32 {
            for _ in 0..MAX_CHANNELS * 2 {
                let stream = world.open(caller);
                for held in (0..=FULL).step_by(FULL / 8) {
                    world.hold(stream, held);
                }
                assert!(world.sum(|other| other == caller) <= OF_ONE_CALLER);
                assert!(world.sum(|_| true) <= IN_ALL);
            }
        }
        assert!(
            world.sum(|_| true) > IN_ALL - MIB,
            "what there is can be used"
        );
    }

    #[test]
    fn who_has_little_keeps_it_whatever_others_leave_unread() {
        let mut world = World::default();
        let small = world.open(0);
        assert_eq!(world.hold(small, FULL / 2), None);
        for caller in 1..=4 {
            for _ in 0..MAX_CHANNELS {
                let stream = world.open(caller);
                assert_ne!(world.hold(stream, FULL), Some(small));
            }
        }
        assert_ne!(world.hold(small, FULL), Some(small));
        assert_eq!(world.hold(small, 0), None);
    }
}
