//! What a lossy network leaves of throughput, by congestion controller: a bare quinn stream with
//! each, the product's own choice (`-L`), and plain TCP, through the same forwarder.

use std::{net::SocketAddr, time::Duration};

use anyhow::Result;
use clap::ValueEnum as _;
use ringback_tests::{
    agent::LOCAL,
    lab::{impairment::Impairment, process::Process},
    quinn_stream::Congestion,
};
use serde::Serialize;

use super::{
    Bench, ROUND_TRIP, TCP_PORT, direct, figure::Figure, report::Report, throughput::fetch,
};

/// Share of packets lost each way, round trip, bytes of one run.
const NETWORKS: [(f64, Duration, u64); 6] = [
    (0.0, Duration::ZERO, 500_000_000),
    (0.0, ROUND_TRIP, 50_000_000),
    (0.001, ROUND_TRIP, 20_000_000),
    (0.01, ROUND_TRIP, 8_000_000),
    (0.05, ROUND_TRIP, 2_000_000),
    (0.3, ROUND_TRIP, 100_000),
];
const CONTROLLERS: [Congestion; 2] = [Congestion::Cubic, Congestion::Bbr];
/// The first one listens here, the others above it.
const QUINN_PORT: u16 = 7010;

/// Mb/s.
#[derive(Debug, Serialize)]
pub(super) struct Case {
    loss: f64,
    round_trip_ms: u64,
    bytes: u64,
    /// By [`CONTROLLERS`].
    quinn: [Figure; CONTROLLERS.len()],
    ringback: Figure,
    tcp: Figure,
}

pub(super) fn measure(bench: &Bench, runs: u32) -> Result<Vec<Case>> {
    let _senders = (0..CONTROLLERS.len())
        .map(|at| sender(bench, at))
        .collect::<Result<Vec<_>>>()?;
    let mut cases = Vec::new();
    for (loss, round_trip, bytes) in NETWORKS {
        bench.impair(Duration::ZERO)?;
        let link = bench.stage.call(&bench.device, "bulk")?.connected()?;
        bench.stage.lab().impair(Impairment {
            delay: round_trip / 2,
            loss,
            ..Impairment::default()
        })?;
        let mut case = Case {
            loss,
            round_trip_ms: round_trip.as_millis() as u64,
            bytes,
            quinn: Default::default(),
            ringback: Figure::default(),
            tcp: Figure::default(),
        };
        for run in 1..=runs {
            for at in 0..CONTROLLERS.len() {
                let server = direct(QUINN_PORT + at as u16);
                case.quinn[at].add(run_of(bench, "quinn-fetch", &server, bytes)?);
            }
            let forwarded = LOCAL.to_string();
            case.ringback
                .add(run_of(bench, "tcp-fetch", &forwarded, bytes)?);
            let plain = direct(TCP_PORT);
            case.tcp.add(run_of(bench, "tcp-fetch", &plain, bytes)?);
            eprintln!("loss {} %, run {run} of {runs}", loss * 100.0);
        }
        drop(link);
        cases.push(case);
    }
    bench.impair(Duration::ZERO)?;
    Ok(cases)
}

fn sender(bench: &Bench, at: usize) -> Result<Process> {
    let lab = bench.stage.lab();
    let mut sender = lab.device().command(std::env::current_exe()?);
    let name = CONTROLLERS[at].to_possible_value();
    let name = name.map_or_else(String::new, |name| name.get_name().to_owned());
    let listen = SocketAddr::from(([0, 0, 0, 0], QUINN_PORT + at as u16));
    sender.args(["quinn-serve", &listen.to_string(), "--congestion", &name]);
    let process = lab.spawn(&format!("quinn-serve-{name}"), sender)?;
    process.stdout_line(Duration::from_secs(10), |line| line == "listening")?;
    Ok(process)
}

fn run_of(bench: &Bench, what: &str, server: &str, bytes: u64) -> Result<f64> {
    let mut command = bench.lab_command()?;
    command.args([what, server]);
    Ok(fetch(command, bytes)?.megabits_s)
}

impl Case {
    pub(super) fn report(&self, report: &mut Report) {
        let part = "one stream on lossy networks, loss each way";
        let network = format!("{} %, {} ms", self.loss * 100.0, self.round_trip_ms);
        let [cubic, bbr] = &self.quinn;
        for (name, figure) in [
            ("ringback -L", &self.ringback),
            ("  bare quinn, CUBIC", cubic),
            ("  bare quinn, BBR", bbr),
            ("  plain TCP", &self.tcp),
        ] {
            let name = match name.strip_prefix("  ") {
                Some(_) => name.to_owned(),
                None => format!("{name}, {network}"),
            };
            report.add(part, name, figure.median * 1e3, "kb/s");
        }
    }
}
