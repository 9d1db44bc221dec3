//! Throughput of `-L` beside plain TCP, a bare quinn stream and dumbpipe. One round measures each
//! once, so that what else the machine does falls on all of them alike. Both ends and all that
//! lies between share the cores of one machine, so what a byte costs in processor time is measured,
//! too: it says whether a figure is the machine's or the program's.

use std::{path::Path, process::Command, time::Instant};

use anyhow::{Context as _, Result, ensure};
use ringback_tests::transfer::Transfer;
use serde::Serialize;

use super::{
    Bench, QUINN_PORT, TCP_PORT, direct,
    figure::Figure,
    peer::Dumbpipe,
    report::{Aim, Report},
    usage::busy_seconds,
};

/// Rates, and ratios of their medians.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Figures {
    bytes: u64,
    plain_tcp: Rate,
    plain_tcp_8_streams: Rate,
    bare_quinn: Rate,
    ringback: Rate,
    ringback_8_streams: Rate,
    dumbpipe: Option<Rate>,
    ringback_to_bare_quinn: f64,
    ringback_8_streams_to_bare_quinn: f64,
    ringback_to_dumbpipe: Option<f64>,
}

#[derive(Debug, Default, Serialize)]
struct Rate {
    megabits_s: Figure,
    /// Processor time of the whole machine per gigabyte.
    core_seconds_per_gb: Figure,
    /// How many cores were at work meanwhile.
    busy_cores: Figure,
}

/// Where the caller's end of dumbpipe listens.
const DUMBPIPE_PORT: u16 = 8090;

pub(super) fn measure(
    bench: &Bench,
    runs: u32,
    bytes: u64,
    dumbpipe: Option<&Path>,
) -> Result<Figures> {
    let link = bench.stage.call(&bench.device, "bulk")?.connected()?;
    let dumbpipe = dumbpipe
        .map(|binary| Dumbpipe::start(bench, binary, TCP_PORT, DUMBPIPE_PORT))
        .transpose()?;
    let mut figures = Figures {
        bytes,
        dumbpipe: dumbpipe.as_ref().map(|_| Rate::default()),
        ..Figures::default()
    };
    let (plain, quinn) = (direct(TCP_PORT), direct(QUINN_PORT));
    let forwarded = ringback_tests::agent::LOCAL.to_string();
    for run in 1..=runs {
        let tcp = |server: &str, streams: u32| {
            let mut command = bench.lab_command()?;
            command.args(["tcp-fetch", server, "--streams", &streams.to_string()]);
            fetch(command, bytes)
        };
        figures.plain_tcp.add(&tcp(&plain, 1)?);
        figures.plain_tcp_8_streams.add(&tcp(&plain, 8)?);
        let mut command = bench.lab_command()?;
        command.args(["quinn-fetch", &quinn]);
        figures.bare_quinn.add(&fetch(command, bytes)?);
        figures.ringback.add(&tcp(&forwarded, 1)?);
        figures.ringback_8_streams.add(&tcp(&forwarded, 8)?);
        if let (Some(dumbpipe), Some(figure)) = (&dumbpipe, &mut figures.dumbpipe) {
            figure.add(&tcp(&dumbpipe.local().to_string(), 1)?);
        }
        eprintln!("throughput, run {run} of {runs}");
    }
    drop(link);
    let quinn = figures.bare_quinn.median();
    figures.ringback_to_bare_quinn = figures.ringback.median() / quinn;
    figures.ringback_8_streams_to_bare_quinn = figures.ringback_8_streams.median() / quinn;
    let dumbpipe = figures.dumbpipe.as_ref();
    figures.ringback_to_dumbpipe = dumbpipe.map(|rate| figures.ringback.median() / rate.median());
    Ok(figures)
}

impl Figures {
    pub(super) fn report(&self, report: &mut Report) {
        let part = "throughput";
        let mut rows = vec![
            ("plain TCP, 1 stream", &self.plain_tcp),
            ("plain TCP, 8 streams", &self.plain_tcp_8_streams),
            ("bare quinn, 1 stream", &self.bare_quinn),
            ("ringback -L, 1 stream", &self.ringback),
            ("ringback -L, 8 streams", &self.ringback_8_streams),
        ];
        let dumbpipe = self.dumbpipe.as_ref();
        rows.extend(dumbpipe.map(|rate| ("dumbpipe, 1 stream", rate)));
        for (name, rate) in rows {
            report.add(part, name, rate.median(), "Mb/s");
            report.add(
                part,
                "  processor time per GB",
                rate.core_seconds_per_gb.median,
                "core s",
            );
            report.add(part, "  at work meanwhile", rate.busy_cores.median, "cores");
        }
        let (one, eight) = (
            self.ringback_to_bare_quinn,
            self.ringback_8_streams_to_bare_quinn,
        );
        let least = Aim::AtLeast(0.9);
        report.aim(part, "ringback to bare quinn", one, "×", least);
        report.add(part, "ringback, 8 streams, to bare quinn", eight, "×");
        if let Some(ratio) = self.ringback_to_dumbpipe {
            report.aim(part, "ringback to dumbpipe", ratio, "×", Aim::AtLeast(1.5));
        }
    }
}

impl Rate {
    fn add(&mut self, sample: &Sample) {
        self.megabits_s.add(sample.megabits_s);
        self.core_seconds_per_gb.add(sample.core_seconds_per_gb);
        self.busy_cores.add(sample.busy_cores);
    }

    fn median(&self) -> f64 {
        self.megabits_s.median
    }
}

/// One run of one of the lab's fetchers.
pub(super) struct Sample {
    pub(super) megabits_s: f64,
    core_seconds_per_gb: f64,
    busy_cores: f64,
}

pub(super) fn fetch(mut command: Command, bytes: u64) -> Result<Sample> {
    let (start, busy) = (Instant::now(), busy_seconds()?);
    let output = command.args(["--bytes", &bytes.to_string()]).output()?;
    let (elapsed, busy) = (start.elapsed().as_secs_f64(), busy_seconds()? - busy);
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{command:?}: {}: {}",
        output.status,
        said.trim()
    );
    let transfer: Transfer = serde_json::from_slice(&output.stdout)
        .with_context(|| format!("{command:?} wrote no figures"))?;
    Ok(Sample {
        megabits_s: transfer.megabits(),
        core_seconds_per_gb: busy / (bytes as f64 / 1e9),
        busy_cores: busy / elapsed,
    })
}
