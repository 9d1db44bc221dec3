//! What comes from the system's package manager, told by the commands that it brings.

use std::{fs, path::Path, process::Command};

use anyhow::{Result, bail};
use xtask::place;

use super::missing::Missing;
use crate::{child, say};

/// A group of packages that is needed together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Packages {
    /// To compile and link.
    Build,
    /// To run the NAT lab and what is tested in it.
    Lab,
    /// To test what people see.
    Browser,
}

/// A command, and the Debian package that has it.
type Entry = (&'static str, &'static str);

const BUILD: &[Entry] = &[("cc", "build-essential"), ("gzip", "gzip")];
const LAB: &[Entry] = &[
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("conntrack", "conntrack"),
    ("tcpdump", "tcpdump"),
    ("turnserver", "coturn"),
    ("miniupnpd", "miniupnpd-nftables"),
    ("tayga", "tayga"),
    ("tinyproxy", "tinyproxy"),
    ("microsocks", "microsocks"),
    ("sshd", "openssh-server"),
    ("ssh", "openssh-client"),
    ("curl", "curl"),
    ("faketime", "faketime"),
    ("mount.exfat-fuse", "exfat-fuse"),
    ("mkfs.exfat", "exfatprogs"),
];
const BROWSER: &[Entry] = &[
    ("chromium", "chromium"),
    ("chromedriver", "chromium-driver"),
];

impl Packages {
    fn entries(self) -> &'static [Entry] {
        match self {
            Self::Build => BUILD,
            Self::Lab => LAB,
            Self::Browser => BROWSER,
        }
    }

    fn why(self) -> &'static str {
        match self {
            Self::Build => {
                "a C compiler for the TLS library, a linker, and gzip to weigh the worker"
            }
            Self::Lab => {
                "namespaces and NAT, a STUN server, UPnP, NAT64 and proxies, captures, sshd and curl for the NAT lab, wrong clocks, disks without upper and lower case"
            }
            Self::Browser => "the browser that the web UI is tested in",
        }
    }
}

pub(super) fn missing(group: Packages) -> Option<Missing> {
    let absent: Vec<&str> = group
        .entries()
        .iter()
        .filter(|(command, _)| place::command(command).is_none())
        .map(|(_, package)| *package)
        .collect();
    if absent.is_empty() {
        return None;
    }
    let what = format!("Debian packages {}", absent.join(" "));
    Some(Missing::new(what, group.why(), move || install(&absent)))
}

/// Installs Debian packages; the servers among them are not started.
pub(super) fn install(packages: &[&str]) -> Result<()> {
    if place::command("apt-get").is_none() {
        bail!(
            "this is no Debian (there is no apt-get): install {} by hand",
            packages.join(", ")
        );
    }
    let log = place::cache()?.join("log/apt.log");
    let quiet = NoDaemons::for_packages(packages);
    let mut apt = as_root("apt-get")?;
    apt.args(["update", "-q"]);
    child::run_logged(&mut apt, "apt-get update", &log)?;
    let mut apt = as_root("apt-get")?;
    apt.args([
        "install",
        "-q",
        "-y",
        "--no-install-recommends",
        "-o",
        "Dpkg::Use-Pty=0",
    ])
    .args(["-o", "DPkg::Lock::Timeout=120"])
    .args(packages);
    child::run_logged(&mut apt, "apt-get install", &log)?;
    drop(quiet);
    Ok(())
}

/// `program` as root: as it is for root, else by sudo.
pub(crate) fn as_root(program: &str) -> Result<Command> {
    let mut command = if is_root() {
        child::command(program)
    } else if place::command("sudo").is_some() {
        let mut sudo = child::command("sudo");
        sudo.args(["DEBIAN_FRONTEND=noninteractive", program]);
        sudo
    } else {
        bail!("`{program}` has to run as root, and there is no sudo: run this as root");
    };
    command.env("DEBIAN_FRONTEND", "noninteractive");
    Ok(command)
}

pub(crate) fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    fs::metadata("/proc/self").is_ok_and(|me| me.uid() == 0)
}

/// Keeps package scripts from starting sshd and coturn: the lab starts its own, in namespaces,
/// and a person who wanted a test suite did not ask for an open port 22.
struct NoDaemons {
    /// Units to switch off again, because this setup is what brought them.
    units: Vec<&'static str>,
    policy: bool,
}

const POLICY: &str = "/usr/sbin/policy-rc.d";

impl NoDaemons {
    fn for_packages(packages: &[&str]) -> Self {
        let units: Vec<_> = [
            ("openssh-server", "ssh"),
            ("coturn", "coturn"),
            ("tayga", "tayga"),
        ]
        .into_iter()
        .filter(|(package, _)| packages.contains(package))
        .map(|(_, unit)| unit)
        .collect();
        let policy = !units.is_empty() && !Path::new(POLICY).exists() && write_policy().is_ok();
        Self { units, policy }
    }
}

fn write_policy() -> Result<()> {
    let script = format!("printf '#!/bin/sh\\nexit 101\\n' > {POLICY} && chmod 755 {POLICY}");
    child::output(as_root("sh")?.args(["-c", &script]))?;
    Ok(())
}

impl Drop for NoDaemons {
    fn drop(&mut self) {
        if self.policy {
            let _ = as_root("rm").and_then(|mut rm| child::output(rm.args(["-f", POLICY])));
        }
        if self.units.is_empty() || !Path::new("/run/systemd/system").exists() {
            return;
        }
        for unit in &self.units {
            let disabled = as_root("systemctl")
                .and_then(|mut ctl| child::output(ctl.args(["disable", "--now", unit])));
            if disabled.is_ok() {
                say::note(&format!(
                    "{unit} is installed but not started, nor started at boot"
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_command_is_listed_twice() {
        let mut commands: Vec<_> = BUILD
            .iter()
            .chain(LAB)
            .chain(BROWSER)
            .map(|(command, _)| command)
            .collect();
        let count = commands.len();
        commands.sort_unstable();
        commands.dedup();
        assert_eq!(commands.len(), count);
    }
}
