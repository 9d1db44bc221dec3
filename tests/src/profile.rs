//! A person's or a device's state directory on a host of the lab, and everything that is done with
//! it: `up`, `connect`, and commands that run to their end.

use std::{
    cell::Cell,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::{
    agent::{self, PATIENCE, fit_family, registry_options},
    lab::{Lab, namespace::Namespace, process::Process, registry::Registry},
};

/// The password of every device that [`Profile::up`] starts.
pub const PASSWORD: &str = "open sesame, please";

/// A state directory, and where its commands run.
#[derive(Debug)]
pub struct Profile<'a> {
    lab: &'a Lab,
    namespace: &'a Namespace,
    name: String,
    options: Vec<String>,
}

/// How a command ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit code; -1 if a signal ended it.
    pub code: i32,
    /// What it wrote to standard output.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
    /// From its start to its end.
    pub time: Duration,
}

/// A running `ringback up`.
#[derive(Debug)]
pub struct Up {
    /// Its ID, `rb1…`.
    pub id: String,
    /// The agent.
    pub process: Process,
}

/// A running `ringback connect --json`.
#[derive(Debug)]
pub struct Connect {
    /// When it was started.
    pub start: Instant,
    /// The command.
    pub process: Process,
}

impl<'a> Profile<'a> {
    /// The profile of that name, on a host. The name is also the device's at the registry.
    pub fn new(lab: &'a Lab, registry: &Registry, namespace: &'a Namespace, name: &str) -> Self {
        Self {
            lab,
            namespace,
            name: name.to_owned(),
            options: registry_options(registry),
        }
    }

    /// Its directory, which the first command makes.
    pub fn dir(&self) -> PathBuf {
        self.lab.dir().join(&self.name)
    }

    /// The host it is on.
    pub fn namespace(&self) -> &'a Namespace {
        self.namespace
    }

    /// `ringback --dir DIR …`, without the registry's options.
    pub fn command(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = agent::command(self.namespace, &self.dir())?;
        command.args(arguments);
        Ok(command)
    }

    /// `ringback --dir DIR … --registry …`.
    pub fn registry_command(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = self.command(arguments)?;
        let mut options = self.options.clone();
        fit_family(&mut options, self.namespace)?;
        command.args(options);
        Ok(command)
    }

    /// Runs a command to its end, whatever that is.
    pub fn run(&self, arguments: &[&str]) -> Result<Ended> {
        Ended::of(&mut self.command(arguments)?)
    }

    /// Runs a command that has to succeed, and reads the JSON that it prints.
    pub fn ask(&self, arguments: &[&str]) -> Result<Value> {
        let said = agent::run(self.command(arguments)?.arg("--json"))?;
        serde_json::from_str(&said).with_context(|| format!("{arguments:?}: {said}"))
    }

    /// Runs a command that has to succeed and tells nothing.
    pub fn ask_nothing(&self, arguments: &[&str]) -> Result<()> {
        agent::run(&mut self.command(arguments)?)?;
        Ok(())
    }

    /// `ringback status --json`.
    pub fn status(&self) -> Result<Value> {
        self.ask(&["status"])
    }

    /// Its ID.
    pub fn id(&self) -> Result<String> {
        Ok(agent::run(&mut self.command(&["id"])?)?.trim().to_owned())
    }

    /// Exposes services (name, target).
    pub fn expose(&self, services: &[(&str, &str)]) -> Result<()> {
        for (name, target) in services {
            agent::run(&mut self.command(&["expose", name, target])?)?;
        }
        Ok(())
    }

    /// Enrols this device under its name and starts its agent; returns when it is registered.
    pub fn up(&self, registry: &Registry, more: &[&str]) -> Result<Up> {
        let code = registry.enrolment_code(self.lab, &self.name)?;
        self.start(&[&["--enroll", &code, "--password", PASSWORD], more].concat())
    }

    /// Starts the agent of a device that is enrolled; returns when it is registered.
    pub fn up_again(&self) -> Result<Up> {
        self.start(&[])
    }

    fn start(&self, arguments: &[&str]) -> Result<Up> {
        let mut command = self.registry_command(&["up", "--json"])?;
        command.args(arguments);
        let process = self.lab.spawn(&format!("{}-up", self.name), command)?;
        let line = process.stdout_line(PATIENCE, |line| line.starts_with('{'))?;
        let told: Value = serde_json::from_str(&line).with_context(|| line.clone())?;
        ensure!(told["registered"] == true, "not registered: {line}");
        let id = told["id"].as_str().context("no id")?.to_owned();
        Ok(Up { id, process })
    }

    /// Calls a device with the right password and forwards local ports to services of it; returns
    /// when the link is complete.
    pub fn connect(&self, device: &str, forwards: &[(u16, &str)]) -> Result<Connect> {
        let connect = self.calling(device, forwards, &["--password", PASSWORD])?;
        connect.event("connected", 1)?;
        Ok(connect)
    }

    /// Starts `connect` with further arguments, and does not wait for anything.
    pub fn calling(
        &self,
        device: &str,
        forwards: &[(u16, &str)],
        more: &[&str],
    ) -> Result<Connect> {
        let mut command = self.registry_command(&["connect", device, "--json"])?;
        for (port, service) in forwards {
            command.args(["-L", &format!("{port}:{service}")]);
        }
        command.args(more);
        let start = Instant::now();
        let name = format!("{}-connect-{:08x}", self.name, fastrand::u32(..));
        let process = self.lab.spawn(&name, command)?;
        Ok(Connect { start, process })
    }

    /// A local port of a call, as programs on the same host reach it.
    pub fn local(port: u16) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, port).into()
    }
}

impl Connect {
    /// The `nth` event (from 1) of that name; waits for it.
    pub fn event(&self, name: &str, nth: usize) -> Result<Value> {
        self.event_within(PATIENCE, name, nth)
    }

    /// The same with a limit of its own.
    pub fn event_within(&self, limit: Duration, name: &str, nth: usize) -> Result<Value> {
        let parse = |line: &str| serde_json::from_str::<Value>(line).ok();
        // Every line is looked at once.
        let seen = Cell::new(0);
        let is = |line: &str| {
            let hit = parse(line).is_some_and(|event| event["event"] == name);
            seen.set(seen.get() + usize::from(hit));
            hit && seen.get() == nth
        };
        let line = self.process.stdout_line(limit, is);
        let line = line.with_context(|| format!("no event {name} number {nth}"))?;
        parse(&line).context("parsed before")
    }

    /// The path that the link was last said to take, as `direct`, and its transport, as `udp`.
    pub fn path(&self) -> Result<(String, String)> {
        let stdout = self.process.stdout();
        let told = stdout
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .filter_map(|event| match event["event"].as_str() {
                Some("path") => Some(event),
                Some("connected") => Some(event["receipt"].clone()),
                _ => None,
            })
            .next_back()
            .context("no path yet")?;
        let field = |name: &str| told[name].as_str().unwrap_or_default().to_owned();
        Ok((field("path"), field("transport")))
    }

    /// Waits until the link is direct: it may begin on the relay, where the network loses packets.
    pub fn is_direct(&self) -> Result<()> {
        let path = |line: &str| -> Option<String> {
            let event: Value = serde_json::from_str(line).ok()?;
            let told = match event["event"].as_str()? {
                "connected" => &event["receipt"]["path"],
                "path" => &event["path"],
                _ => return None,
            };
            told.as_str().map(str::to_owned)
        };
        let is = |line: &str| path(line).is_some_and(|path| path == "direct");
        let line = self.process.stdout_line(PATIENCE, is);
        line.map(drop).context("the link did not become direct")
    }

    /// Waits until the command ends by itself.
    pub fn ended(&mut self, limit: Duration) -> Result<Ended> {
        let status = self.process.wait(limit)?;
        Ok(Ended {
            code: status.code().unwrap_or(-1),
            stdout: self.process.stdout(),
            stderr: self.process.stderr(),
            time: self.start.elapsed(),
        })
    }
}

impl Ended {
    /// Runs a command to its end, with no input.
    pub fn of(command: &mut Command) -> Result<Self> {
        let start = Instant::now();
        let output = command.stdin(Stdio::null()).output();
        let output = output.with_context(|| format!("{command:?}: can not be run"))?;
        Ok(Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).trim().to_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            time: start.elapsed(),
        })
    }

    /// Whether it failed with that exit code and one line that has these words: for a person, or with
    /// `--json` for a script.
    pub fn check(&self, code: i32, words: &str) -> Result<()> {
        ensure!(self.code == code, "exit code {code} was expected: {self:?}");
        let last = self.stderr.lines().last().unwrap_or_default();
        let told: Value = serde_json::from_str(last).unwrap_or_default();
        let message = match last.strip_prefix("ringback: ") {
            Some(message) => message,
            None => told["error"]["message"].as_str().unwrap_or_default(),
        };
        ensure!(
            message.contains(words),
            "a line about '{words}' was expected: {self:?}"
        );
        Ok(())
    }
}

/// Waits until `look` gives something, for at most `limit`; gives it and how long that took.
pub fn until<T>(
    limit: Duration,
    what: &str,
    mut look: impl FnMut() -> Result<Option<T>>,
) -> Result<(T, Duration)> {
    let start = Instant::now();
    loop {
        if let Some(found) = look()? {
            return Ok((found, start.elapsed()));
        }
        ensure!(start.elapsed() < limit, "{what}: not within {limit:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The device's row in the registry's list, asked for from the registry's own host.
pub fn row(lab: &Lab, registry: &Registry, id: &str) -> Result<Value> {
    let (status, list) = registry.call(lab.registry(), "GET", "/v1/devices", None)?;
    ensure!(status == 200, "no device list: {status} {list}");
    let rows = list["devices"].as_array().context("no devices")?;
    let row = rows.iter().find(|row| row["id"] == id);
    Ok(row.cloned().unwrap_or_default())
}
