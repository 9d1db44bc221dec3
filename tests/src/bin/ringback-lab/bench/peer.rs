//! dumbpipe, as somebody would use it in Ringback's place.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use ringback_tests::lab::process::Process;

use super::{Bench, TCP_PORT};

/// The release that is measured.
const VERSION: &str = "0.40.1";

/// A dumbpipe from the caller's host to the TCP sender on the device's host.
pub(crate) struct Dumbpipe {
    _listen: Process,
    _connect: Process,
}

impl Dumbpipe {
    /// Starts both ends, and returns when the caller's end listens.
    pub(super) fn start(bench: &Bench, binary: &Path) -> Result<Self> {
        let lab = bench.stage.lab();
        let mut listen = lab.device().command(binary);
        listen.args(["listen-tcp", "--host", &format!("127.0.0.1:{TCP_PORT}")]);
        let listen = lab.spawn("dumbpipe-listen", listen)?;
        let is_ticket = |word: &str| word.starts_with("endpoint") && word.len() > 40;
        let line = listen.stderr_line(Duration::from_secs(60), |line| {
            line.split_whitespace().any(is_ticket)
        })?;
        let ticket = line
            .split_whitespace()
            .find(|word| is_ticket(word))
            .context("no ticket")?;
        let mut connect = lab.caller().command(binary);
        let local = Self::LOCAL.to_string();
        connect.args(["connect-tcp", "--addr", &local, ticket]);
        let connect = lab.spawn("dumbpipe-connect", connect)?;
        Ok(Self {
            _listen: listen,
            _connect: connect,
        })
    }

    const LOCAL: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8090);

    /// Where the caller's end listens.
    pub(super) fn local(&self) -> SocketAddr {
        Self::LOCAL
    }
}

/// The binary, installed from crates.io into the tool cache if it is not there.
pub(super) fn dumbpipe() -> Result<PathBuf> {
    let binary = xtask::place::cargo_tool("dumbpipe", VERSION, "dumbpipe")?;
    if !binary.exists() {
        let root = binary
            .ancestors()
            .nth(2)
            .context("the tool cache has a root")?;
        eprintln!(
            "installing dumbpipe {VERSION} into {} (some minutes)",
            root.display()
        );
        let mut cargo = Command::new("cargo");
        cargo.args(["install", "--locked", "--root"]).arg(root);
        let status = cargo.args(["--version", VERSION, "dumbpipe"]).status()?;
        ensure!(status.success(), "cargo install dumbpipe: {status}");
    }
    Ok(binary)
}
