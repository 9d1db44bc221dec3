//! What each part of the tests runs.

use std::{fs, path::Path, process::Command, time::Duration};

use anyhow::{Context, Result, bail};
use xtask::place;

use super::Part;
use crate::{
    child, map, say,
    setup::{self, Need, Packages},
    site,
    wasm::{self, Toolchain},
    wasm_pkg, web, worker,
};

/// The test programs that make up the NAT part; the others of the package are end to end.
const NAT_TESTS: &str = "package(ringback-tests) & binary(/^(lab|nat)/)";
const BROWSER_TESTS: &str = "package(ringback-tests) & binary(/^browser/)";
const E2E_TESTS: &str = "package(ringback-tests) & not binary(/^(lab|nat|browser)/)";
const UNIT_TESTS: &str = "not package(ringback-tests)";

impl Part {
    /// What has to be installed for it.
    pub(super) fn needs(self) -> Vec<Need> {
        let worker_and = |more: &[Need]| [setup::WORKER, more].concat();
        match self {
            Self::Fmt => vec![Need::Rustfmt],
            Self::Map => Vec::new(),
            Self::Clippy => vec![Need::Packages(Packages::Build), Need::Clippy],
            // xtask's own tests start workerd.
            Self::Unit => vec![
                Need::Packages(Packages::Build),
                Need::Nextest,
                Need::Node,
                Need::Npm,
            ],
            Self::Wasm => vec![
                Need::Packages(Packages::Browser),
                Need::Node,
                Need::Clippy,
                Need::WasmTarget,
                Need::WasmBindgen,
            ],
            Self::Worker => worker_and(&[]),
            Self::E2e | Self::Browser | Self::Nat => worker_and(&[
                Need::Packages(Packages::Lab),
                Need::Packages(Packages::Browser),
                Need::Nextest,
            ]),
            Self::Deny => vec![Need::CargoDeny],
            Self::Docs => vec![Need::Packages(Packages::Build)],
        }
    }

    pub(super) fn run(self) -> Result<()> {
        match self {
            Self::Fmt => child::run(cargo().args(["fmt", "--all", "--check"])),
            Self::Map => map::check(),
            Self::Clippy => child::run(cargo().args([
                "clippy",
                "--workspace",
                "--all-targets",
                "--quiet",
                "--",
                "-D",
                "warnings",
            ])),
            Self::Unit => child::run(&mut nextest(UNIT_TESTS)?),
            Self::Wasm => wasm(),
            Self::Worker => deploy_dry(),
            Self::E2e => in_namespaces(E2E_TESTS),
            Self::Browser => {
                web::build()?;
                site::run()?;
                wasm_pkg::build()?;
                in_namespaces(BROWSER_TESTS)
            }
            Self::Nat => in_namespaces(NAT_TESTS),
            Self::Deny => deny(),
            Self::Docs => docs(),
        }
    }
}

fn cargo() -> Command {
    let mut command = child::command("cargo");
    command.current_dir(place::workspace());
    command
}

fn nextest(filter: &str) -> Result<Command> {
    // A nextest of our own is not in `PATH`.
    let own = place::cargo_tool("cargo-nextest", place::NEXTEST, "cargo-nextest")?;
    let mut command = if own.exists() {
        child::command(own)
    } else {
        child::command("cargo-nextest")
    };
    command.current_dir(place::workspace()).args([
        "nextest",
        "run",
        "--workspace",
        "--cargo-quiet",
        "-E",
        filter,
    ]);
    Ok(command)
}

fn wasm() -> Result<()> {
    let toolchain = Toolchain::require()?;
    let test = |arguments: &[&str]| -> Result<()> {
        let mut tests = toolchain.cargo()?;
        tests
            .args(["test", "--target", wasm::TARGET])
            .args(arguments)
            .env(
                "CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUNNER",
                place::wasm_bindgen("wasm-bindgen-test-runner")?,
            );
        // Those that need a browser are run in one by its driver.
        if let Some(driver) = place::command("chromedriver") {
            tests.env("CHROMEDRIVER", driver);
        }
        child::run(&mut tests)
    };
    test(&["--package", "ringback-protocol", "--test", "wasm"])?;
    test(&["--package", "ringback-wasm", "--features", "npm", "--lib"])?;
    let lint = |arguments: &[&str]| -> Result<()> {
        let mut lints = toolchain.cargo()?;
        lints
            .args(["clippy", "--quiet", "--target", wasm::TARGET])
            .args(arguments)
            .args(["--", "-D", "warnings"]);
        child::run(&mut lints)
    };
    lint(&[
        "--lib",
        "--package",
        "ringback-protocol",
        "--package",
        "ringback-worker",
    ])?;
    lint(&[
        "--lib",
        "--package",
        "ringback-wasm",
        "--package",
        "ringback-web-ui",
    ])?;
    lint(&[
        "--all-targets",
        "--package",
        "ringback-wasm",
        "--features",
        "npm",
    ])
}

/// Builds the registry, and has wrangler do everything of a deployment but the upload.
fn deploy_dry() -> Result<()> {
    worker::build()?;
    let output = place::workspace().join("target/tmp/wrangler");
    let mut wrangler = worker::wrangler()?;
    wrangler
        .args(["deploy", "--dry-run", "--outdir"])
        .arg(output);
    child::run(&mut wrangler)
}

/// Tests of `ringback-tests`: they make network namespaces, which is root's business.
fn in_namespaces(filter: &str) -> Result<()> {
    check_namespaces()?;
    worker::build()?;
    wasm_pkg::build()?;
    child::run(cargo().args(["build", "--workspace", "--bins", "--quiet"]))?;
    let mut tests = nextest(filter)?;
    tests
        .env(
            "RINGBACK_BIN",
            crate::lab::target_dir().join("debug/ringback"),
        )
        .env("RINGBACK_WORKERD", place::workerd()?)
        .env("RINGBACK_WORKER_BUILD", place::worker_output());
    if !setup::is_root() {
        tests.env(runner_variable()?, "sudo -E");
    }
    child::run(&mut tests)
}

/// The variable by which cargo and nextest are told to start programs through another one.
fn runner_variable() -> Result<String> {
    let text = child::output(child::command("rustc").arg("-vV"))?;
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    let host = host.context("`rustc -vV` names no host")?;
    Ok(format!(
        "CARGO_TARGET_{}_RUNNER",
        host.to_uppercase().replace('-', "_")
    ))
}

fn check_namespaces() -> Result<()> {
    let advice = "leave these parts out by `--exclude e2e --exclude nat` where that can not be had";
    if !Path::new("/dev/net/tun").exists() {
        bail!("there is no /dev/net/tun (`modprobe tun`), which the lab's delays need; {advice}");
    }
    let name = format!("ringback-check-{}", std::process::id());
    for verb in ["add", "del"] {
        let mut ip = setup::as_root("ip")?;
        child::output(ip.args(["netns", verb, &name]))
            .with_context(|| format!("no network namespaces here; {advice}"))?;
    }
    Ok(())
}

fn deny() -> Result<()> {
    let program = place::cargo_tool("cargo-deny", place::CARGO_DENY, "cargo-deny")?;
    let run = |arguments: &[&str]| {
        let mut command = child::command(&program);
        command.current_dir(place::workspace()).args(arguments);
        command
    };
    child::run(&mut run(&[
        "--log-level",
        "error",
        "check",
        "licenses",
        "bans",
        "sources",
    ]))?;
    // The advisories are a git repository on GitHub: without a way there, the check can not be
    // made, and a stale copy would say that all is well.
    let fetch = child::output(&mut run(&["fetch", "db"]));
    match fetch {
        Ok(_) => child::run(&mut run(&[
            "--log-level",
            "error",
            "check",
            "--disable-fetch",
            "advisories",
        ])),
        Err(error) if !reaches_github() => {
            say::warning("advisories are NOT CHECKED: their database is at github.com, which this");
            say::warning("machine does not reach. Run `cargo xtask test deny` where it does.");
            say::note(error.to_string().lines().last().unwrap_or_default());
            Ok(())
        }
        Err(error) => Err(error),
    }
}

fn reaches_github() -> bool {
    use std::net::{TcpStream, ToSocketAddrs};
    let addresses = ("github.com", 443).to_socket_addrs();
    addresses.is_ok_and(|mut list| {
        list.any(|addr| TcpStream::connect_timeout(&addr, Duration::from_secs(5)).is_ok())
    })
}

fn docs() -> Result<()> {
    let mut doc = cargo();
    doc.args(["doc", "--workspace", "--no-deps", "--quiet"])
        .env("RUSTDOCFLAGS", "-D warnings");
    child::run(&mut doc)?;
    child::run(cargo().args(["test", "--workspace", "--doc", "--quiet"]))?;
    super::promises::check()?;
    let readme = fs::read_to_string(place::workspace().join("README.md")).unwrap_or_default();
    let unknown = unknown_commands(&readme);
    if !unknown.is_empty() {
        bail!(
            "README.md names what cargo xtask does not have: {}",
            unknown.join(", ")
        );
    }
    Ok(())
}

/// The `cargo xtask` commands in a text that do not exist.
fn unknown_commands(text: &str) -> Vec<String> {
    use clap::CommandFactory;
    let known = crate::Arguments::command();
    text.split("cargo xtask ")
        .skip(1)
        .filter_map(|rest| rest.split(|ch: char| !ch.is_ascii_alphanumeric()).next())
        .filter(|name| !name.is_empty() && known.find_subcommand(name).is_none())
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_commands_are_found() {
        let text = "run `cargo xtask setup`, then `cargo xtask fly --high`\ncargo xtask worker.";
        assert_eq!(unknown_commands(text), ["fly"]);
    }

    #[test]
    fn the_runner_variable_names_the_host() {
        let name = runner_variable().unwrap();
        assert!(
            name.starts_with("CARGO_TARGET_") && name.ends_with("_RUNNER"),
            "{name}"
        );
        assert!(!name.contains('-'));
    }
}
