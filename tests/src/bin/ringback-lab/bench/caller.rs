//! One call from start to first byte, by somebody with or without an agent.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, ensure};
use ringback_tests::{
    agent::{self, Device, PATIENCE, Way, registry_options},
    lab::{Lab, capture::Capture, process::Process, registry::Registry},
};
use serde_json::Value;

use super::talk::Talk;

/// Who calls from the caller's host, and by which registry.
#[derive(Clone, Copy)]
pub(super) struct Caller<'a> {
    pub(super) lab: &'a Lab,
    pub(super) registry: &'a Registry,
}

/// What one call took.
pub(super) struct Sample {
    /// From the start of the process to the first byte.
    pub(super) time: Duration,
    /// From the caller's first packet to the first byte, if that was captured.
    pub(super) by_packets: Option<Duration>,
    /// Of the receipt: name, and milliseconds since the start of the call.
    pub(super) steps: Vec<(String, f64)>,
    /// The path that the call began on.
    pub(super) way: Way,
}

/// A call that did not get through is a result too: the others are still worth knowing.
pub(super) type Tried = Result<Sample>;

impl Caller<'_> {
    /// The state directory of somebody who has no agent and whom nobody has seen before.
    pub(super) fn stranger(&self) -> Result<PathBuf> {
        let dir = self
            .lab
            .dir()
            .join(format!("cold-{:08x}", fastrand::u32(..)));
        agent::run(agent::command(self.lab.caller().host(), &dir)?.arg("id"))?;
        Ok(dir)
    }

    /// `ringback up` on the caller's host, registered, and with its public address known.
    pub(super) fn agent(&self, name: &str) -> Result<Device> {
        let host = self.lab.caller().host();
        let up = Device::start(self.lab, self.registry, host, name, &[])?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut status = agent::command(host, up.dir())?;
            let status = agent::run(status.args(["status", "--json"]))?;
            let status: Value = serde_json::from_str(&status)?;
            if status["public_address"].is_string() {
                return Ok(up);
            }
            ensure!(
                Instant::now() < deadline,
                "{name} does not learn its address"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Calls from a state directory, whose agent is used if it has one, and waits for the first
    /// byte and for the receipt.
    pub(super) fn call(&self, to: &Device, service: Talk, dir: &Path, captured: bool) -> Tried {
        let (sample, mut process) = self.open(to, service, dir, captured)?;
        process.interrupt(PATIENCE)?;
        Ok(sample)
    }

    /// The same; the link stays open as long as the process lives.
    pub(super) fn open(
        &self,
        to: &Device,
        service: Talk,
        dir: &Path,
        captured: bool,
    ) -> Result<(Sample, Process)> {
        let Self { lab, .. } = *self;
        let host = lab.caller().host();
        let capture = captured
            .then(|| Capture::start(lab, host, "eth0"))
            .transpose()?;
        // A port of its own: the last call's may not have been given back yet.
        let local = ([127, 0, 0, 1], fastrand::u16(30_000..60_000)).into();
        let mut connect = self.connect(to, dir)?;
        connect.args(["-L", &format!("{local}:{}", service.service())]);
        let name = format!("connect-{:08x}", fastrand::u32(..));
        let process = lab.spawn(&name, connect)?;
        let start = process.stdout_line(PATIENCE, |line| !line.starts_with('{'))?;
        let start: f64 = start.replace(',', ".").parse().context("no time")?;
        let start = Duration::from_secs_f64(start);
        event(&process, "listening")?;
        let end = host.enter(|| -> Result<Duration> {
            service.first_byte(local)?;
            Ok(SystemTime::now().duration_since(UNIX_EPOCH)?)
        })??;
        let connected = event(&process, "connected")?;
        let by_packets = capture.map(|capture| -> Result<_> {
            let packets = capture.finish()?;
            let own = [lab.caller().public(), lab.caller().address()];
            let mut sent = packets
                .iter()
                .filter(|packet| own.contains(packet.source.ip()) && packet.time >= start);
            let first = sent.next().context("the caller sent nothing")?.time;
            Ok(end.saturating_sub(first))
        });
        let by_packets = by_packets.transpose()?;
        let receipt = &connected["receipt"];
        let steps = receipt["steps"].as_array();
        let steps = steps.context("no steps in the receipt")?.iter();
        let step = |step: &Value| {
            let name = step["step"].as_str().unwrap_or_default().to_owned();
            (name, step["at_ms"].as_f64().unwrap_or_default())
        };
        let sample = Sample {
            time: end.saturating_sub(start),
            by_packets,
            steps: steps.map(step).collect(),
            way: Way::of(receipt),
        };
        Ok((sample, process))
    }

    /// `ringback connect`, which first writes the time at which it becomes that.
    fn connect(&self, to: &Device, dir: &Path) -> Result<Command> {
        let host = self.lab.caller().host();
        // Has the environment and the arguments that every command of the lab has.
        let plain = agent::command(host, dir)?;
        let mut command = host.command("bash");
        command.args(["-c", "echo $EPOCHREALTIME; exec \"$@\"", "bash"]);
        command.args(plain.get_args().skip(host.prefix().len() - 1));
        for (name, value) in plain.get_envs() {
            match value {
                None => command.env_remove(name),
                Some(value) => command.env(name, value),
            };
        }
        command
            .args(["connect", &to.id, "--json"])
            .args(registry_options(self.registry))
            .args(["--password", &to.password]);
        Ok(command)
    }
}

fn event(process: &Process, name: &str) -> Result<Value> {
    let parse = |line: &str| serde_json::from_str::<Value>(line);
    let is = |line: &str| parse(line).is_ok_and(|told| told["event"] == name);
    Ok(parse(&process.stdout_line(PATIENCE, is)?)?)
}
