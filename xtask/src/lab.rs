//! `cargo xtask nat` and `cargo xtask bench`: the NAT lab, on release builds.

use std::{ffi::OsString, os::unix::process::CommandExt, process::Command};

use anyhow::{Context, Result};
use xtask::place;

use crate::{
    child, program, say,
    setup::{self, Need, Packages},
    site, wasm_pkg, web, worker,
};

#[derive(clap::Args, Debug)]
pub(crate) struct Arguments {
    /// What the lab's own command takes; `--help` lists it
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

/// Builds what the lab needs and becomes `ringback-lab VERB ARGUMENTS`.
pub(crate) fn run(verb: &str, arguments: &Arguments) -> Result<()> {
    let with_browser = uses_browser(verb, &arguments.arguments);
    let mut needs = [setup::WORKER, &[Need::Packages(Packages::Lab)]].concat();
    if with_browser {
        needs.push(Need::Packages(Packages::Browser));
        needs.extend_from_slice(program::NEEDS);
    }
    setup::ensure(&needs)?;
    worker::build()?;
    if with_browser {
        web::build()?;
        site::run()?;
        wasm_pkg::build()?;
    }
    let release = build_release(&["ringback", "ringback-lab"])?;
    let lab = release.join("ringback-lab");
    // Namespaces are made by root; what the lab needs to know goes through sudo by name.
    let variables = [
        ("RINGBACK_BIN", release.join("ringback")),
        ("RINGBACK_WORKERD", place::workerd()?),
        ("RINGBACK_WORKER_BUILD", place::worker_output()),
    ];
    let mut command = if setup::is_root() {
        Command::new(&lab)
    } else {
        say::note("the lab makes network namespaces, so it runs by sudo");
        let mut sudo = Command::new("sudo");
        sudo.args(
            variables
                .iter()
                .map(|(name, value)| format!("{name}={}", value.display())),
        );
        sudo.arg(&lab);
        sudo
    };
    command.arg(verb).args(&arguments.arguments).envs(variables);
    Err(command.exec()).with_context(|| format!("starting {}", lab.display()))
}

/// Does the lab open pages, for which they have to be built?
fn uses_browser(verb: &str, arguments: &[OsString]) -> bool {
    let has = |word: &str| arguments.iter().any(|argument| argument == word);
    let names_parts = arguments
        .iter()
        .any(|argument| argument.to_string_lossy().starts_with("--only"));
    let names_it = arguments
        .iter()
        .filter_map(|argument| argument.to_str())
        .flat_map(|argument| argument.split([',', '=']))
        .any(|word| word == "browser");
    match verb {
        "nat" => has("--browser"),
        _ => names_it || !(names_parts || has("--help") || has("-h")),
    }
}

/// Builds binaries of the workspace for release and returns the directory they are in.
fn build_release(binaries: &[&str]) -> Result<std::path::PathBuf> {
    let mut cargo = child::command("cargo");
    cargo
        .current_dir(place::workspace())
        .args(["build", "--release"]);
    for name in binaries {
        cargo.args(["--bin", name]);
    }
    let log = place::cache()?.join("log/release.log");
    child::run_logged(&mut cargo, "release build", &log)?;
    Ok(target_dir().join("release"))
}

/// Where cargo builds: `target`, unless the environment says otherwise.
pub(crate) fn target_dir() -> std::path::PathBuf {
    let own = std::env::var_os("CARGO_TARGET_DIR").map(std::path::PathBuf::from);
    place::workspace().join(own.unwrap_or_else(|| "target".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_built_where_they_are_opened() {
        for (verb, line, expected) in [
            ("nat", "--caller open", false),
            ("nat", "--browser --caller open", true),
            ("bench", "--runs 5", true),
            ("bench", "--only paths,browser", true),
            ("bench", "--only=browser", true),
            ("bench", "--only paths", false),
            ("bench", "--help", false),
            ("bench", "-h", false),
        ] {
            let arguments: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            assert_eq!(uses_browser(verb, &arguments), expected, "{verb} {line}");
        }
    }
}
