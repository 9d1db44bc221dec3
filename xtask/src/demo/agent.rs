//! A `ringback` process of the demonstration.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Receiver},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::child;

/// How long an agent may take to end after it was asked to.
const END_LIMIT: Duration = Duration::from_secs(5);
const STEP: Duration = Duration::from_millis(100);

/// A running agent that reports in lines of JSON. Dropping it ends it as Ctrl-C does.
#[derive(Debug)]
pub(super) struct Agent {
    child: Child,
    reports: Receiver<Value>,
    log: PathBuf,
    stop: Arc<AtomicBool>,
}

/// `ringback` with a directory of its own, unmoved by the settings of whoever runs this.
pub(super) fn ringback(binary: &Path, dir: &Path) -> Command {
    let mut command = child::command(binary);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("RINGBACK_") {
            command.env_remove(name);
        }
    }
    command.arg("--dir").arg(dir);
    command
}

impl Agent {
    /// Starts the command; what it says goes to `log`.
    pub(super) fn start(
        command: &mut Command,
        log: PathBuf,
        stop: &Arc<AtomicBool>,
    ) -> Result<Self> {
        use std::os::unix::process::CommandExt;
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(&log).with_context(|| format!("creating {}", log.display()))?)
            // Ctrl-C goes to this program alone, which ends the others in order.
            .process_group(0)
            .spawn()
            .context("starting ringback")?;
        let stdout = child.stdout.take().context("ringback has no output")?;
        let (sender, reports) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if let Ok(report) = serde_json::from_str(&line)
                    && sender.send(report).is_err()
                {
                    return;
                }
            }
        });
        Ok(Self {
            child,
            reports,
            log,
            stop: stop.clone(),
        })
    }

    /// The next report that `wanted` accepts.
    pub(super) fn report(&self, limit: Duration, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        let end = Instant::now() + limit;
        while Instant::now() < end {
            // In steps, so that Ctrl-C does not have to wait.
            match self.reports.recv_timeout(STEP) {
                Ok(report) if wanted(&report) => return Ok(report),
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    bail!("ringback ended: {}", self.said())
                }
                _ if self.stop.load(Ordering::Relaxed) => bail!("stopped"),
                _ => {}
            }
        }
        bail!(
            "ringback did not answer within {} s: {}",
            limit.as_secs(),
            self.said()
        )
    }

    /// What it wrote for people.
    pub(super) fn said(&self) -> String {
        fs::read_to_string(&self.log)
            .unwrap_or_default()
            .trim()
            .to_owned()
    }

    pub(super) fn ended(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|status| status.is_some())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let (Some(pid), false) = (pid, self.ended()) {
            let _ = kill_process(pid, Signal::INT);
            let start = Instant::now();
            while !self.ended() && start.elapsed() < END_LIMIT {
                thread::sleep(Duration::from_millis(10));
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
