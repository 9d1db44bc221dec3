//! `cargo xtask wasm-pkg`: the browser's client as an npm package, in `wasm-pkg/pkg` and as a
//! tarball beside it.

use std::{fs, path::Path};

use anyhow::{Context, Result, bail};
use serde_json::json;
use xtask::place;

use crate::{
    child,
    program::{self, Host, Program},
    say, worker,
};

/// What is taken from `wasm-pkg/npm` and the checkout as it is: source, then name in the package.
const FILES: &[(&str, &str)] = &[
    ("wasm-pkg/npm/index.js", "index.js"),
    ("wasm-pkg/npm/index.d.ts", "index.d.ts"),
    ("wasm-pkg/npm/README.md", "README.md"),
    ("LICENSE-APACHE", "LICENSE-APACHE"),
    ("LICENSE-MIT", "LICENSE-MIT"),
];
const PACKAGE: Program<'static> = Program {
    package: "ringback-wasm",
    features: &["npm"],
    name: "ringback",
    types: true,
    host: Host::Browser,
};

#[derive(clap::Args, Debug)]
pub(crate) struct Arguments {
    /// Install nothing: fail where a tool is missing
    #[arg(long)]
    no_setup: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    if !arguments.no_setup {
        program::setup()?;
    }
    build()
}

/// Builds the package and packs it.
pub(crate) fn build() -> Result<()> {
    let folder = place::workspace().join("wasm-pkg");
    let package = folder.join("pkg");
    PACKAGE.build(&package)?;
    for (from, to) in FILES {
        let from = place::workspace().join(from);
        fs::copy(&from, package.join(to)).with_context(|| format!("copying {}", from.display()))?;
    }
    let version = version()?;
    let manifest = serde_json::to_string_pretty(&manifest(&version))?;
    fs::write(package.join("package.json"), manifest + "\n")?;
    pack(&package, &folder)?;
    say::note(&format!(
        "{}: {} gzip without types and documents",
        place::npm_package()?.display(),
        say::size(worker::weight(&package)?)
    ));
    Ok(())
}

fn manifest(version: &str) -> serde_json::Value {
    json!({
        "name": "ringback",
        "version": version,
        "description": "Reach a device on any LAN from a web page, over a direct WebRTC link",
        "license": "MIT OR Apache-2.0",
        "type": "module",
        "main": "index.js",
        "types": "index.d.ts",
        "exports": {
            ".": { "types": "./index.d.ts", "default": "./index.js" },
            "./ringback_bg.wasm": "./ringback_bg.wasm",
            "./package.json": "./package.json"
        },
        "files": [
            "index.js", "index.d.ts", "ringback.js", "ringback.d.ts", "ringback_bg.wasm",
            "ringback_bg.wasm.d.ts", "README.md", "LICENSE-APACHE", "LICENSE-MIT"
        ],
        "sideEffects": false,
        "keywords": ["webrtc", "p2p", "remote-access", "nat-traversal", "wasm"]
    })
}

fn version() -> Result<String> {
    place::locked_version("ringback-wasm")
}

fn pack(package: &Path, folder: &Path) -> Result<()> {
    let text = child::output(
        child::command("npm")
            .current_dir(package)
            .args(["pack", "--loglevel=error", "--pack-destination"])
            .arg(folder),
    )?;
    let made = text.lines().last().map(|name| folder.join(name));
    if made != Some(place::npm_package()?) {
        bail!("npm pack says that it made {made:?}");
    }
    Ok(())
}
