//! The compiler for wasm32, in either of two worlds: the user's own toolchain with the target
//! added, or Debian's with a standard library built here, where the target can not be fetched.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::UNIX_EPOCH,
};

use anyhow::{Context, Result, bail};
use xtask::place;

use crate::child;

pub(crate) const TARGET: &str = "wasm32-unknown-unknown";
/// By which cargo is told the compiler's flags.
const FLAGS: &str = "CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUSTFLAGS";
/// Where Debian's rustc looks for the standard library.
pub(crate) const DEBIAN_STD: &str = "/usr/lib/rustlib/wasm32-unknown-unknown/lib";

/// A compiler that has a standard library for wasm32.
#[derive(Debug)]
pub(crate) struct Toolchain {
    /// Names this compiler and this build of its library: target directories are kept apart.
    key: String,
    /// Set for Debian's compiler, which is not the one in `PATH`.
    debian: Option<Debian>,
}

#[derive(Debug)]
struct Debian {
    /// A directory with `cargo` and `rustc` that goes before the others in `PATH`.
    bin: PathBuf,
    linker: PathBuf,
}

impl Toolchain {
    /// The toolchain to use, or `None` where neither has the library.
    ///
    /// `RINGBACK_WASM=debian` passes the user's own by, to test the other one.
    pub(crate) fn find() -> Result<Option<Self>> {
        let passed_by = std::env::var_os("RINGBACK_WASM").is_some_and(|world| world == "debian");
        if !passed_by {
            let mut rustc = child::command("rustc");
            let dir = child::output(rustc.args(["--print", "target-libdir", "--target", TARGET]))?;
            if test_library(Path::new(&dir)).is_some() {
                let key = version("rustc")?;
                return Ok(Some(Self { key, debian: None }));
            }
        }
        let Some(library) = test_library(Path::new(DEBIAN_STD)) else {
            return Ok(None);
        };
        let built = fs::metadata(library)?
            .modified()?
            .duration_since(UNIX_EPOCH)?
            .as_secs();
        let key = format!("debian-{}-{built}", version("/usr/bin/rustc")?);
        let debian = Debian {
            bin: debian_bin()?,
            linker: linker()?,
        };
        Ok(Some(Self {
            key,
            debian: Some(debian),
        }))
    }

    /// The same, as an error where there is none.
    pub(crate) fn require() -> Result<Self> {
        match Self::find()? {
            Some(found) => Ok(found),
            None => bail!("no compiler here has {TARGET}: run `cargo xtask setup`"),
        }
    }

    pub(crate) fn target_dir(&self) -> PathBuf {
        place::workspace().join("target/worker").join(&self.key)
    }

    /// Makes `command` build with this toolchain, into its own target directory.
    pub(crate) fn apply(&self, command: &mut Command) -> Result<()> {
        command
            .env("CARGO_TARGET_DIR", self.target_dir())
            .env(FLAGS, flags());
        if let Some(debian) = &self.debian {
            command
                .env("PATH", before_path(&debian.bin)?)
                .env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", &debian.linker)
                .env_remove("RUSTC")
                .env_remove("RUSTUP_TOOLCHAIN");
        }
        Ok(())
    }

    /// A `cargo` of this toolchain.
    pub(crate) fn cargo(&self) -> Result<Command> {
        let program = match &self.debian {
            Some(debian) => debian.bin.join("cargo"),
            None => PathBuf::from("cargo"),
        };
        let mut command = child::command(program);
        command.current_dir(place::workspace());
        self.apply(&mut command)?;
        Ok(command)
    }
}

/// The compiler's flags, the same for all that is compiled to wasm, so that nothing is compiled twice.
///
/// With `erase_components` Leptos compiles a view once, whatever is in it: half the size. And nothing is
/// published of whose machine this was. (What is in the workspace has paths relative to it.)
fn flags() -> String {
    let home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(std::env::home_dir()?.join(".cargo")));
    let mut flags = "--cfg erase_components".to_owned();
    // The variable knows no quotes: where a path has a space, that is told after all.
    if let Some(home) = home.and_then(|home| home.into_os_string().into_string().ok())
        && !home.contains(char::is_whitespace)
    {
        flags += &format!(" --remap-path-prefix={home}=cargo");
    }
    flags
}

/// The library `test` in `dir`: what depends on all others, so they are there too.
fn test_library(dir: &Path) -> Option<PathBuf> {
    let mut files = fs::read_dir(dir).ok()?.flatten();
    files.find_map(|file| {
        let name = file.file_name();
        let name = name.to_string_lossy();
        (name.starts_with("libtest-") && name.ends_with(".rlib")).then(|| file.path())
    })
}

fn version(rustc: &str) -> Result<String> {
    let text = child::output(child::command(rustc).arg("--version"))?;
    text.split(' ')
        .nth(1)
        .map(str::to_owned)
        .with_context(|| format!("`{rustc} --version`: {text}"))
}

/// Cargo looks up `rustc` in `PATH`, so Debian's get a directory that holds nothing else.
fn debian_bin() -> Result<PathBuf> {
    let bin = place::cache()?.join("debian-rust");
    fs::create_dir_all(&bin).with_context(|| format!("creating {}", bin.display()))?;
    for name in ["cargo", "rustc", "rustdoc", "cargo-clippy", "clippy-driver"] {
        let (link, to) = (bin.join(name), Path::new("/usr/bin").join(name));
        if to.exists() && !link.exists() {
            std::os::unix::fs::symlink(&to, &link)
                .with_context(|| format!("linking {}", link.display()))?;
        }
    }
    Ok(bin)
}

/// The linker for wasm: Rust's own copy in the user's toolchain, else one of the system's.
pub(crate) fn linker() -> Result<PathBuf> {
    let sysroot = child::output(child::command("rustc").args(["--print", "sysroot"]))?;
    let libraries = Path::new(&sysroot).join("lib/rustlib");
    let own = fs::read_dir(libraries)
        .into_iter()
        .flatten()
        .flatten()
        .map(|target| target.path().join("bin/rust-lld"))
        .find(|file| file.exists());
    own.or_else(|| place::command("wasm-ld"))
        .context("no linker for wasm: neither rust-lld in the toolchain nor wasm-ld (package lld)")
}

fn before_path(dir: &Path) -> Result<OsString> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::iter::once(dir.to_owned()).chain(std::env::split_paths(&path));
    Ok(std::env::join_paths(dirs)?)
}
