//! The hidden files of an unfinished upload: what they are called, and how long they are kept when
//! nobody goes on with it.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::time::{Duration, SystemTime};

use cap_std::fs::{Dir, DirEntry, Metadata, MetadataExt as _};
use ringback_protocol::service::files::UPLOAD_LIFETIME;

/// What names of unfinished uploads start with. Callers neither see nor reach them.
pub(super) const UPLOAD_PREFIX: &str = ".ringback-upload-";
/// Bytes of the journal's head: the size.
pub(super) const HEAD: u64 = 8;
/// A part file in which nothing is noted, left behind by an agent that died, is not kept for longer.
const EMPTY_LIFETIME: Duration = Duration::from_secs(3600);

/// Is it a name of an unfinished upload's files? Also as a file system takes it to which upper and lower
/// case are the same.
pub(super) fn is_of_an_upload(name: &OsStr) -> bool {
    let start = name.as_bytes().get(..UPLOAD_PREFIX.len());
    start.is_some_and(|start| start.eq_ignore_ascii_case(UPLOAD_PREFIX.as_bytes()))
}

/// Removes a file of an upload that nobody went on with.
pub(super) fn remove_if_old(dir: &Dir, found: &DirEntry, metadata: &Metadata) {
    let modified = metadata.modified().ok();
    let age = modified.and_then(|time| SystemTime::now().duration_since(time.into_std()).ok());
    let name = found.file_name();
    // What is written to has notes in its journal soon.
    let nothing_came = || match name.to_string_lossy().strip_suffix(".part") {
        Some(stem) => {
            let journal = dir.symlink_metadata(format!("{stem}.ranges"));
            journal.map_or(true, |journal| journal.size() <= HEAD) && metadata.size() > 0
        }
        None => false,
    };
    let is_old = age.is_some_and(|age| {
        age.as_secs() > UPLOAD_LIFETIME || (age > EMPTY_LIFETIME && nothing_came())
    });
    if is_old {
        // What can not be removed now is tried again the next time.
        let _ = dir.remove_file(name);
    }
}
