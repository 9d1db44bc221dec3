//! `get`.

use std::ffi::OsStr;
use std::fs::{self, File, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};
use parking_lot::Mutex;
use ringback_protocol::PeerId;
use ringback_protocol::service::files::{
    Entry, EntryKind, FileError, FileRequest, Op, Range, add_range, check_path, missing_ranges,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::local_file::{BLOCK, hash, local};
use super::operation::{PATIENCE, PAUSE, ask, is_final, of_bytes, read_answer, refused};
use super::outcome::{Done, replaces};
use super::pieces::{STREAMS, pieces};
use super::progress::Progress;
use super::remote::Remote;
use super::sink::{Sink, Target};
use crate::commands::line::{Line, Reader};
use crate::failure::{Exit, Failure, of_output};
use crate::names::{other_than, rename_new};
use crate::permissions;
use crate::sparse::write_sparse;

/// Bytes of the longest name that the names of an unfinished file hold: those are at most 24 longer, and
/// file systems take 255.
const MAX_NAME_IN_PART: usize = 230;

/// How often an unfinished file is opened that others take away meanwhile.
const LOOKS: usize = 5;

/// What an unfinished file is of, and what is in it. Lies beside it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Journal {
    device: PeerId,
    service: String,
    path: String,
    /// In hexadecimal digits, of a path that is not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    path_bytes: Option<String>,
    version: String,
    size: u64,
    received: Vec<(u64, u64)>,
}

/// A file on its way.
struct Incoming {
    file: File,
    part: PathBuf,
    journal_path: PathBuf,
    journal: Mutex<Journal>,
}

pub(super) async fn run(
    line: &Line,
    remote: &Remote,
    to: Option<&Path>,
    overwrite: bool,
) -> Result<Done> {
    let started = Instant::now();
    let stat = FileRequest::of(Op::Stat, &remote.path);
    let answer = ask(line, &remote.service, &stat).await;
    let answer = answer.map_err(|error| of_bytes(error, &remote.path, line))?;
    let entry = answer
        .entry
        .context("the device tells nothing of the file")?;
    if entry.kind_here() != EntryKind::File {
        let what = format!(
            "'{}' is a folder on {}; get takes one file",
            OsStr::from_bytes(&remote.path).display(),
            line.device()
        );
        bail!(Failure::new(Exit::Usage, what));
    }
    let target = match to {
        // A file of this name is `./-`.
        Some(path) if path == Path::new("-") => Target::Sink(Sink::stdout(path)?),
        Some(path) if path.is_dir() => Target::of(&path.join(file_name(&entry)?))?,
        Some(path) => Target::of(path)?,
        None => Target::of(Path::new(file_name(&entry)?))?,
    };
    let target = match target {
        Target::File(path) => path,
        Target::Sink(sink) => return stream(line, remote, &entry, sink, started).await,
    };
    if fs::symlink_metadata(&target).is_ok() {
        check_name(&target)?;
        if !overwrite {
            return compare(line, remote, &entry, &target, started).await;
        }
    }
    let is_text = str::from_utf8(&remote.path).is_ok();
    let journal = Journal {
        device: line.id(),
        service: remote.service.clone(),
        path: String::from_utf8_lossy(&remote.path).into_owned(),
        path_bytes: (!is_text).then(|| hex::encode(&remote.path)),
        version: entry.version.clone(),
        size: entry.size,
        received: Vec::new(),
    };
    let incoming = Arc::new(Incoming::open(&target, journal)?);
    let there = incoming.received();
    let resumed_bytes = there.iter().map(|range| range.1 - range.0).sum();
    let progress = Progress::start(&entry.name, resumed_bytes, entry.size);
    let todo = Mutex::new(pieces(&missing_ranges(&there, entry.size)));
    // The device reads the file for its hash while the bytes are under way.
    let their_hash = of_version(Op::Hash, remote, &entry);
    let workers = futures_util::future::try_join_all(
        (0..STREAMS).map(|_| worker(line, remote, &entry, &incoming, &todo, &progress)),
    );
    let result = tokio::try_join!(workers, ask(line, &remote.service, &their_hash));
    let (_, answer) = match result {
        Err(error) if refused(&error) == Some(FileError::Changed) => {
            incoming.discard();
            bail!(Failure::new(
                Exit::Refused,
                "the file changes on the device while it is read; try again when it is at rest"
            ));
        }
        result => result?,
    };
    drop(progress);
    let theirs = answer.sha256.context("the device tells no SHA-256")?;
    let ours = hash(incoming.file.try_clone()?).await?;
    if ours != theirs {
        incoming.discard();
        bail!("what has arrived is not what the device has: the SHA-256 differ; try again");
    }
    incoming.finish(&target, &entry, overwrite)?;
    Ok(Done {
        path: target.into(),
        bytes: entry.size,
        resumed_bytes,
        sha256: hex::encode(ours),
        seconds: started.elapsed().as_secs_f64(),
        in_output: false,
    })
}

/// A question about the file as it was when it was first asked for.
fn of_version(op: Op, remote: &Remote, entry: &Entry) -> FileRequest {
    FileRequest {
        version: Some(entry.version.clone()),
        size: Some(entry.size),
        ..FileRequest::of(op, &remote.path)
    }
}

/// Is what is there by this name there under exactly this name? If not it is another file of the user's,
/// or one that nobody would look for there.
fn check_name(target: &Path) -> Result<()> {
    let folder = match target.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let list = || Ok(fs::read_dir(folder)?.map(|found| Ok(found?.file_name())));
    let name = target.file_name().unwrap_or_default();
    let is_there = || fs::symlink_metadata(target).is_ok();
    match other_than(list, name, is_there) {
        None => Ok(()),
        Some(other) => {
            let what = format!("{}: {other}; give it another name", target.display());
            bail!(Failure::new(Exit::Usage, what))
        }
    }
}

/// There is a file of the target's name already: nothing of the user's is replaced unasked.
async fn compare(
    line: &Line,
    remote: &Remote,
    entry: &Entry,
    target: &Path,
    started: Instant,
) -> Result<Done> {
    // A link that leads nowhere is the user's, too.
    let there = fs::metadata(target).ok();
    if there.is_none_or(|there| there.len() != entry.size) {
        bail!(replaces(target.as_os_str()));
    }
    let file = File::open(target).map_err(|error| local(target, &error))?;
    let request = of_version(Op::Hash, remote, entry);
    let (ours, answer) = tokio::try_join!(hash(file), ask(line, &remote.service, &request))?;
    if answer.sha256 != Some(ours) {
        bail!(replaces(target.as_os_str()));
    }
    Ok(Done {
        path: target.into(),
        bytes: entry.size,
        resumed_bytes: entry.size,
        sha256: hex::encode(ours),
        seconds: started.elapsed().as_secs_f64(),
        in_output: false,
    })
}

/// Writes the file into something that takes bytes in their order only.
async fn stream(
    line: &Line,
    remote: &Remote,
    entry: &Entry,
    mut sink: Sink,
    started: Instant,
) -> Result<Done> {
    let mut hasher = Sha256::new();
    let mut at = 0;
    let mut last_progress = Instant::now();
    while at < entry.size {
        let piece = Range(at, entry.size);
        let before = at;
        let file = &mut sink.file;
        match append(line, remote, entry, piece, file, &mut hasher, &mut at).await {
            Ok(()) => {}
            Err(error) if is_final(&error) => return Err(error),
            Err(error) => {
                if at > before {
                    last_progress = Instant::now();
                } else if last_progress.elapsed() > PATIENCE {
                    return Err(error);
                }
                tracing::debug!("the rest is asked for again: {error:#}");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
    let request = of_version(Op::Hash, remote, entry);
    let theirs = ask(line, &remote.service, &request).await?.sha256;
    let ours: [u8; 32] = hasher.finalize().into();
    if theirs != Some(ours) {
        bail!("what was written is not what the device has: the SHA-256 differs");
    }
    Ok(Done {
        path: match sink.is_stdout {
            true => remote.written(&remote.path),
            false => sink.path.into(),
        },
        bytes: entry.size,
        resumed_bytes: 0,
        sha256: hex::encode(ours),
        seconds: started.elapsed().as_secs_f64(),
        in_output: sink.is_stdout,
    })
}

/// A stream of a piece of the file, whose bytes come next.
async fn read(line: &Line, remote: &Remote, entry: &Entry, piece: Range) -> Result<Reader> {
    let request = FileRequest {
        offset: piece.0,
        length: Some(piece.1 - piece.0),
        ..of_version(Op::Read, remote, entry)
    };
    let (reader, mut writer) = line.open(&remote.service).await?;
    writer.write_all(&request.encode()).await?;
    writer.shutdown().await?;
    Ok(read_answer(reader).await?.1)
}

/// One stream of it; `at` is behind what was written.
async fn append(
    line: &Line,
    remote: &Remote,
    entry: &Entry,
    piece: Range,
    sink: &mut File,
    hasher: &mut Sha256,
    at: &mut u64,
) -> Result<()> {
    let mut reader = read(line, remote, entry, piece).await?;
    let mut block = vec![0; BLOCK];
    while *at < piece.1 {
        let most = BLOCK.min(usize::try_from(piece.1 - *at).unwrap_or(BLOCK));
        let read = reader.read(&mut block[..most]).await?;
        if read == 0 {
            bail!("the stream ended early");
        }
        // A pipe takes as long as its reader does.
        let written = tokio::task::block_in_place(|| sink.write_all(&block[..read]));
        written.map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe => of_output(error).into(),
            _ => anyhow::Error::from(Failure::new(
                Exit::Usage,
                format!("the output takes no more: {error}"),
            )),
        })?;
        hasher.update(&block[..read]);
        *at += read as u64;
    }
    Ok(())
}

/// The device's name for the file, if it can be one here.
fn file_name(entry: &Entry) -> Result<&OsStr> {
    match check_path(entry.name_as_bytes()).as_deref() {
        Ok([name]) => Ok(OsStr::from_bytes(name)),
        _ => bail!(Failure::new(
            Exit::Trust,
            "the device gives a file name that leads elsewhere"
        )),
    }
}

/// Fetches piece after piece until none is left.
async fn worker(
    line: &Line,
    remote: &Remote,
    entry: &Entry,
    incoming: &Arc<Incoming>,
    todo: &Mutex<Vec<Range>>,
    progress: &Progress,
) -> Result<()> {
    let mut last_progress = Instant::now();
    loop {
        let Some(mut piece) = todo.lock().pop() else {
            return Ok(());
        };
        while piece.0 < piece.1 {
            let before = piece.0;
            let fetched = fetch(line, remote, entry, incoming, &mut piece, progress).await;
            incoming.note(Range(before, piece.0))?;
            if piece.0 > before {
                last_progress = Instant::now();
            }
            match fetched {
                Ok(()) => {}
                Err(error) if is_final(&error) || last_progress.elapsed() > PATIENCE => {
                    return Err(error);
                }
                Err(error) => {
                    tracing::debug!("a part is asked for again: {error:#}");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
}

/// One stream; `piece` starts behind what has arrived.
async fn fetch(
    line: &Line,
    remote: &Remote,
    entry: &Entry,
    incoming: &Arc<Incoming>,
    piece: &mut Range,
    progress: &Progress,
) -> Result<()> {
    let mut reader = read(line, remote, entry, *piece).await?;
    let mut block = vec![0; BLOCK];
    while piece.0 < piece.1 {
        let most = BLOCK.min(usize::try_from(piece.1 - piece.0).unwrap_or(BLOCK));
        // Whole blocks: a thread for every datagram's worth would be slow.
        let mut filled = 0;
        let ended = loop {
            match reader.read(&mut block[filled..most]).await {
                Ok(0) if filled < most => break Some(None),
                Err(error) => break Some(Some(error)),
                Ok(read) => filled += read,
            }
            if filled == most {
                break None;
            }
        };
        let (at, writing) = (piece.0, incoming.clone());
        let written = tokio::task::spawn_blocking(move || {
            write_sparse(&writing.file, &block[..filled], at).map(|()| block)
        });
        block = written
            .await?
            .map_err(|error| local(&incoming.part, &error))?;
        piece.0 += filled as u64;
        progress.add(filled as u64);
        match ended {
            None => {}
            Some(None) => bail!("the stream ended early"),
            Some(Some(error)) => return Err(error.into()),
        }
    }
    // Without its end a stream may have been of two versions.
    match reader.read(&mut [0]).await? {
        0 => Ok(()),
        _ => bail!("the device sends more than was asked for"),
    }
}

impl Incoming {
    fn open(target: &Path, journal: Journal) -> Result<Self> {
        let stem = part_stem(target);
        let part = target.with_file_name(&stem);
        let journal_path = target.with_file_name(format!("{stem}.json"));
        let known = fs::read(&journal_path)
            .ok()
            .and_then(|bytes| serde_json::from_slice::<Journal>(&bytes).ok());
        let same = |known: &Journal| {
            let received = known.received.clone();
            *known
                == Journal {
                    received,
                    ..journal.clone()
                }
        };
        let file = open_part(&part)?;
        let journal = match known.filter(same) {
            Some(known) if file.metadata().is_ok_and(|file| file.len() == known.size) => known,
            _ => {
                file.set_len(0).map_err(|error| local(&part, &error))?;
                journal
            }
        };
        let sized = file.set_len(journal.size);
        sized.map_err(|error| local(&part, &error))?;
        Ok(Self {
            file,
            part,
            journal_path,
            journal: Mutex::new(journal),
        })
    }

    fn received(&self) -> Vec<Range> {
        let journal = self.journal.lock();
        let ranges = journal.received.iter();
        ranges.map(|(start, end)| Range(*start, *end)).collect()
    }

    /// Notes what has arrived. Not synced: what a power cut takes, the SHA-256 finds.
    fn note(&self, range: Range) -> Result<()> {
        if range.0 == range.1 {
            return Ok(());
        }
        let mut received = self.received();
        let mut journal = self.journal.lock();
        let known = journal.received.iter();
        received.clear();
        received.extend(known.map(|(start, end)| Range(*start, *end)));
        add_range(&mut received, range);
        journal.received = received.iter().map(|range| (range.0, range.1)).collect();
        let write = || {
            let temporary = self.journal_path.with_extension("json-new");
            let mut file = File::create(&temporary)?;
            file.write_all(&serde_json::to_vec(&*journal)?)?;
            fs::rename(&temporary, &self.journal_path)
        };
        Ok(write().map_err(|error| local(&self.journal_path, &error))?)
    }

    fn discard(&self) {
        for path in [&self.part, &self.journal_path] {
            // Gone already is as good.
            let _ = fs::remove_file(path);
        }
    }

    fn finish(&self, target: &Path, entry: &Entry, overwrite: bool) -> Result<()> {
        let is_new = fs::symlink_metadata(target).is_err();
        let finish = || {
            let modified = UNIX_EPOCH + Duration::from_millis(entry.modified_ms);
            self.file.set_modified(modified)?;
            let mode = entry
                .mode
                .map_or_else(permissions::unknown, permissions::of_new_file);
            self.file
                .set_permissions(fs::Permissions::from_mode(mode))?;
            self.file.sync_all()?;
            let here = rustix::fs::CWD;
            match overwrite {
                true => fs::rename(&self.part, target),
                false => rename_new(here, self.part.as_os_str(), here, target.as_os_str()),
            }
        };
        match finish() {
            // It has come meanwhile.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.discard();
                bail!(replaces(target.as_os_str()));
            }
            finished => finished.map_err(|error| local(target, &error))?,
        }
        self.discard();
        if is_new {
            check_name(target).inspect_err(|_| {
                // It has just come, and nobody would look for it there.
                let _ = fs::remove_file(target);
            })?;
        }
        Ok(())
    }
}

/// Opens an unfinished file, which only one command writes to at a time.
fn open_part(part: &Path) -> Result<File> {
    // Until it is whole nobody else has a use for it.
    let mut options = File::options();
    options.read(true).write(true).create(true).mode(0o600);
    let open = || {
        for _ in 0..LOOKS {
            let file = options.open(part)?;
            match file.try_lock() {
                Err(TryLockError::WouldBlock) => break,
                // Not every file system has locks.
                Err(TryLockError::Error(_)) => return Ok(Some(file)),
                Ok(()) => {}
            }
            // Whoever had the lock may have put the file in its place.
            let (opened, there) = (file.metadata()?, fs::metadata(part));
            if there.is_ok_and(|there| (there.dev(), there.ino()) == (opened.dev(), opened.ino())) {
                return Ok(Some(file));
            }
        }
        io::Result::Ok(None)
    };
    match open().map_err(|error| local(part, &error))? {
        Some(file) => Ok(file),
        None => {
            let what = format!(
                "another command is fetching a file to this place; it writes to {}",
                part.display()
            );
            bail!(Failure::new(Exit::Usage, what))
        }
    }
}

/// What the names of an unfinished file start with: the target's name, or, where that leaves no room, a
/// hash of it.
fn part_stem(target: &Path) -> String {
    let name = target.file_name().unwrap_or_default();
    match name.to_str() {
        Some(text) if text.len() <= MAX_NAME_IN_PART => format!(".{text}.ringback-part"),
        _ => {
            let digest = Sha256::digest(name.as_encoded_bytes());
            format!(".{}.ringback-part", hex::encode(&digest[..16]))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_unfinished_has_a_name_that_file_systems_take() {
        let longest = "n".repeat(255);
        let stem = part_stem(Path::new(&longest));
        assert!(format!("{stem}.json-new").len() <= 255);
        let other = part_stem(Path::new(&"m".repeat(255)));
        assert_ne!(stem, other);
        let short = part_stem(Path::new("folder/may.pdf"));
        assert_eq!(short, ".may.pdf.ringback-part");
        let most = part_stem(Path::new(&"n".repeat(MAX_NAME_IN_PART)));
        assert!(format!("{most}.json-new").len() <= 255);
    }
}
