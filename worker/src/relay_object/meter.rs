//! What a room may still forward, and what it has used (§15.3), without I/O. The counts survive
//! hibernation in the attachment of a socket; the bucket need not: after ten idle seconds it is
//! full.

use minicbor::{Decode, Encode};

use crate::directory::{Lease, Spent, Terms};

/// Events closer together than this keep the object in memory.
const AWAKE_MS: u64 = 10_000;
const DAY_MS: u64 = 86_400_000;

/// The lease and the counts of a room.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(super) struct Meter {
    #[n(0)]
    rate_bytes_s: u64,
    /// The day that the lease is of; days since 1970.
    #[n(1)]
    day: u64,
    /// Bytes of the lease that are left.
    #[n(2)]
    left: u64,
    /// Bytes forwarded that the directory does not know of.
    #[n(3)]
    relayed: u64,
    #[n(4)]
    dropped: u64,
    #[n(5)]
    sockets: u64,
    /// Incoming messages.
    #[n(6)]
    messages: u64,
    #[n(7)]
    awake_ms: u64,
    #[n(8)]
    last_event_ms: u64,
    /// The directory has counted this room.
    #[n(9)]
    is_counted: bool,
    /// Grows with every event: of two copies the higher one is true.
    #[n(10)]
    pub(super) revision: u64,
    /// An enrolled device has been in the room.
    #[n(11)]
    had_device: bool,
    /// Bytes of the last lease.
    #[cbor(n(12), default)]
    granted: u64,
    /// Bytes that may be forwarded now, and since when they have been growing. As of the beginning
    /// of the room, or of the object's waking.
    #[cbor(skip)]
    tokens: Option<(u64, u64)>,
}

/// What becomes of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// All of it goes on.
    Pass,
    /// At most so many bytes of it do, by the rate.
    Upto(usize),
    /// There is no lease for it.
    NoLease,
}

impl Meter {
    pub(super) fn message(&mut self, now_ms: u64) {
        self.messages += 1;
        self.event(now_ms);
    }

    pub(super) fn event(&mut self, now_ms: u64) {
        if self.last_event_ms > 0 {
            self.awake_ms += now_ms.saturating_sub(self.last_event_ms).min(AWAKE_MS);
        }
        self.last_event_ms = if now_ms + AWAKE_MS < self.last_event_ms {
            now_ms
        } else {
            now_ms.max(self.last_event_ms)
        };
        self.revision += 1;
    }

    pub(super) fn joined(&mut self, is_device: bool) {
        self.sockets += 1;
        self.had_device |= is_device;
    }

    pub(super) fn rate_bytes_s(&self) -> u64 {
        self.rate_bytes_s
    }

    /// Has something to settle, and to somebody's account: a stranger's knocking costs no row.
    pub(super) fn is_worth_telling(&self) -> bool {
        (self.had_device && (self.messages > 0 || self.sockets > 0)) || self.left > 0
    }

    /// Bytes, for telling how many more were: only between two settlements.
    pub(super) fn dropped(&self) -> usize {
        self.dropped as usize
    }

    pub(super) fn has_lease(&self) -> bool {
        self.left > 0
    }

    /// Time to ask for the next lease: an eighth of a full one is left, or half of a smaller one, or
    /// the day is over.
    pub(super) fn is_low(&self, now_ms: u64) -> bool {
        let full = (16 << 20).max(4 * self.rate_bytes_s);
        self.left < (full / 8).min(self.granted / 2) || self.day != now_ms / DAY_MS
    }

    pub(super) fn judge(&mut self, len: usize, now_ms: u64) -> Verdict {
        if self.left < len as u64 {
            return Verdict::NoLease;
        }
        let (tokens, mut since_ms) = self.tokens.unwrap_or((self.rate_bytes_s, now_ms));
        // Events do not see the clock in their order: time must not be counted twice.
        let grown = now_ms.saturating_sub(since_ms) * self.rate_bytes_s / 1000;
        if now_ms > since_ms || since_ms - now_ms > AWAKE_MS {
            since_ms = now_ms;
        }
        let tokens = (tokens + grown).min(self.rate_bytes_s);
        self.tokens = Some((tokens, since_ms));
        if tokens >= len as u64 {
            Verdict::Pass
        } else {
            Verdict::Upto(tokens as usize)
        }
    }

    /// Of a message, so much went on and so much did not.
    pub(super) fn forwarded(&mut self, passed: usize, dropped: usize) {
        self.left = self.left.saturating_sub(passed as u64);
        self.relayed += passed as u64;
        self.dropped += dropped as u64;
        if let Some((tokens, _)) = &mut self.tokens {
            *tokens = tokens.saturating_sub(passed as u64);
        }
    }

    /// What the directory is to be told, and is taken to know from now on. With `at_end`, or when
    /// the day is over, what is left of the lease goes back.
    pub(super) fn settle(&mut self, at_end: bool, now_ms: u64) -> Spent {
        let returns = at_end || self.day != now_ms / DAY_MS;
        let returned = if returns {
            std::mem::take(&mut self.left)
        } else {
            0
        };
        let rooms = u64::from(!std::mem::replace(&mut self.is_counted, true));
        Spent {
            day: self.day,
            relayed: std::mem::take(&mut self.relayed),
            returned,
            dropped: std::mem::take(&mut self.dropped),
            rooms,
            sockets: std::mem::take(&mut self.sockets),
            messages: std::mem::take(&mut self.messages),
            awake_ms: std::mem::take(&mut self.awake_ms),
        }
    }

    /// The directory did not hear it: it is still to be told.
    pub(super) fn unsettle(&mut self, spent: &Spent) {
        self.left += spent.returned;
        self.relayed += spent.relayed;
        self.dropped += spent.dropped;
        self.sockets += spent.sockets;
        self.messages += spent.messages;
        self.awake_ms += spent.awake_ms;
        if spent.rooms > 0 {
            self.is_counted = false;
        }
    }

    pub(super) fn agree(&mut self, terms: &Terms) {
        self.rate_bytes_s = terms.rate_bytes_s;
        if let Some(Lease { day, bytes }) = terms.lease {
            self.day = day;
            self.left += bytes;
            self.granted = bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Noon of some day.
    const T: u64 = 20_000 * DAY_MS + DAY_MS / 2;

    fn leased(bytes: u64, rate_bytes_s: u64) -> Meter {
        let mut meter = Meter::default();
        let lease = Some(Lease {
            day: T / DAY_MS,
            bytes,
        });
        meter.agree(&Terms {
            rate_bytes_s,
            remaining_bytes: 0,
            lease,
        });
        meter
    }

    #[test]
    fn a_second_at_once_then_the_rate() {
        let mut meter = leased(1 << 30, 100_000);
        assert_eq!(meter.judge(60_000, T), Verdict::Pass);
        meter.forwarded(60_000, 0);
        assert_eq!(meter.judge(60_000, T), Verdict::Upto(40_000));
        meter.forwarded(39_000, 21_000);
        assert_eq!(meter.judge(60_000, T), Verdict::Upto(1_000));
        assert_eq!(meter.judge(60_000, T + 500), Verdict::Upto(51_000));
        assert_eq!(meter.judge(60_000, T + 60_000), Verdict::Pass);
        meter.forwarded(60_000, 0);
        assert_eq!(
            meter.judge(60_000, T + 60_000),
            Verdict::Upto(40_000),
            "idle time is not saved up beyond a second"
        );
        let upto = Verdict::Upto(40_000);
        for at in [T + 59_900, T + 60_000, T + 59_900, T + 60_000] {
            assert_eq!(meter.judge(60_000, at), upto, "no time is counted twice");
        }
        assert_eq!(meter.judge(60_000, T), upto, "a clock set back");
        assert_eq!(meter.judge(60_000, T + 200), Verdict::Pass, "goes on");
    }

    #[test]
    fn a_lease_ends_and_is_told() {
        let mut meter = leased(100, 1 << 20);
        meter.message(T);
        meter.message(T + 400);
        meter.message(T + 60_000);
        meter.joined(true);
        meter.forwarded(70, 5);
        assert_eq!(meter.judge(31, T), Verdict::NoLease);
        assert_eq!(meter.judge(30, T), Verdict::Pass);
        assert!(meter.is_low(T));
        let spent = meter.settle(false, T);
        assert_eq!(
            spent,
            Spent {
                day: T / DAY_MS,
                relayed: 70,
                returned: 0,
                dropped: 5,
                rooms: 1,
                sockets: 1,
                messages: 3,
                awake_ms: 10_400,
            }
        );
        let nothing = Spent {
            day: T / DAY_MS,
            ..Spent::default()
        };
        assert_eq!(meter.settle(false, T), nothing);
        meter.unsettle(&spent);
        assert_eq!(meter.settle(false, T), spent, "told again");
        assert_eq!(meter.settle(true, T).returned, 30);
        assert!(!meter.has_lease());
    }

    #[test]
    fn a_small_lease_is_half_used_before_the_next_is_asked_for() {
        let mut meter = leased(1 << 20, 4 << 20);
        assert!(!meter.is_low(T), "nothing was forwarded yet");
        meter.forwarded(1 << 19, 0);
        assert!(!meter.is_low(T));
        meter.forwarded(1, 0);
        assert!(meter.is_low(T));
    }

    #[test]
    fn a_lease_goes_back_at_midnight() {
        let mut meter = leased(100 << 20, 1 << 20);
        assert!(!meter.is_low(T));
        assert!(meter.is_low(T + DAY_MS));
        assert_eq!(meter.settle(false, T + DAY_MS).returned, 100 << 20);
    }
}
