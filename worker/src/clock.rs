//! The time of day, as the platform tells it: it stands still within an event.

use worker::Date;

/// Unix time in milliseconds.
pub fn now_ms() -> u64 {
    Date::now().as_millis()
}

/// Unix time in seconds.
pub fn now() -> u64 {
    now_ms() / 1000
}
