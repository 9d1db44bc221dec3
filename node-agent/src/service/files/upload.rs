//! Uploads: a part file beside the target, a journal of the ranges that are safely in it, and the
//! moment when it takes the target's place.
//!
//! A range is noted only when its bytes have been synced. So whatever the agent or its host dies of,
//! what the journal says is there; and what it does not say is sent again.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::sync::{Arc, Weak};
use std::time::{Duration, UNIX_EPOCH};

use cap_std::fs::{Dir, OpenOptions};
use parking_lot::{Mutex, RwLock};
use ringback_protocol::PeerId;
use ringback_protocol::service::files::{
    Entry, FileError, FileRequest, MAX_OPERATIONS, MAX_OPERATIONS_EACH, MAX_RANGES,
    MAX_WAITING_EACH, Range, UploadId, add_range, missing_ranges,
};
use sha2::{Digest as _, Sha256};

use super::fault::{Fault, Outcome};
use super::folder::{Place, Root, entry, kept_as_named};
use super::hash::hash;
use super::space::{self, Owed, Usage};
use super::upload_files::{HEAD, UPLOAD_PREFIX};
use crate::names::rename_new;
use crate::permissions;
use crate::service::places::{Limits, Places};
use crate::sparse::write_sparse;

/// Operations at a time; each has a thread. More wait for their turn.
const OPERATIONS: Limits = Limits {
    all: MAX_OPERATIONS,
    each: MAX_OPERATIONS_EACH,
    waiting: MAX_WAITING_EACH,
    turn: Duration::from_secs(1),
};
/// A transfer that does not move for this long has no place any more.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two looks at how full the disk is, in bytes written.
const LOOK_EACH: u64 = 4 * 1024 * 1024;
/// Bytes of one note of the journal: start and end.
const NOTE: usize = 16;

/// The uploads of this agent.
#[derive(Debug)]
pub(crate) struct Uploads {
    pub(super) places: Places,
    /// A transfer that does not move for this long gives its place up.
    pub(super) patience: Duration,
    usage: Usage,
    /// Those that streams are writing, by their part file's place.
    active: Mutex<HashMap<Key, Weak<Active>>>,
    /// Only one stream at a time makes the files of an upload.
    making: Mutex<()>,
}

/// Device and inode of the folder, and the files' stem.
type Key = (u64, u64, String);

/// What the streams of one upload share.
#[derive(Debug, Default)]
struct Active {
    /// True: it has been committed or abandoned. Held for reading while bytes are written.
    over: RwLock<bool>,
}

/// An upload that a stream writes to.
#[derive(Debug)]
pub(super) struct Part {
    file: File,
    journal: File,
    size: u64,
    active: Arc<Active>,
    /// Written and not yet noted.
    unsynced: Range,
    /// Written since the disk was looked at.
    unseen: u64,
    /// Whom the bytes are counted to.
    owed: Owed,
    files: Files,
}

/// Where the files of an upload are.
#[derive(Debug)]
struct Files {
    dir: Dir,
    stem: String,
}

impl Default for Uploads {
    fn default() -> Self {
        Self {
            places: Places::new(OPERATIONS),
            patience: PATIENCE,
            usage: Usage::default(),
            active: Mutex::default(),
            making: Mutex::default(),
        }
    }
}

impl Uploads {
    /// Opens the part file for writing from `offset` on; makes it, unless it was `begun` by the same
    /// stream. The room that it still needs is looked for, and not taken.
    pub(super) fn open(
        &self,
        root: &Root,
        caller: PeerId,
        request: &FileRequest,
        begun: bool,
    ) -> Outcome<Part> {
        let (place, id) = named(root, request)?;
        let size = request
            .size
            .ok_or_else(|| Fault::new(FileError::BadRequest, "of what size?"))?;
        if request.offset > size {
            return Err(Fault::new(FileError::BadRequest, "behind the end"));
        }
        let files = Files::of(place, &id);
        let owed = self.usage.of(root, caller)?;
        let _making = self.making.lock();
        let (file, journal) = match files.open(size)? {
            Some((file, mut journal)) => {
                let (_, received) = read_journal(&mut journal)?;
                let missing = missing_ranges(&received, size);
                owed.check(&file, missing.iter().map(|range| range.1 - range.0).sum())?;
                (file, journal)
            }
            None if begun => return Err(Fault::new(FileError::Changed, "the upload is over")),
            None => files.make(size, &owed)?,
        };
        let active = self.active(&files)?;
        Ok(Part {
            file,
            journal,
            size,
            active,
            unsynced: Range(request.offset, request.offset),
            unseen: 0,
            owed,
            files,
        })
    }

    /// A stream writes to it no more. If none does and nothing has come, it is not kept.
    pub(super) fn leave(&self, part: &Part) {
        let _making = self.making.lock();
        let is_alone = Arc::strong_count(&part.active) == 1 && !*part.active.over.read();
        let notes = part.journal.metadata().map(|journal| journal.len());
        if is_alone && part.size > 0 && notes.is_ok_and(|length| length <= HEAD) {
            part.files.remove();
        }
    }

    /// The ranges that are there.
    pub(super) fn received(&self, root: &Root, request: &FileRequest) -> Outcome<Vec<Range>> {
        let (place, id) = named(root, request)?;
        let files = Files::of(place, &id);
        let mut received = match files.journal()? {
            Some(mut journal) => read_journal(&mut journal)?.1,
            None => Vec::new(),
        };
        received.truncate(MAX_RANGES);
        Ok(received)
    }

    /// Puts the upload in the target's place.
    pub(super) fn commit(&self, root: &Root, request: &FileRequest) -> Outcome<Entry> {
        let (place, id) = named(root, request)?;
        let (dir, name) = (place.dir.try_clone()?, place.name.clone());
        let files = Files::of(place, &id);
        let active = self.active(&files)?;
        // Waits for the streams that are writing just now; later ones are told that it is over.
        let mut over = active.over.write();
        let Some((file, mut journal)) = files.open_existing()? else {
            return Err(Fault::new(FileError::NotFound, "no such upload"));
        };
        let (size, received) = read_journal(&mut journal)?;
        if request.size.is_some_and(|asked| asked != size) {
            return Err(Fault::new(
                FileError::BadRequest,
                format!("it has {size} bytes"),
            ));
        }
        if let Some(missing) = missing_ranges(&received, size).first() {
            let missing = format!("bytes {} to {} are missing", missing.0, missing.1);
            return Err(Fault::new(FileError::Incomplete, missing));
        }
        if let Some(sha256) = request.sha256
            && hash(&file, None)? != sha256
        {
            *over = true;
            files.remove();
            return Err(Fault::new(
                FileError::Mismatch,
                "the SHA-256 is another one",
            ));
        }
        if let Some(mode) = request.mode {
            let mode = permissions::of_new_file(mode);
            file.set_permissions(std::fs::Permissions::from_mode(mode))?;
        }
        let target = dir.symlink_metadata(&name).ok();
        if target.is_some() {
            kept_as_named(&dir, &name, FileError::Exists)?;
        }
        match &target {
            Some(target) if target.is_dir() => return Err(Fault::new(FileError::IsFolder, "")),
            Some(target) if target.is_file() => {
                use cap_std::fs::PermissionsExt as _;
                let mut mode = target.permissions().mode() & 0o777;
                if let Some(asked) = request.mode {
                    // Neither more than the file that goes allowed, nor than the one that comes.
                    mode &= u32::from(asked);
                }
                file.set_permissions(std::fs::Permissions::from_mode(mode))?;
            }
            _ => {}
        }
        if let Some(modified) = request.modified_ms {
            let time = UNIX_EPOCH.checked_add(Duration::from_millis(modified));
            let time = time.ok_or_else(|| Fault::new(FileError::BadRequest, "no such time"))?;
            file.set_modified(time)?;
        }
        file.sync_all()?;
        let part = files.part_name();
        let renamed = match request.keep {
            true => rename_new(&dir, part.as_ref(), &dir, &name),
            false => rustix::fs::renameat(&dir, &part, &dir, &name).map_err(io::Error::from),
        };
        renamed.map_err(of_the_name)?;
        *over = true;
        // The file is in its place: what is left of its upload is of no more use to anybody.
        let _ = dir.remove_file(files.journal_name());
        if target.is_none() {
            kept_as_named(&dir, &name, FileError::BadPath).inspect_err(|_| {
                // It has just come, and nobody would look for it there.
                let _ = dir.remove_file(&name);
            })?;
        }
        sync_dir(&dir)?;
        Ok(entry(&name, &dir.symlink_metadata(&name)?))
    }

    pub(super) fn abandon(&self, root: &Root, request: &FileRequest) -> Outcome<()> {
        let (place, id) = named(root, request)?;
        let files = Files::of(place, &id);
        let active = self.active(&files)?;
        *active.over.write() = true;
        files.remove();
        Ok(())
    }

    fn active(&self, files: &Files) -> Outcome<Arc<Active>> {
        use cap_std::fs::MetadataExt as _;
        let dir = files.dir.dir_metadata()?;
        let key = (dir.dev(), dir.ino(), files.stem.clone());
        let mut all = self.active.lock();
        all.retain(|_, active| active.strong_count() > 0);
        if let Some(active) = all.get(&key).and_then(Weak::upgrade) {
            // One that is being committed may fail to be, and is not waited for here.
            let is_over = active.over.try_read().is_some_and(|over| *over);
            if !is_over {
                return Ok(active);
            }
        }
        let active = Arc::<Active>::default();
        all.insert(key, Arc::downgrade(&active));
        Ok(active)
    }
}

/// A file system that does not take a name says so in one of several ways; the part file is there.
fn of_the_name(error: io::Error) -> Fault {
    use rustix::io::Errno;
    match Errno::from_io_error(&error) {
        Some(Errno::NOENT | Errno::INVAL | Errno::ILSEQ) => Fault::new(
            FileError::BadPath,
            "the file system there takes no such name",
        ),
        _ => error.into(),
    }
}

fn named(root: &Root, request: &FileRequest) -> Outcome<(Place, UploadId)> {
    let upload = request
        .upload
        .ok_or_else(|| Fault::new(FileError::BadRequest, "which upload?"))?;
    Ok((root.place(request.path_as_bytes())?, upload))
}

impl Part {
    /// Bytes that may still follow.
    pub(super) fn room(&self) -> u64 {
        self.size - self.unsynced.1
    }

    pub(super) fn unsynced(&self) -> u64 {
        self.unsynced.1 - self.unsynced.0
    }

    /// Writes the next bytes. A full disk ends the upload.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Outcome<()> {
        if bytes.len() as u64 > self.room() {
            return Err(Fault::new(
                FileError::BadRequest,
                "more bytes than the file has",
            ));
        }
        self.unseen += bytes.len() as u64;
        if self.unseen >= LOOK_EACH {
            self.unseen = 0;
            self.or_give_up(space::check_free(&self.file, 0))?;
        }
        self.or_give_up(self.owed.add(bytes.len() as u64))?;
        let written = {
            // Not while the file is taking its place, and not after.
            let over = self.active.over.read();
            if *over {
                return Err(Fault::new(FileError::Changed, "the upload is over"));
            }
            write_sparse(&self.file, bytes, self.unsynced.1)
        };
        self.or_give_up(written.map_err(Fault::from))?;
        self.unsynced.1 += bytes.len() as u64;
        Ok(())
    }

    /// Makes sure of what was written, and notes it.
    pub(super) fn sync(&mut self) -> Outcome<()> {
        if self.unsynced() == 0 {
            return Ok(());
        }
        let synced = self.file.sync_data().and_then(|()| {
            let mut note = [0; NOTE];
            note[..8].copy_from_slice(&self.unsynced.0.to_be_bytes());
            note[8..].copy_from_slice(&self.unsynced.1.to_be_bytes());
            // In one call and at the end, whoever else notes something.
            (&self.journal).write_all(&note)
        });
        self.unsynced.0 = self.unsynced.1;
        self.or_give_up(synced.map_err(Fault::from))
    }

    fn or_give_up(&self, done: Outcome<()>) -> Outcome<()> {
        if let Err(fault) = &done
            && matches!(fault.code, FileError::NoSpace | FileError::OverQuota)
        {
            *self.active.over.write() = true;
            self.files.remove();
        }
        done
    }
}

impl Files {
    /// The names come from the target's name and the caller's ID, so that equal IDs of different
    /// targets do not meet.
    fn of(place: Place, id: &UploadId) -> Self {
        let digest = Sha256::new()
            .chain_update(id)
            .chain_update(place.name.as_encoded_bytes())
            .finalize();
        Self {
            dir: place.dir,
            stem: format!("{UPLOAD_PREFIX}{}", hex::encode(&digest[..16])),
        }
    }

    fn part_name(&self) -> String {
        format!("{}.part", self.stem)
    }

    fn journal_name(&self) -> String {
        format!("{}.ranges", self.stem)
    }

    fn journal(&self) -> Outcome<Option<File>> {
        let mut options = OpenOptions::new();
        options.read(true).append(true);
        self.existing(&self.journal_name(), &options)
    }

    fn existing(&self, name: &str, options: &OpenOptions) -> Outcome<Option<File>> {
        match self.dir.open_with(name, options) {
            Ok(file) => Ok(Some(file.into_std())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn open_existing(&self) -> Outcome<Option<(File, File)>> {
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        let part = self.existing(&self.part_name(), &options)?;
        Ok(part.zip(self.journal()?))
    }

    /// What is there of an upload of this size.
    fn open(&self, size: u64) -> Outcome<Option<(File, File)>> {
        let Some((part, mut journal)) = self.open_existing()? else {
            return Ok(None);
        };
        match read_journal(&mut journal) {
            Ok((noted, _)) if noted == size => Ok(Some((part, journal))),
            // Another file by now, or a journal that was not finished.
            _ => Ok(None),
        }
    }

    fn make(&self, size: u64, owed: &Owed) -> Outcome<(File, File)> {
        self.remove();
        let make = || -> Outcome<(File, File)> {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create_new(true);
            let part = self.dir.open_with(self.part_name(), &options)?.into_std();
            owed.check(&part, size)?;
            owed.sign(&part)?;
            part.set_len(size)?;
            let mut options = OpenOptions::new();
            options.read(true).append(true).create_new(true);
            let journal = self.dir.open_with(self.journal_name(), &options)?;
            let mut journal = journal.into_std();
            journal.write_all(&size.to_be_bytes())?;
            Ok((part, journal))
        };
        make().inspect_err(|_| self.remove())
    }

    fn remove(&self) {
        for name in [self.part_name(), self.journal_name()] {
            // What is not there need not be removed; what can not be is removed when it is old.
            let _ = self.dir.remove_file(name);
        }
    }
}

/// The size of the file and the ranges of it that are there.
fn read_journal(journal: &mut File) -> Outcome<(u64, Vec<Range>)> {
    let mut bytes = Vec::new();
    io::Seek::rewind(journal)?;
    journal.read_to_end(&mut bytes)?;
    let number = |bytes: &[u8]| u64::from_be_bytes(bytes.try_into().expect("eight bytes"));
    let Some((size, notes)) = bytes.split_at_checked(8) else {
        return Err(Fault::new(FileError::Io, "the upload's journal is damaged"));
    };
    let size = number(size);
    let mut received = Vec::new();
    // The last note may not have been finished.
    for note in notes.chunks_exact(NOTE) {
        let range = Range(number(&note[..8]), number(&note[8..]).min(size));
        add_range(&mut received, range);
    }
    Ok((size, received))
}

fn sync_dir(dir: &Dir) -> Outcome<()> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::openat(dir, ".", flags, Mode::empty())?;
    Ok(rustix::fs::fsync(dir)?)
}
