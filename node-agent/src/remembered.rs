//! Callers that this device remembers: their key admits them without a password.

use std::collections::BTreeMap;

use anyhow::Result;
use ringback_protocol::{PeerId, UnixTime};
use serde::{Deserialize, Serialize};

use crate::profile::Profile;

const FILE: &str = "callers.json";
/// Callers that are remembered at most; the one that has not called for the longest goes first.
const MAX_REMEMBERED: usize = 256;
/// Seconds by which a caller's last call may be older than the file says: a call costs no write.
const LAST_CALL_PRECISION: u64 = 3600;

/// When a remembered caller came, and how.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Remembered {
    pub(crate) since: UnixTime,
    pub(crate) last_call: UnixTime,
    #[serde(default)]
    pub(crate) by: RememberedBy,
}

/// What a caller is remembered for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RememberedBy {
    /// It gave the password that the device had then.
    #[default]
    Password,
    /// The device's owner named it.
    Owner,
}

/// All remembered callers by key.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct RememberedCallers(pub(crate) BTreeMap<PeerId, Remembered>);

impl RememberedCallers {
    pub(crate) fn load(profile: &Profile) -> Result<Self> {
        profile.load(FILE)
    }

    pub(crate) fn store(&self, profile: &Profile) -> Result<()> {
        profile.store(FILE, self)
    }

    /// Remembers a caller. Gives the one that is forgotten for it, if there were too many.
    pub(crate) fn add(
        &mut self,
        caller: PeerId,
        by: RememberedBy,
        now: UnixTime,
    ) -> Option<PeerId> {
        let entry = self.0.entry(caller).or_insert(Remembered {
            since: now,
            last_call: now,
            by,
        });
        entry.last_call = now;
        if self.0.len() <= MAX_REMEMBERED {
            return None;
        }
        let others = self.0.iter().filter(|(id, _)| **id != caller);
        let oldest = others.min_by_key(|(_, entry)| entry.last_call)?;
        let oldest = *oldest.0;
        self.0.remove(&oldest);
        Some(oldest)
    }

    /// Notes that a caller has called. True if that is worth a write.
    pub(crate) fn called(&mut self, caller: &PeerId, now: UnixTime) -> bool {
        let Some(entry) = self.0.get_mut(caller) else {
            return false;
        };
        let is_news = now.saturating_sub(entry.last_call) >= LAST_CALL_PRECISION;
        if is_news {
            entry.last_call = now;
        }
        is_news
    }

    /// The password is another one now: gives and forgets those that were remembered for the old one.
    pub(crate) fn forget_by_password(&mut self) -> Vec<PeerId> {
        let by_password = |entry: &Remembered| entry.by == RememberedBy::Password;
        let gone = self.0.iter().filter(|(_, entry)| by_password(entry));
        let gone = gone.map(|(id, _)| *id).collect();
        self.0.retain(|_, entry| !by_password(entry));
        gone
    }
}

#[cfg(test)]
mod tests {
    use ringback_protocol::SecretKey;

    use super::*;

    fn caller(number: u16) -> PeerId {
        let mut seed = [0; 32];
        seed[..2].copy_from_slice(&number.to_be_bytes());
        SecretKey::from_seed(&seed).id()
    }

    #[test]
    fn whoever_has_not_called_for_the_longest_is_forgotten_first() {
        let mut callers = RememberedCallers::default();
        for number in 0..MAX_REMEMBERED as u16 {
            assert_eq!(
                callers.add(caller(number), RememberedBy::Password, u64::from(number)),
                None
            );
        }
        assert!(callers.called(&caller(0), 10_000));
        assert!(
            !callers.called(&caller(0), 10_001),
            "no write for each call"
        );
        let gone = callers.add(caller(999), RememberedBy::Password, 10_002);
        assert_eq!(gone, Some(caller(1)));
        assert_eq!(callers.0.len(), MAX_REMEMBERED);
    }

    #[test]
    fn a_new_password_forgets_those_who_gave_the_old_one() {
        let old: RememberedCallers = serde_json::from_str(&format!(
            r#"{{"{}":{{"since":1,"last_call":2}}}}"#,
            caller(1)
        ))
        .unwrap();
        let mut callers = old;
        callers.add(caller(2), RememberedBy::Owner, 3);
        assert_eq!(callers.forget_by_password(), [caller(1)]);
        assert!(callers.0.contains_key(&caller(2)));
    }
}
