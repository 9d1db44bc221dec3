//! Command-line tools that come as Rust source, in fixed versions.
//!
//! They are compiled without optimisation: that halves the wait, and what they do takes tenths of
//! a second either way. One target directory for all of them saves the crates they share.

use std::fs;

use anyhow::Result;
use xtask::place;

use super::missing::{Missing, put_in_place, stage};
use crate::{child, say};

/// A package and the binaries of it that are wanted.
struct Tool {
    package: &'static str,
    version: String,
    binaries: &'static [&'static str],
    features: &'static [&'static str],
}

pub(super) fn wasm_bindgen() -> Result<Option<Missing>> {
    let tool = Tool {
        package: "wasm-bindgen-cli",
        version: place::locked_version("wasm-bindgen")?,
        binaries: &["wasm-bindgen", "wasm-bindgen-test-runner"],
        // The default is TLS, for downloading browsers' drivers.
        features: &["--no-default-features"],
    };
    tool.missing("makes the JavaScript around wasm; has to fit the library in Cargo.lock exactly")
}

pub(super) fn nextest() -> Result<Option<Missing>> {
    // Any version that the machine has will do; it is a long build.
    if place::command("cargo-nextest").is_some() {
        return Ok(None);
    }
    let tool = Tool {
        package: "cargo-nextest",
        version: place::NEXTEST.to_owned(),
        binaries: &["cargo-nextest"],
        features: &["--no-default-features", "--features=default-no-update"],
    };
    tool.missing("runs the tests, each in a process of its own")
}

pub(super) fn cargo_deny() -> Result<Option<Missing>> {
    let tool = Tool {
        package: "cargo-deny",
        version: place::CARGO_DENY.to_owned(),
        binaries: &["cargo-deny"],
        features: &[],
    };
    tool.missing("checks dependencies for licences, known holes and bans")
}

pub(super) fn cargo_fuzz() -> Result<Option<Missing>> {
    let tool = Tool {
        package: "cargo-fuzz",
        version: place::CARGO_FUZZ.to_owned(),
        binaries: &["cargo-fuzz"],
        features: &[],
    };
    tool.missing("builds the fuzz targets")
}

impl Tool {
    fn missing(self, why: &'static str) -> Result<Option<Missing>> {
        for name in self.binaries {
            if !place::cargo_tool(self.package, &self.version, name)?.exists() {
                let what = format!("{} {}", self.package, self.version);
                return Ok(Some(Missing::new(what, why, move || self.install())));
            }
        }
        Ok(None)
    }

    fn install(&self) -> Result<()> {
        // With the versions its authors tested, unless a registry no longer has one of them.
        if let Err(error) = self.cargo_install(&["--locked"]) {
            say::note(&format!("{error}"));
            say::note("trying again with the newest versions of what it depends on");
            self.cargo_install(&[])?;
        }
        let name = format!("{}-{}", self.package, self.version);
        put_in_place(
            &stage()?.join(&name),
            &place::cache()?.join("tools").join(&name),
        )
    }

    fn cargo_install(&self, more: &[&str]) -> Result<()> {
        let name = format!("{}-{}", self.package, self.version);
        let made = stage()?.join(&name);
        let _ = fs::remove_dir_all(&made);
        let mut cargo = child::command("cargo");
        cargo
            .args(["install", "--no-track", "--root"])
            .arg(&made)
            .args(self.features)
            .args(more)
            .arg(format!("{}@{}", self.package, self.version))
            .current_dir(stage()?.parent().unwrap_or(&made))
            .env("CARGO_TARGET_DIR", stage()?.join("target"));
        for name in self.binaries {
            cargo.args(["--bin", name]);
        }
        for (key, value) in [
            ("OPT_LEVEL", "0"),
            ("DEBUG", "0"),
            ("LTO", "off"),
            ("CODEGEN_UNITS", "16"),
            ("STRIP", "debuginfo"),
        ] {
            cargo.env(format!("CARGO_PROFILE_RELEASE_{key}"), value);
        }
        let log = place::cache()?
            .join("log")
            .join(format!("{}.log", self.package));
        child::run_logged(&mut cargo, self.package, &log)
    }
}
