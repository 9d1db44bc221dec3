//! Admission (§7.1): the device's decision on a request, in the order that the protocol fixes.
//! Until this says yes, the device sends nothing to any address.

use std::collections::{BTreeSet, HashMap, VecDeque};

use crate::envelope::{CallKeys, Envelope, EnvelopeError, MAX_LIFETIME, Request};
use crate::refusal::Refusal;
use crate::secret::Psk;
use crate::{Code, PeerId, SecretKey, UnixTime};

/// Failures of one caller key within [`CALLER_WINDOW`] after which it must wait.
pub const CALLER_FAILURES: usize = 5;
/// Seconds.
pub const CALLER_WINDOW: u64 = 300;
/// Failures of all callers together within [`TOTAL_WINDOW`] after which secrets are refused.
pub const TOTAL_FAILURES: usize = 60;
/// Seconds.
pub const TOTAL_WINDOW: u64 = 600;
/// Seconds that a caller's clock may be ahead.
pub const MAX_AHEAD: u64 = 5;

/// Callers that gave the password and whose keys the total does not hold up; the oldest go first.
const MAX_PROVEN: usize = 256;

/// A request that may go on to the dial-back.
#[derive(Debug)]
pub struct Admitted {
    pub caller: PeerId,
    pub request: Request,
    pub keys: CallKeys,
    /// The caller proved its key only, which this device remembers.
    pub by_key: bool,
}

/// Decides on requests. Holds the device's secrets, the callers it remembers, and what it saw.
#[derive(Debug)]
pub struct Admission {
    device: SecretKey,
    started: UnixTime,
    secrets: Vec<(Vec<u8>, Psk)>,
    remembered: BTreeSet<PeerId>,
    seen: HashMap<[u8; 16], UnixTime>,
    /// By caller. Callers are free to make, but no more than [`TOTAL_FAILURES`] of those that are not
    /// proven are ever counted.
    failures: HashMap<PeerId, VecDeque<UnixTime>>,
    total: VecDeque<UnixTime>,
    /// Callers that have given a right secret since the start: strangers can not lock them out.
    proven: VecDeque<PeerId>,
}

impl Admission {
    /// `started`: when this agent began to know what it has seen; older requests are stale.
    pub fn new(device: SecretKey, started: UnixTime) -> Self {
        Self {
            device,
            started,
            secrets: Vec::new(),
            remembered: BTreeSet::new(),
            seen: HashMap::new(),
            failures: HashMap::new(),
            total: VecDeque::new(),
            proven: VecDeque::new(),
        }
    }

    /// Sets or replaces the secret that `psk_id` names.
    pub fn set_secret(&mut self, psk_id: &[u8], psk: Psk) {
        if self
            .secrets
            .iter()
            .any(|(id, old)| id == psk_id && *old == psk)
        {
            return;
        }
        self.proven.clear();
        self.secrets.retain(|(id, _)| id != psk_id);
        self.secrets.push((psk_id.to_vec(), psk));
    }

    pub fn set_remembered(&mut self, callers: impl IntoIterator<Item = PeerId>) {
        self.remembered = callers.into_iter().collect();
    }

    pub fn remember(&mut self, caller: PeerId) {
        self.remembered.insert(caller);
    }

    pub fn forget(&mut self, caller: &PeerId) {
        self.remembered.remove(caller);
    }

    /// Admits the envelope with these bytes, or says why not. The refusal is signed for it.
    pub fn admit(&mut self, envelope: &[u8], now: UnixTime) -> Result<Admitted, Refusal> {
        self.decide(envelope, now)
            .map_err(|(code, retry)| Refusal::sign(&self.device, envelope, code, retry, now))
    }

    fn decide(&mut self, bytes: &[u8], now: UnixTime) -> Result<Admitted, (Code, Option<u32>)> {
        let envelope = Envelope::decode(bytes).map_err(|e| match e {
            EnvelopeError::Version(_) => (Code::BadVersion, None),
            _ => (Code::BadEnvelope, None),
        })?;
        if envelope.device != self.device.id() {
            return Err((Code::BadEnvelope, None));
        }
        let by_key = envelope.psk_id.is_empty();
        let (request, keys) = if by_key {
            if !self.remembered.contains(&envelope.caller) {
                return Err((Code::UnknownCaller, None));
            }
            envelope
                .open(&self.device, None)
                .map_err(|e| (open_failure(&e, Code::UnknownCaller), None))?
        } else {
            self.check_attempts(&envelope.caller, now)?;
            match self.open_with_secret(&envelope) {
                Ok(opened) => {
                    self.note_proven(envelope.caller);
                    opened
                }
                Err(e) => {
                    let code = open_failure(&e, Code::WrongPassword);
                    if code == Code::WrongPassword {
                        self.count_failure(envelope.caller, now);
                    }
                    return Err((code, None));
                }
            }
        };
        self.check_fresh(&request, now)?;
        self.seen.retain(|_, expires_at| *expires_at >= now);
        if self.seen.insert(request.id, request.expires_at).is_some() {
            return Err((Code::Replayed, None));
        }
        Ok(Admitted {
            caller: envelope.caller,
            request,
            keys,
            by_key,
        })
    }

    fn note_proven(&mut self, caller: PeerId) {
        if !self.proven.contains(&caller) {
            if self.proven.len() == MAX_PROVEN {
                self.proven.pop_front();
            }
            self.proven.push_back(caller);
        }
    }

    fn open_with_secret(&self, envelope: &Envelope) -> Result<(Request, CallKeys), EnvelopeError> {
        let (_, psk) = self
            .secrets
            .iter()
            .find(|(id, _)| *id == envelope.psk_id)
            .ok_or(EnvelopeError::Seal)?;
        envelope.open(&self.device, Some(psk))
    }

    fn check_attempts(
        &mut self,
        caller: &PeerId,
        now: UnixTime,
    ) -> Result<(), (Code, Option<u32>)> {
        forget_outside(&mut self.total, now, TOTAL_WINDOW);
        self.failures.retain(|_, times| {
            forget_outside(times, now, CALLER_WINDOW);
            !times.is_empty()
        });
        let own = self
            .failures
            .get(caller)
            .and_then(|times| wait(times, CALLER_FAILURES, now, CALLER_WINDOW));
        let all = if self.proven.contains(caller) {
            None
        } else {
            wait(&self.total, TOTAL_FAILURES, now, TOTAL_WINDOW)
        };
        match own.max(all) {
            Some(retry) => Err((Code::RateLimited, Some(retry))),
            None => Ok(()),
        }
    }

    fn count_failure(&mut self, caller: PeerId, now: UnixTime) {
        self.total.push_back(now);
        self.failures.entry(caller).or_default().push_back(now);
    }

    fn check_fresh(&self, request: &Request, now: UnixTime) -> Result<(), (Code, Option<u32>)> {
        let fresh = request.issued_at >= self.started
            && request.issued_at <= now.saturating_add(MAX_AHEAD)
            && request.expires_at >= now
            && request.expires_at >= request.issued_at
            && request.expires_at - request.issued_at <= MAX_LIFETIME;
        if fresh {
            Ok(())
        } else {
            Err((Code::Stale, None))
        }
    }
}

/// What a failed opening is called: an envelope that opens, with contents that are none, comes from
/// somebody who knows the secret.
fn open_failure(error: &EnvelopeError, closed: Code) -> Code {
    match error {
        EnvelopeError::Malformed(_) => Code::BadEnvelope,
        _ => closed,
    }
}

/// Forgets what is older than the window, and what a wrong clock has put into the future.
fn forget_outside(times: &mut VecDeque<UnixTime>, now: UnixTime, window: u64) {
    times.retain(|time| now.checked_sub(*time).is_some_and(|age| age < window));
}

/// Seconds until fewer than `limit` failures are in the window; `None` if that is so already.
fn wait(times: &VecDeque<UnixTime>, limit: usize, now: UnixTime, window: u64) -> Option<u32> {
    let blocking = times.len().checked_sub(limit)?;
    let seconds = window.saturating_sub(now.saturating_sub(times[blocking]));
    Some(u32::try_from(seconds).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_callers_is_bounded_in_memory() {
        let mut admission = Admission::new(SecretKey::from_seed(&[1; 32]), 0);
        let mut limited = 0;
        for number in 0..3_000_u64 {
            let mut seed = [0; 32];
            seed[..8].copy_from_slice(&number.to_be_bytes());
            let caller = SecretKey::from_seed(&seed).id();
            match admission.check_attempts(&caller, number) {
                Ok(()) => admission.count_failure(caller, number),
                Err((code, _)) => {
                    assert_eq!(code, Code::RateLimited);
                    limited += 1;
                }
            }
            assert!(admission.total.len() <= TOTAL_FAILURES);
            assert!(admission.failures.len() <= TOTAL_FAILURES);
        }
        assert_eq!(limited, 3_000 - 5 * TOTAL_FAILURES);
    }

    #[test]
    fn a_wrong_clock_locks_nobody_out() {
        let caller = SecretKey::from_seed(&[2; 32]).id();
        let mut admission = Admission::new(SecretKey::from_seed(&[1; 32]), 0);
        for now in [0, u64::MAX] {
            for _ in 0..CALLER_FAILURES {
                assert!(admission.check_attempts(&caller, now).is_ok());
                admission.count_failure(caller, now);
            }
            assert_eq!(
                admission.check_attempts(&caller, now),
                Err((Code::RateLimited, Some(300)))
            );
        }
        assert!(admission.check_attempts(&caller, 1_800_000_000).is_ok());
    }
}
