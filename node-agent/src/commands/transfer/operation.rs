//! One operation on a file of the device (PROTOCOL §20.3): the question, its answer, and what a
//! refusal means.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use ringback_protocol::Code;
use ringback_protocol::service::MAX_FRAME;
use ringback_protocol::service::files::{FileAnswer, FileError, FileRequest};
use tokio::io::AsyncWriteExt as _;

use crate::commands::line::{Line, Reader};
use crate::failure::{Exit, Failure};
use crate::link::printable;
use crate::service::Frames;

/// How long a transfer without progress goes on calling.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
/// Between two attempts.
pub(super) const PAUSE: Duration = Duration::from_millis(500);

/// One question and its answer; asked again while the link can not be had.
pub(super) async fn ask(line: &Line, service: &str, request: &FileRequest) -> Result<FileAnswer> {
    let since = Instant::now();
    loop {
        let asked = async {
            let (reader, mut writer) = line.open(service).await?;
            writer.write_all(&request.encode()).await?;
            writer.shutdown().await?;
            Ok(read_answer(reader).await?.0)
        };
        match asked.await {
            Ok(answer) => return Ok(answer),
            Err(error) if is_final(&error) || since.elapsed() > PATIENCE => return Err(error),
            Err(error) => tracing::debug!("asked again: {error:#}"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// The answer, which is an error if it says so, and the rest of the stream.
pub(super) async fn read_answer(reader: Reader) -> Result<(FileAnswer, Reader)> {
    let mut frames = Frames::new(reader, MAX_FRAME);
    let frame = frames
        .next()
        .await?
        .context("the device ended the stream")?;
    let answer = FileAnswer::decode(&frame)?;
    match &answer.code {
        None => Ok((answer, frames.into_inner())),
        Some(code) => bail!(
            Failure::new(Exit::Refused, explain(code, &answer.detail))
                .about(&Code::from(code.as_str()))
        ),
    }
}

fn explain(code: &FileError, detail: &str) -> String {
    let detail = printable(detail);
    let more = match detail.as_str() {
        "" => String::new(),
        detail => format!(" ({detail})"),
    };
    match code {
        FileError::NoSpace => "the device's disk is full; nothing was changed there".to_owned() + &more,
        FileError::ReadOnly => "these files may only be read; the device's owner exposes them with --writable to change that".into(),
        code => format!("the device refuses: {}{more}", code.title()),
    }
}

/// The device's word on an operation that failed.
pub(super) fn refused(error: &anyhow::Error) -> Option<FileError> {
    Failure::code(error).map(|code| FileError::from(code.as_str()))
}

/// Will the same never work?
pub(super) fn is_final(error: &anyhow::Error) -> bool {
    let code = Failure::exit_code(error);
    let finals = [Exit::Refused, Exit::Trust, Exit::Usage, Exit::Limited];
    finals.iter().any(|exit| *exit as u8 == code) || Failure::is_broken_pipe(error)
}

/// What the first answer to a path may mean: that the device's agent is from before names were bytes.
pub(super) fn of_bytes(error: anyhow::Error, path: &[u8], line: &Line) -> anyhow::Error {
    if refused(&error) == Some(FileError::BadPath) && str::from_utf8(path).is_err() {
        let what = format!(
            "'{}' is no UTF-8, and the agent of {} takes such names only once it is updated",
            OsStr::from_bytes(path).display(),
            line.device()
        );
        return Failure::new(Exit::Refused, what)
            .about(&Code::from(FileError::BadPath.as_str()))
            .into();
    }
    error
}
