//! A sentence for every refusal and failure (PROTOCOL.md, section 13): what is so, and what to do.

use crate::figures;

/// Why something did not come about.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    pub code: String,
    /// What the other side said, as hostile as the other side.
    pub detail: String,
    pub retry_after_s: Option<f64>,
    /// Unix seconds.
    pub last_seen: Option<f64>,
    /// With `key_changed`: the ID that the name leads to now.
    pub new_device: Option<String>,
}

impl Failure {
    pub fn new(code: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            code: code.into(),
            detail: detail.into(),
            retry_after_s: None,
            last_seen: None,
            new_device: None,
        }
    }

    pub fn is(&self, code: &str) -> bool {
        self.code == code
    }

    /// Is it that what was given leads to no device that could be called? Then no password helps.
    pub fn is_about_the_target(&self) -> bool {
        matches!(
            self.code.as_str(),
            "bad_id" | "unknown_device" | "unknown_alias" | "revoked"
        )
    }

    /// The headline and what follows from it. `now` is in Unix seconds.
    pub fn sentence(&self, now: f64) -> (String, String) {
        let (title, advice) = words(&self.code);
        let title = match self.code.as_str() {
            "device_offline" => match self.last_seen {
                Some(seen) => format!(
                    "The device is offline. It was last seen {}.",
                    figures::ago(now, seen)
                ),
                None => title.into(),
            },
            _ => title.into(),
        };
        let advice = match (self.code.as_str(), self.retry_after_s) {
            ("rate_limited" | "relay_exhausted", Some(seconds)) => {
                format!("Try again in {}.", figures::span(seconds))
            }
            _ => advice.into(),
        };
        (title, advice)
    }
}

fn words(code: &str) -> (&'static str, &'static str) {
    match code {
        // Of the device.
        "wrong_password" => (
            "The device refused this password.",
            "Check it and try again. After five wrong ones it stops listening for five minutes.",
        ),
        "unknown_caller" => (
            "The device no longer remembers this browser.",
            "Give its password. You can ask it to remember this browser again.",
        ),
        "stale" => (
            "The clocks of this browser and the device are too far apart.",
            "Set the time of this computer, then call again.",
        ),
        "replayed" => (
            "The device has seen this request before.",
            "Call again: a new request is made for every call.",
        ),
        "unknown_service" => (
            "The device does not expose a service of that name.",
            "It may have been taken away. Reload the list of services.",
        ),
        "service_unreachable" => (
            "The device is reached, but the service behind it does not answer.",
            "See whether the program or the host that it leads to is running.",
        ),
        "bad_mode" => (
            "The service is of another kind than this page took it for.",
            "Reload the list of services.",
        ),
        "rate_limited" => ("Too many attempts.", "Wait a little before you try again."),
        "key_in_use" => (
            "Two agents use this device's key.",
            "One of them is a copy of the other: give it a key of its own.",
        ),
        // Of the registry.
        "device_offline" => (
            "The device is offline.",
            "Call again once it has power and a network. Its agent reconnects by itself.",
        ),
        "no_answer" => (
            "The device was reached but did not answer in time.",
            "It may be very busy. Call again; if it stays so, restart its agent.",
        ),
        "unknown_device" => (
            "This registry has no such device.",
            "Check the link, or whether the device belongs to another registry.",
        ),
        "unknown_alias" => (
            "No device of this registry has that name.",
            "Check the spelling, or use the device's link.",
        ),
        "revoked" => (
            "The registry's owner has revoked this device.",
            "It takes no calls until the owner enrols it anew.",
        ),
        "unauthorized" => (
            "This is not the registry's owner secret.",
            "It was set when the registry was deployed.",
        ),
        "owner_secret_unset" => (
            "This registry has no owner secret yet.",
            "Set OWNER_SECRET in its deployment, then sign in.",
        ),
        "owner_secret_weak" => (
            "This registry's owner secret can be guessed, so it opens nothing.",
            "Set a longer one: `cargo xtask deploy --new-secret`.",
        ),
        "name_taken" => ("Another device has that name.", "Choose a different one."),
        "bad_code" => (
            "The enrolment code is unknown, used or expired.",
            "Make a new one.",
        ),
        "relay_disabled" => (
            "No direct path, and the owner has switched the relay off.",
            "Try from another network.",
        ),
        "relay_exhausted" => (
            "No direct path, and today's relay allowance is used up.",
            "Try from another network, or tomorrow.",
        ),
        "too_large" => ("That is more than the registry takes.", "Nothing was sent."),
        "bad_version" => (
            "This page and the device speak different versions.",
            "Reload the page; if it stays so, update the device's agent.",
        ),
        "bad_envelope" | "bad_frame" | "bad_request" | "bad_signature" | "not_found"
        | "method_not_allowed" | "not_enrolled" => (
            "The request was not understood.",
            "Reload the page, which may be older than the registry.",
        ),
        "internal" => (
            "The registry or the device has a fault of its own.",
            "Try again; its log says more.",
        ),
        // Of this browser.
        "key_changed" => (
            "This name now belongs to another key.",
            "Somebody has set the device up anew, or is posing as it.",
        ),
        "registry_unreachable" => (
            "The registry does not answer.",
            "Check this computer's connection.",
        ),
        "registry_lies" => (
            "The registry handed over an answer that is not the device's.",
            "Nothing was sent to it. Do not use this registry before its owner has looked into it.",
        ),
        "no_path" => (
            "The device agreed, but no direct path was found.",
            "One of the networks may block UDP. Try another network, or the ringback program, \
             which knows more ways.",
        ),
        "local_network_denied" => (
            "The browser may not reach devices on this network.",
            "Allow “Local network” for this page in the site settings beside the address, then \
             call again.",
        ),
        "cancelled" => ("The call was cancelled.", "Nothing stays open."),
        "bad_id" => (
            "This is not a device link, ID or name.",
            "IDs begin with rb1 and have 61 characters; a typing error is noticed.",
        ),
        "bad_password" => ("A password has 1 to 256 bytes.", "Nothing was sent."),
        "unsupported" | "no_webrtc" => (
            "This browser lacks what a call needs.",
            "WebRTC and site data must be allowed for this page.",
        ),
        "no_storage" => (
            "This browser keeps nothing for this page.",
            "Leave private mode or allow site data: the browser's key is kept there.",
        ),
        // Of links and streams.
        "device_misbehaved" => (
            "The device does not keep to the protocol.",
            "Update its agent.",
        ),
        "wrong_certificate" => (
            "What answered is not the device.",
            "Its certificate is not the one that the device has sealed for you. No data was sent.",
        ),
        "stream_reset" => (
            "The device broke the transfer off.",
            "The service behind it may have been stopped. Try again.",
        ),
        "closed_by_device" => (
            "The device closed the link.",
            "Call again when you need it.",
        ),
        "link_lost" | "link_closed" | "lost" => (
            "The link to the device was lost.",
            "It may have changed networks. Call again to go on where you were.",
        ),
        "shutting_down" => (
            "The device's agent is shutting down.",
            "Call again once it is back.",
        ),
        "link_revoked" => (
            "The device has revoked this browser.",
            "The link was closed. Ask the device's owner.",
        ),
        "too_many" | "too_many_streams" => (
            "Too much is open over this link.",
            "Close a terminal or wait for a transfer.",
        ),
        "no_listing" => (
            "The device does not tell what it exposes.",
            "Its agent is older than this page: update it there.",
        ),
        "too_many_shells" => (
            "Too many terminals are open on the device.",
            "Close one of them; one that was left behind ends after a minute.",
        ),
        "taken_over" => (
            "This terminal was attached to from elsewhere.",
            "It goes on there.",
        ),
        "can_not_start" => ("The device can not start a shell.", "Its log says why."),
        // Of a device that dials for this browser.
        "bad_listen" | "listen_in_use" => (
            "That local port is not free on the device.",
            "Choose another one, or leave the field empty.",
        ),
        "no_password" => (
            "The other device does not remember this one.",
            "Give its password.",
        ),
        // Of pages on the device's network.
        "unreachable" => (
            "The page's host does not answer the device.",
            "See whether it is running.",
        ),
        "untrusted" => (
            "The host's certificate is not valid for its name.",
            "The device does not pass a page on that it can not tell from a forgery.",
        ),
        "timeout" => ("The page's host takes too long.", "Try again."),
        "bad_response" => (
            "What answers there is no web server.",
            "Check the address on the device.",
        ),
        // Of files (PROTOCOL.md, section 20.3).
        "file_not_found" => ("That file is no longer there.", "Reload the folder."),
        "not_allowed" => (
            "The device's system does not allow that.",
            "The agent runs as a user without the right to it.",
        ),
        "read_only" => (
            "These files are exposed for reading only.",
            "On the device, expose them with --writable to change them from here.",
        ),
        "changed" => (
            "The file has changed on the device meanwhile.",
            "Start the transfer anew to get the new one.",
        ),
        "no_space" => ("The device's disk is full.", "Make room, then resume."),
        "exists" => (
            "There is already something of that name.",
            "Choose another name.",
        ),
        "not_empty" => ("The folder is not empty.", "Remove what is in it first."),
        "bad_path" => (
            "The device does not take that name.",
            "Avoid slashes and special characters.",
        ),
        "is_folder" => ("That is a folder.", "Open it instead."),
        "not_folder" => ("That is no folder.", "Reload what is above it."),
        "incomplete" => ("Parts of the upload are missing.", "Resume it."),
        "io" => ("The device's disk reported an error.", "Its log says more."),
        "hash_differs" => (
            "The file arrived with another hash than it was sent with.",
            "It was thrown away. Start the transfer again.",
        ),
        "disk_full" => (
            "There is not enough room in this browser's storage.",
            "Free some disk space, then resume.",
        ),
        "another_tab" => (
            "Another tab of this browser carries this file.",
            "It goes on there.",
        ),
        "folder_denied" => (
            "This page may not write into the folder that you chose.",
            "Resume to try again, or download the file by itself.",
        ),
        "unreadable" => (
            "The file on this computer can not be read.",
            "It may have been moved or changed. Choose it again.",
        ),
        _ => ("Something went wrong.", "Try again."),
    }
}

/// Every code that the page can meet; a test holds it against PROTOCOL.md.
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_of_the_protocol_has_words_of_its_own() {
        let document = include_str!("../../PROTOCOL.md");
        let section = document.split("\n## 13. Codes").nth(1).unwrap();
        let section = section.split("\n## ").next().unwrap();
        let codes: Vec<&str> = section
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
            .collect();
        assert!(codes.len() > 20, "{codes:?}");
        for code in codes {
            assert_ne!(words(code), words("something else"), "{code}");
        }
    }

    #[test]
    fn times_are_part_of_the_sentence() {
        let mut failure = Failure::new("device_offline", "");
        failure.last_seen = Some(1000.0);
        let (title, _) = failure.sentence(1600.0);
        assert_eq!(title, "The device is offline. It was last seen 10 min ago.");
        let mut failure = Failure::new("rate_limited", "");
        failure.retry_after_s = Some(271.0);
        assert_eq!(failure.sentence(0.0).1, "Try again in 5 min.");
    }
}
