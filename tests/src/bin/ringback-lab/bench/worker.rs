//! The size of the registry as it is uploaded.

use std::{
    fs::{self, File},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;

use super::report::{Aim, Report};

#[derive(Debug, Serialize)]
pub(crate) struct Figures {
    /// Bytes of JavaScript and wasm, before compression.
    bytes: u64,
    /// Bytes after `gzip -9` of each.
    gzip_bytes: u64,
}

pub(super) fn measure() -> Result<Figures> {
    let build = xtask::place::worker_output();
    let mut figures = Figures {
        bytes: 0,
        gzip_bytes: 0,
    };
    let files =
        fs::read_dir(&build).with_context(|| format!("{}: no built worker", build.display()))?;
    for file in files {
        let path = file?.path();
        if !path
            .extension()
            .is_some_and(|extension| extension == "js" || extension == "wasm")
        {
            continue;
        }
        figures.bytes += fs::metadata(&path)?.len();
        let mut gzip = Command::new("gzip");
        let output = gzip
            .args(["-9", "-c"])
            .stdin(Stdio::from(File::open(&path)?))
            .output()?;
        ensure!(output.status.success(), "gzip: {}", output.status);
        figures.gzip_bytes += output.stdout.len() as u64;
    }
    ensure!(figures.bytes > 0, "{}: no built worker", build.display());
    Ok(figures)
}

impl Figures {
    pub(super) fn report(&self, report: &mut Report) {
        let part = "worker";
        let size = self.gzip_bytes as f64 / 1e3;
        report.aim(part, "size, gzip", size, "KB", Aim::AtMost(400.0));
        report.add(part, "size, unpacked", self.bytes as f64 / 1e3, "KB");
    }
}
