//! Failures that a script can tell apart by their exit code.

use std::io;

use ringback_protocol::Code;

/// Why a command ended, by who has to do something about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Anything without a code of its own.
    Other = 1,
    /// Arguments, configuration or files of this host.
    Usage = 2,
    /// The registry can not be reached or is not well.
    Registry = 3,
    /// The device is offline or unknown.
    Offline = 4,
    /// The device refuses: password, caller key, service.
    Refused = 5,
    /// Too many attempts; later.
    Limited = 6,
    /// Admitted, but no path between the two could be found.
    NoPath = 7,
    /// Somebody is not who they should be. Do not ignore.
    Trust = 8,
}

/// An error with an exit code and one line for a person: what is wrong and what to do.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    exit: Exit,
    message: String,
    /// The other side's word for it.
    code: Option<Code>,
}

/// Inside of an [`io::Error`]: whoever read this command's output has stopped reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("nobody reads the output any more")]
struct ReaderGone;

/// Marks what went wrong with a command's output. A connection that is gone is a broken pipe, too, and an
/// error.
pub(crate) fn of_output(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::BrokenPipe => io::Error::new(io::ErrorKind::BrokenPipe, ReaderGone),
        _ => error,
    }
}

/// The command has ended with the exit code of what it ran, which has said all there is to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("ended with exit code {0}")]
pub struct Ended(pub u8);

impl Failure {
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            message: message.into(),
            code: None,
        }
    }

    /// The same, of what the other side has a word for (PROTOCOL §13).
    pub(crate) fn about(mut self, code: &Code) -> Self {
        self.code = Some(code.clone());
        self
    }

    pub(crate) fn code(error: &anyhow::Error) -> Option<Code> {
        let mut causes = error.chain();
        causes.find_map(|cause| cause.downcast_ref::<Self>()?.code.clone())
    }

    pub fn exit_code(error: &anyhow::Error) -> u8 {
        if let Some(Ended(code)) = error.downcast_ref() {
            return *code;
        }
        error
            .chain()
            .find_map(|cause| cause.downcast_ref::<Self>())
            .map_or(Exit::Other, |f| f.exit) as u8
    }

    pub(crate) fn from_code(exit: u8, message: String) -> Self {
        let known = [
            Exit::Usage,
            Exit::Registry,
            Exit::Offline,
            Exit::Refused,
            Exit::Limited,
            Exit::NoPath,
            Exit::Trust,
        ];
        let exit = known
            .into_iter()
            .find(|known| *known as u8 == exit)
            .unwrap_or(Exit::Other);
        Self::new(exit, message)
    }

    /// Arguments that can not be meant.
    pub fn usage(message: &str) -> anyhow::Error {
        Self::new(Exit::Usage, message).into()
    }

    /// The error as `--json` gives it: one object on one line.
    pub fn json(error: &anyhow::Error) -> String {
        let exit = Self::exit_code(error);
        let code = Self::code(error);
        let code = code.as_ref().map_or_else(|| word(exit), Code::as_str);
        let message = format!("{error:#}");
        serde_json::json!({ "error": { "exit": exit, "code": code, "message": message } })
            .to_string()
    }

    /// Whoever read our output has stopped reading: that is no error. See `of_output`.
    pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
        error
            .chain()
            .filter_map(|cause| cause.downcast_ref::<io::Error>()?.get_ref())
            .any(|inner| inner.is::<ReaderGone>())
    }
}

/// What an exit code stands for, where the other side has no word of its own.
fn word(exit: u8) -> &'static str {
    match exit {
        2 => "usage",
        3 => "registry",
        4 => "offline",
        5 => "refused",
        6 => "limited",
        7 => "no_path",
        8 => "trust",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context as _;

    #[test]
    fn an_exit_code_survives_context_and_the_control_socket() {
        let all = [
            Exit::Other,
            Exit::Usage,
            Exit::Registry,
            Exit::Offline,
            Exit::Refused,
            Exit::Limited,
            Exit::NoPath,
            Exit::Trust,
        ];
        for (exit, code) in all.into_iter().zip(1..) {
            let failure: anyhow::Error = Failure::new(exit, "no").into();
            let wrapped = Err::<(), _>(failure).context("so").unwrap_err();
            assert_eq!(Failure::exit_code(&wrapped), code);
            let again: anyhow::Error = Failure::from_code(code, "no".into()).into();
            assert_eq!(Failure::exit_code(&again), code);
        }
        assert_eq!(Failure::exit_code(&anyhow::anyhow!("no")), 1);
        let later: anyhow::Error = Failure::from_code(99, "of a later version".into()).into();
        assert_eq!(Failure::exit_code(&later), 1);
    }

    #[test]
    fn an_error_is_one_json_object() {
        let plain: anyhow::Error = Failure::new(Exit::NoPath, "no \"way\"").into();
        assert_eq!(
            Failure::json(&plain),
            r#"{"error":{"code":"no_path","exit":7,"message":"no \"way\""}}"#
        );
        let told = Failure::new(Exit::Refused, "wrong password").about(&Code::WrongPassword);
        assert_eq!(
            Failure::json(&anyhow::Error::from(told).context("so")),
            r#"{"error":{"code":"wrong_password","exit":5,"message":"so: wrong password"}}"#
        );
        assert!(Failure::json(&anyhow::anyhow!("?")).contains(r#""code":"other","exit":1"#));
    }

    #[test]
    fn only_a_broken_pipe_of_the_output_is_no_error() {
        use io::ErrorKind::{BrokenPipe, ConnectionReset};
        let io = |error: io::Error| anyhow::Error::from(error).context("so");
        assert!(Failure::is_broken_pipe(&io(of_output(BrokenPipe.into()))));
        assert!(!Failure::is_broken_pipe(&io(of_output(
            ConnectionReset.into()
        ))));
        assert!(!Failure::is_broken_pipe(&io(BrokenPipe.into())));
    }
}
