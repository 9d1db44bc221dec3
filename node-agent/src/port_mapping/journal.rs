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

use super::router::{self, Asked, Deletion};
use super::{Method, Place, Transport};
use crate::clock::unix_time;

const PREFIX: &str = "port-mapping-";
const SUFFIX: &str = ".journal";

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

    fn is_over(&self) -> bool {
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

    /// The end of this process's mappings: what is noted is to be deleted.
    pub(super) fn into_leftover(self) -> Leftovers {
        Leftovers(vec![self])
    }
}

/// Journals of processes that have ended without deleting their mappings.
pub(super) struct Leftovers(Vec<Journal>);

impl Leftovers {
    /// Those in a profile; held, so that no other process deals with them at the same time.
    pub(super) fn find(dir: &Path) -> Self {
        let files = fs::read_dir(dir).into_iter().flatten().flatten();
        let journals = files.filter_map(|file| {
            let name = file.file_name();
            let name = name.to_str()?;
            if !name.starts_with(PREFIX) {
                return None;
            }
            let path = file.path();
            let file = OpenOptions::new()
                .read(true)
                .append(true)
                .open(&path)
                .ok()?;
            file.try_lock().ok()?;
            if !name.ends_with(SUFFIX) {
                // Its process died between two system calls, or is between them now.
                return None;
            }
            Some(read(path, file))
        });
        Self(journals.collect())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Deletes what can be deleted from here; the notes of all else stay until it is over.
    pub(super) async fn delete(&mut self, place: Place, asked: &Asked) {
        for journal in &mut self.0 {
            for entry in journal.entries.clone() {
                let gone = entry.is_over()
                    || (entry.place == place
                        && router::delete(asked, &entry).await == Deletion::Gone);
                if gone {
                    journal.note_gone(&entry);
                }
            }
        }
        self.remove_empty();
    }

    /// Takes it that a place has none of these mappings.
    pub(super) fn forget(&mut self, place: Place) {
        for journal in &mut self.0 {
            journal.entries.retain(|entry| entry.place != place);
        }
        self.remove_empty();
    }

    fn remove_empty(&mut self) {
        self.0.retain(|journal| {
            let is_empty = journal.entries.is_empty();
            if is_empty {
                // It is locked: nobody else reads it. If it can not be removed, nothing is in it.
                let _ = fs::remove_file(&journal.path);
            }
            !is_empty
        });
    }
}

fn read(path: PathBuf, mut file: File) -> Journal {
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
    Journal {
        nonce: [0; 3],
        path,
        file,
        entries,
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn entry(port: u16) -> Entry {
        Entry {
            method: Method::NatPmp,
            place: Place {
                router: Ipv4Addr::new(192, 168, 1, 1),
                local: Ipv4Addr::new(192, 168, 1, 3),
            },
            transport: Transport::Udp,
            port,
            external_port: 0,
            nonce: [0; 3],
            expires_at: unix_time(0) + 3600,
        }
    }

    #[test]
    fn a_dead_process_leaves_what_it_had_not_crossed_out() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::create(dir.path()).unwrap();
        journal.note_making(&entry(1)).unwrap();
        journal.note_making(&entry(2)).unwrap();
        journal.note_gone(&entry(1));
        assert!(
            Leftovers::find(dir.path()).is_empty(),
            "its process is alive"
        );
        journal.file.write_all(b"{\"making\":{\"meth").unwrap();
        drop(journal);
        let leftovers = Leftovers::find(dir.path());
        assert_eq!(leftovers.0.len(), 1);
        assert_eq!(leftovers.0[0].entries, [entry(2)]);
        assert!(
            Leftovers::find(dir.path()).is_empty(),
            "one process at a time"
        );
    }

    #[tokio::test]
    async fn what_is_over_needs_no_router() {
        let dir = tempfile::tempdir().unwrap();
        let over = Entry {
            expires_at: unix_time(0) - 1,
            ..entry(1)
        };
        Journal::create(dir.path())
            .unwrap()
            .note_making(&over)
            .unwrap();
        let mut leftovers = Leftovers::find(dir.path());
        let elsewhere = Place {
            router: Ipv4Addr::new(10, 0, 0, 1),
            local: Ipv4Addr::new(10, 0, 0, 2),
        };
        leftovers.delete(elsewhere, &Asked::default()).await;
        assert!(leftovers.is_empty());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn another_networks_mapping_stays_noted() {
        let dir = tempfile::tempdir().unwrap();
        Journal::create(dir.path())
            .unwrap()
            .note_making(&entry(1))
            .unwrap();
        let elsewhere = Place {
            router: Ipv4Addr::new(10, 0, 0, 1),
            local: Ipv4Addr::new(10, 0, 0, 2),
        };
        Leftovers::find(dir.path())
            .delete(elsewhere, &Asked::default())
            .await;
        let leftovers = Leftovers::find(dir.path());
        assert_eq!(leftovers.0[0].entries, [entry(1)]);
    }
}
