//! What a process uses, as the kernel counts it.

use std::fs;

use anyhow::{Context as _, Result};
use nix::unistd::{SysconfVar, sysconf};

/// User and system time so far, in steps of a clock tick (10 ms).
pub(crate) fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The second field is a name in parentheses that may contain anything.
    let (_, fields) = stat.rsplit_once(')').context("no name in stat")?;
    let fields = fields.split_whitespace().collect::<Vec<_>>();
    let ticks = |field: usize| -> Result<u64> { Ok(fields.get(field).context("short")?.parse()?) };
    let per_second = sysconf(SysconfVar::CLK_TCK)?.context("no clock tick")?;
    Ok((ticks(11)? + ticks(12)?) as f64 / per_second as f64)
}

/// Time that all cores together have spent on work so far, in steps of a clock tick (10 ms).
pub(crate) fn busy_seconds() -> Result<f64> {
    let stat = fs::read_to_string("/proc/stat")?;
    let all = stat.lines().next().context("an empty /proc/stat")?;
    // user nice system idle iowait irq softirq steal
    let ticks = all
        .split_whitespace()
        .skip(1)
        .take(8)
        .map(str::parse)
        .collect::<Result<Vec<u64>, _>>()?;
    let idle = ticks.get(3).context("short")? + ticks.get(4).context("short")?;
    let per_second = sysconf(SysconfVar::CLK_TCK)?.context("no clock tick")?;
    Ok((ticks.iter().sum::<u64>() - idle) as f64 / per_second as f64)
}

/// Resident memory in bytes, pages shared with other processes included.
pub(crate) fn resident_bytes(pid: u32) -> Result<u64> {
    field(pid, "status", "VmRSS:")
}

/// Resident memory in bytes, each shared page divided by the number of its users.
pub(crate) fn proportional_bytes(pid: u32) -> Result<u64> {
    field(pid, "smaps_rollup", "Pss:")
}

fn field(pid: u32, file: &str, name: &str) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/{file}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let kib = line
        .and_then(|line| line.trim().strip_suffix("kB"))
        .with_context(|| format!("no {name} in {file}"))?;
    Ok(kib.trim().parse::<u64>()? * 1024)
}
