//! What processes of this profile that have ended left on routers, and its deletion.

use std::fs::{self, OpenOptions};
use std::path::Path;

use super::journal::{Journal, PREFIX, SUFFIX};
use super::mapping::Place;
use super::router::{self, Asked, Deletion};

/// Journals of processes that have ended without deleting their mappings.
pub(super) struct Leftovers(Vec<Journal>);

impl Leftovers {
    /// The end of this process's mappings: what is noted is to be deleted.
    pub(super) fn of(journal: Journal) -> Self {
        Self(vec![journal])
    }

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
            Some(Journal::reopened(path, file))
        });
        Self(journals.collect())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Deletes what can be deleted from here; the notes of all else stay until it is over.
    pub(super) async fn delete(&mut self, place: Place, asked: &Asked) {
        for journal in &mut self.0 {
            for entry in journal.entries().to_vec() {
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
            journal.retain(|entry| entry.place != place);
        }
        self.remove_empty();
    }

    fn remove_empty(&mut self) {
        self.0.retain(|journal| {
            let is_empty = journal.entries().is_empty();
            if is_empty {
                // It is locked: nobody else reads it. If it can not be removed, nothing is in it.
                let _ = journal.remove();
            }
            !is_empty
        });
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::Ipv4Addr;

    use super::*;
    use crate::clock::unix_time;
    use crate::port_mapping::journal::Entry;
    use crate::port_mapping::mapping::{Method, Transport};

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
        drop(journal);
        let file = fs::read_dir(dir.path()).unwrap().next().unwrap().unwrap();
        let mut file = OpenOptions::new().append(true).open(file.path()).unwrap();
        file.write_all(b"{\"making\":{\"meth").unwrap();
        drop(file);
        let leftovers = Leftovers::find(dir.path());
        assert_eq!(leftovers.0.len(), 1);
        assert_eq!(leftovers.0[0].entries(), [entry(2)]);
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
        assert_eq!(leftovers.0[0].entries(), [entry(1)]);
    }
}
