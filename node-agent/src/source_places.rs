//! Places for connections that have not shown yet whose they are. Anybody can open those: they are
//! counted by where they come from, and when there are too many, an old one makes room for a new one.

use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use ringback_protocol::candidate::counted_as;
use tokio::sync::Notify;

/// Cheap to clone; all clones are of the same places.
#[derive(Debug, Clone)]
pub(crate) struct SourcePlaces {
    taken: Arc<Mutex<Vec<Taken>>>,
    in_all: usize,
    of_one_source: usize,
}

/// In the order in which they were taken.
#[derive(Debug)]
struct Taken {
    source: IpAddr,
    lost: Arc<Notify>,
}

/// One place; it is given back when this is dropped.
#[derive(Debug)]
pub(crate) struct SourcePlace {
    taken: Arc<Mutex<Vec<Taken>>>,
    lost: Arc<Notify>,
}

impl SourcePlaces {
    /// At least one each.
    pub(crate) fn new(in_all: usize, of_one_source: usize) -> Self {
        Self {
            taken: Arc::default(),
            in_all: in_all.max(1),
            of_one_source: of_one_source.max(1),
        }
    }

    /// Takes a place for somebody at `address`. If its source has as many as it may, the source's
    /// oldest goes; if all are taken, the oldest of the source that has most of them.
    pub(crate) fn take(&self, address: IpAddr) -> SourcePlace {
        let source = counted_as(address);
        let mut taken = self.taken.lock();
        let own = taken.iter().filter(|place| place.source == source).count();
        let loser = if own >= self.of_one_source {
            Some(source)
        } else if taken.len() >= self.in_all {
            greediest(&taken)
        } else {
            None
        };
        let oldest = taken.iter().position(|place| Some(place.source) == loser);
        if let Some(oldest) = oldest {
            taken.remove(oldest).lost.notify_one();
        }
        let lost = Arc::new(Notify::new());
        taken.push(Taken {
            source,
            lost: lost.clone(),
        });
        drop(taken);
        SourcePlace {
            taken: self.taken.clone(),
            lost,
        }
    }
}

/// The source with the most places; of several the one whose oldest place is the oldest.
fn greediest(taken: &[Taken]) -> Option<IpAddr> {
    let count = |source: IpAddr| taken.iter().filter(|place| place.source == source).count();
    let sources = taken.iter().map(|place| place.source);
    // `max_by_key` gives the last of equals.
    sources.rev().max_by_key(|source| count(*source))
}

impl SourcePlace {
    /// Comes when somebody else has got the place.
    pub(crate) async fn lost(&self) {
        self.lost.notified().await;
    }
}

impl Drop for SourcePlace {
    fn drop(&mut self) {
        let mut taken = self.taken.lock();
        taken.retain(|place| !Arc::ptr_eq(&place.lost, &self.lost));
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn is_lost(place: &SourcePlace) -> bool {
        place.lost().now_or_never().is_some()
    }

    #[test]
    fn a_source_that_takes_more_than_it_may_loses_its_own() {
        let places = SourcePlaces::new(4, 2);
        let other = places.take("192.0.2.9".parse().unwrap());
        let own: Vec<_> = (0..10)
            .map(|_| places.take("192.0.2.1".parse().unwrap()))
            .collect();
        assert!(own[..8].iter().all(is_lost));
        assert!(!own[8..].iter().any(is_lost) && !is_lost(&other));
    }

    #[test]
    fn whoever_has_an_ipv6_address_has_all_of_its_network() {
        let places = SourcePlaces::new(100, 2);
        let taken: Vec<_> = (0..4)
            .map(|host: u16| places.take(format!("2001:db8::{host:x}").parse().unwrap()))
            .collect();
        assert!(is_lost(&taken[0]) && is_lost(&taken[1]) && !is_lost(&taken[3]));
        assert!(!is_lost(&places.take("2001:db8:0:1::1".parse().unwrap())));
    }

    #[test]
    fn who_has_most_makes_room_and_what_is_given_back_is_free() {
        let places = SourcePlaces::new(3, 3);
        let [one, two]: [IpAddr; 2] = ["192.0.2.1", "192.0.2.2"].map(|ip| ip.parse().unwrap());
        let (a, b, c) = (places.take(one), places.take(two), places.take(two));
        let new = places.take("192.0.2.3".parse().unwrap());
        assert!(is_lost(&b) && !is_lost(&a) && !is_lost(&c) && !is_lost(&new));
        drop(a);
        drop(b);
        places.take("192.0.2.4".parse().unwrap());
        assert!(!is_lost(&c) && !is_lost(&new));
    }
}
