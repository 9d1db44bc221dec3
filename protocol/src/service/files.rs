//! A folder of the device (§20.3): one operation per stream. The caller's first frame says what is
//! wanted; what follows depends on it.
//!
//! ```text
//! list     ◄─ FileAnswer, Entries …, end
//! read     ◄─ FileAnswer, raw bytes, end. A reset: the file changed, or can not be read
//! write    ─► raw bytes, end;  ◄─ FileAnswer, end (an error may come before all bytes are sent)
//! others   ◄─ FileAnswer, end
//! ```
//!
//! An upload is any number of `write`s under one [`UploadId`], one after the other or at the same
//! time, and a `commit`, which puts the file in the place of the target at once or not at all.
//! `stat` with the upload's ID tells what is there already.

use minicbor::{Decode, Encode};

use super::{MAX_FRAME, expect, frame, words};
use crate::cbor::Malformed;

/// Bytes of the longest path.
pub const MAX_PATH: usize = 4096;
/// Bytes of the longest name in a path.
pub const MAX_NAME: usize = 255;
/// Ranges of an upload that `stat` tells at most; what it leaves out counts as not there.
pub const MAX_RANGES: usize = 512;
/// Operations of a device at a time, and of one caller. Others wait for their turn; so many of one
/// caller, and no more.
pub const MAX_OPERATIONS: usize = 64;
pub const MAX_OPERATIONS_EACH: usize = 16;
pub const MAX_WAITING_EACH: usize = 240;
/// Seconds after which an upload that nobody went on with is removed.
pub const UPLOAD_LIFETIME: u64 = 7 * 24 * 3600;

/// In the place of a path that is not UTF-8: no path of any device.
pub const NO_TEXT: &str = ".";

const REQUEST: u8 = 0x81;
const ANSWER: u8 = 0x82;
const ENTRIES: u8 = 0x83;

/// The caller's name for an upload: the same for the same file, so that it can go on after a
/// restart.
pub type UploadId = [u8; 16];

words! {
    /// What to do with a path.
    Op {
        List = "list", "list a folder";
        Stat = "stat", "tell of a file or folder, or with an upload's ID of the upload";
        Read = "read", "read a file or a part of it";
        Write = "write", "write a part of an upload";
        Commit = "commit", "put an upload in its place";
        Mkdir = "mkdir", "make a folder";
        Remove = "remove", "remove a file, a link or an empty folder";
        Rename = "rename", "give another path";
        Hash = "hash", "the SHA-256 of a file";
        Abandon = "abandon", "forget an upload";
    }
}

words! {
    /// Why an operation failed.
    FileError {
        NotFound = "not_found", "there is no such file";
        NotAllowed = "not_allowed", "the device may not";
        ReadOnly = "read_only", "these files may only be read";
        Changed = "changed", "the file is another one by now";
        Mismatch = "mismatch", "what has arrived is not what was sent";
        NoSpace = "no_space", "the device's disk is full";
        OverQuota = "over_quota", "these files take no more: their quota is used up";
        TooMany = "too_many", "too much is asked of these files at a time";
        Exists = "exists", "there is a file of this name already";
        NotEmpty = "not_empty", "the folder is not empty";
        IsFolder = "is_folder", "it is a folder";
        NotFolder = "not_folder", "it is not a folder";
        BadPath = "bad_path", "not a path of these files";
        BadRequest = "bad_request", "not what is asked of files";
        Incomplete = "incomplete", "parts of the upload are missing";
        Io = "io", "the device's disk failed";
    }
}

/// The first frame of a stream.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct FileRequest {
    #[n(0)]
    pub op: Op,
    /// Relative to the folder that is exposed, see [`check_path`].
    #[n(1)]
    pub path: String,
    /// Read, write: the first byte.
    #[cbor(n(2), default)]
    pub offset: u64,
    /// Read: bytes at most; absent: up to the end.
    #[n(3)]
    pub length: Option<u64>,
    /// Read, hash: fail with `changed` if the file has another version.
    #[n(4)]
    pub version: Option<String>,
    /// Write, commit: bytes of the whole file. The same for every part of an upload.
    /// Read, hash: the file may have grown since `version`; what counts is the first so many bytes.
    #[n(5)]
    pub size: Option<u64>,
    /// Commit: of the whole file.
    #[cbor(n(6), with = "minicbor::bytes", default, skip_if = "Option::is_none")]
    pub sha256: Option<[u8; 32]>,
    /// Rename: the new path.
    #[n(7)]
    pub to: Option<String>,
    /// Write, commit, abandon, stat: the upload.
    #[cbor(n(8), with = "minicbor::bytes", default, skip_if = "Option::is_none")]
    pub upload: Option<UploadId>,
    /// Commit: fail with `exists` rather than replace a file. Rename never replaces.
    #[cbor(n(9), default)]
    pub keep: bool,
    /// Commit: the file's time of change, Unix milliseconds.
    #[n(10)]
    pub modified_ms: Option<u64>,
    /// Commit: who may read, write and execute the file, as the nine bits of POSIX. What is kept of
    /// it is never more.
    #[n(11)]
    pub mode: Option<u16>,
    /// The path where it is not UTF-8; `path` is then [`NO_TEXT`]. See [`FileRequest::of`].
    #[cbor(n(12), with = "minicbor::bytes", default, skip_if = "Option::is_none")]
    pub path_bytes: Option<Vec<u8>>,
    /// The same of `to`.
    #[cbor(n(13), with = "minicbor::bytes", default, skip_if = "Option::is_none")]
    pub to_bytes: Option<Vec<u8>>,
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum EntryKind {
    #[n(0)]
    File,
    #[n(1)]
    Folder,
    /// In lists: a link, not followed. `stat`, `read` and `list` follow links that lead to
    /// somewhere in the exposed folder.
    #[n(2)]
    Link,
    /// A device or a socket: to be seen, not to be used. For whoever does not know of names that are
    /// not UTF-8 what has one is this, too; see [`Entry::kind_here`].
    #[n(3)]
    Other,
}

/// A file or folder.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Entry {
    /// The last part of the path; empty for the exposed folder.
    #[n(0)]
    pub name: String,
    #[n(1)]
    pub kind: EntryKind,
    #[n(2)]
    pub size: u64,
    /// Unix milliseconds.
    #[n(3)]
    pub modified_ms: u64,
    /// Changes whenever the file does.
    #[n(4)]
    pub version: String,
    /// Of a file: who may read, write and execute it, as the nine bits of POSIX.
    #[n(5)]
    pub mode: Option<u16>,
    /// The name where it is not UTF-8; `name` is then one to be shown, which others may have, too.
    #[cbor(n(6), with = "minicbor::bytes", default, skip_if = "Option::is_none")]
    pub name_bytes: Option<Vec<u8>>,
    /// What an entry with such a name is; `kind` is then [`EntryKind::Other`].
    #[n(7)]
    pub kind_of_bytes: Option<EntryKind>,
}

impl Entry {
    /// The name as the device's file system has it.
    pub fn name_as_bytes(&self) -> &[u8] {
        self.name_bytes.as_deref().unwrap_or(self.name.as_bytes())
    }

    /// What it is, for whoever can ask for any name.
    pub fn kind_here(&self) -> EntryKind {
        self.kind_of_bytes.unwrap_or(self.kind)
    }
}

/// Bytes from the first to before the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Range(#[n(0)] pub u64, #[n(1)] pub u64);

/// The device's word on an operation.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct FileAnswer {
    /// Absent: done.
    #[n(0)]
    pub code: Option<FileError>,
    #[cbor(n(1), default)]
    pub detail: String,
    /// Of stat, read, commit, mkdir and rename.
    #[n(2)]
    pub entry: Option<Entry>,
    /// Of stat with an upload: what is on the device's disk, in order and not touching.
    #[n(3)]
    pub received: Option<Vec<Range>>,
    /// Of hash.
    #[cbor(n(4), with = "minicbor::bytes", default, skip_if = "Option::is_none")]
    pub sha256: Option<[u8; 32]>,
    /// Of list and stat: callers may change things here.
    #[cbor(n(5), default)]
    pub writable: bool,
}

/// A part of a list.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Entries {
    #[n(0)]
    pub entries: Vec<Entry>,
}

impl FileRequest {
    pub fn new(op: Op, path: impl Into<String>) -> Self {
        Self {
            op,
            path: path.into(),
            offset: 0,
            length: None,
            version: None,
            size: None,
            sha256: None,
            to: None,
            upload: None,
            keep: false,
            modified_ms: None,
            mode: None,
            path_bytes: None,
            to_bytes: None,
        }
    }

    /// Of a path that may be any bytes. Devices that know text only refuse what is none, as `bad_path`.
    pub fn of(op: Op, path: &[u8]) -> Self {
        match str::from_utf8(path) {
            Ok(path) => Self::new(op, path),
            Err(_) => Self {
                path_bytes: Some(path.to_owned()),
                ..Self::new(op, NO_TEXT)
            },
        }
    }

    /// The path as the device's file system has it.
    pub fn path_as_bytes(&self) -> &[u8] {
        self.path_bytes.as_deref().unwrap_or(self.path.as_bytes())
    }

    /// The new path, the same way.
    pub fn to_as_bytes(&self) -> Option<&[u8]> {
        self.to_bytes
            .as_deref()
            .or(self.to.as_deref().map(str::as_bytes))
    }

    /// With the 2-byte length before it.
    pub fn encode(&self) -> Vec<u8> {
        frame(REQUEST, self)
    }

    /// Reads a frame without its length.
    pub fn decode(frame: &[u8]) -> Result<Self, Malformed> {
        expect(frame, REQUEST, MAX_FRAME)
    }
}

impl FileAnswer {
    pub fn failed(code: FileError, detail: impl Into<String>) -> Self {
        Self {
            code: Some(code),
            detail: detail.into(),
            ..Self::default()
        }
    }

    /// With the 2-byte length before it.
    pub fn encode(&self) -> Vec<u8> {
        frame(ANSWER, self)
    }

    /// Reads a frame without its length.
    pub fn decode(frame: &[u8]) -> Result<Self, Malformed> {
        expect(frame, ANSWER, MAX_FRAME)
    }
}

impl Entries {
    /// With the 2-byte length before it. The sender keeps to [`MAX_FRAME`]: 12 entries do, however
    /// long their names.
    pub fn encode(&self) -> Vec<u8> {
        frame(ENTRIES, self)
    }

    /// Reads a frame without its length.
    pub fn decode(frame: &[u8]) -> Result<Self, Malformed> {
        expect(frame, ENTRIES, MAX_FRAME)
    }
}

/// Why something is not a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a path here is relative, has '/' between its names, and no '.', '..' or empty name")]
pub struct BadPath;

/// The names of a path: relative, `/` between them, none of them empty, `.`, `..`, over
/// [`MAX_NAME`] bytes, or with a NUL. No name at all is the exposed folder itself.
pub fn check_path(path: &[u8]) -> Result<Vec<&[u8]>, BadPath> {
    if path.len() > MAX_PATH {
        return Err(BadPath);
    }
    if path.is_empty() {
        return Ok(Vec::new());
    }
    let names: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
    let fits = |name: &&[u8]| {
        !name.is_empty()
            && name.len() <= MAX_NAME
            && *name != b"."
            && *name != b".."
            && !name.contains(&0)
    };
    if names.iter().all(fits) {
        Ok(names)
    } else {
        Err(BadPath)
    }
}

/// Adds a range to ranges that are in order and do not touch, and keeps them so.
pub fn add_range(ranges: &mut Vec<Range>, new: Range) {
    if new.0 >= new.1 {
        return;
    }
    let first = ranges.partition_point(|range| range.1 < new.0);
    let last = ranges.partition_point(|range| range.0 <= new.1);
    let merged = ranges[first..last].iter().fold(new, |all, range| {
        Range(all.0.min(range.0), all.1.max(range.1))
    });
    ranges.splice(first..last, [merged]);
}

/// What is missing of a file of `size` bytes, in order.
pub fn missing_ranges(received: &[Range], size: u64) -> Vec<Range> {
    let mut missing = Vec::new();
    let mut at = 0;
    for range in received {
        if range.0 > at {
            missing.push(Range(at, range.0.min(size)));
        }
        at = at.max(range.1);
    }
    if at < size {
        missing.push(Range(at, size));
    }
    missing
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> Entry {
        Entry {
            name: "a".into(),
            kind: EntryKind::File,
            size: 5,
            modified_ms: 1_800_000_000_000,
            mode: Some(0o640),
            version: "5-18".into(),
            name_bytes: None,
            kind_of_bytes: None,
        }
    }

    #[test]
    fn a_name_is_any_bytes_and_no_text_of_a_device_that_knows_text_only() {
        for path in [&b"caf\xc3\xa9"[..], b""] {
            let request = FileRequest::of(Op::Read, path);
            assert_eq!(request.path.as_bytes(), path);
            assert_eq!(
                (&request.path_bytes, request.path_as_bytes()),
                (&None, path)
            );
        }
        let request = FileRequest {
            to_bytes: Some(b"\xff".to_vec()),
            ..FileRequest::of(Op::Rename, b"old/caf\xe9")
        };
        let request = FileRequest::decode(&request.encode()[2..]).unwrap();
        assert_eq!(request.path_as_bytes(), b"old/caf\xe9");
        assert_eq!(request.to_as_bytes(), Some(&b"\xff"[..]));
        assert_eq!(check_path(request.path.as_bytes()), Err(BadPath));
        let latin = Entry {
            name: "caf\u{fffd}".into(),
            kind: EntryKind::Other,
            name_bytes: Some(b"caf\xe9".to_vec()),
            kind_of_bytes: Some(EntryKind::File),
            ..entry()
        };
        let entries = Entries {
            entries: vec![latin, entry()],
        };
        let told = Entries::decode(&entries.encode()[2..]).unwrap().entries;
        let seen = |entry: &Entry| (entry.name_as_bytes().to_owned(), entry.kind_here());
        assert_eq!(seen(&told[0]), (b"caf\xe9".to_vec(), EntryKind::File));
        assert_eq!(seen(&told[1]), (b"a".to_vec(), EntryKind::File));
    }

    #[test]
    fn what_is_said_comes_back() {
        let full = FileRequest {
            op: Op::Commit,
            path: "a/b".into(),
            offset: 1,
            length: Some(2),
            version: Some("v".into()),
            size: Some(3),
            sha256: Some([4; 32]),
            to: Some("c".into()),
            upload: Some([5; 16]),
            keep: true,
            modified_ms: Some(6),
            mode: Some(0o640),
            path_bytes: Some(vec![0xff]),
            to_bytes: Some(vec![0xfe]),
        };
        for request in [full, FileRequest::new(Op::List, "")] {
            assert_eq!(FileRequest::decode(&request.encode()[2..]), Ok(request));
        }
        let full = FileAnswer {
            code: Some(FileError::NoSpace),
            detail: "no".into(),
            entry: Some(entry()),
            received: Some(vec![Range(0, 5), Range(7, 9)]),
            sha256: Some([9; 32]),
            writable: true,
        };
        for answer in [full, FileAnswer::default()] {
            assert_eq!(FileAnswer::decode(&answer.encode()[2..]), Ok(answer));
        }
        let entries = Entries {
            entries: vec![entry(); 3],
        };
        assert_eq!(Entries::decode(&entries.encode()[2..]), Ok(entries.clone()));
        FileAnswer::decode(&entries.encode()[2..]).unwrap_err();
    }

    #[test]
    fn twelve_entries_fit_and_so_do_all_ranges() {
        let long = Entry {
            name: "\u{fffd}".repeat(MAX_NAME),
            name_bytes: Some(vec![0xff; MAX_NAME]),
            kind_of_bytes: Some(EntryKind::Folder),
            size: u64::MAX,
            modified_ms: u64::MAX,
            version: "v".repeat(120),
            ..entry()
        };
        let entries = vec![long; 12];
        assert!(Entries { entries }.encode().len() - 2 <= MAX_FRAME);
        let answer = FileAnswer {
            received: Some(vec![Range(u64::MAX - 1, u64::MAX); MAX_RANGES]),
            ..FileAnswer::default()
        };
        assert!(answer.encode().len() - 2 <= MAX_FRAME);
    }

    #[test]
    fn a_path_stays_inside_by_its_form() {
        assert_eq!(check_path(b""), Ok(vec![]));
        let names: Vec<&[u8]> = vec![b"a", b"b c", b"...", b"\xff"];
        assert_eq!(check_path(b"a/b c/.../\xff"), Ok(names));
        let long = "x".repeat(MAX_NAME + 1);
        for bad in [
            "/",
            "/a",
            "a/",
            "a//b",
            ".",
            "..",
            "a/../b",
            "a/./b",
            "../a",
            "a\0b",
            &long,
            &"a/".repeat(MAX_PATH),
        ] {
            assert_eq!(check_path(bad.as_bytes()), Err(BadPath), "{bad:?}");
        }
    }

    #[test]
    fn ranges_are_merged_where_they_touch() {
        let mut ranges = Vec::new();
        for (new, expected) in [
            (Range(10, 20), vec![Range(10, 20)]),
            (Range(30, 40), vec![Range(10, 20), Range(30, 40)]),
            (Range(5, 5), vec![Range(10, 20), Range(30, 40)]),
            (Range(0, 5), vec![Range(0, 5), Range(10, 20), Range(30, 40)]),
            (Range(20, 30), vec![Range(0, 5), Range(10, 40)]),
            (Range(4, 50), vec![Range(0, 50)]),
            (Range(1, 2), vec![Range(0, 50)]),
        ] {
            add_range(&mut ranges, new);
            assert_eq!(ranges, expected);
        }
        let some = [Range(2, 4), Range(6, 8)];
        assert_eq!(
            missing_ranges(&some, 10),
            [Range(0, 2), Range(4, 6), Range(8, 10)]
        );
        assert_eq!(missing_ranges(&some, 8), [Range(0, 2), Range(4, 6)]);
        assert_eq!(missing_ranges(&[], 0), []);
        assert_eq!(missing_ranges(&[], 1), [Range(0, 1)]);
        assert_eq!(missing_ranges(&[Range(0, 10)], 10), []);
    }
}
