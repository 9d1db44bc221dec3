//! Messages for a peer that is not there yet: the newest, and not many (§15.3).

use std::collections::VecDeque;

const MAX_MESSAGES: usize = 32;
const MAX_BYTES: usize = 48 * 1024;

#[derive(Debug, Default)]
pub(super) struct Backlog {
    messages: VecDeque<Vec<u8>>,
    bytes: usize,
}

impl Backlog {
    /// Bytes that are given up for it, of older messages or its own.
    pub(super) fn push(&mut self, message: Vec<u8>) -> usize {
        let mut lost = 0;
        self.bytes += message.len();
        self.messages.push_back(message);
        while self.messages.len() > MAX_MESSAGES || self.bytes > MAX_BYTES {
            let oldest = self.messages.pop_front().map_or(0, |message| message.len());
            self.bytes -= oldest;
            lost += oldest;
        }
        lost
    }

    pub(super) fn take(&mut self) -> VecDeque<Vec<u8>> {
        std::mem::take(self).messages
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_are_kept() {
        let mut backlog = Backlog::default();
        let lost: usize = (0..40).map(|n| backlog.push(vec![n; 100])).sum();
        assert_eq!(lost, 800);
        let kept = backlog.take();
        assert_eq!((kept.len(), kept[0][0], kept[31][0]), (32, 8, 39));
        for n in 0..5 {
            backlog.push(vec![n; 20_000]);
        }
        assert_eq!(backlog.take().len(), 2);
        assert_eq!(backlog.push(vec![0; MAX_BYTES + 1]), MAX_BYTES + 1);
        assert!(backlog.take().is_empty());
    }
}
