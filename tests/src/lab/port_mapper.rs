//! A router's port mapping: Debian's miniupnpd, by UPnP-IGD, NAT-PMP and PCP, on the kernel's NAT.

use std::{fs, net::Ipv4Addr, time::Duration};

use anyhow::{Context as _, Result};

use super::{Lab, namespace::Namespace, process::Process, site::Site};

/// Which protocols the router speaks, and how.
#[derive(Clone, Debug)]
pub struct Settings {
    /// UPnP-IGD.
    pub upnp: bool,
    /// NAT-PMP and PCP, which share a port.
    pub natpmp: bool,
    /// Drops what speaks PCP, as a router that knows NAT-PMP only and is not polite about it.
    pub ignores_pcp: bool,
    /// Takes the link's address, which is none of the Internet's, for its own outside: that is how
    /// a router behind another NAT sees itself.
    pub behind_nat: bool,
    /// Seconds of the shortest and the longest lease by PCP.
    pub lifetimes: (u32, u32),
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            upnp: true,
            natpmp: true,
            ignores_pcp: false,
            behind_nat: false,
            lifetimes: (120, 86_400),
        }
    }
}

/// A running miniupnpd on a site's router.
#[derive(Debug)]
pub struct Miniupnpd<'a> {
    lab: &'a Lab,
    site: &'a Site,
    settings: Settings,
    process: Option<Process>,
}

/// A port that the router forwards: protocol (`udp`, `tcp`), external port, LAN host, its port.
pub type Forwarded = (String, u16, Ipv4Addr, u16);

impl<'a> Miniupnpd<'a> {
    /// Starts it. The site keeps its kind; changing that would take the mappings' chains away.
    pub fn start(lab: &'a Lab, site: &'a Site, settings: Settings) -> Result<Self> {
        let mut router = Self {
            lab,
            site,
            settings,
            process: None,
        };
        router.boot()?;
        Ok(router)
    }

    /// The router is switched off and on again: every mapping is lost.
    pub fn restart(&mut self) -> Result<()> {
        if let Some(mut process) = self.process.take() {
            process.kill9()?;
        }
        self.boot()
    }

    /// What the router forwards now, as the kernel has it.
    pub fn forwarded(&self) -> Result<Vec<Forwarded>> {
        let mut nft = self.namespace().command("nft");
        nft.args(["list", "chain", "inet", TABLE, "prerouting_miniupnpd"]);
        let output = nft.output()?;
        let text = String::from_utf8(output.stdout)?;
        Ok(text.lines().filter_map(parse).collect())
    }

    fn namespace(&self) -> &Namespace {
        self.site.router()
    }

    fn boot(&mut self) -> Result<()> {
        let Settings {
            upnp,
            natpmp,
            ignores_pcp,
            behind_nat,
            lifetimes: (shortest, longest),
        } = self.settings;
        let deaf = if ignores_pcp {
            "chain deaf { type filter hook input priority -10; udp dport 5351 @th,64,8 2 drop; }"
        } else {
            ""
        };
        // Before the router's own translation, which would take everything.
        self.namespace().nft(&format!(
            "table inet {TABLE} {{}}\ndelete table inet {TABLE}\n\
             table inet {TABLE} {{
  chain miniupnpd {{}}
  chain prerouting_miniupnpd {{}}
  chain postrouting_miniupnpd {{}}
  chain forward {{ type filter hook forward priority -5; jump miniupnpd; }}
  chain prerouting {{ type nat hook prerouting priority -105; jump prerouting_miniupnpd; }}
  chain postrouting {{ type nat hook postrouting priority 95; jump postrouting_miniupnpd; }}
  {deaf}
}}\n"
        ))?;
        let name = format!("miniupnpd-{:08x}", fastrand::u32(..));
        let dir = self.lab.dir();
        let config = dir.join(format!("{name}.conf"));
        let yes = |on| if on { "yes" } else { "no" };
        let external = if behind_nat {
            String::new()
        } else {
            format!("ext_ip={}\n", self.site.public())
        };
        fs::write(
            &config,
            format!(
                "ext_ifname=wan\n{external}listening_ip=lan\nenable_upnp={}\n\
                 enable_natpmp={}\nsecure_mode=yes\nmin_lifetime={shortest}\n\
                 max_lifetime={longest}\nipv6_disable=yes\n\
                 upnp_table_name={TABLE}\nupnp_nat_table_name={TABLE}\n\
                 minissdpdsocket={name}.sock\nuuid=00000000-0000-0000-0000-0000{:08x}\n\
                 allow 1024-65535 192.168.1.0/24 1024-65535\ndeny 0-65535 0.0.0.0/0 0-65535\n",
                yes(upnp),
                yes(natpmp),
                fastrand::u32(..),
            ),
        )?;
        let mut command = self.namespace().command("/usr/sbin/miniupnpd");
        command
            .arg("-d")
            .arg("-f")
            .arg(&config)
            .arg("-P")
            .arg(dir.join(format!("{name}.pid")));
        let process = self.lab.spawn(&name, command)?;
        let awaited = if natpmp {
            "Listening for NAT-PMP/PCP traffic"
        } else {
            "HTTP listening on port"
        };
        process
            .stderr_line(Duration::from_secs(10), |line| line.contains(awaited))
            .context("is Debian's package miniupnpd-nftables installed?")?;
        self.process = Some(process);
        Ok(())
    }
}

const TABLE: &str = "port_mapper";

/// `iif "wan" @nh,72,8 0x11 th dport 4000 dnat ip to 192.168.1.3:4000`
fn parse(line: &str) -> Option<Forwarded> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let after = |word: &str| words.iter().position(|w| *w == word).map(|at| at + 1);
    let port = after("dport")?;
    let target = words
        .iter()
        .skip(after("dnat")?)
        .find(|word| word.contains(':'))?;
    let (host, inner) = target.split_once(':')?;
    // The protocol's number is matched as a byte of the IP header.
    let protocol = match *words.get(after("@nh,72,8")?)? {
        "0x11" => "udp",
        "0x06" | "0x6" => "tcp",
        _ => return None,
    };
    Some((
        protocol.into(),
        words.get(port)?.parse().ok()?,
        host.parse().ok()?,
        inner.parse().ok()?,
    ))
}
