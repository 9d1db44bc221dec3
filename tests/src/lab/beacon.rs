//! `ringback beacon` in the STUN server's place: it answers STUN, too.

use std::{net::SocketAddr, path::PathBuf, process::Command};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::{Lab, STUN, STUN_PORT, process::Process, registry::Registry};
use crate::{
    agent::{self, PATIENCE},
    profile::until,
};

/// A beacon on both [`STUN`] addresses, told to devices by the first.
#[derive(Debug)]
pub struct Beacon {
    /// Its ID, `rb1…`.
    pub id: String,
    /// The running beacon.
    pub process: Process,
    dir: PathBuf,
}

impl Beacon {
    /// Where devices reach it.
    pub const ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(STUN[0]), STUN_PORT);

    /// Enrols it under the name `beacon`, and starts it; returns when it is registered.
    pub fn start(lab: &Lab, registry: &Registry, more: &[&str]) -> Result<Self> {
        let body = json!({ "name": "beacon", "role": "beacon" });
        let (status, answer) = registry.call(lab.registry(), "POST", "/v1/codes", Some(&body))?;
        ensure!(status == 201, "no code for a beacon: {status} {answer}");
        let code = answer["code"].as_str().context("no code")?;
        Self::run(lab, registry, &[&["--enroll", code], more].concat())
    }

    /// Starts it anew, after it was ended or killed.
    pub fn start_again(lab: &Lab, registry: &Registry, more: &[&str]) -> Result<Self> {
        Self::run(lab, registry, more)
    }

    fn run(lab: &Lab, registry: &Registry, more: &[&str]) -> Result<Self> {
        let dir = lab.dir().join("beacon");
        let mut command = agent::command(lab.stun(), &dir)?;
        command.args(["beacon", "--json", "--registry", &registry.url()]);
        command.arg("--registry-ca").arg(registry.ca());
        command.args(["--port", &STUN_PORT.to_string()]);
        command.args(["--public", &Self::ADDRESS.to_string()]);
        command.args(more);
        let name = format!("beacon-{:08x}", fastrand::u32(..));
        let process = lab.spawn(&name, command)?;
        let line = process.stdout_line(PATIENCE, |line| line.starts_with('{'))?;
        let told: Value = serde_json::from_str(&line).with_context(|| line.clone())?;
        ensure!(told["registered"] == true, "not registered: {line}");
        let id = told["id"].as_str().context("no id")?.to_owned();
        // What it tells the registry of itself has no answer.
        until(PATIENCE, "the registry lists the beacon", || {
            let (_, told) = registry.call(lab.registry(), "GET", "/v1/registry", None)?;
            let beacons = told["beacons"].as_array();
            let is_online = |beacon: &Value| beacon["id"] == id && beacon["online"] == true;
            Ok(beacons
                .is_some_and(|all| all.iter().any(is_online))
                .then_some(()))
        })?;
        Ok(Self { id, process, dir })
    }

    /// `ringback status --json` of it.
    pub fn status(&self, lab: &Lab) -> Result<Value> {
        let mut command: Command = agent::command(lab.stun(), &self.dir)?;
        let said = agent::run(command.args(["status", "--json"]))?;
        serde_json::from_str(&said).with_context(|| said.clone())
    }

    /// What it has counted, by name.
    pub fn numbers(&self, lab: &Lab) -> Result<Value> {
        Ok(self.status(lab)?["beacon"].take())
    }

    /// One of the counters.
    pub fn number(&self, lab: &Lab, name: &str) -> Result<u64> {
        let number = self.numbers(lab)?[name].as_u64();
        number.with_context(|| format!("no counter is named {name}"))
    }
}
