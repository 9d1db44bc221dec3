//! `send`.

use std::fs::File;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
use std::sync::Arc;
use std::time::{Instant, UNIX_EPOCH};

use anyhow::{Result, bail};
use parking_lot::Mutex;
use ringback_protocol::service::files::{
    EntryKind, FileError, FileRequest, Op, Range, UploadId, missing_ranges,
};
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncWriteExt as _;

use super::progress::Progress;
use super::{BLOCK, Done, PATIENCE, PAUSE, Remote, STREAMS, ask, hash, is_final, local, pieces};
use super::{read_answer, refused};
use crate::commands::line::Line;
use crate::failure::{Exit, Failure};

/// The file as it was when it was opened.
struct Source {
    file: File,
    size: u64,
    modified_ms: Option<u64>,
    mode: u16,
    /// Changes with the file.
    state: (u64, i64, i64, i64, i64),
}

pub(super) async fn run(line: &Line, remote: &Remote, from: &Path, keep: bool) -> Result<Done> {
    let started = Instant::now();
    let source = Arc::new(Source::open(from)?);
    let name = from.file_name().unwrap_or_default().to_string_lossy();
    let path = target(line, remote, &name).await?;
    let upload = upload_id(from, &path, &source)?;
    let request = |op| FileRequest {
        upload: Some(upload),
        size: Some(source.size),
        ..FileRequest::new(op, &path)
    };
    let answer = ask(line, &remote.service, &request(Op::Stat)).await?;
    let there = answer.received.unwrap_or_default();
    let resumed_bytes = there.iter().map(|range| range.1 - range.0).sum();
    let progress = Progress::start(&name, resumed_bytes, source.size);
    let mut todo = pieces(&missing_ranges(&there, source.size));
    if source.size == 0 {
        // An empty file has an upload, too.
        todo.push(Range(0, 0));
    }
    let todo = Mutex::new(todo);
    let write = request(Op::Write);
    let workers = futures_util::future::try_join_all(
        (0..STREAMS).map(|_| worker(line, remote, &write, &source, &todo, &progress)),
    );
    let (_, sha256) = tokio::try_join!(workers, hash(source.file.try_clone()?))?;
    drop(progress);
    let abandon = || async {
        // What is left over goes by itself in a week.
        let _ = ask(line, &remote.service, &request(Op::Abandon)).await;
    };
    if !source.is_unchanged()? {
        abandon().await;
        let what = format!(
            "{} has changed while it was sent; try again",
            from.display()
        );
        bail!(Failure::new(Exit::Usage, what));
    }
    let commit = FileRequest {
        sha256: Some(sha256),
        keep,
        modified_ms: source.modified_ms,
        mode: Some(source.mode),
        ..request(Op::Commit)
    };
    match ask(line, &remote.service, &commit).await {
        Ok(_) => {}
        // The answer to an earlier try may have been lost: then it is there.
        Err(error)
            if refused(&error) == Some(FileError::NotFound)
                && is_there(line, remote, &path, &sha256).await => {}
        Err(error) => {
            if refused(&error) == Some(FileError::Exists) {
                abandon().await;
            }
            return Err(error);
        }
    }
    Ok(Done {
        path: format!("{}:{}/{path}", remote.device, remote.service),
        bytes: source.size,
        resumed_bytes,
        sha256: hex::encode(sha256),
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// The path of the file there: into a folder, if that is what is meant or what is there.
async fn target(line: &Line, remote: &Remote, name: &str) -> Result<String> {
    let answer = ask(
        line,
        &remote.service,
        &FileRequest::new(Op::Stat, &remote.path),
    )
    .await;
    match answer {
        Ok(answer) => {
            let is_folder = answer.entry.is_some_and(|e| e.kind == EntryKind::Folder);
            if is_folder {
                return Ok(remote.join(name));
            }
            if remote.is_folder {
                let what = format!("'{}' is a file on {}", remote.path, line.device());
                bail!(Failure::new(Exit::Usage, what));
            }
            Ok(remote.path.clone())
        }
        Err(error) if refused(&error) == Some(FileError::NotFound) && !remote.is_folder => {
            Ok(remote.path.clone())
        }
        Err(error) => Err(error),
    }
}

/// The same for the same file to the same place, so that a later try goes on.
fn upload_id(from: &Path, to: &str, source: &Source) -> Result<UploadId> {
    let from = from.canonicalize().map_err(|error| local(from, &error))?;
    let digest = Sha256::new()
        .chain_update(from.as_os_str().as_encoded_bytes())
        .chain_update([0])
        .chain_update(to)
        .chain_update(format!("\0{:?}", source.state))
        .finalize();
    Ok(digest[..16].try_into().expect("16 bytes"))
}

async fn is_there(line: &Line, remote: &Remote, path: &str, sha256: &[u8; 32]) -> bool {
    let answer = ask(line, &remote.service, &FileRequest::new(Op::Hash, path)).await;
    answer.is_ok_and(|answer| answer.sha256.as_ref() == Some(sha256))
}

/// Sends piece after piece until none is left.
async fn worker(
    line: &Line,
    remote: &Remote,
    request: &FileRequest,
    source: &Arc<Source>,
    todo: &Mutex<Vec<Range>>,
    progress: &Progress,
) -> Result<()> {
    loop {
        let Some(piece) = todo.lock().pop() else {
            return Ok(());
        };
        let since = Instant::now();
        loop {
            let mut counted = 0;
            match put(line, remote, request, source, piece, progress, &mut counted).await {
                Ok(()) => break,
                Err(error) if is_final(&error) || since.elapsed() > PATIENCE => return Err(error),
                Err(error) => {
                    tracing::debug!("a part is sent again: {error:#}");
                    progress.take_back(counted);
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
}

/// One stream.
async fn put(
    line: &Line,
    remote: &Remote,
    request: &FileRequest,
    source: &Arc<Source>,
    piece: Range,
    progress: &Progress,
    counted: &mut u64,
) -> Result<()> {
    let request = FileRequest {
        offset: piece.0,
        ..request.clone()
    };
    let (reader, mut writer) = line.open(&remote.service).await?;
    let answer = read_answer(reader);
    tokio::pin!(answer);
    let writing = async {
        writer.write_all(&request.encode()).await?;
        let (mut at, mut block) = (piece.0, vec![0; BLOCK]);
        while at < piece.1 {
            let most = BLOCK.min(usize::try_from(piece.1 - at).unwrap_or(BLOCK));
            let reading = source.clone();
            let read = tokio::task::spawn_blocking(move || {
                let read = reading.file.read_at(&mut block[..most], at);
                read.map(|read| (read, block))
            });
            let (read, full) = read.await??;
            if read == 0 {
                bail!(Failure::new(
                    Exit::Usage,
                    "the file has become shorter while it was sent"
                ));
            }
            writer.write_all(&full[..read]).await?;
            block = full;
            at += read as u64;
            *counted += read as u64;
            progress.add(read as u64);
        }
        Ok(writer.shutdown().await?)
    };
    tokio::select! {
        written = writing => match written {
            Ok(()) => {}
            // Why the device takes no more is in its answer, if that has come.
            Err(error) => return match answer.await {
                Err(told) if refused(&told).is_some() => Err(told),
                _ => Err(error),
            },
        },
        early = &mut answer => {
            early?;
            bail!("the device answers before all is sent");
        }
    }
    answer.await?;
    Ok(())
}

impl Source {
    fn open(path: &Path) -> Result<Self> {
        let open = || {
            let file = File::open(path)?;
            let metadata = file.metadata()?;
            std::io::Result::Ok((file, metadata))
        };
        let (file, metadata) = open().map_err(|error| local(path, &error))?;
        if !metadata.is_file() {
            let what = format!("{} is no file; send takes one file", path.display());
            bail!(Failure::new(Exit::Usage, what));
        }
        let modified = metadata.modified().ok();
        let since = modified.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        Ok(Self {
            size: metadata.len(),
            modified_ms: since.map(|since| since.as_millis() as u64),
            mode: (metadata.mode() & 0o777) as u16,
            state: state(&metadata),
            file,
        })
    }

    fn is_unchanged(&self) -> Result<bool> {
        Ok(state(&self.file.metadata()?) == self.state)
    }
}

fn state(metadata: &std::fs::Metadata) -> (u64, i64, i64, i64, i64) {
    (
        metadata.len(),
        metadata.mtime(),
        metadata.mtime_nsec(),
        metadata.ctime(),
        metadata.ctime_nsec(),
    )
}
