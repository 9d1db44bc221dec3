//! `get` and `send`: one file, in pieces over several streams at a time. What has arrived is noted,
//! so that the same command goes on where an interrupted one was; at the end both sides' SHA-256 are
//! compared.

mod get;
mod progress;
mod send;
mod sink;

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use ringback_protocol::Code;
use ringback_protocol::service::MAX_FRAME;
use ringback_protocol::service::files::{FileAnswer, FileError, FileRequest, Range};
use serde::{Serialize, Serializer};
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
    /// Empty: the exposed folder. Names are bytes.
    path: Vec<u8>,
    /// Written with a `/` at the end: a folder.
    is_folder: bool,
}

impl Remote {
    fn parse(given: &OsStr) -> Result<Self> {
        let bad = || {
            Failure::new(
                Exit::Usage,
                format!(
                    "'{}' is not DEVICE:PATH, as nas:docs/letters/may.pdf is, where docs is the service",
                    given.display()
                ),
            )
        };
        let (device, path) = split_once(given.as_bytes(), b':').ok_or_else(bad)?;
        let slashes = path.iter().take_while(|byte| **byte == b'/').count();
        let path = &path[slashes..];
        let (service, path) = split_once(path, b'/').unwrap_or((path, b""));
        let text = |bytes: &[u8]| str::from_utf8(bytes).map(str::to_owned).map_err(|_| bad());
        let (device, service) = (text(device)?, text(service)?);
        ringback_protocol::name::check(&service).map_err(|_| bad())?;
        if device.is_empty() {
            bail!(bad());
        }
        let slashes = path.iter().rev().take_while(|byte| **byte == b'/').count();
        let trimmed = &path[..path.len() - slashes];
        Ok(Self {
            device,
            service,
            path: trimmed.to_owned(),
            is_folder: path.is_empty() || slashes > 0,
        })
    }

    /// A file in it.
    fn join(&self, name: &OsStr) -> Vec<u8> {
        match self.path.is_empty() {
            true => name.as_bytes().to_owned(),
            false => [&self.path, &b"/"[..], name.as_bytes()].concat(),
        }
    }

    /// A path of this service as a person writes it.
    fn written(&self, path: &[u8]) -> OsString {
        let service = format!("{}:{}/", self.device, self.service);
        OsString::from_vec([service.as_bytes(), path].concat())
    }
}

fn split_once(bytes: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let position = bytes.iter().position(|byte| *byte == at)?;
    Some((&bytes[..position], &bytes[position + 1..]))
}

/// What is told at the end.
#[derive(Debug, Serialize)]
struct Done {
    #[serde(serialize_with = "as_text")]
    path: OsString,
    bytes: u64,
    /// Of these, there already from an earlier try.
    resumed_bytes: u64,
    sha256: String,
    seconds: f64,
    /// Standard output has the file, and nothing else.
    #[serde(skip)]
    in_output: bool,
}

/// JSON knows text only.
fn as_text<S: Serializer>(path: &OsString, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&path.to_string_lossy())
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
    report(global, &result?)
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
    if send.from == Path::new("-") && send.target.password_file.as_deref() == Some(&send.from) {
        let what =
            "standard input can not be the file and the password: give --password-file a file";
        bail!(Failure::new(Exit::Usage, what));
    }
    let result = interruptible(send::run(&line, &remote, &send.from, send.overwrite)).await;
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
    if done.in_output {
        say!("{}  {}", done.sha256, done.path.display());
        return Ok(());
    }
    terminal::bytes(global, done, |done| {
        let sha256 = done.sha256.as_bytes();
        [sha256, b"  ", done.path.as_bytes(), b"\n"].concat()
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
    finals.iter().any(|exit| *exit as u8 == code) || Failure::is_broken_pipe(error)
}

/// What the first answer to a path may mean: that the device's agent is from before names were bytes.
fn of_bytes(error: anyhow::Error, path: &[u8], line: &Line) -> anyhow::Error {
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

/// Something else has the name already.
fn replaces(path: &OsStr) -> Failure {
    let what = format!(
        "{} is there already and is another file; --overwrite replaces it",
        path.display()
    );
    Failure::new(Exit::Usage, what)
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
            let remote = Remote::parse(OsStr::new(text)).ok()?;
            let path = String::from_utf8(remote.path).ok()?;
            Some((remote.device, remote.service, path, remote.is_folder))
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
        let latin = Remote::parse(OsStr::from_bytes(b"nas:docs/caf\xe9/")).unwrap();
        assert_eq!((latin.path, latin.is_folder), (b"caf\xe9".to_vec(), true));
        Remote::parse(OsStr::from_bytes(b"nas:d\xe9/x")).unwrap_err();
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
