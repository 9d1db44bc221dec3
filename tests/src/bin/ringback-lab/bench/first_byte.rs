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
    process::Command,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result};
use ringback_tests::{
    agent::{self, Device, PATIENCE, registry_options},
    case::milliseconds,
    lab::{capture::Capture, kind::Kind, process::Process},
};
use serde::Serialize;
use serde_json::Value;

use super::{
    Bench, ROUND_TRIP,
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

/// One call.
struct Sample {
    time: Duration,
    by_packets: Option<Duration>,
    steps: Vec<(String, f64)>,
}

/// A call that did not get through is a result too: the others are still worth knowing.
type Tried = Result<Sample>;

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
    let lab = bench.stage.lab();
    bench.impair(Duration::ZERO)?;
    let cold = lab.dir().join(format!("cold-{:08x}", fastrand::u32(..)));
    agent::run(agent::command(lab.caller().host(), &cold)?.arg("id"))?;
    let name = format!("agent-{:08x}", fastrand::u32(..));
    let up = caller_agent(bench, &name)?;
    bench.impair(ROUND_TRIP * delay)?;
    let call = |dir: &Path| call(bench, device, service, dir, delay == 1);
    let mut samples = vec![
        (Way::Cold, call(&cold)),
        (Way::ColdAgain, call(&cold)),
        (Way::Agent, call(up.dir())),
    ];
    // An agent keeps a link for a while; a new one has none.
    let Device { mut process, .. } = up;
    process.interrupt(PATIENCE)?;
    let up = caller_agent(bench, &name)?;
    samples.push((Way::AgentAgain, call(up.dir())));
    samples.push((Way::AgentOpen, call(up.dir())));
    Ok(samples)
}

/// `ringback up` on the caller's host, registered, and with its public address known.
fn caller_agent(bench: &Bench, name: &str) -> Result<Device> {
    let (lab, host) = (bench.stage.lab(), bench.stage.lab().caller().host());
    let up = Device::start(lab, bench.stage.registry(), host, name, &[])?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut status = agent::command(host, up.dir())?;
        let status: Value = serde_json::from_str(&agent::run(status.args(["status", "--json"]))?)?;
        if status["public_address"].is_string() {
            return Ok(up);
        }
        anyhow::ensure!(
            Instant::now() < deadline,
            "{name} does not learn its address"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Calls from a state directory, whose agent is used if it has one, and waits for the first byte and
/// for the receipt.
fn call(bench: &Bench, device: &Device, service: Talk, dir: &Path, captured: bool) -> Tried {
    let lab = bench.stage.lab();
    let host = lab.caller().host();
    let capture = captured
        .then(|| Capture::start(lab, host, "eth0"))
        .transpose()?;
    // A port of its own: the last call's may not have been given back yet.
    let local = ([127, 0, 0, 1], fastrand::u16(30_000..60_000)).into();
    let mut connect = connect_command(bench, device, dir)?;
    connect.args(["-L", &format!("{local}:{}", service.service())]);
    let name = format!("connect-{:08x}", fastrand::u32(..));
    let mut process = lab.spawn(&name, connect)?;
    let start = process.stdout_line(PATIENCE, |line| !line.starts_with('{'))?;
    let start: f64 = start.replace(',', ".").parse().context("no time")?;
    let start = Duration::from_secs_f64(start);
    event(&process, "listening")?;
    let end = host.enter(|| -> Result<Duration> {
        service.first_byte(local)?;
        Ok(SystemTime::now().duration_since(UNIX_EPOCH)?)
    })??;
    let connected = event(&process, "connected")?;
    let by_packets = capture.map(|capture| -> Result<_> {
        let packets = capture.finish()?;
        let own = [lab.caller().public(), lab.caller().address()];
        let mut sent = packets
            .iter()
            .filter(|packet| own.contains(packet.source.ip()) && packet.time >= start);
        let first = sent.next().context("the caller sent nothing")?.time;
        Ok(end.saturating_sub(first))
    });
    let by_packets = by_packets.transpose()?;
    process.interrupt(PATIENCE)?;
    let steps = connected["receipt"]["steps"].as_array();
    let steps = steps.context("no steps in the receipt")?.iter();
    let step = |step: &Value| {
        let name = step["step"].as_str().unwrap_or_default().to_owned();
        (name, step["at_ms"].as_f64().unwrap_or_default())
    };
    Ok(Sample {
        time: end.saturating_sub(start),
        by_packets,
        steps: steps.map(step).collect(),
    })
}

/// `ringback connect`, which first writes the time at which it becomes that.
fn connect_command(bench: &Bench, device: &Device, dir: &Path) -> Result<Command> {
    let host = bench.stage.lab().caller().host();
    // Has the environment and the arguments that every command of the lab has.
    let plain = agent::command(host, dir)?;
    let mut command = host.command("bash");
    command.args(["-c", "echo $EPOCHREALTIME; exec \"$@\"", "bash"]);
    command.args(plain.get_args().skip(host.prefix().len() - 1));
    for (name, value) in plain.get_envs() {
        match value {
            None => command.env_remove(name),
            Some(value) => command.env(name, value),
        };
    }
    command
        .args(["connect", &device.id, "--json"])
        .args(registry_options(bench.stage.registry()))
        .args(["--password", &device.password]);
    Ok(command)
}

fn event(process: &Process, name: &str) -> Result<Value> {
    let parse = |line: &str| serde_json::from_str::<Value>(line);
    let is = |line: &str| parse(line).is_ok_and(|told| told["event"] == name);
    Ok(parse(&process.stdout_line(PATIENCE, is)?)?)
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
