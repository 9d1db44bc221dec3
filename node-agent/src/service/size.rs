//! Numbers of bytes as people write them: `10GiB`, `500 MB`, `4096`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

const UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("B", 1),
];

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "String")]
pub struct Size(pub u64);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a size; one looks like 10GiB, 500MB or 4096")]
pub struct BadSize(String);

#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Bytes(u64),
    Text(String),
}

impl FromStr for Size {
    type Err = BadSize;

    fn from_str(text: &str) -> Result<Self, BadSize> {
        let bad = || BadSize(text.to_owned());
        let (digits, unit) = UNITS
            .iter()
            .find_map(|(name, unit)| {
                let at = text.len().checked_sub(name.len())?;
                let end = text.get(at..)?;
                end.eq_ignore_ascii_case(name).then(|| (&text[..at], *unit))
            })
            .unwrap_or((text, 1));
        let digits = digits.trim_end();
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(bad());
        }
        let number: u64 = digits.parse().map_err(|_| bad())?;
        number.checked_mul(unit).map(Self).ok_or_else(bad)
    }
}

/// In the largest unit that says it exactly, or else to a tenth.
impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0;
        let exact = UNITS
            .iter()
            .find(|(_, unit)| bytes >= *unit && bytes.is_multiple_of(*unit));
        match exact {
            Some((name, unit)) if *unit > 1 => write!(f, "{}{name}", bytes / unit),
            _ => match UNITS[..4].iter().find(|(_, unit)| bytes >= *unit) {
                Some((name, unit)) => write!(f, "{:.1}{name}", bytes as f64 / *unit as f64),
                None => write!(f, "{bytes}B"),
            },
        }
    }
}

impl TryFrom<Written> for Size {
    type Error = BadSize;

    fn try_from(written: Written) -> Result<Self, BadSize> {
        match written {
            Written::Bytes(bytes) => Ok(Self(bytes)),
            Written::Text(text) => text.parse(),
        }
    }
}

impl From<Size> for String {
    /// So that it is read again as it was.
    fn from(size: Size) -> Self {
        let text = size.to_string();
        match text.parse() {
            Ok(again) if size == again => text,
            _ => size.0.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_people_write_and_says_it_again() {
        for (text, bytes, shown) in [
            ("10GiB", 10 << 30, "10GiB"),
            ("10 gib", 10 << 30, "10GiB"),
            ("500MB", 500_000_000, "500MB"),
            ("4096", 4096, "4KiB"),
            ("1B", 1, "1B"),
            ("1500000", 1_500_000, "1500KB"),
            ("1234567", 1_234_567, "1.2MiB"),
            ("0", 0, "0B"),
        ] {
            let size: Size = text.parse().unwrap();
            assert_eq!(
                (size.0, size.to_string().as_str()),
                (bytes, shown),
                "{text}"
            );
            assert_eq!(String::from(size).parse(), Ok(size));
        }
        for bad in [
            "",
            "GiB",
            "-1",
            "+1",
            "1.5GiB",
            "1XB",
            "99999999TiB",
            "10 GiB x",
            "é",
        ] {
            assert!(bad.parse::<Size>().is_err(), "{bad}");
        }
    }
}
