//! Structured logs: one JSON object per line. No addresses, no secrets, devices by their short ID.

use ringback_protocol::PeerId;

/// Something worth counting happened to a device.
pub(crate) fn event(event: &str, device: &PeerId, detail: &str) {
    let line = serde_json::json!({ "event": event, "device": device.short(), "detail": detail });
    worker::console_log!("{line}");
}

/// An object was constructed: at its first use, and each time that it wakes from hibernation.
pub(crate) fn loaded(what: &str) {
    let line = serde_json::json!({ "event": format!("{what} loaded") });
    worker::console_log!("{line}");
}

/// The directory was asked something: each time is a request that is billed.
pub(crate) fn asked() {
    worker::console_log!("{}", serde_json::json!({ "event": "directory asked" }));
}

/// A fault of ours, or of the platform.
pub(crate) fn fault(during: &str, error: &worker::Error) {
    let line =
        serde_json::json!({ "event": "fault", "during": during, "error": error.to_string() });
    worker::console_error!("{line}");
}

/// Somebody whom we do not know is refused.
pub(crate) fn refusal(event: &str, code: &str) {
    let line = serde_json::json!({ "event": event, "code": code });
    worker::console_log!("{line}");
}
