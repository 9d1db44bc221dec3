//! Files on their way. A transfer is a run that can be broken off at any moment and begun anew: it
//! asks what is there already, and carries the rest. So pausing, a lost link, a restarted agent and
//! a closed tab are all the same to it. Few run at a time over one link; the others wait for their turn.

mod chosen;
mod disk;
mod download;
mod hold;
mod upload;

use futures::{
    FutureExt,
    future::{AbortHandle, Abortable},
};
use leptos::task::spawn_local;
use ringback_protocol::service::files::Entry;
use ringback_wasm::Link;
use sha2::{Digest, Sha256};

pub(crate) use chosen::{Choice, Folder};
pub(crate) use download::unfinished;

use crate::{
    browser,
    live::{Kept, Live},
    queue::{self, Turn, Waiting},
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
    /// Others are before it.
    Queued,
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
    /// The name that a download has in the folder that was chosen for it.
    pub(crate) saved_as: Live<Option<String>>,
    /// Where it goes; `None`: where the browser saves what it downloads.
    into: Kept<Option<Folder>>,
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
    /// Fetches a file, for `into` or else for the browser's own downloads.
    pub(crate) fn download(
        call: Call,
        service: &str,
        path: &str,
        entry: &Entry,
        into: Option<Folder>,
    ) -> Self {
        let job = download::Download::new(&call.target.get_value(), service, path, entry);
        let record = job.record();
        let known = call
            .transfers
            .with_untracked(|list| list.iter().find(|it| it.is_of(&record)).copied());
        if let Some(known) = known {
            // The same file, which is on its way already.
            known.into.set_value(into);
            if !known.goes_on() {
                known.resume();
            }
            return known;
        }
        let transfer = Self::new(
            call,
            service,
            &entry.name,
            Direction::Down,
            Job::Download(job),
        );
        transfer.size.set(entry.size as f64);
        transfer.into.set_value(into);
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
        let transfer = Self {
            number: browser::fresh_number(),
            name: Kept::new(name.to_owned()),
            direction,
            size: Live::new(0.0),
            done: Live::new(0.0),
            rate: Live::new(0.0),
            state: Live::new(State::Queued),
            saved_as: Live::new(None),
            into: Kept::new(None),
            call,
            service: Kept::new(service.to_owned()),
            job: Kept::new(job),
            abort: Kept::new(None),
            tick: Kept::new((0.0, 0.0)),
        };
        call.transfers.update(|list| list.push(transfer));
        transfer
    }

    pub(crate) fn pause(self) {
        self.stop();
        self.turn_to(State::Paused);
        give_turns(self.call);
    }

    /// Begins or goes on, once it has its turn.
    pub(crate) fn resume(self) {
        self.stop();
        self.turn_to(State::Queued);
        give_turns(self.call);
    }

    pub(super) fn turn_to(self, state: State) {
        self.state.set(state);
        self.call.tell_of_transfers();
    }

    fn start(self) {
        self.turn_to(State::Running);
        let (handle, registration) = AbortHandle::new_pair();
        self.abort.set_value(Some(handle));
        let running = async move {
            let end = self.run().await;
            self.turn_to(end);
            give_turns(self.call);
        };
        spawn_local(Abortable::new(running, registration).map(drop));
    }

    /// Stops it for good, takes it off the list, and removes what was kept for going on.
    pub(crate) fn cancel(self) {
        self.stop();
        self.call
            .transfers
            .update(|list| list.retain(|it| it.number != self.number));
        give_turns(self.call);
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
            .with_untracked(|state| matches!(state, State::Done | State::Failed(_)))
    }

    pub(crate) fn is_done(self) -> bool {
        self.state.with_untracked(|state| *state == State::Done)
    }

    /// Whether it moves, or will without being asked.
    pub(crate) fn goes_on(self) -> bool {
        self.state.with_untracked(State::goes_on)
    }

    pub(crate) fn is_of_service(self, service: &str) -> bool {
        self.service.with_value(|own| own == service)
    }

    /// Whether it is the download of this record, and not over.
    pub(crate) fn is_of(self, record: &download::Record) -> bool {
        !self.is_done()
            && self.job.with_value(|job| match job {
                Job::Download(download) => download.record().stored == record.stored,
                Job::Upload(_) => false,
            })
    }

    /// On the device others than the file's owner can not read it; whether they can here, the browser
    /// decides.
    pub(crate) fn is_private(self) -> bool {
        self.job.with_value(|job| match job {
            Job::Download(download) => download.record().private,
            Job::Upload(_) => false,
        })
    }

    fn turn(self) -> Waiting {
        let pieces = (self.size.get_untracked() / PIECE as f64).ceil() as usize;
        // One more for what is asked beside the pieces.
        let lanes = pieces.clamp(1, STREAMS) + 1;
        let turn = self.state.with_untracked(|state| match state {
            State::Queued => Turn::Wants,
            State::Running | State::Waiting | State::Checking => Turn::Has,
            State::Paused | State::Done | State::Failed(_) => Turn::Rests,
        });
        Waiting { lanes, turn }
    }

    fn stop(self) {
        if let Some(handle) = self.abort.try_update_value(Option::take).flatten() {
            handle.abort();
        }
        self.rate.set(0.0);
    }

    /// Runs until it is done or has failed for good; a lost link is waited for.
    async fn run(self) -> State {
        /// Times that a stream may break off on a link that stands.
        const BREAKS: u32 = 5;
        let mut lost = None;
        let mut breaks = 0;
        loop {
            let (number, link) = self.call.next_link(lost).await;
            self.turn_to(State::Running);
            let before = self.done.get_untracked();
            let service = self.service.get_value();
            let outcome = match self.job.get_value() {
                Job::Download(download) => download.run(self, &link, &service).await,
                Job::Upload(upload) => upload.run(self, &link, &service).await,
            };
            self.rate.set(0.0);
            let Err(failure) = outcome else {
                return State::Done;
            };
            if !matches!(
                failure.code.as_str(),
                "link_closed" | "stream_reset" | "link_lost" | "too_many_streams"
            ) {
                return State::Failed(failure);
            }
            self.turn_to(State::Waiting);
            // Progress shows that it was an accident.
            breaks = if self.done.get_untracked() > before {
                0
            } else {
                breaks + 1
            };
            if breaks > BREAKS {
                return State::Failed(failure);
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
        self.call.tell_of_transfers();
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

impl State {
    pub(crate) fn goes_on(&self) -> bool {
        match self {
            Self::Queued | Self::Running | Self::Waiting | Self::Checking => true,
            Self::Paused | Self::Done | Self::Failed(_) => false,
        }
    }
}

impl Call {
    /// Something has happened to one of the transfers.
    fn tell_of_transfers(self) {
        const PACE_MS: u32 = 150;
        let was_moving = self
            .is_moving
            .try_update_value(|it| std::mem::replace(it, true));
        if was_moving == Some(false) {
            spawn_local(async move {
                browser::sleep(PACE_MS).await;
                self.is_moving.set_value(false);
                self.moved.update(|moved| *moved = moved.wrapping_add(1));
            });
        }
    }

    /// The transfers of a service. Followed by what reads it, with all that happens to them.
    pub(crate) fn transfers_of(self, service: &str) -> Vec<Transfer> {
        self.moved.get();
        let all = self.transfers.get();
        all.into_iter()
            .filter(|it| it.is_of_service(service))
            .collect()
    }

    /// Stops what goes on; it can be gone on with.
    pub(crate) fn pause_transfers(self) {
        // From the end, so that none takes the turn of one that was stopped.
        for transfer in self.transfers.get_untracked().into_iter().rev() {
            if transfer.goes_on() {
                transfer.pause();
            }
        }
    }
}

/// Starts those whose turn has come.
fn give_turns(call: Call) {
    let list = call.transfers.get_untracked();
    let turns: Vec<_> = list.iter().map(|it| it.turn()).collect();
    for at in queue::next(&turns) {
        list[at].start();
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
