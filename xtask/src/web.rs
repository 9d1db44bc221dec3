//! `cargo xtask web`: the registry's page, in `web-ui/dist`, with names that change with the content.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};
use xtask::place;

use crate::{
    child,
    program::{self, Host, Program},
    say, site,
};

/// What is transferred until a terminal is opened, compressed by gzip, may weigh.
const SIZE_LIMIT: u64 = 500 << 10;
/// The folder of files whose names have a hash.
const HASHED: &str = "assets";
const PAGE: Program<'static> = Program {
    package: "ringback-web-ui",
    features: &[],
    name: "ringback_web_ui",
    types: false,
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
    build()?;
    site::run()
}

/// Builds the page. Everything is made beside the old one and put in its place at the end.
pub(crate) fn build() -> Result<()> {
    let made = place::workspace().join("target/web");
    let program = made.join("program");
    PAGE.build(&program)?;
    let bundle = Bundle::new(&made)?;
    let wasm = bundle.hashed(
        "app.wasm",
        &fs::read(program.join("ringback_web_ui_bg.wasm"))?,
    )?;
    // The entry finds what wasm-bindgen made beside itself.
    fs::copy(source("js/entry.js"), program.join("entry.js"))?;
    let app = bundle.script(
        "app.js",
        &program.join("entry.js"),
        &[&format!("--define:WASM=\"{wasm}\"")],
    )?;
    let style = bundle.script("style.css", &source("style.css"), &[])?;
    let terminal = bundle.script("terminal.js", &source("js/terminal.js"), &[])?;
    let terminal_style = bundle.script("terminal.css", &xterm_style()?, &[])?;
    let disk = bundle.script("disk.js", &source("js/disk.js"), &[])?;
    let names = [
        ("{app.wasm}", &wasm),
        ("{app.js}", &app),
        ("{style.css}", &style),
        ("{terminal.js}", &terminal),
        ("{terminal.css}", &terminal_style),
        ("{disk.js}", &disk),
    ];
    for name in ["index.html", "404.html"] {
        let mut text = fs::read_to_string(source(name))?;
        for (placeholder, name) in names {
            text = text.replace(placeholder, name);
        }
        fs::write(bundle.root.join(name), text)?;
    }
    for name in ["icon.svg", "ringback.webmanifest"] {
        fs::copy(source(name), bundle.root.join(name))?;
    }
    let first = bundle.weight(&["/index.html", "/icon.svg", &wasm, &app, &style])?;
    let later = bundle.weight(&[&terminal, &terminal_style])?;
    bundle.put(&place::page())?;
    say::note(&format!(
        "web-ui/dist: {} gzip to open the page (limit {}), {} more for the first terminal",
        say::size(first),
        say::size(SIZE_LIMIT),
        say::size(later)
    ));
    if first > SIZE_LIMIT {
        bail!("the page is heavier than {}", say::size(SIZE_LIMIT));
    }
    Ok(())
}

fn source(name: &str) -> PathBuf {
    place::workspace().join("web-ui").join(name)
}

fn xterm_style() -> Result<PathBuf> {
    let file = place::npm_tools()?.join("node_modules/@xterm/xterm/css/xterm.css");
    if !file.exists() {
        bail!("xterm.js is not installed: run `cargo xtask setup`");
    }
    Ok(file)
}

/// Files of the page before they are put in place.
struct Bundle {
    root: PathBuf,
}

impl Bundle {
    fn new(made: &Path) -> Result<Self> {
        let root = made.join("dist");
        let _ = fs::remove_dir_all(&root);
        fs::create_dir_all(root.join(HASHED))
            .with_context(|| format!("creating {}", root.display()))?;
        Ok(Self { root })
    }

    /// Writes `content` under a name with its hash; returns its path on the page's origin.
    fn hashed(&self, name: &str, content: &[u8]) -> Result<String> {
        let hash: String = Sha256::digest(content)
            .iter()
            .take(5)
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let (stem, extension) = name.split_once('.').context("a name has an extension")?;
        let path = format!("/{HASHED}/{stem}-{hash}.{extension}");
        fs::write(self.root.join(&path[1..]), content)?;
        Ok(path)
    }

    /// Bundles and shrinks a script or a style sheet, and writes it like [`Self::hashed`].
    fn script(&self, name: &str, entry: &Path, more: &[&str]) -> Result<String> {
        let mut esbuild = esbuild()?;
        esbuild
            .arg(entry)
            .args(["--bundle", "--minify", "--format=esm", "--target=es2022"])
            .args(["--legal-comments=none", "--log-level=warning"])
            .args(more);
        let text = child::output(&mut esbuild)?;
        self.hashed(name, text.as_bytes())
    }

    fn weight(&self, paths: &[&str]) -> Result<u64> {
        let mut total = 0;
        for path in paths {
            let mut gzip = child::command("gzip")
                .args(["-9", "-c"])
                .arg(self.root.join(&path[1..]))
                .stdout(Stdio::piped())
                .spawn()
                .context("starting gzip")?;
            let mut out = gzip.stdout.take().context("gzip has no output")?;
            total += std::io::copy(&mut out, &mut std::io::sink())?;
            gzip.wait()?;
        }
        Ok(total)
    }

    fn put(&self, to: &Path) -> Result<()> {
        let _ = fs::remove_dir_all(to);
        fs::rename(&self.root, to).with_context(|| format!("writing {}", to.display()))
    }
}

/// esbuild, which finds packages among the npm tools.
fn esbuild() -> Result<Command> {
    let mut command = child::command(place::npm_tool("esbuild")?);
    command
        .env("NODE_PATH", place::npm_tools()?.join("node_modules"))
        .current_dir(place::workspace());
    Ok(command)
}
