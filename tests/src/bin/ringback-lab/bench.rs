//! `ringback-lab bench`: every figure, measured between the same namespaces in one run.

mod figure;
mod first_byte;
mod idle;
mod peer;
mod throughput;
mod worker;

use std::{path::PathBuf, process::Command};

use anyhow::{Result, ensure};
use clap::Args;
use ringback_tests::{
    agent::Device,
    case::Stage,
    lab::{DEVICE_PUBLIC, impairment::Impairment, kind::Kind, process::Process},
};
use serde::Serialize;

use crate::arguments::write_json;

/// Where the device's host sends bytes by plain TCP, and what Ringback exposes as `bulk`.
const TCP_PORT: u16 = 7000;
/// Where the device's host sends bytes by a bare quinn stream.
const QUINN_PORT: u16 = 7001;

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
    /// Write the figures here (- for standard output)
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Debug, Serialize)]
struct Figures {
    machine: Machine,
    throughput: throughput::Figures,
    first_byte: first_byte::Figures,
    idle: idle::Figures,
    worker: worker::Figures,
}

#[derive(Debug, Serialize)]
struct Machine {
    cores: usize,
    kernel: String,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    ensure!(
        !cfg!(debug_assertions),
        "measure what is shipped: cargo run --release -p ringback-tests"
    );
    let dumbpipe = arguments.peers.then(peer::dumbpipe).transpose()?;
    let bench = Bench::set()?;
    let figures = Figures {
        machine: Machine::here()?,
        idle: idle::measure(&bench, arguments.idle)?,
        throughput: throughput::measure(&bench, arguments.runs, arguments.bytes, dumbpipe)?,
        first_byte: first_byte::measure(&bench, arguments.runs)?,
        worker: worker::measure()?,
    };
    if let Some(path) = &arguments.json {
        write_json(path, &figures)?;
    }
    Ok(())
}

/// A stage whose two hosts have public addresses, so that plain TCP and a bare quinn stream go the
/// very way that Ringback goes, and the senders on the device's host.
struct Bench {
    device: Device,
    _senders: [Process; 2],
    stage: Stage,
}

impl Bench {
    fn set() -> Result<Self> {
        let stage = Stage::set()?;
        stage.lab().caller().set_kind(Kind::Open)?;
        stage.lab().device().set_kind(Kind::Open)?;
        let senders = [
            sender(&stage, "tcp-serve", TCP_PORT)?,
            sender(&stage, "quinn-serve", QUINN_PORT)?,
        ];
        let bulk = format!("127.0.0.1:{TCP_PORT}");
        let device = stage.device_with(&[("bulk", &bulk)])?;
        Ok(Self {
            device,
            _senders: senders,
            stage,
        })
    }

    /// A `ringback-lab` command on the caller's host.
    fn lab_command(&self) -> Result<Command> {
        Ok(self.stage.lab().caller().command(std::env::current_exe()?))
    }

    fn impair(&self, impairment: Impairment) -> Result<()> {
        self.stage.lab().impair(impairment)
    }
}

impl Machine {
    fn here() -> Result<Self> {
        Ok(Self {
            cores: std::thread::available_parallelism()?.get(),
            kernel: std::fs::read_to_string("/proc/sys/kernel/osrelease")?
                .trim()
                .to_owned(),
        })
    }
}

fn sender(stage: &Stage, command: &str, port: u16) -> Result<Process> {
    let mut sender = stage.lab().device().command(std::env::current_exe()?);
    sender.arg(command).arg(format!("0.0.0.0:{port}"));
    let process = stage.lab().spawn(command, sender)?;
    process.stdout_line(std::time::Duration::from_secs(10), |line| {
        line == "listening"
    })?;
    Ok(process)
}

/// Where the caller reaches a sender directly.
fn direct(port: u16) -> String {
    format!("{DEVICE_PUBLIC}:{port}")
}
