//! Places for work that is limited, shared out between callers: so many in all, so many for each
//! caller. Whoever finds none free waits in the order of coming, and too many that wait are told so.
//! What one caller holds is at most its own share, so it can not keep the others out.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use ringback_protocol::PeerId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Places in all, and of one caller.
    pub(crate) all: usize,
    pub(crate) each: usize,
    /// Of one caller: guests beyond its places.
    pub(crate) waiting: usize,
    /// How long a place is kept while others wait for it.
    pub(crate) turn: Duration,
}

#[derive(Debug)]
pub(crate) struct Places {
    limits: Limits,
    all: Arc<Pool>,
    callers: Mutex<HashMap<PeerId, Weak<Share>>>,
}

/// What one caller has.
#[derive(Debug)]
struct Share {
    places: Arc<Pool>,
    guests: AtomicUsize,
}

#[derive(Debug)]
struct Pool {
    places: Arc<Semaphore>,
    waiting: AtomicUsize,
}

/// Somebody who is counted, and may have a place now and then.
#[derive(Debug)]
pub(crate) struct Guest {
    all: Arc<Pool>,
    share: Arc<Share>,
    turn: Duration,
}

/// Given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    all: Arc<Pool>,
    own: Arc<Pool>,
    /// None: for good.
    until: Option<Instant>,
    _permits: (OwnedSemaphorePermit, OwnedSemaphorePermit),
}

/// So many of this caller are here or wait already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Full(pub(crate) usize);

impl Places {
    pub(crate) fn limits(&self) -> Limits {
        self.limits
    }

    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            all: Arc::new(Pool::new(limits.all)),
            callers: Mutex::default(),
        }
    }

    /// Counts one more of this caller.
    pub(crate) fn enter(&self, caller: PeerId) -> Result<Guest, Full> {
        let mut callers = self.callers.lock();
        let share = match callers.get(&caller).and_then(Weak::upgrade) {
            Some(share) => share,
            None => {
                callers.retain(|_, share| share.strong_count() > 0);
                let share = Arc::new(Share {
                    places: Arc::new(Pool::new(self.limits.each)),
                    guests: AtomicUsize::new(0),
                });
                callers.insert(caller, Arc::downgrade(&share));
                share
            }
        };
        // Only here it becomes more, and under the lock.
        let guests = share.guests.load(Ordering::Relaxed);
        if guests >= self.limits.each + self.limits.waiting {
            return Err(Full(guests));
        }
        share.guests.fetch_add(1, Ordering::Relaxed);
        Ok(Guest {
            all: self.all.clone(),
            share,
            turn: self.limits.turn,
        })
    }
}

impl Guest {
    /// Waits no longer than this.
    pub(crate) async fn place_within(&self, patience: Duration) -> Option<Place> {
        tokio::time::timeout(patience, self.place()).await.ok()
    }

    /// Waits for a place: first of the caller's own, then of all.
    pub(crate) async fn place(&self) -> Place {
        let own = self.share.places.take().await;
        let all = self.all.take().await;
        Place {
            all: self.all.clone(),
            own: self.share.places.clone(),
            until: Instant::now().checked_add(self.turn),
            _permits: (own, all),
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.share.guests.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Place {
    /// It was kept for long enough, and others wait for it.
    pub(crate) fn is_wanted(&self) -> bool {
        let waiting = |pool: &Pool| pool.waiting.load(Ordering::Relaxed) > 0;
        self.until.is_some_and(|until| Instant::now() >= until)
            && (waiting(&self.own) || waiting(&self.all))
    }
}

impl Pool {
    fn new(places: usize) -> Self {
        Self {
            places: Arc::new(Semaphore::new(places)),
            waiting: AtomicUsize::new(0),
        }
    }

    async fn take(&self) -> OwnedSemaphorePermit {
        if let Ok(place) = self.places.clone().try_acquire_owned() {
            return place;
        }
        let _waiting = Waiting::new(&self.waiting);
        self.places
            .clone()
            .acquire_owned()
            .await
            .expect("never closed")
    }
}

/// Counts while it lives: whoever waits may also give up.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringback_protocol::SecretKey;

    const LIMITS: Limits = Limits {
        all: 4,
        each: 2,
        waiting: 3,
        turn: Duration::from_millis(1),
    };

    fn caller(number: u8) -> PeerId {
        SecretKey::from_seed(&[number; 32]).id()
    }

    /// A place that is free this moment.
    async fn at_once(guest: &Guest) -> Option<Place> {
        tokio::time::timeout(Duration::from_millis(5), guest.place())
            .await
            .ok()
    }

    #[tokio::test]
    async fn one_caller_takes_its_share_only() {
        let places = Places::new(LIMITS);
        let greedy: Vec<Guest> = (0..5).map(|_| places.enter(caller(1)).unwrap()).collect();
        assert_eq!(places.enter(caller(1)).unwrap_err(), Full(5));
        let mut held = Vec::new();
        for guest in &greedy {
            held.extend(at_once(guest).await);
        }
        assert_eq!(held.len(), 2);
        let other = places.enter(caller(2)).unwrap();
        assert!(at_once(&other).await.is_some());
        // Who waits is next, and whoever has gone is not counted.
        let (next, ()) = tokio::join!(greedy[4].place(), async { drop(held.pop()) });
        drop((next, held, greedy));
        assert!(places.enter(caller(1)).is_ok());
    }

    #[tokio::test]
    async fn a_place_may_be_for_good() {
        let places = Places::new(Limits {
            turn: Duration::MAX,
            ..LIMITS
        });
        let place = places.enter(caller(1)).unwrap().place().await;
        assert!(!place.is_wanted());
    }

    #[tokio::test]
    async fn a_place_is_wanted_when_somebody_waits_for_it_long_enough() {
        let places = Places::new(LIMITS);
        let guests: Vec<Guest> = (1..=5).map(|n| places.enter(caller(n)).unwrap()).collect();
        let mut held = Vec::new();
        for guest in &guests[..4] {
            held.push(at_once(guest).await.unwrap());
        }
        tokio::time::sleep(LIMITS.turn).await;
        assert!(!held[0].is_wanted());
        let waiting = guests[4].place();
        tokio::pin!(waiting);
        assert!(futures_util::poll!(&mut waiting).is_pending());
        assert!(held[0].is_wanted());
        held.remove(0);
        let place = waiting.await;
        tokio::time::sleep(LIMITS.turn).await;
        assert!(!place.is_wanted() && !held[0].is_wanted());
    }
}
