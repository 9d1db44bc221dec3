//! Durations, shares and networks on the command line.

use std::{fs, io::Write as _, path::Path, time::Duration};

use anyhow::{Context as _, Result};
use clap::Args;
use ringback_tests::lab::impairment::{Impairment, Scope};
use serde::Serialize;

/// The network between the namespaces.
#[derive(Clone, Debug, Args)]
pub(crate) struct Network {
    /// One way between any two namespaces (20ms makes 40 ms round trip)
    #[arg(long, default_value = "0ms", value_parser = duration)]
    delay: Duration,
    /// Further delay, drawn from zero to this for each packet
    #[arg(long, default_value = "0ms", value_parser = duration)]
    jitter: Duration,
    /// Share of packets that are lost each way, such as 1%
    #[arg(long, default_value = "0%", value_parser = share)]
    loss: f64,
    /// Share of packets that later ones overtake
    #[arg(long, default_value = "0%", value_parser = share)]
    reorder: f64,
    /// Share of packets that arrive twice
    #[arg(long, default_value = "0%", value_parser = share)]
    duplicate: f64,
    /// Seed of loss, jitter, reordering and duplication
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

impl Network {
    /// What the lab's core takes.
    pub(crate) fn impairment(&self) -> Impairment {
        let Self {
            delay,
            jitter,
            loss,
            reorder,
            duplicate,
            seed,
        } = *self;
        Impairment {
            delay,
            jitter,
            loss,
            reorder,
            duplicate,
            distance: Vec::new(),
            scope: Scope::All,
            seed,
        }
    }
}

/// Reads `20ms`, `1.5s` or `100us`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let units = [("us", 1e-6), ("ms", 1e-3), ("s", 1.0)];
    let parse = |(unit, seconds): &(&str, f64)| {
        let number: f64 = text.strip_suffix(unit)?.parse().ok()?;
        Duration::try_from_secs_f64(number * seconds).ok()
    };
    units
        .iter()
        .find_map(parse)
        .ok_or_else(|| "write it like 20ms, 1.5s or 100us".into())
}

/// Reads `1%` or `0.01`.
fn share(text: &str) -> Result<f64, String> {
    let number = match text.strip_suffix('%') {
        Some(percent) => percent.parse::<f64>().map(|percent| percent / 100.0),
        None => text.parse(),
    };
    match number {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err("write it like 1% or 0.01".into()),
    }
}

/// Writes a result as JSON: to a file, whole or not at all, or to standard output for `-`.
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let mut text = serde_json::to_string_pretty(value)?;
    text.push('\n');
    if path == Path::new("-") {
        std::io::stdout().write_all(text.as_bytes())?;
        return Ok(());
    }
    let unfinished = path.with_added_extension("unfinished");
    let written = fs::write(&unfinished, text).and_then(|()| fs::rename(&unfinished, path));
    written
        .inspect_err(|_| drop(fs::remove_file(&unfinished)))
        .with_context(|| format!("{}: can not be written", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit() {
        assert_eq!(duration("20ms"), Ok(Duration::from_millis(20)));
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("100us"), Ok(Duration::from_micros(100)));
        for wrong in ["20", "ms", "-1ms", "1e99s", "NaNs", ""] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn shares_are_from_none_to_all() {
        assert_eq!(share("1%"), Ok(0.01));
        assert_eq!(share("0.5"), Ok(0.5));
        for wrong in ["101%", "-1%", "2", "x", "NaN"] {
            assert!(share(wrong).is_err(), "{wrong}");
        }
    }
}
