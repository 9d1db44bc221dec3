//! Rust for a browser or the edge: compiled to wasm32, with the JavaScript around it, as small as it gets.

use std::{fs, path::Path, time::Instant};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};
use xtask::place;

use crate::{
    child, say,
    setup::{self, Need, Packages},
    wasm::{self, Toolchain},
};

/// What [`Program::build`] needs.
pub(crate) const NEEDS: &[Need] = &[
    Need::Packages(Packages::Build),
    Need::Node,
    Need::Npm,
    Need::WasmTarget,
    Need::WasmBindgen,
];
/// Says which compiled crate and tools the files beside it were made by.
const STAMP: &str = ".stamp";

/// Where a program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Host {
    /// A page, which loads the wasm file itself.
    Browser,
    /// A worker, whose wasm file is a module that the platform has compiled.
    Edge,
}

/// A crate of this workspace that is compiled to wasm.
#[derive(Debug)]
pub(crate) struct Program<'a> {
    /// The package, as `ringback-wasm`. Its library has the same name, with underscores, and is a
    /// `cdylib`.
    pub(crate) package: &'a str,
    pub(crate) features: &'a [&'a str],
    /// The files made are `NAME.js`, `NAME_bg.wasm`, and with types `NAME.d.ts`.
    pub(crate) name: &'a str,
    pub(crate) types: bool,
    pub(crate) host: Host,
}

impl Program<'_> {
    /// Compiles, binds and optimises into `output`, a directory that holds nothing else afterwards.
    /// Does nothing of it that is done; false: nothing was to do.
    pub(crate) fn build(&self, output: &Path) -> Result<bool> {
        let start = Instant::now();
        let toolchain = Toolchain::require()?;
        let mut cargo = toolchain.cargo()?;
        cargo.args(["build", "--profile", "wasm", "--lib"]).args([
            "--target",
            wasm::TARGET,
            "--package",
            self.package,
        ]);
        if !self.features.is_empty() {
            cargo.args(["--features", &self.features.join(",")]);
        }
        let log = place::cache()?.join(format!("log/{}.log", self.package));
        child::run_logged(&mut cargo, self.package, &log)?;
        let library = self.package.replace('-', "_");
        let compiled = toolchain
            .target_dir()
            .join(wasm::TARGET)
            .join(format!("wasm/{library}.wasm"));
        let stamp = self.stamp(&compiled)?;
        if fs::read_to_string(output.join(STAMP)).is_ok_and(|text| text == stamp) {
            return Ok(false);
        }
        let _ = fs::remove_dir_all(output);
        fs::create_dir_all(output).with_context(|| format!("creating {}", output.display()))?;
        self.bind(&compiled, output)?;
        self.optimise(output)?;
        fs::write(output.join(STAMP), stamp)?;
        say::note(&format!(
            "{} built in {}",
            self.name,
            say::duration(start.elapsed())
        ));
        Ok(true)
    }

    fn bind(&self, compiled: &Path, output: &Path) -> Result<()> {
        let mut bindgen = child::command(place::wasm_bindgen("wasm-bindgen")?);
        match self.host {
            Host::Browser => bindgen.args(["--target", "web", "--remove-producers-section"]),
            // After a panic the platform goes on with a fresh instance, and so does the script.
            Host::Edge => bindgen
                .args(["--target", "module", "--force-enable-abort-handler"])
                .arg("--experimental-reset-state-function"),
        };
        bindgen
            .args(["--out-name", self.name, "--out-dir"])
            .arg(output)
            .arg(compiled);
        if !self.types {
            bindgen.arg("--no-typescript");
        }
        child::run(&mut bindgen)
    }

    fn optimise(&self, output: &Path) -> Result<()> {
        let file = output.join(format!("{}_bg.wasm", self.name));
        let smaller = output.join("smaller.wasm");
        let mut opt = child::command(place::npm_tool("wasm-opt")?);
        // What rustc and wasm-bindgen use by themselves, and every browser has that has what a call
        // needs. (The section that says so is not always there to be found.)
        opt.args(["-Oz", "--enable-bulk-memory", "--enable-mutable-globals"])
            .args(["--enable-nontrapping-float-to-int", "--enable-sign-ext"])
            .args(["--enable-reference-types", "--enable-multivalue"])
            // A function put into its only caller is a few bytes fewer, but no longer like others of
            // its kind: compressed, it is a tenth more.
            .arg("--one-caller-inline-max-function-size=0")
            // A panic names its file and line without them.
            .arg("--strip-debug");
        if self.host == Host::Edge {
            // Panics are caught on their way out.
            opt.arg("--enable-exception-handling");
        }
        opt.arg("--output").arg(&smaller).arg(&file);
        child::run(&mut opt)?;
        fs::rename(&smaller, &file).with_context(|| format!("writing {}", file.display()))
    }

    fn stamp(&self, compiled: &Path) -> Result<String> {
        let mut hash = Sha256::new();
        hash.update(fs::read(compiled).with_context(|| format!("reading {}", compiled.display()))?);
        hash.update(format!("{self:?}"));
        for tool in [place::wasm_bindgen("wasm-bindgen")?, place::npm_tools()?] {
            hash.update(tool.to_string_lossy().as_bytes());
        }
        Ok(hash
            .finalize()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect())
    }
}

/// Installs what building pages needs.
pub(crate) fn setup() -> Result<()> {
    setup::ensure(NEEDS)
}
