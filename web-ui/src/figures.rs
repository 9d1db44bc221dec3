//! Figures as people read them. Numbers keep their width in running displays: one decimal below
//! ten, none above.
//!
//! They are written as whole numbers: what prints any float weighs 16 KB, and nothing else needs it.

/// Bytes in binary units: `512 B`, `4.2 MiB`, `37 GiB`.
pub fn bytes(count: f64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = count.max(0.0);
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    match unit {
        0 => format!("{} B", whole(value)),
        _ if value < 9.95 => format!("{} {}", tenths(value), UNITS[unit]),
        _ => format!("{} {}", whole(value), UNITS[unit]),
    }
}

/// Bytes per second.
pub fn rate(bytes_per_second: f64) -> String {
    format!("{}/s", bytes(bytes_per_second))
}

/// A time span within a call: `8 ms`, `1.24 s`. Browsers count whole milliseconds.
pub fn milliseconds(ms: f64) -> String {
    if ms < 0.95 {
        "under 1 ms".into()
    } else if ms < 999.5 {
        format!("{} ms", whole(ms))
    } else {
        let hundredths = whole(ms / 10.0);
        format!("{}.{:02} s", hundredths / 100, hundredths % 100)
    }
}

/// A span that a person waits for: `40 s`, `3 min`, `2 h 5 min`.
pub fn span(seconds: f64) -> String {
    let seconds = whole(seconds);
    if seconds < 90 {
        return format!("{seconds} s");
    }
    let minutes = rounded(seconds, 60);
    if minutes < 90 {
        return format!("{minutes} min");
    }
    let (hours, rest) = (minutes / 60, minutes % 60);
    match (hours, rest) {
        (48.., _) => format!("{} days", rounded(hours, 24)),
        (_, 0) => format!("{hours} h"),
        _ => format!("{hours} h {rest} min"),
    }
}

/// How long ago `then` was, both in Unix seconds. Clocks differ: the future counts as now.
pub fn ago(now: f64, then: f64) -> String {
    let passed = now - then;
    if passed < 60.0 {
        "just now".into()
    } else if passed < 90.0 {
        "1 min ago".into()
    } else {
        format!("{} ago", span(passed))
    }
}

/// The short form of an ID: its head and its tail, which is what people compare.
pub fn short_id(id: &str) -> String {
    if id.len() > 20 && id.is_ascii() {
        format!("{}…{}", &id[..9], &id[id.len() - 6..])
    } else {
        id.to_owned()
    }
}

/// An address with its port, IPv6 in brackets (RFC 3986, 3.2.2): without them nobody can tell where
/// the address ends.
pub fn endpoint(address: &str, port: u16) -> String {
    if address.contains(':') && !address.starts_with('[') {
        format!("[{address}]:{port}")
    } else {
        format!("{address}:{port}")
    }
}

/// With one decimal.
pub fn tenths(value: f64) -> String {
    let tenths = whole(value * 10.0);
    format!("{}.{}", tenths / 10, tenths % 10)
}

/// The nearest whole number, or 0 for what is below it.
fn whole(value: f64) -> u64 {
    value.round() as u64
}

fn rounded(value: u64, by: u64) -> u64 {
    (value + by / 2) / by
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_keep_three_figures() {
        assert_eq!(bytes(0.0), "0 B");
        assert_eq!(bytes(999.0), "999 B");
        assert_eq!(bytes(1000.0), "1.0 KiB");
        assert_eq!(bytes(1536.0), "1.5 KiB");
        assert_eq!(bytes(4.0 * 1024.0 * 1024.0 * 1024.0), "4.0 GiB");
        assert_eq!(bytes(37.4 * 1024.0 * 1024.0), "37 MiB");
        assert_eq!(bytes(9.96 * 1024.0), "10 KiB");
        assert_eq!(bytes(-1.0), "0 B");
    }

    #[test]
    fn spans_read_naturally() {
        assert_eq!(span(40.2), "40 s");
        assert_eq!(span(180.0), "3 min");
        assert_eq!(span(7500.0), "2 h 5 min");
        assert_eq!(span(7200.0), "2 h");
        assert_eq!(span(86400.0 * 3.0), "3 days");
        assert_eq!(span(-5.0), "0 s");
        assert_eq!(ago(100.0, 101.0), "just now");
        assert_eq!(ago(1000.0, 400.0), "10 min ago");
    }

    #[test]
    fn milliseconds_grow_into_seconds() {
        assert_eq!(milliseconds(0.0), "under 1 ms");
        assert_eq!(milliseconds(3.21), "3 ms");
        assert_eq!(milliseconds(41.7), "42 ms");
        assert_eq!(milliseconds(1240.0), "1.24 s");
        assert_eq!(milliseconds(61_006.0), "61.01 s");
    }

    #[test]
    fn an_ipv6_address_has_brackets_before_a_port() {
        assert_eq!(endpoint("192.0.2.7", 443), "192.0.2.7:443");
        assert_eq!(endpoint("2001:db8::7", 443), "[2001:db8::7]:443");
        // As browsers disagree on how they tell it.
        assert_eq!(endpoint("[2001:db8::7]", 443), "[2001:db8::7]:443");
        assert_eq!(endpoint("x.local", 443), "x.local:443");
    }

    #[test]
    fn a_short_id_keeps_both_ends() {
        let id = "rb1uukz3ln33carpt7ywsud5aua2zxjmt26ye06l660xalp64lmpxxqj3hstk";
        assert_eq!(short_id(id), "rb1uukz3l…j3hstk");
        assert_eq!(short_id("nas"), "nas");
    }
}
