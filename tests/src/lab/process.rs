//! A child program: its output kept and waited for, its end certain.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Read, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Condvar, Mutex},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// A running program whose standard output and error are kept in memory and in files. Dropping it
/// kills it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    stdout: Arc<Lines>,
    stderr: Arc<Lines>,
    log: PathBuf,
}

/// Lines that a program has written so far.
#[derive(Debug, Default)]
struct Lines {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    lines: Vec<String>,
    ended: bool,
}

impl Process {
    /// Starts a program. Its output goes to `dir/NAME.out` and `dir/NAME.err`.
    pub fn spawn(name: &str, mut command: Command, dir: &Path) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("{name}: can not start {command:?}"))?;
        let keep = |extension| dir.join(format!("{name}.{extension}"));
        let stdout = Lines::read(child.stdout.take().expect("piped"), &keep("out"))?;
        let stderr = Lines::read(child.stderr.take().expect("piped"), &keep("err"))?;
        Ok(Self {
            name: name.to_owned(),
            child,
            stdout,
            stderr,
            log: keep("err"),
        })
    }

    /// The process ID of the program itself.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for a line of standard output that the predicate accepts, past ones included.
    pub fn stdout_line(&self, timeout: Duration, accept: impl Fn(&str) -> bool) -> Result<String> {
        self.line(&self.stdout, timeout, accept)
    }

    /// Waits for a line of standard error that the predicate accepts, past ones included.
    pub fn stderr_line(&self, timeout: Duration, accept: impl Fn(&str) -> bool) -> Result<String> {
        self.line(&self.stderr, timeout, accept)
    }

    /// Everything written to standard output so far.
    pub fn stdout(&self) -> String {
        self.stdout.all()
    }

    /// Everything written to standard error so far.
    pub fn stderr(&self) -> String {
        self.stderr.all()
    }

    /// Whether the program still runs.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(Pid::from_raw(self.child.id() as i32), signal)
            .with_context(|| format!("{}: can not be sent {signal}", self.name))
    }

    /// Waits for the program to end by itself.
    pub fn wait(&mut self, timeout: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + timeout;
        // Its output ends with it (or with the last program that inherited it).
        self.stdout.ended(deadline);
        let mut pause = Duration::from_micros(200);
        loop {
            if let Some(status) = self.child.try_wait()? {
                self.stderr
                    .ended(deadline.min(Instant::now() + Duration::from_secs(1)));
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!(
                    "{}: still runs after {timeout:?}\n{}",
                    self.name,
                    self.stderr()
                );
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }

    /// Asks the program to end as ^C does, and waits for it.
    pub fn interrupt(&mut self, timeout: Duration) -> Result<ExitStatus> {
        self.signal(Signal::SIGINT)?;
        self.wait(timeout)
    }

    /// `kill -9`, and waits for the end.
    pub fn kill9(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    fn line(
        &self,
        lines: &Lines,
        timeout: Duration,
        accept: impl Fn(&str) -> bool,
    ) -> Result<String> {
        lines.find(timeout, accept).with_context(|| {
            format!(
                "{}: did not write the awaited line within {timeout:?}; log in {}\n{}",
                self.name,
                self.log.display(),
                self.stderr()
            )
        })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Lines {
    fn read(pipe: impl Read + Send + 'static, path: &Path) -> Result<Arc<Self>> {
        let mut log = File::options().create(true).append(true).open(path)?;
        let lines = Arc::new(Self::default());
        let writer = Arc::clone(&lines);
        std::thread::spawn(move || {
            let mut pipe = BufReader::new(pipe);
            let mut line = Vec::new();
            while matches!(pipe.read_until(b'\n', &mut line), Ok(1..)) {
                let _ = log.write_all(&line);
                let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                line.clear();
                writer.state.lock().expect("not poisoned").lines.push(text);
                writer.changed.notify_all();
            }
            writer.state.lock().expect("not poisoned").ended = true;
            writer.changed.notify_all();
        });
        Ok(lines)
    }

    fn find(&self, timeout: Duration, accept: impl Fn(&str) -> bool) -> Option<String> {
        let deadline = Instant::now() + timeout;
        let mut state = self.state.lock().expect("not poisoned");
        let mut seen = 0;
        loop {
            if let Some(line) = state.lines[seen..].iter().find(|line| accept(line)) {
                return Some(line.clone());
            }
            seen = state.lines.len();
            let left = deadline.checked_duration_since(Instant::now())?;
            if state.ended {
                return None;
            }
            state = self
                .changed
                .wait_timeout(state, left)
                .expect("not poisoned")
                .0;
        }
    }

    fn ended(&self, deadline: Instant) {
        let mut state = self.state.lock().expect("not poisoned");
        while !state.ended {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                return;
            };
            state = self
                .changed
                .wait_timeout(state, left)
                .expect("not poisoned")
                .0;
        }
    }

    fn all(&self) -> String {
        self.state.lock().expect("not poisoned").lines.join("\n")
    }
}
