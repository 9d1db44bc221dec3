//! Whereabouts (§10): where this end may be reached now, told until the peer has noted it, and
//! where the peer says that it is.

use std::time::Duration;

use super::datagram::{Message, Whereabouts};
use super::remote::Remote;
use super::via::Class;
use crate::candidate::{Candidate, Kind};
use crate::receipt::Nat;

/// Whereabouts are repeated until they are noted, at most so often; and so many are taken of a peer.
const REPEAT: Duration = Duration::from_millis(500);
const REPEATS: u32 = 12;
const MAX_TAKEN: u32 = 200;

/// What this end has told of itself, and the peer of itself.
#[derive(Debug, Default)]
pub(super) struct Offers {
    open: Option<Open>,
    made: u32,
    /// Serial of the newest one that was taken.
    newest: u32,
    taken: u32,
}

/// An offer that the peer has not noted.
#[derive(Debug)]
struct Open {
    message: Message,
    serial: u32,
    next: Duration,
    left: u32,
}

impl Offers {
    /// Another one takes the place of one that is not noted yet.
    pub(super) fn make(&mut self, candidates: &[Candidate], nat: Nat, now: Duration) {
        self.made += 1;
        self.open = Some(Open {
            message: Message::Whereabouts(Whereabouts {
                serial: self.made,
                candidates: candidates.to_vec(),
                nat,
            }),
            serial: self.made,
            next: now,
            left: REPEATS,
        });
    }

    pub(super) fn noted(&mut self, serial: u32) {
        self.open.take_if(|open| open.serial == serial);
    }

    /// When [`due`](Self::due) is to be called.
    pub(super) fn next(&self) -> Option<Duration> {
        self.open.as_ref().map(|open| open.next)
    }

    /// What is to be sent now.
    pub(super) fn due(&mut self, now: Duration) -> Option<Message> {
        let open = self.open.as_mut().filter(|open| open.next <= now)?;
        open.next = now + REPEAT;
        open.left -= 1;
        let message = open.message.clone();
        if open.left == 0 {
            self.open = None;
        }
        Some(message)
    }

    /// Is the peer's offer of this serial news?
    pub(super) fn take(&mut self, serial: u32) -> bool {
        let news = serial > self.newest && self.taken < MAX_TAKEN;
        if news {
            self.newest = serial;
            self.taken += 1;
        }
        news
    }
}

/// Addresses that the peer named before, does not name again and that never answered are forgotten;
/// the others are tried anew.
pub(super) fn forget_unnamed(remotes: &mut Vec<Remote>, candidates: &[Candidate]) {
    let named = |r: &Remote| {
        candidates
            .iter()
            .any(|c| c.is_udp() && c.address == r.address)
    };
    remotes.retain(|r| {
        r.class != Class::Udp
            || r.kind == Kind::PeerReflexive
            || r.heard.is_some()
            || r.is_verified()
            || named(r)
    });
    for remote in remotes {
        if remote.class == Class::Udp && !remote.is_verified() {
            remote.renew();
        }
    }
}
