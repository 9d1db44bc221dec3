//! Bytes of any amount that both ends can make for themselves: no disk, a known hash.

use std::{
    collections::HashMap,
    io::{self, Read},
    sync::{LazyLock, Mutex},
};

use sha2::{Digest as _, Sha256};

/// A reproducible stream of bytes: blocks of one pseudo-random pattern, each marked with its
/// number, so that a block lost, doubled or moved changes the hash.
#[derive(Clone, Debug)]
pub struct Content {
    pattern: Box<[u8; BLOCK]>,
    at: u64,
    end: u64,
}

const BLOCK: usize = 65536;

impl Content {
    /// The first `length` bytes of the stream of a seed.
    pub fn new(seed: u64, length: u64) -> Self {
        let mut pattern = Box::new([0; BLOCK]);
        fastrand::Rng::with_seed(seed).fill(&mut pattern[..]);
        Self {
            pattern,
            at: 0,
            end: length,
        }
    }

    /// Goes on from a position.
    pub fn skip_to(&mut self, position: u64) {
        self.at = position.min(self.end);
    }

    /// The SHA-256 of the first `length` bytes, in hex. It is worked out once per process.
    pub fn sha256(seed: u64, length: u64) -> String {
        static KNOWN: LazyLock<Mutex<HashMap<(u64, u64), String>>> = LazyLock::new(Mutex::default);
        let mut known = KNOWN.lock().expect("not poisoned");
        known
            .entry((seed, length))
            .or_insert_with(|| {
                let (hash, hashed) = hash(Self::new(seed, length)).expect("reading memory");
                debug_assert_eq!(hashed, length);
                hash
            })
            .clone()
    }
}

/// Reads to the end and gives the SHA-256, in hex, and how many bytes there were.
pub fn hash(mut from: impl Read) -> io::Result<(String, u64)> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 4 * BLOCK];
    let mut total = 0;
    loop {
        match from.read(&mut buffer)? {
            0 => break,
            length => {
                hasher.update(&buffer[..length]);
                total += length as u64;
            }
        }
    }
    let hex = hasher
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    Ok((hex, total))
}

impl Read for Content {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut written = 0;
        while written < buffer.len() && self.at < self.end {
            let (number, offset) = (self.at / BLOCK as u64, (self.at % BLOCK as u64) as usize);
            self.pattern[..8].copy_from_slice(&number.to_le_bytes());
            let length = (BLOCK - offset).min(buffer.len() - written);
            let length = length.min((self.end - self.at).try_into().unwrap_or(usize::MAX));
            buffer[written..][..length].copy_from_slice(&self.pattern[offset..][..length]);
            written += length;
            self.at += length as u64;
        }
        Ok(written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(mut content: Content, step: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut buffer = vec![0; step];
        loop {
            match content.read(&mut buffer).unwrap() {
                0 => return bytes,
                length => bytes.extend(&buffer[..length]),
            }
        }
    }

    #[test]
    fn the_stream_does_not_depend_on_how_it_is_read() {
        let whole = all(Content::new(3, 300_001), 1 << 20);
        assert_eq!(whole.len(), 300_001);
        assert_eq!(all(Content::new(3, 300_001), 7), whole);
        assert_ne!(all(Content::new(4, 300_001), 1 << 20), whole);
        assert_ne!(whole[..BLOCK], whole[BLOCK..2 * BLOCK], "blocks differ");
        let mut late = Content::new(3, 300_001);
        late.skip_to(65_540);
        assert_eq!(all(late, 1000), whole[65_540..]);
    }

    #[test]
    fn the_hash_is_that_of_sha256() {
        assert_eq!(
            hash(&b"abc"[..]).unwrap(),
            (
                "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad".into(),
                3
            )
        );
        assert_eq!(
            Content::sha256(1, 1000),
            hash(Content::new(1, 1000)).unwrap().0
        );
    }
}
