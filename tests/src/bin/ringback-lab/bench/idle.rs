//! What a device costs that nobody calls.

use std::time::Duration;

use anyhow::Result;
use serde::Serialize;

use super::{
    Bench,
    report::{Aim, Report},
    usage::{cpu_seconds, proportional_bytes, resident_bytes},
};

#[derive(Debug, Serialize)]
pub(crate) struct Figures {
    /// For how long it was watched.
    seconds: u64,
    /// Resident memory at the end, shared pages included.
    resident_bytes: u64,
    /// Resident memory at the end, shared pages divided among their users.
    proportional_bytes: u64,
    /// Processor time used.
    cpu_seconds: f64,
    /// Bytes that the device's interface sent in an hour, Ethernet headers included.
    bytes_up_per_hour: u64,
    /// Bytes that it received.
    bytes_down_per_hour: u64,
    /// Packets on the device's interface, both ways.
    packets_per_hour: u64,
}

/// Watches the device's agent, which has just registered and was never called.
pub(super) fn measure(bench: &Bench, seconds: u64) -> Result<Figures> {
    let host = bench.stage.lab().device().host();
    let pid = bench.device.process.pid();
    // What registering takes is over.
    std::thread::sleep(Duration::from_secs(2));
    eprintln!("idle agent: {seconds} s");
    let (cpu, traffic) = (cpu_seconds(pid)?, host.counter("eth0")?);
    std::thread::sleep(Duration::from_secs(seconds));
    let (cpu, traffic) = (cpu_seconds(pid)? - cpu, host.counter("eth0")? - traffic);
    let per_hour = |count: u64| count * 3600 / seconds;
    Ok(Figures {
        seconds,
        resident_bytes: resident_bytes(pid)?,
        proportional_bytes: proportional_bytes(pid)?,
        cpu_seconds: cpu,
        bytes_up_per_hour: per_hour(traffic.tx_bytes),
        bytes_down_per_hour: per_hour(traffic.rx_bytes),
        packets_per_hour: per_hour(traffic.rx_packets + traffic.tx_packets),
    })
}

impl Figures {
    pub(super) fn report(&self, report: &mut Report) {
        let part = "idle agent";
        let resident = self.resident_bytes as f64 / 1e6;
        report.aim(part, "resident memory", resident, "MB", Aim::AtMost(15.0));
        let own = self.proportional_bytes as f64 / 1e6;
        report.add(part, "  shared pages divided (Pss)", own, "MB");
        let cpu = self.cpu_seconds / self.seconds as f64 * 100.0;
        report.add(part, "processor", cpu, "% CPU");
        let (up, down) = (self.bytes_up_per_hour, self.bytes_down_per_hour);
        report.add(part, "sent in an hour", up as f64, "bytes");
        report.add(part, "received in an hour", down as f64, "bytes");
        let packets = self.packets_per_hour as f64;
        report.add(part, "packets in an hour, both ways", packets, "");
    }
}
