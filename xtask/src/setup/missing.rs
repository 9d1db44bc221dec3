//! A thing that is missing on this machine, and where it is made.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use xtask::place;

/// A thing that is not there, why it is wanted, and how it comes.
pub(super) struct Missing {
    pub(super) what: String,
    pub(super) why: &'static str,
    pub(super) install: Box<dyn FnOnce() -> Result<()>>,
}

impl Missing {
    pub(super) fn new(
        what: impl Into<String>,
        why: &'static str,
        install: impl FnOnce() -> Result<()> + 'static,
    ) -> Self {
        Self {
            what: what.into(),
            why,
            install: Box::new(install),
        }
    }
}

/// Where things are made before they are put in place; on the same file system, so that the
/// rename is one.
pub(super) fn stage() -> Result<PathBuf> {
    Ok(place::cache()?.join("stage"))
}

/// Moves a finished directory to its place.
pub(super) fn put_in_place(made: &Path, at: &Path) -> Result<()> {
    if let Some(parent) = at.parent() {
        fs::create_dir_all(parent)?;
    }
    if at.exists() {
        fs::remove_dir_all(at).with_context(|| format!("removing {}", at.display()))?;
    }
    fs::rename(made, at).with_context(|| format!("moving {} to {}", made.display(), at.display()))
}
