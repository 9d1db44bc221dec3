//! A device calls another one for its caller, and forwards a port of its own there (§20.5): how a
//! browser connects two agents. The port lives as long as the stream.

use std::net::SocketAddr;

use minicbor::{Decode, Encode};

use super::{MAX_FRAME, expect, frame, words};
use crate::cbor::{Malformed, bounded_str};

/// Bytes of a device's name or ID, of a service's name, and of a password.
pub const MAX_TEXT: usize = 1024;
/// Calls that one device makes at a time for its callers.
pub const MAX_DIALS: usize = 16;
/// And of these for one caller.
pub const MAX_DIALS_EACH: usize = 12;

const DIAL: u8 = 0xa1;
const EVENT: u8 = 0xa2;

/// Caller → device, the only frame.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Dial {
    /// The device to call: an ID, or a name at the dialling device's registry or among its
    /// contacts.
    #[n(0)]
    pub device: String,
    #[n(1)]
    pub service: String,
    /// Where the dialling device listens: an address of its loopback and a port, 0 for any.
    #[n(2)]
    pub listen: String,
    /// Used once, and not kept. Absent: the far device remembers the dialling one.
    #[n(3)]
    pub password: Option<String>,
    /// Ask the far device to remember the dialling one.
    #[cbor(n(4), default)]
    pub remember: bool,
}

impl std::fmt::Debug for Dial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dial")
            .field("device", &self.device)
            .field("service", &self.service)
            .field("listen", &self.listen)
            .finish_non_exhaustive()
    }
}

words! {
    /// What a [`DialEvent`] tells.
    DialKind {
        Step = "step", "a step of the call is done";
        Listening = "listening", "the port is open";
        Connected = "connected", "the link is up";
        Lost = "lost", "the link is lost and is being called again";
        Refused = "refused", "one connection could not be served";
        Failed = "failed", "it is over";
    }
}

/// Device → caller, one after the other until the stream ends.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct DialEvent {
    #[n(0)]
    pub kind: DialKind,
    /// For a person.
    #[cbor(n(1), default)]
    pub text: String,
    /// With `listening`: where.
    #[n(2)]
    pub listen: Option<String>,
    /// With `connected`: `direct` or `relay`.
    #[n(3)]
    pub path: Option<String>,
    /// With `failed`: a word to match on, of §13 or: `bad_listen`, `listen_in_use`, `no_path`,
    /// `key_changed`, `no_password`, `too_many`.
    #[n(4)]
    pub code: Option<String>,
}

impl DialEvent {
    pub fn new(kind: DialKind, text: impl Into<String>) -> Self {
        Self {
            kind,
            text: text.into(),
            listen: None,
            path: None,
            code: None,
        }
    }

    /// With the 2-byte length before it.
    pub fn encode(&self) -> Vec<u8> {
        frame(EVENT, self)
    }

    /// Reads a frame without its length.
    pub fn decode(frame: &[u8]) -> Result<Self, Malformed> {
        expect(frame, EVENT, MAX_FRAME)
    }
}

impl Dial {
    /// With the 2-byte length before it.
    pub fn encode(&self) -> Vec<u8> {
        frame(DIAL, self)
    }

    /// Reads a frame without its length.
    pub fn decode(frame: &[u8]) -> Result<Self, Malformed> {
        let dial: Self = expect(frame, DIAL, MAX_FRAME)?;
        bounded_str(&dial.device, MAX_TEXT, "a device")?;
        bounded_str(&dial.service, MAX_TEXT, "a service")?;
        bounded_str(
            dial.password.as_deref().unwrap_or(""),
            MAX_TEXT,
            "a password",
        )?;
        Ok(dial)
    }

    /// Where to listen, if that is an address of the loopback: nobody but programs of the dialling
    /// device gets at what its caller connects.
    pub fn listen(&self) -> Option<SocketAddr> {
        let address: SocketAddr = self.listen.parse().ok()?;
        address.ip().is_loopback().then_some(address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_comes_back_and_passwords_are_not_shown() {
        let dial = Dial {
            device: "nas".into(),
            service: "ssh".into(),
            listen: "127.0.0.1:0".into(),
            password: Some("open-please".into()),
            remember: true,
        };
        assert_eq!(Dial::decode(&dial.encode()[2..]), Ok(dial.clone()));
        assert!(!format!("{dial:?}").contains("open-please"));
        let event = DialEvent {
            code: Some("wrong_password".into()),
            ..DialEvent::new(DialKind::Failed, "wrong password")
        };
        assert_eq!(DialEvent::decode(&event.encode()[2..]), Ok(event));
        let long = Dial {
            device: "x".repeat(MAX_TEXT + 1),
            ..dial
        };
        Dial::decode(&long.encode()[2..]).unwrap_err();
    }

    #[test]
    fn only_the_loopback_is_listened_on() {
        let listen = |text: &str| {
            Dial {
                device: String::new(),
                service: String::new(),
                listen: text.into(),
                password: None,
                remember: false,
            }
            .listen()
            .map(|address| address.to_string())
        };
        assert_eq!(listen("127.0.0.1:0").as_deref(), Some("127.0.0.1:0"));
        assert_eq!(listen("[::1]:80").as_deref(), Some("[::1]:80"));
        for outside in ["0.0.0.0:80", "192.168.1.5:80", "[::]:0", "localhost:1", ""] {
            assert_eq!(listen(outside), None, "{outside}");
        }
    }
}
