//! Who has held a device's socket, one after the other (§6.1), without I/O: two agents with one key,
//! as after a disk was cloned, take it from each other, and nothing else looks like that.
//!
//! An agent that is started anew, or moves to another network, takes over from itself, and its
//! former self never comes back.

use std::collections::VecDeque;

use minicbor::{Decode, Encode};

/// Holders that are remembered.
const KEPT: usize = 8;
/// Milliseconds for which they are.
const KEPT_MS: u64 = 3_600_000;
/// Agents that do not say which start of them it is, or are copies of a running machine, take over
/// so often in a minute only from each other.
const TAKEOVERS: usize = 6;
const MINUTE_MS: u64 = 60_000;

/// An agent on a socket.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Holder {
    /// A number of this start of the agent; agents of before 2026-11-28 do not give one.
    #[n(0)]
    pub instance: Option<u64>,
    /// The IP address that the socket comes from, as text.
    #[n(1)]
    pub from: String,
}

/// Former holders, the latest last, each with the time when it lost the socket to the next one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Lineage {
    #[n(0)]
    former: VecDeque<Former>,
    /// When it was clear that there are two.
    #[n(1)]
    two_ms: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
struct Former {
    #[n(0)]
    holder: Holder,
    #[n(1)]
    until_ms: u64,
    /// The next one was, by its own account, the same, or did not say.
    #[n(2)]
    may_be_same: bool,
}

impl Lineage {
    /// `next` takes the socket from `held`, which was open. True if these are two agents.
    pub fn pass(&mut self, held: Holder, next: &Holder, now_ms: u64) -> bool {
        let is_recent = |at_ms: u64, span_ms: u64| now_ms.abs_diff(at_ms) < span_ms;
        self.former
            .retain(|former| is_recent(former.until_ms, KEPT_MS));
        self.two_ms = self.two_ms.filter(|at_ms| is_recent(*at_ms, KEPT_MS));
        let are_told_apart = held.instance.is_some() && next.instance.is_some();
        let is_same = are_told_apart && held.instance == next.instance;
        let has_come_back = are_told_apart
            && !is_same
            && self
                .former
                .iter()
                .any(|former| former.holder.instance == next.instance);
        self.former.push_back(Former {
            holder: held,
            until_ms: now_ms,
            may_be_same: !are_told_apart || is_same,
        });
        if self.former.len() > KEPT {
            self.former.pop_front();
        }
        let takeovers = self.former.iter();
        let takeovers =
            takeovers.filter(|former| former.may_be_same && is_recent(former.until_ms, MINUTE_MS));
        let are_two =
            has_come_back || takeovers.count() >= TAKEOVERS || (self.two_ms.is_some() && !is_same);
        if are_two {
            self.two_ms = Some(now_ms);
        }
        are_two
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: u64 = 1_800_000_000_000;

    fn holder(instance: u64) -> Holder {
        Holder {
            instance: Some(instance),
            from: format!("203.0.113.{instance}"),
        }
    }

    #[test]
    fn who_comes_back_is_one_of_two() {
        let mut lineage = Lineage::default();
        assert!(
            !lineage.pass(holder(1), &holder(2), T),
            "started anew, maybe"
        );
        assert!(lineage.pass(holder(2), &holder(1), T + 15_000));
        assert!(lineage.pass(holder(1), &holder(2), T + 300_000));
        assert!(
            lineage.pass(holder(2), &holder(3), T + 400_000),
            "a third one"
        );
        assert!(
            !lineage.pass(holder(3), &holder(4), T + 4_100_000),
            "an hour later nothing is held against it"
        );
    }

    #[test]
    fn an_agent_that_is_restarted_or_moves_is_alone() {
        let mut lineage = Lineage::default();
        for n in 0..200 {
            let at = T + n * 11_000;
            assert!(!lineage.pass(holder(n), &holder(n + 1), at), "restarted");
            assert!(!lineage.pass(holder(n + 1), &holder(n + 1), at), "moved");
        }
    }

    #[test]
    fn agents_that_do_not_say_are_two_when_they_are_quick() {
        let old = Holder::default();
        let mut lineage = Lineage::default();
        for n in 0..5 {
            assert!(!lineage.pass(old.clone(), &old, T + n * 200));
        }
        assert!(lineage.pass(old.clone(), &old, T + 1_000));
        assert!(lineage.pass(old.clone(), &old, T + 31_000), "and stay so");
        let mut slow = Lineage::default();
        for n in 0..100 {
            assert!(!slow.pass(old.clone(), &old, T + n * 15_000));
        }
    }
}
