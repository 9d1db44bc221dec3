//! The npm package as a registry's own page: for tests of the client without the web UI.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, ensure};
use xtask::{place, workerd::Config};

/// Loads the package in a page of [`serve`]; afterwards it is the global `client`.
pub const CLIENT: &str = "import('/ringback/index.js')\
     .then(async module => { await module.init(); globalThis.client = module; })";

/// The registry's page is an empty one, beside the built package. The headers are those of the
/// real page.
pub fn serve(config: Config) -> Result<Config> {
    let mut config = config.with_page(None)?;
    let package = place::workspace().join("wasm-pkg/pkg");
    ensure!(
        package.join("index.js").exists(),
        "the package is not built: run `cargo xtask wasm-pkg`"
    );
    let pages = config.dir.join("pages");
    fs::create_dir_all(pages.join("ringback"))?;
    copy(&package, &pages.join("ringback"))?;
    fs::write(
        pages.join("index.html"),
        "<!doctype html><html lang=en><title>Ringback's client</title><link rel=icon href=data:,>",
    )?;
    config.pages.as_mut().context("set above")?.directory = pages;
    Ok(config)
}

/// The real page, and beside it the package below `/ringback/`.
pub fn serve_beside_page(config: Config) -> Result<Config> {
    let mut config = serve(config)?;
    let pages = &mut config.pages.as_mut().context("set above")?.directory;
    let page = place::page();
    ensure!(
        page.join("index.html").exists(),
        "the page is not built: run `cargo xtask web`"
    );
    copy(&page, pages)?;
    fs::create_dir_all(pages.join("assets"))?;
    copy(&page.join("assets"), &pages.join("assets"))?;
    Ok(config)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    Ok(())
}
