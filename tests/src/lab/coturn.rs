//! A real STUN server: Debian's coturn.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result};

use super::{
    Lab, STUN, STUN_ADDRESSES, STUN_PORT, STUN6, namespace::Namespace, process::Process, stun,
};

/// coturn on both [`STUN`] and both [`STUN6`] addresses, by UDP and TCP, with NAT behaviour discovery
/// (RFC 5780), and no TURN.
#[derive(Debug)]
pub struct Coturn {
    _process: Process,
}

impl Coturn {
    /// Starts it and waits until it answers.
    pub fn start(lab: &Lab) -> Result<Self> {
        let mut command = lab.stun().command("turnserver");
        command.args([
            "-n",
            "--stun-only",
            "--no-tls",
            "--no-dtls",
            "--no-cli",
            "--simple-log",
        ]);
        command.args([
            "--log-file",
            "stdout",
            "--listening-port",
            &STUN_PORT.to_string(),
        ]);
        for address in STUN_ADDRESSES {
            command.args(["--listening-ip", &address.to_string()]);
        }
        command.arg("--pidfile").arg(lab.dir().join("coturn.pid"));
        command.current_dir(lab.dir());
        let process = lab.spawn("coturn", command)?;
        for server in Self::servers().into_iter().chain(Self::servers6()) {
            let probe = (|| {
                let socket = lab.stun().udp((server.ip(), 0))?;
                stun::mapped_address(&socket, server, Duration::from_secs(10))
            })();
            probe.with_context(|| format!("coturn did not start: {}", process.stdout()))?;
        }
        Ok(Self { _process: process })
    }

    /// Its two addresses, as agents are told them.
    pub fn servers() -> [SocketAddr; 2] {
        STUN.map(|address| (address, STUN_PORT).into())
    }

    /// The two for agents that have IPv6.
    pub fn servers6() -> [SocketAddr; 2] {
        STUN6.map(|address| (address, STUN_PORT).into())
    }

    /// The two by name, for hosts that have a NAT64.
    pub(crate) fn names() -> [String; 2] {
        super::nat64::STUN_NAMES.map(|name| format!("{name}:{STUN_PORT}"))
    }

    /// The two of the family that a host of the lab has: no host of the lab has both.
    pub fn servers_for(namespace: &Namespace) -> Result<[SocketAddr; 2]> {
        Ok(if namespace.has_ipv6()? {
            Self::servers6()
        } else {
            Self::servers()
        })
    }
}
