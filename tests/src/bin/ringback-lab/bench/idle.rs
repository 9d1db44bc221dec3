//! What a device costs that nobody calls.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result};
use nix::unistd::{SysconfVar, sysconf};
use serde::Serialize;

use super::Bench;

#[derive(Debug, Serialize)]
pub(crate) struct Figures {
    /// For how long it was watched.
    seconds: u64,
    /// Resident memory at the end, shared pages included.
    resident_bytes: u64,
    /// Processor time used, as a share of one core.
    cpu_percent: f64,
    /// Bytes on the device's interface, both ways, Ethernet headers included.
    bytes_per_hour: u64,
    /// Packets on the device's interface, both ways.
    packets_per_hour: u64,
}

/// Watches the device's agent, which has just registered and was never called.
pub(super) fn measure(bench: &Bench, seconds: u64) -> Result<Figures> {
    let host = bench.stage.lab().device().host();
    let pid = bench.device.process.pid();
    eprintln!("idle agent: {seconds} s");
    let (cpu, traffic) = (cpu_seconds(pid)?, host.counter("eth0")?);
    std::thread::sleep(Duration::from_secs(seconds));
    let (cpu, traffic) = (cpu_seconds(pid)? - cpu, host.counter("eth0")? - traffic);
    let per_hour = |count: u64| count * 3600 / seconds;
    let figures = Figures {
        seconds,
        resident_bytes: resident_bytes(pid)?,
        cpu_percent: cpu / seconds as f64 * 100.0,
        bytes_per_hour: per_hour(traffic.bytes()),
        packets_per_hour: per_hour(traffic.rx_packets + traffic.tx_packets),
    };
    eprintln!(
        "idle agent: {:.1} MB resident, {:.3} % of a core, {:.0} kB and {} packets an hour",
        figures.resident_bytes as f64 / 1e6,
        figures.cpu_percent,
        figures.bytes_per_hour as f64 / 1e3,
        figures.packets_per_hour,
    );
    Ok(figures)
}

fn resident_bytes(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line
        .and_then(|line| line.trim().strip_suffix("kB"))
        .context("no VmRSS")?;
    Ok(kib.trim().parse::<u64>()? * 1024)
}

/// User and system time of a process, in steps of a clock tick (10 ms).
fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The second field is a name in parentheses that may contain anything.
    let (_, fields) = stat.rsplit_once(')').context("no name in stat")?;
    let fields = fields.split_whitespace().collect::<Vec<_>>();
    let ticks = |field: usize| -> Result<u64> { Ok(fields.get(field).context("short")?.parse()?) };
    let per_second = sysconf(SysconfVar::CLK_TCK)?.context("no clock tick")?;
    Ok((ticks(11)? + ticks(12)?) as f64 / per_second as f64)
}
