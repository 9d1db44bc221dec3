//! What the frontend knows of the directory for a while (§5.8): which devices there are, by which
//! names, and what `GET /v1/registry` tells. It is in the memory of each isolate, and asked for
//! anew when it is old; so strangers can ask as often as they like, and the directory is asked
//! a few times a minute.
//!
//! A change is known at once where the directory runs in the same isolate, and elsewhere when the
//! copy is old. Nothing is refused because this does not know of a device: the objects decide.

use std::cell::RefCell;
use std::collections::HashMap;

use ringback_protocol::{Code, PeerId};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use worker::Env;

use crate::clock::now_ms;
use crate::directory::{Ask, ask};
use crate::problem::Problem;

/// Milliseconds that a copy is good for.
const KEPT_MS: u64 = 30_000;
/// Milliseconds after which it is worth another look for what it does not have.
const MISS_MS: u64 = 5_000;
/// The same for each device of the registry: reading a row is what it costs.
const MISS_MS_PER_DEVICE: u64 = 50;
/// Milliseconds for which one request asks on behalf of all.
const ASKING_MS: u64 = 2_000;
/// Devices of the largest registry that is copied.
pub const MAX_DEVICES: usize = 4_096;

thread_local! {
    static KEPT: RefCell<Kept> = RefCell::default();
}

/// All devices, revoked ones without a name; `None` if there are too many.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Roster(pub Option<Vec<(PeerId, Option<String>)>>);

/// The directory has changed.
pub fn forget() {
    KEPT.with_borrow_mut(|kept| {
        *kept = Kept {
            generation: kept.generation + 1,
            ..Kept::default()
        };
    });
}

/// The device of this name, as `GET /v1/aliases/{name}` answers.
pub async fn alias(env: &Env, name: &str) -> Result<Value, Problem> {
    let found = look(env, |roster| roster.names.get(name).copied()).await?;
    match found {
        Look::Found(device) => Ok(json!({ "device": device, "name": name })),
        Look::Missing => Err(Problem::new(
            Code::UnknownAlias,
            "no device of this name is enrolled here",
        )),
        Look::Unknown => {
            let name = name.to_owned();
            ask(env, &Ask::Alias { name }).await
        }
    }
}

/// May this device be rung, as far as its enrolment goes? What a request to it would be told, without
/// waking its object; nothing is said against it while the copy can not say.
pub async fn check(env: &Env, device: &PeerId) -> Result<(), Problem> {
    match look(env, |roster| roster.devices.get(device).copied()).await? {
        Look::Found(Standing::Revoked) => Err(Problem::revoked()),
        Look::Missing => Err(Problem::unknown_device(device)),
        Look::Found(Standing::Enrolled) | Look::Unknown => Ok(()),
    }
}

/// Is this device enrolled here, or was it once? True if that can not be said.
pub async fn is_enrolled(env: &Env, device: &PeerId) -> bool {
    let found = look(env, |roster| roster.devices.get(device).copied()).await;
    !matches!(found, Ok(Look::Missing))
}

/// What the directory says to [`Ask::Registry`].
pub async fn registry(env: &Env) -> Result<Value, Problem> {
    let (kept, generation) = KEPT.with_borrow_mut(|kept| {
        let now_ms = now_ms();
        (kept.registry.look(KEPT_MS, now_ms), kept.generation)
    });
    if let Some(kept) = kept {
        return Ok(kept);
    }
    let value: Value = ask(env, &Ask::Registry).await?;
    keep(generation, |kept| kept.registry.set(value.clone()));
    Ok(value)
}

async fn look<T>(env: &Env, find: impl Fn(&Known) -> Option<T>) -> Result<Look<T>, Problem> {
    let (found, generation) =
        KEPT.with_borrow_mut(|kept| (kept.roster.find(&find, now_ms()), kept.generation));
    if let Some(found) = found {
        return Ok(found);
    }
    let known = Known::from(ask::<Roster>(env, &Ask::Roster).await?);
    let found = known.find(&find);
    keep(generation, |kept| kept.roster.set(known));
    Ok(found)
}

/// What was asked before a change is of no use after it.
fn keep(generation: u64, set: impl FnOnce(&mut Kept)) {
    KEPT.with_borrow_mut(|kept| {
        if kept.generation == generation {
            set(kept);
        }
    });
}

#[derive(Debug, Default)]
struct Kept {
    generation: u64,
    roster: Cached<Known>,
    registry: Cached<Value>,
}

/// A copy of something, when it was asked for, and whether somebody is asking for a newer one.
#[derive(Debug)]
struct Cached<T> {
    value: Option<T>,
    at_ms: u64,
    asked_ms: u64,
}

impl<T> Default for Cached<T> {
    fn default() -> Self {
        Self {
            value: None,
            at_ms: 0,
            asked_ms: 0,
        }
    }
}

impl<T> Cached<T> {
    fn set(&mut self, value: T) {
        self.value = Some(value);
        self.at_ms = self.asked_ms;
    }

    /// Is the copy to be used? If not, whoever has asked this brings a new one.
    fn is_good(&mut self, for_ms: u64, now_ms: u64) -> bool {
        let is_young = now_ms.abs_diff(self.at_ms) < for_ms;
        let is_asked_for = now_ms.abs_diff(self.asked_ms) < ASKING_MS;
        if self.value.is_some() && (is_young || is_asked_for) {
            return true;
        }
        self.asked_ms = now_ms;
        false
    }
}

impl<T: Clone> Cached<T> {
    fn look(&mut self, for_ms: u64, now_ms: u64) -> Option<T> {
        self.is_good(for_ms, now_ms)
            .then(|| self.value.clone())
            .flatten()
    }
}

#[derive(Debug, Default)]
struct Known {
    devices: HashMap<PeerId, Standing>,
    names: HashMap<String, PeerId>,
    /// There are too many devices.
    is_partial: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Enrolled,
    Revoked,
}

#[derive(Debug, PartialEq, Eq)]
enum Look<T> {
    Found(T),
    Missing,
    /// Only the directory can say.
    Unknown,
}

impl From<Roster> for Known {
    fn from(Roster(devices): Roster) -> Self {
        let is_partial = devices.is_none();
        let mut known = Self {
            is_partial,
            ..Self::default()
        };
        for (device, name) in devices.into_iter().flatten() {
            let standing = match &name {
                Some(_) => Standing::Enrolled,
                None => Standing::Revoked,
            };
            known.devices.insert(device, standing);
            known.names.extend(name.map(|name| (name, device)));
        }
        known
    }
}

impl Known {
    fn find<T>(&self, find: impl Fn(&Self) -> Option<T>) -> Look<T> {
        match find(self) {
            _ if self.is_partial => Look::Unknown,
            Some(found) => Look::Found(found),
            None => Look::Missing,
        }
    }
}

impl Cached<Known> {
    /// `None`: the directory is to be asked for a new copy.
    fn find<T>(&mut self, find: impl Fn(&Known) -> Option<T>, now_ms: u64) -> Option<Look<T>> {
        let found = self.value.as_ref().map(|known| known.find(find));
        let for_ms = match (&found, &self.value) {
            (Some(Look::Missing), Some(known)) => {
                MISS_MS + MISS_MS_PER_DEVICE * known.devices.len() as u64
            }
            _ => KEPT_MS,
        };
        self.is_good(for_ms, now_ms).then_some(found).flatten()
    }
}

#[cfg(test)]
mod tests {
    use ringback_protocol::SecretKey;

    use super::*;

    const T: u64 = 1_800_000_000_000;

    fn id(n: u8) -> PeerId {
        SecretKey::from_seed(&[n; 32]).id()
    }

    fn of(devices: &[(u8, Option<&str>)]) -> Known {
        let devices = devices.iter();
        let devices = devices.map(|(n, name)| (id(*n), name.map(str::to_owned)));
        Roster(Some(devices.collect())).into()
    }

    fn named(copy: &mut Cached<Known>, name: &str, now_ms: u64) -> Option<Look<PeerId>> {
        copy.find(|known| known.names.get(name).copied(), now_ms)
    }

    #[test]
    fn what_is_known_is_asked_for_twice_a_minute_and_what_is_not_a_little_more_often() {
        let mut copy = Cached::default();
        assert_eq!(named(&mut copy, "nas", T), None);
        copy.set(of(&[(1, Some("nas")), (2, None)]));
        let nas = Some(Look::Found(id(1)));
        assert_eq!(named(&mut copy, "nas", T + 29_999), nas);
        assert_eq!(named(&mut copy, "no", T + 5_000), Some(Look::Missing));
        assert_eq!(named(&mut copy, "no", T + 5_100), None);
        assert_eq!(
            named(&mut copy, "other", T + 5_200),
            Some(Look::Missing),
            "somebody is asking already"
        );
        assert_eq!(named(&mut copy, "no", T + 7_200), None, "and got no answer");
        copy.set(of(&[(1, Some("nas"))]));
        assert_eq!(named(&mut copy, "nas", T + 37_199), nas);
        assert_eq!(named(&mut copy, "nas", T + 37_200), None);
    }

    /// A day of names that do not exist, ten a second.
    #[test]
    fn a_flood_of_misses_reads_a_bounded_number_of_rows() {
        for devices in [1_u16, 300, 4_000] {
            let list = (0..devices).map(|n| {
                let mut seed = [0; 32];
                seed[..2].copy_from_slice(&n.to_be_bytes());
                (SecretKey::from_seed(&seed).id(), None)
            });
            let roster = Roster(Some(list.collect()));
            let mut copy = Cached::default();
            let mut rows = 0;
            for i in 0..864_000 {
                if named(&mut copy, "no", T + i * 100).is_none() {
                    copy.set(roster.clone().into());
                    rows += u64::from(devices);
                }
            }
            assert!(rows < 1_800_000, "{devices} devices: {rows}");
        }
    }

    #[test]
    fn a_registry_that_is_too_large_is_not_guessed_about() {
        let mut copy = Cached::default();
        assert_eq!(named(&mut copy, "nas", T), None);
        copy.set(Roster(None).into());
        assert_eq!(named(&mut copy, "nas", T + 1), Some(Look::Unknown));
    }
}
