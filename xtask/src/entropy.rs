//! Secrets made on this machine.

use std::{fs::File, io::Read};

use anyhow::{Context, Result};

/// `bytes` random bytes from the system, in hexadecimal.
pub(crate) fn hex(bytes: usize) -> Result<String> {
    let mut random = vec![0; bytes];
    File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut random))
        .context("reading /dev/urandom")?;
    Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_long_and_differ() {
        let (one, two) = (hex(32).unwrap(), hex(32).unwrap());
        assert_eq!(one.len(), 64);
        assert_ne!(one, two);
    }
}
