//! A new connection to a service over a link that is up: time to its first byte, in milliseconds
//! without delay, and in round trips with [`ROUND_TRIP`].

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Result;
use ringback_tests::{agent::Call, case::milliseconds};
use serde::Serialize;

use super::{
    Bench, ROUND_TRIP,
    figure::Figure,
    peer::Dumbpipe,
    report::{Aim, Report},
    talk::Talk,
};

/// Connections per run and network.
const EACH: u32 = 3;

#[derive(Debug, Serialize)]
#[serde(transparent)]
pub(crate) struct Figures(Vec<Way>);

#[derive(Debug, Serialize)]
struct Way {
    by: &'static str,
    service: Talk,
    no_delay_ms: Figure,
    delayed_ms: Figure,
    /// The difference of the two medians.
    round_trips: f64,
    #[serde(skip)]
    address: SocketAddr,
}

pub(super) fn measure(bench: &Bench, runs: u32, dumbpipe: Option<&Path>) -> Result<Figures> {
    let lab = bench.stage.lab();
    let host = lab.caller().host();
    let local = |port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let forwards = Talk::ALL.map(|talk| (local(talk.port() + 1000), talk.service()));
    let registry = bench.stage.registry();
    let link = Call::start(lab, registry, host, &bench.device, &forwards)?.connected()?;
    let mut figures = Figures(Vec::new());
    let mut pipes = Vec::new();
    for (talk, (forwarded, _)) in Talk::ALL.into_iter().zip(forwards) {
        let direct = SocketAddr::from((ringback_tests::lab::DEVICE_PUBLIC, talk.port()));
        figures.add("ringback", talk, forwarded);
        figures.add("plain TCP", talk, direct);
        if let Some(binary) = dumbpipe {
            let pipe = Dumbpipe::start(bench, binary, talk.port(), talk.port() + 2000)?;
            figures.add("dumbpipe", talk, pipe.local());
            pipes.push(pipe);
        }
    }
    for run in 1..=runs {
        for delayed in [false, true] {
            bench.impair(if delayed { ROUND_TRIP } else { Duration::ZERO })?;
            for _ in 0..EACH {
                for way in &mut figures.0 {
                    let (talk, address) = (way.service, way.address);
                    let time = host.enter(|| -> Result<_> {
                        let start = Instant::now();
                        talk.first_byte(address)?;
                        Ok(start.elapsed())
                    })??;
                    let figure = if delayed {
                        &mut way.delayed_ms
                    } else {
                        &mut way.no_delay_ms
                    };
                    figure.add(milliseconds(time));
                }
            }
        }
        eprintln!("new stream, run {run} of {runs}");
    }
    bench.impair(Duration::ZERO)?;
    drop(link);
    for way in &mut figures.0 {
        let difference = way.delayed_ms.median - way.no_delay_ms.median;
        way.round_trips = difference / milliseconds(ROUND_TRIP);
    }
    Ok(figures)
}

impl Figures {
    fn add(&mut self, by: &'static str, service: Talk, address: SocketAddr) {
        self.0.push(Way {
            by,
            service,
            no_delay_ms: Figure::default(),
            delayed_ms: Figure::default(),
            round_trips: 0.0,
            address,
        });
    }

    pub(super) fn report(&self, report: &mut Report) {
        let part = "new connection on an open link, to the first byte";
        for way in &self.0 {
            let name = format!("{}, {}", way.by, way.service.name());
            report.add(part, name, way.no_delay_ms.median, "ms");
            let (name, trips) = ("  at 40 ms", way.round_trips);
            if way.by == "ringback" {
                report.aim(part, name, trips, "round trips", Aim::AtMost(1.0));
            } else {
                report.add(part, name, trips, "round trips");
            }
        }
    }
}
