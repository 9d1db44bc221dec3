//! The host's clocks.

use std::sync::LazyLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use ringback_protocol::UnixTime;
use ringback_protocol::admission::Moment;

/// What [`moment`] counts from.
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// The time of day in Unix seconds, `offset` seconds corrected.
pub(crate) fn unix_time(offset: i128) -> UnixTime {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    u64::try_from(i128::from(now) + offset).unwrap_or(0)
}

/// Now, by both clocks.
pub(crate) fn moment() -> Moment {
    Moment {
        unix: unix_time(0),
        uptime: START.elapsed(),
    }
}

pub(crate) fn ago(at: UnixTime) -> String {
    lasting(unix_time(0).saturating_sub(at))
}

/// So many seconds, as people say it.
pub(crate) fn lasting(seconds: u64) -> String {
    match seconds {
        s @ 0..120 => format!("{s} s"),
        s @ 120..7200 => format!("{} min", s / 60),
        s @ 7200..172_800 => format!("{} h", s / 3600),
        s => format!("{} days", s / 86_400),
    }
}

pub(crate) fn warn_of_clock(time_ms: u64) {
    let off = i128::from(time_ms / 1000) - i128::from(unix_time(0));
    if off.abs() > 60 {
        let direction = if off > 0 { "behind" } else { "ahead of" };
        tracing::warn!(
            "this host's clock is {} {direction} the registry's; set it (NTP), or calls may be refused",
            lasting(u64::try_from(off.unsigned_abs()).unwrap_or(u64::MAX))
        );
    }
}
