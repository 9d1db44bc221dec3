//! What an outcome of a call means for the person who made it: one sentence, and the exit code.

use ringback_protocol::Code;
use ringback_protocol::call::Outcome;
use ringback_protocol::frame::Failed;
use ringback_protocol::refusal::Refusal;

use crate::clock::ago;
use crate::failure::{Exit, Failure};

pub(crate) fn explain(outcome: Outcome) -> anyhow::Error {
    match outcome {
        Outcome::Accepted(_) => unreachable!("handled by the caller"),
        Outcome::Refused(refusal) => explain_refusal(&refusal).about(&refusal.code),
        Outcome::Failed(failed) => explain_failed(&failed).about(&failed.code),
        Outcome::RegistryMisbehaved(what) => Failure::new(
            Exit::Trust,
            format!("the registry is not to be trusted: {what}"),
        ),
    }
    .into()
}

fn explain_refusal(refusal: &Refusal) -> Failure {
    match &refusal.code {
        Code::WrongPassword => Failure::new(Exit::Refused, "wrong password"),
        // It was sent once: somebody between has sent it again.
        Code::Replayed => Failure::new(
            Exit::Trust,
            "the registry is not to be trusted: it has delivered the request twice",
        ),
        Code::UnknownCaller => Failure::new(
            Exit::Refused,
            "the device does not remember this caller (any more); give its password",
        ),
        Code::RateLimited => Failure::new(
            Exit::Limited,
            format!(
                "the device takes no more attempts for now; try again in {}",
                duration(refusal.retry_after_s)
            ),
        ),
        Code::UnknownService => {
            Failure::new(Exit::Refused, "the device exposes no service of this name")
        }
        code => Failure::new(
            Exit::Refused,
            format!("the device refuses: {}", code.title()),
        ),
    }
}

fn explain_failed(failed: &Failed) -> Failure {
    match &failed.code {
        Code::DeviceOffline => {
            let since = failed
                .last_seen
                .map_or(String::new(), |at| format!(", last seen {} ago", ago(at)));
            Failure::new(Exit::Offline, format!("the device is offline{since}"))
        }
        Code::UnknownDevice => {
            Failure::new(Exit::Offline, "the registry does not know this device")
        }
        Code::NoAnswer => Failure::new(
            Exit::Offline,
            "the device has the request but did not answer in time",
        ),
        Code::RateLimited => Failure::new(
            Exit::Limited,
            format!(
                "the registry takes no more requests for now; try again in {}",
                duration(failed.retry_after_s)
            ),
        ),
        code => Failure::new(
            Exit::Registry,
            format!("the registry refuses: {}", code.title()),
        ),
    }
}

fn duration(seconds: Option<u32>) -> String {
    match seconds {
        None => "a while".into(),
        Some(s @ 0..120) => format!("{s} s"),
        Some(s) => format!("{} min", s.div_ceil(60)),
    }
}
