//! Sliding windows (§14).
//!
//! Where they live: requests are counted in the attachment of the device's socket, which survives
//! hibernation and costs no rows; counting them in memory would let a caller wait out the ten
//! seconds after which an object hibernates and start from zero. Only a crash of the machine loses
//! them. Failed enrolment codes are counted in memory: at 80 bits a code can not be guessed at any
//! rate, the limit only keeps strangers from making work.
//!
//! Strangers and callers that the device has answered do not share a window: whoever fills the
//! strangers' keeps strangers out, and nobody else.

use std::collections::VecDeque;
use std::net::IpAddr;

use minicbor::{Decode, Encode};
use ringback_protocol::PeerId;

/// Requests per minute, of one caller to one device.
pub const REQUESTS_PER_CALLER: usize = 20;
/// Requests per minute to one device of all callers that it has not answered yet.
pub const REQUESTS_OF_STRANGERS: usize = 120;
/// The same from one [`Source`].
pub const REQUESTS_PER_SOURCE: usize = 40;
/// Requests per minute to one device of all callers that it has answered.
pub const REQUESTS_OF_ANSWERED: usize = 240;
/// Callers that are known as answered, per device.
const MAX_ANSWERED: usize = 256;
/// A window in memory is worth a row after as many requests of strangers.
const STORED_EACH: usize = 30;
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

/// Where requests come from, as far as limits tell apart: an IPv4 address, or the /64 of an IPv6
/// one, since whoever has one address there has all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Encode, Decode)]
#[cbor(transparent)]
pub struct Source(#[n(0)] u64);

impl Source {
    /// `None` if the text is no address.
    pub fn parse(address: &str) -> Option<Self> {
        Some(match address.parse::<IpAddr>().ok()?.to_canonical() {
            // ::ffff:0:0/96, of which no /64 is anybody's.
            IpAddr::V4(ip) => Self(0xffff << 32 | u64::from(u32::from(ip))),
            IpAddr::V6(ip) => Self((u128::from(ip) >> 64) as u64),
        })
    }
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The last minute of requests to one device.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct RequestWindow {
    #[n(0)]
    strangers: VecDeque<Seen>,
    #[n(1)]
    answered: VecDeque<Seen>,
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
struct Seen {
    #[n(0)]
    caller: ShortId,
    #[n(1)]
    at_ms: u64,
    /// Of strangers only.
    #[n(2)]
    source: Option<Source>,
}

/// Half of a caller's key is enough to tell callers apart, and keeps full windows small.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(transparent)]
struct ShortId(#[cbor(n(0), with = "minicbor::bytes")] [u8; 16]);

impl From<&PeerId> for ShortId {
    fn from(id: &PeerId) -> Self {
        Self(*id.as_bytes().first_chunk().expect("an ID has 32 bytes"))
    }
}

impl RequestWindow {
    /// Counts a request of `caller`, which the device has answered before or not. A request that
    /// another device has placed has no source: its caller is an enrolled key.
    pub fn admit(
        &mut self,
        caller: &PeerId,
        source: Option<Source>,
        is_answered: bool,
        now_ms: u64,
    ) -> Result<(), Exceeded> {
        let caller = ShortId::from(caller);
        for window in [&mut self.strangers, &mut self.answered] {
            window.retain(|seen| is_recent(seen.at_ms, now_ms));
        }
        // A caller's first request that was answered counts for it as a stranger's.
        let both = self.strangers.iter().chain(&self.answered);
        check(
            both.filter(|seen| seen.caller == caller),
            REQUESTS_PER_CALLER,
            now_ms,
        )?;
        if is_answered {
            check(self.answered.iter(), REQUESTS_OF_ANSWERED, now_ms)?;
            self.answered.push_back(Seen {
                caller,
                at_ms: now_ms,
                source: None,
            });
            return Ok(());
        }
        let same_source = |seen: &&Seen| source.is_some() && seen.source == source;
        check(
            self.strangers.iter().filter(same_source),
            REQUESTS_PER_SOURCE,
            now_ms,
        )?;
        check(self.strangers.iter(), REQUESTS_OF_STRANGERS, now_ms)?;
        self.strangers.push_back(Seen {
            caller,
            at_ms: now_ms,
            source,
        });
        Ok(())
    }

    /// Is what this window knows worth a row, after this caller's request? Where there is no socket
    /// to attach it to, a row for each request would let strangers spend the owner's rows; and to
    /// store none would let them wait until the object has forgotten.
    pub fn is_worth_storing(&self, caller: &PeerId) -> bool {
        let caller = ShortId::from(caller);
        let both = self.strangers.iter().chain(&self.answered);
        both.filter(|seen| seen.caller == caller).count() >= REQUESTS_PER_CALLER
            || self
                .strangers
                .back()
                .is_some_and(|last| last.caller == caller)
                && self.strangers.len().is_multiple_of(STORED_EACH)
    }
}

fn check<'a>(
    seen: impl Iterator<Item = &'a Seen>,
    max: usize,
    now_ms: u64,
) -> Result<(), Exceeded> {
    let mut count = 0;
    let mut oldest_ms = None;
    for one in seen {
        count += 1;
        oldest_ms = Some(oldest_ms.unwrap_or(one.at_ms).min(one.at_ms));
    }
    if count >= max {
        return Err(until(oldest_ms, now_ms));
    }
    Ok(())
}

/// The callers that a device has answered, and not refused since; the latest come last. Kept in
/// the device's storage: one row when a caller comes in or goes out, which takes the device's word.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(transparent)]
pub struct AnsweredCallers(#[n(0)] VecDeque<ShortId>);

impl AnsweredCallers {
    pub fn contains(&self, caller: &PeerId) -> bool {
        self.0.contains(&caller.into())
    }

    /// The device has answered this caller. True if that is news. Where there are too many, the one
    /// that was answered the longest ago gives way.
    pub fn answered(&mut self, caller: &PeerId) -> bool {
        let was_known = self.refused(caller);
        self.0.push_back(caller.into());
        if self.0.len() > MAX_ANSWERED {
            self.0.pop_front();
        }
        !was_known
    }

    /// The device does not let this caller in any more. True if that is news.
    pub fn refused(&mut self, caller: &PeerId) -> bool {
        let before = self.0.len();
        let caller = ShortId::from(caller);
        self.0.retain(|known| *known != caller);
        self.0.len() < before
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
pub(crate) mod tests {
    use ringback_protocol::SecretKey;

    use super::*;

    const T: u64 = 1_800_000_000_000;

    fn caller(n: u8) -> PeerId {
        SecretKey::from_seed(&[n; 32]).id()
    }

    fn source(n: u8) -> Option<Source> {
        Source::parse(&format!("203.0.113.{n}"))
    }

    #[test]
    fn one_caller_has_twenty_a_minute() {
        for is_answered in [false, true] {
            let mut window = RequestWindow::default();
            let mut admit = |n, at| window.admit(&caller(n), source(n), is_answered, at);
            for i in 0..20 {
                assert_eq!(admit(1, T + i * 1000), Ok(()));
            }
            assert_eq!(admit(1, T + 20_000), Err(Exceeded { retry_after_s: 40 }));
            assert_eq!(admit(2, T + 20_000), Ok(()), "others are not touched");
            assert_eq!(admit(1, T + 59_999), Err(Exceeded { retry_after_s: 1 }));
            assert_eq!(
                admit(1, T + 60_000),
                Ok(()),
                "refused tries were not counted"
            );
            assert!(admit(1, T + 60_001).is_err());
        }
    }

    #[test]
    fn becoming_known_does_not_double_a_callers_requests() {
        let mut window = RequestWindow::default();
        for i in 0..20 {
            assert_eq!(window.admit(&caller(1), source(1), i > 0, T + i), Ok(()));
        }
        assert!(window.admit(&caller(1), source(1), true, T + 20).is_err());
    }

    #[test]
    fn strangers_from_everywhere_have_a_hundred_and_twenty_a_minute() {
        let mut window = RequestWindow::default();
        for i in 0..120 {
            let at = T + u64::from(i);
            assert_eq!(window.admit(&caller(i), source(i), false, at), Ok(()));
        }
        assert_eq!(
            window.admit(&caller(200), source(200), false, T + 30_000),
            Err(Exceeded { retry_after_s: 30 })
        );
        assert_eq!(
            window.admit(&caller(200), source(200), false, T + 60_000),
            Ok(())
        );
    }

    #[test]
    fn one_source_has_a_third_of_that_with_as_many_keys_as_it_likes() {
        let mut window = RequestWindow::default();
        let addresses = ["2001:db8:1:2::1", "2001:db8:1:2:ffff::9"];
        let same = |i: u8| Source::parse(addresses[usize::from(i) % 2]);
        for i in 0..40 {
            assert_eq!(window.admit(&caller(i), same(i), false, T), Ok(()));
        }
        assert!(window.admit(&caller(100), same(0), false, T).is_err());
        let other = Source::parse("2001:db8:1:3::1");
        assert_eq!(window.admit(&caller(100), other, false, T), Ok(()));
    }

    /// Ten a second for five minutes, each from a key of its own and from as many addresses as
    /// there are.
    #[test]
    fn junk_does_not_keep_out_a_caller_that_was_answered() {
        let mut window = RequestWindow::default();
        let (mut through, mut junk) = (0, 0);
        for i in 0..3000_u64 {
            let stranger = SecretKey::from_seed(&[(i % 251) as u8; 32]).id();
            let source = source((i % 200) as u8);
            let at = T + i * 100;
            junk += u32::from(window.admit(&stranger, source, false, at).is_ok());
            if i % 30 == 0 {
                let known = SecretKey::from_seed(&[255; 32]).id();
                through += u32::from(window.admit(&known, source, true, at).is_ok());
            }
        }
        assert_eq!(through, 100);
        assert!((300..=720).contains(&junk), "{junk}");
    }

    #[test]
    fn an_address_is_counted_by_what_its_owner_has_of_them() {
        let parse = |text| Source::parse(text).unwrap();
        assert_eq!(parse("2001:db8::1"), parse("2001:db8::ffff:0:0:1"));
        assert_ne!(parse("2001:db8::1"), parse("2001:db8:0:1::1"));
        assert_ne!(parse("203.0.113.1"), parse("203.0.113.2"));
        assert_eq!(parse("203.0.113.1"), parse("::ffff:203.0.113.1"));
        assert_eq!(Source::parse(""), None);
    }

    #[test]
    fn a_window_without_a_socket_costs_a_row_in_twenty_requests() {
        let mut window = RequestWindow::default();
        let mut rows = 0;
        for i in 0..120 {
            window.admit(&caller(i), source(i), false, T).unwrap();
            rows += u32::from(window.is_worth_storing(&caller(i)));
        }
        assert_eq!(rows, 4);
        let mut window = RequestWindow::default();
        for i in 1..=20 {
            window.admit(&caller(1), source(1), false, T).unwrap();
            assert_eq!(window.is_worth_storing(&caller(1)), i == 20);
        }
    }

    #[test]
    fn who_was_answered_is_known_until_refused_or_long_ago() {
        let mut known = AnsweredCallers::default();
        assert!(!known.contains(&caller(1)));
        assert!(known.answered(&caller(1)));
        assert!(!known.answered(&caller(1)), "no news, no row");
        assert!(known.contains(&caller(1)));
        assert!(known.refused(&caller(1)));
        assert!(!known.refused(&caller(1)), "a stranger's refusal is no row");
        assert!(!known.contains(&caller(1)));
        for i in 0..=255 {
            known.answered(&caller(i));
        }
        known.answered(&caller(0));
        known.answered(&SecretKey::from_seed(&[9; 32]).id());
        let bytes = minicbor::to_vec(&known).unwrap();
        assert!(bytes.len() < 5000, "{}", bytes.len());
        let other = SecretKey::from_seed(&std::array::from_fn(|i| i as u8)).id();
        known.answered(&other);
        assert!(known.contains(&caller(0)) && known.contains(&other));
        assert!(!known.contains(&caller(1)), "the oldest has given way");
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
        let mut admit = |at| window.admit(&caller(1), source(1), false, at);
        for _ in 0..20 {
            admit(T).unwrap();
        }
        assert_eq!(admit(T - 3_600_000), Ok(()));
        assert!(admit(T - 3_600_000).is_ok());
    }

    #[test]
    fn a_full_window_fits_an_attachment() {
        let window = full_window();
        let bytes = minicbor::to_vec(&window).unwrap();
        assert!(bytes.len() < 14 * 1024, "{}", bytes.len());
        assert_eq!(minicbor::decode::<RequestWindow>(&bytes).unwrap(), window);
    }

    /// Everything that can be in one.
    pub(crate) fn full_window() -> RequestWindow {
        let caller = |n: u16| {
            let mut seed = [0; 32];
            seed[..2].copy_from_slice(&n.to_be_bytes());
            SecretKey::from_seed(&seed).id()
        };
        let mut window = RequestWindow::default();
        for i in 0..360_u16 {
            let source = Source::parse(&format!("2001:db8:ffff:{i:x}::1"));
            window
                .admit(&caller(i), source, i >= 120, T)
                .expect("there is room");
        }
        window
    }
}
