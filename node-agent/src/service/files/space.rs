//! Room for uploads. Nothing is reserved: what a caller has said that it will send is nobody's yet.
//! A margin of the disk is always left, and the owner may set a quota for a folder and for each of
//! its callers; who has brought a file stands in an attribute of it.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cap_std::fs::{Dir, DirEntry, Metadata, MetadataExt as _};
use parking_lot::Mutex;
use ringback_protocol::PeerId;
use ringback_protocol::service::files::FileError;

use super::fault::{Fault, Outcome};
use super::folder::Root;
use super::upload_files::{is_of_an_upload, remove_if_old};
use crate::service::Folder;
use crate::service::size::Size;

/// Of the disk, and of its files, a twentieth is left to the device, at most so many bytes.
const MARGIN_PART: u64 = 20;
const MAX_MARGIN: u64 = 1 << 30;
/// Attribute of a file: the ID of the caller that has brought it.
const CALLER: &str = "user.ringback.caller";
/// For so long what a folder holds is only added to. When it is full it is counted again sooner.
const COUNT_AGAIN: Duration = Duration::from_secs(60);
const COUNT_FULL_AGAIN: Duration = Duration::from_secs(2);
/// What the folders with a quota hold.
#[derive(Debug, Default)]
pub(super) struct Usage(Mutex<HashMap<PathBuf, Arc<Mutex<Count>>>>);

#[derive(Debug, Default)]
struct Count {
    at: Option<Instant>,
    total: u64,
    callers: HashMap<String, u64>,
}

/// A caller's account with a folder.
#[derive(Debug)]
pub(super) struct Owed {
    folder: Folder,
    caller: String,
    /// None: there is no quota.
    count: Option<Arc<Mutex<Count>>>,
}

impl Usage {
    pub(super) fn of(&self, root: &Root, caller: PeerId) -> Outcome<Owed> {
        let folder = root.folder.clone();
        let has_quota = folder.quota.is_some() || folder.caller_quota.is_some();
        let count = has_quota.then(|| {
            self.0
                .lock()
                .entry(folder.path.clone())
                .or_default()
                .clone()
        });
        if let Some(count) = &count {
            count.lock().refresh(&root.dir, COUNT_AGAIN)?;
        }
        Ok(Owed {
            folder,
            caller: caller.to_string(),
            count,
        })
    }
}

impl Owed {
    /// Is there room for so many bytes?
    pub(super) fn check(&self, file: &File, bytes: u64) -> Outcome<()> {
        check_free(file, bytes)?;
        self.with_count(bytes, |_, _| ())
    }

    /// So many bytes are about to be written.
    pub(super) fn add(&self, bytes: u64) -> Outcome<()> {
        self.with_count(bytes, |count, caller| {
            count.total = count.total.saturating_add(bytes);
            let theirs = count.callers.entry(caller.to_owned()).or_default();
            *theirs = theirs.saturating_add(bytes);
        })
    }

    /// Puts the caller's name on a file.
    pub(super) fn sign(&self, file: &File) -> Outcome<()> {
        if self.folder.caller_quota.is_none() {
            return Ok(());
        }
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::fsetxattr(file, CALLER, self.caller.as_bytes(), flags).map_err(|error| {
            let what = "this file system can not note who has brought a file";
            Fault::new(FileError::Io, format!("{what}: {error}"))
        })
    }

    /// Does something with the count if so many bytes more are within the quotas.
    fn with_count(&self, bytes: u64, then: impl FnOnce(&mut Count, &str)) -> Outcome<()> {
        let Some(count) = &self.count else {
            return Ok(());
        };
        let mut count = count.lock();
        if self.fits(&count, bytes).is_err() {
            // Somebody may have made room.
            count.refresh(&Root::open(&self.folder)?.dir, COUNT_FULL_AGAIN)?;
        }
        self.fits(&count, bytes)?;
        then(&mut count, &self.caller);
        Ok(())
    }

    fn fits(&self, count: &Count, bytes: u64) -> Outcome<()> {
        let theirs = count.callers.get(&self.caller).copied().unwrap_or(0);
        let quotas = [
            (self.folder.quota, count.total, "this folder takes"),
            (
                self.folder.caller_quota,
                theirs,
                "this folder takes of one caller",
            ),
        ];
        for (quota, used, whose) in quotas {
            if let Some(quota) = quota
                && used.saturating_add(bytes) > quota.0
            {
                let (used, bytes) = (Size(used), Size(bytes));
                let told = format!("{whose} {quota}; {used} are there, {bytes} would follow");
                return Err(Fault::new(FileError::OverQuota, told));
            }
        }
        Ok(())
    }
}

impl Count {
    fn refresh(&mut self, root: &Dir, age: Duration) -> io::Result<()> {
        if self.at.is_some_and(|at| at.elapsed() < age) {
            return Ok(());
        }
        let (mut total, mut callers) = (0_u64, HashMap::<String, u64>::new());
        walk(root, |dir, found, metadata| {
            // Of a part file the size is what will be.
            let is_part = is_of_an_upload(&found.file_name());
            let bytes = match is_part {
                true => metadata.blocks().saturating_mul(512).min(metadata.size()),
                false => metadata.size(),
            };
            total = total.saturating_add(bytes);
            if let Some(caller) = caller_of(dir, found) {
                let theirs = callers.entry(caller).or_default();
                *theirs = theirs.saturating_add(bytes);
            }
        })?;
        *self = Self {
            at: Some(Instant::now()),
            total,
            callers,
        };
        Ok(())
    }
}

/// Who has brought a file. It is not opened for that: what it is is not known.
fn caller_of(dir: &Dir, found: &DirEntry) -> Option<String> {
    use std::os::fd::{AsFd as _, AsRawFd as _};
    use std::os::unix::ffi::OsStrExt as _;
    let folder = format!("/proc/self/fd/{}/", dir.as_fd().as_raw_fd());
    let path = [folder.as_bytes(), found.file_name().as_bytes()].concat();
    let mut value = [0; 128];
    let length = rustix::fs::lgetxattr(path, CALLER, &mut value[..]).ok()?;
    std::str::from_utf8(&value[..length])
        .ok()
        .map(str::to_owned)
}

/// Is there room for so many bytes, and the margin left?
pub(super) fn check_free(file: &File, bytes: u64) -> Outcome<()> {
    let disk = rustix::fs::fstatvfs(file)?;
    let size = disk.f_blocks.saturating_mul(disk.f_frsize);
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    let margin = (size / MARGIN_PART).min(MAX_MARGIN);
    if free < margin.saturating_add(bytes) {
        let (bytes, free, margin) = (Size(bytes), Size(free), Size(margin));
        let told = format!("{bytes} do not fit: {free} are free, of which {margin} are left free");
        return Err(Fault::new(FileError::NoSpace, told));
    }
    // Some file systems do not count files.
    if disk.f_files > 0 && disk.f_favail < disk.f_files / MARGIN_PART {
        let told = "the disk has hardly any room for more files";
        return Err(Fault::new(FileError::NoSpace, told));
    }
    Ok(())
}

/// Removes what is left of uploads that nobody went on with.
pub(crate) fn sweep(folder: &Folder) -> io::Result<()> {
    let root = Dir::open_ambient_dir(&folder.path, cap_std::ambient_authority())?;
    walk(&root, |dir, found, metadata| {
        if is_of_an_upload(&found.file_name()) {
            remove_if_old(dir, found, metadata);
        }
    })
}

/// Every file below a folder, on its own disk; links are not followed. What can not be read is
/// passed over.
fn walk(root: &Dir, mut visit: impl FnMut(&Dir, &DirEntry, &Metadata)) -> io::Result<()> {
    let device = root.dir_metadata()?.dev();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        let opened = match folder.as_os_str().is_empty() {
            true => root.try_clone(),
            false => root.open_dir(&folder),
        };
        let Ok(dir) = opened else { continue };
        let Ok(entries) = dir.entries() else { continue };
        for found in entries.flatten() {
            let Ok(metadata) = found.metadata() else {
                continue;
            };
            if metadata.is_dir() {
                if metadata.dev() == device {
                    folders.push(folder.join(found.file_name()));
                }
            } else if metadata.is_file() {
                visit(&dir, &found, &metadata);
            }
        }
    }
    Ok(())
}
