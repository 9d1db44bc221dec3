//! The `ringback` binary as a device and as a caller in a lab.

use std::{
    ffi::OsString,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;
use serde_json::Value;

use crate::lab::{
    Lab, coturn::Coturn, namespace::Namespace, process::Process, reach::Expected,
    registry::Registry,
};

/// How long an agent may take to register, or a call to go through, on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The binary under test: `RINGBACK_BIN`, or the one that cargo built beside this program.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("RINGBACK_BIN") {
        return Ok(path.into());
    }
    let own = std::env::current_exe()?;
    // target/PROFILE/ringback-lab, or target/PROFILE/deps/TEST-HASH.
    let built = own
        .ancestors()
        .skip(1)
        .take(2)
        .map(|dir| dir.join("ringback"));
    built
        .into_iter()
        .find(|path| path.is_file())
        .context("the binary `ringback` is not built: run `cargo build -p ringback` (same profile)")
}

/// A `ringback` command in a namespace, with a state directory and quiet environment of its own.
pub fn command(namespace: &Namespace, dir: &Path) -> Result<Command> {
    let mut command = namespace.command(binary()?);
    for name in settings() {
        command.env_remove(name);
    }
    command.arg("--dir").arg(dir);
    Ok(command)
}

/// The variables of this environment that `ringback` heeds: its own, and those of proxies.
pub fn settings() -> impl Iterator<Item = OsString> {
    let names = std::env::vars_os().map(|(name, _)| name);
    names.filter(|name| {
        let name = name.to_string_lossy().to_ascii_uppercase();
        name.starts_with("RINGBACK_") || name.ends_with("_PROXY")
    })
}

/// Runs a `ringback` command to its end; an error has what it said.
pub fn run(command: &mut Command) -> Result<String> {
    let output = command
        .output()
        .with_context(|| format!("{command:?}: can not be run"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{command:?}: {}: {}",
        output.status,
        said.trim()
    );
    Ok(String::from_utf8(output.stdout)?)
}

/// A registered device: `ringback up` with its services.
#[derive(Debug)]
pub struct Device {
    /// Its ID, `rb1…`.
    pub id: String,
    /// Its password.
    pub password: String,
    /// The name it has at the registry.
    pub name: String,
    /// The running agent.
    pub process: Process,
    dir: PathBuf,
}

impl Device {
    /// Exposes `services` (name, target), enrols a device of that name, starts it in a namespace,
    /// and returns when it is registered. The state stays in `lab.dir()/NAME`; whoever starts the
    /// same name again gets the same device.
    pub fn start(
        lab: &Lab,
        registry: &Registry,
        namespace: &Namespace,
        name: &str,
        services: &[(&str, &str)],
    ) -> Result<Self> {
        let dir = lab.dir().join(name);
        let is_new = !dir.exists();
        for (service, target) in services {
            run(command(namespace, &dir)?.args(["expose", service, target]))?;
        }
        let mut up = command(namespace, &dir)?;
        up.arg("up")
            .args(registry_options_in(registry, namespace)?)
            .args(["--name", name, "--json"]);
        up.args(["--password", &password(name)]);
        if is_new {
            up.args(["--enroll", &registry.enrolment_code(lab, name)?]);
        }
        let process = lab.spawn(name, up)?;
        let line = process.stdout_line(PATIENCE, |line| line.starts_with('{'))?;
        let told: Value = serde_json::from_str(&line).with_context(|| line.clone())?;
        let id = told["id"]
            .as_str()
            .with_context(|| format!("no id in {line}"))?
            .to_owned();
        Ok(Self {
            id,
            password: password(name),
            name: name.to_owned(),
            process,
            dir,
        })
    }

    /// Its state directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

/// A call by `ringback connect` whose local ports are open; the link may still be on its way.
#[derive(Debug)]
pub struct Call {
    start: Instant,
    /// The running caller.
    pub process: Process,
}

/// A link that `ringback connect` holds open.
#[derive(Debug)]
pub struct Link {
    /// When the call was started.
    pub start: Instant,
    /// How the call went, as the caller printed it.
    pub receipt: Value,
    /// From the start of the process to the receipt.
    pub time: Duration,
    /// The running caller.
    pub process: Process,
}

impl Call {
    /// Calls a device from a namespace and forwards local ports (`listen`, service), and returns
    /// when the ports are open.
    pub fn start(
        lab: &Lab,
        registry: &Registry,
        namespace: &Namespace,
        device: &Device,
        forwards: &[(SocketAddr, &str)],
    ) -> Result<Self> {
        let mut connect = connect_command(lab, registry, namespace, device)?;
        for (listen, service) in forwards {
            connect.args(["-L", &format!("{listen}:{service}")]);
        }
        let start = Instant::now();
        let process = lab.spawn(&format!("caller-{:08x}", fastrand::u32(..)), connect)?;
        let call = Self { start, process };
        call.event("listening")?;
        Ok(call)
    }

    /// Waits until the link is up.
    pub fn connected(self) -> Result<Link> {
        let mut event = self.event("connected")?;
        Ok(Link {
            start: self.start,
            receipt: event["receipt"].take(),
            time: self.start.elapsed(),
            process: self.process,
        })
    }

    fn event(&self, name: &str) -> Result<Value> {
        let parse = |line: &str| serde_json::from_str::<Value>(line);
        let is = |line: &str| parse(line).is_ok_and(|told| told["event"] == name);
        Ok(parse(&self.process.stdout_line(PATIENCE, is)?)?)
    }
}

/// Which way a link takes, as the caller says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Way {
    /// `direct` or `relay`.
    pub path: String,
    /// `udp`, `tcp` or `websocket`.
    pub transport: String,
}

impl Way {
    /// What the event `connected` (in its receipt) or the event `path` tells; nothing else does.
    fn told_by(line: &str) -> Option<Self> {
        let event: Value = serde_json::from_str(line).ok()?;
        let told = match event["event"].as_str()? {
            "connected" => &event["receipt"],
            "path" => &event,
            _ => return None,
        };
        Some(Self::of(told))
    }

    /// What a receipt says. One that names no transport is from before there was a choice.
    pub fn of(receipt: &Value) -> Self {
        let text = |key: &str, absent: &str| receipt[key].as_str().unwrap_or(absent).to_owned();
        Self {
            path: text("path", "unknown"),
            transport: text("transport", "udp"),
        }
    }

    /// Whether it is the expected one.
    pub fn is(&self, expected: Expected) -> bool {
        self.path == expected.path()
            && match expected {
                Expected::Direct(transport) => self.transport == transport.to_string(),
                Expected::Relay(_) => true,
            }
    }
}

impl Link {
    /// The way it takes now.
    pub fn way(&self) -> Way {
        let told = self.process.stdout();
        let last = told.lines().rev().find_map(Way::told_by);
        last.unwrap_or_else(|| Way::of(&self.receipt))
    }

    /// Waits until the link takes the expected way (or has taken it before), and gives the time
    /// from the start of the call until then. `None` if it does not within `timeout` from the start
    /// of the call.
    pub fn takes(&self, expected: Expected, timeout: Duration) -> Option<Duration> {
        let left = timeout.saturating_sub(self.start.elapsed());
        let is = |line: &str| Way::told_by(line).is_some_and(|way| way.is(expected));
        self.process.stdout_line(left, is).ok()?;
        Some(self.start.elapsed())
    }
}

/// `ringback connect ID …`, to which forwards can be added.
pub fn connect_command(
    lab: &Lab,
    registry: &Registry,
    namespace: &Namespace,
    device: &Device,
) -> Result<Command> {
    let mut connect = command(namespace, &lab.dir().join("caller"))?;
    connect
        .args(["connect", &device.id, "--json"])
        .args(registry_options_in(registry, namespace)?);
    connect.args(["--password", &device.password]);
    Ok(connect)
}

/// The options by which an agent of the lab finds registry and STUN server by IPv4.
pub fn registry_options(registry: &Registry) -> Vec<String> {
    let ca = registry.ca().display().to_string();
    let mut options = vec![
        "--registry".into(),
        registry.url(),
        "--registry-ca".into(),
        ca,
    ];
    for server in Coturn::servers() {
        options.extend(["--stun".into(), server.to_string()]);
    }
    options
}

/// The options by which an agent in a namespace of the lab finds them, by the family it has there.
pub fn registry_options_in(registry: &Registry, namespace: &Namespace) -> Result<Vec<String>> {
    let mut options = registry_options(registry);
    fit_family(&mut options, namespace)?;
    Ok(options)
}

/// Puts the STUN servers' IPv6 addresses in the place of the others where a namespace has IPv6, and
/// their names, which have both, where it has a NAT64.
pub(crate) fn fit_family(options: &mut [String], namespace: &Namespace) -> Result<()> {
    let fit = if namespace.has_nat64()? {
        Coturn::names()
    } else {
        Coturn::servers_for(namespace)?.map(|server| server.to_string())
    };
    for (other, fit) in Coturn::servers().into_iter().zip(fit) {
        let other = other.to_string();
        for option in options.iter_mut().filter(|option| **option == other) {
            option.clone_from(&fit);
        }
    }
    Ok(())
}

/// The first local port that forwards use.
pub const LOCAL: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);

fn password(name: &str) -> String {
    format!("open-{name}-please")
}
