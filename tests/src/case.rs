//! One cell of the NAT matrix: a call between two kinds of router, a large file through it, and
//! proof that it went the best way there is: where that is a direct one, the registry carried none
//! of it.

use std::{
    fmt,
    net::Ipv4Addr,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;
use serde_json::Value;
use xtask::workerd::Config;

use crate::{
    agent::{Call, Device, LOCAL, Way},
    lab::{
        Builder, Lab, Topology,
        content::{Content, hash},
        coturn::Coturn,
        counter::Counter,
        file_server::FileServer,
        impairment::Impairment,
        kind::Kind,
        namespace::Namespace,
        reach::Expected,
        registry::Registry,
    },
};

/// The host on the device's LAN whose files are fetched.
pub const NAS: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 5);

/// What the registry's interface may carry during a transfer without being suspected of relaying:
/// pings of two agents, in bytes.
pub const REGISTRY_ALLOWANCE: u64 = 64 * 1024;

/// What to try.
#[derive(Clone, Debug, Serialize)]
pub struct Case {
    /// The caller's router.
    pub caller: Kind,
    /// The device's router.
    pub device: Kind,
    /// How the sites are connected.
    pub topology: Topology,
    /// The network between them.
    pub impairment: Impairment,
    /// Bytes to fetch through the link.
    pub bytes: u64,
}

/// How long after the start of a call the link may take to be on its best way.
pub const SETTLE: Duration = Duration::from_secs(15);

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// What was tried.
    pub case: Case,
    /// From the start of `ringback connect` to its receipt, in milliseconds.
    pub connect_ms: f64,
    /// From there to the news that the link takes its best way, in milliseconds; none if that did
    /// not come within [`SETTLE`].
    pub settled_ms: Option<f64>,
    /// The best way there is.
    pub expected: Expected,
    /// The way the link took after the transfer.
    pub way: Way,
    /// Time of the transfer, from the start of curl, in milliseconds.
    pub transfer_ms: f64,
    /// Bytes that arrived.
    pub bytes: u64,
    /// SHA-256 of them.
    pub sha256: String,
    /// Whether that is the hash of what the device's LAN host served.
    pub intact: bool,
    /// What crossed the registry's interface during the transfer.
    pub registry: Counter,
    /// What crossed the leg to the device's router during the transfer.
    pub device_leg: Counter,
    /// What crossed the interface of the caller's host during the transfer.
    pub caller_host: Counter,
    /// The connection receipt, as the caller printed it.
    pub receipt: Value,
}

/// A lab with registry, STUN server and a file server on the device's LAN, in which one case after
/// the other can be run.
#[derive(Debug)]
pub struct Stage {
    registry: Registry,
    _coturn: Coturn,
    files: [FileServer; 2],
    _nas: Namespace,
    lab: Lab,
}

impl Outcome {
    /// Megabits per second of the transfer.
    pub fn megabits(&self) -> f64 {
        self.bytes as f64 * 8.0 / self.transfer_ms / 1000.0
    }

    /// Whether the call went the best way there is, the file is whole, and neither the registry nor
    /// a router had a part in what was not to pass there.
    pub fn check(&self) -> Result<()> {
        let Self {
            case,
            expected,
            way,
            registry,
            ..
        } = self;
        ensure!(
            way.is(*expected),
            "{case}: expected {expected}, but it is {} by {}: {}",
            way.path,
            way.transport,
            self.receipt
        );
        ensure!(
            self.intact && self.bytes == case.bytes,
            "{case}: the file is not what was served"
        );
        if matches!(expected, Expected::Direct(_)) {
            ensure!(
                registry.bytes() < REGISTRY_ALLOWANCE,
                "{case}: the registry carried {registry:?}"
            );
        }
        // Otherwise the bytes went a way that nobody counts.
        ensure!(
            self.caller_host.rx_bytes > case.bytes,
            "{case}: not by the lab: {self:?}"
        );
        ensure!(
            case.topology == Topology::Apart || self.device_leg.bytes() < REGISTRY_ALLOWANCE,
            "{case}: it left the router: {self:?}"
        );
        Ok(())
    }
}

impl Case {
    /// A call between two sites with a good network between them.
    pub fn new(caller: Kind, device: Kind, bytes: u64) -> Self {
        Self {
            caller,
            device,
            topology: Topology::Apart,
            impairment: Impairment::default(),
            bytes,
        }
    }

    /// The best way there is.
    pub fn expected(&self) -> Expected {
        self.topology.reach(self.caller, self.device)
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { caller, device, .. } = self;
        match self.topology {
            Topology::Apart => write!(f, "{caller} calls {device}"),
            Topology::SameRouter => write!(f, "on one LAN behind {device}"),
            Topology::Hairpin => write!(f, "on two segments behind {device}"),
        }
    }
}

impl Stage {
    /// Builds the lab and starts the servers.
    pub fn set() -> Result<Self> {
        Self::set_with(Ok)
    }

    /// The same with another configuration of the registry.
    pub fn set_with(change: impl FnOnce(Config) -> Result<Config>) -> Result<Self> {
        Self::set_in(Lab::builder(), change)
    }

    /// The same in another lab.
    pub fn set_in(lab: Builder, change: impl FnOnce(Config) -> Result<Config>) -> Result<Self> {
        let lab = lab.build()?;
        let coturn = Coturn::start(&lab)?;
        let registry = Registry::start_with(&lab, change)?;
        let nas = lab.device().add_host("nas", NAS)?;
        // By IPv6 too, for a device that has nothing else.
        let nas6 = lab.device().add_ipv6(&nas, NAS.octets()[3])?;
        let files = [
            FileServer::start(&nas, (NAS, 80))?,
            FileServer::start(&nas, (nas6, 80))?,
        ];
        Ok(Self {
            registry,
            _coturn: coturn,
            files,
            _nas: nas,
            lab,
        })
    }

    /// The lab.
    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    /// The next call comes from a caller with a new key.
    pub fn forget_caller(&self) -> Result<()> {
        match std::fs::remove_dir_all(self.lab.dir().join("caller")) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// The registry.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Starts the device `nas` on the device's main host, with the service `web`.
    pub fn device(&self) -> Result<Device> {
        let [four, six] = &self.files;
        let files = if self.lab.device().kind().is_ipv6() {
            six
        } else {
            four
        };
        self.device_with(&[("web", &format!("http://{}", files.address()))])
    }

    /// Starts the device `nas` on the device's main host, with services (name, target).
    pub fn device_with(&self, services: &[(&str, &str)]) -> Result<Device> {
        Device::start(
            &self.lab,
            &self.registry,
            self.lab.device().host(),
            "nas",
            services,
        )
    }

    /// Calls the device from the caller's main host and forwards [`LOCAL`] to a service of it.
    pub fn call(&self, device: &Device, service: &str) -> Result<Call> {
        let caller = self.lab.caller().host();
        Call::start(
            &self.lab,
            &self.registry,
            caller,
            device,
            &[(LOCAL, service)],
        )
    }

    /// Puts the network of a case in place.
    pub fn prepare(&self, case: &Case) -> Result<()> {
        let lab = &self.lab;
        lab.set_topology(Topology::Apart)?;
        lab.caller().set_kind(case.caller)?;
        lab.device().set_kind(case.device)?;
        lab.set_topology(case.topology)?;
        lab.impair(case.impairment.clone())
    }

    /// Runs one case from the registration of the device to the last byte.
    pub fn run(&self, case: &Case) -> Result<Outcome> {
        self.prepare(case)?;
        let lab = &self.lab;
        let device = self.device()?;
        let link = self.call(&device, "web")?.connected()?;
        let wanted = case.expected();
        let settled = link.takes(wanted, SETTLE);
        let expected = Content::sha256(1, case.bytes);

        let caller = lab.caller().host();
        let count = || -> Result<_> {
            Ok([
                lab.registry_traffic()?,
                lab.inet().counter(lab.device().leg())?,
                caller.counter("eth0")?,
            ])
        };
        let before = count()?;
        let start = Instant::now();
        let (sha256, bytes) = fetch(caller, case.bytes)?;
        let transfer = start.elapsed();
        let after = count()?;
        let [registry, device_leg, caller_host] =
            std::array::from_fn(|which| after[which] - before[which]);
        Ok(Outcome {
            case: case.clone(),
            connect_ms: milliseconds(link.time),
            settled_ms: settled.map(milliseconds),
            expected: wanted,
            way: link.way(),
            transfer_ms: milliseconds(transfer),
            intact: sha256 == expected,
            bytes,
            sha256,
            registry,
            device_leg,
            caller_host,
            receipt: link.receipt.clone(),
        })
    }
}

/// Fetches generated bytes through [`LOCAL`] with curl, and hashes what arrives.
pub fn fetch(from: &Namespace, bytes: u64) -> Result<(String, u64)> {
    let mut curl = from.command("curl");
    curl.args(["-sS", "--fail", &format!("http://{LOCAL}/bytes/{bytes}")]);
    let mut child = curl.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let got = hash(child.stdout.take().context("piped")?)?;
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "curl: {}: {said} ({} bytes)",
        output.status,
        got.1
    );
    Ok(got)
}

/// A duration as a number of milliseconds.
pub fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
