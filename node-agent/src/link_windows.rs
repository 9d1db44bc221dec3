//! How much the links of this process may have waiting, together: the more links there are, the less
//! each may have on its way to somebody who does not read it, and the less its peer may send before it
//! is read.

use std::sync::Arc;

use parking_lot::Mutex;
use quinn::{Connection, VarInt};
use ringback_protocol::PeerId;

/// Bytes in each direction, of one link at most; for all links of one peer; and for all together.
const OF_ONE_LINK: u32 = 32 << 20;
const OF_ONE_PEER: u32 = 32 << 20;
const IN_ALL: u32 = 64 << 20;
/// What a link has in any case.
const LEAST: u32 = 256 << 10;
/// What a link has until it is established: whoever opens links for nothing gets no more.
pub(crate) const AT_FIRST: u32 = 1 << 20;

/// The links of a process. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct LinkWindows(Arc<Mutex<Vec<Member>>>);

#[derive(Debug, Clone)]
struct Member {
    peer: PeerId,
    connection: Connection,
}

/// One link's share of what all may have; it falls to the others when this is dropped.
#[derive(Debug)]
pub(crate) struct LinkWindow {
    windows: LinkWindows,
    /// [`Connection::stable_id`].
    id: usize,
}

impl LinkWindows {
    /// A link has been established.
    pub(crate) fn add(&self, peer: PeerId, connection: &Connection) -> LinkWindow {
        let connection = connection.clone();
        let id = connection.stable_id();
        self.0.lock().push(Member { peer, connection });
        self.share_out();
        LinkWindow {
            windows: self.clone(),
            id,
        }
    }

    /// Gives each open link its share anew.
    pub(crate) fn share_out(&self) {
        let open: Vec<Member> = {
            let members = self.0.lock();
            let open = members
                .iter()
                .filter(|member| member.connection.close_reason().is_none());
            open.cloned().collect()
        };
        let peers: Vec<PeerId> = open.iter().map(|member| member.peer).collect();
        for Member { peer, connection } in &open {
            let share = share(&peers, peer);
            connection.set_receive_window(VarInt::from_u32(share));
            connection.set_send_window(u64::from(share));
        }
    }
}

impl Drop for LinkWindow {
    fn drop(&mut self) {
        // The last handle of a connection closes it: not under the lock.
        let gone: Vec<Member> = {
            let mut members = self.windows.0.lock();
            let ours = |member: &mut Member| member.connection.stable_id() == self.id;
            members.extract_if(.., ours).collect()
        };
        drop(gone);
        self.windows.share_out();
    }
}

/// What one of the links with these peers may have.
fn share(peers: &[PeerId], peer: &PeerId) -> u32 {
    let count = |number: usize| u32::try_from(number.max(1)).unwrap_or(u32::MAX);
    let own = count(peers.iter().filter(|other| *other == peer).count());
    let of_peer = OF_ONE_PEER / own;
    let of_all = IN_ALL / count(peers.len());
    OF_ONE_LINK.min(of_peer).min(of_all).max(LEAST)
}

#[cfg(test)]
mod tests {
    use ringback_protocol::SecretKey;

    use super::*;
    use crate::link_places::{MAX_LINKS, MAX_LINKS_PER_CALLER};

    fn peer(seed: u8) -> PeerId {
        SecretKey::from_seed(&[seed; 32]).id()
    }

    #[test]
    fn a_few_links_have_all_that_they_can_use() {
        assert_eq!(share(&[peer(1)], &peer(1)), OF_ONE_LINK);
        assert_eq!(share(&[peer(1), peer(2)], &peer(1)), OF_ONE_LINK);
    }

    #[test]
    fn however_many_there_are_it_is_no_more_in_all() {
        let of_one: Vec<_> = vec![peer(1); MAX_LINKS_PER_CALLER];
        let sum = share(&of_one, &peer(1)) as usize * of_one.len();
        assert!(sum <= OF_ONE_PEER as usize);
        let all: Vec<_> = (0..MAX_LINKS)
            .map(|number| peer((number / MAX_LINKS_PER_CALLER) as u8))
            .collect();
        let sum: usize = all.iter().map(|one| share(&all, one) as usize).sum();
        assert!(sum <= IN_ALL as usize);
    }
}
