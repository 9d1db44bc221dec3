//! The daemon of real home routers that opens ports on request: Debian's miniupnpd, on nftables.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddrV4},
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use super::{
    ip_protocol::{TCP, UDP},
    namespace::{Namespace, run},
    process::Process,
};

/// By which protocols a router opens ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocols {
    /// UPnP Internet Gateway Device, versions 1 and 2.
    Upnp,
    /// NAT-PMP (RFC 6886) and PCP (RFC 6887).
    Pcp,
}

/// A port that the router has opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortMapping {
    /// IP protocol number: [`UDP`] or [`TCP`].
    pub protocol: u8,
    /// The port on the public address.
    pub external: u16,
    /// Where in the LAN it leads.
    pub internal: SocketAddrV4,
}

/// The port that NAT-PMP and PCP are asked on, at the router's LAN address.
pub const PCP_PORT: u16 = 5351;
/// The port that UPnP devices are searched on, at 239.255.255.250.
pub const SSDP_PORT: u16 = 1900;

/// Where it writes its rules. The names of chains are told to it; it makes none itself.
const TABLE: &str = "table inet miniupnpd
delete table inet miniupnpd
table inet miniupnpd {
  chain forward { }
  chain mappings { }
  chain peers { }
  chain inbound {
    type nat hook prerouting priority dstnat
    iifname \"wan\" jump mappings
  }
  chain outbound {
    type nat hook postrouting priority srcnat - 1
    oifname \"wan\" jump peers
  }
}\n";

/// Running on a router between `lan` and `wan`. Its mappings end with it.
#[derive(Debug)]
pub(super) struct Miniupnpd {
    _process: Process,
}

impl Miniupnpd {
    /// Starts it with no mappings, and waits until it can be asked.
    pub(super) fn start(
        router: &Namespace,
        public: Ipv4Addr,
        protocols: Protocols,
        dir: &Path,
    ) -> Result<Self> {
        router.nft(TABLE)?;
        let (upnp, pcp) = match protocols {
            Protocols::Upnp => ("yes", "no"),
            Protocols::Pcp => ("no", "yes"),
        };
        // Every lifetime that is asked for is granted from 1 s on, so that a test can see the end
        // of one. Ports below 1024 are nobody's to ask for, as on real routers.
        let config = format!(
            "ext_ifname=wan\next_ip={public}\nlistening_ip=lan\nport=0\nenable_upnp={upnp}\nenable_natpmp={pcp}\n\
             secure_mode=yes\nmin_lifetime=1\nmax_lifetime=86400\n\
             upnp_table_name=miniupnpd\nupnp_nat_table_name=miniupnpd\n\
             upnp_forward_chain=forward\nupnp_nat_chain=mappings\n\
             upnp_nat_postrouting_chain=peers\nuuid={:08x}-0000-4000-8000-{:012x}\n\
             allow 1024-65535 192.168.0.0/16 1024-65535\ndeny 0-65535 0.0.0.0/0 0-65535\n",
            fastrand::u32(..),
            fastrand::u64(..1 << 48),
        );
        let name = format!("miniupnpd-{}", router.name());
        let file = dir.join(format!("{name}.conf"));
        fs::write(&file, config)?;
        let mut command = router.command("/usr/sbin/miniupnpd");
        command.arg("-f").arg(&file).arg("-P");
        command
            .arg(dir.join(format!("{name}.pid")))
            .args(["-d", "-4"]);
        let mut process = Process::spawn(&name, command, dir)?;
        let port = match protocols {
            Protocols::Upnp => SSDP_PORT,
            Protocols::Pcp => PCP_PORT,
        };
        let deadline = Instant::now() + Duration::from_secs(10);
        while !is_bound(router, port)? {
            ensure!(
                process.is_running()? && Instant::now() < deadline,
                "miniupnpd did not start: {}",
                process.stderr()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(Self { _process: process })
    }
}

/// Takes its table away, and with it every mapping.
pub(super) fn forget(router: &Namespace) -> Result<()> {
    router.nft("table inet miniupnpd\ndelete table inet miniupnpd\n")
}

/// The open ports as the kernel has them; none where the daemon never ran.
pub(super) fn mappings(router: &Namespace) -> Result<Vec<PortMapping>> {
    let rules = run(router.command("nft").args(["-n", "list", "ruleset"]))?;
    let rules = String::from_utf8(rules)?;
    let rules = rules.lines().filter(|line| line.contains("dnat ip to"));
    let rules = rules.filter(|line| line.contains("@nh,72,8"));
    rules
        .map(|line| parse(line).with_context(|| format!("can not be read: {line}")))
        .collect()
}

/// Reads `iif "wan" @nh,72,8 0x11 th dport 7777 dnat ip to 192.168.1.11:7000`.
fn parse(rule: &str) -> Option<PortMapping> {
    let after = |key: &str| rule.split_once(key)?.1.split_whitespace().next();
    let protocol = match after("@nh,72,8 ")? {
        "0x11" => UDP,
        "0x6" => TCP,
        _ => return None,
    };
    Some(PortMapping {
        protocol,
        external: after("dport ")?.parse().ok()?,
        internal: after("dnat ip to ")?.parse().ok()?,
    })
}

/// Whether a UDP socket is bound to that port.
fn is_bound(namespace: &Namespace, port: u16) -> Result<bool> {
    // `self` would be the first thread, which is in another namespace.
    let table = namespace.enter(|| fs::read_to_string("/proc/thread-self/net/udp"))??;
    let port = format!(":{port:04X}");
    let locals = table
        .lines()
        .filter_map(|line| line.split_whitespace().nth(1));
    Ok(locals.into_iter().any(|local| local.ends_with(&port)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_rules_are_read() {
        let rule = "\t\tiif \"wan\" @nh,72,8 0x11 th dport 7777 dnat ip to 192.168.1.11:7000";
        let expected = PortMapping {
            protocol: UDP,
            external: 7777,
            internal: "192.168.1.11:7000".parse().unwrap(),
        };
        assert_eq!(parse(rule), Some(expected));
        assert_eq!(parse(&rule.replace("0x11", "0x6")).unwrap().protocol, TCP);
        assert_eq!(parse(&rule.replace("0x11", "0x84")), None);
        assert_eq!(
            parse("iif \"wan\" @nh,72,8 0x11 dnat ip to 192.168.1.11"),
            None
        );
    }
}
