//! What a device or a registry refuses with, in words for a person.

use ringback_protocol::channel::reset;
use ringback_protocol::frame::Failed;
use ringback_protocol::refusal::Refusal;
use ringback_protocol::stream::StreamRefused;
use ringback_protocol::{Code, UnixTime};

use crate::CallError;
use crate::clock::unix_time;
use crate::error::{REGISTRY_LIES, STREAM_RESET};

pub(crate) fn registry_lies(what: &str) -> CallError {
    CallError::new(
        REGISTRY_LIES,
        format!("the registry is not to be trusted: {what}"),
    )
}

pub(crate) fn explain_refusal(refusal: &Refusal) -> CallError {
    let message = match &refusal.code {
        Code::WrongPassword => "wrong password".to_owned(),
        // It was sent once: somebody between has sent it again.
        Code::Replayed => return registry_lies("it has delivered the request twice"),
        Code::UnknownCaller => {
            "the device does not remember this browser (any more): give its password".to_owned()
        }
        Code::RateLimited => format!(
            "the device takes no more attempts for now; try again in {}",
            duration(refusal.retry_after_s)
        ),
        Code::UnknownService => "the device exposes no service of this name".to_owned(),
        code => format!("the device refuses: {}", code.title()),
    };
    CallError {
        retry_after_s: refusal.retry_after_s,
        ..CallError::new(refusal.code.as_str().to_owned(), message)
    }
}

/// The registry's own word.
pub(crate) fn explain_failed(failed: &Failed) -> CallError {
    let message = match &failed.code {
        Code::DeviceOffline => {
            let since = failed
                .last_seen
                .map_or(String::new(), |at| format!(", last seen {} ago", ago(at)));
            format!("the device is offline{since}")
        }
        Code::UnknownDevice => "the registry does not know this device".to_owned(),
        Code::Revoked => "the registry's owner has revoked this device".to_owned(),
        Code::NoAnswer => "the device has the request but did not answer in time".to_owned(),
        Code::RateLimited => format!(
            "the registry takes no more requests for now; try again in {}",
            duration(failed.retry_after_s)
        ),
        code => format!("the registry refuses: {}", code.title()),
    };
    CallError {
        retry_after_s: failed.retry_after_s,
        last_seen: failed.last_seen,
        ..CallError::new(failed.code.as_str().to_owned(), message)
    }
}

pub(crate) fn explain_refused_stream(refused: &StreamRefused) -> CallError {
    let message = match &refused.code {
        Code::UnknownService => "the device exposes no service of this name".to_owned(),
        Code::ServiceUnreachable => {
            "the service does not answer on the device's network".to_owned()
        }
        code => format!("the device refuses the stream: {}", code.title()),
    };
    CallError::new(refused.code.as_str().to_owned(), message)
}

pub(crate) fn explain_reset(code: u32) -> CallError {
    match code {
        reset::REVOKED => CallError::new(
            "revoked",
            "the device's owner has taken this browser's right to call back",
        ),
        reset::SHUTTING_DOWN => CallError::new("shutting_down", "the device is shutting down"),
        reset::VIOLATION => CallError::new(
            STREAM_RESET,
            "the device has cut the stream off as out of protocol",
        ),
        _ => CallError::new(STREAM_RESET, "the service has cut the stream off"),
    }
}

fn duration(seconds: Option<u32>) -> String {
    match seconds {
        None => "a while".into(),
        Some(s @ 0..120) => format!("{s} s"),
        Some(s) => format!("{} min", s.div_ceil(60)),
    }
}

fn ago(at: UnixTime) -> String {
    match unix_time(0).saturating_sub(at) {
        s @ 0..120 => format!("{s} s"),
        s @ 120..7200 => format!("{} min", s / 60),
        s @ 7200..172_800 => format!("{} h", s / 3600),
        s => format!("{} days", s / 86_400),
    }
}
