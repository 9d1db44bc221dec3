//! A file of this host: its blocks, its hash, and what is said when it cannot be read or written.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use anyhow::Result;
use sha2::{Digest as _, Sha256};

use crate::failure::{Exit, Failure};

/// Read or written at once.
pub(super) const BLOCK: usize = 256 * 1024;

/// The SHA-256 of a file, by a thread of its own.
pub(super) async fn hash(file: File) -> Result<[u8; 32]> {
    let hash = tokio::task::spawn_blocking(move || -> io::Result<[u8; 32]> {
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; BLOCK];
        let mut at = 0;
        loop {
            match file.read_at(&mut buffer, at)? {
                0 => return Ok(hasher.finalize().into()),
                read => {
                    hasher.update(&buffer[..read]);
                    at += read as u64;
                }
            }
        }
    });
    Ok(hash.await??)
}

pub(super) fn local(path: &Path, error: &io::Error) -> Failure {
    let hint = match error.kind() {
        io::ErrorKind::StorageFull => "; this host's disk is full",
        _ => "",
    };
    Failure::new(Exit::Usage, format!("{}: {error}{hint}", path.display()))
}
