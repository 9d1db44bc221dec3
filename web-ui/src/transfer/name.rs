//! Names of what is kept of a file on its way: the same for the same file.

use sha2::{Digest, Sha256};

/// A name for what belongs to exactly this file: 16 bytes of a hash over its parts.
pub(super) fn name_of(parts: &[&str]) -> [u8; 16] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    let mut name = [0; 16];
    name.copy_from_slice(&hash.finalize()[..16]);
    name
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
