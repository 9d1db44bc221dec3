//! A LAN, its hosts and its router.

use std::{
    net::Ipv4Addr,
    path::Path,
    process::Command,
    sync::{Mutex, MutexGuard},
};

use anyhow::Result;

use super::{GATEWAY, ROUTER, kind::Kind, link, namespace::Namespace};

/// The router's address on every LAN.
pub const LAN_ROUTER: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 1);

/// A LAN 192.168.1.0/24 with a main host (interface `eth0`) and a router (interfaces `lan` and
/// `wan`); further hosts can be added.
#[derive(Debug)]
pub struct Site {
    leg: String,
    lab: u32,
    address: Ipv4Addr,
    uplink: Mutex<Uplink>,
    host: Namespace,
    router: Namespace,
}

#[derive(Clone, Copy, Debug)]
struct Uplink {
    kind: Kind,
    public: Ipv4Addr,
}

/// What a site shall be.
pub(super) struct Plan<'a> {
    pub(super) name: &'a str,
    pub(super) public: Ipv4Addr,
    pub(super) host: Ipv4Addr,
    pub(super) kind: Kind,
}

impl Site {
    pub(super) fn create(lab: u32, inet: &Namespace, plan: &Plan<'_>) -> Result<Self> {
        let router = Namespace::create(lab, &format!("{}-router", plan.name))?;
        router.set_sysctl("net/ipv4/ip_forward", "1")?;
        link(inet, &router, plan.name)?;
        router.ip(&format!(
            "addr add {ROUTER}/32 dev wan\nroute add default via {GATEWAY} dev wan onlink\n\
             link add name lan type bridge\naddr add {LAN_ROUTER}/24 dev lan\nlink set lan up\n"
        ))?;
        let host = Namespace::create(lab, plan.name)?;
        attach(&router, &host, plan.host)?;
        let site = Self {
            leg: plan.name.to_owned(),
            lab,
            address: plan.host,
            uplink: Mutex::new(Uplink {
                kind: plan.kind,
                public: plan.public,
            }),
            host,
            router,
        };
        site.configure(&site.uplink())?;
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

    /// The main host's address on the LAN.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// The address by which the core knows this site now.
    pub fn public(&self) -> Ipv4Addr {
        self.uplink().public
    }

    /// The router's kind now.
    pub fn kind(&self) -> Kind {
        self.uplink().kind
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
        attach(&self.router, &host, address)?;
        host.ip(&format!("route add default via {LAN_ROUTER}\n"))?;
        Ok(host)
    }

    /// Makes the router another kind. Mappings are gone, as after a restart of a real router.
    pub fn set_kind(&self, kind: Kind) -> Result<()> {
        let mut uplink = self.uplink();
        self.deconfigure(&uplink)?;
        uplink.kind = kind;
        self.configure(&uplink)
    }

    /// Forgets every mapping: the next packet of each flow gets another port.
    pub fn forget_mappings(&self) -> Result<()> {
        let uplink = self.uplink();
        self.router
            .nft(&uplink.kind.rules(uplink.public, self.address))?;
        self.router.flush_connections()
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
        let router = &self.router;
        router.set_sysctl(
            "net/netfilter/nf_conntrack_udp_timeout",
            &unanswered.to_string(),
        )?;
        router.set_sysctl(
            "net/netfilter/nf_conntrack_udp_timeout_stream",
            &answered.to_string(),
        )
    }

    pub(super) fn set_public(&self, public: Ipv4Addr) -> Result<()> {
        let mut uplink = self.uplink();
        self.deconfigure(&uplink)?;
        uplink.public = public;
        self.configure(&uplink)
    }

    fn uplink(&self) -> MutexGuard<'_, Uplink> {
        self.uplink.lock().expect("not poisoned")
    }

    fn configure(&self, &Uplink { kind, public }: &Uplink) -> Result<()> {
        let Self {
            host,
            router,
            address,
            ..
        } = self;
        router.nft(&kind.rules(public, *address))?;
        if kind == Kind::Open {
            router.ip(&format!(
                "route replace {public}/32 via {address} dev lan\n"
            ))?;
            host.ip(&format!(
                "addr add {public}/32 dev eth0\n\
                 route replace default via {LAN_ROUTER} dev eth0 src {public}\n"
            ))?;
        } else {
            router.ip(&format!("addr add {public}/32 dev wan\n"))?;
            host.ip(&format!(
                "route replace default via {LAN_ROUTER} dev eth0 src {address}\n"
            ))?;
        }
        router.flush_connections()
    }

    fn deconfigure(&self, &Uplink { kind, public }: &Uplink) -> Result<()> {
        if kind == Kind::Open {
            // The route goes with the address that is its source.
            self.router.ip(&format!("route del {public}/32\n"))?;
            self.host.ip(&format!("addr del {public}/32 dev eth0\n"))
        } else {
            self.router.ip(&format!("addr del {public}/32 dev wan\n"))
        }
    }
}

/// Plugs a host into the router's LAN.
fn attach(router: &Namespace, host: &Namespace, address: Ipv4Addr) -> Result<()> {
    let port = format!("lan{}", address.octets()[3]);
    router.ip(&format!(
        "link add name {port} type veth peer name eth0 netns {}\nlink set {port} master lan up\n",
        host.name()
    ))?;
    host.ip(&format!(
        "addr add {address}/24 dev eth0\nlink set eth0 up\n"
    ))
}
