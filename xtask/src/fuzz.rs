//! `cargo xtask fuzz`: the targets of `fuzz/`, two at a time on two cores, each for a while.

use std::{
    collections::VecDeque,
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Mutex,
    thread,
};

use anyhow::{Context, Result, bail, ensure};
use xtask::place;

use crate::{
    child, say,
    setup::{self, Need, Packages},
};

const NEEDS: &[Need] = &[
    Need::Packages(Packages::Build),
    Need::Nightly,
    Need::CargoFuzz,
];
/// Bytes of an input at most.
const MAX_LEN: u32 = 4096;
/// Seconds that one input may take; a target that takes longer has found something.
const MAX_INPUT_S: u32 = 20;

#[derive(clap::Args, Debug)]
pub(crate) struct Arguments {
    /// The targets to run; without any, all of them
    targets: Vec<String>,
    /// How long each target runs, in seconds
    #[arg(long, default_value_t = 60)]
    seconds: u32,
}

/// What a target has done.
#[derive(Debug)]
struct Report {
    target: String,
    executions: u64,
    /// The end of what it said, if it has found something.
    found: Option<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    setup::ensure(NEEDS)?;
    let folder = place::workspace().join("fuzz");
    let all = targets(&folder)?;
    let chosen = if arguments.targets.is_empty() {
        all
    } else {
        for target in &arguments.targets {
            ensure!(
                all.contains(target),
                "there is no target `{target}`; there are {}",
                all.join(", ")
            );
        }
        arguments.targets.clone()
    };
    build(&folder)?;
    let reports = run_all(&folder, chosen, arguments.seconds)?;
    for report in &reports {
        let end = if report.found.is_some() {
            "  FOUND"
        } else {
            ""
        };
        println!("{:<16} {:>12}{end}", report.target, report.executions);
    }
    let total: u64 = reports.iter().map(|report| report.executions).sum();
    println!("{:<16} {total:>12} executions", "all");
    let found: Vec<_> = reports.iter().filter(|r| r.found.is_some()).collect();
    for report in &found {
        say::heading(&report.target);
        eprintln!("{}", report.found.as_deref().unwrap_or_default());
    }
    if !found.is_empty() {
        bail!(
            "{} of the targets found something; the inputs are in fuzz/artifacts",
            found.len()
        );
    }
    Ok(())
}

/// The targets that there are, by the files that hold them.
fn targets(folder: &Path) -> Result<Vec<String>> {
    let files = fs::read_dir(folder.join("fuzz_targets")).context("reading fuzz/fuzz_targets")?;
    let mut names = Vec::new();
    for file in files {
        let path = file?.path();
        let stem = path.file_stem().map(|stem| stem.to_string_lossy());
        names.extend(stem.map(std::borrow::Cow::into_owned));
    }
    names.sort();
    Ok(names)
}

fn build(folder: &Path) -> Result<()> {
    let mut corpus = child::command("cargo");
    corpus
        .current_dir(place::workspace())
        .args(["run", "--quiet", "--package", "ringback-protocol"])
        .args(["--example", "corpus", "--"])
        .arg(folder.join("corpus"));
    child::run(&mut corpus)?;
    let mut build = child::command(cargo_fuzz()?);
    // Sanitizers need a standard library of their own, and `unsafe` is denied here.
    build
        .current_dir(folder.parent().unwrap_or(folder))
        .args(["fuzz", "build", "--sanitizer", "none"])
        .env("RUSTUP_TOOLCHAIN", "nightly")
        .env_remove("CARGO_TARGET_DIR");
    let log = place::cache()?.join("log/fuzz.log");
    child::run_logged(&mut build, "fuzz targets", &log)
}

fn cargo_fuzz() -> Result<PathBuf> {
    place::cargo_tool("cargo-fuzz", place::CARGO_FUZZ, "cargo-fuzz")
}

fn run_all(folder: &Path, targets: Vec<String>, seconds: u32) -> Result<Vec<Report>> {
    let programs = programs(folder)?;
    let jobs = thread::available_parallelism().map_or(1, usize::from);
    let queue = Mutex::new(VecDeque::from(targets));
    let next = || queue.lock().ok()?.pop_front();
    let work = || -> Result<Vec<Report>> {
        let mut reports = Vec::new();
        while let Some(target) = next() {
            let report = run_one(folder, &programs.join(&target), target, seconds)?;
            say::note(&format!(
                "{}: {} executions",
                report.target, report.executions
            ));
            reports.push(report);
        }
        Ok(reports)
    };
    let mut reports = thread::scope(|scope| -> Result<Vec<Report>> {
        let workers: Vec<_> = (0..jobs).map(|_| scope.spawn(work)).collect();
        let mut reports = Vec::new();
        for worker in workers {
            reports.extend(worker.join().expect("a worker does not panic")?);
        }
        Ok(reports)
    })?;
    reports.sort_by(|a, b| a.target.cmp(&b.target));
    Ok(reports)
}

/// Where cargo-fuzz puts the programs: below the name of this host.
fn programs(folder: &Path) -> Result<PathBuf> {
    let text = child::output(child::command("rustc").arg("-vV"))?;
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    let host = host.context("`rustc -vV` names no host")?;
    Ok(folder.join("target").join(host).join("release"))
}

fn run_one(folder: &Path, program: &Path, target: String, seconds: u32) -> Result<Report> {
    let artifacts = folder.join("artifacts").join(&target);
    fs::create_dir_all(&artifacts)?;
    let output = child::command(program)
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-max_len={MAX_LEN}"))
        .arg(format!("-timeout={MAX_INPUT_S}"))
        .arg("-print_final_stats=1")
        .arg(format!("-artifact_prefix={}/", artifacts.display()))
        .arg(folder.join("corpus").join(&target))
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("starting {}", program.display()))?;
    let said = String::from_utf8_lossy(&output.stderr);
    Ok(Report {
        target,
        executions: executions(&said),
        found: (!output.status.success()).then(|| last_lines(&said, 40)),
    })
}

/// How many inputs were tried, by what libFuzzer says at its end.
fn executions(said: &str) -> u64 {
    let stat = |line: &str| {
        let count = line.strip_prefix("stat::number_of_executed_units:")?;
        count.trim().parse().ok()
    };
    said.lines().find_map(stat).unwrap_or(0)
}

fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executions_are_read_from_the_final_statistics() {
        let said = "Done 12 runs in 1 second(s)\nstat::number_of_executed_units: 1234\nstat::x: 5";
        assert_eq!(executions(said), 1234);
        assert_eq!(executions("killed"), 0);
    }

    #[test]
    fn every_target_is_listed_in_the_manifest() {
        let folder = place::workspace().join("fuzz");
        let manifest = fs::read_to_string(folder.join("Cargo.toml")).unwrap();
        for target in targets(&folder).unwrap() {
            assert!(
                manifest.contains(&format!("name = \"{target}\"")),
                "{target}"
            );
        }
    }
}
