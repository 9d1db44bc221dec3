//! `ringback-lab bench`: every figure, measured between the same namespaces in one run.

mod browser;
mod caller;
mod figure;
mod first_byte;
mod idle;
mod loss;
mod moves;
mod new_stream;
mod paths;
mod peer;
mod registry;
mod report;
mod talk;
mod throughput;
mod usage;
mod worker;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use clap::{Args, ValueEnum};
use ringback_tests::{
    agent::{self, Device},
    case::Stage,
    lab::{
        DEVICE_PUBLIC, Lab, file_server::FileServer, impairment::Impairment, kind::Kind,
        process::Process, registry::Registry,
    },
};
use serde::Serialize;

use self::{report::Report, talk::Talk};
use crate::arguments::write_json;

/// Where the device's host sends bytes by plain TCP, and what Ringback exposes as `bulk`.
const TCP_PORT: u16 = 7000;
/// Where the device's host sends bytes by a bare quinn stream.
const QUINN_PORT: u16 = 7001;
/// What a round trip takes where something is measured in round trips.
const ROUND_TRIP: Duration = Duration::from_millis(40);

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Runs of each measurement; the median counts
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Bytes of a throughput run
    #[arg(long, default_value_t = 1_000_000_000)]
    bytes: u64,
    /// Seconds for which an idle agent is watched
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    idle: u64,
    /// Beside dumbpipe (installed with cargo into the tool cache if it is not there)
    #[arg(long)]
    peers: bool,
    /// Measure these parts only
    #[arg(long, value_name = "PART", value_delimiter = ',')]
    only: Vec<Part>,
    /// Write the figures here (- for standard output)
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    Idle,
    Throughput,
    NewStream,
    FirstByte,
    Registry,
    Worker,
    Paths,
    Loss,
    Moves,
    Browser,
}

#[derive(Debug, Default, Serialize)]
struct Figures {
    machine: Machine,
    versions: BTreeMap<&'static str, String>,
    runs: u32,
    /// What the table shows.
    report: Report,
    idle: Option<idle::Figures>,
    throughput: Option<throughput::Figures>,
    new_stream: Option<new_stream::Figures>,
    first_byte: Option<first_byte::Figures>,
    registry: Option<registry::Figures>,
    worker: Option<worker::Figures>,
    paths: Option<paths::Figures>,
    loss: Vec<loss::Case>,
    moves: Option<moves::Figures>,
    browser: Option<browser::Figures>,
}

#[derive(Debug, Default, Serialize)]
struct Machine {
    cores: usize,
    cpu: String,
    kernel: String,
    /// Processes that wanted to run in the minutes before: more than 0 is somebody else.
    load_at_start: String,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    ensure!(
        !cfg!(debug_assertions),
        "measure what is shipped: cargo run --release -p ringback-tests"
    );
    let dumbpipe = arguments.peers.then(peer::dumbpipe).transpose()?;
    let (dumbpipe, runs) = (dumbpipe.as_deref(), arguments.runs);
    let machine = Machine::here()?;
    let bench = Bench::set()?;
    let is_wanted = |part| arguments.only.is_empty() || arguments.only.contains(&part);
    let mut figures = Figures {
        machine,
        versions: versions(dumbpipe)?,
        runs,
        ..Figures::default()
    };
    // What is measured is kept, whatever comes of the next part.
    let keep = |figures: &Figures| match &arguments.json {
        Some(path) if path != Path::new("-") => write_json(path, figures),
        _ => Ok(()),
    };
    for part in Part::value_variants() {
        if !is_wanted(*part) {
            continue;
        }
        match part {
            Part::Idle => figures.idle = Some(idle::measure(&bench, arguments.idle)?),
            Part::Throughput => {
                let measured = throughput::measure(&bench, runs, arguments.bytes, dumbpipe)?;
                figures.throughput = Some(measured);
            }
            Part::NewStream => {
                figures.new_stream = Some(new_stream::measure(&bench, runs, dumbpipe)?);
            }
            Part::FirstByte => figures.first_byte = Some(first_byte::measure(&bench, runs)?),
            Part::Registry => figures.registry = Some(registry::measure(runs)?),
            Part::Worker => figures.worker = Some(worker::measure()?),
            Part::Loss => figures.loss = loss::measure(&bench, runs)?,
            Part::Moves => figures.moves = Some(moves::measure(runs)?),
            Part::Paths => figures.paths = Some(paths::measure(runs, arguments.bytes)?),
            Part::Browser => figures.browser = Some(browser::measure(runs)?),
        }
        keep(&figures)?;
    }
    figures.tabulate();
    eprintln!("\n{}", figures.report);
    if let Some(first_byte) = &figures.first_byte {
        eprintln!(
            "steps in round trips waited for (and time at 40 ms / 40 ms, from the start of the \
             call; the first byte from that of the process)\n{}",
            first_byte.steps()
        );
    }
    if let Some(path) = &arguments.json {
        write_json(path, &figures)?;
    }
    Ok(())
}

impl Figures {
    fn tabulate(&mut self) {
        let report = &mut self.report;
        if let Some(figures) = &self.first_byte {
            figures.report(report);
        }
        if let Some(figures) = &self.new_stream {
            figures.report(report);
        }
        if let Some(figures) = &self.throughput {
            figures.report(report);
        }
        if let Some(figures) = &self.registry {
            figures.report(report);
        }
        if let Some(figures) = &self.idle {
            figures.report(report);
        }
        if let Some(figures) = &self.worker {
            figures.report(report);
        }
        if let Some(figures) = &self.paths {
            figures.report(report);
        }
        for case in &self.loss {
            case.report(report);
        }
        if let Some(figures) = &self.moves {
            figures.report(report);
        }
        if let Some(figures) = &self.browser {
            figures.report(report);
        }
    }
}

/// A stage whose two hosts have public addresses, so that plain TCP and a bare quinn stream go the
/// very way that Ringback goes, and the services on the device's host.
struct Bench {
    device: Device,
    _senders: [Process; 2],
    _talkers: FileServer,
    stage: Stage,
}

impl Bench {
    fn set() -> Result<Self> {
        let stage = Stage::set()?;
        stage.lab().caller().set_kind(Kind::Open)?;
        stage.lab().device().set_kind(Kind::Open)?;
        let senders = [
            sender(stage.lab(), "tcp-serve", TCP_PORT)?,
            sender(stage.lab(), "quinn-serve", QUINN_PORT)?,
        ];
        let talkers = talk::start(stage.lab().device().host())?;
        Ok(Self {
            device: services(stage.lab(), stage.registry(), "nas")?,
            _senders: senders,
            _talkers: talkers,
            stage,
        })
    }

    /// A further device on the device's host, with the same services.
    fn device(&self, name: &str) -> Result<Device> {
        services(self.stage.lab(), self.stage.registry(), name)
    }

    /// A `ringback-lab` command on the caller's host.
    fn lab_command(&self) -> Result<Command> {
        Ok(self.stage.lab().caller().command(std::env::current_exe()?))
    }

    /// Makes that the round trip between any two parts of the lab that the core lies between.
    fn impair(&self, round_trip: Duration) -> Result<()> {
        self.stage.lab().impair(Impairment {
            delay: round_trip / 2,
            ..Impairment::default()
        })
    }
}

impl Machine {
    fn here() -> Result<Self> {
        let read = |path: &str| std::fs::read_to_string(path).with_context(|| path.to_owned());
        let cpu = read("/proc/cpuinfo")?;
        let cpu = cpu.lines().find(|line| line.starts_with("model name"));
        let cpu = cpu.and_then(|line| line.split_once(": "));
        Ok(Self {
            cores: std::thread::available_parallelism()?.get(),
            cpu: cpu.map_or("unknown", |(_, name)| name).to_owned(),
            kernel: read("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            load_at_start: read("/proc/loadavg")?.trim().to_owned(),
        })
    }
}

fn versions(dumbpipe: Option<&Path>) -> Result<BTreeMap<&'static str, String>> {
    let asked = |program: PathBuf| -> Result<String> {
        let said = agent::run(Command::new(program).arg("--version"))?;
        let version = said.split_whitespace().last().unwrap_or_default();
        Ok(version.to_owned())
    };
    let mut versions = BTreeMap::from([
        ("ringback", asked(agent::binary()?)?),
        ("workerd", asked(xtask::place::workerd()?)?),
    ]);
    for package in ["quinn", "quinn-proto", "rustls", "tokio"] {
        versions.insert(package, xtask::place::locked_version(package)?);
    }
    if dumbpipe.is_some() {
        versions.insert("dumbpipe", peer::VERSION.to_owned());
    }
    Ok(versions)
}

/// A device on the device's host, with all services.
fn services(lab: &Lab, registry: &Registry, name: &str) -> Result<Device> {
    let bulk = format!("127.0.0.1:{TCP_PORT}");
    let talks = Talk::ALL.map(Talk::exposed);
    let mut services = vec![("bulk", bulk.as_str())];
    services.extend(talks.iter().map(|(name, target)| (*name, target.as_str())));
    Device::start(lab, registry, lab.device().host(), name, &services)
}

fn sender(lab: &Lab, command: &str, port: u16) -> Result<Process> {
    let mut sender = lab.device().command(std::env::current_exe()?);
    sender.arg(command).arg(format!("0.0.0.0:{port}"));
    let process = lab.spawn(command, sender)?;
    process.stdout_line(Duration::from_secs(10), |line| line == "listening")?;
    Ok(process)
}

/// Where the caller reaches a sender directly.
fn direct(port: u16) -> String {
    format!("{DEVICE_PUBLIC}:{port}")
}
