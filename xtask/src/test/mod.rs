//! `cargo xtask test`: everything that has to hold, in named parts.
//!
//! Cargo is always asked for the whole workspace and tests are chosen by filters: a build of one
//! package alone would unite features differently and compile half the dependencies again.

mod durations;
mod parts;
mod promises;

use std::{
    collections::BTreeSet,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::Result;
use clap::ValueEnum;
use durations::{Took, slowest};

use crate::{
    say,
    setup::{self, Need},
};

#[derive(clap::Args, Debug)]
pub(crate) struct Arguments {
    /// The parts to run; all of them where none is named
    parts: Vec<Part>,
    /// A part to leave out (may be given several times)
    #[arg(long, value_name = "PART")]
    exclude: Vec<Part>,
}

/// A part of the tests, in the order in which they run: the quick ones first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Part {
    /// The format of the source
    Fmt,
    /// No circle between modules of a crate
    Map,
    /// Lints, warnings as errors, on all targets
    Clippy,
    /// Tests that need no network namespaces: protocol, agent, registry and xtask themselves
    Unit,
    /// The protocol's tests on wasm32, and lints of what is compiled to it
    Wasm,
    /// The registry: build, size, and a deployment short of uploading it
    Worker,
    /// Real agents and the real registry, end to end
    E2e,
    /// The page and the browser's client in a real Chromium
    Browser,
    /// The NAT lab: its own checks and the matrix of calls
    Nat,
    /// Licences, advisories and sources of dependencies
    Deny,
    /// The API's documentation, and the examples in it
    Docs,
}

impl Part {
    fn name(self) -> String {
        self.to_possible_value()
            .map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let parts = chosen(&arguments.parts, &arguments.exclude);
    let needs: Vec<Need> = parts.iter().flat_map(|part| part.needs()).collect();
    let mut table = Vec::new();
    let mut record = |name: String, work: &dyn Fn() -> Result<()>| {
        let start = Instant::now();
        let result = work();
        if let Err(error) = &result {
            say::failure(error);
        }
        let elapsed = start.elapsed();
        table.push((
            name,
            elapsed,
            result.as_ref().err().map(|error| format!("{error:#}")),
        ));
        result.is_ok()
    };
    let mut tests = Vec::new();
    if record("setup".to_owned(), &|| setup::ensure(&needs)) {
        for part in parts {
            say::heading(&part.name());
            record(part.name(), &|| part.run());
            tests.extend(Took::of_last_run());
        }
    }
    if !tests.is_empty() {
        say::heading("the slowest tests");
        for line in slowest(&tests, 10) {
            say::note(&line);
        }
    }
    Ok(summary(&table))
}

fn chosen(named: &[Part], excluded: &[Part]) -> BTreeSet<Part> {
    let all = || Part::value_variants().iter().copied().collect();
    let mut parts = if named.is_empty() {
        all()
    } else {
        BTreeSet::from_iter(named.to_vec())
    };
    parts.retain(|part| !excluded.contains(part));
    parts
}

/// A part's name, how long it took, and why it failed if it did.
type Row = (String, Duration, Option<String>);

fn summary(table: &[Row]) -> ExitCode {
    say::heading("summary");
    for (name, elapsed, failure) in table {
        let elapsed = say::duration(*elapsed);
        match failure {
            None => say::note(&format!("{name:<8} passed  {elapsed:>12}")),
            Some(why) => {
                let why = why.lines().next().unwrap_or_default();
                say::note(&format!("{name:<8} FAILED  {elapsed:>12}  {why}"));
            }
        }
    }
    let total = table.iter().map(|(_, elapsed, _)| *elapsed).sum();
    say::note(&format!(
        "{:<8}         {:>12}",
        "in all",
        say::duration(total)
    ));
    let failed = table
        .iter()
        .filter(|(_, _, failure)| failure.is_some())
        .count();
    println!("{} passed, {failed} failed", table.len() - failed);
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_chosen_by_name_and_left_out_by_name() {
        assert_eq!(chosen(&[], &[]).len(), Part::value_variants().len());
        assert_eq!(
            Vec::from_iter(chosen(&[Part::Unit, Part::Fmt], &[])),
            [Part::Fmt, Part::Unit]
        );
        assert!(!chosen(&[], &[Part::Nat]).contains(&Part::Nat));
    }
}
