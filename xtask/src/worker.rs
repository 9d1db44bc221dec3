//! `cargo xtask worker`: the registry as wrangler and workerd take it, in `worker/build`.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};
use xtask::place;

use crate::{
    child,
    program::{Host, Program},
    say, setup,
};

/// What a deployment may weigh, compressed.
const SIZE_LIMIT: u64 = 1 << 20;
/// Says what the files beside it were made from.
const STAMP: &str = ".stamp";
const PROGRAM: Program<'static> = Program {
    package: "ringback-worker",
    features: &[],
    name: "index",
    types: false,
    host: Host::Edge,
};

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
    let made = place::workspace().join("target/worker-program");
    PROGRAM.build(&made)?;
    let output = place::workspace().join("worker/build");
    let stamp = stamp(&made)?;
    let done = fs::read_to_string(output.join(STAMP)).is_ok_and(|text| text == stamp);
    if !done {
        bundle(&made, &output)?;
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

/// Makes one script of the entry and of what wasm-bindgen made; the wasm file lies beside it.
fn bundle(made: &Path, output: &Path) -> Result<()> {
    let _ = fs::remove_dir_all(output);
    fs::create_dir_all(output).with_context(|| format!("creating {}", output.display()))?;
    // The entry finds what wasm-bindgen made beside itself.
    fs::copy(entry(), made.join("entry.js")).context("copying the worker's entry")?;
    let script = output.join("index.js");
    let mut esbuild = child::command(place::npm_tool("esbuild")?);
    esbuild
        .arg(made.join("entry.js"))
        .args(["--bundle", "--minify", "--format=esm"])
        .args(["--external:./index_bg.wasm", "--external:cloudflare:*"])
        .args(["--legal-comments=none", "--log-level=warning"])
        .arg(format!("--outfile={}", script.display()));
    child::run(&mut esbuild)?;
    let text =
        fs::read_to_string(&script).with_context(|| format!("reading {}", script.display()))?;
    // Every import of a wasm file is one of its source here, and the platform does not know the word.
    fs::write(&script, text.replace("import source ", "import "))?;
    fs::copy(made.join("index_bg.wasm"), output.join("index_bg.wasm"))
        .context("copying the worker's wasm")?;
    Ok(())
}

fn entry() -> PathBuf {
    place::workspace().join("worker/js/entry.js")
}

/// The hash of what is bundled and of the tools that do it.
fn stamp(made: &Path) -> Result<String> {
    let mut hash = Sha256::new();
    for file in [made.join("index_bg.wasm"), made.join("index.js"), entry()] {
        hash.update(fs::read(&file).with_context(|| format!("reading {}", file.display()))?);
    }
    hash.update(place::npm_tools()?.to_string_lossy().as_bytes());
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
