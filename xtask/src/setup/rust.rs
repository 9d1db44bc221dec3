//! Components of the Rust toolchain.

use std::path::Path;

use anyhow::{Result, bail};
use xtask::place;

use super::missing::Missing;
use crate::child;

/// A component of rustup, told by the program it brings.
pub(super) fn missing(
    component: &'static str,
    program: &'static str,
    why: &'static str,
) -> Option<Missing> {
    // rustup puts a proxy for every program in PATH, installed or not: look into the toolchain.
    let there = match child::output(child::command("rustc").args(["--print", "sysroot"])) {
        Ok(sysroot) if Path::new(&sysroot).join("bin/cargo").exists() => {
            Path::new(&sysroot).join("bin").join(program).exists()
        }
        _ => place::command(program).is_some(),
    };
    (!there).then(|| {
        Missing::new(
            format!("{component} of the Rust toolchain"),
            why,
            move || add(component),
        )
    })
}

/// The nightly compiler, which alone can count what a fuzz target reaches.
pub(super) fn nightly() -> Option<Missing> {
    let mut asked = child::command("rustc");
    asked.arg("-vV").env("RUSTUP_TOOLCHAIN", "nightly");
    child::output(&mut asked).is_err().then(|| {
        Missing::new(
            "Rust's nightly toolchain",
            "instruments the fuzz targets",
            add_nightly,
        )
    })
}

fn add_nightly() -> Result<()> {
    if place::command("rustup").is_none() {
        bail!("the nightly toolchain is missing and there is no rustup that could fetch it");
    }
    let install = ["toolchain", "install", "nightly", "--profile", "minimal"];
    child::run(child::command("rustup").args(install))
}

fn add(component: &str) -> Result<()> {
    if place::command("rustup").is_none() {
        bail!(
            "{component} is missing and there is no rustup: install it from where Rust came from"
        );
    }
    child::run(child::command("rustup").args(["component", "add", component]))
}
