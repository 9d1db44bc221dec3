//! A large file of noise, and its way through the page.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use sha2::{Digest as _, Sha256};

use crate::visit::Visit;

/// Bytes: enough for something to happen on the way.
pub const LARGE: u64 = 256 << 20;
/// Bytes: more than what a page may take for it.
pub const HUGE: u64 = 1 << 30;
/// How long one such transfer may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(240);

/// A file of so many bytes of noise, and its hash.
pub fn noise(path: &Path, size: u64) -> Result<[u8; 32]> {
    let mut file = File::create(path)?;
    let mut hash = Sha256::new();
    let mut block = vec![0; 1 << 20];
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..size >> 20 {
        random.fill(&mut block);
        hash.update(&block);
        file.write_all(&block)?;
    }
    Ok(hash.finalize().into())
}

/// SHA-256 of a file.
pub fn hash(path: &Path) -> Result<[u8; 32]> {
    let mut file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    let mut hash = Sha256::new();
    let mut block = vec![0; 1 << 20];
    loop {
        match file.read(&mut block)? {
            0 => return Ok(hash.finalize().into()),
            length => hash.update(&block[..length]),
        }
    }
}

/// Waits until that part of a transfer is done, and not all of it.
pub fn until_part(visit: &Visit, name: &str, part: f64) -> Result<()> {
    let wanted = format!(
        "[...document.querySelectorAll('.transfer')].find(t => t.querySelector('.name').textContent \
         === '{name}')?.querySelector('progress').value >= {part}"
    );
    visit.page.until_within(PATIENCE, &wanted)?;
    let now = visit.transfer_part(name)?;
    ensure!(
        now < 0.97,
        "{name}: {now} is done before anything could be killed"
    );
    Ok(())
}
