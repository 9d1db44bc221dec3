//! A real OpenSSH server with keys and configuration of its own.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::Result;

use super::{
    Lab,
    namespace::{Namespace, run},
    process::Process,
};

/// A running sshd that lets in whoever has [`Sshd::client_key`].
#[derive(Debug)]
pub struct Sshd {
    address: SocketAddr,
    client_key: PathBuf,
    known_hosts: PathBuf,
    _process: Process,
}

impl Sshd {
    /// The name to which the known-hosts file ties the host key (`ssh -o HostKeyAlias=…`).
    pub const HOST_KEY_ALIAS: &'static str = "ringback-lab";

    /// Starts sshd on an address of a namespace, and waits until it listens.
    pub fn start(lab: &Lab, namespace: &Namespace, address: impl Into<SocketAddr>) -> Result<Self> {
        let address = address.into();
        let dir = lab.dir().join(format!("sshd-{}", address.port()));
        fs::create_dir_all(&dir)?;
        let (host_key, client_key) = (dir.join("host_key"), dir.join("client_key"));
        for key in [&host_key, &client_key] {
            let mut keygen = Command::new("ssh-keygen");
            run(keygen
                .args(["-q", "-t", "ed25519", "-N", "", "-C", "lab", "-f"])
                .arg(key))?;
        }
        let public = fs::read_to_string(host_key.with_extension("pub"))?;
        let known_hosts = dir.join("known_hosts");
        fs::write(&known_hosts, format!("{} {public}", Self::HOST_KEY_ALIAS))?;
        let config = dir.join("sshd_config");
        fs::write(&config, configuration(address, &dir))?;
        // Debian's sshd wants this folder, which its service unit would make.
        fs::create_dir_all("/run/sshd")?;
        let mut command = namespace.command("/usr/sbin/sshd");
        command.args(["-D", "-e", "-f"]).arg(&config);
        let process = lab.spawn("sshd", command)?;
        process.stderr_line(Duration::from_secs(10), |line| {
            line.contains("Server listening")
        })?;
        Ok(Self {
            address,
            client_key,
            known_hosts,
            _process: process,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The private key that it accepts.
    pub fn client_key(&self) -> &Path {
        &self.client_key
    }

    /// Options for `ssh` that use its keys and nothing of the person who runs the test.
    pub fn client_options(&self) -> Vec<String> {
        let mut options = vec!["-F".to_owned(), "none".to_owned()];
        for option in [
            format!("IdentityFile={}", self.client_key.display()),
            format!("UserKnownHostsFile={}", self.known_hosts.display()),
            format!("HostKeyAlias={}", Self::HOST_KEY_ALIAS),
            "IdentitiesOnly=yes".into(),
            "StrictHostKeyChecking=yes".into(),
            "BatchMode=yes".into(),
        ] {
            options.extend(["-o".into(), option]);
        }
        options
    }
}

fn configuration(address: SocketAddr, dir: &Path) -> String {
    let dir = dir.display();
    format!(
        "ListenAddress {address}
HostKey {dir}/host_key
AuthorizedKeysFile {dir}/client_key.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
PermitRootLogin prohibit-password
Subsystem sftp internal-sftp
"
    )
}
