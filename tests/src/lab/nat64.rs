//! NAT64 (RFC 6146) of a router: Debian's tayga translates between the families, one private IPv4
//! address for each host, and the kernel's NAPT makes one public address of them.

use std::{
    fs,
    net::{Ipv4Addr, Ipv6Addr},
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};

use super::{
    addresses::{STUN, STUN6},
    kind,
    namespace::{Namespace, run},
    process::Process,
};

/// The addresses that stand for IPv4 (RFC 6052, section 2.1).
const PREFIX: &str = "64:ff9b::/96";
/// The addresses that stand for the LAN's hosts, between tayga and the kernel.
const POOL: &str = "192.168.255.0/24";
const DEVICE: &str = "nat64";

/// The names of the STUN servers.
pub(super) const STUN_NAMES: [&str; 2] = ["stun1.test", "stun2.test"];

/// What a name server that does DNS64 says: the addresses for hosts to learn the prefix from (RFC
/// 7050), and the STUN servers', which have both families.
pub(super) fn hosts() -> String {
    let mut hosts =
        "64:ff9b::192.0.0.170 ipv4only.arpa\n64:ff9b::192.0.0.171 ipv4only.arpa\n".to_owned();
    for ((name, four), six) in STUN_NAMES.into_iter().zip(STUN).zip(STUN6) {
        hosts += &format!("{four} {name}\n{six} {name}\n");
    }
    hosts
}

/// How a host that has only IPv6 calls an IPv4 address, behind NAT64.
pub fn synthesized(address: Ipv4Addr) -> Ipv6Addr {
    let [a, b, c, d] = address.octets().map(u16::from);
    Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, a << 8 | b, c << 8 | d)
}

impl Namespace {
    /// Whether the network's name server tells of a NAT64.
    pub fn has_nat64(&self) -> Result<bool> {
        Ok(self.hosts()?.ends_with(&hosts()))
    }
}

/// Running on a router. Its device goes with it.
#[derive(Debug)]
pub(super) struct Nat64 {
    _process: Process,
}

impl Nat64 {
    /// Starts it and routes to it.
    pub(super) fn start(router: &Namespace, public: Ipv4Addr, dir: &Path) -> Result<Self> {
        let name = format!("tayga-{}", router.name());
        // It keeps which host has which address, here as long as it runs.
        let data = dir.join(&name);
        let _ = fs::remove_dir_all(&data);
        fs::create_dir_all(&data)?;
        let file = dir.join(format!("{name}.conf"));
        // Its own addresses are for the ICMP errors that it sends.
        let own = kind::ipv6(public, 64);
        let config = format!(
            "tun-device {DEVICE}\nipv4-addr 192.168.255.1\nipv6-addr {own}\nprefix {PREFIX}\n\
             dynamic-pool {POOL}\ndata-dir {}\n",
            data.display()
        );
        fs::write(&file, config)?;
        let tayga = |option: &str| -> Command {
            let mut command = router.command("/usr/sbin/tayga");
            command.arg(option).arg("-c").arg(&file);
            command
        };
        run(&mut tayga("--mktun"))?;
        router.set_ipv6(DEVICE, true)?;
        router.ip(&format!(
            "link set {DEVICE} up\nroute add {POOL} dev {DEVICE}\nroute add {PREFIX} dev {DEVICE}\n"
        ))?;
        let mut process = Process::spawn(&name, tayga("-d"), dir)?;
        let deadline = Instant::now() + Duration::from_secs(10);
        while !is_held(router)? {
            ensure!(
                process.is_running()? && Instant::now() < deadline,
                "tayga did not start: {}",
                process.stderr()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(Self { _process: process })
    }
}

/// Whether a program has the device open.
fn is_held(router: &Namespace) -> Result<bool> {
    let mut command = Command::new("ip");
    let shown = run(command.args(["-n", router.name(), "link", "show", DEVICE]))?;
    Ok(String::from_utf8_lossy(&shown).contains("LOWER_UP"))
}

/// Removes the device that it leaves behind.
pub(super) fn forget(router: &Namespace) -> Result<()> {
    router.ip(&format!("link del {DEVICE}\n"))
}
