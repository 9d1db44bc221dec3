//! A download: pieces over several streams into the browser's own disk space, the hash compared
//! with the device's, then handed to the user. What has arrived is noted, so that another page can
//! go on.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use futures::{
    channel::oneshot,
    future::{select, try_join_all},
};
use ringback_protocol::service::files::{Entry, FileRequest, Op};
use ringback_wasm::{
    Link,
    object::{self, flag, items, list, number, text},
};
use serde::Serialize;
use sha2::{Digest, Sha256};
use wasm_bindgen::{JsCast, JsValue};
use web_sys::{Blob, HtmlAnchorElement, Url};

use super::{
    chosen::Folder,
    disk::{self, Store},
    hold::Hold,
    name::{hex, name_of},
    progress::{Progress, State},
};
use crate::{
    browser::{self, Keep},
    folder, json,
    live::Kept,
    pieces::{self, PIECE, Pieces, Range},
    plain,
    queue::STREAMS,
    sentence::Failure,
};

/// Where records are kept; behind it comes the name of the stored file.
const RECORD: &str = "ringback.download.";
/// The bit of a file's mode that lets everybody read it.
const OTHERS_READ: u16 = 0o004;
/// Bytes after which what has arrived is noted.
const NOTE_EVERY: u64 = 1 << 20;

/// What another page needs to go on.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Record {
    pub(crate) stored: String,
    pub(crate) target: String,
    pub(crate) service: String,
    pub(crate) path: String,
    pub(crate) name: String,
    pub(crate) size: u64,
    pub(crate) version: String,
    pub(crate) have: Vec<Range>,
    /// Others than its owner can not read it on the device.
    pub(crate) private: bool,
    /// It was handed to the user, and can be removed with the next page.
    pub(crate) done: bool,
}

impl Record {
    fn read(of: &JsValue) -> Option<Self> {
        let number_of = |end: &JsValue| end.as_f64().map(|end| end as u64);
        let range = |ends: &JsValue| {
            let ends: [u64; 2] = items(ends, number_of)?.try_into().ok()?;
            Some(ends.into())
        };
        Some(Self {
            stored: text(of, "stored")?,
            target: text(of, "target")?,
            service: text(of, "service")?,
            path: text(of, "path")?,
            name: text(of, "name")?,
            size: number(of, "size")? as u64,
            version: text(of, "version")?,
            have: list(of, "have", range)?,
            // Not in the records of earlier pages.
            private: flag(of, "private").unwrap_or(false),
            done: flag(of, "done")?,
        })
    }
}

#[derive(Clone)]
pub(super) struct Download {
    record: Rc<RefCell<Record>>,
    /// Bytes that the note of it counts.
    noted: Rc<Cell<u64>>,
}

/// Downloads from this service that earlier pages have left; what is done with is removed. Those that
/// another page has are its own business.
pub(crate) async fn unfinished(target: &str, service: &str) -> Vec<Record> {
    let held = Hold::all().await;
    let Some(storage) = browser::window().local_storage().ok().flatten() else {
        return Vec::new();
    };
    let keys: Vec<String> = (0..storage.length().unwrap_or(0))
        .filter_map(|at| storage.key(at).ok()?)
        .filter(|key| key.starts_with(RECORD) && !held.contains(key))
        .collect();
    let mut found = Vec::new();
    for key in keys {
        let record = Keep::Browser
            .read(&key)
            .and_then(|text| Record::read(&object::parse(&text)?));
        match record {
            Some(record) if record.done => {
                Keep::Browser.remove(&key);
                leptos::task::spawn_local(async move { disk::remove(&record.stored).await });
            }
            Some(record) if record.target == target && record.service == service => {
                found.push(record);
            }
            Some(_) => {}
            None => Keep::Browser.remove(&key),
        }
    }
    found
}

impl Download {
    pub(super) fn new(target: &str, service: &str, path: &str, entry: &Entry) -> Self {
        let read = |stored: &str| {
            Keep::Browser
                .read(&format!("{RECORD}{stored}"))
                .and_then(|text| Record::read(&object::parse(&text)?))
        };
        let mut stored = hex(&name_of(&[target, service, path, &entry.version]));
        let mut known = read(&stored);
        // One that was handed to the user may still be copied by the browser: it stays as it is.
        while known.as_ref().is_some_and(|record| record.done) {
            stored = hex(&name_of(&[&stored]));
            known = read(&stored);
        }
        let record = known.unwrap_or_else(|| Record {
            stored,
            target: target.to_owned(),
            service: service.to_owned(),
            path: path.to_owned(),
            name: entry.name.clone(),
            size: entry.size,
            version: entry.version.clone(),
            have: Vec::new(),
            private: entry.mode.is_some_and(|mode| mode & OTHERS_READ == 0),
            done: false,
        });
        Self::of(&record)
    }

    pub(super) fn of(record: &Record) -> Self {
        Self {
            record: Rc::new(RefCell::new(record.clone())),
            noted: Rc::default(),
        }
    }

    pub(super) fn record(&self) -> Record {
        self.record.borrow().clone()
    }

    /// Carries what is missing, and hands the file over: `into` a folder, under the name that is given
    /// back, or to the browser's own downloads.
    pub(super) async fn run(
        &self,
        progress: Progress,
        into: Kept<Option<Folder>>,
        link: &Link,
        service: &str,
    ) -> Result<Option<String>, Failure> {
        let (stored, path, version, size) = {
            let record = self.record.borrow();
            (
                record.stored.clone(),
                record.path.clone(),
                record.version.clone(),
                record.size,
            )
        };
        let hold = Hold::take(&format!("{RECORD}{stored}"))
            .await
            .ok_or_else(|| Failure::new("another_tab", ""))?;
        let (store, there) = Store::open(&stored, size).await?;
        if !there {
            self.record.borrow_mut().have.clear();
        }
        let outcome = self
            .carry(progress, link, service, &store, &path, &version, size)
            .await;
        let sha256 = match outcome {
            Ok(sha256) => sha256,
            Err(failure) => {
                store.close().await;
                self.note();
                if matches!(failure.code.as_str(), "changed" | "hash_differs") {
                    self.discard().await;
                }
                return Err(failure);
            }
        };
        let whole = store.whole().await?;
        let name = self.record.borrow().name.clone();
        if let Some(folder) = into.get_value() {
            let name = folder.save(&whole, sha256, &name).await?;
            self.discard().await;
            return Ok(Some(name));
        }
        hand_over(&whole, &plain::file_name(&name), hold).await?;
        // The browser copies it out in its own time: it is removed with the next page.
        self.record.borrow_mut().done = true;
        self.note();
        Ok(None)
    }

    #[expect(clippy::too_many_arguments, reason = "parts of one borrowed record")]
    async fn carry(
        &self,
        progress: Progress,
        link: &Link,
        service: &str,
        store: &Store,
        path: &str,
        version: &str,
        size: u64,
    ) -> Result<[u8; 32], Failure> {
        let todo = RefCell::new(Pieces::new(size, &self.record.borrow().have, PIECE));
        progress.note(pieces::total(&self.record.borrow().have));
        let wanted = async {
            let request = FileRequest {
                version: Some(version.to_owned()),
                ..FileRequest::new(Op::Hash, path)
            };
            let answered = folder::operate(link, service, &request).await?;
            answered
                .answer
                .sha256
                .ok_or_else(|| Failure::new("device_misbehaved", "no hash"))
        };
        let (carried, all_carried) = oneshot::channel::<()>();
        let carrying = async {
            let streams = (0..STREAMS).map(|_| async {
                while let Some(piece) = { todo.borrow_mut().take() } {
                    self.piece(progress, link, service, store, path, version, piece)
                        .await?;
                }
                Ok::<_, Failure>(())
            });
            try_join_all(streams).await?;
            progress.turn_to(State::Checking);
            let _ = carried.send(());
            Ok::<_, Failure>(())
        };
        let hashing = self.hash(store, size, all_carried);
        let (_, here, wanted) = futures::try_join!(carrying, hashing, wanted)?;
        if here != wanted {
            return Err(Failure::new("hash_differs", ""));
        }
        Ok(here)
    }

    #[expect(clippy::too_many_arguments, reason = "parts of one borrowed record")]
    async fn piece(
        &self,
        progress: Progress,
        link: &Link,
        service: &str,
        store: &Store,
        path: &str,
        version: &str,
        (start, end): Range,
    ) -> Result<(), Failure> {
        let request = FileRequest {
            offset: start,
            length: Some(end - start),
            version: Some(version.to_owned()),
            ..FileRequest::new(Op::Read, path)
        };
        let mut answered = folder::operate(link, service, &request).await?;
        let mut at = start;
        while let Some(bytes) = answered.read().await? {
            let until = at + bytes.len() as u64;
            if until > end {
                return Err(Failure::new("device_misbehaved", "more than was asked for"));
            }
            store.write(at, &bytes).await?;
            let total = {
                let mut record = self.record.borrow_mut();
                pieces::add(&mut record.have, (at, until));
                pieces::total(&record.have)
            };
            at = until;
            progress.note(total);
            if total.abs_diff(self.noted.get()) >= NOTE_EVERY {
                self.noted.set(total);
                self.note();
            }
        }
        if at < end {
            return Err(Failure::new("stream_reset", "the file ended early"));
        }
        self.note();
        Ok(())
    }

    /// Hashes what is there without a gap, behind the streams, until all is.
    async fn hash(
        &self,
        store: &Store,
        size: u64,
        all_carried: oneshot::Receiver<()>,
    ) -> Result<[u8; 32], Failure> {
        const AT_ONCE: u64 = 1 << 20;
        const LOOK_EVERY_MS: u32 = 50;
        let mut hash = Sha256::new();
        let mut at = 0;
        let mut all_carried = Some(all_carried);
        while at < size {
            let here = pieces::prefix(&self.record.borrow().have);
            if here >= size || here - at >= AT_ONCE {
                let bytes = store.read(at, AT_ONCE.min(here - at)).await?;
                if bytes.is_empty() {
                    return Err(Failure::new("unreadable", "the stored file is shorter"));
                }
                at += bytes.len() as u64;
                hash.update(&bytes);
            } else if let Some(waited) = all_carried.take() {
                // Woken by the end, or looks again soon.
                match select(waited, Box::pin(browser::sleep(LOOK_EVERY_MS))).await {
                    futures::future::Either::Left(_) => {}
                    futures::future::Either::Right((_, waited)) => all_carried = Some(waited),
                }
            } else {
                return Err(Failure::new("stream_reset", "a part is missing"));
            }
        }
        store.flush().await;
        Ok(hash.finalize().into())
    }

    pub(super) async fn discard(&self) {
        let stored = {
            let mut record = self.record.borrow_mut();
            record.have.clear();
            record.stored.clone()
        };
        Keep::Browser.remove(&format!("{RECORD}{stored}"));
        disk::remove(&stored).await;
    }

    fn note(&self) {
        let record = self.record.borrow();
        let key = format!("{RECORD}{}", record.stored);
        Keep::Browser.write(&key, &json::text(&*record));
    }
}

thread_local! {
    /// When the next file may be handed over.
    static NEXT_MS: Cell<f64> = const { Cell::new(0.0) };
}

/// Chromium throws away what a page hands over beyond ten files in a second, without a word.
async fn own_moment() {
    const APART_MS: f64 = 125.0;
    let now = browser::clock_ms();
    let at = NEXT_MS.with(|next| {
        let at = next.get().max(now);
        next.set(at + APART_MS);
        at
    });
    if at > now {
        browser::sleep((at - now).ceil() as u32).await;
    }
}

/// Gives a finished file to the user, as the browser does with any download. Nothing of it is
/// rendered here.
async fn hand_over(file: &Blob, name: &str, hold: Hold) -> Result<(), Failure> {
    own_moment().await;
    let failed = |_| Failure::new("unreadable", "");
    // A type that no browser shows.
    let typed = file
        .slice_with_f64_and_f64_and_content_type(0.0, file.size(), "application/octet-stream")
        .map_err(failed)?;
    let url = Url::create_object_url_with_blob(&typed).map_err(failed)?;
    let anchor: HtmlAnchorElement = browser::document()
        .create_element("a")
        .map_err(failed)?
        .unchecked_into();
    anchor.set_href(&url);
    anchor.set_download(name);
    anchor.click();
    // The browser has taken the address up when the click returns; it is let go well after.
    leptos::task::spawn_local(async move {
        browser::sleep(60_000).await;
        let _ = Url::revoke_object_url(&url);
        drop(hold);
    });
    Ok(())
}
