//! Names of services and devices: what may be one (§5.2, §7).

/// A device or service name is 1 to this many characters.
pub const MAX_LEN: usize = 63;

/// The service of a request that wants the link alone, to see how it comes about (§7). No device can
/// expose it.
pub const NO_SERVICE: &str = "*";

/// Why a text is not a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a name has 1 to 63 of the characters a-z, 0-9 and -, does not start or end with -, and does not start with rb1"
)]
pub struct BadName;

/// `a-z 0-9 -`, 1 to 63 characters, not at the ends a `-`, not like a device ID.
pub fn check(name: &str) -> Result<&str, BadName> {
    let fits = (1..=MAX_LEN).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-')
        && !name.starts_with("rb1");
    if fits { Ok(name) } else { Err(BadName) }
}
