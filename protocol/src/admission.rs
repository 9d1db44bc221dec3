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

/// Callers whose failures are kept apart; beyond that the oldest is forgotten (the total still counts).
const MAX_CALLERS: usize = 1024;

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
    failures: HashMap<PeerId, VecDeque<UnixTime>>,
    total: VecDeque<UnixTime>,
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
        }
    }

    /// Sets or replaces the secret that `psk_id` names.
    pub fn set_secret(&mut self, psk_id: &[u8], psk: Psk) {
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
                .map_err(|_| (Code::UnknownCaller, None))?
        } else {
            self.check_attempts(&envelope.caller, now)?;
            match self.open_with_secret(&envelope) {
                Some(opened) => opened,
                None => {
                    self.count_failure(envelope.caller, now);
                    return Err((Code::WrongPassword, None));
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

    fn open_with_secret(&self, envelope: &Envelope) -> Option<(Request, CallKeys)> {
        let (_, psk) = self.secrets.iter().find(|(id, _)| *id == envelope.psk_id)?;
        envelope.open(&self.device, Some(psk)).ok()
    }

    fn check_attempts(
        &mut self,
        caller: &PeerId,
        now: UnixTime,
    ) -> Result<(), (Code, Option<u32>)> {
        forget_before(&mut self.total, now, TOTAL_WINDOW);
        self.failures.retain(|_, times| {
            forget_before(times, now, CALLER_WINDOW);
            !times.is_empty()
        });
        let own = self
            .failures
            .get(caller)
            .and_then(|times| wait(times, CALLER_FAILURES, now, CALLER_WINDOW));
        let all = wait(&self.total, TOTAL_FAILURES, now, TOTAL_WINDOW);
        match own.max(all) {
            Some(retry) => Err((Code::RateLimited, Some(retry))),
            None => Ok(()),
        }
    }

    fn count_failure(&mut self, caller: PeerId, now: UnixTime) {
        self.total.push_back(now);
        if !self.failures.contains_key(&caller) && self.failures.len() >= MAX_CALLERS {
            let oldest = self
                .failures
                .iter()
                .min_by_key(|(_, times)| times.back().copied())
                .map(|(id, _)| *id);
            if let Some(oldest) = oldest {
                self.failures.remove(&oldest);
            }
        }
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

fn forget_before(times: &mut VecDeque<UnixTime>, now: UnixTime, window: u64) {
    while times
        .front()
        .is_some_and(|first| first.saturating_add(window) <= now)
    {
        times.pop_front();
    }
}

/// Seconds until fewer than `limit` failures are in the window; `None` if that is so already.
fn wait(times: &VecDeque<UnixTime>, limit: usize, now: UnixTime, window: u64) -> Option<u32> {
    let blocking = times.len().checked_sub(limit)?;
    let seconds = (times[blocking] + window).saturating_sub(now).max(1);
    Some(u32::try_from(seconds).unwrap_or(u32::MAX))
}
