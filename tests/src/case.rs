//! One cell of the NAT matrix: a call between two kinds of router, a large file through it, and
//! proof that the registry carried none of it.

use std::{
    net::Ipv4Addr,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;
use serde_json::Value;

use crate::{
    agent::{Call, Device, LOCAL},
    lab::{
        Lab,
        content::{Content, hash},
        coturn::Coturn,
        counter::Counter,
        file_server::FileServer,
        impairment::Impairment,
        kind::Kind,
        namespace::Namespace,
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
    /// The network between them.
    pub impairment: Impairment,
    /// Bytes to fetch through the link.
    pub bytes: u64,
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// What was tried.
    pub case: Case,
    /// From the start of `ringback connect` to its receipt, in milliseconds.
    pub connect_ms: f64,
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
    /// What crossed the leg to the caller's router during the transfer.
    pub caller_leg: Counter,
    /// The connection receipt, as the caller printed it.
    pub receipt: Value,
}

/// A lab with registry, STUN server and a file server on the device's LAN, in which one case after
/// the other can be run.
#[derive(Debug)]
pub struct Stage {
    registry: Registry,
    _coturn: Coturn,
    _files: FileServer,
    _nas: Namespace,
    lab: Lab,
}

impl Outcome {
    /// Which way the link took, as the receipt says.
    pub fn path(&self) -> &str {
        self.receipt["path"].as_str().unwrap_or("unknown")
    }

    /// Megabits per second of the transfer.
    pub fn megabits(&self) -> f64 {
        self.bytes as f64 * 8.0 / self.transfer_ms / 1000.0
    }

    /// Whether the call was direct, the file whole, and the registry without part in it.
    pub fn check(&self) -> Result<()> {
        let Self { case, registry, .. } = self;
        let name = format!("{} calls {}", case.caller, case.device);
        ensure!(
            self.path() == "direct",
            "{name}: not direct: {}",
            self.receipt
        );
        ensure!(
            self.intact && self.bytes == case.bytes,
            "{name}: the file is not what was served"
        );
        ensure!(
            registry.bytes() < REGISTRY_ALLOWANCE,
            "{name}: the registry carried {registry:?}"
        );
        // Otherwise the bytes went a way that nobody counts.
        ensure!(
            self.caller_leg.tx_bytes > case.bytes,
            "{name}: not by the lab: {self:?}"
        );
        Ok(())
    }
}

impl Stage {
    /// Builds the lab and starts the servers.
    pub fn set() -> Result<Self> {
        let lab = Lab::builder().build()?;
        let coturn = Coturn::start(&lab)?;
        let registry = Registry::start(&lab)?;
        let nas = lab.device().add_host("nas", NAS)?;
        let files = FileServer::start(&nas, (NAS, 80))?;
        Ok(Self {
            registry,
            _coturn: coturn,
            _files: files,
            _nas: nas,
            lab,
        })
    }

    /// The lab.
    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    /// The registry.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Starts the device `nas` on the device's main host, with the service `web`.
    pub fn device(&self) -> Result<Device> {
        self.device_with(&[("web", &format!("http://{NAS}:80"))])
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

    /// Runs one case from the registration of the device to the last byte.
    pub fn run(&self, case: &Case) -> Result<Outcome> {
        let lab = &self.lab;
        lab.caller().set_kind(case.caller)?;
        lab.device().set_kind(case.device)?;
        lab.impair(case.impairment.clone())?;
        let device = self.device()?;
        let link = self.call(&device, "web")?.connected()?;
        let expected = Content::sha256(1, case.bytes);

        let count = || -> Result<_> {
            Ok((
                lab.registry_traffic()?,
                lab.inet().counter(lab.caller().leg())?,
            ))
        };
        let before = count()?;
        let start = Instant::now();
        let (sha256, bytes) = fetch(lab.caller().host(), case.bytes)?;
        let transfer = start.elapsed();
        let after = count()?;
        Ok(Outcome {
            case: case.clone(),
            connect_ms: milliseconds(link.time),
            transfer_ms: milliseconds(transfer),
            intact: sha256 == expected,
            bytes,
            sha256,
            registry: after.0 - before.0,
            caller_leg: after.1 - before.1,
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
