//! What a person reads at the end: every figure that matters in one table, beside what it is to be.

use std::fmt;

use serde::Serialize;

/// All lines, in the order of the table.
#[derive(Debug, Default, Serialize)]
#[serde(transparent)]
pub(crate) struct Report(Vec<Line>);

#[derive(Debug, Serialize)]
struct Line {
    part: &'static str,
    name: String,
    value: f64,
    unit: &'static str,
    aim: Option<Aim>,
    falls_short: bool,
}

/// What a figure is to be.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Aim {
    AtLeast(f64),
    AtMost(f64),
}

impl Report {
    /// A figure to know.
    pub(crate) fn add(
        &mut self,
        part: &'static str,
        name: impl Into<String>,
        value: f64,
        unit: &'static str,
    ) {
        self.push(part, name.into(), value, unit, None);
    }

    /// A figure with an aim.
    pub(crate) fn aim(
        &mut self,
        part: &'static str,
        name: impl Into<String>,
        value: f64,
        unit: &'static str,
        aim: Aim,
    ) {
        self.push(part, name.into(), value, unit, Some(aim));
    }

    fn push(
        &mut self,
        part: &'static str,
        name: String,
        value: f64,
        unit: &'static str,
        aim: Option<Aim>,
    ) {
        self.0.push(Line {
            part,
            name,
            value,
            unit,
            aim,
            falls_short: aim.is_some_and(|aim| !aim.is_met(value, unit)),
        });
    }
}

impl Aim {
    /// Round trips count to a tenth: the rest is what the forwarder and the scheduler add.
    fn is_met(self, value: f64, unit: &str) -> bool {
        let value = match unit {
            "round trips" => (value * 10.0).round() / 10.0,
            _ => value,
        };
        match self {
            Self::AtLeast(least) => value >= least,
            Self::AtMost(most) => value <= most,
        }
    }
}

/// Digits after the point.
fn digits(unit: &str) -> usize {
    match unit {
        "×" | "s/1000" | "core s" | "cores" => 2,
        "round trips" | "ms" | "MB" | "% CPU" | "GB-s" => 1,
        "%" | "$" => 3,
        _ => 0,
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut part = "";
        for line in &self.0 {
            if line.part != part {
                part = line.part;
                writeln!(f, "{part}")?;
            }
            let digits = digits(line.unit);
            let value = format!("{:.digits$}", line.value);
            write!(f, "  {:<48}{value:>9} {:<11}", line.name, line.unit)?;
            match line.aim {
                None => {}
                Some(Aim::AtLeast(least)) => write!(f, " aim ≥ {least}")?,
                Some(Aim::AtMost(most)) => write!(f, " aim ≤ {most}")?,
            }
            writeln!(
                f,
                "{}",
                if line.falls_short {
                    "  FALLS SHORT"
                } else {
                    ""
                }
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_misses_its_aim_says_so() {
        let mut report = Report::default();
        report.aim("p", "fast", 0.95, "×", Aim::AtLeast(0.9));
        report.aim("p", "nearly", 0.899, "×", Aim::AtLeast(0.9));
        report.aim("p", "slow", 0.85, "×", Aim::AtLeast(0.9));
        report.aim("p", "in time", 3.04, "round trips", Aim::AtMost(3.0));
        report.aim("p", "late", 3.06, "round trips", Aim::AtMost(3.0));
        let table = report.to_string();
        let short = table.lines().filter(|line| line.contains("FALLS SHORT"));
        let names = short.map(|line| line.split_whitespace().next().unwrap());
        assert_eq!(
            names.collect::<Vec<_>>(),
            ["nearly", "slow", "late"],
            "{table}"
        );
    }
}
