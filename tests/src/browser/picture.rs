//! Pictures of a page, kept as artefacts of the test run.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Value, json};
use xtask::place;

use super::{
    devtools::DevTools,
    page::Page,
    window::{Scheme, Size},
};

impl Page {
    /// Waits until everything that was changed so far is drawn, with the fonts that were wanted for
    /// it, and colours are no longer on their way.
    pub fn settle(&self) -> Result<()> {
        self.eval::<Value>(
            "(async () => { await document.fonts.ready; \
             for (let i = 0; i < 2; i++) await new Promise(requestAnimationFrame); })()",
        )?;
        self.until("document.getAnimations().every(it => !(it instanceof CSSTransition))")
    }

    /// Keeps a picture of what the window shows, as `target/tmp/screenshots/NAME.png`.
    pub fn picture(&self, name: &str) -> Result<PathBuf> {
        self.settle()?;
        let shot = self.call("Page.captureScreenshot", &json!({ "format": "png" }))?;
        keep(name, &shot)
    }

    /// Pictures of what is shown now in both sizes and both schemes, as
    /// `NAME-{phone,desktop}-{light,dark}.png`.
    pub fn pictures(&self, name: &str) -> Result<Vec<PathBuf>> {
        let mut kept = Vec::new();
        for size in [Size::Phone, Size::Desktop] {
            self.set_size(size)?;
            for scheme in [Scheme::Dark, Scheme::Light] {
                self.set_scheme(scheme)?;
                let name = format!("{name}-{}-{}", size.name(), scheme.name());
                kept.push(self.picture(&name)?);
            }
        }
        Ok(kept)
    }
}

/// What every page of a test that fails showed at its end.
pub(super) fn keep_last_sight(tools: &DevTools) {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("test").replace("::", "-");
    let pages = tools.targets();
    let pages = pages.iter().filter(|target| target.kind == "page");
    for (number, target) in pages.enumerate() {
        let parameters = json!({ "format": "png" });
        let shot = tools.call_within(
            std::time::Duration::from_secs(3),
            Some(&target.session),
            "Page.captureScreenshot",
            &parameters,
        );
        if let Ok(path) = shot.and_then(|shot| keep(&format!("failed-{test}-{number}"), &shot)) {
            eprintln!("{}: kept in {}", target.url, path.display());
        }
    }
}

fn keep(name: &str, shot: &Value) -> Result<PathBuf> {
    let data = shot["data"].as_str().context("no picture")?;
    let dir = place::workspace().join("target/tmp/screenshots");
    std::fs::create_dir_all(&dir)?;
    let path = dir.join(format!("{name}.png"));
    std::fs::write(&path, BASE64_STANDARD.decode(data)?)?;
    Ok(path)
}
