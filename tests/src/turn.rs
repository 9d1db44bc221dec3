//! A real TURN server: Debian's coturn, with one user.

use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    path::Path,
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result};

use crate::lab::{Lab, STUN, process::Process, stun};

/// The user name and credential that it takes.
pub const USERNAME: &str = "ringback";
pub const CREDENTIAL: &str = "the credential of the tests";

/// Where it is in a lab.
const LAB: (Ipv4Addr, u16) = (STUN[0], 3500);

/// A TURN server by UDP and TCP, until dropped.
#[derive(Debug)]
pub struct TurnServer {
    address: SocketAddr,
    _process: Process,
}

impl TurnServer {
    /// Starts it on an address of the loopback that nothing else has: it wants one port for UDP and
    /// TCP. Waits until it answers.
    pub fn on_loopback(dir: &Path) -> Result<Self> {
        let byte = || fastrand::u8(1..255);
        let address = SocketAddr::from(([127, byte(), byte(), byte()], LAB.1));
        let mut command = command(Command::new("turnserver"), dir, address);
        // Both ends of a test are on this host.
        command.args(["--allow-loopback-peers", "--cli-password", "not used"]);
        let process = Process::spawn("turn", command, dir)?;
        let probe = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        Self::ready(address, process, &probe)
    }

    /// Starts it in a lab, beside the STUN server on a port of its own.
    pub fn in_lab(lab: &Lab) -> Result<Self> {
        let address = SocketAddr::from(LAB);
        let turnserver = lab.stun().command("turnserver");
        let process = lab.spawn("turn", command(turnserver, lab.dir(), address))?;
        let probe = lab.stun().udp((address.ip(), 0))?;
        Self::ready(address, process, &probe)
    }

    fn ready(address: SocketAddr, process: Process, probe: &UdpSocket) -> Result<Self> {
        probe.set_read_timeout(Some(Duration::from_secs(5)))?;
        stun::mapped_address(probe, address, Duration::from_secs(10))
            .with_context(|| format!("coturn did not start: {}", process.stdout()))?;
        Ok(Self {
            address,
            _process: process,
        })
    }

    /// The registry's configuration that hands it out.
    pub fn bindings(&self) -> [(String, String); 3] {
        bindings(self.address)
    }

    /// The same for one that will be started by [`TurnServer::in_lab`].
    pub fn lab_bindings() -> [(String, String); 3] {
        bindings(LAB.into())
    }
}

fn bindings(address: SocketAddr) -> [(String, String); 3] {
    let urls = format!("turn:{address}?transport=udp,turn:{address}?transport=tcp");
    [
        ("TURN_URLS", urls.as_str()),
        ("TURN_USERNAME", USERNAME),
        ("TURN_CREDENTIAL", CREDENTIAL),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
}

fn command(mut turnserver: Command, dir: &Path, address: SocketAddr) -> Command {
    turnserver
        .args(["-n", "--no-tls", "--no-dtls", "--no-cli", "--simple-log"])
        .args(["--log-file", "stdout", "--lt-cred-mech"])
        .args(["--realm", "ringback.test"])
        .args(["--user", &format!("{USERNAME}:{CREDENTIAL}")])
        .args(["--listening-ip", &address.ip().to_string()])
        .args(["--relay-ip", &address.ip().to_string()])
        .args(["--listening-port", &address.port().to_string()])
        .arg("--pidfile")
        .arg(dir.join("turn.pid"))
        .arg("--userdb")
        .arg(dir.join("turn.db"))
        .current_dir(dir);
    turnserver
}
