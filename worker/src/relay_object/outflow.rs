//! How much is on its way to one peer (§15.3). The platform takes whatever is written to a socket
//! and keeps it for a peer that reads slowly: without a bound, a second of anybody's upload could
//! become a minute of the other's delay, and in the end the object's memory. So the room asks for a
//! confirmation now and then, and drops what does not fit into a window of about a second.

use std::collections::VecDeque;

const MIN_WINDOW: u64 = 64 << 10;
/// Before anything is known of the peer: a fast one shows that it is with its first confirmation.
const FIRST_WINDOW: u64 = 256 << 10;
/// The delay that the window aims at.
const TARGET_MS: u64 = 1_000;
/// A peer that leaves a mark unanswered for so long is gone.
const PATIENCE_MS: u64 = 30_000;

#[derive(Debug)]
pub(super) struct Outflow {
    window: u64,
    max_window: u64,
    sent: u64,
    confirmed: u64,
    next: u64,
    marks: VecDeque<Mark>,
}

#[derive(Debug)]
struct Mark {
    number: u64,
    /// Bytes sent before it, in all and of them unconfirmed.
    sent: u64,
    in_flight: u64,
    at_ms: u64,
}

impl Outflow {
    pub(super) fn new(rate_bytes_s: u64) -> Self {
        Self {
            window: FIRST_WINDOW,
            max_window: (rate_bytes_s / 2).max(FIRST_WINDOW),
            sent: 0,
            confirmed: 0,
            next: 0,
            marks: VecDeque::new(),
        }
    }

    /// Bytes that may be sent now.
    pub(super) fn room(&self) -> usize {
        self.window.saturating_sub(self.sent - self.confirmed) as usize
    }

    /// So much was sent; the number of the mark that must follow it, if one must.
    pub(super) fn sent(&mut self, bytes: usize, now_ms: u64) -> Option<u64> {
        self.sent += bytes as u64;
        self.due_mark(now_ms)
    }

    fn due_mark(&mut self, now_ms: u64) -> Option<u64> {
        let marked = self.marks.back().map_or(self.confirmed, |mark| mark.sent);
        if self.sent - marked < self.window / 2 {
            return None;
        }
        let number = self.next;
        self.next += 1;
        self.marks.push_back(Mark {
            number,
            sent: self.sent,
            in_flight: self.sent - self.confirmed,
            at_ms: now_ms,
        });
        Some(number)
    }

    /// The peer has got everything up to this mark; one that was not sent changes nothing. The
    /// number of the next mark, if one is due: a window that has shrunk may be full of bytes behind
    /// which there is none.
    #[must_use]
    pub(super) fn confirmed(&mut self, number: u64, now_ms: u64) -> Option<u64> {
        let at = self.marks.iter().position(|mark| mark.number == number)?;
        let mark = self.marks.drain(..=at).next_back()?;
        let took_ms = now_ms.saturating_sub(mark.at_ms).max(1);
        self.confirmed = mark.sent;
        self.window = (mark.in_flight * TARGET_MS / took_ms).clamp(MIN_WINDOW, self.max_window);
        self.due_mark(now_ms)
    }

    pub(super) fn is_dead(&self, now_ms: u64) -> bool {
        let oldest = self.marks.front();
        oldest.is_some_and(|mark| now_ms.saturating_sub(mark.at_ms) > PATIENCE_MS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A link that carries `bytes_ms`, under a sender that always has more: the highest delay in
    /// milliseconds after the first ten seconds, and the bytes a second.
    fn run(bytes_ms: u64, rtt_ms: u64) -> (u64, u64) {
        let mut outflow = Outflow::new(4 << 20);
        let mut queue: VecDeque<(u64, Option<u64>)> = VecDeque::new();
        let mut answers: VecDeque<(u64, u64)> = VecDeque::new();
        let (mut backlog, mut worst, mut carried) = (0, 0, 0);
        for now in 0..30_000 {
            while answers.front().is_some_and(|(at, _)| *at <= now) {
                let (_, number) = answers.pop_front().unwrap();
                if let Some(next) = outflow.confirmed(number, now) {
                    queue.push_back((0, Some(next)));
                }
            }
            while outflow.room() >= 10_000 {
                let mark = outflow.sent(10_000, now);
                queue.push_back((10_000, mark));
                backlog += 10_000;
            }
            let mut budget = bytes_ms;
            while let Some((left, mark)) = queue.front_mut() {
                let taken = budget.min(*left);
                *left -= taken;
                budget -= taken;
                backlog -= taken;
                carried += taken;
                if *left > 0 {
                    break;
                }
                if let Some(number) = mark {
                    answers.push_back((now + rtt_ms, *number));
                }
                queue.pop_front();
            }
            if now > 10_000 {
                worst = worst.max(backlog / bytes_ms);
            }
            assert!(!outflow.is_dead(now));
        }
        (worst, carried / 30)
    }

    #[test]
    fn a_slow_peer_has_a_short_queue_and_a_full_link() {
        for (bytes_ms, rtt_ms) in [(100, 40), (500, 100), (2_000, 200)] {
            let (worst_ms, bytes_s) = run(bytes_ms, rtt_ms);
            assert!(worst_ms < 1_500, "{bytes_ms} B/ms: {worst_ms} ms");
            assert!(bytes_s > bytes_ms * 900, "{bytes_ms} B/ms: {bytes_s} B/s");
        }
    }

    #[test]
    fn a_peer_that_confirms_nothing_gets_a_window_and_is_given_up() {
        let mut outflow = Outflow::new(4 << 20);
        let mut sent = 0;
        while outflow.room() >= 1_000 {
            outflow.sent(1_000, 5);
            sent += 1_000;
        }
        assert!(sent <= 2 << 20);
        assert_eq!(outflow.confirmed(77, 10), None);
        assert!(outflow.room() < 1_000, "a mark that was never sent");
        assert!(!outflow.is_dead(30_000));
        assert!(outflow.is_dead(30_006));
        assert!(
            !Outflow::new(1).is_dead(u64::MAX),
            "nobody is asked in an idle room"
        );
    }
}
