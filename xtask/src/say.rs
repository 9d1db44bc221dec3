//! What a person sees: headings, steps with their durations, one line for an error. All of it on
//! standard error; standard output belongs to data.

use std::{
    io::{self, IsTerminal, Write},
    time::Duration,
};

/// A heading before a stretch of work.
pub(crate) fn heading(text: &str) {
    let (bold, plain) = if colours() {
        ("\x1b[1m", "\x1b[0m")
    } else {
        ("", "")
    };
    eprintln!(
        "\n{bold}── {text} {}{plain}",
        "─".repeat(72usize.saturating_sub(text.chars().count()))
    );
}

/// A line of information.
pub(crate) fn note(text: &str) {
    eprintln!("   {text}");
}

/// A line that must not be overlooked.
pub(crate) fn warning(text: &str) {
    let (yellow, plain) = if colours() {
        ("\x1b[33m", "\x1b[0m")
    } else {
        ("", "")
    };
    eprintln!("{yellow}!! {text}{plain}");
}

/// An error with its causes, on one line where they fit.
pub(crate) fn failure(error: &anyhow::Error) {
    let (red, plain) = if colours() {
        ("\x1b[31m", "\x1b[0m")
    } else {
        ("", "")
    };
    eprintln!("{red}error:{plain} {error:#}");
}

/// The line of a step under way, drawn over itself on a terminal and not at all elsewhere.
pub(crate) fn progress(text: &str) {
    if io::stderr().is_terminal() {
        let _ = write!(io::stderr(), "\r\x1b[2K   {text}");
    }
}

/// Removes what [`progress`] drew.
pub(crate) fn progress_done() {
    if io::stderr().is_terminal() {
        let _ = write!(io::stderr(), "\r\x1b[2K");
    }
}

/// `0.4 s`, `41 s`, `3 min 05 s`.
pub(crate) fn duration(elapsed: Duration) -> String {
    let seconds = elapsed.as_secs_f64();
    if seconds < 10.0 {
        format!("{seconds:.1} s")
    } else if seconds < 120.0 {
        format!("{seconds:.0} s")
    } else {
        format!(
            "{} min {:02} s",
            elapsed.as_secs() / 60,
            elapsed.as_secs() % 60
        )
    }
}

/// `812 B`, `44.1 KiB`, `1.2 MiB`.
pub(crate) fn size(bytes: u64) -> String {
    let value = bytes as f64;
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{:.1} KiB", value / 1024.0),
        _ => format!("{:.1} MiB", value / 1_048_576.0),
    }
}

fn colours() -> bool {
    io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_well() {
        for (millis, text) in [(420, "0.4 s"), (41_200, "41 s"), (185_000, "3 min 05 s")] {
            assert_eq!(duration(Duration::from_millis(millis)), text);
        }
    }

    #[test]
    fn sizes_read_well() {
        for (bytes, text) in [(812, "812 B"), (45_158, "44.1 KiB"), (1_258_291, "1.2 MiB")] {
            assert_eq!(size(bytes), text);
        }
    }
}
