//! Where things are: the workspace, the tool cache, and the tools in it.
//!
//! Tools live outside `target/`, in `$XDG_CACHE_HOME/ringback`, each in a directory named after
//! its version, so that every checkout shares them and `cargo clean` does not cost them.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, anyhow, bail};
use sha2::{Digest, Sha256};

/// cargo-nextest, installed where the machine has none.
pub const NEXTEST: &str = "0.9.143";
/// cargo-deny, for licences, advisories and bans.
pub const CARGO_DENY: &str = "0.20.2";

/// cargo-fuzz, which builds the fuzz targets.
pub const CARGO_FUZZ: &str = "0.13.2";

/// The root of the checkout.
pub fn workspace() -> PathBuf {
    let crate_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    crate_dir
        .parent()
        .expect("xtask is a folder of the workspace")
        .to_owned()
}

/// Ringback's own directory in the user's cache.
pub fn cache() -> Result<PathBuf> {
    let base = match env::var_os("XDG_CACHE_HOME").filter(|dir| Path::new(dir).is_absolute()) {
        Some(dir) => PathBuf::from(dir),
        None => {
            PathBuf::from(env::var_os("HOME").context("neither XDG_CACHE_HOME nor HOME is set")?)
                .join(".cache")
        }
    };
    Ok(base.join("ringback"))
}

/// The version of `package` that `Cargo.lock` fixes.
pub fn locked_version(package: &str) -> Result<String> {
    let path = workspace().join("Cargo.lock");
    let lock = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    version_in_lock(&lock, package)
        .ok_or_else(|| anyhow!("Cargo.lock has no package {package}; run `cargo metadata` once"))
}

/// A `Cargo.lock` is TOML in one fixed layout; parsing it whole would take longer than this.
fn version_in_lock(lock: &str, package: &str) -> Option<String> {
    let wanted = format!("name = \"{package}\"");
    let mut lines = lock.lines();
    lines.find(|line| *line == wanted)?;
    lines
        .next()?
        .strip_prefix("version = \"")?
        .strip_suffix('"')
        .map(str::to_owned)
}

/// The binary `name` of the Cargo package `package` in the tool cache.
pub fn cargo_tool(package: &str, version: &str, name: &str) -> Result<PathBuf> {
    Ok(cache()?
        .join("tools")
        .join(format!("{package}-{version}"))
        .join("bin")
        .join(name))
}

/// The wasm-bindgen command line that fits the library in `Cargo.lock`.
pub fn wasm_bindgen(name: &str) -> Result<PathBuf> {
    cargo_tool("wasm-bindgen-cli", &locked_version("wasm-bindgen")?, name)
}

/// The directory whose `node_modules` holds what `worker/package-lock.json` fixes.
pub fn npm_tools() -> Result<PathBuf> {
    let lock = workspace().join("worker/package-lock.json");
    let text = fs::read(&lock).with_context(|| format!("reading {}", lock.display()))?;
    let digest = Sha256::digest(&text);
    let key: String = digest
        .iter()
        .take(6)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    Ok(cache()?.join("tools").join(format!("npm-{key}")))
}

/// A command that npm installed.
pub fn npm_tool(name: &str) -> Result<PathBuf> {
    Ok(npm_tools()?.join("node_modules/.bin").join(name))
}

/// The workerd that wrangler carries, or the one `RINGBACK_WORKERD` names.
///
/// The platform's own package holds the binary itself; `workerd` in `.bin` may be a Node script
/// that starts it, and killing that would leave the server alive.
pub fn workerd() -> Result<PathBuf> {
    if let Some(path) = env::var_os("RINGBACK_WORKERD") {
        return Ok(path.into());
    }
    let platform = match (env::consts::OS, env::consts::ARCH) {
        ("linux", "x86_64") => "linux-64",
        ("linux", "aarch64") => "linux-arm64",
        ("macos", "x86_64") => "darwin-64",
        ("macos", "aarch64") => "darwin-arm64",
        (os, arch) => bail!("workerd does not exist for {os} on {arch}"),
    };
    let binary = npm_tools()?
        .join("node_modules/@cloudflare")
        .join(format!("workerd-{platform}"))
        .join("bin/workerd");
    if !binary.exists() {
        bail!("workerd is not installed: run `cargo xtask setup`");
    }
    Ok(binary)
}

/// The built worker: `worker/build`, or the directory `RINGBACK_WORKER_BUILD` names.
pub fn worker_output() -> PathBuf {
    env::var_os("RINGBACK_WORKER_BUILD")
        .map_or_else(|| workspace().join("worker/build"), PathBuf::from)
}

/// The built page, as it is served by the registry.
pub fn page() -> PathBuf {
    workspace().join("web-ui/dist")
}

/// The pages of the LAN origin.
pub fn lan_pages() -> PathBuf {
    workspace().join("web-ui/dist-lan")
}

/// The browser's client as `cargo xtask wasm-pkg` packed it.
pub fn npm_package() -> Result<PathBuf> {
    let name = format!("ringback-{}.tgz", locked_version("ringback-wasm")?);
    let file = workspace().join("wasm-pkg").join(name);
    if !file.exists() {
        bail!(
            "{} is not there: run `cargo xtask wasm-pkg`",
            file.display()
        );
    }
    Ok(file)
}

/// Looks a command up in `PATH` and in the system directories that a user's `PATH` may lack.
pub fn command(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_version_from_the_lock() {
        let lock = "version = 4\n\n[[package]]\nname = \"wasm-bindgen\"\nversion = \"0.2.130\"\n\
                    source = \"x\"\n\n[[package]]\nname = \"wasm-bindgen-macro\"\nversion = \"1.0.0\"\n";
        assert_eq!(
            version_in_lock(lock, "wasm-bindgen").as_deref(),
            Some("0.2.130")
        );
        assert_eq!(
            version_in_lock(lock, "wasm-bindgen-macro").as_deref(),
            Some("1.0.0")
        );
        assert_eq!(version_in_lock(lock, "wasm"), None);
    }

    #[test]
    fn finds_commands_in_the_path() {
        assert!(command("sh").is_some());
        assert!(command("no-such-command-anywhere").is_none());
    }
}
