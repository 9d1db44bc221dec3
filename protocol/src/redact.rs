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
