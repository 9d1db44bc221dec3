//! What can go wrong, in a word for programs and a sentence for a person.

use std::borrow::Cow;
use std::fmt;

use ringback_protocol::PeerId;
use serde::Serialize;

/// Why a call, a stream or a question to the registry came to nothing.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CallError {
    /// A code of PROTOCOL.md §13, or one of the constants here.
    pub code: Cow<'static, str>,
    /// Says what is wrong and, where there is something, what to do.
    pub message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after_s: Option<u32>,
    /// Unix seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<u64>,
    /// With [`KEY_CHANGED`]: the key that the name leads to now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub new_device: Option<PeerId>,
}

/// The name leads to another device than the contact of this name.
pub const KEY_CHANGED: &str = "key_changed";
/// The registry does not answer, or what answers is none.
pub const REGISTRY_UNREACHABLE: &str = "registry_unreachable";
/// The registry passed on what the device did not say.
pub const REGISTRY_LIES: &str = "registry_lies";
/// The device is willing, and no path to it was found.
pub const NO_PATH: &str = "no_path";
/// The browser was told not to let this page reach the local network.
pub const LOCAL_NETWORK_DENIED: &str = "local_network_denied";
/// The caller gave up.
pub const CANCELLED: &str = "cancelled";
/// Not a device ID, and not a name.
pub const BAD_ID: &str = "bad_id";
/// A password is 1 to 256 bytes.
pub const BAD_PASSWORD: &str = "bad_password";
/// The browser lacks what a call needs.
pub const UNSUPPORTED: &str = "unsupported";
/// The link is lost, or was closed.
pub const LINK_CLOSED: &str = "link_closed";
/// The other end has aborted the stream.
pub const STREAM_RESET: &str = "stream_reset";
/// The link carries as many streams as it can.
pub const TOO_MANY_STREAMS: &str = "too_many_streams";
/// A path was found, and who answers there is not the device.
pub const WRONG_CERTIFICATE: &str = "wrong_certificate";
/// The device broke the protocol.
pub const DEVICE_MISBEHAVED: &str = "device_misbehaved";

impl CallError {
    pub fn new(code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self {
            code: code.into(),
            message: message.into(),
            retry_after_s: None,
            last_seen: None,
            new_device: None,
        }
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for CallError {}
