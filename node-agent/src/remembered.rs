//! Callers that this device remembers: their key admits them without a password.

use std::collections::BTreeMap;

use anyhow::Result;
use ringback_protocol::secret::TAG;
use ringback_protocol::{PeerId, UnixTime};
use serde::{Deserialize, Serialize};

use crate::profile::Profile;

const FILE: &str = "callers.json";
/// Callers beyond which those go that have not called for the longest time.
pub(crate) const MAX_REMEMBERED: usize = 256;
/// Seconds by which the time of a caller's last call may be off, so that not every call writes.
const LAST_CALL_S: u64 = 60;

/// When a remembered caller came, and by what.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Remembered {
    pub(crate) since: UnixTime,
    pub(crate) last_call: UnixTime,
    #[serde(default)]
    pub(crate) by: RememberedBy,
    /// Which password it gave (`Psk::tag`). `None`: written by a version that did not note it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    password: Option<String>,
}

/// What a caller is remembered for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RememberedBy {
    /// It gave the password that the device had then.
    #[default]
    Password,
    /// The device's owner named it: no password has to do with it.
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

    /// Changes the file, or leaves it if `change` says that nothing has changed. Nobody else changes
    /// it meanwhile, neither a command nor the agent.
    pub(crate) fn edit<T>(
        profile: &Profile,
        change: impl FnOnce(&mut Self) -> (bool, T),
    ) -> Result<T> {
        let _lock = profile.wait_for_state()?;
        let mut callers = Self::load(profile)?;
        let (changed, result) = change(&mut callers);
        if changed {
            profile.store(FILE, &callers)?;
        }
        Ok(result)
    }

    /// Remembers a caller that has given the password with this tag, or one that the owner names. Those that had to
    /// go for it are returned.
    pub(crate) fn remember(
        &mut self,
        caller: PeerId,
        password: Option<[u8; TAG]>,
        now: UnixTime,
    ) -> Vec<PeerId> {
        let old = self.0.get(&caller);
        let by_owner = password.is_none() || old.is_some_and(|old| old.by == RememberedBy::Owner);
        let since = old.map_or(now, |old| old.since);
        // If the owner names it, nobody has called.
        let last_call = old
            .filter(|_| password.is_none())
            .map_or(now, |old| old.last_call);
        let entry = Remembered {
            since,
            last_call,
            by: if by_owner {
                RememberedBy::Owner
            } else {
                RememberedBy::Password
            },
            password: password.map(hex::encode),
        };
        self.0.insert(caller, entry);
        let mut gone = Vec::new();
        while self.0.len() > MAX_REMEMBERED {
            let others = self.0.iter().filter(|(id, _)| **id != caller);
            let idle = others.min_by_key(|(_, entry)| (entry.by, entry.last_call));
            let Some(idle) = idle.map(|(id, _)| *id) else {
                break;
            };
            self.0.remove(&idle);
            gone.push(idle);
        }
        gone
    }

    /// A remembered caller has called. Tells whether that is worth writing down.
    pub(crate) fn note_call(&mut self, caller: &PeerId, now: UnixTime) -> bool {
        match self.0.get_mut(caller) {
            Some(entry) if now.abs_diff(entry.last_call) >= LAST_CALL_S => {
                entry.last_call = now;
                true
            }
            _ => false,
        }
    }

    /// Forgets the callers that have given another password than the present one, and returns them.
    /// Tells whether anything has changed.
    pub(crate) fn follow_password(&mut self, password: [u8; TAG]) -> (bool, Vec<PeerId>) {
        let tag = hex::encode(password);
        let mut gone = Vec::new();
        let mut noted = false;
        self.0.retain(|id, entry| {
            if entry.by == RememberedBy::Owner || entry.password.as_ref() == Some(&tag) {
                return true;
            }
            if entry.password.is_some() {
                gone.push(*id);
                return false;
            }
            entry.password = Some(tag.clone());
            noted = true;
            true
        });
        (noted || !gone.is_empty(), gone)
    }

    /// Has the callers stay though the password has changed.
    pub(crate) fn keep(&mut self, password: [u8; TAG]) {
        let tag = hex::encode(password);
        for entry in self
            .0
            .values_mut()
            .filter(|entry| entry.by == RememberedBy::Password)
        {
            entry.password = Some(tag.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use ringback_protocol::SecretKey;

    use super::*;

    fn caller(number: usize) -> PeerId {
        let mut seed = [7; 32];
        seed[..8].copy_from_slice(&(number as u64).to_be_bytes());
        SecretKey::from_seed(&seed).id()
    }

    fn password(number: u8) -> [u8; TAG] {
        [number; TAG]
    }

    #[test]
    fn who_has_not_called_for_the_longest_time_goes_first() {
        let mut callers = RememberedCallers::default();
        callers.remember(caller(0), None, 0);
        for number in 1..MAX_REMEMBERED {
            let gone = callers.remember(caller(number), Some(password(1)), number as u64);
            assert!(gone.is_empty());
        }
        assert!(callers.note_call(&caller(1), 10_000));
        assert!(
            !callers.note_call(&caller(1), 10_059),
            "not every call writes"
        );
        assert!(
            !callers.note_call(&caller(9_999), 10_000),
            "nobody comes by it"
        );
        let gone = callers.remember(caller(1_000), Some(password(1)), 20_000);
        assert_eq!(gone, [caller(2)]);
        let gone = callers.remember(caller(1_001), None, 0);
        assert_eq!(gone, [caller(3)]);
        assert_eq!(callers.0.len(), MAX_REMEMBERED);
        assert!(callers.0.contains_key(&caller(0)), "by hand");
    }

    #[test]
    fn a_changed_password_ends_what_the_old_one_gave() {
        let mut callers = RememberedCallers::default();
        callers.remember(caller(1), Some(password(1)), 1);
        callers.remember(caller(2), None, 2);
        // As an earlier version wrote it.
        let old = r#"{ "since": 3, "last_call": 3 }"#;
        callers
            .0
            .insert(caller(3), serde_json::from_str(old).unwrap());
        assert_eq!(callers.follow_password(password(1)), (true, vec![]));
        assert_eq!(callers.follow_password(password(1)), (false, vec![]));
        callers.remember(caller(4), Some(password(2)), 4);
        let (changed, mut gone) = callers.follow_password(password(2));
        gone.sort();
        let mut expected = [caller(1), caller(3)];
        expected.sort();
        assert!(changed);
        assert_eq!(gone, expected);
        let mut left: Vec<PeerId> = callers.0.keys().copied().collect();
        left.sort_by_key(|id| callers.0[id].since);
        assert_eq!(left, [caller(2), caller(4)]);
    }

    #[test]
    fn callers_stay_if_they_are_told_to() {
        let mut callers = RememberedCallers::default();
        callers.remember(caller(1), Some(password(1)), 1);
        callers.keep(password(2));
        assert_eq!(callers.follow_password(password(2)), (false, vec![]));
        assert_eq!(callers.0.len(), 1);
    }

    #[test]
    fn two_at_a_time_lose_nothing_of_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let profile = Profile::open(Some(dir.path())).unwrap();
        std::thread::scope(|scope| {
            for number in 0..8 {
                let profile = &profile;
                scope.spawn(move || {
                    RememberedCallers::edit(profile, |callers| {
                        callers.remember(caller(number), None, 1);
                        (true, ())
                    })
                    .unwrap();
                });
            }
        });
        assert_eq!(RememberedCallers::load(&profile).unwrap().0.len(), 8);
    }
}
