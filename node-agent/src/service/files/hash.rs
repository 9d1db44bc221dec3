//! The SHA-256 of a file of the folder.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use sha2::{Digest as _, Sha256};

/// Read at once.
const BLOCK: usize = 256 * 1024;

/// The SHA-256 of a file: of all of it, or of its first `size` bytes.
pub(super) fn hash(file: &File, size: Option<u64>) -> io::Result<[u8; 32]> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; BLOCK];
    let mut at = 0;
    let end = size.unwrap_or(u64::MAX);
    loop {
        let most = BLOCK.min(usize::try_from(end.saturating_sub(at)).unwrap_or(BLOCK));
        match file.read_at(&mut buffer[..most], at)? {
            0 => return Ok(hasher.finalize().into()),
            read => {
                hasher.update(&buffer[..read]);
                at += read as u64;
            }
        }
    }
}
