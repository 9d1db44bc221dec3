//! Sliding windows (§14).
//!
//! Where they live: requests are counted in the attachment of the device's socket, which survives
//! hibernation and costs no rows; counting them in memory would let a caller wait out the ten
//! seconds after which an object hibernates and start from zero. Only a crash of the machine loses
//! them. Failed enrolment codes are counted in memory: at 80 bits a code can not be guessed at any
//! rate, the limit only keeps strangers from making work.

use std::collections::VecDeque;

use minicbor::{Decode, Encode};
use ringback_protocol::PeerId;

/// Requests per minute, of one caller to one device.
pub const REQUESTS_PER_CALLER: usize = 20;
/// Requests per minute to one device.
pub const REQUESTS_PER_DEVICE: usize = 120;
/// Failed enrolment codes per minute and registry; as many devices a minute may enrol themselves
/// on an open one.
pub const ENROLMENTS: usize = 60;
/// Changes of a device's public address per minute.
pub const UPDATES: usize = 30;

/// Fetches of waiting requests per minute and device, and posts of answers.
pub const FETCHES: usize = 120;
/// Devices that a beacon may tell of in a minute.
pub const SEEN: u32 = 600;

const SPAN_MS: u64 = 60_000;

/// Over the limit; worth another try after this many seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exceeded {
    pub retry_after_s: u32,
}

/// The last minute of some event. Events over the limit are not counted, so waiting always helps.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(transparent)]
pub struct Window(#[n(0)] VecDeque<u64>);

impl Window {
    pub fn admit(&mut self, max: usize, now_ms: u64) -> Result<(), Exceeded> {
        self.0.retain(|at| is_recent(*at, now_ms));
        if self.0.len() >= max {
            return Err(until(self.0.front().copied(), now_ms));
        }
        self.0.push_back(now_ms);
        Ok(())
    }
}

/// A minute of something frequent: a number instead of each time. A new minute starts with the
/// first event after the old one, so that twice the limit may come within one minute.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Count {
    #[n(0)]
    since_ms: u64,
    #[n(1)]
    events: u32,
}

impl Count {
    pub fn admit(&mut self, max: u32, now_ms: u64) -> Result<(), Exceeded> {
        if !is_recent(self.since_ms, now_ms) {
            *self = Self {
                since_ms: now_ms,
                events: 0,
            };
        }
        if self.events >= max {
            return Err(until(Some(self.since_ms), now_ms));
        }
        self.events += 1;
        Ok(())
    }
}

/// The last minute of requests to one device, of each caller and in all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(transparent)]
pub struct RequestWindow(#[n(0)] VecDeque<Seen>);

/// Half of the caller's key is enough to tell callers apart, and keeps a full window under 4 KiB.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
struct Seen {
    #[cbor(n(0), with = "minicbor::bytes")]
    caller: [u8; 16],
    #[n(1)]
    at_ms: u64,
}

impl RequestWindow {
    pub fn admit(&mut self, caller: &PeerId, now_ms: u64) -> Result<(), Exceeded> {
        let caller = *caller.as_bytes().first_chunk().expect("an ID has 32 bytes");
        self.0.retain(|seen| is_recent(seen.at_ms, now_ms));
        let mut of_caller = self
            .0
            .iter()
            .filter(|seen| seen.caller == caller)
            .map(|seen| seen.at_ms)
            .peekable();
        let oldest_of_caller = of_caller.peek().copied();
        if of_caller.count() >= REQUESTS_PER_CALLER {
            return Err(until(oldest_of_caller, now_ms));
        }
        if self.0.len() >= REQUESTS_PER_DEVICE {
            return Err(until(self.0.front().map(|seen| seen.at_ms), now_ms));
        }
        self.0.push_back(Seen {
            caller,
            at_ms: now_ms,
        });
        Ok(())
    }
}

/// A time from before a clock was set back counts as now, and so leaves after a minute at most.
fn is_recent(at_ms: u64, now_ms: u64) -> bool {
    at_ms.abs_diff(now_ms) < SPAN_MS
}

fn until(oldest_ms: Option<u64>, now_ms: u64) -> Exceeded {
    let left = oldest_ms
        .map_or(0, |at| (at + SPAN_MS).saturating_sub(now_ms))
        .clamp(1, SPAN_MS);
    Exceeded {
        retry_after_s: left.div_ceil(1000) as u32,
    }
}

#[cfg(test)]
mod tests {
    use ringback_protocol::SecretKey;

    use super::*;

    const T: u64 = 1_800_000_000_000;

    fn caller(n: u8) -> PeerId {
        SecretKey::from_seed(&[n; 32]).id()
    }

    #[test]
    fn one_caller_has_twenty_a_minute() {
        let mut window = RequestWindow::default();
        for i in 0..20 {
            assert_eq!(window.admit(&caller(1), T + i * 1000), Ok(()));
        }
        assert_eq!(
            window.admit(&caller(1), T + 20_000),
            Err(Exceeded { retry_after_s: 40 })
        );
        assert_eq!(
            window.admit(&caller(2), T + 20_000),
            Ok(()),
            "others are not touched"
        );
        assert_eq!(
            window.admit(&caller(1), T + 59_999),
            Err(Exceeded { retry_after_s: 1 })
        );
        assert_eq!(
            window.admit(&caller(1), T + 60_000),
            Ok(()),
            "refused tries were not counted"
        );
        assert!(window.admit(&caller(1), T + 60_001).is_err());
    }

    #[test]
    fn one_device_has_a_hundred_and_twenty_a_minute() {
        let mut window = RequestWindow::default();
        for i in 0..120 {
            assert_eq!(window.admit(&caller(i), T + u64::from(i)), Ok(()));
        }
        assert_eq!(
            window.admit(&caller(200), T + 30_000),
            Err(Exceeded { retry_after_s: 30 })
        );
        assert_eq!(window.admit(&caller(200), T + 60_000), Ok(()));
    }

    #[test]
    fn a_count_starts_anew_every_minute() {
        let mut count = Count::default();
        for at in [T, T + 30_000, T + 60_000] {
            let mut admitted = 0;
            while count.admit(600, at).is_ok() {
                admitted += 1;
            }
            assert_eq!(admitted, if at == T + 30_000 { 0 } else { 600 });
        }
        assert_eq!(
            count.admit(600, T + 61_000),
            Err(Exceeded { retry_after_s: 59 })
        );
    }

    #[test]
    fn a_clock_set_back_does_not_lock_out() {
        let mut window = RequestWindow::default();
        for _ in 0..20 {
            window.admit(&caller(1), T).unwrap();
        }
        assert_eq!(window.admit(&caller(1), T - 3_600_000), Ok(()));
        assert!(window.admit(&caller(1), T - 3_600_000).is_ok());
    }

    #[test]
    fn a_full_window_fits_an_attachment() {
        let mut window = RequestWindow::default();
        for i in 0..120 {
            window.admit(&caller(i), T).unwrap();
        }
        let bytes = minicbor::to_vec(&window).unwrap();
        assert!(bytes.len() < 4096, "{}", bytes.len());
        assert_eq!(minicbor::decode::<RequestWindow>(&bytes).unwrap(), window);
    }
}
