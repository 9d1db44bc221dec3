//! A caller and a device between which only one path is left.

use anyhow::{Result, ensure};
use ringback_tests::{
    agent::Device,
    lab::{
        Lab, Topology, beacon::Beacon, cut::Cut, file_server::FileServer, kind::Kind,
        process::Process, registry::Registry,
    },
};
use serde_json::{Value, json};

use super::{
    super::{TCP_PORT, caller::Caller, sender, services, talk},
    PathKind,
};

/// What the registry's relay may forward: nothing, as much as it can, or what it does by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Policy {
    Off,
    Raised,
    Default,
}

/// Bytes a second and a day that no relay here reaches.
const RAISED: (u64, u64) = (128 << 20, 1 << 40);
/// Bytes a second that a beacon here does not reach.
const OWN_RATE: u32 = 1 << 30;
/// As `worker/src/policy.rs` has them.
const DEFAULT: (u64, u64) = (4 << 20, 10 << 30);

pub(super) struct Scene {
    beacon: Beacon,
    pub(super) registry: Registry,
    _sender: Process,
    _talkers: FileServer,
    pub(super) lab: Lab,
}

impl Scene {
    pub(super) fn set() -> Result<Self> {
        let lab = Lab::builder().build()?;
        let registry = Registry::start(&lab)?;
        Ok(Self {
            // The STUN server is a beacon from the start, as the one with the relay will be.
            beacon: Beacon::start(&lab, &registry, &[])?,
            _sender: sender(&lab, "tcp-serve", TCP_PORT)?,
            _talkers: talk::start(lab.device().host())?,
            registry,
            lab,
        })
    }

    /// The same with a beacon that relays, for as much as anybody wants.
    pub(super) fn with_own_relay(mut self) -> Result<Self> {
        self.beacon.process.kill9()?;
        let more = ["--relay", "--relay-rate", &OWN_RATE.to_string()];
        self.beacon = Beacon::start_again(&self.lab, &self.registry, &more)?;
        Ok(self)
    }

    /// Leaves one path between two routers, of the kinds that are common where it is the best one.
    /// `plain`: plain TCP to [`TCP_PORT`] goes beside it.
    pub(super) fn leave(&self, path: PathKind, plain: bool) -> Result<()> {
        let lab = &self.lab;
        lab.set_topology(Topology::Apart)?;
        let (caller, device) = match path {
            _ if plain => (Kind::Open, Kind::Open),
            // Dialled from behind a NAT at an address that lets strangers in.
            PathKind::Tcp => (Kind::PortRestricted, Kind::AddressOnly),
            _ => (Kind::PortRestricted, Kind::PortRestricted),
        };
        lab.caller().set_kind(caller)?;
        lab.device().set_kind(device)?;
        if path == PathKind::Lan {
            lab.set_topology(Topology::SameRouter)?;
        }
        lab.cut(match path {
            PathKind::Lan | PathKind::Udp => Cut::Nothing,
            PathKind::Tcp => Cut::Udp,
            PathKind::OwnRelay | PathKind::Relay if plain => Cut::AllBut(TCP_PORT),
            PathKind::OwnRelay | PathKind::Relay => Cut::All,
        })
    }

    pub(super) fn set_policy(&self, policy: Policy) -> Result<()> {
        let (rate, daily) = if policy == Policy::Default {
            DEFAULT
        } else {
            RAISED
        };
        let relay = json!({
            "enabled": policy != Policy::Off, "rate_bytes_s": rate, "daily_bytes": daily,
        });
        let body = json!({ "relay": relay });
        let (status, answer) = self.owner("PUT", "/v1/policy", Some(&body))?;
        ensure!(status == 200, "the policy is not taken: {status} {answer}");
        Ok(())
    }

    /// A new device, which has this network from its start.
    pub(super) fn device(&self, name: &str) -> Result<Device> {
        services(&self.lab, &self.registry, name)
    }

    pub(super) fn caller(&self) -> Caller<'_> {
        Caller {
            lab: &self.lab,
            registry: &self.registry,
        }
    }

    pub(super) fn owner(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(u16, Value)> {
        let from = self.lab.registry();
        self.registry.call(from, method, path, body)
    }
}
