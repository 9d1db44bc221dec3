//! `cargo xtask pages`: what is deployed beside the worker, with the headers that it is served with.

use std::{env, fs, path::Path};

use anyhow::{Context, Result};
use xtask::{pages::Pages, place, wrangler::Wrangler};

use crate::say;

/// What the build of a deployment is told by its environment, as wrangler starts it.
pub(crate) const LAN_ORIGIN: &str = "RINGBACK_LAN_ORIGIN";
pub(crate) const REGISTRY_ORIGIN: &str = "RINGBACK_ORIGIN";

/// Puts the registry's page and the LAN origin's pages in place with their headers. Where the
/// origins are not told, the page frames nothing, and the LAN's pages are framed by nobody.
pub(crate) fn run() -> Result<()> {
    let worker = place::workspace().join("worker");
    let told = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
    let registry = Wrangler::read(&worker.join("wrangler.toml"))?;
    let var = registry.vars.get("LAN_ORIGIN");
    let lan_origin = told(LAN_ORIGIN).or_else(|| Some(var?.as_str()?.to_owned()));
    let assets = registry.assets.unwrap_or_default();
    let page = Pages::registry(
        assets,
        lan_origin.as_deref().filter(|text| !text.is_empty()),
    )?;
    page.write()?;

    copy_lan()?;
    let lan = Wrangler::read(&worker.join("lan/wrangler.toml"))?;
    let framed_by = told(REGISTRY_ORIGIN);
    let lan = Pages::lan(
        lan.assets.unwrap_or_default(),
        framed_by.as_deref().unwrap_or("'none'"),
    )?;
    lan.write()?;
    if !place::page().join("index.html").exists() {
        say::note("there is no page in web-ui/dist: the registry is its API alone");
    }
    Ok(())
}

/// The LAN's pages are deployed as they are written.
pub(crate) fn copy_lan() -> Result<()> {
    let from = place::workspace().join("web-ui/lan");
    let to = place::lan_pages();
    let _ = fs::remove_dir_all(&to);
    fs::create_dir_all(&to).with_context(|| format!("creating {}", to.display()))?;
    if from.exists() {
        copy(&from, &to)?;
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(from).with_context(|| format!("reading {}", from.display()))? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            fs::create_dir_all(&target)?;
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target)
                .with_context(|| format!("copying to {}", target.display()))?;
        }
    }
    Ok(())
}
