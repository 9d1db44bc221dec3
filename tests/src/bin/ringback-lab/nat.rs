//! `ringback-lab nat`: one cell of the NAT matrix, or all of them.

use std::{path::PathBuf, time::Instant};

use anyhow::{Result, bail};
use clap::Args;
use ringback_tests::{
    case::{Case, Outcome, Stage},
    lab::kind::Kind,
};
use serde_json::{Value, json};

use crate::arguments::{Network, write_json};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The caller's router (all kinds if not given)
    #[arg(long)]
    caller: Option<Kind>,
    /// The device's router (all kinds if not given)
    #[arg(long)]
    device: Option<Kind>,
    #[command(flatten)]
    network: Network,
    /// Bytes to fetch through each link
    #[arg(long, default_value_t = 100_000_000)]
    bytes: u64,
    /// Write the results here (- for standard output)
    #[arg(long)]
    json: Option<PathBuf>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let kinds = |kind: Option<Kind>| kind.map_or(Kind::ALL.to_vec(), |kind| vec![kind]);
    let stage = Stage::set()?;
    let mut results = Vec::new();
    let mut failed = 0;
    eprintln!(
        "{:<16}{:<16}{:<9}{:>11}{:>12}{:>14}{:>9}",
        "caller", "device", "path", "connect ms", "Mb/s", "registry B", "case s"
    );
    for caller in kinds(arguments.caller) {
        for device in kinds(arguments.device) {
            let impairment = arguments.network.impairment();
            let case = Case {
                caller,
                device,
                impairment,
                bytes: arguments.bytes,
            };
            let start = Instant::now();
            let outcome = stage.run(&case);
            let (line, result, passed) = report(&case, &outcome);
            eprintln!("{line}{:>9.1}", start.elapsed().as_secs_f64());
            if let Err(error) = &passed {
                eprintln!("  {error:#}");
                failed += 1;
            }
            results.push(result);
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
    Ok(())
}

fn report(case: &Case, outcome: &Result<Outcome>) -> (String, Value, Result<()>) {
    let kinds = format!(
        "{:<16}{:<16}",
        case.caller.to_string(),
        case.device.to_string()
    );
    match outcome {
        Ok(outcome) => {
            let line = format!(
                "{kinds}{:<9}{:>11.1}{:>12.0}{:>14}",
                outcome.path(),
                outcome.connect_ms,
                outcome.megabits(),
                outcome.registry.bytes(),
            );
            (line, json!(outcome), outcome.check())
        }
        Err(error) => {
            let said = format!("{error:#}");
            let result = json!({ "case": case, "error": said });
            (
                format!("{kinds}{:<46}", "failed"),
                result,
                Err(anyhow::anyhow!(said)),
            )
        }
    }
}
