//! `shell`: the terminal of a device in the one of this command.

use std::collections::VecDeque;
use std::io::IsTerminal as _;
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use ringback_protocol::service::MAX_FRAME;
use ringback_protocol::service::shell::{
    CONFIRM_EACH, KEPT_FOR, KEPT_INPUT, MAX_CHUNK, ShellError, Size, Start, Started, ToCaller,
    ToDevice,
};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::line::{Line, Reader, Writer};
use super::stop::stopped;
use super::terminal;
use crate::cli::{Global, Shell};
use crate::failure::{Ended, Exit, Failure};
use crate::link::printable;
use crate::profile::Profile;
use crate::service::Frames;

/// Between two attempts to call again.
const PAUSE: Duration = Duration::from_millis(500);
/// The end of standard input is an end for every program that reads there, so it is said again until
/// the shell has ended: a terminal forgets it when a program changes its mode.
const CTRL_D: [u8; 1] = [4];
const END_INTERVAL: Duration = Duration::from_millis(500);
/// For the device's first word on a stream.
const START_PATIENCE: Duration = Duration::from_secs(20);

pub(super) async fn run(global: &Global, profile: &Profile, shell: Shell) -> Result<()> {
    let Shell { device, target } = shell;
    let (device, service) = device.split_once(':').unwrap_or((&device, "shell"));
    let line = Line::new(global, profile, &target, device, service).await?;
    let mut terminal = Terminal::new(service)?;
    let result = tokio::select! {
        result = terminal.run(&line) => result,
        ended = stopped() => Ok(ended),
    };
    drop(terminal);
    line.close().await;
    match result? {
        Ended(0) => Ok(()),
        ended => bail!(ended),
    }
}

/// The session as this end knows it.
struct Terminal {
    service: String,
    session: Option<[u8; 16]>,
    /// Bytes of output that were shown, and that the device knows of.
    received: u64,
    confirmed: u64,
    /// Input that the device may not have yet; its end is byte number `sent`.
    unconfirmed: VecDeque<u8>,
    sent: u64,
    keys: mpsc::Receiver<Vec<u8>>,
    keys_ended: bool,
    resized: Signal,
    escape: Escape,
    raw: Option<Raw>,
}

/// How one stream ended.
enum End {
    Exited(Ended),
    Lost(String),
    Quit,
}

impl Terminal {
    fn new(service: &str) -> Result<Self> {
        let raw = Raw::enter()?;
        let (sender, keys) = mpsc::channel(1);
        tokio::spawn(async move {
            let mut stdin = tokio::io::stdin();
            let mut buffer = vec![0; MAX_CHUNK];
            while let Ok(read @ 1..) = stdin.read(&mut buffer).await {
                if sender.send(buffer[..read].to_vec()).await.is_err() {
                    return;
                }
            }
        });
        Ok(Self {
            service: service.to_owned(),
            session: None,
            received: 0,
            confirmed: 0,
            unconfirmed: VecDeque::new(),
            sent: 0,
            keys,
            keys_ended: false,
            resized: signal(SignalKind::window_change())?,
            escape: Escape::default(),
            raw,
        })
    }

    /// From the first call to the shell's end, however often the link breaks.
    async fn run(&mut self, line: &Line) -> Result<Ended> {
        let mut lost_at = None;
        loop {
            let reason = match self.attach(line, &mut lost_at).await {
                Ok(End::Exited(ended)) => return Ok(ended),
                Ok(End::Quit) => return Ok(Ended(0)),
                Ok(End::Lost(reason)) => reason,
                Err(error) if self.session.is_none() || is_final(&error) => return Err(error),
                Err(error) => format!("{error:#}"),
            };
            match lost_at {
                None => {
                    lost_at = Some(Instant::now());
                    self.say(&format!("{reason}; calling again (~. or Ctrl-C gives up)"));
                }
                Some(since) if since.elapsed() > KEPT_FOR => {
                    bail!("{reason}; the shell is given up after 60 s");
                }
                Some(_) => {}
            }
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => {}
                () = self.gave_up() => return Ok(Ended(130)),
            }
        }
    }

    /// One stream.
    async fn attach(&mut self, line: &Line, lost_at: &mut Option<Instant>) -> Result<End> {
        let start = ToDevice::Start(self.start());
        let opening = async {
            let (reader, mut writer) = line.open(&self.service).await?;
            writer.write_all(&start.encode()).await?;
            let mut frames = Frames::new(reader, MAX_FRAME);
            let first = match tokio::time::timeout(START_PATIENCE, frames.next()).await {
                Ok(first) => first?,
                Err(_) => bail!("the device does not start a shell"),
            };
            anyhow::Ok((frames, writer, first))
        };
        let (frames, mut writer, first) = opening.await?;
        let Some(first) = first else {
            return Ok(End::Lost("the device ended the stream".into()));
        };
        match ToCaller::decode(&first)? {
            ToCaller::Started(started) => self.started(&started, lost_at.is_some()),
            ToCaller::Failed(failed) => bail!(Failure::new(
                Exit::Refused,
                format!("{}: {}", failed.code.title(), printable(&failed.detail))
            )),
            _ => bail!("the device does not speak as a shell does"),
        }
        *lost_at = None;
        let pending: Vec<u8> = self.unconfirmed.iter().copied().collect();
        for chunk in pending.chunks(MAX_CHUNK) {
            let input = ToDevice::Input(chunk.to_vec());
            writer.write_all(&input.encode()).await?;
        }
        self.talk(frames, writer).await
    }

    fn start(&self) -> Start {
        let Size { cols, rows } = size();
        let term = std::env::var("TERM").unwrap_or_default();
        let fits = |c: char| c.is_ascii_alphanumeric() || "+-._".contains(c);
        Start {
            cols,
            rows,
            term: term.chars().filter(|c| fits(*c)).take(64).collect(),
            session: self.session,
            received: self.received,
        }
    }

    fn started(&mut self, started: &Started, again: bool) {
        if started.resumed {
            if started.from > self.received {
                let lost = started.from - self.received;
                self.say(&format!("{lost} bytes of output are lost"));
            }
            // What the device has need not be sent again.
            let first = self.sent - self.unconfirmed.len() as u64;
            let known = started.input.clamp(first, self.sent) - first;
            self.unconfirmed.drain(..known as usize);
        } else {
            if again {
                self.say("the shell has ended meanwhile; this is a new one");
            }
            self.unconfirmed.clear();
            self.sent = 0;
        }
        if again && started.resumed {
            self.say("connected again");
        }
        self.session = Some(started.session);
        self.received = started.from;
        self.confirmed = started.from;
    }

    /// Keys one way, output the other.
    async fn talk(&mut self, mut frames: Frames<Reader>, mut writer: Writer) -> Result<End> {
        let (sender, mut said) = mpsc::channel(8);
        // Frames are not to be cut off in the middle by a key.
        let reading = tokio::spawn(async move {
            loop {
                let next = frames.next().await;
                let is_last = !matches!(next, Ok(Some(_)));
                if sender.send(next).await.is_err() || is_last {
                    return;
                }
            }
        });
        let _ended_with_this = AbortOnDropHandle::new(reading);
        let mut stdout = terminal::stdout();
        loop {
            let has_room = self.unconfirmed.len() < KEPT_INPUT - MAX_CHUNK;
            let may_send = !self.keys_ended && has_room;
            let sent = tokio::select! {
                frame = said.recv() => {
                    let frame = match frame {
                        Some(Ok(Some(frame))) => frame,
                        Some(Err(error)) => return Ok(End::Lost(error.to_string())),
                        Some(Ok(None)) | None => {
                            return Ok(End::Lost("the link is lost".into()));
                        }
                    };
                    match ToCaller::decode(&frame)? {
                        ToCaller::Output(bytes) => {
                            stdout.write_all(&bytes).await?;
                            stdout.flush().await?;
                            self.received += bytes.len() as u64;
                            if self.received - self.confirmed < CONFIRM_EACH as u64 {
                                continue;
                            }
                            self.confirmed = self.received;
                            writer.write_all(&ToDevice::Received(self.received).encode()).await
                        }
                        ToCaller::Taken(taken) => {
                            let first = self.sent - self.unconfirmed.len() as u64;
                            let known = taken.clamp(first, self.sent) - first;
                            self.unconfirmed.drain(..known as usize);
                            continue;
                        }
                        ToCaller::Exited(exited) => {
                            let code = match (exited.code, exited.signal) {
                                (Some(code), _) => code,
                                (None, Some(signal)) => 128 + signal,
                                (None, None) => 1,
                            };
                            return Ok(End::Exited(Ended(code as u8)));
                        }
                        ToCaller::Failed(failed) if failed.code == ShellError::TakenOver => {
                            bail!(Failure::new(Exit::Refused, failed.code.title()));
                        }
                        ToCaller::Failed(failed) => return Ok(End::Lost(failed.code.title().into())),
                        _ => continue,
                    }
                }
                keys = self.keys.recv(), if may_send => {
                    let keys = match keys {
                        Some(keys) if self.raw.is_some() => match self.escape.pass(&keys) {
                            Some(keys) => keys,
                            None => return Ok(End::Quit),
                        },
                        Some(keys) => keys,
                        None => {
                            self.keys_ended = true;
                            CTRL_D.to_vec()
                        }
                    };
                    self.unconfirmed.extend(&keys);
                    self.sent += keys.len() as u64;
                    writer.write_all(&ToDevice::Input(keys).encode()).await
                }
                () = tokio::time::sleep(END_INTERVAL), if self.keys_ended && has_room => {
                    self.unconfirmed.extend(CTRL_D);
                    self.sent += CTRL_D.len() as u64;
                    writer.write_all(&ToDevice::Input(CTRL_D.to_vec()).encode()).await
                }
                _ = self.resized.recv() => {
                    writer.write_all(&ToDevice::Resize(size()).encode()).await
                }
            };
            if let Err(error) = sent {
                // Why is told by what was still read, if anything.
                tracing::debug!("the stream takes no more: {error}");
            }
        }
    }

    /// Ctrl-C or an escape, while there is no shell to send it to. What else is typed is for the
    /// shell when it is back.
    async fn gave_up(&mut self) {
        while !self.keys_ended && self.unconfirmed.len() < KEPT_INPUT - MAX_CHUNK {
            match self.keys.recv().await {
                Some(keys)
                    if self.raw.is_some() && (keys.contains(&3) || keys.ends_with(b"~.")) =>
                {
                    return;
                }
                Some(keys) => {
                    self.unconfirmed.extend(&keys);
                    self.sent += keys.len() as u64;
                }
                None => self.keys_ended = true,
            }
        }
        std::future::pending::<()>().await;
    }

    fn say(&self, text: &str) {
        use std::io::Write as _;
        let end = if self.raw.is_some() { "\r\n" } else { "\n" };
        let start = if self.raw.is_some() { "\r\n" } else { "" };
        // Nobody may be reading any more.
        let _ = write!(std::io::stderr(), "{start}ringback: {text}{end}");
    }
}

/// Will the same call never work?
fn is_final(error: &anyhow::Error) -> bool {
    let code = Failure::exit_code(error);
    [Exit::Refused, Exit::Trust, Exit::Usage]
        .iter()
        .any(|exit| *exit as u8 == code)
}

/// `~.` at the start of a line leaves the shell, as in ssh; `~~` is one `~`.
#[derive(Debug)]
struct Escape {
    at_start: bool,
    tilde: bool,
}

impl Default for Escape {
    fn default() -> Self {
        Self {
            at_start: true,
            tilde: false,
        }
    }
}

impl Escape {
    /// What of the keys is for the shell; `None`: leave.
    fn pass(&mut self, keys: &[u8]) -> Option<Vec<u8>> {
        let mut out = Vec::with_capacity(keys.len() + 1);
        for &key in keys {
            if std::mem::take(&mut self.tilde) {
                match key {
                    b'.' => return None,
                    b'~' => {}
                    _ => out.push(b'~'),
                }
            } else if self.at_start && key == b'~' {
                self.tilde = true;
                continue;
            }
            out.push(key);
            self.at_start = matches!(key, b'\r' | b'\n');
        }
        Some(out)
    }
}

/// The terminal passes every key on; when this is dropped it is as it was.
struct Raw(Termios);

impl Raw {
    /// `None` if standard input is no terminal.
    fn enter() -> Result<Option<Self>> {
        let stdin = std::io::stdin();
        if !stdin.is_terminal() {
            return Ok(None);
        }
        let before = tcgetattr(stdin.as_fd())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdin.as_fd(), OptionalActions::Now, &raw)?;
        Ok(Some(Self(before)))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // The terminal may be gone.
        let _ = tcsetattr(std::io::stdin().as_fd(), OptionalActions::Now, &self.0);
    }
}

fn size() -> Size {
    match tcgetwinsize(std::io::stdout().as_fd()) {
        Ok(size) if size.ws_col > 0 => Size {
            cols: size.ws_col,
            rows: size.ws_row,
        },
        _ => Size { cols: 80, rows: 24 },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tilde_and_a_dot_at_the_start_of_a_line_leave() {
        let pass = |keys: &[&str]| {
            let mut escape = Escape::default();
            let mut out = Vec::new();
            for keys in keys {
                match escape.pass(keys.as_bytes()) {
                    Some(keys) => out.extend(keys),
                    None => return None,
                }
            }
            Some(String::from_utf8(out).unwrap())
        };
        assert_eq!(pass(&["~."]), None);
        assert_eq!(pass(&["ls\r~", "."]), None);
        assert_eq!(pass(&["ls ~.\r"]).as_deref(), Some("ls ~.\r"));
        assert_eq!(pass(&["~~."]).as_deref(), Some("~."));
        assert_eq!(pass(&["~", "x"]).as_deref(), Some("~x"));
    }
}
