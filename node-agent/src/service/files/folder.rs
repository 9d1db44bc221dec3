//! The exposed folder. Every path goes through a `cap_std` directory, which resolves it beneath that
//! directory at the moment of use: neither `..`, nor links, nor somebody who swaps one for the other
//! meanwhile leads out. Files are changed relative to their parent's handle, by one name.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::UNIX_EPOCH;

use cap_std::fs::{Dir, File, Metadata, MetadataExt as _, OpenOptions, OpenOptionsExt as _};
use ringback_protocol::service::files::{Entry, EntryKind, FileError, check_path};

use super::fault::{Fault, Outcome};
use super::upload_files::{is_of_an_upload, remove_if_old};
use crate::names;
use crate::service::Folder;

/// Bytes of entries that go into one frame, about.
const BATCH: usize = 12 * 1024;

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
    pub(super) name: OsString,
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
    pub(super) fn place(&self, path: &[u8]) -> Outcome<Place> {
        if !self.folder.writable {
            return Err(Fault::new(FileError::ReadOnly, ""));
        }
        let path = checked(path)?;
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(Fault::new(FileError::BadPath, "the folder itself stays"));
        };
        Ok(Place {
            dir: self.folder_at(parent)?,
            name: name.to_owned(),
        })
    }

    pub(super) fn stat(&self, path: &[u8]) -> Outcome<Entry> {
        let path = checked(path)?;
        let metadata = match path.file_name() {
            None => self.dir.dir_metadata()?,
            Some(_) => self.dir.metadata(path)?,
        };
        Ok(entry(path.file_name().unwrap_or_default(), &metadata))
    }

    fn folder_at(&self, path: &Path) -> io::Result<Dir> {
        match path.as_os_str().is_empty() {
            true => self.dir.try_clone(),
            false => self.dir.open_dir(path),
        }
    }

    /// A file to read, if it is one, and of this version, or grown since if it `may_grow`.
    pub(super) fn open_file(
        &self,
        path: &[u8],
        version: Option<&str>,
        may_grow: bool,
    ) -> Outcome<(std::fs::File, Entry)> {
        let path = checked(path)?;
        let Some(name) = path.file_name() else {
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

    /// The entry of a file with the name that its folder has it under, which may be another one than it
    /// was asked for by.
    pub(super) fn with_own_name(&self, path: &[u8], entry: Entry) -> Outcome<Entry> {
        let path = checked(path)?;
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Ok(entry);
        };
        let dir = self.folder_at(parent)?;
        let list = || Ok(dir.entries()?.map(|found| Ok(found?.file_name())));
        let other = names::other_than(list, name, || dir.symlink_metadata(name).is_ok());
        Ok(match other.and_then(names::OtherName::name) {
            Some(other) => named(&other, entry),
            None => entry,
        })
    }

    pub(super) fn mkdir(&self, path: &[u8]) -> Outcome<Entry> {
        let Place { dir, name } = self.place(path)?;
        dir.create_dir(&name)?;
        kept_as_named(&dir, &name, FileError::BadPath).inspect_err(|_| {
            // What stays is empty.
            let _ = dir.remove_dir(&name);
        })?;
        Ok(entry(&name, &dir.symlink_metadata(&name)?))
    }

    pub(super) fn remove(&self, path: &[u8]) -> Outcome<()> {
        let Place { dir, name } = self.place(path)?;
        if dir.symlink_metadata(&name)?.is_dir() {
            dir.remove_dir(&name)?;
        } else {
            dir.remove_file(&name)?;
        }
        Ok(())
    }

    pub(super) fn rename(&self, from: &[u8], to: &[u8]) -> Outcome<Entry> {
        let (from, to) = (self.place(from)?, self.place(to)?);
        names::rename_new(&from.dir, &from.name, &to.dir, &to.name)?;
        kept_as_named(&to.dir, &to.name, FileError::BadPath).inspect_err(|_| {
            // If this fails, the file is still there, by the other name.
            let _ = names::rename_new(&to.dir, &to.name, &from.dir, &from.name);
        })?;
        Ok(entry(&to.name, &to.dir.symlink_metadata(&to.name)?))
    }

    pub(super) fn list(&self, path: &[u8]) -> Outcome<Listing> {
        let dir = self.folder_at(checked(path)?)?;
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
            if is_of_an_upload(&name) {
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
            let entry = entry(&name, &metadata);
            let raw = entry.name_bytes.as_ref().map_or(0, Vec::len);
            bytes += entry.name.len() + raw + entry.version.len() + 40;
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

/// A path, none of whose names is one of ours.
fn checked(path: &[u8]) -> Outcome<&Path> {
    let names = check_path(path).map_err(|bad| Fault::new(FileError::BadPath, bad.to_string()))?;
    let mut names = names.into_iter().map(OsStr::from_bytes);
    if names.any(is_of_an_upload) {
        return Err(Fault::new(FileError::NotFound, ""));
    }
    Ok(Path::new(OsStr::from_bytes(path)))
}

/// Is what is there by this name there under exactly this name? `otherwise` is what it is called if not.
pub(super) fn kept_as_named(dir: &Dir, name: &OsStr, otherwise: FileError) -> Outcome<()> {
    let list = || Ok(dir.entries()?.map(|found| Ok(found?.file_name())));
    match names::other_than(list, name, || dir.symlink_metadata(name).is_ok()) {
        None => Ok(()),
        Some(other) => Err(Fault::new(otherwise, other.to_string())),
    }
}

pub(super) fn entry(name: &OsStr, metadata: &Metadata) -> Entry {
    let kind = entry_kind(metadata);
    let entry = Entry {
        name: String::new(),
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
        name_bytes: None,
        kind_of_bytes: None,
    };
    named(name, entry)
}

/// The same entry by a name. Who knows of names in UTF-8 only sees another one, and can not use it.
fn named(name: &OsStr, entry: Entry) -> Entry {
    let kind = entry.kind_here();
    let shown = name.to_string_lossy().into_owned();
    match name.to_str() {
        Some(_) => Entry {
            name: shown,
            kind,
            name_bytes: None,
            kind_of_bytes: None,
            ..entry
        },
        None => Entry {
            name: shown,
            kind: EntryKind::Other,
            name_bytes: Some(name.as_bytes().to_owned()),
            kind_of_bytes: Some(kind),
            ..entry
        },
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
