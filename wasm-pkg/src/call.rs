//! One call, from the offer to the link (PROTOCOL §4, §19).

use std::fmt;

use ringback_protocol::secret::Psk;
use serde::Serialize;

/// Whom to call, and with what right.
#[derive(Debug, Clone)]
pub struct CallOptions {
    /// A device ID, or a name: a contact's first, then the registry's.
    pub device: String,
    pub proof: Proof,
    /// The first service wanted; `*`: the link alone.
    pub service: String,
    /// Asks the device to remember this browser.
    pub remember: bool,
    /// The name may lead to another key than it did: the contact is changed to it.
    pub accept_new_key: bool,
}

/// What proves the right to call.
#[derive(Clone)]
pub enum Proof {
    Password(String),
    /// This browser's key, which the device remembers.
    Remembered,
    /// What an earlier link was proven with ([`crate::Link::proof`]): derived from the password, and
    /// good for the same device only.
    Derived(DerivedProof),
}

/// The key that a password makes for one device. Kept in memory only.
#[derive(Debug, Clone)]
pub struct DerivedProof {
    pub(crate) psk_id: Vec<u8>,
    pub(crate) psk: Psk,
}

/// What has just happened, or begun.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CallEvent {
    pub step: Step,
    /// Milliseconds since the call began.
    pub at_ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// The steps of a call, in the order in which they come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// It is known which device is meant.
    Registry,
    /// The browser looks for its own addresses.
    Gathering,
    /// It has them, or waits no longer; `detail` says how many.
    Gathered,
    /// The request is sealed with the proof, and sent.
    Sealed,
    /// The device has the request.
    Delivered,
    /// The device's clock differs from this one; the request is made anew.
    ClockCorrected,
    /// The device admits the call and dials.
    Accepted,
    /// Addresses are tried.
    Checking,
    /// A path is found, and the device has proven its certificate.
    Connected,
}

impl Step {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Registry => "registry",
            Self::Gathering => "gathering",
            Self::Gathered => "gathered",
            Self::Sealed => "sealed",
            Self::Delivered => "delivered",
            Self::ClockCorrected => "clock_corrected",
            Self::Accepted => "accepted",
            Self::Checking => "checking",
            Self::Connected => "connected",
        }
    }
}

impl fmt::Debug for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Password(_) => "Password([redacted])",
            Self::Remembered => "Remembered",
            Self::Derived(_) => "Derived([redacted])",
        })
    }
}
