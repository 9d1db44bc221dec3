//! Files on their way. A transfer is a run that can be broken off at any moment and begun anew: it
//! asks what is there already, and carries the rest. So pausing, a lost link, a restarted agent and
//! a closed tab are all the same to it. Few run at a time over one link; the others wait for their turn.

mod chosen;
mod disk;
mod download;
mod hold;
mod name;
mod progress;
mod upload;

use futures::{
    FutureExt,
    future::{AbortHandle, Abortable},
};
use leptos::task::spawn_local;
use ringback_protocol::service::files::Entry;
use ringback_wasm::Link;

pub(crate) use chosen::{Choice, Folder};
pub(crate) use download::unfinished;
use progress::Pulse;
pub(crate) use progress::{Progress, State};

use crate::{
    browser,
    links::Links,
    live::{Kept, Live, Root},
    pieces::{self, PIECE},
    queue::{self, STREAMS, Turn, Waiting},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Down,
    Up,
}

/// A file on its way, in either direction.
#[derive(Clone, Copy)]
pub(crate) struct Transfer {
    pub(crate) number: u32,
    pub(crate) name: Kept<String>,
    pub(crate) direction: Direction,
    pub(crate) size: Live<f64>,
    pub(crate) progress: Progress,
    /// The name that a download has in the folder that was chosen for it.
    pub(crate) saved_as: Live<Option<String>>,
    /// Where it goes; `None`: where the browser saves what it downloads.
    into: Kept<Option<Folder>>,
    all: Transfers,
    service: Kept<String>,
    job: Kept<Job>,
    abort: Kept<Option<AbortHandle>>,
}

/// The transfers of one call, in the order of their turns.
#[derive(Clone, Copy)]
pub(crate) struct Transfers {
    pub(crate) list: Live<Vec<Transfer>>,
    pulse: Pulse,
    /// The device that they are of, as it was asked for.
    pub(crate) target: Kept<String>,
    links: Links,
    root: Root,
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
        all: Transfers,
        service: &str,
        path: &str,
        entry: &Entry,
        into: Option<Folder>,
    ) -> Self {
        let job = download::Download::new(&all.target.get_value(), service, path, entry);
        let record = job.record();
        let known = all
            .list
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
            all,
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
    pub(crate) fn of_unfinished(all: Transfers, service: &str, record: &download::Record) -> Self {
        let job = download::Download::of(record);
        let transfer = Self::new(
            all,
            service,
            &record.name,
            Direction::Down,
            Job::Download(job),
        );
        transfer.size.set(record.size as f64);
        transfer
            .progress
            .done
            .set(pieces::total(&record.have) as f64);
        transfer.progress.state.set(State::Paused);
        transfer
    }

    /// Sends `file` to `path`; an existing file there is replaced only if `replace`.
    pub(crate) fn upload(
        all: Transfers,
        service: &str,
        path: &str,
        file: web_sys::File,
        replace: bool,
    ) -> Self {
        let name = path.rsplit('/').next().unwrap_or(path).to_owned();
        let size = file.size();
        let job = upload::Upload::new(path, file, replace);
        let transfer = Self::new(all, service, &name, Direction::Up, Job::Upload(job));
        transfer.size.set(size);
        transfer.resume();
        transfer
    }

    fn new(all: Transfers, service: &str, name: &str, direction: Direction, job: Job) -> Self {
        let transfer = all.root.keep(|| Self {
            number: browser::fresh_number(),
            name: Kept::new(name.to_owned()),
            direction,
            size: Live::new(0.0),
            progress: Progress::new(all.pulse),
            saved_as: Live::new(None),
            into: Kept::new(None),
            all,
            service: Kept::new(service.to_owned()),
            job: Kept::new(job),
            abort: Kept::new(None),
        });
        all.list.update(|list| list.push(transfer));
        transfer
    }

    pub(crate) fn pause(self) {
        self.stop();
        self.progress.turn_to(State::Paused);
        self.all.give_turns();
    }

    /// Begins or goes on, once it has its turn.
    pub(crate) fn resume(self) {
        self.stop();
        self.progress.turn_to(State::Queued);
        self.all.give_turns();
    }

    fn start(self) {
        self.progress.turn_to(State::Running);
        let (handle, registration) = AbortHandle::new_pair();
        self.abort.set_value(Some(handle));
        let running = async move {
            let end = self.run().await;
            self.progress.turn_to(end);
            self.all.give_turns();
        };
        spawn_local(Abortable::new(running, registration).map(drop));
    }

    /// Stops it for good, takes it off the list, and removes what was kept for going on.
    pub(crate) fn cancel(self) {
        self.stop();
        self.all
            .list
            .update(|list| list.retain(|it| it.number != self.number));
        self.all.give_turns();
        let job = self.job.get_value();
        let service = self.service.get_value();
        let link = self.all.links.link.get_untracked();
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
        self.progress
            .state
            .with_untracked(|state| matches!(state, State::Done | State::Failed(_)))
    }

    pub(crate) fn is_done(self) -> bool {
        self.progress
            .state
            .with_untracked(|state| *state == State::Done)
    }

    /// Whether it moves, or will without being asked.
    pub(crate) fn goes_on(self) -> bool {
        self.progress.state.with_untracked(State::goes_on)
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
        let turn = self.progress.state.with_untracked(|state| match state {
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
        self.progress.rate.set(0.0);
    }

    /// Runs until it is done or has failed for good; a lost link is waited for.
    async fn run(self) -> State {
        /// Times that a stream may break off on a link that stands.
        const BREAKS: u32 = 5;
        let mut lost = None;
        let mut breaks = 0;
        loop {
            let (number, link) = self.all.links.next(lost).await;
            self.progress.turn_to(State::Running);
            let before = self.progress.done.get_untracked();
            let service = self.service.get_value();
            let outcome = match self.job.get_value() {
                Job::Download(download) => {
                    let run = download.run(self.progress, self.into, &link, &service);
                    run.await.map(|name| self.saved_as.set(name))
                }
                Job::Upload(upload) => upload.run(self.progress, &link, &service).await,
            };
            self.progress.rate.set(0.0);
            let Err(failure) = outcome else {
                return State::Done;
            };
            if !matches!(
                failure.code.as_str(),
                "link_closed" | "stream_reset" | "link_lost" | "too_many_streams"
            ) {
                return State::Failed(failure);
            }
            self.progress.turn_to(State::Waiting);
            // Progress shows that it was an accident.
            breaks = if self.progress.done.get_untracked() > before {
                0
            } else {
                breaks + 1
            };
            if breaks > BREAKS {
                return State::Failed(failure);
            }
            lost = broken(self.all.links, number, &link).then_some(number);
            if lost.is_none() {
                browser::sleep(300 << breaks).await;
                lost = broken(self.all.links, number, &link).then_some(number);
            }
        }
    }
}

impl Transfers {
    pub(crate) fn new(target: Kept<String>, links: Links, root: Root) -> Self {
        Self {
            list: Live::new(Vec::new()),
            pulse: Pulse::new(),
            target,
            links,
            root,
        }
    }

    /// The transfers of a service. Followed by what reads it, with all that happens to them.
    pub(crate) fn of(self, service: &str) -> Vec<Transfer> {
        self.pulse.follow();
        let all = self.list.get();
        all.into_iter()
            .filter(|it| it.is_of_service(service))
            .collect()
    }

    /// Stops what goes on; it can be gone on with.
    pub(crate) fn pause(self) {
        // From the end, so that none takes the turn of one that was stopped.
        for transfer in self.list.get_untracked().into_iter().rev() {
            if transfer.goes_on() {
                transfer.pause();
            }
        }
    }
    /// Starts those whose turn has come.
    fn give_turns(self) {
        let list = self.list.get_untracked();
        let turns: Vec<_> = list.iter().map(|it| it.turn()).collect();
        for at in queue::next(&turns) {
            list[at].start();
        }
    }
}

/// The link can carry nothing more; another one is needed.
fn broken(links: Links, number: u64, link: &Link) -> bool {
    links.number() != number || link.state() == ringback_wasm::LinkState::Ended
}
