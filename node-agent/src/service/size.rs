//! Numbers of bytes as people write them: `10GiB`, `1.5 TB`, `4096`.

use std::fmt;
use std::str::FromStr;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

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
        match text.parse::<ByteSize>() {
            // What is more than can be counted is parsed as the most that can.
            Ok(ByteSize(bytes)) if bytes < u64::MAX => Ok(Self(bytes)),
            _ => Err(BadSize(text.to_owned())),
        }
    }
}

/// In the largest IEC unit that it has one of, to a tenth.
impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        ByteSize(self.0).display().iec().fmt(f)
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
            ("10GiB", 10 << 30, "10.0 GiB"),
            ("10 gib", 10 << 30, "10.0 GiB"),
            ("10.0 GiB", 10 << 30, "10.0 GiB"),
            ("1.5GiB", 3 << 29, "1.5 GiB"),
            ("500MB", 500_000_000, "476.8 MiB"),
            ("4096", 4096, "4.0 KiB"),
            ("1B", 1, "1 B"),
            ("1500KB", 1_500_000, "1.4 MiB"),
            ("1234567", 1_234_567, "1.2 MiB"),
            ("9007199254740993", (1 << 53) + 1, "8.0 PiB"),
            ("0", 0, "0 B"),
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
            "1.5",
            "1XB",
            "99999999TiB",
            "99999999999999999999",
            "10 GiB x",
            "é",
            "1éééé",
        ] {
            assert!(bad.parse::<Size>().is_err(), "{bad}");
        }
    }
}
