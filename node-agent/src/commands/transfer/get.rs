//! `get`.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};
use parking_lot::Mutex;
use ringback_protocol::PeerId;
use ringback_protocol::service::files::{
    Entry, EntryKind, FileError, FileRequest, Op, Range, add_range, missing_ranges,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::progress::Progress;
use super::{BLOCK, Done, PATIENCE, PAUSE, Remote, STREAMS, ask, hash, is_final, local, pieces};
use super::{read_answer, refused};
use crate::commands::line::Line;
use crate::failure::{Exit, Failure};
use crate::permissions;
use crate::sparse::write_sparse;

/// Bytes of the longest name that the names of an unfinished file hold: those are at most 24 longer, and
/// file systems take 255.
const MAX_NAME_IN_PART: usize = 230;

/// What an unfinished file is of, and what is in it. Lies beside it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Journal {
    device: PeerId,
    service: String,
    path: String,
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

/// Where the bytes go.
enum Target {
    /// A file of this name, which is made whole or not at all.
    File(PathBuf),
    /// Standard output, or what is no file of its own, as a pipe is: written as the bytes come.
    Stream(PathBuf),
}

pub(super) async fn run(
    line: &Line,
    remote: &Remote,
    to: Option<&Path>,
    overwrite: bool,
) -> Result<Done> {
    let started = Instant::now();
    let stat = FileRequest::new(Op::Stat, &remote.path);
    let answer = ask(line, &remote.service, &stat).await?;
    let entry = answer
        .entry
        .context("the device tells nothing of the file")?;
    if entry.kind != EntryKind::File {
        let what = format!(
            "'{}' is a folder on {}; get takes one file",
            remote.path,
            line.device()
        );
        bail!(Failure::new(Exit::Usage, what));
    }
    let target = match Target::of(to, &entry)? {
        Target::File(path) => path,
        Target::Stream(path) => {
            return stream(line, remote, &entry, &path, started).await;
        }
    };
    if let Ok(there) = fs::metadata(&target)
        && !overwrite
    {
        return compare(line, remote, &entry, &target, &there, started).await;
    }
    let journal = Journal {
        device: line.id(),
        service: remote.service.clone(),
        path: remote.path.clone(),
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
    let their_hash = FileRequest {
        version: Some(entry.version.clone()),
        size: Some(entry.size),
        ..FileRequest::new(Op::Hash, &remote.path)
    };
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
    incoming.finish(&target, &entry)?;
    Ok(Done {
        path: target.display().to_string(),
        bytes: entry.size,
        resumed_bytes,
        sha256: hex::encode(ours),
        seconds: started.elapsed().as_secs_f64(),
    })
}

impl Target {
    fn of(to: Option<&Path>, entry: &Entry) -> Result<Self> {
        let path = match to {
            Some(path) if path == Path::new("-") => return Ok(Self::Stream("/dev/stdout".into())),
            Some(path) if path.is_dir() => path.join(file_name(entry)?),
            Some(path) => path.to_owned(),
            None => file_name(entry)?.into(),
        };
        let Ok(there) = fs::metadata(&path) else {
            return Ok(Self::File(path));
        };
        let kind = there.file_type();
        if kind.is_file() && !is_descriptor(&path) {
            Ok(Self::File(path))
        } else if kind.is_file() || kind.is_fifo() || kind.is_char_device() {
            Ok(Self::Stream(path))
        } else {
            let what = format!("{} is neither a file nor a pipe", path.display());
            bail!(Failure::new(Exit::Usage, what));
        }
    }
}

/// Is it the name of something that a process has open, as `/dev/stdout` is? It is written into, also
/// where that is a file.
fn is_descriptor(path: &Path) -> bool {
    let link = fs::read_link(path).unwrap_or_default();
    [path, link.as_path()].iter().any(|path| {
        path.starts_with("/proc") || path.starts_with("/dev") || path.starts_with("pipe:")
    })
}

/// There is a file of the target's name already: nothing of the user's is replaced unasked.
async fn compare(
    line: &Line,
    remote: &Remote,
    entry: &Entry,
    target: &Path,
    there: &fs::Metadata,
    started: Instant,
) -> Result<Done> {
    let replaces = || {
        Failure::new(
            Exit::Usage,
            format!(
                "{} is there already and is another file; --overwrite replaces it",
                target.display()
            ),
        )
    };
    if there.len() != entry.size {
        bail!(replaces());
    }
    let file = File::open(target).map_err(|error| local(target, &error))?;
    let request = FileRequest::new(Op::Hash, &remote.path);
    let (ours, answer) = tokio::try_join!(hash(file), ask(line, &remote.service, &request))?;
    if answer.sha256 != Some(ours) {
        bail!(replaces());
    }
    Ok(Done {
        path: target.display().to_string(),
        bytes: entry.size,
        resumed_bytes: entry.size,
        sha256: hex::encode(ours),
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// Writes the file into something that takes bytes in their order only.
async fn stream(
    line: &Line,
    remote: &Remote,
    entry: &Entry,
    to: &Path,
    started: Instant,
) -> Result<Done> {
    let open = File::options().write(true).open(to);
    let mut sink = open.map_err(|error| local(to, &error))?;
    let mut hasher = Sha256::new();
    let mut at = 0;
    let mut last_progress = Instant::now();
    while at < entry.size {
        let piece = Range(at, entry.size);
        let before = at;
        match append(line, remote, entry, piece, &mut sink, &mut hasher, &mut at).await {
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
    let request = FileRequest {
        version: Some(entry.version.clone()),
        size: Some(entry.size),
        ..FileRequest::new(Op::Hash, &remote.path)
    };
    let theirs = ask(line, &remote.service, &request).await?.sha256;
    let ours: [u8; 32] = hasher.finalize().into();
    if theirs != Some(ours) {
        bail!("what was written is not what the device has: the SHA-256 differs");
    }
    Ok(Done {
        path: to.display().to_string(),
        bytes: entry.size,
        resumed_bytes: 0,
        sha256: hex::encode(ours),
        seconds: started.elapsed().as_secs_f64(),
    })
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
    let request = FileRequest {
        offset: piece.0,
        length: Some(piece.1 - piece.0),
        size: Some(entry.size),
        version: Some(entry.version.clone()),
        ..FileRequest::new(Op::Read, &remote.path)
    };
    let (reader, mut writer) = line.open(&remote.service).await?;
    writer.write_all(&request.encode()).await?;
    writer.shutdown().await?;
    let (_, mut reader) = read_answer(reader).await?;
    let mut block = vec![0; BLOCK];
    while *at < piece.1 {
        let most = BLOCK.min(usize::try_from(piece.1 - *at).unwrap_or(BLOCK));
        let read = reader.read(&mut block[..most]).await?;
        if read == 0 {
            bail!("the stream ended early");
        }
        // A pipe takes as long as its reader does.
        let written = tokio::task::block_in_place(|| sink.write_all(&block[..read]));
        written.map_err(|error| {
            Failure::new(Exit::Usage, format!("the output takes no more: {error}"))
        })?;
        hasher.update(&block[..read]);
        *at += read as u64;
    }
    Ok(())
}

/// The device's name for the file, if it can be one here.
fn file_name(entry: &Entry) -> Result<&str> {
    match ringback_protocol::service::files::check_path(&entry.name).as_deref() {
        Ok([name]) => Ok(*name),
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
    let request = FileRequest {
        offset: piece.0,
        length: Some(piece.1 - piece.0),
        size: Some(entry.size),
        version: Some(entry.version.clone()),
        ..FileRequest::new(Op::Read, &remote.path)
    };
    let (reader, mut writer) = line.open(&remote.service).await?;
    writer.write_all(&request.encode()).await?;
    writer.shutdown().await?;
    let (_, mut reader) = read_answer(reader).await?;
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
        let mut options = File::options();
        // Until it is whole nobody else has a use for it.
        options.read(true).write(true).create(true).mode(0o600);
        let journal = match known.filter(same) {
            Some(known) if part.is_file() => known,
            _ => {
                options.truncate(true);
                journal
            }
        };
        let open = || {
            let file = options.open(&part)?;
            file.set_len(journal.size)?;
            std::io::Result::Ok(file)
        };
        let file = open().map_err(|error| local(&part, &error))?;
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

    fn finish(&self, target: &Path, entry: &Entry) -> Result<()> {
        let finish = || {
            let modified = UNIX_EPOCH + Duration::from_millis(entry.modified_ms);
            self.file.set_modified(modified)?;
            let mode = entry
                .mode
                .map_or_else(permissions::unknown, permissions::of_new_file);
            self.file
                .set_permissions(fs::Permissions::from_mode(mode))?;
            self.file.sync_all()?;
            fs::rename(&self.part, target)
        };
        finish().map_err(|error| local(target, &error))?;
        self.discard();
        Ok(())
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
