//! A small internet in network namespaces, with the addresses of the system that Ringback
//! implements (both LANs use the same private range).
//!
//! ```text
//!  caller 192.168.1.11 ── router 4.17.168.2 ────┐        ┌─ registry 130.74.23.6
//!                                               ├─ inet ─┤
//!  device 192.168.1.3 ─┬─ router 202.204.16.13 ─┘        └─ stun 130.74.23.7, 130.74.23.8
//!  other LAN hosts ────┘
//! ```
//!
//! What a router does to packets is its [`Kind`]; how the two sites are connected is the lab's
//! [`Topology`]. The core and the servers speak IPv6 too, a site only behind [`Kind::Ipv6Only`].
//!
//! Each name in the picture is a namespace with connection tracking of its own. `inet` forwards in
//! the kernel unless an [`Impairment`] is set; then every packet that crosses it, from any leg to
//! any other, passes once through the [`forwarder`]. A delay of 20 ms therefore means 20 ms one
//! way between any two namespaces of the picture that `inet` lies between, and 40 ms round trip.
//!
//! Several labs can exist at once, in one process or in several. A lab removes itself when it is
//! dropped, and removes what labs of dead processes left when it is built.

mod addresses;
pub mod beacon;
pub mod capture;
pub mod certificate;
pub mod content;
pub mod coturn;
pub mod counter;
pub mod cut;
pub mod file_server;
pub mod forwarder;
pub mod impairment;
pub mod ip_protocol;
pub mod kind;
mod leg;
pub mod lying_stun;
pub mod mapping_router;
pub mod miniupnpd;
pub mod namespace;
pub mod nat64;
pub mod probe;
pub mod process;
pub mod reach;
pub mod registry;
pub mod site;
pub mod sshd;
pub mod stun;

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use self::{
    addresses::{GATEWAY, GATEWAY6, REGISTRY_ADDRESSES, ROUTER, ROUTER6, STUN_ADDRESSES},
    counter::Counter,
    cut::Cut,
    forwarder::Forwarder,
    impairment::{Impairment, Scope},
    kind::Kind,
    leg::{link, silence, wan_addresses},
    namespace::Namespace,
    process::Process,
    site::{Plan, Site},
};

pub use self::addresses::{
    CALLER_HOST, CALLER_PUBLIC, DEVICE_HOST, DEVICE_PUBLIC, REGISTRY, REGISTRY_NAME, REGISTRY6,
    SEGMENT_HOST, STUN, STUN_PORT, STUN6,
};

/// Debian packages that the lab runs.
pub const PACKAGES: [&str; 11] = [
    "iproute2",
    "nftables",
    "conntrack",
    "coturn",
    "miniupnpd-nftables",
    "tcpdump",
    "openssh-server",
    "curl",
    "tayga",
    "tinyproxy",
    "microsocks",
];

/// How the two sites are connected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Topology {
    /// Each has a router of its own.
    #[default]
    Apart,
    /// The caller is on the device's LAN.
    SameRouter,
    /// The caller is on another segment behind the device's router. What it sends to the device's
    /// mapping comes out at the device; no other way leads from segment to segment.
    Hairpin,
}

/// A running lab. See the [module](self) for what is in it.
#[derive(Debug)]
pub struct Lab {
    forwarder: Mutex<Option<Forwarder>>,
    topology: Mutex<Topology>,
    caller: Site,
    device: Site,
    visitors: Vec<Site>,
    registry: Namespace,
    stun: Namespace,
    inet: Namespace,
    dir: PathBuf,
}

/// What a lab shall be; see [`Lab::builder`].
#[derive(Clone, Debug)]
pub struct Builder {
    caller: Kind,
    device: Kind,
    visitors: Vec<(String, Ipv4Addr, Ipv4Addr, Kind)>,
    impairment: Impairment,
}

impl Lab {
    /// A lab with port-restricted NAT on both sides and no impairment, unless told otherwise.
    pub fn builder() -> Builder {
        Builder {
            caller: Kind::PortRestricted,
            device: Kind::PortRestricted,
            visitors: Vec::new(),
            impairment: Impairment::default(),
        }
    }

    /// The caller's LAN and router.
    pub fn caller(&self) -> &Site {
        &self.caller
    }

    /// The device's LAN and router.
    pub fn device(&self) -> &Site {
        &self.device
    }

    /// The sites added by [`Builder::visitor`], in that order.
    pub fn visitors(&self) -> &[Site] {
        &self.visitors
    }

    /// Where the registry runs ([`REGISTRY`] and [`REGISTRY6`] on interface `wan`).
    pub fn registry(&self) -> &Namespace {
        &self.registry
    }

    /// Where the STUN server runs ([`STUN`] and [`STUN6`] on interface `wan`).
    pub fn stun(&self) -> &Namespace {
        &self.stun
    }

    /// The core. Its interfaces are named after the legs: `caller`, `device`, `registry`, `stun`.
    pub fn inet(&self) -> &Namespace {
        &self.inet
    }

    /// A folder for logs, captures and keys, removed with the lab. It stays, and its path is
    /// printed, when the test panicked or `RINGBACK_LAB_KEEP` is set.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What has crossed the registry's interface so far, both ways.
    pub fn registry_traffic(&self) -> Result<Counter> {
        self.registry.counter("wan")
    }

    /// Replaces the impairment of the core from the next packet on. Packets already under way keep
    /// the delay they got.
    pub fn impair(&self, impairment: Impairment) -> Result<()> {
        let mut forwarder = self.forwarder.lock().expect("not poisoned");
        match forwarder.as_ref() {
            Some(running) if !impairment.is_none() => running.set(impairment),
            _ => {
                *forwarder = None;
                if !impairment.is_none() {
                    *forwarder = Some(Forwarder::start(&self.inet, &self.legs(), impairment)?);
                }
            }
        }
        Ok(())
    }

    /// Takes a leg of the core (`caller`, `device`, `registry`, `stun`) down, or up again. The far
    /// end sees its carrier go and come.
    pub fn set_link(&self, leg: &str, up: bool) -> Result<()> {
        if up {
            self.inet.ip(&format!("link set {leg} up\n"))?;
            self.route_leg(leg)?;
            let site = self.sites().find(|site| site.leg() == leg);
            match (leg, site) {
                ("registry", _) => self.registry.await_link("wan")?,
                ("stun", _) => self.stun.await_link("wan")?,
                (_, site) => site.map_or(Ok(()), Site::await_uplink)?,
            }
            self.inet.await_link(leg)
        } else {
            self.inet.ip(&format!("link set {leg} down\n"))
        }
    }

    /// Drops everything that enters or leaves the core by the given legs, silently, until called
    /// with other legs (none: forward all again).
    pub fn black_hole(&self, legs: &[&str]) -> Result<()> {
        let mut script = String::from("flush ruleset\n");
        if !legs.is_empty() {
            let set = legs
                .iter()
                .map(|leg| format!("\"{leg}\""))
                .collect::<Vec<_>>()
                .join(", ");
            script += &format!(
                "table inet hole {{\n chain in {{\n type filter hook prerouting priority raw\n \
                 iifname {{ {set} }} drop\n }}\n chain out {{\n type filter hook postrouting \
                 priority 0\n oifname {{ {set} }} drop\n }}\n}}\n"
            );
        }
        self.inet.nft(&script)
    }

    /// Drops what a [`Cut`] says between the caller's site and the device's, until called again, or
    /// until one of them gets another public address.
    pub fn cut(&self, what: Cut) -> Result<()> {
        let sides = [&self.caller, &self.device].map(|site| (site.leg(), site.public()));
        what.apply(&self.inet, sides)
    }

    /// Gives the line between a site's router and the core another MTU; 1,500 is the usual one. What is
    /// longer is lost there in both directions, and nobody is told: ICMP's word of it is dropped. As
    /// such routers do, this one has TCP make its segments fit.
    pub fn set_mtu(&self, site: &Site, mtu: u16) -> Result<()> {
        let leg = site.leg();
        self.inet.ip(&format!("link set {leg} mtu {mtu}\n"))?;
        self.inet.nft(&silence(None))?;
        site.set_mtu(mtu)
    }

    /// Starts a program in a namespace of this lab; its output goes to `dir()/NAME.{out,err}`.
    pub fn spawn(&self, name: &str, command: std::process::Command) -> Result<Process> {
        Process::spawn(name, command, &self.dir)
    }

    /// Gives a site's router another public address, as a provider does: old mappings are gone.
    /// Every new mapping gets another port too. Behind [`Kind::Ipv6Only`] it is another network,
    /// and the main host gets an address in it.
    pub fn change_public_address(&self, site: &Site, public: Ipv4Addr) -> Result<()> {
        let (old, old6) = (site.public(), site.network6());
        self.inet
            .ip(&format!("route del {old}/32\nroute del {old6}\n"))?;
        site.set_public(public)?;
        self.route_leg(site.leg())
    }

    /// Unplugs the main host of a site and plugs it into the LAN of another, or back into its own,
    /// where it gets that address. Programs on it see their interface go and another one come.
    ///
    /// What follows from the kind of a site happens to its own host only: set the kinds first.
    pub fn move_host(&self, of: &Site, to: &Site, address: Ipv4Addr) -> Result<()> {
        of.unplug()?;
        if std::ptr::eq(of, to) {
            of.plug(address)
        } else {
            to.take_in(of, address)
        }
    }

    /// Connects the sites in another way. The kind of the device's router must translate ports
    /// ([`Topology::Hairpin`]: be [`Kind::PortRestricted`] or [`Kind::PortRestrictedPcp`]), and be
    /// set before.
    pub fn set_topology(&self, topology: Topology) -> Result<()> {
        let mut current = self.topology.lock().expect("not poisoned");
        if *current == topology {
            return Ok(());
        }
        let (caller, device) = (&self.caller, &self.device);
        if *current != Topology::Apart {
            self.move_host(caller, caller, CALLER_HOST)?;
            device.set_segment(false)?;
            *current = Topology::Apart;
        }
        match topology {
            Topology::Apart => {}
            Topology::SameRouter => self.move_host(caller, device, CALLER_HOST)?,
            Topology::Hairpin => {
                device.set_segment(true)?;
                self.move_host(caller, device, SEGMENT_HOST)?;
            }
        }
        *current = topology;
        Ok(())
    }

    /// Bad luck for UDP between sites only: what goes to and from registry and STUN servers is
    /// spared. To be used as [`Impairment::scope`].
    pub fn udp_between_sites() -> Scope {
        Scope::UdpBeside([&REGISTRY_ADDRESSES[..], &STUN_ADDRESSES].concat())
    }

    fn legs(&self) -> Vec<String> {
        self.sites()
            .map(|site| site.leg().to_owned())
            .chain(["registry".into(), "stun".into()])
            .collect()
    }

    fn sites(&self) -> impl Iterator<Item = &Site> {
        [&self.caller, &self.device]
            .into_iter()
            .chain(&self.visitors)
    }

    /// (Re)creates the core's routes to what lies behind a leg; taking a link down removes them.
    fn route_leg(&self, leg: &str) -> Result<()> {
        let server = |addresses: &[IpAddr]| {
            let routes = addresses.iter().map(|address| match address {
                IpAddr::V4(address) => format!("route replace {address}/32 dev {leg}\n"),
                IpAddr::V6(address) => {
                    format!("route replace {address}/128 via {ROUTER6} dev {leg}\n")
                }
            });
            routes.collect::<String>()
        };
        let routes = match leg {
            "registry" => server(&REGISTRY_ADDRESSES),
            "stun" => server(&STUN_ADDRESSES),
            _ => {
                let site = self.sites().find(|site| site.leg() == leg);
                let site = site.with_context(|| format!("no leg is named {leg}"))?;
                let (public, network) = (site.public(), site.network6());
                format!(
                    "route replace {public}/32 via {ROUTER} dev {leg} onlink\n\
                     route replace {network} via {ROUTER6} dev {leg}\n"
                )
            }
        };
        self.inet.ip(&format!(
            "addr replace {GATEWAY6}/64 dev {leg} nodad\n{routes}"
        ))
    }
}

impl Builder {
    /// The kind of the caller's router.
    pub fn caller(mut self, kind: Kind) -> Self {
        self.caller = kind;
        self
    }

    /// The kind of the device's router.
    pub fn device(mut self, kind: Kind) -> Self {
        self.device = kind;
        self
    }

    /// A further site with one host, for another caller or device.
    pub fn visitor(mut self, name: &str, public: Ipv4Addr, host: Ipv4Addr, kind: Kind) -> Self {
        self.visitors.push((name.to_owned(), public, host, kind));
        self
    }

    /// One-way delay between any two legs; the round trip is twice as long.
    pub fn delay(mut self, delay: Duration) -> Self {
        self.impairment.delay = delay;
        self
    }

    /// Share of packets lost per traversal of the core, 0 to 1.
    pub fn loss(mut self, loss: f64) -> Self {
        self.impairment.loss = loss;
        self
    }

    /// The whole impairment at once.
    pub fn impairment(mut self, impairment: Impairment) -> Self {
        self.impairment = impairment;
        self
    }

    /// Creates the namespaces, links, addresses, routes and NAT rules.
    pub fn build(self) -> Result<Lab> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        ensure!(
            nix::unistd::geteuid().is_root(),
            "the NAT lab makes network namespaces: run it as root"
        );
        namespace::remove_stale()?;
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let create = |role: &str| Namespace::create(number, role);
        let dir =
            std::env::temp_dir().join(format!("ringback-lab-{}-{number}", std::process::id()));
        fs::create_dir_all(&dir).with_context(|| format!("{}: can not create", dir.display()))?;

        let inet = create("inet")?;
        inet.set_sysctl("net/ipv4/ip_forward", "1")?;
        inet.set_sysctl("net/ipv6/conf/all/forwarding", "1")?;
        // For the legs to come, and the forwarder's device.
        inet.set_ipv6("default", true)?;
        // What is private never crosses the core, and nobody is told.
        inet.ip(
            "route add blackhole 10.0.0.0/8\nroute add blackhole 172.16.0.0/12\n\
             route add blackhole 192.168.0.0/16\nroute add blackhole 192.0.2.0/24\n\
             route add blackhole 100.64.0.0/10\n",
        )?;
        let registry = server(&inet, create("registry")?, "registry", &REGISTRY_ADDRESSES)?;
        let stun = server(&inet, create("stun")?, "stun", &STUN_ADDRESSES)?;
        let site = |name: &str, public, host, kind| {
            Site::create(
                number,
                &inet,
                &Plan {
                    name,
                    public,
                    host,
                    kind,
                    dir: &dir,
                },
            )
        };
        let caller = site("caller", CALLER_PUBLIC, CALLER_HOST, self.caller)?;
        let device = site("device", DEVICE_PUBLIC, DEVICE_HOST, self.device)?;
        let visitors = self
            .visitors
            .iter()
            .map(|(name, public, host, kind)| site(name, *public, *host, *kind))
            .collect::<Result<_>>()?;
        let forwarder = Mutex::new(None);
        let lab = Lab {
            forwarder,
            topology: Mutex::new(Topology::Apart),
            caller,
            device,
            visitors,
            registry,
            stun,
            inet,
            dir,
        };
        for leg in lab.legs() {
            lab.route_leg(&leg)?;
        }
        lab.impair(self.impairment)?;
        Ok(lab)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() || std::env::var_os("RINGBACK_LAB_KEEP").is_some() {
            eprintln!("the lab's logs are in {}", self.dir.display());
        } else {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

/// Connects a namespace with public addresses of its own, IPv4 and IPv6, to the core.
fn server(
    inet: &Namespace,
    server: Namespace,
    leg: &str,
    addresses: &[IpAddr],
) -> Result<Namespace> {
    link(inet, &server, leg)?;
    server.set_ipv6("lo", true)?;
    server.set_ipv6("wan", true)?;
    let mut script = wan_addresses(ROUTER6);
    for address in addresses {
        script += &match address {
            IpAddr::V4(address) => format!("addr add {address}/32 dev wan\n"),
            IpAddr::V6(address) => format!("addr add {address}/128 dev wan nodad\n"),
        };
    }
    script += &format!(
        "route add default via {GATEWAY} dev wan onlink src {}\n",
        addresses[0]
    );
    server.ip(&script)?;
    Ok(server)
}
