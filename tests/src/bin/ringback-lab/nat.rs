//! `ringback-lab nat`: one cell of the NAT matrix, one cell many times, or all of them.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};
use clap::Args;
use ringback_tests::{
    browser_case::{self, BrowserStage},
    case::{Case, Outcome, Stage, milliseconds},
    lab::{
        Topology,
        kind::Kind,
        reach::{Expected, Transport},
    },
};
use serde_json::{Value, json};

use crate::arguments::{Network, duration, write_json};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The caller's router (all kinds if not given)
    #[arg(long)]
    caller: Option<Kind>,
    /// The device's router (all kinds if not given)
    #[arg(long)]
    device: Option<Kind>,
    /// How the two are connected (apart, and some behind one router, if nothing is given)
    #[arg(long)]
    topology: Option<Topology>,
    #[command(flatten)]
    network: Network,
    /// Bytes to fetch through each direct link
    #[arg(long, default_value_t = 100_000_000)]
    bytes: u64,
    /// Bytes to fetch through each link that can only be relayed
    #[arg(long, default_value_t = 1_000_000)]
    relay_bytes: u64,
    /// Call so many times between one pair, without a transfer, and count the direct ones
    #[arg(long, requires_all = ["caller", "device"])]
    runs: Option<u32>,
    /// How soon a run must be direct to count
    #[arg(long, default_value = "5s", value_parser = duration, requires = "runs")]
    within: Duration,
    /// How many of the runs must count (all if not given)
    #[arg(long, requires = "runs")]
    least: Option<u32>,
    /// The caller is a browser, and the pairs those that it has to reach directly
    #[arg(long, conflicts_with = "topology")]
    browser: bool,
    /// Write the results here (- for standard output)
    #[arg(long)]
    json: Option<PathBuf>,
}

/// What is run behind one router when everything is run.
const SHARED: [(Topology, Kind); 4] = [
    (Topology::SameRouter, Kind::PortRestricted),
    (Topology::SameRouter, Kind::Symmetric),
    (Topology::SameRouter, Kind::UdpBlocked),
    (Topology::Hairpin, Kind::PortRestricted),
];

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let cases = cases(arguments);
    if arguments.browser {
        return by_browser(&cases, arguments);
    }
    let stage = Stage::set()?;
    if let (Some(runs), [case]) = (arguments.runs, &cases[..]) {
        return repeat(&stage, case, runs, arguments);
    }
    let mut results = Vec::new();
    let mut relayed = Vec::new();
    let mut failed = 0;
    eprintln!(
        "{:<21}{:<21}{:<8}{:<11}{:>11}{:>10}{:>7}{:>13}{:>8}",
        "caller",
        "device",
        "path",
        "transport",
        "connect ms",
        "best ms",
        "Mb/s",
        "registry B",
        "case s"
    );
    for case in &cases {
        let start = Instant::now();
        let outcome = stage.run(case);
        let (line, result, passed) = report(case, &outcome);
        eprintln!("{line}{:>8.1}", start.elapsed().as_secs_f64());
        if let Err(error) = &passed {
            eprintln!("  {error:#}");
            failed += 1;
        }
        if outcome.is_ok_and(|outcome| outcome.way.path == "relay") {
            relayed.push(case);
        }
        results.push(result);
    }
    if !relayed.is_empty() {
        eprintln!("\nrelayed, and why:");
    }
    for case in relayed {
        match case.expected() {
            Expected::Relay(reason) => eprintln!("  {case}: {reason}"),
            best => eprintln!("  {case}: for no good reason, {best} is possible"),
        }
    }
    if let Some(path) = &arguments.json {
        match &results[..] {
            [only] => write_json(path, only)?,
            all => write_json(path, &all)?,
        }
    }
    if failed > 0 {
        bail!("{failed} of {} cases failed", results.len());
    }
    eprintln!("{} of {0} cases as good as can be", results.len());
    Ok(())
}

fn cases(arguments: &Arguments) -> Vec<Case> {
    let kinds = |kind: Option<Kind>| kind.map_or(Kind::ALL.to_vec(), |kind| vec![kind]);
    let case = |topology, caller, device| {
        let mut case = Case {
            topology,
            impairment: arguments.network.impairment(),
            ..Case::new(caller, device, arguments.bytes)
        };
        if matches!(case.expected(), Expected::Relay(_)) {
            case.bytes = arguments.relay_bytes;
        }
        case
    };
    let topology = arguments.topology.unwrap_or_default();
    if topology != Topology::Apart {
        // The caller's own router has no part in it.
        let device = arguments.device.unwrap_or(Kind::PortRestricted);
        return vec![case(topology, device, device)];
    }
    let mut cases = Vec::new();
    for caller in kinds(arguments.caller) {
        for device in kinds(arguments.device) {
            cases.push(case(topology, caller, device));
        }
    }
    if (arguments.caller, arguments.device, arguments.topology) == (None, None, None) {
        cases.extend(SHARED.map(|(topology, kind)| case(topology, kind, kind)));
    }
    cases
}

fn report(case: &Case, outcome: &Result<Outcome>) -> (String, Value, Result<()>) {
    let caller = match case.topology {
        Topology::Apart => case.caller.to_string(),
        Topology::SameRouter => "(same router)".into(),
        Topology::Hairpin => "(same, by hairpin)".into(),
    };
    let kinds = format!("{caller:<21}{:<21}", case.device.to_string());
    match outcome {
        Ok(outcome) => {
            let settled = outcome
                .settled_ms
                .map_or("never".into(), |ms| format!("{ms:.1}"));
            let line = format!(
                "{kinds}{:<8}{:<11}{:>11.1}{settled:>10}{:>7.0}{:>13}",
                outcome.way.path,
                outcome.way.transport,
                outcome.connect_ms,
                outcome.megabits(),
                outcome.registry.bytes(),
            );
            let checked = outcome.check();
            let mut result = json!(outcome);
            result["passed"] = checked.is_ok().into();
            (line, result, checked)
        }
        Err(error) => {
            let said = format!("{error:#}");
            let result = json!({
                "case": case, "expected": case.expected(), "error": said, "passed": false
            });
            let line = format!("{kinds}{:<60}", "failed");
            (line, result, Err(anyhow::anyhow!(said)))
        }
    }
}

/// Between two runs.
const PACE: Duration = Duration::from_millis(500);

/// Calls again and again, each time by a new caller, and counts how often the best way is taken
/// soon.
fn repeat(stage: &Stage, case: &Case, runs: u32, arguments: &Arguments) -> Result<()> {
    stage.prepare(case)?;
    let device = stage.device()?;
    let expected = match case.expected() {
        // A direct way is what is counted; what is expected of the pair is said by the table.
        Expected::Relay(_) => Expected::Direct(Transport::Udp),
        best => best,
    };
    let (mut results, mut times) = (Vec::new(), Vec::new());
    for run in 1..=runs {
        // A caller that the device has never met: nothing is known of it, and the registry's limit
        // per caller does not count the runs. That per device leaves one in half a second.
        stage.forget_caller()?;
        std::thread::sleep(PACE);
        let link = stage.call(&device, "web").and_then(|call| call.connected());
        let result = match link {
            Ok(link) => {
                let taken = link.takes(expected, arguments.within).map(milliseconds);
                times.extend(taken);
                let way = link.way();
                let said = taken.map_or("not in time".into(), |ms| format!("{ms:.0} ms"));
                eprintln!("{run:>4}: {said}, {} by {}", way.path, way.transport);
                json!({ "direct_ms": taken, "way": way, "receipt": link.receipt })
            }
            Err(error) => {
                eprintln!("{run:>4}: {error:#}");
                json!({ "error": format!("{error:#}") })
            }
        };
        results.push(result);
    }
    let failed = results
        .iter()
        .filter(|result| result.get("error").is_some());
    let failed = failed.count();
    let counted = Counted {
        runs,
        failed,
        times,
        each: results,
    };
    counted.judge(case, arguments)
}

/// What came of many calls between one pair.
struct Counted {
    runs: u32,
    failed: usize,
    /// Of those that were direct in time, in milliseconds.
    times: Vec<f64>,
    each: Vec<Value>,
}

impl Counted {
    fn judge(mut self, case: &Case, arguments: &Arguments) -> Result<()> {
        let Self { runs, failed, .. } = self;
        let direct = self.times.len();
        self.times.sort_unstable_by(f64::total_cmp);
        let share = |part: usize| self.times.get(direct * part / 100).copied();
        let summary = json!({
            "case": case, "within_ms": milliseconds(arguments.within), "runs": runs,
            "direct": direct, "failed": failed,
            "median_ms": share(50), "p95_ms": share(95), "each": self.each,
        });
        eprintln!(
            "{case}: {direct} of {runs} direct within {:?} (median {:.0} ms, 95 of 100 within \
             {:.0} ms), {failed} not connected",
            arguments.within,
            share(50).unwrap_or(f64::NAN),
            share(95).unwrap_or(f64::NAN),
        );
        if let Some(path) = &arguments.json {
            write_json(path, &summary)?;
        }
        ensure!(failed == 0, "{failed} of {runs} calls failed");
        let least = arguments.least.unwrap_or(runs);
        ensure!(
            direct >= least as usize,
            "{direct} of {runs} direct in time, {least} needed"
        );
        Ok(())
    }
}

/// The same with a browser: one pair many times, or each that it has to reach directly.
fn by_browser(cases: &[Case], arguments: &Arguments) -> Result<()> {
    let stage = BrowserStage::set()?;
    if let (Some(runs), [case]) = (arguments.runs, cases) {
        return repeat_by_browser(&stage, case, runs, arguments);
    }
    let is_due = |case: &&Case| {
        case.topology != Topology::Apart || browser_case::is_direct(case.caller, case.device)
    };
    eprintln!(
        "{:<21}{:<21}{:<8}{:>11}{:>7}{:>13}",
        "browser", "device", "path", "connect ms", "Mb/s", "registry B"
    );
    let (mut results, mut failed) = (Vec::new(), 0);
    for case in cases.iter().filter(is_due) {
        let kinds = format!(
            "{:<21}{:<21}",
            case.caller.to_string(),
            case.device.to_string()
        );
        let outcome = stage.run(case).and_then(|(fetched, carried)| {
            eprintln!(
                "{kinds}{:<8}{:>11.0}{:>7.0}{:>13}",
                fetched.path,
                fetched.connect_ms,
                fetched.megabits(),
                carried.bytes(),
            );
            fetched.check(case, "direct", carried)?;
            Ok(json!({ "case": case, "fetched": fetched, "registry": carried }))
        });
        results.push(outcome.unwrap_or_else(|error| {
            eprintln!("{kinds}failed: {error:#}");
            failed += 1;
            json!({ "case": case, "error": format!("{error:#}") })
        }));
    }
    if let Some(path) = &arguments.json {
        write_json(path, &results)?;
    }
    ensure!(failed == 0, "{failed} of {} cases failed", results.len());
    eprintln!("{} of {0} cases direct", results.len());
    Ok(())
}

fn repeat_by_browser(
    stage: &BrowserStage,
    case: &Case,
    runs: u32,
    arguments: &Arguments,
) -> Result<()> {
    stage.stage.prepare(case)?;
    let device = stage.stage.device()?;
    let mut counted = Counted {
        runs,
        failed: 0,
        times: Vec::new(),
        each: Vec::new(),
    };
    for run in 1..=runs {
        let called = stage
            .caller()
            .and_then(|caller| caller.fetch(&device, 1000));
        counted.each.push(match called {
            Ok(fetched) => {
                eprintln!("{run:>4}: {:.0} ms, {}", fetched.connect_ms, fetched.path);
                let is_in_time = fetched.connect_ms <= milliseconds(arguments.within);
                if fetched.path == "direct" && is_in_time {
                    counted.times.push(fetched.connect_ms);
                }
                json!(fetched)
            }
            Err(error) => {
                eprintln!("{run:>4}: {error:#}");
                counted.failed += 1;
                json!({ "error": format!("{error:#}") })
            }
        });
    }
    counted.judge(case, arguments)
}
