//! What this process sends to addresses from which nobody has answered yet: callers name them, so they
//! may be anybody's. All links together have one budget of datagrams, one number of searches and one
//! of sockets for them, however many callers ask (PROTOCOL §14).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use ringback_protocol::PeerId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Searches at a time, in all and of one peer.
const MAX_SEARCHES: usize = 4;
const MAX_SEARCHES_OF_PEER: usize = 1;
/// How long a search has its place: a little longer than it takes.
const SEARCH: Duration = Duration::from_secs(7);
/// Sockets of all searches.
const MAX_SOCKETS: usize = 1024;
/// Datagrams a second, and at once. One search takes 3,200 a second at most.
const RATE: f64 = 3_500.0;
const BURST: f64 = 3_500.0;

/// Shared by everything that sends from one endpoint.
#[derive(Debug)]
pub(crate) struct Restraint {
    searches: Mutex<Vec<Place>>,
    sockets: Arc<Semaphore>,
    budget: Mutex<Budget>,
}

#[derive(Debug)]
struct Place {
    /// Which search; two are never the same.
    search: [u8; 8],
    peer: PeerId,
    until: Instant,
}

/// A token bucket.
#[derive(Debug)]
struct Budget {
    left: f64,
    at: Instant,
}

impl Default for Restraint {
    fn default() -> Self {
        Self {
            searches: Mutex::default(),
            sockets: Arc::new(Semaphore::new(MAX_SOCKETS)),
            budget: Mutex::new(Budget {
                left: BURST,
                at: Instant::now(),
            }),
        }
    }
}

impl Restraint {
    /// May this search for a path to `peer` send now? One that may not has its turn when another is
    /// over.
    pub(crate) fn may_search(&self, search: [u8; 8], peer: PeerId, now: Instant) -> bool {
        let mut places = self.searches.lock();
        places.retain(|place| place.until > now);
        if places.iter().any(|place| place.search == search) {
            return true;
        }
        let of_peer = places.iter().filter(|place| place.peer == peer).count();
        if places.len() >= MAX_SEARCHES || of_peer >= MAX_SEARCHES_OF_PEER {
            return false;
        }
        places.push(Place {
            search,
            peer,
            until: now + SEARCH,
        });
        true
    }

    /// Has this search its place still?
    pub(crate) fn is_searching(&self, search: [u8; 8], now: Instant) -> bool {
        let places = self.searches.lock();
        places
            .iter()
            .any(|place| place.search == search && place.until > now)
    }

    /// One of the sockets that searches may have; `None`: there are too many.
    pub(crate) fn socket(&self) -> Option<OwnedSemaphorePermit> {
        self.sockets.clone().try_acquire_owned().ok()
    }

    /// Takes one datagram from the budget; false if nothing is left. What is not sent then counts as
    /// lost, like any datagram.
    pub(crate) fn may_send(&self, to: SocketAddr, now: Instant) -> bool {
        if to.ip().is_loopback() {
            return true;
        }
        let mut budget = self.budget.lock();
        let passed = now.saturating_duration_since(budget.at).as_secs_f64();
        budget.left = (budget.left + passed * RATE).min(BURST);
        budget.at = now.max(budget.at);
        let has = budget.left >= 1.0;
        if has {
            budget.left -= 1.0;
        }
        has
    }
}

#[cfg(test)]
mod tests {
    use ringback_protocol::SecretKey;

    use super::*;

    fn peer(seed: u8) -> PeerId {
        SecretKey::from_seed(&[seed; 32]).id()
    }

    #[test]
    fn few_search_at_a_time_and_one_of_each_peer() {
        let restraint = Restraint::default();
        let now = Instant::now();
        let may = |number: u8, by: u8, at| restraint.may_search([number; 8], peer(by), at);
        assert!(may(1, 1, now) && may(1, 1, now), "it goes on");
        assert!(!may(2, 1, now), "one of each peer");
        assert!((2..=4).all(|by| may(by, by, now)));
        assert!(!may(5, 5, now), "four in all");
        assert!(restraint.is_searching([1; 8], now) && !restraint.is_searching([5; 8], now));
        assert!(may(5, 5, now + SEARCH), "the next one's turn");
    }

    /// Links, searches and callers as many as one likes: what leaves is the budget.
    #[test]
    fn whoever_asks_no_more_is_sent_than_the_budget() {
        let restraint = Restraint::default();
        let victim = "203.0.113.7:9".parse().unwrap();
        let start = Instant::now();
        let mut sent = 0;
        for ms in 0..6_500 {
            let now = start + Duration::from_millis(ms);
            sent += (0..100).filter(|_| restraint.may_send(victim, now)).count();
        }
        let most = BURST + 6.5 * RATE;
        assert!(sent as f64 <= most, "{sent}");
        assert!(sent as f64 > 0.9 * most, "{sent}");
    }

    #[test]
    fn sockets_are_given_back() {
        let restraint = Restraint::default();
        let taken: Vec<_> = std::iter::from_fn(|| restraint.socket()).collect();
        assert_eq!(taken.len(), MAX_SOCKETS);
        drop(taken);
        assert!(restraint.socket().is_some());
    }
}
