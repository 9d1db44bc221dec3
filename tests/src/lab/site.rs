//! A LAN, its hosts and its router.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, MutexGuard, OnceLock},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use super::{
    addresses::{GATEWAY, ROUTER, ROUTER6},
    kind::{self, Addresses, HOME_PORTS, Kind, MAPPED_PORTS},
    leg::{link, silence, wan_addresses},
    miniupnpd::{self, Miniupnpd, PortMapping},
    namespace::Namespace,
    nat64::{self, Nat64},
};

/// The router's address on every LAN.
pub const LAN_ROUTER: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 1);
/// The router's address on the second segment of a LAN; see [`Topology::Hairpin`](super::Topology).
pub const SEGMENT_ROUTER: Ipv4Addr = Ipv4Addr::new(192, 168, 2, 1);

/// The provider's side of the link to a home behind carrier NAT, and the home's (RFC 6598).
const CARRIER_SIDE: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 1);
const HOME_SIDE: Ipv4Addr = Ipv4Addr::new(100, 64, 7, 2);
/// The router's number in the LAN's IPv6 network.
const LAN_ROUTER6: u8 = 1;

/// A LAN 192.168.1.0/24 with a main host (interface `eth0`) and a router (interfaces `lan` and
/// `wan`); further hosts can be added. Behind [`Kind::CarrierNat`] the router's `wan` leads to a
/// carrier's router, and that one's `wan` to the core.
#[derive(Debug)]
pub struct Site {
    leg: String,
    lab: u32,
    dir: PathBuf,
    state: Mutex<State>,
    carrier: OnceLock<Namespace>,
    host: Namespace,
    router: Namespace,
}

#[derive(Debug)]
struct State {
    kind: Kind,
    public: Ipv4Addr,
    address: Ipv4Addr,
    /// Whether the main host is on another site's LAN.
    is_away: bool,
    has_segment: bool,
    daemon: Option<Miniupnpd>,
    nat64: Option<Nat64>,
}

/// What a site shall be.
pub(super) struct Plan<'a> {
    pub(super) name: &'a str,
    pub(super) public: Ipv4Addr,
    pub(super) host: Ipv4Addr,
    pub(super) kind: Kind,
    /// For what the daemons of the router write.
    pub(super) dir: &'a Path,
}

impl Site {
    pub(super) fn create(lab: u32, inet: &Namespace, plan: &Plan<'_>) -> Result<Self> {
        let router = Namespace::create(lab, &format!("{}-router", plan.name))?;
        router.set_sysctl("net/ipv4/ip_forward", "1")?;
        router.set_sysctl("net/ipv6/conf/all/forwarding", "1")?;
        // What is switched on the LAN is none of the router's rules' business, though where the
        // kernel has br_netfilter it sends it through them.
        for family in ["iptables", "ip6tables"] {
            let key = format!("net/bridge/bridge-nf-call-{family}");
            if Path::new("/proc/sys").join(&key).exists() {
                router.set_sysctl(&key, "0")?;
            }
        }
        link(inet, &router, plan.name)?;
        router.ip(&format!(
            "{}link add name lan address {} type bridge mcast_snooping 0\naddr add {LAN_ROUTER}/24 dev lan\n\
             link set lan up\n",
            uplink_script(),
            hardware_address(),
        ))?;
        let host = Namespace::create(lab, plan.name)?;
        let site = Self {
            leg: plan.name.to_owned(),
            lab,
            dir: plan.dir.to_owned(),
            state: Mutex::new(State {
                kind: plan.kind,
                public: plan.public,
                address: plan.host,
                is_away: false,
                has_segment: false,
                daemon: None,
                nat64: None,
            }),
            carrier: OnceLock::new(),
            host,
            router,
        };
        site.attach(&site.host, plan.host)?;
        site.configure(&mut site.state())?;
        Ok(site)
    }

    /// The main host.
    pub fn host(&self) -> &Namespace {
        &self.host
    }

    /// The router.
    pub fn router(&self) -> &Namespace {
        &self.router
    }

    /// The carrier's router; only where the site is, or once was, behind [`Kind::CarrierNat`].
    pub fn carrier(&self) -> Option<&Namespace> {
        self.carrier.get()
    }

    /// The main host's address on the LAN that it is plugged into.
    pub fn address(&self) -> Ipv4Addr {
        self.state().address
    }

    /// The main host's global IPv6 address; it has it behind [`Kind::Ipv6Only`] only.
    pub fn address6(&self) -> Ipv6Addr {
        let state = self.state();
        kind::ipv6(state.public, number(state.address))
    }

    /// The address by which the core knows this site now.
    pub fn public(&self) -> Ipv4Addr {
        self.state().public
    }

    /// The router's kind now.
    pub fn kind(&self) -> Kind {
        self.state().kind
    }

    /// The name of the core's interface that leads here.
    pub fn leg(&self) -> &str {
        &self.leg
    }

    /// A command that runs on the main host.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        self.host.command(program)
    }

    /// Adds a host to the LAN. It is gone when the returned namespace is dropped.
    pub fn add_host(&self, name: &str, address: Ipv4Addr) -> Result<Namespace> {
        let host = Namespace::create(self.lab, &format!("{}-{name}", self.leg))?;
        self.attach(&host, address)?;
        give_ipv4(&host, address, LAN_ROUTER)?;
        Ok(host)
    }

    /// Gives a host of this LAN an IPv6 address beside its IPv4 one, so that a main host that has
    /// no IPv4 can reach it. No route leads further.
    pub fn add_ipv6(&self, host: &Namespace, number: u8) -> Result<Ipv6Addr> {
        let address = kind::ipv6(self.public(), number);
        host.set_ipv6("eth0", true)?;
        host.ip(&format!("addr replace {address}/64 dev eth0 nodad\n"))?;
        Ok(address)
    }

    /// Makes the router another kind. Mappings are gone, as after a restart of a real router.
    pub fn set_kind(&self, kind: Kind) -> Result<()> {
        self.reconfigure(|state| state.kind = kind)
    }

    /// Forgets every mapping: the next packet of each flow gets another port. Ports that hosts have
    /// asked for stay open.
    pub fn forget_mappings(&self) -> Result<()> {
        let state = self.state();
        self.load_rules(&state)?;
        self.flush_connections()
    }

    /// The router itself takes no UDP datagrams from the LAN to these ports, silently.
    pub fn drop_at_router(&self, ports: &[u16]) -> Result<()> {
        let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
        self.router.nft(&format!(
            "table inet deaf {{ chain input {{ type filter hook input priority -20; \
             iifname \"lan\" udp dport {{ {} }} drop\n }}\n }}\n",
            ports.join(", ")
        ))
    }

    /// How long the router remembers a UDP mapping, in seconds: before an answer came, and after.
    pub fn set_mapping_lifetime(&self, unanswered: u32, answered: u32) -> Result<()> {
        for router in [Some(&self.router), self.carrier.get()]
            .into_iter()
            .flatten()
        {
            let set = |key: &str, value: u32| {
                router.set_sysctl(&format!("net/netfilter/{key}"), &value.to_string())
            };
            set("nf_conntrack_udp_timeout", unanswered)?;
            set("nf_conntrack_udp_timeout_stream", answered)?;
        }
        Ok(())
    }

    /// The ports that hosts of the LAN have asked the router to open, by UPnP, NAT-PMP or PCP, as
    /// they are in the kernel now.
    pub fn port_mappings(&self) -> Result<Vec<PortMapping>> {
        miniupnpd::mappings(&self.router)
    }

    /// Lets no UDP pass between LAN and `wan`, silently, or lets it pass again. Mappings and
    /// connections stay, as far as they do not expire meanwhile.
    pub fn block_udp(&self, blocked: bool) -> Result<()> {
        let chain = "table inet blockade {\n chain no_udp {\n\
                     type filter hook forward priority filter - 10\n meta l4proto udp drop\n }\n}\n";
        self.set_table("blockade", blocked.then_some(chain))
    }

    /// The router's part of [`Lab::set_mtu`](super::Lab::set_mtu).
    pub(super) fn set_mtu(&self, mtu: u16) -> Result<()> {
        // IPv6's header is longer than IPv4's, and TCP's is twenty bytes in both.
        let segment = mtu - 60;
        self.router.nft(&silence(Some(segment)))?;
        self.router.ip(&format!("link set wan mtu {mtu}\n"))
    }

    /// Switches the router off: nothing passes, to or from the LAN or the router itself, until
    /// [`Site::power_on`]. The LAN's hosts reach each other, as by a switch of their own.
    pub fn power_off(&self) -> Result<()> {
        let chains = "table inet off {\n chain in {\n type filter hook prerouting priority raw\n\
                      drop\n }\n chain out {\n type filter hook output priority raw\n drop\n }\n}\n";
        self.set_table("off", Some(chains))?;
        self.state().daemon = None;
        Ok(())
    }

    /// Switches it on again, with nothing of what it knew: no mapping, no connection, no open port.
    pub fn power_on(&self) -> Result<()> {
        let mut state = self.state();
        self.load_rules(&state)?;
        self.flush_connections()?;
        self.start_daemon(&mut state)?;
        self.set_table("off", None)
    }

    /// Restarts the router; it takes that long until it works again.
    pub fn reboot_router(&self, outage: Duration) -> Result<()> {
        self.power_off()?;
        std::thread::sleep(outage);
        self.power_on()
    }

    /// Gives the main host another address on its LAN, as after another lease from DHCP. What the
    /// router has mapped to the old address stays mapped there, in vain.
    pub fn change_host_address(&self, address: Ipv4Addr) -> Result<()> {
        let mut state = self.state();
        ensure!(
            !state.is_away && !state.kind.is_ipv6() && state.kind != Kind::Open,
            "the main host of {} has no leased IPv4 address here",
            self.leg
        );
        let old = std::mem::replace(&mut state.address, address);
        // The default route goes with the address that is its source.
        self.host.ip(&format!("addr del {old}/24 dev eth0\n"))?;
        give_ipv4(&self.host, address, LAN_ROUTER)?;
        self.load_rules(&state)
    }

    pub(super) fn set_public(&self, public: Ipv4Addr) -> Result<()> {
        self.reconfigure(|state| state.public = public)
    }

    /// The LAN's IPv6 network, for the core's routes.
    pub(super) fn network6(&self) -> String {
        format!("{}/64", kind::ipv6(self.public(), 0))
    }

    /// Takes the main host off the LAN; it has no interface then.
    pub(super) fn unplug(&self) -> Result<()> {
        let mut state = self.state();
        state.is_away = true;
        self.host.ip("link del eth0\n")
    }

    /// Plugs the main host in where it belongs.
    pub(super) fn plug(&self, address: Ipv4Addr) -> Result<()> {
        self.attach(&self.host, address)?;
        self.reconfigure(|state| {
            state.is_away = false;
            state.address = address;
        })
    }

    /// Plugs the main host of another site in, on the second segment if that is where its address
    /// belongs.
    pub(super) fn take_in(&self, guest: &Site, address: Ipv4Addr) -> Result<()> {
        let state = self.state();
        ensure!(
            state.kind.translates_ports() || state.kind.is_ipv6(),
            "a router of kind {} has no public address for a second host",
            state.kind
        );
        if address.octets()[2] == SEGMENT_ROUTER.octets()[2] {
            self.attach_to("lan2", "seg", &guest.host, address)?;
            give_ipv4(&guest.host, address, SEGMENT_ROUTER)?;
        } else {
            self.attach(&guest.host, address)?;
            if state.kind.is_ipv6() {
                guest.host.set_ipv6("eth0", true)?;
                guest.host.ip(&ipv6_script(state.public, address))?;
            } else {
                give_ipv4(&guest.host, address, LAN_ROUTER)?;
            }
        }
        guest.state().address = address;
        Ok(())
    }

    /// Makes a second LAN segment 192.168.2.0/24, from which the first is reached only by its
    /// mappings, or takes it away.
    pub(super) fn set_segment(&self, wanted: bool) -> Result<()> {
        let mut state = self.state();
        if state.has_segment == wanted {
            return Ok(());
        }
        ensure!(
            !wanted || matches!(state.kind, Kind::PortRestricted | Kind::PortRestrictedPcp),
            "a router of kind {} does not loop its own mappings",
            state.kind
        );
        self.router.ip(&if wanted {
            format!(
                "link add name lan2 address {} type bridge\n\
                 addr add {SEGMENT_ROUTER}/24 dev lan2\nlink set lan2 up\n",
                hardware_address()
            )
        } else {
            "link del lan2\n".to_owned()
        })?;
        state.has_segment = wanted;
        self.load_rules(&state)?;
        self.flush_connections()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("not poisoned")
    }

    fn reconfigure(&self, change: impl FnOnce(&mut State)) -> Result<()> {
        let mut state = self.state();
        self.deconfigure(&mut state)?;
        change(&mut state);
        self.configure(&mut state)
    }

    /// Addresses, routes, rules and daemons of the state's kind, on top of what all kinds share.
    fn configure(&self, state: &mut State) -> Result<()> {
        let State {
            kind,
            public,
            address,
            is_away,
            ..
        } = *state;
        let Self { host, router, .. } = self;
        self.load_rules(state)?;
        match kind {
            Kind::Open => router.ip(&format!(
                "route replace {public}/32 via {address} dev lan\n"
            ))?,
            Kind::CarrierNat => self.insert_carrier(public)?,
            Kind::Ipv6Only | Kind::Nat64 => {
                for interface in ["wan", "lan"] {
                    router.set_ipv6(interface, true)?;
                }
                let lan = kind::ipv6(public, LAN_ROUTER6);
                router.ip(&format!(
                    "{}addr replace {lan}/64 dev lan nodad\n",
                    wan_addresses(ROUTER6)
                ))?;
                if kind == Kind::Nat64 {
                    router.ip(&format!("addr add {public}/32 dev wan\n"))?;
                    host.set_hosts(&nat64::hosts())?;
                }
            }
            _ => router.ip(&format!("addr add {public}/32 dev wan\n"))?,
        }
        if kind.is_ipv6() && !is_away {
            host.set_ipv6("lo", true)?;
            host.set_ipv6("eth0", true)?;
            host.ip(&ipv6_script(public, address))?;
        } else if !is_away {
            give_ipv4(host, address, LAN_ROUTER)?;
            if kind == Kind::Open {
                host.ip(&format!(
                    "addr add {public}/32 dev eth0\n\
                     route replace default via {LAN_ROUTER} dev eth0 src {public}\n"
                ))?;
            }
        }
        self.flush_connections()?;
        self.start_daemon(state)?;
        if kind == Kind::Nat64 {
            state.nat64 = Some(Nat64::start(router, public, &self.dir)?);
        }
        Ok(())
    }

    /// Takes back what [`Site::configure`] did beyond what all kinds share.
    fn deconfigure(&self, state: &mut State) -> Result<()> {
        let State {
            kind,
            public,
            is_away,
            ..
        } = *state;
        let Self { host, router, .. } = self;
        if state.daemon.take().is_some() {
            miniupnpd::forget(router)?;
        }
        if state.nat64.take().is_some() {
            nat64::forget(router)?;
        }
        match kind {
            // The route goes with the address that is its source.
            Kind::Open if is_away => router.ip(&format!("route del {public}/32\n")),
            Kind::Open => {
                router.ip(&format!("route del {public}/32\n"))?;
                host.ip(&format!("addr del {public}/32 dev eth0\n"))
            }
            Kind::CarrierNat => self.remove_carrier(),
            Kind::Ipv6Only | Kind::Nat64 => {
                for interface in ["wan", "lan"] {
                    router.set_ipv6(interface, false)?;
                }
                if kind == Kind::Nat64 {
                    router.ip(&format!("addr del {public}/32 dev wan\n"))?;
                    host.set_hosts("")?;
                }
                if !is_away {
                    host.set_ipv6("eth0", false)?;
                    host.set_ipv6("lo", false)?;
                }
                Ok(())
            }
            _ => router.ip(&format!("addr del {public}/32 dev wan\n")),
        }
    }

    fn load_rules(&self, state: &State) -> Result<()> {
        let mut addresses = Addresses {
            public: state.public,
            ports: MAPPED_PORTS,
            host: state.address,
            hairpin: state.has_segment,
        };
        if state.kind == Kind::CarrierNat {
            let carrier = self.carrier_namespace()?;
            carrier.nft(&Kind::PortRestricted.rules(&addresses))?;
            addresses.public = HOME_SIDE;
            addresses.ports = HOME_PORTS;
        }
        self.router.nft(&state.kind.rules(&addresses))
    }

    fn flush_connections(&self) -> Result<()> {
        if let Some(carrier) = self.carrier.get() {
            carrier.flush_connections()?;
        }
        self.router.flush_connections()
    }

    fn start_daemon(&self, state: &mut State) -> Result<()> {
        state.daemon = match state.kind.port_mapping() {
            Some(protocols) => Some(Miniupnpd::start(
                &self.router,
                state.public,
                protocols,
                &self.dir,
            )?),
            None => None,
        };
        Ok(())
    }

    /// The carrier's router, made when it is first needed.
    fn carrier_namespace(&self) -> Result<&Namespace> {
        if self.carrier.get().is_none() {
            let carrier = Namespace::create(self.lab, &format!("{}-carrier", self.leg))?;
            carrier.set_sysctl("net/ipv4/ip_forward", "1")?;
            self.carrier
                .set(carrier)
                .expect("set under the state's lock");
        }
        self.carrier.get().context("just set")
    }

    /// Puts the carrier between the router and the core: it gets the router's `wan`, and the
    /// router a new one that leads to the carrier.
    fn insert_carrier(&self, public: Ipv4Addr) -> Result<()> {
        let carrier = self.carrier_namespace()?;
        let (home, far) = (self.router.name(), carrier.name());
        self.router.ip(&format!("link set wan netns {far}\n"))?;
        carrier.ip(&format!(
            "link set wan up\n{}addr add {public}/32 dev wan\n\
             link add name home type veth peer name wan netns {home}\n\
             addr add {CARRIER_SIDE}/10 dev home\nlink set home up\n",
            uplink_script()
        ))?;
        self.router.ip(&format!(
            "addr add {HOME_SIDE}/10 dev wan\nlink set wan up\n\
             route add default via {CARRIER_SIDE} dev wan\n"
        ))?;
        carrier.await_link("wan")?;
        carrier.await_link("home")?;
        self.router.await_link("wan")
    }

    fn remove_carrier(&self) -> Result<()> {
        let carrier = self.carrier_namespace()?;
        let home = self.router.name();
        carrier.ip(&format!("link del home\nlink set wan netns {home}\n"))?;
        let script = format!("link set wan up\n{}", uplink_script());
        self.router.ip(&script)?;
        self.router.await_link("wan")
    }

    /// Waits until all links between the LAN and the core are up.
    pub(super) fn await_uplink(&self) -> Result<()> {
        if self.kind() == Kind::CarrierNat {
            self.carrier_namespace()?.await_link("wan")?;
        }
        self.router.await_link("wan")
    }

    /// Puts a table that stands for a condition of the router in place, or takes it away.
    fn set_table(&self, name: &str, chains: Option<&str>) -> Result<()> {
        let chains = chains.unwrap_or_default();
        self.router.nft(&format!(
            "table inet {name}\ndelete table inet {name}\n{chains}"
        ))
    }

    fn attach(&self, host: &Namespace, address: Ipv4Addr) -> Result<()> {
        self.attach_to("lan", "lan", host, address)
    }

    /// Plugs a host into a LAN segment.
    fn attach_to(
        &self,
        bridge: &str,
        port: &str,
        host: &Namespace,
        address: Ipv4Addr,
    ) -> Result<()> {
        let port = format!("{port}{}", number(address));
        self.router.ip(&format!(
            "link add name {port} type veth peer name eth0 netns {}\n\
             link set {port} master {bridge} up\n",
            host.name()
        ))?;
        host.ip("link set eth0 up\n")?;
        host.await_link("eth0")?;
        self.router.await_link(&port)
    }
}

/// A locally administered one. A bridge that is given none takes that of a port, and another when
/// ports come and go, which no router does to its LAN.
fn hardware_address() -> String {
    let [a, b, c, d] = fastrand::u32(..).to_be_bytes();
    format!("02:00:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
}

/// The router's own address on the leg, and its way out.
fn uplink_script() -> String {
    format!("addr add {ROUTER}/32 dev wan\nroute add default via {GATEWAY} dev wan onlink\n")
}

fn give_ipv4(host: &Namespace, address: Ipv4Addr, router: Ipv4Addr) -> Result<()> {
    host.ip(&format!(
        "addr replace {address}/24 dev eth0\n\
         route replace default via {router} dev eth0 src {address}\n"
    ))
}

/// A host's global IPv6 address in place of all others, and its way out.
fn ipv6_script(public: Ipv4Addr, address: Ipv4Addr) -> String {
    let (own, router) = (
        kind::ipv6(public, number(address)),
        kind::ipv6(public, LAN_ROUTER6),
    );
    format!(
        "addr flush dev eth0 scope global\naddr add {own}/64 dev eth0 nodad\n\
         route replace default via {router} dev eth0\n"
    )
}

/// A host's number on its LAN.
fn number(address: Ipv4Addr) -> u8 {
    address.octets()[3]
}
