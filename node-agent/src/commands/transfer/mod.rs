//! `get` and `send`: one file, in pieces over several streams at a time. What has arrived is noted,
//! so that the same command goes on where an interrupted one was; at the end both sides' SHA-256 are
//! compared.

mod get;
mod progress;
mod send;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use ringback_protocol::Code;
use ringback_protocol::service::MAX_FRAME;
use ringback_protocol::service::files::{FileAnswer, FileError, FileRequest, Range};
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncWriteExt as _;

use super::line::{Line, Reader};
use super::stop::stopped;
use super::terminal::{self, say};
use crate::cli::{Get, Global, Send};
use crate::failure::{Exit, Failure};
use crate::link::printable;
use crate::profile::Profile;
use crate::service::Frames;

/// Streams at a time.
const STREAMS: usize = 4;
/// Bytes of one stream at most: what is lost at once when the link breaks.
const PIECE: u64 = 16 * 1024 * 1024;
/// Read or written at once.
const BLOCK: usize = 256 * 1024;
/// How long a transfer without progress goes on calling.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(500);

/// `DEVICE:SERVICE/PATH`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Remote {
    device: String,
    service: String,
    /// Empty: the exposed folder.
    path: String,
    /// Written with a `/` at the end: a folder.
    is_folder: bool,
}

impl Remote {
    fn parse(text: &str) -> Result<Self> {
        let bad = || {
            Failure::new(
                Exit::Usage,
                format!(
                    "'{text}' is not DEVICE:PATH, as nas:docs/letters/may.pdf is, where docs is the service"
                ),
            )
        };
        let (device, path) = text.split_once(':').ok_or_else(bad)?;
        let path = path.trim_start_matches('/');
        let (service, path) = path.split_once('/').unwrap_or((path, ""));
        ringback_protocol::name::check(service).map_err(|_| bad())?;
        if device.is_empty() {
            bail!(bad());
        }
        let trimmed = path.trim_end_matches('/');
        Ok(Self {
            device: device.to_owned(),
            service: service.to_owned(),
            path: trimmed.to_owned(),
            is_folder: path.is_empty() || trimmed.len() < path.len(),
        })
    }

    /// A file in it.
    fn join(&self, name: &str) -> String {
        match self.path.is_empty() {
            true => name.to_owned(),
            false => format!("{}/{name}", self.path),
        }
    }
}

/// What is told at the end.
#[derive(Debug, Serialize)]
struct Done {
    path: String,
    bytes: u64,
    /// Of these, there already from an earlier try.
    resumed_bytes: u64,
    sha256: String,
    seconds: f64,
}

pub(super) async fn get(global: &Global, profile: &Profile, get: Get) -> Result<()> {
    let remote = Remote::parse(&get.from)?;
    let line = Line::new(
        global,
        profile,
        &get.target,
        &remote.device,
        &remote.service,
    )
    .await?;
    let (to, overwrite) = (get.to.as_deref(), get.overwrite);
    let result = interruptible(get::run(&line, &remote, to, overwrite)).await;
    line.close().await;
    let done = result?;
    if to == Some(Path::new("-")) {
        // Standard output has the file.
        say!("{}  {}", done.sha256, get.from);
        return Ok(());
    }
    report(global, &done)
}

pub(super) async fn send(global: &Global, profile: &Profile, send: Send) -> Result<()> {
    let remote = Remote::parse(&send.to)?;
    let line = Line::new(
        global,
        profile,
        &send.target,
        &remote.device,
        &remote.service,
    )
    .await?;
    let result = interruptible(send::run(&line, &remote, &send.from, send.keep)).await;
    line.close().await;
    report(global, &result?)
}

async fn interruptible(work: impl Future<Output = Result<Done>>) -> Result<Done> {
    tokio::select! {
        done = work => done,
        ended = stopped() => {
            say!("interrupted; the same command goes on from here");
            bail!(ended)
        }
    }
}

fn report(global: &Global, done: &Done) -> Result<()> {
    terminal::data(global, done, |done| {
        format!("{}  {}\n", done.sha256, done.path)
    })
}

/// One question and its answer; asked again while the link can not be had.
async fn ask(line: &Line, service: &str, request: &FileRequest) -> Result<FileAnswer> {
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
async fn read_answer(reader: Reader) -> Result<(FileAnswer, Reader)> {
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
fn refused(error: &anyhow::Error) -> Option<FileError> {
    Failure::code(error).map(|code| FileError::from(code.as_str()))
}

/// Will the same never work?
fn is_final(error: &anyhow::Error) -> bool {
    let code = Failure::exit_code(error);
    let finals = [Exit::Refused, Exit::Trust, Exit::Usage, Exit::Limited];
    finals.iter().any(|exit| *exit as u8 == code)
}

/// Cuts what is missing into pieces, the last one first: they are taken from the end.
fn pieces(missing: &[Range]) -> Vec<Range> {
    let mut pieces = Vec::new();
    for range in missing {
        let mut at = range.0;
        while at < range.1 {
            let end = (at + PIECE).min(range.1);
            pieces.push(Range(at, end));
            at = end;
        }
    }
    pieces.reverse();
    pieces
}

/// The SHA-256 of a file, by a thread of its own.
async fn hash(file: File) -> Result<[u8; 32]> {
    let hash = tokio::task::spawn_blocking(move || -> io::Result<[u8; 32]> {
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; BLOCK];
        let mut at = 0;
        loop {
            match file.read_at(&mut buffer, at)? {
                0 => return Ok(hasher.finalize().into()),
                read => {
                    hasher.update(&buffer[..read]);
                    at += read as u64;
                }
            }
        }
    });
    Ok(hash.await??)
}

fn local(path: &Path, error: &io::Error) -> Failure {
    let hint = match error.kind() {
        io::ErrorKind::StorageFull => "; this host's disk is full",
        _ => "",
    };
    Failure::new(Exit::Usage, format!("{}: {error}{hint}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_part_of_a_path_is_the_service() {
        let parse = |text: &str| {
            let remote = Remote::parse(text).ok()?;
            Some((remote.device, remote.service, remote.path, remote.is_folder))
        };
        let some = |device: &str, service: &str, path: &str, is_folder| {
            Some((device.into(), service.into(), path.into(), is_folder))
        };
        assert_eq!(parse("nas:docs/a/b"), some("nas", "docs", "a/b", false));
        assert_eq!(parse("nas:/docs/a/"), some("nas", "docs", "a", true));
        assert_eq!(parse("nas:docs"), some("nas", "docs", "", true));
        for bad in ["nas", "nas:", ":docs/a", "nas:Docs/a"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_is_missing_is_cut_into_pieces() {
        let cut = pieces(&[Range(5, 6), Range(PIECE, 2 * PIECE + 1)]);
        let expected = [
            Range(2 * PIECE, 2 * PIECE + 1),
            Range(PIECE, 2 * PIECE),
            Range(5, 6),
        ];
        assert_eq!(cut, expected);
    }
}
