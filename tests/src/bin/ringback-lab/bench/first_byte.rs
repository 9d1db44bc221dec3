//! How long a person waits: from `ringback connect` to the first byte of a service, and from a new
//! connection on a warm link to its first byte; in milliseconds without delay, and in round trips
//! with [`ROUND_TRIP`] between any two parts of the lab.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use ringback_tests::{
    agent::LOCAL,
    case::milliseconds,
    lab::{capture::Capture, impairment::Impairment},
    transfer,
};
use serde::Serialize;

use super::{Bench, figure::Figure};

/// Twice the one-way delay of the lab's core.
const ROUND_TRIP: Duration = Duration::from_millis(40);

#[derive(Debug, Default, Serialize)]
pub(crate) struct Figures {
    /// From the start of the process, without delay.
    cold_ms: Figure,
    /// From the start of the process, with delay.
    cold_delayed_ms: Figure,
    /// The difference of the two medians, in round trips: what the network costs.
    cold_round_trips: f64,
    /// From the first packet that the caller sends to the first byte, in round trips: the same by
    /// another way, with the work that is done between packets.
    cold_round_trips_by_capture: Figure,
    /// A new stream on a link that is up, without delay.
    warm_ms: Figure,
    /// A new stream on a link that is up, in round trips.
    warm_round_trips: Figure,
}

pub(super) fn measure(bench: &Bench, runs: u32) -> Result<Figures> {
    let mut figures = Figures::default();
    let delay = Impairment {
        delay: ROUND_TRIP / 2,
        ..Impairment::default()
    };
    for run in 1..=runs {
        bench.impair(Impairment::default())?;
        let plain = once(bench)?;
        figures.cold_ms.add(milliseconds(plain.cold));
        figures.warm_ms.add(milliseconds(plain.warm));
        bench.impair(delay.clone())?;
        let delayed = once(bench)?;
        figures.cold_delayed_ms.add(milliseconds(delayed.cold));
        figures
            .cold_round_trips_by_capture
            .add(round_trips(delayed.on_the_wire));
        figures.warm_round_trips.add(round_trips(delayed.warm));
        eprintln!("first byte, run {run} of {runs}");
    }
    bench.impair(Impairment::default())?;
    let difference = figures.cold_delayed_ms.median - figures.cold_ms.median;
    figures.cold_round_trips = difference / milliseconds(ROUND_TRIP);
    figures.say();
    Ok(figures)
}

struct Times {
    cold: Duration,
    on_the_wire: Duration,
    warm: Duration,
}

fn once(bench: &Bench) -> Result<Times> {
    let lab = bench.stage.lab();
    let host = lab.caller().host();
    let capture = Capture::start(lab, host, "eth0")?;
    let start = Instant::now();
    let call = bench.stage.call(&bench.device, "bulk")?;
    host.enter(|| transfer::first_byte(LOCAL))??;
    let cold = start.elapsed();
    let end = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let warm = host.enter(|| transfer::first_byte(LOCAL))??;
    drop(call);
    let packets = capture.finish()?;
    let own = lab.caller().public();
    let first = packets.iter().find(|packet| *packet.source.ip() == own);
    let first = first.context("the caller sent nothing")?.time;
    Ok(Times {
        cold,
        on_the_wire: end.saturating_sub(first),
        warm,
    })
}

fn round_trips(time: Duration) -> f64 {
    time.as_secs_f64() / ROUND_TRIP.as_secs_f64()
}

impl Figures {
    fn say(&self) {
        let rows = [
            ("connect to first byte, no delay", self.cold_ms.median, "ms"),
            (
                "connect to first byte, 40 ms",
                self.cold_delayed_ms.median,
                "ms",
            ),
            ("  of the network", self.cold_round_trips, "round trips"),
            (
                "  on the wire",
                self.cold_round_trips_by_capture.median,
                "round trips",
            ),
            ("new stream, no delay", self.warm_ms.median, "ms"),
            (
                "new stream, 40 ms",
                self.warm_round_trips.median,
                "round trips",
            ),
        ];
        for (name, value, unit) in rows {
            eprintln!("{name:<34}{value:>8.2} {unit}");
        }
    }
}
