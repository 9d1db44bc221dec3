//! `cargo xtask worker`: the registry as wrangler and workerd take it, in `worker/build`.

use std::{
    fs,
    io::Write,
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};
use xtask::place;

use crate::{
    child, say, setup,
    wasm::{self, Toolchain},
};

/// What a deployment may weigh, compressed.
const SIZE_LIMIT: u64 = 1 << 20;
/// Says which compiled worker the files beside it were made from.
const STAMP: &str = ".stamp";

#[derive(clap::Args, Debug)]
pub(crate) struct Arguments {
    /// Install nothing: fail where a tool is missing
    #[arg(long)]
    no_setup: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    if !arguments.no_setup {
        setup::ensure(setup::WORKER)?;
    }
    build()
}

/// Compiles, binds, optimises and bundles the worker; does nothing of it that is done.
pub(crate) fn build() -> Result<()> {
    let start = Instant::now();
    let toolchain = Toolchain::require()?;
    let folder = place::workspace().join("worker");
    let output = folder.join("build");
    child::run(toolchain.cargo()?.current_dir(&folder).args([
        "build",
        "--quiet",
        "--profile",
        "wasm",
        "--target",
        wasm::TARGET,
        "--lib",
    ]))?;
    let stamp = stamp(&toolchain)?;
    let done = fs::read_to_string(output.join(STAMP)).is_ok_and(|text| text == stamp);
    if !done {
        bundle(&toolchain, &folder)?;
        fs::write(output.join(STAMP), stamp)?;
    }
    let weight = weight(&output)?;
    let age = if done { "unchanged" } else { "built" };
    say::note(&format!(
        "worker {age} in {}: {} gzip (limit {})",
        say::duration(start.elapsed()),
        say::size(weight),
        say::size(SIZE_LIMIT)
    ));
    if weight > SIZE_LIMIT {
        bail!(
            "the worker weighs {} compressed; more than {} is not deployed",
            say::size(weight),
            say::size(SIZE_LIMIT)
        );
    }
    Ok(())
}

/// wrangler, in the folder of the registry.
pub(crate) fn wrangler() -> Result<Command> {
    let mut command = child::command(place::npm_tool("wrangler")?);
    command
        .current_dir(place::workspace().join("worker"))
        .env("WRANGLER_SEND_METRICS", "false");
    Ok(command)
}

/// worker-build compiles (again, which finds everything done), binds, optimises and bundles.
fn bundle(toolchain: &Toolchain, folder: &Path) -> Result<()> {
    let mut command = child::command(place::worker_build()?);
    command
        .current_dir(folder)
        .args(["--profile", "wasm"])
        .env("WASM_BINDGEN_BIN", place::wasm_bindgen("wasm-bindgen")?)
        .env("WASM_OPT_BIN", place::npm_tool("wasm-opt")?)
        .env("ESBUILD_BIN", place::npm_tool("esbuild")?);
    toolchain.apply(&mut command)?;
    let log = place::cache()?.join("log/worker-build.log");
    child::run_logged(&mut command, "worker-build", &log)
}

/// The hash of the compiled worker and of the versions of the tools that work on it.
fn stamp(toolchain: &Toolchain) -> Result<String> {
    let wasm = toolchain
        .target_dir()
        .join(wasm::TARGET)
        .join("wasm/ringback_worker.wasm");
    let mut hash = Sha256::new();
    hash.update(fs::read(&wasm).with_context(|| format!("reading {}", wasm.display()))?);
    for tool in [
        place::worker_build()?,
        place::wasm_bindgen("wasm-bindgen")?,
        place::npm_tools()?,
    ] {
        hash.update(tool.to_string_lossy().as_bytes());
    }
    Ok(hash
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

/// What the code in a directory weighs, each compressed as gzip does at its best.
pub(crate) fn weight(output: &Path) -> Result<u64> {
    let mut total = 0;
    for file in fs::read_dir(output)? {
        let path = file?.path();
        if !matches!(
            path.extension().and_then(|ext| ext.to_str()),
            Some("js" | "wasm")
        ) {
            continue;
        }
        let mut gzip = child::command("gzip")
            .args(["-9", "-c"])
            .arg(&path)
            .stdout(Stdio::piped())
            .spawn()
            .context("starting gzip")?;
        let mut out = gzip.stdout.take().context("gzip has no output")?;
        total += std::io::copy(&mut out, &mut std::io::sink())?;
        gzip.wait()?;
    }
    std::io::stderr().flush()?;
    Ok(total)
}
