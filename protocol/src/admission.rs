//! Admission (§7.1): the device's decision on a request, in the order that the protocol fixes.
//! Until this says yes, the device sends nothing to any address.

mod attempts;

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::time::Duration;

use crate::envelope::{CallKeys, Envelope, EnvelopeError, MAX_LIFETIME, Request};
use crate::refusal::Refusal;
use crate::secret::Psk;
use crate::{Code, PeerId, SecretKey, UnixTime};
use attempts::Attempts;

pub use attempts::{
    Arrival, CALLER_FAILURES, CALLER_WINDOW, SOURCE_FAILURES, TOTAL_FAILURES, TOTAL_WINDOW,
};

/// Seconds that a caller's clock may be ahead.
pub const MAX_AHEAD: u64 = 5;

/// Admitted requests that are remembered, so that none is admitted twice; a device that is asked for
/// more than so many within a request's lifetime refuses the others for a while.
pub const MAX_SEEN: usize = 4096;

/// Callers that gave the password and whose keys the total does not hold up; the oldest go first.
const MAX_PROVEN: usize = 256;

/// A moment, by both clocks of the host: requests are judged by the time of day, which somebody may
/// set, and attempts are counted by one that only goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    pub unix: UnixTime,
    /// Monotonic, from any start.
    pub uptime: Duration,
}

/// A host whose time of day is never set.
impl From<UnixTime> for Moment {
    fn from(unix: UnixTime) -> Self {
        Self {
            unix,
            uptime: Duration::from_secs(unix),
        }
    }
}

/// A request that was admitted, as an agent keeps it over a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    pub id: [u8; 16],
    pub expires_at: UnixTime,
}

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
    started: Moment,
    secrets: Vec<(Vec<u8>, Psk)>,
    remembered: BTreeSet<PeerId>,
    seen: SeenRequests,
    attempts: Attempts,
    /// Callers that have given a right secret since the start: strangers can not lock them out.
    proven: VecDeque<PeerId>,
}

impl Admission {
    /// `started`: when this agent began to know what it has seen; older requests are stale.
    pub fn new(device: SecretKey, started: impl Into<Moment>) -> Self {
        Self {
            device,
            started: started.into(),
            secrets: Vec::new(),
            remembered: BTreeSet::new(),
            seen: SeenRequests::default(),
            attempts: Attempts::default(),
            proven: VecDeque::new(),
        }
    }

    /// Requests that this device has admitted before it was started, the oldest first: none of them
    /// is admitted again.
    pub fn restore(&mut self, seen: impl IntoIterator<Item = Seen>) {
        for seen in seen {
            self.seen.restore(seen);
        }
    }

    /// Is it a caller that this device remembers, or that has given the password since its start?
    /// Nothing that others do keeps it waiting.
    pub fn is_known(&self, caller: &PeerId) -> bool {
        self.remembered.contains(caller) || self.proven.contains(caller)
    }

    /// Does its key alone admit it?
    pub fn is_remembered(&self, caller: &PeerId) -> bool {
        self.remembered.contains(caller)
    }

    /// Sets or replaces the secret that `psk_id` names. Tells whether it was another one before.
    pub fn set_secret(&mut self, psk_id: &[u8], psk: Psk) -> bool {
        let old = self.secrets.iter().find(|(id, _)| id == psk_id);
        let had_one = old.is_some();
        if old.is_some_and(|(_, old)| *old == psk) {
            return false;
        }
        self.proven.clear();
        self.secrets.retain(|(id, _)| id != psk_id);
        self.secrets.push((psk_id.to_vec(), psk));
        had_one
    }

    /// The secret that `psk_id` names.
    pub fn secret(&self, psk_id: &[u8]) -> Option<&Psk> {
        let named = self.secrets.iter().find(|(id, _)| id == psk_id);
        named.map(|(_, psk)| psk)
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

    /// Admits the envelope with these bytes, which the registry has relayed, or says why not. The
    /// refusal is signed for it.
    pub fn admit(&mut self, envelope: &[u8], now: impl Into<Moment>) -> Result<Admitted, Refusal> {
        self.admit_from(envelope, Arrival::Registry, now)
    }

    /// The same of one that has come `from` anywhere.
    pub fn admit_from(
        &mut self,
        envelope: &[u8],
        from: Arrival,
        now: impl Into<Moment>,
    ) -> Result<Admitted, Refusal> {
        let now = now.into();
        self.decide(envelope, from, now)
            .map_err(|(code, retry)| Refusal::sign(&self.device, envelope, code, retry, now.unix))
    }

    fn decide(
        &mut self,
        bytes: &[u8],
        from: Arrival,
        now: Moment,
    ) -> Result<Admitted, (Code, Option<u32>)> {
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
            let known = self.is_known(&envelope.caller);
            self.attempts
                .check(&envelope.caller, from, known, now.uptime)
                .map_err(|retry| (Code::RateLimited, Some(retry)))?;
            match self.open_with_secret(&envelope) {
                Ok(opened) => {
                    self.note_proven(envelope.caller);
                    opened
                }
                Err(e) => {
                    let code = open_failure(&e, Code::WrongPassword);
                    if code == Code::WrongPassword {
                        let caller = envelope.caller;
                        self.attempts.count(caller, from, known, bytes, now.uptime);
                    }
                    return Err((code, None));
                }
            }
        };
        self.check_fresh(&request, now)?;
        self.seen.add(&request, now.unix)?;
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

    fn check_fresh(&self, request: &Request, now: Moment) -> Result<(), (Code, Option<u32>)> {
        // The start as the clock would tell it now: a clock that was set makes nothing stale.
        let running = now.uptime.saturating_sub(self.started.uptime);
        let running = running.as_secs() + u64::from(running.subsec_nanos() > 0);
        let now = now.unix;
        let fresh = request.issued_at >= now.saturating_sub(running)
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

/// The requests that were admitted, in this order. They are not forgotten when they expire, as a clock
/// can be set back, but when there are too many.
#[derive(Debug, Default)]
struct SeenRequests {
    order: VecDeque<Seen>,
    ids: HashSet<[u8; 16]>,
}

impl SeenRequests {
    fn add(&mut self, request: &Request, now: UnixTime) -> Result<(), (Code, Option<u32>)> {
        if self.ids.contains(&request.id) {
            return Err((Code::Replayed, None));
        }
        if let Some(oldest) = self.order.front()
            && self.order.len() >= MAX_SEEN
            && oldest.expires_at >= now
        {
            let wait = (oldest.expires_at - now).saturating_add(1);
            return Err((
                Code::RateLimited,
                Some(u32::try_from(wait).unwrap_or(u32::MAX)),
            ));
        }
        self.restore(Seen {
            id: request.id,
            expires_at: request.expires_at,
        });
        Ok(())
    }

    fn restore(&mut self, seen: Seen) {
        if self.order.len() >= MAX_SEEN
            && let Some(oldest) = self.order.pop_front()
        {
            self.ids.remove(&oldest.id);
        }
        if self.ids.insert(seen.id) {
            self.order.push_back(seen);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_requests_are_remembered_than_there_is_room_for() {
        let mut seen = SeenRequests::default();
        let request = |number: u64, expires_at| Request {
            id: std::array::from_fn(|at| number.to_be_bytes()[at % 8]),
            issued_at: 100,
            expires_at,
            service: "ssh".into(),
            candidates: Vec::new(),
            remember: false,
            webrtc: None,
            path: 0,
            nat: crate::receipt::Nat::Unknown,
        };
        for number in 0..MAX_SEEN as u64 {
            assert_eq!(seen.add(&request(number, 130), 100), Ok(()));
        }
        // None of them may be forgotten yet.
        let another = request(MAX_SEEN as u64, 130);
        assert_eq!(seen.add(&another, 130), Err((Code::RateLimited, Some(1))));
        assert_eq!(seen.add(&another, 131), Ok(()));
        assert_eq!(seen.add(&another, 131), Err((Code::Replayed, None)));
        assert_eq!((seen.order.len(), seen.ids.len()), (MAX_SEEN, MAX_SEEN));
    }
}
