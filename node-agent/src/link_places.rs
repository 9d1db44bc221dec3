//! Places for links, from the admission of a call to the end of its link: so many in all, and so many
//! of one caller.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use ringback_protocol::PeerId;

/// Links that callers may have to this device, in all and each (PROTOCOL §14). Those that are being
/// dialled count.
pub(crate) const MAX_LINKS: usize = 64;
pub(crate) const MAX_LINKS_PER_CALLER: usize = 16;

/// Cheap to clone; all clones are of the same places.
#[derive(Debug, Clone, Default)]
pub(crate) struct LinkPlaces(Arc<Mutex<HashMap<PeerId, usize>>>);

/// One link's place; it is given back when this is dropped.
#[derive(Debug)]
pub(crate) struct LinkPlace {
    places: LinkPlaces,
    caller: PeerId,
}

impl LinkPlaces {
    /// `None`: there are too many.
    pub(crate) fn take(&self, caller: PeerId) -> Option<LinkPlace> {
        let mut taken = self.0.lock();
        let in_all: usize = taken.values().sum();
        let own = taken.get(&caller).copied().unwrap_or(0);
        if in_all >= MAX_LINKS || own >= MAX_LINKS_PER_CALLER {
            return None;
        }
        taken.insert(caller, own + 1);
        drop(taken);
        Some(LinkPlace {
            places: self.clone(),
            caller,
        })
    }
}

impl Drop for LinkPlace {
    fn drop(&mut self) {
        let mut taken = self.places.0.lock();
        if let Some(own) = taken.get_mut(&self.caller) {
            *own = own.saturating_sub(1);
            if *own == 0 {
                taken.remove(&self.caller);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use ringback_protocol::SecretKey;

    use super::*;

    #[test]
    fn one_caller_does_not_take_all_places() {
        let places = LinkPlaces::default();
        let caller = |seed: u8| SecretKey::from_seed(&[seed; 32]).id();
        let mut taken: Vec<_> = (0..MAX_LINKS_PER_CALLER)
            .map(|_| places.take(caller(1)).unwrap())
            .collect();
        assert!(places.take(caller(1)).is_none());
        for seed in 2.. {
            let Some(place) = places.take(caller(seed)) else {
                assert!(taken.len() == MAX_LINKS || taken.len() % MAX_LINKS_PER_CALLER == 0);
                break;
            };
            taken.push(place);
        }
        assert_eq!(taken.len(), MAX_LINKS);
        taken.remove(0);
        assert!(places.take(caller(1)).is_some());
    }
}
