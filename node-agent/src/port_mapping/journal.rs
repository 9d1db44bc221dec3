//! What must be deleted from a router even if this process is killed: a file per process in the
//! profile, in which a mapping is noted before it is made and crossed out after it is gone.
//!
//! The file is locked by the process that maps, for as long as it lives; a file that can be locked
//! is a dead process's. It is only ever appended to, one line of JSON per note, so that a note is
//! there or not, and a torn last line is none.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::mapping::{Method, Place, Transport};
use crate::clock::unix_time;

pub(super) const PREFIX: &str = "port-mapping-";
pub(super) const SUFFIX: &str = ".journal";
/// How much longer than its lease a mapping is taken for existing: clocks differ.
const EXPIRY_MARGIN_S: u64 = 60;

/// All that is needed to delete a mapping.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    pub(super) method: Method,
    pub(super) place: Place,
    pub(super) transport: Transport,
    /// The local port.
    pub(super) port: u16,
    /// UPnP deletes by it.
    #[serde(default)]
    pub(super) external_port: u16,
    /// PCP deletes by it.
    #[serde(default)]
    pub(super) nonce: [u32; 3],
    /// Unix seconds; 0: never.
    #[serde(default)]
    pub(super) expires_at: u64,
}

impl Entry {
    /// One replaces the other on the router.
    pub(super) fn is_same_mapping(&self, other: &Self) -> bool {
        self.method == other.method
            && self.place == other.place
            && self.transport == other.transport
            && self.port == other.port
            && self.external_port == other.external_port
            && self.nonce == other.nonce
    }

    pub(super) fn is_over(&self) -> bool {
        self.expires_at != 0 && self.expires_at < unix_time(0)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Note {
    Making(Entry),
    Gone(Entry),
}

/// This process's journal.
pub(super) struct Journal {
    /// PCP's proof that a mapping is ours: one for all, so that a mapping whose renewal was not
    /// answered, or that is found again on the return to a network, is renewed and not refused.
    pub(super) nonce: [u32; 3],
    path: PathBuf,
    file: File,
    entries: Vec<Entry>,
}

impl Journal {
    pub(super) fn create(dir: &Path) -> io::Result<Self> {
        let name = format!("{PREFIX}{:016x}", rand::random::<u64>());
        // Locked before it can be found.
        let unfinished = dir.join(format!("{name}.new"));
        let file = OpenOptions::new()
            .append(true)
            .create_new(true)
            .mode(0o600)
            .open(&unfinished)?;
        file.lock()?;
        let path = dir.join(format!("{name}{SUFFIX}"));
        fs::rename(&unfinished, &path)?;
        Ok(Self {
            nonce: rand::random(),
            path,
            file,
            entries: Vec::new(),
        })
    }

    /// Notes a mapping that is about to be made, or renewed with a later end.
    pub(super) fn note_making(&mut self, entry: &Entry) -> io::Result<()> {
        if self.entries.contains(entry) {
            return Ok(());
        }
        self.append(&Note::Making(entry.clone()))?;
        self.entries.retain(|known| !known.is_same_mapping(entry));
        self.entries.push(entry.clone());
        Ok(())
    }

    /// Notes that a mapping is not there (any more). If that can not be written, a later start asks
    /// the router once too often.
    pub(super) fn note_gone(&mut self, entry: &Entry) {
        self.entries.retain(|known| !known.is_same_mapping(entry));
        let _ = self.append(&Note::Gone(entry.clone()));
    }

    fn append(&mut self, note: &Note) -> io::Result<()> {
        let mut line = serde_json::to_vec(note)?;
        line.push(b'\n');
        self.file.write_all(&line)?;
        self.file.sync_data()
    }

    /// A journal as another process has left it, locked.
    pub(super) fn reopened(path: PathBuf, mut file: File) -> Self {
        let mut text = String::new();
        // What can not be read can not be deleted: as if it were not there.
        let _ = file.read_to_string(&mut text);
        let mut entries: Vec<Entry> = Vec::new();
        for line in text.lines() {
            match serde_json::from_str(line) {
                Ok(Note::Making(entry)) => {
                    entries.retain(|known| !known.is_same_mapping(&entry));
                    entries.push(entry);
                }
                Ok(Note::Gone(entry)) => entries.retain(|known| !known.is_same_mapping(&entry)),
                Err(_) => {}
            }
        }
        Self {
            nonce: [0; 3],
            path,
            file,
            entries,
        }
    }

    /// The mappings that are noted.
    pub(super) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Takes it that these mappings are not there any more.
    pub(super) fn retain(&mut self, keep: impl FnMut(&Entry) -> bool) {
        self.entries.retain(keep);
    }

    /// Removes the file.
    pub(super) fn remove(&self) -> io::Result<()> {
        fs::remove_file(&self.path)
    }
}

/// When a mapping that is made now is surely over, in Unix seconds.
pub(super) fn expiry(lease_s: u32) -> u64 {
    match lease_s {
        0 => 0,
        lease_s => unix_time(0) + u64::from(lease_s) + EXPIRY_MARGIN_S,
    }
}
