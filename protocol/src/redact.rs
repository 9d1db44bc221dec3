//! Values that logs must not show: addresses and secrets.

use std::fmt;

/// Wraps a value whose `Debug` and `Display` print `[redacted]`, unless the alternate form
/// (`{:#?}`, `{:#}`) asks for it: that form is for debug logs only.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Redacted<T>(pub T);

impl<T: fmt::Debug> fmt::Debug for Redacted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if f.alternate() {
            write!(f, "{:?}", self.0)
        } else {
            f.write_str("[redacted]")
        }
    }
}

impl<T: fmt::Display> fmt::Display for Redacted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if f.alternate() {
            write!(f, "{}", self.0)
        } else {
            f.write_str("[redacted]")
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::candidate::{Candidate, Kind};

    #[test]
    fn addresses_show_only_when_asked_for() {
        let candidate = Candidate::udp(Kind::Host, "192.0.2.7:4711".parse().unwrap());
        assert!(!format!("{candidate:?}").contains("192.0.2.7"));
        assert!(format!("{candidate:#?}").contains("192.0.2.7:4711"));
    }
}
