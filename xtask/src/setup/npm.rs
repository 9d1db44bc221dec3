//! The Node tools: wrangler with workerd, esbuild and wasm-opt, as `worker/package-lock.json`
//! fixes them.

use std::fs;

use anyhow::{Context, Result, bail};
use xtask::place;

use super::missing::{Missing, put_in_place, stage};
use crate::child;

/// The oldest Node that wrangler runs on.
const OLDEST_NODE: (u32, u32) = (20, 3);

/// Node is not installed from here: every way to do so is a choice of the machine's owner.
pub(super) fn check_node() -> Result<()> {
    let (major, minor) = OLDEST_NODE;
    let advice = format!("install Node {major}.{minor} or newer with npm, from https://nodejs.org");
    if place::command("npm").is_none() {
        bail!("there is no npm: {advice}");
    }
    // Starting Node takes longer than all other checks together; npm's tools being there proves
    // that it ran.
    if place::npm_tools()?.exists() && place::command("node").is_some() {
        return Ok(());
    }
    let text = child::output(child::command("node").arg("--version"))
        .with_context(|| format!("there is no Node: {advice}"))?;
    match parse(&text) {
        Some(version) if version >= OLDEST_NODE => Ok(()),
        _ => bail!("Node {text} is too old: {advice}"),
    }
}

fn parse(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version
        .strip_prefix('v')?
        .split('.')
        .map(|part| part.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

pub(super) fn missing() -> Result<Option<Missing>> {
    let place = place::npm_tools()?;
    if place.join("node_modules/.bin/wrangler").exists() {
        return Ok(None);
    }
    Ok(Some(Missing::new(
        "npm packages wrangler, esbuild, binaryen, xterm.js, axe-core",
        "wrangler deploys the registry and brings workerd; the others bundle, shrink and check pages",
        install,
    )))
}

/// The lock file fixes what is fetched; what comes with it is not run: the tools work without their
/// packages' install scripts.
const CI: [&str; 5] = [
    "ci",
    "--ignore-scripts",
    "--no-audit",
    "--no-fund",
    "--loglevel=warn",
];

fn install() -> Result<()> {
    let made = stage()?.join("npm");
    let _ = fs::remove_dir_all(&made);
    fs::create_dir_all(&made)?;
    for name in ["package.json", "package-lock.json"] {
        fs::copy(
            place::workspace().join("worker").join(name),
            made.join(name),
        )?;
    }
    let mut npm = child::command("npm");
    npm.current_dir(&made).args(CI);
    child::run_logged(&mut npm, "npm ci", &place::cache()?.join("log/npm.log"))?;
    put_in_place(&made, &place::npm_tools()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_nodes_version() {
        assert_eq!(parse("v20.20.2"), Some((20, 20)));
        assert!(parse("v9.11.0") < Some(OLDEST_NODE));
        assert_eq!(parse("nonsense"), None);
    }
}
