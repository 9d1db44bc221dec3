//! dumbpipe, as somebody would use it in Ringback's place.
//!
//! It does not need the Internet for this: without its relays both ends go on after 5 s with a
//! warning, and the ticket has the listening end's own addresses.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use ringback_tests::lab::{namespace::Namespace, process::Process};

use super::Bench;

/// The release that is measured.
pub(super) const VERSION: &str = "0.40.1";

/// How long an end may take: it waits 5 s for a relay that it can not reach.
const PATIENCE: Duration = Duration::from_secs(60);

/// A dumbpipe from the caller's host to a TCP port of the device's host.
pub(crate) struct Dumbpipe {
    _listen: Process,
    _connect: Process,
    local: SocketAddr,
}

impl Dumbpipe {
    /// Starts both ends, and returns when a connection has gone through to `service`, a port of the
    /// device's host. `local` is the port of the caller's end.
    pub(super) fn start(bench: &Bench, binary: &Path, service: u16, local: u16) -> Result<Self> {
        let lab = bench.stage.lab();
        let mut listen = lab.device().command(binary);
        listen.args(["listen-tcp", "--host", &format!("127.0.0.1:{service}")]);
        let listen = lab.spawn(&format!("dumbpipe-listen-{service}"), listen)?;
        let line = listen.stderr_line(PATIENCE, |line| line.contains("connect-tcp "))?;
        let ticket = line.split_whitespace().last().context("no ticket")?;
        let local = SocketAddr::from((Ipv4Addr::LOCALHOST, local));
        let mut connect = lab.caller().command(binary);
        connect.args(["connect-tcp", "--addr", &local.to_string(), ticket]);
        let connect = lab.spawn(&format!("dumbpipe-connect-{service}"), connect)?;
        await_listener(lab.caller().host(), local)?;
        Ok(Self {
            _listen: listen,
            _connect: connect,
            local,
        })
    }

    /// Where the caller's end listens.
    pub(super) fn local(&self) -> SocketAddr {
        self.local
    }
}

/// The binary, installed with cargo into the tool cache if it is not there.
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

fn await_listener(host: &Namespace, address: SocketAddr) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match host.enter(|| TcpStream::connect(address))? {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() > deadline => {
                return Err(error).context("dumbpipe connect-tcp does not listen");
            }
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}
