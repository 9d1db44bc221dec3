//! The requests that this device has admitted, on disk: after a restart none of them is admitted
//! again (PROTOCOL §7.1). One record for each, appended before the reply leaves. It is not synced: a
//! process that ends leaves what it has written, and a host that loses power takes longer to come back
//! than a caller's clock may be ahead.

use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use ringback_protocol::admission::{MAX_SEEN, Seen};

use crate::profile;

/// Bytes of a record: the request's ID and the end of its life in Unix seconds.
const RECORD: usize = 24;

#[derive(Debug)]
pub(crate) struct SeenRequests {
    path: PathBuf,
    /// None until there is something to keep.
    file: Option<File>,
    records: usize,
}

impl SeenRequests {
    /// Opens the file, and gives what it holds, the oldest first.
    pub(crate) fn open(path: &Path) -> Result<(Self, Vec<Seen>)> {
        let open = || -> std::io::Result<(Self, Vec<Seen>)> {
            let mut requests = Self {
                path: path.to_owned(),
                file: None,
                records: 0,
            };
            let bytes = match std::fs::read(path) {
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok((requests, vec![])),
                read => read?,
            };
            // A record that was not written whole belongs to a request that got no reply.
            let (records, _) = bytes.as_chunks::<RECORD>();
            let seen: Vec<Seen> = records.iter().map(read).collect();
            requests.records = seen.len();
            Ok((requests, seen))
        };
        open().with_context(|| format!("can not use {}", path.display()))
    }

    /// Keeps one more, and of those before it only as many as are needed when there are too many.
    pub(crate) fn add(&mut self, seen: Seen) -> std::io::Result<()> {
        if self.records >= 2 * MAX_SEEN {
            let bytes = std::fs::read(&self.path)?;
            let kept: Vec<Seen> = bytes.as_chunks::<RECORD>().0.iter().map(read).collect();
            self.write_anew(&kept[kept.len().saturating_sub(MAX_SEEN)..])?;
        }
        let whole = (self.records * RECORD) as u64;
        let file = self.file()?;
        // A part of a record would misalign all that follow.
        if file.metadata()?.len() > whole {
            file.set_len(whole)?;
        }
        file.write_all(&record(seen)).inspect_err(|_| {
            // If this fails, too, the next record tries again.
            let _ = file.set_len(whole);
        })?;
        self.records += 1;
        Ok(())
    }

    fn write_anew(&mut self, seen: &[Seen]) -> std::io::Result<()> {
        let bytes: Vec<u8> = seen.iter().flat_map(|seen| record(*seen)).collect();
        profile::replace(&self.path, &bytes)?;
        self.file = None;
        self.records = seen.len();
        Ok(())
    }

    fn file(&mut self) -> std::io::Result<&mut File> {
        let file = match self.file.take() {
            Some(file) => file,
            None => {
                let mut options = File::options();
                options.append(true).create(true);
                #[cfg(unix)]
                std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
                options.open(&self.path)?
            }
        };
        Ok(self.file.insert(file))
    }
}

fn record(seen: Seen) -> [u8; RECORD] {
    let mut record = [0; RECORD];
    record[..16].copy_from_slice(&seen.id);
    record[16..].copy_from_slice(&seen.expires_at.to_be_bytes());
    record
}

fn read(record: &[u8; RECORD]) -> Seen {
    let (id, expires_at) = record.split_at(16);
    let mut seen = Seen {
        id: [0; 16],
        expires_at: 0,
    };
    seen.id.copy_from_slice(id);
    let mut seconds = [0; 8];
    seconds.copy_from_slice(expires_at);
    seen.expires_at = u64::from_be_bytes(seconds);
    seen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(number: u64) -> Seen {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&number.to_be_bytes());
        Seen {
            id,
            expires_at: 1_800_000_000 + number,
        }
    }

    #[test]
    fn what_was_kept_is_there_after_a_restart_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("seen");
        let (mut requests, before) = SeenRequests::open(&path).unwrap();
        assert!(before.is_empty());
        for number in 0..3 {
            requests.add(seen(number)).unwrap();
        }
        drop(requests);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.extend_from_slice(&[7; 5]);
        std::fs::write(&path, bytes).unwrap();
        let (mut requests, before) = SeenRequests::open(&path).unwrap();
        assert_eq!(before, [seen(0), seen(1), seen(2)]);
        requests.add(seen(3)).unwrap();
        let (_, before) = SeenRequests::open(&path).unwrap();
        assert_eq!(before, [seen(0), seen(1), seen(2), seen(3)]);
    }

    /// The limit is the process's, so the test runs in a child that has its own.
    #[test]
    fn what_can_not_be_written_takes_nothing_with_it() {
        const CHILD: &str = "RINGBACK_TEST_CHILD";
        if std::env::var_os(CHILD).is_some() {
            return in_a_process_of_its_own();
        }
        // A signal that the shell ignores is ignored in what it becomes.
        let ended = std::process::Command::new("sh")
            .args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""])
            .arg(std::env::current_exe().unwrap())
            .arg("--exact")
            .arg("seen_requests::tests::what_can_not_be_written_takes_nothing_with_it")
            .env(CHILD, "1")
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&ended.stdout);
        assert!(
            ended.status.success() && told.contains("1 passed"),
            "{told}"
        );
    }

    fn in_a_process_of_its_own() {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        let maximum = getrlimit(Resource::Fsize).maximum;
        let limit = |current: Option<u64>| {
            setrlimit(Resource::Fsize, Rlimit { current, maximum }).unwrap();
        };
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("seen");
        let (mut requests, _) = SeenRequests::open(&path).unwrap();
        let mut expected = Vec::new();
        let mut add = |requests: &mut SeenRequests, number: u64| {
            requests.add(seen(number))?;
            expected.push(seen(number));
            std::io::Result::Ok(())
        };
        for number in 0..3 {
            add(&mut requests, number).unwrap();
        }
        limit(Some(3 * RECORD as u64 + 10));
        add(&mut requests, 3).unwrap_err();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 3 * RECORD as u64);
        limit(maximum);
        // As a failure leaves it after which the file could not be made shorter, either.
        let mut torn = File::options().append(true).open(&path).unwrap();
        torn.write_all(&[7; 5]).unwrap();
        for number in 4..=2 * MAX_SEEN as u64 {
            add(&mut requests, number).unwrap();
        }
        assert_eq!(requests.records, 2 * MAX_SEEN);

        // There is no room for what is to take the file's place.
        limit(Some(MAX_SEEN as u64));
        add(&mut requests, 0).unwrap_err();
        limit(maximum);
        let (_, before) = SeenRequests::open(&path).unwrap();
        assert!(before == expected, "{} of {}", before.len(), expected.len());
        requests.add(seen(9)).unwrap();
        let (_, before) = SeenRequests::open(&path).unwrap();
        assert_eq!(before.len(), MAX_SEEN + 1);
        assert_eq!(before.last(), Some(&seen(9)));
        let left = std::fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(left, 1, "no temporary file");
    }

    #[test]
    fn the_file_stays_short() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("seen");
        let (mut requests, _) = SeenRequests::open(&path).unwrap();
        let last = 5 * MAX_SEEN as u64;
        for number in 0..=last {
            requests.add(seen(number)).unwrap();
        }
        let (_, before) = SeenRequests::open(&path).unwrap();
        assert!(before.len() <= 2 * MAX_SEEN && before.len() >= MAX_SEEN);
        assert_eq!(before.last(), Some(&seen(last)));
    }
}
