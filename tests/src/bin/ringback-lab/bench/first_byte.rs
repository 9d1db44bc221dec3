//! From `ringback connect` to the first byte of a service: in milliseconds, and in round trips.
//!
//! The round trips are counted by making them longer: every leg has a round trip of [`ROUND_TRIP`],
//! then of twice that, and what the time grows by is the number of round trips that are waited for
//! one after the other. What is done meanwhile (the password's Argon2id, mostly) does not count, as
//! it would with no delay to compare with. Beside it stands the time by packets, from the first one
//! that the caller sends to the first byte, which has all the work in it. The same growth for each
//! step of the receipt shows where the round trips go.

use std::{
    fmt,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Result;
use ringback_tests::{
    agent::{Device, PATIENCE},
    case::milliseconds,
    lab::kind::Kind,
};
use serde::Serialize;

use super::{
    Bench, ROUND_TRIP,
    caller::{Caller, Tried},
    figure::Figure,
    report::{Aim, Report},
    talk::Talk,
};

/// All measurements, in the order of [`KINDS`], [`Talk::ALL`] and `Way::ALL`.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub(crate) struct Figures(Vec<Case>);

/// Routers of both sites.
const KINDS: [Kind; 2] = [Kind::Open, Kind::PortRestricted];

/// Of every leg, in round trips of [`ROUND_TRIP`].
const DELAYS: [u32; 3] = [0, 1, 2];

/// The device takes 120 requests a minute; four are made in a round.
const ROUND: Duration = Duration::from_millis(2500);

/// What the caller has when it calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Way {
    /// Nothing: a process of its own that has never called this device.
    Cold,
    /// The device's addresses of an earlier call.
    ColdAgain,
    /// An agent that is connected to the registry and has never called this device.
    Agent,
    /// An agent, and the device's addresses of an earlier call.
    AgentAgain,
    /// An agent with an open link to the device.
    AgentOpen,
}

#[derive(Debug, Serialize)]
struct Case {
    routers: Kind,
    service: Talk,
    way: Way,
    /// From the start of the process to the first byte.
    time: Times,
    /// From the caller's first packet to the first byte, with a delay of one round trip.
    round_trips_by_packets: Figure,
    /// Calls that did not get through, and what they said. They are in no median.
    failures: Vec<String>,
    /// Steps of the receipt, from the start of the call (not of the process).
    steps: Vec<Step>,
}

#[derive(Debug, Serialize)]
struct Step {
    step: String,
    time: Times,
}

/// A time that grows with delay.
#[derive(Debug, Default, Serialize)]
struct Times {
    /// By [`DELAYS`].
    ms: [Figure; DELAYS.len()],
    /// From one round trip to two, by medians.
    round_trips: f64,
}

pub(super) fn measure(bench: &Bench, runs: u32) -> Result<Figures> {
    let mut figures = Figures(Vec::new());
    for routers in KINDS {
        for site in [bench.stage.lab().caller(), bench.stage.lab().device()] {
            site.set_kind(routers)?;
        }
        bench.impair(Duration::ZERO)?;
        let device = bench.device(&format!("first-byte-{routers}"))?;
        for run in 1..=runs {
            for service in Talk::ALL {
                for delay in DELAYS {
                    let start = Instant::now();
                    for (way, sample) in round(bench, &device, service, delay)? {
                        figures.case(routers, service, way).add(sample, delay);
                    }
                    std::thread::sleep(ROUND.saturating_sub(start.elapsed()));
                }
            }
            eprintln!("first byte, {routers} routers, run {run} of {runs}");
        }
    }
    for site in [bench.stage.lab().caller(), bench.stage.lab().device()] {
        site.set_kind(Kind::Open)?;
    }
    bench.impair(Duration::ZERO)?;
    figures.0.iter_mut().for_each(Case::finish);
    Ok(figures)
}

/// One call of each way, by people that nobody has seen before.
fn round(bench: &Bench, device: &Device, service: Talk, delay: u32) -> Result<Vec<(Way, Tried)>> {
    let caller = Caller {
        lab: bench.stage.lab(),
        registry: bench.stage.registry(),
    };
    bench.impair(Duration::ZERO)?;
    let cold = caller.stranger()?;
    let name = format!("agent-{:08x}", fastrand::u32(..));
    let up = caller.agent(&name)?;
    bench.impair(ROUND_TRIP * delay)?;
    let captured = delay == 1;
    let call = |dir: &Path| caller.call(device, service, dir, captured);
    let mut samples = vec![
        (Way::Cold, call(&cold)),
        (Way::ColdAgain, call(&cold)),
        (Way::Agent, call(up.dir())),
    ];
    // An agent keeps a link for a while; a new one has none.
    let Device { mut process, .. } = up;
    process.interrupt(PATIENCE)?;
    let up = caller.agent(&name)?;
    // A link ends with the last command that uses it: the first one stays for the second.
    match caller.open(device, service, up.dir(), captured) {
        Ok((sample, held)) => {
            samples.push((Way::AgentAgain, Ok(sample)));
            samples.push((Way::AgentOpen, call(up.dir())));
            drop(held);
        }
        Err(error) => samples.push((Way::AgentAgain, Err(error))),
    }
    Ok(samples)
}

impl Figures {
    fn case(&mut self, routers: Kind, service: Talk, way: Way) -> &mut Case {
        let is = |case: &Case| (case.routers, case.service, case.way) == (routers, service, way);
        let at = self.0.iter().position(is).unwrap_or_else(|| {
            self.0.push(Case {
                routers,
                service,
                way,
                time: Times::default(),
                round_trips_by_packets: Figure::default(),
                failures: Vec::new(),
                steps: Vec::new(),
            });
            self.0.len() - 1
        });
        &mut self.0[at]
    }

    pub(super) fn report(&self, report: &mut Report) {
        for case in &self.0 {
            let (part, name) = (case.part(), case.way.name());
            report.add(part, name, case.time.ms[0].median, "ms");
            report.add(part, "  at 40 ms", case.time.ms[1].median, "ms");
            let packets = case.round_trips_by_packets.median;
            report.add(part, "  at 40 ms, by packets", packets, "round trips");
            let (trips, aim) = (case.time.round_trips, case.way.aim());
            let name = "  waited for one after the other";
            report.aim(part, name, trips, "round trips", Aim::AtMost(aim));
            if !case.failures.is_empty() {
                let failures = case.failures.len() as f64;
                report.aim(
                    part,
                    "  did not get through",
                    failures,
                    "calls",
                    Aim::AtMost(0.0),
                );
            }
        }
    }

    /// Where the round trips go: by growth, and in parentheses the time at 40 ms in units of that.
    pub(super) fn steps(&self) -> String {
        let mut text = String::new();
        for case in &self.0 {
            text += &format!("{}, {}\n ", case.part(), case.way.name());
            for step in &case.steps {
                text += &format!(" {} {},", step.step, step.time);
            }
            text += &format!(" first byte {}\n", case.time);
        }
        text
    }
}

impl Times {
    fn add(&mut self, delay: u32, ms: f64) {
        self.ms[delay as usize].add(ms);
        self.round_trips = (self.ms[2].median - self.ms[1].median) / milliseconds(ROUND_TRIP);
    }
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at_one = self.ms[1].median / milliseconds(ROUND_TRIP);
        write!(f, "{:.1} ({at_one:.1})", self.round_trips)
    }
}

impl Case {
    fn add(&mut self, sample: Tried, delay: u32) {
        let sample = match sample {
            Ok(sample) => sample,
            Err(error) => {
                let failure = format!(
                    "at {} ms: {error:#}",
                    ROUND_TRIP.as_millis() * u128::from(delay)
                );
                eprintln!("{}, {}: {failure}", self.part(), self.way.name());
                self.failures.push(failure);
                return;
            }
        };
        self.time.add(delay, milliseconds(sample.time));
        if let Some(time) = sample.by_packets {
            let trips = time.as_secs_f64() / ROUND_TRIP.as_secs_f64();
            self.round_trips_by_packets.add(trips);
        }
        // With an open link the receipt is that of the call which made it.
        if self.way == Way::AgentOpen {
            return;
        }
        for (name, at_ms) in &sample.steps {
            let at = self.steps.iter().position(|step| step.step == *name);
            let at = at.unwrap_or_else(|| {
                self.steps.push(Step {
                    step: name.clone(),
                    time: Times::default(),
                });
                self.steps.len() - 1
            });
            self.steps[at].time.add(delay, *at_ms);
        }
    }

    fn finish(&mut self) {
        let calls = self.time.ms[1].runs.len();
        // A step that is often passed over, because the next one came first, has no median.
        let is_usual = |step: &Step| step.time.ms.iter().all(|ms| ms.runs.len() * 2 > calls);
        self.steps.retain(is_usual);
        let at = |step: &Step| step.time.ms[1].median;
        self.steps.sort_by(|a, b| at(a).total_cmp(&at(b)));
    }

    fn part(&self) -> &'static str {
        match (self.routers, self.service) {
            (Kind::Open, Talk::ServerFirst) => "connect to first byte, no NAT, server first",
            (Kind::Open, Talk::ClientFirst) => "connect to first byte, no NAT, client first",
            (_, Talk::ServerFirst) => "connect to first byte, two NATs, server first",
            (_, Talk::ClientFirst) => "connect to first byte, two NATs, client first",
        }
    }
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::Cold => "(a) cold, first contact",
            Self::ColdAgain => "(b) cold, called before",
            Self::Agent => "(c) by an agent, first contact",
            Self::AgentAgain => "(d) by an agent, called before",
            Self::AgentOpen => "(e) by an agent, link open",
        }
    }

    /// Round trips.
    fn aim(self) -> f64 {
        match self {
            Self::Cold | Self::ColdAgain => 5.0,
            Self::Agent | Self::AgentAgain => 3.0,
            Self::AgentOpen => 1.0,
        }
    }
}
