//! The two session descriptions of a call. Neither travels: the browser's offer is read here for the
//! values that the sealed request carries, and the answer is written here from those of the sealed
//! reply (PROTOCOL §19). So whose certificate the browser accepts is said by the device alone.

use std::fmt::Write as _;

use ringback_protocol::candidate::MAX_CANDIDATES;
use ringback_protocol::rtc::{Description, MAX_CANDIDATE, MAX_MESSAGE, SCTP_PORT};

/// The browser's own offer is not one that a device can answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the browser's offer has no usable {0}")]
pub(crate) struct Unusable(&'static str);

/// Takes from an offer with one data section what the device needs to know.
pub(crate) fn read_offer(sdp: &str) -> Result<Description, Unusable> {
    let mut sections = 0;
    let (mut ufrag, mut pwd, mut fingerprint) = (None, None, None);
    let mut candidates = Vec::new();
    for line in sdp.lines() {
        if line.starts_with("m=") {
            sections += 1;
            if !line.starts_with("m=application ") {
                return Err(Unusable("data section"));
            }
        }
        let Some(attribute) = line.strip_prefix("a=") else {
            continue;
        };
        if attribute.starts_with("candidate:") {
            candidates.push(attribute.to_owned());
            continue;
        }
        match attribute.split_once(':') {
            Some(("ice-ufrag", value)) => ufrag = Some(value.to_owned()),
            Some(("ice-pwd", value)) => pwd = Some(value.to_owned()),
            Some(("fingerprint", value)) => fingerprint = fingerprint.or(read_fingerprint(value)),
            _ => {}
        }
    }
    if sections != 1 {
        return Err(Unusable("data section"));
    }
    let description = Description {
        ufrag: ufrag.ok_or(Unusable("ICE user name"))?,
        pwd: pwd.ok_or(Unusable("ICE password"))?,
        fingerprint: fingerprint.ok_or(Unusable("SHA-256 fingerprint"))?,
        candidates: choose(candidates),
        legs: Vec::new(),
    };
    description.check().map_err(|_| Unusable("ICE values"))?;
    Ok(description)
}

/// The answer that makes the browser accept exactly the device that wrote `device`.
pub(crate) fn write_answer(device: &Description) -> String {
    let mut sdp = format!(
        "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0\r\n\
         m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\nc=IN IP4 0.0.0.0\r\na=mid:0\r\n\
         a=ice-ufrag:{}\r\na=ice-pwd:{}\r\na=fingerprint:sha-256 {}\r\na=setup:active\r\n\
         a=sctp-port:{SCTP_PORT}\r\na=max-message-size:{MAX_MESSAGE}\r\n",
        device.ufrag,
        device.pwd,
        write_fingerprint(&device.fingerprint)
    );
    for candidate in &device.candidates {
        // Checked when it was decoded: one line, printable.
        let _ = write!(sdp, "a={candidate}\r\n");
    }
    sdp.push_str("a=end-of-candidates\r\n");
    sdp
}

/// The kind of a candidate line: `host`, `srflx`, `prflx`, `relay`.
pub(crate) fn kind(candidate: &str) -> Option<&str> {
    let mut words = candidate.split(' ');
    words.find(|word| *word == "typ")?;
    words.next()
}

/// Those that a device can use (UDP, of sane length), those first that lead through a NAT, and no
/// more than it takes.
fn choose(mut candidates: Vec<String>) -> Vec<String> {
    candidates.retain(|line| {
        let transport = line.split(' ').nth(2).unwrap_or_default();
        line.len() <= MAX_CANDIDATE && transport.eq_ignore_ascii_case("udp")
    });
    candidates.sort_by_key(|line| match kind(line) {
        Some("srflx") => 0,
        Some("relay") => 1,
        // Learnt by the device from the browser's checks, if the browser hides it.
        _ if line.contains(".local ") => 3,
        _ => 2,
    });
    candidates.truncate(MAX_CANDIDATES);
    candidates
}

/// `sha-256 AB:CD:…` as 32 bytes.
fn read_fingerprint(value: &str) -> Option<[u8; 32]> {
    let (hash, digits) = value.split_once(' ')?;
    if !hash.eq_ignore_ascii_case("sha-256") {
        return None;
    }
    let mut bytes = [0; 32];
    let mut pairs = digits.trim_end().split(':');
    for byte in &mut bytes {
        let pair = pairs.next()?;
        if pair.len() != 2 || !pair.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        *byte = u8::from_str_radix(pair, 16).ok()?;
    }
    pairs.next().is_none().then_some(bytes)
}

fn write_fingerprint(bytes: &[u8; 32]) -> String {
    let mut text = String::with_capacity(95);
    for (at, byte) in bytes.iter().enumerate() {
        if at > 0 {
            text.push(':');
        }
        let _ = write!(text, "{byte:02X}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHROMIUM: &str = "v=0\r\no=- 1234 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n\
        a=group:BUNDLE 0\r\na=extmap-allow-mixed\r\na=msid-semantic: WMS\r\n\
        m=application 50000 UDP/DTLS/SCTP webrtc-datachannel\r\nc=IN IP4 4.17.168.2\r\n\
        a=candidate:1 1 udp 2113937151 0b1c-22.local 50000 typ host generation 0\r\n\
        a=candidate:2 1 tcp 1518280447 192.168.1.11 9 typ host tcptype active\r\n\
        a=candidate:3 1 udp 1677729535 4.17.168.2 50000 typ srflx raddr 0.0.0.0 rport 0\r\n\
        a=ice-ufrag:Ab+/\r\na=ice-pwd:0123456789abcdefghijklmn\r\na=ice-options:trickle\r\n\
        a=fingerprint:sha-256 00:01:02:03:04:05:06:07:08:09:0A:0B:0C:0D:0E:0F:10:11:12:13:14:15:16:\
        17:18:19:1A:1B:1C:1D:1E:1F\r\n\
        a=setup:actpass\r\na=mid:0\r\na=sctp-port:5000\r\na=max-message-size:262144\r\n";

    #[test]
    fn reads_what_chromium_offers() {
        let offer = read_offer(CHROMIUM).unwrap();
        assert_eq!(offer.ufrag, "Ab+/");
        assert_eq!(offer.pwd, "0123456789abcdefghijklmn");
        assert_eq!(offer.fingerprint.to_vec(), Vec::from_iter(0..32));
        let kinds: Vec<_> = offer.candidates.iter().map(|line| kind(line)).collect();
        assert_eq!(kinds, [Some("srflx"), Some("host")], "no TCP, public first");
    }

    #[test]
    fn reads_a_fingerprint_of_the_whole_session() {
        let fingerprint = CHROMIUM
            .lines()
            .find(|line| line.starts_with("a=fingerprint"))
            .unwrap();
        let moved = CHROMIUM
            .replace(&format!("{fingerprint}\r\n"), "")
            .replacen("t=0 0\r\n", &format!("t=0 0\r\n{fingerprint}\r\n"), 1);
        assert_eq!(read_offer(&moved), read_offer(CHROMIUM));
    }

    #[test]
    fn refuses_offers_that_can_not_be_answered() {
        for (from, to) in [
            ("m=application", "m=audio"),
            ("a=ice-ufrag:Ab+/", "a=ice-ufrag:A b"),
            ("a=ice-pwd:0123456789abcdefghijklmn", "a=ice-pwd:short"),
            ("a=fingerprint:sha-256", "a=fingerprint:sha-1"),
            (":1E:1F", ":1E"),
            (":1E:1F", ":1E:1F:20"),
            (":1E:1F", ":1E:+F"),
            ("a=setup", "m=application 9 UDP/DTLS/SCTP x\r\na=setup"),
        ] {
            assert!(CHROMIUM.contains(from));
            assert!(read_offer(&CHROMIUM.replace(from, to)).is_err(), "{to}");
        }
        assert!(read_offer("").is_err());
    }

    #[test]
    fn sends_no_more_candidates_than_a_device_takes() {
        let mut sdp = CHROMIUM.to_owned();
        for number in 0..40 {
            let _ = write!(sdp, "a=candidate:9 1 udp 1 10.0.0.{number} 5 typ host\r\n");
        }
        let long = "x".repeat(MAX_CANDIDATE);
        let _ = write!(sdp, "a=candidate:9 1 udp 1 10.0.0.1 5 typ host {long}\r\n");
        let offer = read_offer(&sdp).unwrap();
        assert_eq!(offer.candidates.len(), MAX_CANDIDATES);
        assert_eq!(kind(&offer.candidates[0]), Some("srflx"));
        assert!(!offer.candidates.iter().any(|line| line.contains(".local")));
    }

    #[test]
    fn the_answer_says_what_the_device_said() {
        let device = Description {
            ufrag: "wxyz".into(),
            pwd: "p".repeat(24),
            fingerprint: [0xab; 32],
            candidates: vec!["candidate:1 1 udp 5 202.204.16.13 41000 typ host".into()],
            legs: Vec::new(),
        };
        let answer = write_answer(&device);
        assert!(answer.lines().all(|line| line.as_bytes()[1] == b'='));
        for line in [
            "a=ice-ufrag:wxyz",
            "a=setup:active",
            "a=sctp-port:5000",
            "a=candidate:1 1 udp 5 202.204.16.13 41000 typ host",
        ] {
            assert!(answer.lines().any(|found| found == line), "{line}");
        }
        // What is written can be read: the fingerprint is the device's.
        assert_eq!(read_offer(&answer).unwrap(), device);
    }
}
