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
