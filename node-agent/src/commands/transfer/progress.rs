//! A line on standard error that says how far a transfer is, where that is a terminal.

use std::io::{IsTerminal as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const INTERVAL: Duration = Duration::from_millis(200);
const WIDTH: usize = 24;

/// Bytes that have arrived; shown until it is dropped.
pub(super) struct Progress {
    done: Arc<AtomicU64>,
    task: Option<tokio::task::JoinHandle<()>>,
}

impl Progress {
    pub(super) fn start(name: &str, done: u64, all: u64) -> Self {
        let first = done;
        let done = Arc::new(AtomicU64::new(done));
        let task = std::io::stderr().is_terminal().then(|| {
            let (name, done) = (name.to_owned(), done.clone());
            tokio::spawn(async move {
                let started = Instant::now();
                let mut interval = tokio::time::interval(INTERVAL);
                loop {
                    interval.tick().await;
                    let now = done.load(Ordering::Relaxed);
                    let line = line(&name, now, all, now - first, started.elapsed());
                    // Nobody may be reading any more.
                    let _ = write!(std::io::stderr(), "\r{line}\x1b[K");
                }
            })
        });
        Self { done, task }
    }

    pub(super) fn add(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
    }

    /// What was counted and has to come again.
    pub(super) fn take_back(&self, bytes: u64) {
        self.done.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

fn line(name: &str, done: u64, all: u64, new: u64, time: Duration) -> String {
    let share = if all == 0 {
        1.0
    } else {
        done as f64 / all as f64
    };
    let full = (share * WIDTH as f64) as usize;
    let speed = new as f64 / time.as_secs_f64().max(0.001);
    let left = match (speed > 0.0, all - done.min(all)) {
        (true, left) => {
            let seconds = (left as f64 / speed) as u64;
            format!("{}:{:02} left", seconds / 60, seconds % 60)
        }
        (false, _) => String::new(),
    };
    format!(
        "{name}  {:3.0} % [{}{}] {:.1} of {:.1} MB, {:.1} MB/s, {left}",
        share * 100.0,
        "#".repeat(full.min(WIDTH)),
        " ".repeat(WIDTH.saturating_sub(full)),
        done as f64 / 1e6,
        all as f64 / 1e6,
        speed / 1e6
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_far_it_is() {
        let half = line(
            "a",
            50_000_000,
            100_000_000,
            25_000_000,
            Duration::from_secs(5),
        );
        assert_eq!(
            half,
            "a   50 % [############            ] 50.0 of 100.0 MB, 5.0 MB/s, 0:10 left"
        );
        let none = line("a", 0, 0, 0, Duration::ZERO);
        assert!(none.contains("100 %"), "{none}");
    }
}
