//! Files on their way. A transfer is a run that can be broken off at any moment and begun anew: it
//! asks what is there already, and carries the rest. So pausing, a lost link, a restarted agent and
//! a closed tab are all the same to it.

mod disk;
mod download;
mod upload;

use futures::{
    FutureExt,
    future::{AbortHandle, Abortable},
};
use leptos::task::spawn_local;
use ringback_protocol::service::files::Entry;
use ringback_wasm::Link;
use sha2::{Digest, Sha256};

pub(crate) use download::unfinished;

use crate::{
    browser,
    live::{Kept, Live},
    sentence::Failure,
    state::Call,
};

/// Streams that carry one file at the same time: one is held up by its own round trips.
const STREAMS: usize = 4;
/// Bytes of the piece that one stream carries before it takes the next.
const PIECE: u64 = 8 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Down,
    Up,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum State {
    Running,
    Paused,
    /// The link is being made anew.
    Waiting,
    /// All is carried; the hash is being compared.
    Checking,
    Done,
    Failed(Failure),
}

/// A file on its way, in either direction.
#[derive(Clone, Copy)]
pub(crate) struct Transfer {
    pub(crate) number: u32,
    pub(crate) name: Kept<String>,
    pub(crate) direction: Direction,
    pub(crate) size: Live<f64>,
    pub(crate) done: Live<f64>,
    /// Bytes per second.
    pub(crate) rate: Live<f64>,
    pub(crate) state: Live<State>,
    call: Call,
    service: Kept<String>,
    job: Kept<Job>,
    abort: Kept<Option<AbortHandle>>,
    tick: Kept<(f64, f64)>,
}

/// What is to be carried.
#[derive(Clone)]
enum Job {
    Download(download::Download),
    Upload(upload::Upload),
}

impl Transfer {
    pub(crate) fn download(call: Call, service: &str, path: &str, entry: &Entry) -> Self {
        let job = download::Download::new(&call.target.get_value(), service, path, entry);
        let transfer = Self::new(
            call,
            service,
            &entry.name,
            Direction::Down,
            Job::Download(job),
        );
        transfer.size.set(entry.size as f64);
        transfer.resume();
        transfer
    }

    /// A download that an earlier page has begun.
    pub(crate) fn of_unfinished(call: Call, service: &str, record: &download::Record) -> Self {
        let job = download::Download::of(record);
        let transfer = Self::new(
            call,
            service,
            &record.name,
            Direction::Down,
            Job::Download(job),
        );
        transfer.size.set(record.size as f64);
        transfer.done.set(crate::pieces::total(&record.have) as f64);
        transfer.state.set(State::Paused);
        transfer
    }

    /// Sends `file` to `path`; an existing file there is replaced only if `replace`.
    pub(crate) fn upload(
        call: Call,
        service: &str,
        path: &str,
        file: web_sys::File,
        replace: bool,
    ) -> Self {
        let name = path.rsplit('/').next().unwrap_or(path).to_owned();
        let size = file.size();
        let job = upload::Upload::new(path, file, replace);
        let transfer = Self::new(call, service, &name, Direction::Up, Job::Upload(job));
        transfer.size.set(size);
        transfer.resume();
        transfer
    }

    fn new(call: Call, service: &str, name: &str, direction: Direction, job: Job) -> Self {
        Self {
            number: browser::fresh_number(),
            name: Kept::new(name.to_owned()),
            direction,
            size: Live::new(0.0),
            done: Live::new(0.0),
            rate: Live::new(0.0),
            state: Live::new(State::Running),
            call,
            service: Kept::new(service.to_owned()),
            job: Kept::new(job),
            abort: Kept::new(None),
            tick: Kept::new((0.0, 0.0)),
        }
    }

    pub(crate) fn pause(self) {
        self.stop();
        self.state.set(State::Paused);
    }

    /// Begins or goes on.
    pub(crate) fn resume(self) {
        self.stop();
        self.state.set(State::Running);
        let (handle, registration) = AbortHandle::new_pair();
        self.abort.set_value(Some(handle));
        spawn_local(Abortable::new(self.run(), registration).map(drop));
    }

    /// Stops it for good, and removes what was kept for going on.
    pub(crate) fn cancel(self) {
        self.stop();
        let job = self.job.get_value();
        let service = self.service.get_value();
        let link = self.call.link.get_untracked();
        spawn_local(async move {
            match job {
                Job::Download(download) => download.discard().await,
                Job::Upload(upload) => {
                    if let Some(link) = link {
                        upload.abandon(&link, &service).await;
                    }
                }
            }
        });
    }

    pub(crate) fn is_over(self) -> bool {
        self.state
            .with(|state| matches!(state, State::Done | State::Failed(_)))
    }

    fn stop(self) {
        if let Some(handle) = self.abort.try_update_value(Option::take).flatten() {
            handle.abort();
        }
        self.rate.set(0.0);
    }

    /// Runs until it is done or has failed for good; a lost link is waited for.
    async fn run(self) {
        /// Times that a stream may break off on a link that stands.
        const BREAKS: u32 = 5;
        let mut lost = None;
        let mut breaks = 0;
        loop {
            let Some((number, link)) = self.call.link_other_than(lost).await else {
                return self.state.set(State::Failed(Failure::new("link_lost", "")));
            };
            self.state.set(State::Running);
            let before = self.done.get_untracked();
            let service = self.service.get_value();
            let outcome = match self.job.get_value() {
                Job::Download(download) => download.run(self, &link, &service).await,
                Job::Upload(upload) => upload.run(self, &link, &service).await,
            };
            self.rate.set(0.0);
            let Err(failure) = outcome else {
                return self.state.set(State::Done);
            };
            if !matches!(
                failure.code.as_str(),
                "link_closed" | "stream_reset" | "link_lost" | "too_many_streams"
            ) {
                return self.state.set(State::Failed(failure));
            }
            self.state.set(State::Waiting);
            // Progress shows that it was an accident.
            breaks = if self.done.get_untracked() > before {
                0
            } else {
                breaks + 1
            };
            if breaks > BREAKS {
                return self.state.set(State::Failed(failure));
            }
            lost = broken(self.call, number, &link).then_some(number);
            if lost.is_none() {
                browser::sleep(300 << breaks).await;
                lost = broken(self.call, number, &link).then_some(number);
            }
        }
    }

    /// `done` bytes are carried.
    fn progress(self, done: u64) {
        const EVERY_MS: f64 = 500.0;
        self.done.set(done as f64);
        let now = browser::clock_ms();
        let (then, before) = self.tick.get_value();
        if now - then >= EVERY_MS {
            self.tick.set_value((now, done as f64));
            if then > 0.0 && now - then < 5_000.0 {
                let rate = ((done as f64 - before) / (now - then) * 1000.0).max(0.0);
                self.rate.update(|shown| {
                    *shown = if *shown == 0.0 {
                        rate
                    } else {
                        *shown * 0.6 + rate * 0.4
                    };
                });
            }
        }
    }
}

/// The link can carry nothing more; another one is needed.
fn broken(call: Call, number: u64, link: &Link) -> bool {
    call.link_number() != number || link.state() == ringback_wasm::LinkState::Ended
}

/// A name for what belongs to exactly this file: 16 bytes of a hash over its parts.
fn name_of(parts: &[&str]) -> [u8; 16] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    let mut name = [0; 16];
    name.copy_from_slice(&hash.finalize()[..16]);
    name
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
