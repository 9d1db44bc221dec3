//! How long tests took, as nextest has written it down.

use std::{fs, time::Duration};

use xtask::place;

/// A test and how long it took.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Took {
    name: String,
    duration: Duration,
}

impl Took {
    /// Those of the last run of nextest; none if it left no report.
    pub(super) fn of_last_run() -> Vec<Self> {
        let report = place::workspace().join("target/nextest/default/junit.xml");
        let tests = read(&fs::read_to_string(&report).unwrap_or_default());
        // The next run may be another part's.
        let _ = fs::remove_file(report);
        tests
    }
}

/// One line for each of the slowest.
pub(super) fn slowest(tests: &[Took], count: usize) -> Vec<String> {
    let mut tests = tests.to_vec();
    tests.sort_by_key(|test| std::cmp::Reverse(test.duration));
    tests
        .iter()
        .take(count)
        .map(|test| format!("{:>6.1} s  {}", test.duration.as_secs_f64(), test.name))
        .collect()
}

/// The test cases of a JUnit report in the form in which nextest writes it: one element a line.
fn read(report: &str) -> Vec<Took> {
    let case = |line: &str| {
        let attributes = line.trim().strip_prefix("<testcase ")?;
        let value = |name: &str| {
            let start = format!("{name}=\"");
            let from = attributes
                .split(' ')
                .find_map(|part| part.strip_prefix(&start))?;
            Some(from.split('"').next()?.to_owned())
        };
        let seconds: f64 = value("time")?.parse().ok()?;
        Some(Took {
            name: format!("{} {}", value("classname")?, value("name")?),
            duration: Duration::try_from_secs_f64(seconds).ok()?,
        })
    };
    report.lines().filter_map(case).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_the_slowest_come_first() {
        let report = r#"<?xml version="1.0" encoding="UTF-8"?>
<testsuites name="nextest-run" tests="2" failures="0" errors="0" uuid="u" time="3.0">
    <testsuite name="ringback-tests::cli" tests="2">
        <testcase name="help" classname="ringback-tests::cli" timestamp="t" time="0.250">
        </testcase>
        <testcase name="a::b" classname="ringback-tests::lan" timestamp="t" time="2.500"/>
    </testsuite>
</testsuites>"#;
        let tests = read(report);
        assert_eq!(tests.len(), 2);
        assert_eq!(slowest(&tests, 1), ["   2.5 s  ringback-tests::lan a::b"]);
    }
}
