//! `cargo xtask setup`: installs what is missing, and says for each thing what and why.
//!
//! Every check is a look at files, so that the commands which call this first lose no time.
//! Everything is built or fetched in a staging directory and put in place by one rename: a setup
//! that was interrupted leaves nothing half-made.

mod cargo_tool;
mod missing;
mod npm;
mod packages;
mod rust;
mod wasm_std;

use std::{
    fs::{self, File},
    time::Instant,
};

use anyhow::{Context, Result, bail};
use xtask::place;

use crate::say;

use missing::{Missing, stage};

pub(crate) use packages::{Packages, as_root, is_root};

#[derive(clap::Args, Debug)]
pub(crate) struct Arguments {
    /// Install nothing; list what is missing and fail if anything is
    #[arg(long)]
    check: bool,
}

/// A thing that some command needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Need {
    Packages(Packages),
    Clippy,
    Rustfmt,
    Node,
    Npm,
    WasmTarget,
    WasmBindgen,
    Nextest,
    CargoDeny,
    Nightly,
    CargoFuzz,
}

/// What building the registry and running it locally needs.
pub(crate) const WORKER: &[Need] = &[
    Need::Packages(Packages::Build),
    Need::Node,
    Need::Npm,
    Need::WasmTarget,
    Need::WasmBindgen,
];
/// What everything together needs.
pub(crate) const ALL: &[Need] = &[
    Need::Packages(Packages::Build),
    Need::Packages(Packages::Lab),
    Need::Packages(Packages::Browser),
    Need::Clippy,
    Need::Rustfmt,
    Need::Node,
    Need::Npm,
    Need::WasmTarget,
    Need::WasmBindgen,
    Need::Nextest,
    Need::CargoDeny,
];

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    if arguments.check {
        return check();
    }
    ensure(ALL)?;
    say::note("everything is installed");
    Ok(())
}

fn check() -> Result<()> {
    let missing = missing(ALL)?;
    for thing in &missing {
        println!("missing: {} ({})", thing.what, thing.why);
    }
    match missing.len() {
        0 => {
            say::note("everything is installed");
            Ok(())
        }
        count => bail!("{count} missing; `cargo xtask setup` installs them"),
    }
}

/// Installs those of `needs` that are missing.
pub(crate) fn ensure(needs: &[Need]) -> Result<()> {
    if missing(needs)?.is_empty() {
        return Ok(());
    }
    let _lock = lock()?;
    // Another setup may have done it while this one waited.
    let missing = missing(needs)?;
    say::heading(&format!("setup: {} to install", missing.len()));
    for thing in missing {
        say::note(&format!("{}: {}", thing.what, thing.why));
        let start = Instant::now();
        (thing.install)().with_context(|| format!("installing {}", thing.what))?;
        say::note(&format!("  done in {}", say::duration(start.elapsed())));
    }
    let _ = fs::remove_dir_all(stage()?);
    Ok(())
}

fn missing(needs: &[Need]) -> Result<Vec<Missing>> {
    let mut needs = needs.to_vec();
    needs.sort_unstable();
    needs.dedup();
    let mut found = Vec::new();
    for need in needs {
        found.extend(match need {
            Need::Packages(group) => packages::missing(group),
            Need::Clippy => rust::missing("clippy", "cargo-clippy", "lints"),
            Need::Rustfmt => rust::missing("rustfmt", "cargo-fmt", "checks the format"),
            Need::Node => npm::check_node().map(|()| None)?,
            Need::Npm => npm::missing()?,
            Need::WasmTarget => wasm_std::missing()?,
            Need::WasmBindgen => cargo_tool::wasm_bindgen()?,
            Need::Nextest => cargo_tool::nextest()?,
            Need::CargoDeny => cargo_tool::cargo_deny()?,
            Need::Nightly => rust::nightly(),
            Need::CargoFuzz => cargo_tool::cargo_fuzz()?,
        });
    }
    Ok(found)
}

/// One setup at a time on this machine and user.
fn lock() -> Result<File> {
    let dir = place::cache()?;
    fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
    let path = dir.join("setup.lock");
    let file = File::create(&path).with_context(|| format!("creating {}", path.display()))?;
    if file.try_lock().is_err() {
        say::note("another setup is running; waiting for it");
        file.lock()?;
    }
    Ok(file)
}
