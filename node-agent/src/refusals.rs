//! What the log says of callers that this device refuses: who and why, without letting strangers
//! write as much as they like.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use ringback_protocol::envelope::Envelope;
use ringback_protocol::{Code, PeerId};

/// A caller that is refused for the same reason again is named once in this time.
const REPEAT: Duration = Duration::from_secs(60);
/// Lines in that time, whoever is refused: keys cost a stranger nothing.
const LINES: usize = 20;

/// Bounds the lines about refusals.
#[derive(Debug, Default)]
pub(crate) struct RefusalLog {
    /// When this minute's counting began.
    since: Option<Instant>,
    /// Refusals of this minute that were told, with how many like them followed.
    told: HashMap<(Option<PeerId>, Code), u32>,
    /// Refusals of this minute beyond [`LINES`].
    beyond: u32,
}

impl RefusalLog {
    /// A request was refused; gives the lines that are due now.
    pub(crate) fn note(
        &mut self,
        caller: Option<PeerId>,
        code: &Code,
        now: Instant,
    ) -> Vec<String> {
        let mut lines = Vec::new();
        let is_over = |since: Instant| now.saturating_duration_since(since) >= REPEAT;
        if self.since.is_none_or(is_over) {
            lines.extend(self.summary());
            *self = Self {
                since: Some(now),
                ..Self::default()
            };
        }
        let is_full = self.told.len() >= LINES;
        match self.told.get_mut(&(caller, code.clone())) {
            Some(again) => *again = again.saturating_add(1),
            None if is_full => self.beyond = self.beyond.saturating_add(1),
            None => {
                self.told.insert((caller, code.clone()), 0);
                let who = caller
                    .map_or("somebody without a valid signature".to_owned(), |caller| {
                        caller.short()
                    });
                lines.push(format!("refused {who}: {}", code.title()));
            }
        }
        lines
    }

    /// What was not told one by one.
    fn summary(&self) -> Option<String> {
        let again: u32 = self
            .told
            .values()
            .fold(self.beyond, |a, b| a.saturating_add(*b));
        (again > 0).then(|| format!("refused {again} more requests in the minute before"))
    }
}

/// Whose request it is, if that is proven.
pub(crate) fn caller(envelope: &[u8]) -> Option<PeerId> {
    Envelope::decode(envelope)
        .ok()
        .map(|envelope| envelope.caller)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(seed: u8) -> Option<PeerId> {
        Some(ringback_protocol::SecretKey::from_seed(&[seed; 32]).id())
    }

    #[test]
    fn a_caller_and_a_reason_are_told_once_a_minute() {
        let mut log = RefusalLog::default();
        let start = Instant::now();
        let lines = log.note(id(1), &Code::WrongPassword, start);
        assert_eq!(
            lines,
            [format!(
                "refused {}: {}",
                id(1).unwrap().short(),
                Code::WrongPassword.title()
            )]
        );
        let soon = start + Duration::from_secs(59);
        assert!(log.note(id(1), &Code::WrongPassword, soon).is_empty());
        assert_eq!(
            log.note(id(1), &Code::RateLimited, soon).len(),
            1,
            "another reason"
        );
        assert_eq!(
            log.note(id(2), &Code::WrongPassword, soon).len(),
            1,
            "another caller"
        );
        let later = start + Duration::from_secs(60);
        let lines = log.note(id(1), &Code::WrongPassword, later);
        assert_eq!(lines[0], "refused 1 more requests in the minute before");
        assert_eq!(lines.len(), 2);
    }

    #[test]
    fn strangers_with_ever_new_keys_do_not_fill_the_log() {
        let mut log = RefusalLog::default();
        let start = Instant::now();
        let mut lines = 0;
        for second in 0..600_u32 {
            for nth in 0..10_u32 {
                let seed = (second * 10 + nth).to_le_bytes();
                let mut key = [0; 32];
                key[..4].copy_from_slice(&seed);
                let caller = Some(ringback_protocol::SecretKey::from_seed(&key).id());
                let now = start + Duration::from_secs(second.into());
                lines += log.note(caller, &Code::WrongPassword, now).len();
                assert!(log.told.len() <= LINES);
            }
        }
        assert!(lines <= 10 * (LINES + 1), "{lines} lines in 10 minutes");
    }
}
