//! A standard library for wasm32: fetched by rustup where that works, else built from Debian's
//! source package for Debian's compiler.

use std::{
    fs,
    path::Path,
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use xtask::place;

use super::missing::{Missing, stage};
use super::packages;
use crate::{
    child, say,
    wasm::{DEBIAN_STD, TARGET, Toolchain},
};

/// How long rustup may try. The download is 20 MB.
const RUSTUP_LIMIT: Duration = Duration::from_secs(120);
const WHY: &str = "the registry is compiled to wasm";

pub(super) fn missing() -> Result<Option<Missing>> {
    let what = format!("Rust's standard library for {TARGET}");
    Ok(Toolchain::find()?
        .is_none()
        .then(|| Missing::new(what, WHY, install)))
}

fn install() -> Result<()> {
    let debian_wanted = std::env::var_os("RINGBACK_WASM").is_some_and(|world| world == "debian");
    if !debian_wanted {
        if by_rustup() {
            return Ok(());
        }
        say::note("rustup could not fetch it; building it from Debian's source package instead");
    }
    if place::command("apt-get").is_none() {
        bail!(
            "rustup could not fetch {TARGET}: check the network and run `rustup target add {TARGET}`"
        );
    }
    by_debian()
}

/// Whether `rustup target add` did it. It is slow to give up without a network, so it is timed.
fn by_rustup() -> bool {
    if place::command("rustup").is_none() {
        return false;
    }
    let started = child::command("rustup")
        .args(["target", "add", TARGET])
        .env("RUSTUP_MAX_RETRIES", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let Ok(mut rustup) = started else {
        return false;
    };
    let start = Instant::now();
    loop {
        match rustup.try_wait() {
            Ok(Some(status)) => return status.success(),
            Ok(None) if start.elapsed() < RUSTUP_LIMIT => thread::sleep(Duration::from_millis(100)),
            _ => {
                let _ = rustup.kill();
                let _ = rustup.wait();
                return false;
            }
        }
    }
}

fn by_debian() -> Result<()> {
    let absent: Vec<&str> = [
        ("/usr/bin/rustc", "rustc-web"),
        ("/usr/bin/cargo", "cargo-web"),
        (
            "/usr/lib/rustlib/src/rust/library/std/Cargo.toml",
            "rust-web-src",
        ),
        ("/usr/bin/cargo-clippy", "rust-web-clippy"),
    ]
    .into_iter()
    .filter(|(file, _)| !Path::new(file).exists())
    .map(|(_, package)| package)
    .collect();
    if !absent.is_empty() {
        packages::install(&absent)?;
    }
    if crate::wasm::linker().is_err() {
        packages::install(&["lld"])?;
    }
    build_std()
}

/// Compiles the standard library in an empty crate and copies it to where rustc looks.
///
/// Without the bitcode in it, link-time optimisation of the worker fails.
fn build_std() -> Result<()> {
    let made = stage()?.join("wasm-std");
    let _ = fs::remove_dir_all(&made);
    fs::create_dir_all(made.join("src"))?;
    let manifest = "[package]\nname = \"empty\"\nedition = \"2021\"\n[workspace]\n";
    fs::write(made.join("Cargo.toml"), manifest)?;
    fs::write(made.join("src/lib.rs"), "")?;
    let mut cargo = child::command("/usr/bin/cargo");
    cargo
        .args([
            "build",
            "--release",
            "--target",
            TARGET,
            "-Zbuild-std=std,panic_abort,test",
        ])
        .current_dir(&made)
        .env_remove("RUSTUP_TOOLCHAIN")
        .env("RUSTC", "/usr/bin/rustc")
        .env("RUSTC_BOOTSTRAP", "1")
        .env("RUSTFLAGS", "-Cembed-bitcode=yes")
        .env("CARGO_TARGET_DIR", made.join("target"));
    child::run_logged(
        &mut cargo,
        "standard library",
        &place::cache()?.join("log/wasm-std.log"),
    )?;
    let built = made.join("target").join(TARGET).join("release/deps");
    copy_libraries(&built)
}

fn copy_libraries(built: &Path) -> Result<()> {
    let mut libraries = Vec::new();
    for file in fs::read_dir(built).with_context(|| format!("reading {}", built.display()))? {
        let path = file?.path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if name.starts_with("lib") && name.ends_with(".rlib") && !name.starts_with("libempty-") {
            libraries.push(path);
        }
    }
    // Into a folder beside, then one rename: rustc must never see half a library. The folder
    // itself is root's.
    let (staged, parent) = (format!("{DEBIAN_STD}.new"), Path::new(DEBIAN_STD).parent());
    let run = |program: &str, arguments: &[&str]| -> Result<()> {
        child::output(packages::as_root(program)?.args(arguments)).map(drop)
    };
    run(
        "mkdir",
        &["-p", &parent.unwrap_or(Path::new("/")).to_string_lossy()],
    )?;
    run("rm", &["-rf", &staged, DEBIAN_STD])?;
    run("mkdir", &[&staged])?;
    let mut copy = packages::as_root("cp")?;
    child::output(copy.args(&libraries).arg(&staged))?;
    run("mv", &[&staged, DEBIAN_STD])
}
