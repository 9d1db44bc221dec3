//! One shell in its terminal, and what is kept of it for whoever attaches.

use std::collections::VecDeque;
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Result;
use pty_process::{OwnedReadPty, OwnedWritePty};
use ringback_protocol::PeerId;
use ringback_protocol::service::shell::{
    CONFIRM_EACH, Exited, KEPT_FOR, KEPT_OUTPUT, MAX_CHUNK, Start,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Child;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::Instant;

use super::login;

/// Input that may wait for the shell, in bytes; callers have to stop earlier by themselves.
const MAX_INPUT: u64 = 1024 * 1024;
/// After the shell's end: what its children still have to say is waited for so long.
const LAST_WORDS: Duration = Duration::from_millis(100);
/// And at most so many bytes of it, as some of them never stop.
const MAX_LAST_WORDS: usize = 1024 * 1024;
/// From the terminal's hang-up to the end by force.
const GRACE: Duration = Duration::from_secs(3);

/// A shell. When the last handle is dropped its terminal hangs up.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) id: [u8; 16],
    pub(super) caller: PeerId,
    shared: Arc<Shared>,
    input: mpsc::UnboundedSender<Vec<u8>>,
    size: watch::Sender<(u16, u16)>,
    /// Goes with the session.
    _alive: oneshot::Sender<()>,
}

/// What the terminal's tasks and the streams share.
#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// There is news for the attached stream.
    news: Notify,
    /// There is room for output again, or the stream has gone.
    room: Notify,
    /// Bytes of input that the shell has read.
    input_taken: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    /// The last output; its end is byte number `end`.
    output: VecDeque<u8>,
    end: u64,
    /// The number of the stream that is attached, counted from 1; 0: none.
    attached: u64,
    streams: u64,
    /// Of the attached stream: the next byte to send, and what the caller has confirmed.
    sent: u64,
    received: u64,
    /// Bytes of input that streams have brought.
    input: u64,
    exited: Option<Exited>,
}

/// A stream's hold on a session.
#[derive(Debug)]
pub(super) struct Attached {
    shared: Arc<Shared>,
    number: u64,
    /// The first byte of output that it gets.
    pub(super) from: u64,
    /// Bytes of input that had been brought, and that the shell had taken.
    pub(super) input: u64,
    pub(super) input_taken: u64,
}

/// What an attached stream has to tell.
pub(super) enum Next {
    Output(Vec<u8>),
    /// The shell has taken so many bytes of input.
    Taken(u64),
    Exited(Exited),
    TakenOver,
}

impl Session {
    /// Starts a shell. The second value comes when nobody has attached for [`KEPT_FOR`], and the
    /// shell has been ended.
    pub(super) fn start(
        caller: PeerId,
        start: &Start,
    ) -> Result<(Arc<Self>, oneshot::Receiver<()>)> {
        let (pty, pts) = pty_process::open()?;
        pty.resize(size(start.cols, start.rows))?;
        let command = login::command(&caller, &start.term)?;
        let child = pty_process::Command::from(command).spawn(pts)?;
        let (read, write) = pty.into_split();
        let (input, inputs) = mpsc::unbounded_channel();
        let (size, sizes) = watch::channel((start.cols, start.rows));
        let shared = Arc::<Shared>::default();
        let (ended, is_ended) = oneshot::channel();
        let (alive, is_dropped) = oneshot::channel();
        tokio::spawn(take_input(shared.clone(), write, inputs, sizes));
        tokio::spawn(run(shared.clone(), read, child, is_dropped, ended));
        let session = Self {
            id: rand::random(),
            caller,
            shared,
            input,
            size,
            _alive: alive,
        };
        Ok((Arc::new(session), is_ended))
    }

    /// Gives the session to a stream whose caller has `received` bytes of output; the stream that
    /// had it loses it.
    pub(super) fn attach(&self, received: u64) -> Attached {
        let mut state = self.shared.state.lock().expect("not poisoned");
        let kept_from = state.end - state.output.len() as u64;
        let from = received.clamp(kept_from, state.end);
        state.streams += 1;
        state.attached = state.streams;
        state.sent = from;
        state.received = from;
        let (number, input) = (state.attached, state.input);
        drop(state);
        self.shared.news.notify_waiters();
        self.shared.room.notify_one();
        Attached {
            shared: self.shared.clone(),
            number,
            from,
            input,
            input_taken: self.shared.input_taken.load(Ordering::Relaxed),
        }
    }

    pub(super) fn resize(&self, cols: u16, rows: u16) {
        // The terminal may have gone.
        let _ = self.size.send((cols, rows));
    }
}

impl Attached {
    /// Queues input for the shell; false if there is too much already. A stream that has lost the
    /// session changes nothing.
    pub(super) fn take(&self, session: &Session, bytes: Vec<u8>) -> bool {
        let mut state = self.shared.state.lock().expect("not poisoned");
        if state.attached != self.number {
            return true;
        }
        state.input += bytes.len() as u64;
        // The shell may have gone: then nobody is to be told anything.
        let _ = session.input.send(bytes);
        state.input - self.shared.input_taken.load(Ordering::Relaxed) <= MAX_INPUT
    }

    /// The caller has shown so many bytes.
    pub(super) fn received(&self, bytes: u64) {
        let mut state = self.shared.state.lock().expect("not poisoned");
        if state.attached == self.number && bytes > state.received && bytes <= state.sent {
            state.received = bytes;
            drop(state);
            self.shared.room.notify_one();
            self.shared.news.notify_waiters();
        }
    }

    /// Waits for news: output first, and the end when all output is out. `confirmed` is how much
    /// input the caller knows to be taken.
    pub(super) async fn next(&self, confirmed: u64) -> Next {
        loop {
            let news = self.shared.news.notified();
            tokio::pin!(news);
            // Registered before the look, so that nothing is missed between.
            news.as_mut().enable();
            if let Some(next) = self.look(confirmed) {
                return next;
            }
            news.await;
        }
    }

    fn look(&self, confirmed: u64) -> Option<Next> {
        let mut state = self.shared.state.lock().expect("not poisoned");
        if state.attached != self.number {
            return Some(Next::TakenOver);
        }
        let taken = self.shared.input_taken.load(Ordering::Relaxed);
        if taken != confirmed && (taken - confirmed >= CONFIRM_EACH as u64 || taken == state.input)
        {
            return Some(Next::Taken(taken));
        }
        let window = (state.received + KEPT_OUTPUT as u64).min(state.end);
        if state.sent < window {
            let kept_from = state.end - state.output.len() as u64;
            let start = (state.sent - kept_from) as usize;
            let length = MAX_CHUNK.min((window - state.sent) as usize);
            let bytes: Vec<u8> = state.output.range(start..start + length).copied().collect();
            state.sent += length as u64;
            return Some(Next::Output(bytes));
        }
        if let Some(exited) = &state.exited
            && state.sent == state.end
        {
            return Some(Next::Exited(exited.clone()));
        }
        None
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock().expect("not poisoned");
        if state.attached == self.number {
            state.attached = 0;
        }
        drop(state);
        self.shared.room.notify_one();
    }
}

impl Shared {
    /// May the terminal be read? What nobody is attached to see pushes older output out.
    fn has_room(&self) -> bool {
        let state = self.state.lock().expect("not poisoned");
        state.attached == 0 || state.end - state.received <= (KEPT_OUTPUT - READ) as u64
    }

    fn is_attached(&self) -> bool {
        self.state.lock().expect("not poisoned").attached != 0
    }

    fn output(&self, bytes: &[u8]) {
        let mut state = self.state.lock().expect("not poisoned");
        state.output.extend(bytes);
        state.end += bytes.len() as u64;
        let over = state.output.len().saturating_sub(KEPT_OUTPUT);
        // Of an attached stream only what it has confirmed is let go: there is room for no more.
        state.output.drain(..over);
        drop(state);
        self.news.notify_waiters();
    }
}

/// Bytes that one read of a terminal gives at most.
const READ: usize = 4096;

/// Reads the terminal until its shell ends, or until nobody has attached for too long.
async fn run(
    shared: Arc<Shared>,
    mut terminal: OwnedReadPty,
    mut child: Child,
    mut dropped: oneshot::Receiver<()>,
    ended: oneshot::Sender<()>,
) {
    let mut buffer = vec![0; READ];
    let mut status = None;
    let mut is_open = true;
    let mut detached: Option<Instant> = None;
    let mut last_words = 0;
    while is_open || status.is_none() {
        detached = match shared.is_attached() {
            true => None,
            false => detached.or_else(|| Some(Instant::now())),
        };
        let may_read = is_open && shared.has_room();
        let quiet = status.is_some().then(|| Instant::now() + LAST_WORDS);
        tokio::select! {
            biased;
            read = terminal.read(&mut buffer), if may_read => match read {
                Ok(0) | Err(_) => is_open = false,
                Ok(read) => {
                    shared.output(&buffer[..read]);
                    last_words += if status.is_some() { read } else { 0 };
                    is_open = last_words < MAX_LAST_WORDS;
                }
            },
            exited = child.wait(), if status.is_none() => status = Some(exited),
            () = shared.room.notified() => {}
            () = at(detached.map(|since| since + KEPT_FOR)) => break,
            // Programs that the shell left behind may hold the terminal for ever.
            () = at(quiet), if may_read => is_open = false,
            _ = &mut dropped => break,
        }
    }
    drop(terminal);
    let status = match status {
        Some(status) => status,
        None => hang_up(&mut child).await,
    };
    let (code, signal) = status.map_or((None, None), |status| (status.code(), status.signal()));
    shared.state.lock().expect("not poisoned").exited = Some(Exited { code, signal });
    shared.news.notify_waiters();
    // The news is kept for a caller that is away just now.
    loop {
        tokio::select! {
            () = tokio::time::sleep(KEPT_FOR) => {}
            _ = &mut dropped => break,
        }
        if !shared.is_attached() {
            break;
        }
    }
    // The agent may be ending.
    let _ = ended.send(());
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// The terminal goes, as when a cable is pulled; who does not mind that is killed.
async fn hang_up(child: &mut Child) -> io::Result<std::process::ExitStatus> {
    if let Some(id) = child.id().and_then(|id| i32::try_from(id).ok()) {
        // The shell leads its session and so its process group.
        let group = nix::unistd::Pid::from_raw(-id);
        // Gone already is as good.
        let _ = nix::sys::signal::kill(group, nix::sys::signal::Signal::SIGHUP);
        let _ = nix::sys::signal::kill(group, nix::sys::signal::Signal::SIGCONT);
    }
    match tokio::time::timeout(GRACE, child.wait()).await {
        Ok(status) => status,
        Err(_) => {
            child.start_kill()?;
            child.wait().await
        }
    }
}

/// Writes input to the terminal as the shell takes it, and sets its size.
async fn take_input(
    shared: Arc<Shared>,
    mut terminal: OwnedWritePty,
    mut inputs: mpsc::UnboundedReceiver<Vec<u8>>,
    mut sizes: watch::Receiver<(u16, u16)>,
) {
    loop {
        tokio::select! {
            input = inputs.recv() => {
                let Some(input) = input else { return };
                let length = input.len() as u64;
                let mut rest = &input[..];
                while !rest.is_empty() {
                    tokio::select! {
                        written = terminal.write(rest) => match written {
                            Ok(written) => rest = &rest[written..],
                            // The shell has gone; what was meant for it is dealt with.
                            Err(_) => break,
                        },
                        Ok(()) = sizes.changed() => resize(&terminal, &mut sizes),
                    }
                }
                shared.input_taken.fetch_add(length, Ordering::Relaxed);
                shared.news.notify_waiters();
            }
            Ok(()) = sizes.changed() => resize(&terminal, &mut sizes),
        }
    }
}

fn resize(terminal: &OwnedWritePty, sizes: &mut watch::Receiver<(u16, u16)>) {
    let (cols, rows) = *sizes.borrow_and_update();
    // The shell may have gone.
    let _ = terminal.resize(size(cols, rows));
}

fn size(cols: u16, rows: u16) -> pty_process::Size {
    pty_process::Size::new(rows, cols)
}
