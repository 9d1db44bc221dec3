//! `get`.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
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
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::progress::Progress;
use super::{BLOCK, Done, PATIENCE, PAUSE, Remote, STREAMS, ask, hash, is_final, local, pieces};
use super::{read_answer, refused};
use crate::commands::line::Line;
use crate::failure::{Exit, Failure};

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

pub(super) async fn run(line: &Line, remote: &Remote, to: Option<&Path>) -> Result<Done> {
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
    let target = match to {
        Some(path) if path.is_dir() => path.join(file_name(&entry)?),
        Some(path) => path.to_owned(),
        None => file_name(&entry)?.into(),
    };
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
            writing
                .file
                .write_all_at(&block[..filled], at)
                .map(|()| block)
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
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        let part = target.with_file_name(format!(".{name}.ringback-part"));
        let journal_path = target.with_file_name(format!(".{name}.ringback-part.json"));
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
        options.read(true).write(true).create(true);
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
            self.file.sync_all()?;
            fs::rename(&self.part, target)
        };
        finish().map_err(|error| local(target, &error))?;
        self.discard();
        Ok(())
    }
}
