//! A folder of the device as it is looked at: where one is, what is in it and what is asked about it.
//! It goes on while another view is seen.

use std::collections::BTreeSet;

use leptos::task::spawn_local;
use ringback_protocol::service::files::{Entry, EntryKind, FileRequest};

use crate::{
    address::Address,
    browser,
    folder::{self, Listing},
    links::Links,
    live::{Kept, Live},
    notices::Notices,
    plain::{numbered, plain},
    reading::Reading,
    route::Place,
    sentence::Failure,
    transfer::{self, Choice, Folder, Transfer, Transfers},
};

/// What is asked about the folder or one entry.
#[derive(Clone, PartialEq)]
pub(crate) enum Asked {
    Nothing,
    Preview(Entry),
    Rename(Entry),
    Remove(Entry),
    NewFolder,
    /// A file of this name is there already.
    Replace(String),
}

/// What is to be done with a file whose name is taken.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Taken {
    Leave,
    KeepBoth,
    Replace,
}

/// Files that wait for an answer to [`Asked::Replace`].
#[derive(Clone, Default)]
struct Held {
    folder: String,
    /// The first is the one that is asked about.
    files: Vec<web_sys::File>,
}

/// What the parts of this screen share.
#[derive(Clone, Copy)]
pub(crate) struct Browse {
    address: Address,
    notices: Notices,
    pub(crate) links: Links,
    pub(crate) transfers: Transfers,
    pub(crate) service: Kept<String>,
    pub(crate) path: Live<String>,
    pub(crate) listing: Live<Reading<Listing>>,
    pub(crate) asked: Live<Asked>,
    /// Names of the files that are chosen; `None`: none are being chosen.
    pub(crate) picked: Live<Option<BTreeSet<String>>>,
    /// The file in the folder that the address names, until it is shown.
    wanted: Kept<Option<String>>,
    /// What is shown is being closed.
    is_closing: Kept<bool>,
    held: Kept<Held>,
    /// The folder is being read again, or will be.
    refreshing: Kept<bool>,
}

impl Browse {
    pub(crate) fn new(
        address: Address,
        notices: Notices,
        links: Links,
        transfers: Transfers,
        service: &str,
    ) -> Self {
        let browse = Self {
            address,
            notices,
            links,
            transfers,
            service: Kept::new(service.to_owned()),
            path: Live::new(String::new()),
            listing: Live::new(Reading::Waiting),
            asked: Live::new(Asked::Nothing),
            picked: Live::new(None),
            wanted: Kept::new(None),
            is_closing: Kept::new(false),
            held: Kept::new(Held::default()),
            refreshing: Kept::new(false),
        };
        spawn_local(browse.find_unfinished());
        browse.load();
        browse
    }

    /// Lists what earlier pages have left.
    async fn find_unfinished(self) {
        let (target, service) = (self.transfers.target.get_value(), self.service.get_value());
        for record in transfer::unfinished(&target, &service).await {
            let is_known = self
                .transfers
                .list
                .with_untracked(|list| list.iter().any(|it| it.is_of(&record)));
            if !is_known {
                Transfer::of_unfinished(self.transfers, &service, &record);
            }
        }
    }

    /// What an address says behind the service's name.
    pub(crate) fn below(self) -> String {
        let path = self.path.get_untracked();
        match self.asked.get_untracked() {
            Asked::Preview(entry) => folder::join(&path, &entry.name),
            _ => behind(&path),
        }
    }

    /// Shows what the address names.
    pub(crate) fn arrive(self, below: &str) {
        let (path, file) = below.rsplit_once('/').unwrap_or(("", below));
        self.is_closing.set_value(false);
        if self.path.get_untracked() != path {
            if !matches!(self.asked.get_untracked(), Asked::Replace(_)) {
                self.asked.set(Asked::Nothing);
            }
            self.picked.set(None);
            self.path.set(path.to_owned());
            self.listing.set(Reading::Waiting);
            self.load();
        }
        self.wanted
            .set_value((!file.is_empty()).then(|| file.to_owned()));
        if file.is_empty() {
            if matches!(self.asked.get_untracked(), Asked::Preview(_)) {
                self.asked.set(Asked::Nothing);
            }
        } else {
            self.show_wanted();
        }
    }

    /// Shows the file that the address names, once the folder is read.
    fn show_wanted(self) {
        let Some(name) = self.wanted.get_value() else {
            return;
        };
        let shown = |asked: &Asked| matches!(asked, Asked::Preview(entry) if entry.name == name);
        let found = self.listing.with_untracked(|listing| match listing {
            Reading::Here(listing) => {
                Some(listing.entries.iter().find(|it| it.name == name).cloned())
            }
            _ => None,
        });
        match found {
            _ if self.asked.with_untracked(shown) => {}
            None => {}
            Some(Some(entry)) if entry.kind == EntryKind::File => {
                self.asked.set(Asked::Preview(entry));
            }
            Some(Some(entry)) => {
                let path = folder::join(&self.path.get_untracked(), &entry.name);
                self.address.go_instead(self.place(&behind(&path)));
            }
            Some(None) => {
                self.notices
                    .say(format!("{} is not in this folder.", plain(&name, 80)));
                let path = self.path.get_untracked();
                self.address.go_instead(self.place(&behind(&path)));
            }
        }
    }

    fn place(self, below: &str) -> Place {
        Place::of(&self.service.get_value(), below)
    }

    pub(crate) fn look_at(self, entry: &Entry) {
        let path = folder::join(&self.path.get_untracked(), &entry.name);
        self.address.go_over(self.place(&path));
    }

    pub(crate) fn close_preview(self) {
        if self
            .is_closing
            .try_update_value(|it| std::mem::replace(it, true))
            == Some(false)
        {
            let path = self.path.get_untracked();
            self.address.back_from(self.place(&behind(&path)));
        }
    }

    pub(crate) fn enter(self, path: &str) {
        self.address.go_to(self.place(&behind(path)));
    }

    pub(crate) fn load(self) {
        let (path, service) = (self.path.get_untracked(), self.service.get_value());
        spawn_local(async move {
            let (_, link) = self.links.next(None).await;
            let read = folder::list(&link, &service, &path).await;
            // Another folder may have been opened meanwhile.
            if self.path.get_untracked() != path {
                return;
            }
            self.listing.set(match read {
                Ok(mut listing) => {
                    listing.entries.sort_by_cached_key(place);
                    Reading::Here(listing)
                }
                Err(failure) => Reading::Failed(failure),
            });
            self.show_wanted();
        });
    }

    /// Reads the folder again soon, however often something arrives in it.
    pub(crate) fn refresh(self) {
        const SOON_MS: u32 = 5_000;
        if self
            .refreshing
            .try_update_value(|it| std::mem::replace(it, true))
            == Some(true)
        {
            return;
        }
        spawn_local(async move {
            let is_last = || {
                self.transfers
                    .list
                    .with_untracked(|list| list.iter().all(|it| !it.goes_on()))
            };
            if !is_last() {
                browser::sleep(SOON_MS).await;
            }
            self.refreshing.set_value(false);
            self.load();
        });
    }

    pub(crate) fn writable(self) -> bool {
        self.listing.with_untracked(is_writable)
    }

    pub(crate) fn has(self, name: &str) -> bool {
        self.listing.with_untracked(|listing| {
            matches!(listing, Reading::Here(it) if it.entries.iter().any(|entry| entry.name == name))
        })
    }

    pub(crate) fn download(self, entry: &Entry) {
        let path = folder::join(&self.path.get_untracked(), &entry.name);
        let service = self.service.get_value();
        Transfer::download(self.transfers, &service, &path, entry, None);
    }

    pub(crate) fn pick(self, name: &str) {
        self.picked.update(|picked| {
            if let Some(picked) = picked
                && !picked.remove(name)
            {
                picked.insert(name.to_owned());
            }
        });
    }

    /// All files of the folder; none, if all are chosen.
    pub(crate) fn pick_all(self) {
        let all: BTreeSet<String> = self.files().into_iter().map(|it| it.name).collect();
        self.picked.update(|picked| {
            *picked = Some(if picked.as_ref() == Some(&all) {
                BTreeSet::new()
            } else {
                all
            });
        });
    }

    /// The files of the folder that are chosen.
    pub(crate) fn picked_files(self) -> Vec<Entry> {
        let picked = self.picked.get().unwrap_or_default();
        let is_picked = |it: &Entry| picked.contains(&it.name);
        self.files().into_iter().filter(is_picked).collect()
    }

    fn files(self) -> Vec<Entry> {
        self.listing.with(|listing| match listing {
            Reading::Here(listing) => {
                let files = listing.entries.iter();
                files
                    .filter(|it| it.kind == EntryKind::File)
                    .cloned()
                    .collect()
            }
            _ => Vec::new(),
        })
    }

    /// Downloads what is chosen: several files into a folder that the person is asked for, where the
    /// browser has that.
    pub(crate) fn download_picked(self) {
        let (files, folder) = (self.picked_files(), self.path.get_untracked());
        let service = self.service.get_value();
        spawn_local(async move {
            let into = match files.len() {
                0 => return,
                1 => None,
                _ => match Folder::choose().await {
                    Choice::Folder(into) => Some(into),
                    Choice::Browser => None,
                    Choice::Nothing => return,
                },
            };
            self.picked.set(None);
            for file in files {
                let path = folder::join(&folder, &file.name);
                Transfer::download(self.transfers, &service, &path, &file, into.clone());
            }
        });
    }

    /// Sends files into the folder; the first whose name is taken is asked about.
    pub(crate) fn send(self, files: Vec<web_sys::File>) {
        let folder = self.path.get_untracked();
        self.go_on_sending(Held { folder, files }, None);
    }

    /// How many more files than the one that is asked about have a name that is taken.
    pub(crate) fn also_taken(self) -> usize {
        self.held.with_value(|held| {
            let others = held.files.iter().skip(1);
            others.filter(|file| self.has(&file.name())).count()
        })
    }

    /// The answer to [`Asked::Replace`], for the one file or for all that wait.
    pub(crate) fn answer(self, taken: Taken, for_all: bool) {
        self.asked.set(Asked::Nothing);
        let mut held = self
            .held
            .try_update_value(std::mem::take)
            .unwrap_or_default();
        if held.files.is_empty() {
            return;
        }
        let first = held.files.remove(0);
        self.settle(&held.folder, first, taken);
        self.go_on_sending(held, for_all.then_some(taken));
    }

    fn go_on_sending(self, held: Held, answer: Option<Taken>) {
        let Held { folder, files } = held;
        let mut files = files.into_iter();
        while let Some(file) = files.next() {
            let name = file.name();
            match answer {
                _ if !self.has(&name) => self.upload(&folder, &name, file, false),
                Some(taken) => self.settle(&folder, file, taken),
                None => {
                    let files = std::iter::once(file).chain(files).collect();
                    self.held.set_value(Held { folder, files });
                    self.asked.set(Asked::Replace(name));
                    return;
                }
            }
        }
    }

    fn settle(self, folder: &str, file: web_sys::File, taken: Taken) {
        let name = file.name();
        match taken {
            Taken::Leave => {}
            Taken::KeepBoth => {
                let free = free_name(&name, |name| self.has(name));
                self.upload(folder, &free, file, false);
            }
            Taken::Replace => self.upload(folder, &name, file, true),
        }
    }

    fn upload(self, folder: &str, name: &str, file: web_sys::File, replace: bool) {
        let path = folder::join(folder, name);
        let service = self.service.get_value();
        Transfer::upload(self.transfers, &service, &path, file, replace);
    }

    /// Does one operation, shows the folder anew, and closes what asked for it.
    pub(crate) fn operate(self, request: FileRequest, failure: Live<Option<Failure>>) {
        let service = self.service.get_value();
        spawn_local(async move {
            let Some(link) = self.links.link.get_untracked() else {
                return;
            };
            match folder::operate(&link, &service, &request).await {
                Ok(_) => {
                    self.asked.set(Asked::Nothing);
                    self.load();
                }
                Err(reason) => {
                    let _ = failure.try_set(Some(reason));
                }
            }
        });
    }
}

pub(crate) fn is_writable(listing: &Reading<Listing>) -> bool {
    matches!(listing, Reading::Here(it) if it.writable)
}

/// Folders first, then by name as people order names.
fn place(entry: &Entry) -> (bool, String) {
    (
        entry.kind != EntryKind::Folder,
        browser::lowercase(&entry.name),
    )
}

/// A folder as it stands in an address.
fn behind(path: &str) -> String {
    if path.is_empty() {
        String::new()
    } else {
        format!("{path}/")
    }
}

/// `name (2).ext`, with the first number that is free.
fn free_name(name: &str, taken: impl Fn(&str) -> bool) -> String {
    (2..)
        .map(|number| numbered(name, number))
        .find(|name| !taken(name))
        .unwrap_or_default()
}
