//! The exposed folder. Every path goes through a `cap_std` directory, which resolves it beneath that
//! directory at the moment of use: neither `..`, nor links, nor somebody who swaps one for the other
//! meanwhile leads out. Files are changed relative to their parent's handle, by one name.

use std::io;
use std::time::UNIX_EPOCH;

use cap_std::fs::{Dir, File, Metadata, MetadataExt as _, OpenOptions, OpenOptionsExt as _};
use ringback_protocol::service::files::{Entry, EntryKind, FileAnswer, FileError, check_path};
use rustix::fs::RenameFlags;

use super::space::remove_if_old;
use crate::service::Folder;

/// What names of unfinished uploads start with. Callers neither see nor reach them.
pub(super) const UPLOAD_PREFIX: &str = ".ringback-upload-";
/// Bytes of entries that go into one frame, about.
const BATCH: usize = 12 * 1024;

/// Why an operation failed, for the caller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {detail}")]
pub(super) struct Fault {
    pub(super) code: FileError,
    pub(super) detail: String,
}

pub(super) type Outcome<T> = Result<T, Fault>;

impl Fault {
    pub(super) fn new(code: FileError, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: detail.into(),
        }
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        use io::ErrorKind as Kind;
        let code = match error.kind() {
            Kind::NotFound => FileError::NotFound,
            Kind::PermissionDenied | Kind::ReadOnlyFilesystem => FileError::NotAllowed,
            Kind::AlreadyExists => FileError::Exists,
            Kind::DirectoryNotEmpty => FileError::NotEmpty,
            Kind::IsADirectory => FileError::IsFolder,
            Kind::NotADirectory => FileError::NotFolder,
            Kind::StorageFull | Kind::QuotaExceeded | Kind::FileTooLarge => FileError::NoSpace,
            Kind::InvalidFilename => FileError::BadPath,
            _ if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
                FileError::NotAllowed
            }
            _ => FileError::Io,
        };
        Self::new(code, error.to_string())
    }
}

impl From<rustix::io::Errno> for Fault {
    fn from(errno: rustix::io::Errno) -> Self {
        io::Error::from(errno).into()
    }
}

impl From<Fault> for FileAnswer {
    fn from(fault: Fault) -> Self {
        Self::failed(fault.code, fault.detail)
    }
}

/// The folder, opened for one operation: it may be another disk the next time.
#[derive(Debug)]
pub(super) struct Root {
    pub(super) dir: Dir,
    pub(super) folder: Folder,
}

/// The folder that an entry is in, and its name there.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) dir: Dir,
    pub(super) name: String,
}

impl Root {
    pub(super) fn open(folder: &Folder) -> Outcome<Self> {
        let dir = Dir::open_ambient_dir(&folder.path, cap_std::ambient_authority());
        Ok(Self {
            dir: dir.map_err(|error| {
                Fault::new(FileError::Io, format!("the exposed folder: {error}"))
            })?,
            folder: folder.clone(),
        })
    }

    /// Where to change something.
    pub(super) fn place(&self, path: &str) -> Outcome<Place> {
        if !self.folder.writable {
            return Err(Fault::new(FileError::ReadOnly, ""));
        }
        let mut names = checked(path)?;
        let Some(name) = names.pop() else {
            return Err(Fault::new(FileError::BadPath, "the folder itself stays"));
        };
        let dir = if names.is_empty() {
            self.dir.try_clone()?
        } else {
            self.dir.open_dir(names.join("/"))?
        };
        Ok(Place {
            dir,
            name: name.to_owned(),
        })
    }

    pub(super) fn stat(&self, path: &str) -> Outcome<Entry> {
        let names = checked(path)?;
        let metadata = match names.is_empty() {
            true => self.dir.dir_metadata()?,
            false => self.dir.metadata(path)?,
        };
        Ok(entry(names.last().copied().unwrap_or_default(), &metadata))
    }

    /// A file to read, if it is one, and of this version, or grown since if it `may_grow`.
    pub(super) fn open_file(
        &self,
        path: &str,
        version: Option<&str>,
        may_grow: bool,
    ) -> Outcome<(std::fs::File, Entry)> {
        let names = checked(path)?;
        let Some(name) = names.last() else {
            return Err(Fault::new(FileError::IsFolder, ""));
        };
        // Opening a device or a pipe does things, or waits.
        let kind = |metadata: &Metadata| match entry_kind(metadata) {
            EntryKind::File => Ok(()),
            EntryKind::Folder => Err(Fault::new(FileError::IsFolder, "")),
            _ => Err(Fault::new(FileError::NotAllowed, "not a file")),
        };
        kind(&self.dir.metadata(path)?)?;
        let mut options = OpenOptions::new();
        options
            .read(true)
            .custom_flags(rustix::fs::OFlags::NONBLOCK.bits() as i32);
        let file = self.dir.open_with(path, &options)?;
        let metadata = file.metadata()?;
        kind(&metadata)?;
        let entry = entry(name, &metadata);
        if version.is_some_and(|version| !is_still(version, &metadata, may_grow)) {
            return Err(Fault::new(FileError::Changed, ""));
        }
        Ok((file.into_std(), entry))
    }

    pub(super) fn mkdir(&self, path: &str) -> Outcome<Entry> {
        let Place { dir, name } = self.place(path)?;
        dir.create_dir(&name)?;
        Ok(entry(&name, &dir.symlink_metadata(&name)?))
    }

    pub(super) fn remove(&self, path: &str) -> Outcome<()> {
        let Place { dir, name } = self.place(path)?;
        if dir.symlink_metadata(&name)?.is_dir() {
            dir.remove_dir(&name)?;
        } else {
            dir.remove_file(&name)?;
        }
        Ok(())
    }

    pub(super) fn rename(&self, from: &str, to: &str) -> Outcome<Entry> {
        let (from, to) = (self.place(from)?, self.place(to)?);
        rename_new(&from.dir, &from.name, &to.dir, &to.name)?;
        Ok(entry(&to.name, &to.dir.symlink_metadata(&to.name)?))
    }

    pub(super) fn list(&self, path: &str) -> Outcome<Listing> {
        let names = checked(path)?;
        let dir = match names.is_empty() {
            true => self.dir.try_clone()?,
            false => self.dir.open_dir(path)?,
        };
        let entries = dir.entries()?;
        Ok(Listing {
            entries,
            dir,
            writable: self.folder.writable,
        })
    }
}

/// A list that is being read.
pub(super) struct Listing {
    entries: cap_std::fs::ReadDir,
    dir: Dir,
    writable: bool,
}

impl Listing {
    /// Gives the entries to `take`, some at a time, as long as that wants more.
    pub(super) fn run(self, mut take: impl FnMut(Vec<Entry>) -> bool) -> io::Result<()> {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        for found in self.entries {
            let found = found?;
            let name = found.file_name();
            if name.to_string_lossy().starts_with(UPLOAD_PREFIX) {
                if self.writable
                    && let Ok(metadata) = found.metadata()
                {
                    remove_if_old(&self.dir, &found, &metadata);
                }
                continue;
            }
            // Removed since: not there.
            let Ok(metadata) = found.metadata() else {
                continue;
            };
            let mut entry = entry(&name.to_string_lossy(), &metadata);
            if name.to_str().is_none() {
                entry.kind = EntryKind::Other;
            }
            bytes += entry.name.len() + entry.version.len() + 40;
            batch.push(entry);
            if bytes > BATCH {
                bytes = 0;
                if !take(std::mem::take(&mut batch)) {
                    return Ok(());
                }
            }
        }
        if !batch.is_empty() {
            take(batch);
        }
        Ok(())
    }
}

/// The names of a path, none of which is one of ours.
fn checked(path: &str) -> Outcome<Vec<&str>> {
    let names = check_path(path).map_err(|bad| Fault::new(FileError::BadPath, bad.to_string()))?;
    if names.iter().any(|name| name.starts_with(UPLOAD_PREFIX)) {
        return Err(Fault::new(FileError::NotFound, ""));
    }
    Ok(names)
}

/// Gives a file another name that nothing has yet.
pub(super) fn rename_new(from_dir: &Dir, from: &str, to_dir: &Dir, to: &str) -> Outcome<()> {
    match rustix::fs::renameat_with(from_dir, from, to_dir, to, RenameFlags::NOREPLACE) {
        // Some file systems can not promise it.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS | rustix::io::Errno::NOTSUP) => {
            if to_dir.symlink_metadata(to).is_ok() {
                return Err(Fault::new(FileError::Exists, ""));
            }
            Ok(rustix::fs::renameat(from_dir, from, to_dir, to)?)
        }
        renamed => Ok(renamed?),
    }
}

pub(super) fn entry(name: &str, metadata: &Metadata) -> Entry {
    let kind = entry_kind(metadata);
    Entry {
        name: name.to_owned(),
        kind,
        size: if kind == EntryKind::File {
            metadata.size()
        } else {
            0
        },
        modified_ms: metadata
            .modified()
            .ok()
            .and_then(|time| time.into_std().duration_since(UNIX_EPOCH).ok())
            .map_or(0, |since| since.as_millis() as u64),
        version: version(metadata),
        mode: (kind == EntryKind::File).then(|| (metadata.mode() & 0o777) as u16),
    }
}

/// The inode changes when a file is replaced, the times and the size when it is written.
fn version(metadata: &Metadata) -> String {
    format!(
        "{:x}-{:x}-{:x}.{:x}-{:x}.{:x}",
        metadata.ino(),
        metadata.size(),
        metadata.mtime(),
        metadata.mtime_nsec(),
        metadata.ctime(),
        metadata.ctime_nsec()
    )
}

fn entry_kind(metadata: &Metadata) -> EntryKind {
    let kind = metadata.file_type();
    if kind.is_file() {
        EntryKind::File
    } else if kind.is_dir() {
        EntryKind::Folder
    } else if kind.is_symlink() {
        EntryKind::Link
    } else {
        EntryKind::Other
    }
}

/// Is a file of this version still what it was? One that may grow is, while it is the same file and no
/// shorter: what a program appends to is read as far as it was. Whether the beginning is the same, the
/// SHA-256 tells.
fn is_still(before: &str, now: &Metadata, may_grow: bool) -> bool {
    if before == version(now) {
        return true;
    }
    let mut parts = before.split('-').map(|part| u64::from_str_radix(part, 16));
    let (Some(Ok(inode)), Some(Ok(size))) = (parts.next(), parts.next()) else {
        return false;
    };
    may_grow && inode == now.ino() && size <= now.size()
}

/// Is an open file still what it was?
pub(super) fn check_unchanged(file: &std::fs::File, before: &Entry, may_grow: bool) -> Outcome<()> {
    let file = File::from_std(file.try_clone()?);
    if is_still(&before.version, &file.metadata()?, may_grow) {
        Ok(())
    } else {
        Err(Fault::new(FileError::Changed, ""))
    }
}
