//! One shell in its terminal, and what is kept of it for whoever attaches.

use std::collections::VecDeque;
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Result;
use parking_lot::Mutex;
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
        let mut state = self.shared.state.lock();
        let from = state.attach(received);
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
        let mut state = self.shared.state.lock();
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
        let mut state = self.shared.state.lock();
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
        let mut state = self.shared.state.lock();
        if state.attached != self.number {
            return Some(Next::TakenOver);
        }
        let taken = self.shared.input_taken.load(Ordering::Relaxed);
        let news = taken.saturating_sub(confirmed);
        if news > 0 && (news >= CONFIRM_EACH as u64 || taken == state.input) {
            return Some(Next::Taken(taken));
        }
        if let Some(bytes) = state.next_output() {
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
        let mut state = self.shared.state.lock();
        if state.attached == self.number {
            state.attached = 0;
        }
        drop(state);
        self.shared.room.notify_one();
    }
}

impl State {
    /// The number of the oldest byte of output that is kept.
    fn kept_from(&self) -> u64 {
        self.end - self.output.len() as u64
    }

    /// A stream whose caller has `received` bytes attaches; gives the first byte that it gets. What
    /// lies between the two is lost.
    fn attach(&mut self, received: u64) -> u64 {
        // The read of the terminal that is under way was begun while nobody was attached: there is
        // to be room for it without anything of this stream's being let go.
        let with_room = self.end.saturating_sub((KEPT_OUTPUT - READ) as u64);
        let from = received.clamp(self.kept_from().max(with_room), self.end);
        self.streams += 1;
        self.attached = self.streams;
        self.sent = from;
        self.received = from;
        from
    }

    /// What the attached stream is to send next, if there is anything and its caller keeps up.
    fn next_output(&mut self) -> Option<Vec<u8>> {
        let window = (self.received + KEPT_OUTPUT as u64).min(self.end);
        let waiting = window
            .checked_sub(self.sent)
            .filter(|waiting| *waiting > 0)?;
        let start = self.sent.checked_sub(self.kept_from())? as usize;
        let length = MAX_CHUNK.min(waiting as usize);
        let bytes = self.output.range(start..start + length).copied().collect();
        self.sent += length as u64;
        Some(bytes)
    }

    /// Of an attached stream only what it has confirmed is let go: [`Shared::has_room`] and
    /// [`State::attach`] see to it.
    fn keep(&mut self, bytes: &[u8]) {
        self.output.extend(bytes);
        self.end += bytes.len() as u64;
        let over = self.output.len().saturating_sub(KEPT_OUTPUT);
        self.output.drain(..over);
    }
}

impl Shared {
    /// May the terminal be read? What nobody is attached to see pushes older output out.
    fn has_room(&self) -> bool {
        let state = self.state.lock();
        state.attached == 0 || state.end - state.received <= (KEPT_OUTPUT - READ) as u64
    }

    fn is_attached(&self) -> bool {
        self.state.lock().attached != 0
    }

    fn output(&self, bytes: &[u8]) {
        self.state.lock().keep(bytes);
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
    shared.state.lock().exited = Some(Exited { code, signal });
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes `from..to` of an output of which each byte tells its own number.
    fn numbered(from: u64, to: u64) -> Vec<u8> {
        (from..to).map(|number| (number % 251) as u8).collect()
    }

    /// The terminal is read while nobody is attached; a stream attaches while such a read is under
    /// way, again and again. It gets all output from the byte on that it was told.
    #[test]
    fn a_stream_that_attaches_during_a_read_gets_what_it_was_promised() {
        let mut state = State::default();
        for _ in 0..KEPT_OUTPUT / READ + 3 {
            let bytes = numbered(state.end, state.end + READ as u64);
            state.keep(&bytes);
        }
        for received in [0, state.end / 2, state.end, u64::MAX] {
            let from = state.attach(received);
            let end = state.end;
            assert!(from >= state.kept_from() && from <= end);
            state.keep(&numbered(end, end + READ as u64));
            let sent: Vec<u8> = std::iter::from_fn(|| state.next_output())
                .flatten()
                .collect();
            let promised = numbered(from, end + READ as u64);
            assert!(
                sent == promised,
                "{} of {} bytes",
                sent.len(),
                promised.len()
            );
        }
    }

    #[test]
    fn a_caller_that_does_not_keep_up_gets_no_more_than_the_window() {
        let shared = Shared::default();
        shared.state.lock().attach(0);
        let mut read = 0;
        while shared.has_room() {
            shared.output(&[b'y'; READ]);
            read += READ;
        }
        assert!(read <= KEPT_OUTPUT, "{read}");
        let mut state = shared.state.lock();
        let sent: usize = std::iter::from_fn(|| state.next_output())
            .map(|bytes| bytes.len())
            .sum();
        assert_eq!(sent, read);
    }
}
