//! `send`.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, FileTypeExt as _, MetadataExt as _};
use std::path::Path;
use std::sync::Arc;
use std::time::{Instant, UNIX_EPOCH};

use anyhow::{Result, bail};
use parking_lot::Mutex;
use ringback_protocol::service::files::{
    Entry, EntryKind, FileError, FileRequest, Op, Range, UploadId, missing_ranges,
};
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncWriteExt as _;

use super::local_file::{BLOCK, hash, local};
use super::operation::{PATIENCE, PAUSE, ask, is_final, of_bytes, read_answer, refused};
use super::outcome::{Done, replaces};
use super::pieces::{STREAMS, pieces};
use super::progress::Progress;
use super::remote::Remote;
use crate::commands::line::Line;
use crate::failure::{Exit, Failure};

/// What is sent.
struct Source {
    file: File,
    size: u64,
    modified_ms: Option<u64>,
    mode: Option<u16>,
    /// What makes it the same source in a later try, so that that goes on.
    name: Vec<u8>,
    /// The file as it was when it was opened; none of a copy that is this command's.
    state: Option<State>,
}

/// Changes with the file.
type State = (u64, i64, i64, i64, i64);

pub(super) async fn run(
    line: &Line,
    remote: &Remote,
    from: &Path,
    overwrite: bool,
) -> Result<Done> {
    let started = Instant::now();
    let has_end = has_end(from)?;
    let name = has_end.then(|| from.file_name().unwrap_or_default());
    let (path, there) = target(line, remote, name).await?;
    let written = remote.written(&path);
    let source = match has_end {
        true => Source::open(from)?,
        false => Source::copy(from).await?,
    };
    let source = Arc::new(source);
    if let Some(there) = there
        && !overwrite
    {
        let sha256 = compare(line, remote, &path, &there, &source).await?;
        return Ok(Done {
            path: written,
            bytes: source.size,
            resumed_bytes: source.size,
            sha256: hex::encode(sha256),
            seconds: started.elapsed().as_secs_f64(),
            in_output: false,
        });
    }
    let upload = upload_id(&path, &source);
    let request = |op| FileRequest {
        upload: Some(upload),
        size: Some(source.size),
        ..FileRequest::of(op, &path)
    };
    let answer = ask(line, &remote.service, &request(Op::Stat)).await;
    let answer = answer.map_err(|error| of_bytes(error, &path, line))?;
    let there = answer.received.unwrap_or_default();
    let resumed_bytes = there.iter().map(|range| range.1 - range.0).sum();
    let shown = Path::new(OsStr::from_bytes(&path)).file_name();
    let shown = shown.unwrap_or_default().to_string_lossy();
    let progress = Progress::start(&shown, resumed_bytes, source.size);
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
        keep: !overwrite,
        modified_ms: source.modified_ms,
        mode: source.mode,
        ..request(Op::Commit)
    };
    match ask(line, &remote.service, &commit).await {
        Ok(_) => {}
        // The answer to an earlier try may have been lost: then it is there.
        Err(error)
            if refused(&error) == Some(FileError::NotFound)
                && is_there(line, remote, &path, &sha256).await => {}
        // It has come meanwhile.
        Err(error) if refused(&error) == Some(FileError::Exists) => {
            abandon().await;
            if overwrite {
                return Err(error.context(written.display().to_string()));
            }
            if !is_there(line, remote, &path, &sha256).await {
                bail!(replaces(&written));
            }
        }
        Err(error) => {
            if refused(&error) == Some(FileError::BadPath) {
                abandon().await;
            }
            return Err(error.context(written.display().to_string()));
        }
    }
    Ok(Done {
        path: written,
        bytes: source.size,
        resumed_bytes,
        sha256: hex::encode(sha256),
        seconds: started.elapsed().as_secs_f64(),
        in_output: false,
    })
}

/// Is it a file, that can be read in any order and as often as is needed? If not, it is standard input or
/// something else that can be read once.
fn has_end(from: &Path) -> Result<bool> {
    if from == Path::new("-") {
        return Ok(false);
    }
    let metadata = std::fs::metadata(from).map_err(|error| local(from, &error))?;
    let kind = metadata.file_type();
    if kind.is_file() {
        Ok(true)
    } else if kind.is_fifo() || kind.is_char_device() {
        Ok(false)
    } else {
        let what = format!("{} is no file; send takes one file", from.display());
        bail!(Failure::new(Exit::Usage, what));
    }
}

/// The path of the file there, and what has it already: into a folder, if that is what is meant or what
/// is there.
async fn target(
    line: &Line,
    remote: &Remote,
    name: Option<&OsStr>,
) -> Result<(Vec<u8>, Option<Entry>)> {
    let entry = stat(line, remote, &remote.path).await?;
    let Some(entry) = entry else {
        if remote.is_folder {
            let what = format!(
                "there is no folder {}",
                remote.written(&remote.path).display()
            );
            bail!(Failure::new(Exit::Refused, what));
        }
        return Ok((remote.path.clone(), None));
    };
    if entry.kind_here() == EntryKind::Folder {
        let Some(name) = name else {
            let what = format!(
                "what is sent has no name; write one behind {}",
                remote.written(&remote.join(OsStr::new(""))).display()
            );
            bail!(Failure::new(Exit::Usage, what));
        };
        let path = remote.join(name);
        let there = stat(line, remote, &path).await?;
        return Ok((path, there));
    }
    if remote.is_folder {
        let what = format!("{} is a file", remote.written(&remote.path).display());
        bail!(Failure::new(Exit::Usage, what));
    }
    Ok((remote.path.clone(), Some(entry)))
}

async fn stat(line: &Line, remote: &Remote, path: &[u8]) -> Result<Option<Entry>> {
    match ask(line, &remote.service, &FileRequest::of(Op::Stat, path)).await {
        Ok(answer) => Ok(answer.entry),
        Err(error) if refused(&error) == Some(FileError::NotFound) => Ok(None),
        Err(error) => Err(of_bytes(error, path, line)),
    }
}

/// There is something of the target's name already: nothing is replaced unasked.
async fn compare(
    line: &Line,
    remote: &Remote,
    path: &[u8],
    there: &Entry,
    source: &Source,
) -> Result<[u8; 32]> {
    let written = remote.written(path);
    if there.kind_here() == EntryKind::Folder {
        let what = format!("{} is a folder", written.display());
        bail!(Failure::new(Exit::Usage, what));
    }
    if there.kind_here() != EntryKind::File || there.size != source.size {
        bail!(replaces(&written));
    }
    let request = FileRequest {
        version: Some(there.version.clone()),
        ..FileRequest::of(Op::Hash, path)
    };
    let file = source.file.try_clone()?;
    let (ours, answer) = tokio::try_join!(hash(file), ask(line, &remote.service, &request))?;
    if answer.sha256 != Some(ours) {
        bail!(replaces(&written));
    }
    let is_other = |entry: &Entry| entry.name_as_bytes() != there.name_as_bytes();
    if let Some(other) = answer.entry.filter(is_other) {
        let what = format!(
            "{} is there already as '{}': to the file system there that is the same name; give it another one",
            written.display(),
            OsStr::from_bytes(other.name_as_bytes()).display()
        );
        bail!(Failure::new(Exit::Usage, what));
    }
    Ok(ours)
}

/// The same for the same file to the same place, so that a later try goes on.
fn upload_id(to: &[u8], source: &Source) -> UploadId {
    let digest = Sha256::new()
        .chain_update(&source.name)
        .chain_update([0])
        .chain_update(to)
        .chain_update(format!("\0{:?}", source.state))
        .finalize();
    digest[..16].try_into().expect("16 bytes")
}

async fn is_there(line: &Line, remote: &Remote, path: &[u8], sha256: &[u8; 32]) -> bool {
    let answer = ask(line, &remote.service, &FileRequest::of(Op::Hash, path)).await;
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
            io::Result::Ok((file, metadata, path.canonicalize()?))
        };
        let (file, metadata, canonical) = open().map_err(|error| local(path, &error))?;
        let modified = metadata.modified().ok();
        let since = modified.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        Ok(Self {
            size: metadata.len(),
            modified_ms: since.map(|since| since.as_millis() as u64),
            mode: Some((metadata.mode() & 0o777) as u16),
            name: canonical.into_os_string().into_encoded_bytes(),
            state: Some(state(&metadata)),
            file,
        })
    }

    /// A copy of what can be read only once: parts of it may have to be sent again, and the device wants
    /// to know its size first.
    async fn copy(from: &Path) -> Result<Self> {
        let path = from.to_owned();
        let copying = tokio::task::spawn_blocking(move || -> Result<(File, [u8; 32])> {
            let mut input: Box<dyn io::Read> = match path == Path::new("-") {
                true => Box::new(io::stdin()),
                false => Box::new(File::open(&path).map_err(|error| local(&path, &error))?),
            };
            let folder = std::env::temp_dir();
            let no_room = |error: io::Error| {
                let what = format!(
                    "no copy of what is sent can be made in {}: {error}; TMPDIR names another folder",
                    folder.display()
                );
                Failure::new(Exit::Usage, what)
            };
            let mut file = tempfile::tempfile().map_err(no_room)?;
            let mut hasher = Sha256::new();
            let mut block = vec![0; BLOCK];
            loop {
                match input.read(&mut block) {
                    Ok(0) => return Ok((file, hasher.finalize().into())),
                    Ok(read) => {
                        hasher.update(&block[..read]);
                        file.write_all(&block[..read]).map_err(no_room)?;
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => bail!(local(&path, &error)),
                }
            }
        });
        let (file, sha256) = copying.await??;
        Ok(Self {
            size: file.metadata()?.len(),
            modified_ms: None,
            mode: None,
            name: [b"\0", &sha256[..]].concat(),
            state: None,
            file,
        })
    }

    fn is_unchanged(&self) -> Result<bool> {
        match self.state {
            Some(before) => Ok(state(&self.file.metadata()?) == before),
            None => Ok(true),
        }
    }
}

fn state(metadata: &std::fs::Metadata) -> State {
    (
        metadata.len(),
        metadata.mtime(),
        metadata.mtime_nsec(),
        metadata.ctime(),
        metadata.ctime_nsec(),
    )
}
