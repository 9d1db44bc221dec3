//! From `ringback connect` to the first byte of a service (which speaks first), by each path.
//!
//! Round trips are counted as in the part `first-byte`: by what the time grows by when every leg's
//! round trip doubles. What the LAN has of its own is not on a leg, and has no delay.

use anyhow::Result;
use ringback_tests::{agent::Device, case::milliseconds, lab::impairment::Impairment};
use serde::Serialize;

use super::{
    super::{ROUND_TRIP, caller::Tried, figure::Figure, report::Report, talk::Talk},
    PathKind,
    scene::{Policy, Scene},
};

/// Of every leg, in round trips of [`ROUND_TRIP`].
const DELAYS: [u32; 2] = [1, 2];

#[derive(Debug, Serialize)]
pub(in super::super) struct Case {
    path: PathKind,
    by: By,
    /// By [`DELAYS`].
    ms: [Figure; DELAYS.len()],
    round_trips: f64,
    /// What the receipts say that calls began on, where that is not the path itself.
    began_elsewhere: Vec<String>,
    /// What calls said that did not get through. They are in no median.
    failures: Vec<String>,
}

/// What the caller has. Nobody has called this device before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum By {
    /// A process of its own.
    Cold,
    /// An agent that is registered.
    Agent,
}

pub(super) fn measure(scene: &Scene, path: PathKind, runs: u32) -> Result<Vec<Case>> {
    // A relay that is there beside TCP would be what the first byte comes by.
    let policy = match path {
        PathKind::Tcp => Policy::Off,
        _ => Policy::Raised,
    };
    scene.set_policy(policy)?;
    scene.leave(path, false)?;
    let device = scene.device(&format!("first-{:08x}", fastrand::u32(..)))?;
    let mut cases = [By::Cold, By::Agent].map(|by| Case {
        path,
        by,
        ms: Default::default(),
        round_trips: 0.0,
        began_elsewhere: Vec::new(),
        failures: Vec::new(),
    });
    for run in 1..=runs {
        for (at, delay) in DELAYS.into_iter().enumerate() {
            for case in &mut cases {
                case.add(at, call(scene, &device, case.by, delay));
            }
        }
        eprintln!("first byte by {path}, run {run} of {runs}");
    }
    impair(scene, 0)?;
    Ok(cases.into())
}

fn call(scene: &Scene, device: &Device, by: By, delay: u32) -> Tried {
    let caller = scene.caller();
    impair(scene, 0)?;
    match by {
        By::Cold => {
            let dir = caller.stranger()?;
            impair(scene, delay)?;
            caller.call(device, Talk::ServerFirst, &dir, false)
        }
        By::Agent => {
            let up = caller.agent(&format!("agent-{:08x}", fastrand::u32(..)))?;
            impair(scene, delay)?;
            caller.call(device, Talk::ServerFirst, up.dir(), false)
        }
    }
}

fn impair(scene: &Scene, round_trips: u32) -> Result<()> {
    scene.lab.impair(Impairment {
        delay: ROUND_TRIP * round_trips / 2,
        ..Impairment::default()
    })
}

impl Case {
    fn add(&mut self, delay: usize, sample: Tried) {
        let sample = match sample {
            Ok(sample) => sample,
            Err(error) => {
                let failure = format!("at {:?}: {error:#}", ROUND_TRIP * DELAYS[delay]);
                eprintln!("{}, {}: {failure}", self.path, self.by.name());
                self.failures.push(failure);
                return;
            }
        };
        let way = &sample.way;
        if !way.is(self.path.expected()) || way.transport != self.path.transport() {
            let elsewhere = format!("{} {}", way.path, way.transport);
            self.began_elsewhere.push(elsewhere);
        }
        self.ms[delay].add(milliseconds(sample.time));
        let grown = self.ms[1].median - self.ms[0].median;
        self.round_trips = grown / milliseconds(ROUND_TRIP);
    }

    pub(super) fn report(&self, report: &mut Report) {
        let part = "connect to first byte by each path, at 40 ms";
        let name = format!("{}, {}", self.path, self.by.name());
        report.add(part, name, self.ms[0].median, "ms");
        let name = "  waited for one after the other";
        report.add(part, name, self.round_trips, "round trips");
        for (what, calls) in [
            ("  began on another path", self.began_elsewhere.len()),
            ("  did not get through", self.failures.len()),
        ] {
            if calls > 0 {
                report.add(part, what, calls as f64, "calls");
            }
        }
    }
}

impl By {
    fn name(self) -> &'static str {
        match self {
            Self::Cold => "cold",
            Self::Agent => "by an agent",
        }
    }
}
