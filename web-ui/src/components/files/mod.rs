//! Files of the device: folders, what can be done with an entry, and transfers below.

mod preview;
mod transfers;

use js_sys::wasm_bindgen::JsCast;
use leptos::{prelude::*, task::spawn_local};
use ringback_protocol::service::files::{Entry, EntryKind, FileRequest, Op};
use ringback_wasm::Service;
use web_sys::HtmlInputElement;

use super::{
    dialog::Dialog,
    failure::failure_note,
    icon::{Icon, icon},
    shown::shown,
};
use crate::{
    browser, figures,
    folder::{self, Listing},
    live::{Kept, Live},
    plain::plain,
    sentence::Failure,
    state::{App, Call, Reading},
    transfer::{self, Transfer},
};
use preview::Preview;
use transfers::Transfers;

/// What is asked about the folder or one entry.
#[derive(Clone, PartialEq)]
enum Asked {
    Nothing,
    Preview(Entry),
    Rename(Entry),
    Remove(Entry),
    NewFolder,
    /// A file of this name is there already.
    Replace(String),
}

/// What the parts of this screen share.
#[derive(Clone, Copy)]
struct Browse {
    call: Call,
    service: Kept<String>,
    path: Live<String>,
    listing: Live<Reading<Listing>>,
    asked: Live<Asked>,
    transfers: Live<Vec<Transfer>>,
    /// The files that wait for an answer to [`Asked::Replace`].
    held: Kept<Vec<web_sys::File>>,
}

#[component]
pub(crate) fn Files(call: Call, service: Service) -> impl IntoView {
    let app = App::current();
    let browse = Browse {
        call,
        service: Kept::new(service.name.clone()),
        path: Live::new(String::new()),
        listing: Live::new(Reading::Waiting),
        asked: Live::new(Asked::Nothing),
        // They go on while other services are in front.
        transfers: app.keep(|| Live::new(Vec::new())),
        held: Kept::new(Vec::new()),
    };
    let target = call.target.get_value();
    browse.transfers.set(
        transfer::unfinished(&target, &service.name)
            .iter()
            .map(|record| app.keep(|| Transfer::of_unfinished(call, &service.name, record)))
            .collect(),
    );
    browse.load();
    let over = Live::new(false);
    let drop_files = move |event: web_sys::DragEvent| {
        event.prevent_default();
        over.set(false);
        if !browse.writable() {
            return;
        }
        if let Some(list) = event.data_transfer().and_then(|data| data.files()) {
            browse.send(app, files_of(&list));
        }
    };
    view! {
        <div
            class="files"
            class:over=move || over.get()
            on:dragover=move |event| {
                event.prevent_default();
                over.set(browse.writable());
            }
            on:dragleave=move |_| over.set(false)
            on:drop=drop_files
        >
            <Toolbar browse name=service.name />
            <Entries browse />
            <Transfers transfers=browse.transfers on_done=move || browse.load() />
        </div>
        {move || match browse.asked.get() {
            Asked::Nothing => ().into_any(),
            Asked::Preview(entry) => view! { <Preview browse entry /> }.into_any(),
            Asked::Rename(entry) => view! { <NameDialog browse entry=Some(entry) /> }.into_any(),
            Asked::NewFolder => view! { <NameDialog browse entry=None /> }.into_any(),
            Asked::Remove(entry) => view! { <RemoveDialog browse entry /> }.into_any(),
            Asked::Replace(name) => view! { <ReplaceDialog browse name /> }.into_any(),
        }}
    }
}

impl Browse {
    fn load(self) {
        let (path, service) = (self.path.get_untracked(), self.service.get_value());
        spawn_local(async move {
            let Some((_, link)) = self.call.link_other_than(None).await else {
                return;
            };
            let read = folder::list(&link, &service, &path).await;
            // Another folder may have been opened meanwhile.
            if self.path.try_get_untracked().as_ref() != Some(&path) {
                return;
            }
            self.listing.set(match read {
                Ok(mut listing) => {
                    listing.entries.sort_by_cached_key(place);
                    Reading::Here(listing)
                }
                Err(failure) => Reading::Failed(failure),
            });
        });
    }

    fn enter(self, path: String) {
        self.path.set(path);
        self.listing.set(Reading::Waiting);
        self.load();
    }

    fn writable(self) -> bool {
        self.listing.with_untracked(is_writable)
    }

    fn has(self, name: &str) -> bool {
        self.listing.with_untracked(|listing| {
            matches!(listing, Reading::Here(it) if it.entries.iter().any(|entry| entry.name == name))
        })
    }

    fn download(self, app: App, entry: &Entry) {
        let path = folder::join(&self.path.get_untracked(), &entry.name);
        let service = self.service.get_value();
        let transfer = app.keep(|| Transfer::download(self.call, &service, &path, entry));
        self.transfers.update(|list| list.insert(0, transfer));
    }

    /// Sends files into the folder; the first whose name is taken is asked about.
    fn send(self, app: App, mut files: Vec<web_sys::File>) {
        while let Some(file) = files.pop() {
            if self.has(&file.name()) {
                let name = file.name();
                files.push(file);
                self.held.set_value(files);
                self.asked.set(Asked::Replace(name));
                return;
            }
            self.upload(app, &file.name(), file.clone(), false);
        }
    }

    fn upload(self, app: App, name: &str, file: web_sys::File, replace: bool) {
        let path = folder::join(&self.path.get_untracked(), name);
        let service = self.service.get_value();
        let transfer = app.keep(|| Transfer::upload(self.call, &service, &path, file, replace));
        self.transfers.update(|list| list.insert(0, transfer));
    }

    /// Does one operation, shows the folder anew, and closes what asked for it.
    fn operate(self, request: FileRequest, failure: Live<Option<Failure>>) {
        let service = self.service.get_value();
        spawn_local(async move {
            let Some(link) = self.call.link.get_untracked() else {
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

fn is_writable(listing: &Reading<Listing>) -> bool {
    matches!(listing, Reading::Here(it) if it.writable)
}

/// Folders first, then by name as people order names.
fn place(entry: &Entry) -> (bool, String) {
    (
        entry.kind != EntryKind::Folder,
        browser::lowercase(&entry.name),
    )
}

fn files_of(list: &web_sys::FileList) -> Vec<web_sys::File> {
    (0..list.length())
        .rev()
        .filter_map(|at| list.get(at))
        .collect()
}

#[component]
fn Toolbar(browse: Browse, name: String) -> impl IntoView {
    let app = App::current();
    let root = plain(&name, 40);
    let crumbs = move || {
        let path = browse.path.get();
        let mut so_far = String::new();
        let parts: Vec<(String, String)> = path
            .split('/')
            .filter(|part| !part.is_empty())
            .map(|part| {
                so_far = folder::join(&so_far, part);
                (plain(part, 60), so_far.clone())
            })
            .collect();
        let last = parts.len();
        parts
            .into_iter()
            .enumerate()
            .map(|(at, (name, to))| {
                let current = (at + 1 == last).then_some("location");
                view! {
                    <li>
                        <span class="faint" aria-hidden="true">"/"</span>
                        <button type="button" class="crumb" aria-current=current on:click=move |_| browse.enter(to.clone())>{name}</button>
                    </li>
                }
                .into_any()
            })
            .collect_view()
    };
    let choose = move |_| {
        if let Some(input) = browser::element::<HtmlInputElement>(PICKER) {
            input.click();
        }
    };
    let chosen = move |event: web_sys::Event| {
        let Some(input) = event
            .target()
            .and_then(|target| target.dyn_into::<HtmlInputElement>().ok())
        else {
            return;
        };
        if let Some(list) = input.files() {
            browse.send(app, files_of(&list));
        }
        // The same file may be chosen again.
        input.set_value("");
    };
    view! {
        <div class="files-bar">
            <nav aria-label="Folder">
                <ol class="crumbs">
                    <li><button type="button" class="crumb" on:click=move |_| browse.enter(String::new())>{icon(Icon::Files)} <span>{root}</span></button></li>
                    {move || crumbs()}
                </ol>
            </nav>
            <div class="files-tools">
                <button type="button" class="quiet square" aria-label="Reload the folder" on:click=move |_| browse.load()>{icon(Icon::Reload)}</button>
                {shown(move || browse.listing.with(is_writable), move || view! {
                    <button type="button" class="button small" on:click=move |_| browse.asked.set(Asked::NewFolder)>
                        {icon(Icon::Plus)} <span>"Folder"</span>
                    </button>
                    <button type="button" class="button small primary" on:click=choose>
                        {icon(Icon::Upload)} <span>"Upload"</span>
                    </button>
                    <input id=PICKER class="away" type="file" multiple=true tabindex="-1" aria-label="Files to upload" on:change=chosen />
                }.into_any())}
            </div>
        </div>
    }
}

const PICKER: &str = "upload-files";

#[component]
fn Entries(browse: Browse) -> impl IntoView {
    let entries = move || {
        match browse.listing.get() {
        Reading::Waiting => view! {
            <p class="waiting"><span class="spinner" aria-hidden="true"></span>"Reading the folder…"</p>
        }
        .into_any(),
        Reading::Failed(failure) => view! {
            {failure_note(&failure)}
            <button type="button" class="button small" on:click=move |_| browse.load()>{icon(Icon::Reload)} <span>"Try again"</span></button>
        }
        .into_any(),
        Reading::Here(listing) if listing.entries.is_empty() => view! {
            <div class="empty small-empty">
                <span class="empty-sign">{icon(Icon::Folder)}</span>
                <p>{if listing.writable { "This folder is empty. Drop files here to upload them." } else { "This folder is empty." }}</p>
            </div>
        }
        .into_any(),
        Reading::Here(listing) => {
            let writable = listing.writable;
            let rows = listing
                .entries
                .into_iter()
                .map(|entry| row(browse, entry, writable))
                .collect_view();
            view! {
                <table class="entries">
                    <thead>
                        <tr>
                            <th scope="col">"Name"</th>
                            <th scope="col" class="number">"Size"</th>
                            <th scope="col" class="when">"Changed"</th>
                            <th scope="col"><span class="visually-hidden">"Actions"</span></th>
                        </tr>
                    </thead>
                    <tbody>{rows}</tbody>
                </table>
                {listing.cut.then(|| view! { <p class="hint">"There are more entries than can be shown here."</p> }.into_any())}
            }
            .into_any()
        }
    }
    };
    view! { {move || entries()} }
}

fn row(browse: Browse, entry: Entry, writable: bool) -> AnyView {
    let app = App::current();
    let name = plain(&entry.name, 255);
    let is_file = entry.kind == EntryKind::File;
    let usable = entry.kind != EntryKind::Other;
    let sign = match entry.kind {
        EntryKind::Folder => Icon::Folder,
        EntryKind::Link => Icon::Link,
        _ if preview::is_picture(&entry.name) => Icon::Picture,
        _ => Icon::File,
    };
    let size = is_file.then(|| figures::bytes(entry.size as f64));
    let when = figures::ago(browser::unix_s(), entry.modified_ms as f64 / 1000.0);
    let (opened, saved, renamed, removed) = (entry.clone(), entry.clone(), entry.clone(), entry);
    let open = move |_| match opened.kind {
        EntryKind::File => browse.asked.set(Asked::Preview(opened.clone())),
        _ => browse.enter(folder::join(&browse.path.get_untracked(), &opened.name)),
    };
    let download_label = format!("Download {name}");
    let rename_label = format!("Rename {name}");
    let remove_label = format!("Delete {name}");
    let phone = match &size {
        Some(size) => format!("{size} · {when}"),
        None => when.clone(),
    };
    view! {
        <tr>
            <td class="entry-name">
                <button type="button" class="entry" disabled=!usable on:click=open>
                    {icon(sign)}
                    <span class="entry-words">
                        <bdi>{name}</bdi>
                        <span class="entry-phone small faint">{phone}</span>
                    </span>
                </button>
            </td>
            <td class="number figures">{size}</td>
            <td class="when">{when}</td>
            <td class="entry-tools">
                {is_file.then(|| view! {
                    <button type="button" class="quiet square" aria-label=download_label on:click=move |_| browse.download(app, &saved)>{icon(Icon::Download)}</button>
                }.into_any())}
                {(writable && usable).then(|| view! {
                    <button type="button" class="quiet square" aria-label=rename_label on:click=move |_| browse.asked.set(Asked::Rename(renamed.clone()))>{icon(Icon::Pencil)}</button>
                    <button type="button" class="quiet square" aria-label=remove_label on:click=move |_| browse.asked.set(Asked::Remove(removed.clone()))>{icon(Icon::Trash)}</button>
                }.into_any())}
            </td>
        </tr>
    }
    .into_any()
}

/// A new name for an entry, or the name of a new folder.
#[component]
fn NameDialog(browse: Browse, entry: Option<Entry>) -> impl IntoView {
    let failure = Live::new(None::<Failure>);
    let title = if entry.is_some() {
        "Rename"
    } else {
        "New folder"
    };
    let name = Live::new(
        entry
            .as_ref()
            .map(|entry| entry.name.clone())
            .unwrap_or_default(),
    );
    browser::focus("entry-name");
    let submit = move |event: web_sys::SubmitEvent| {
        event.prevent_default();
        let wanted = name.get_untracked();
        if wanted.is_empty() || wanted.contains('/') || wanted == "." || wanted == ".." {
            return failure.set(Some(Failure::new("bad_path", "")));
        }
        let folder_path = browse.path.get_untracked();
        let path = folder::join(&folder_path, &wanted);
        browse.operate(
            match &entry {
                Some(entry) => FileRequest {
                    to: Some(path),
                    ..FileRequest::new(Op::Rename, folder::join(&folder_path, &entry.name))
                },
                None => FileRequest::new(Op::Mkdir, path),
            },
            failure,
        );
    };
    view! {
        <Dialog title on_close=move || browse.asked.set(Asked::Nothing)>
            <form class="form" on:submit=submit>
                <div class="field">
                    <label for="entry-name">"Name"</label>
                    <input id="entry-name" type="text" required=true autocomplete="off" spellcheck="false"
                        prop:value=move || name.get() on:input=move |event| name.set(browser::input_value(&event)) />
                </div>
                {move || failure.get().as_ref().map(failure_note)}
                <div class="actions">
                    <button type="button" class="button" on:click=move |_| browse.asked.set(Asked::Nothing)>"Cancel"</button>
                    <button type="submit" class="button primary">{title}</button>
                </div>
            </form>
        </Dialog>
    }
}

#[component]
fn RemoveDialog(browse: Browse, entry: Entry) -> impl IntoView {
    let failure = Live::new(None::<Failure>);
    let name = plain(&entry.name, 120);
    let path = folder::join(&browse.path.get_untracked(), &entry.name);
    let words = match entry.kind {
        EntryKind::Folder => "The folder is deleted from the device, if it is empty.",
        EntryKind::Link => "The link is deleted from the device; what it leads to stays.",
        _ => "The file is deleted from the device at once. There is no bin to take it out of.",
    };
    view! {
        <Dialog title=format!("Delete {name}?") on_close=move || browse.asked.set(Asked::Nothing)>
            <div class="form">
                <p>{words}</p>
                {move || failure.get().as_ref().map(failure_note)}
                <div class="actions">
                    <button type="button" class="button" on:click=move |_| browse.asked.set(Asked::Nothing)>"Keep it"</button>
                    <button type="button" class="button danger" on:click=move |_| {
                        browse.operate(FileRequest::new(Op::Remove, path.clone()), failure);
                    }>"Delete"</button>
                </div>
            </div>
        </Dialog>
    }
}

#[component]
fn ReplaceDialog(browse: Browse, name: String) -> impl IntoView {
    let app = App::current();
    let shown = plain(&name, 120);
    let answer = move |how: &'static str| {
        let name = name.clone();
        move |_: web_sys::MouseEvent| {
            browse.asked.set(Asked::Nothing);
            let mut files = browse.held.get_value();
            browse.held.set_value(Vec::new());
            if let Some(file) = files.pop() {
                match how {
                    "replace" => browse.upload(app, &name, file, true),
                    "both" => {
                        let free = free_name(&name, |name| browse.has(name));
                        browse.upload(app, &free, file, false);
                    }
                    _ => {}
                }
            }
            browse.send(app, files);
        }
    };
    view! {
        <Dialog title="There is already a file of this name" on_close=move || browse.asked.set(Asked::Nothing)>
            <div class="form">
                <p><bdi><strong>{shown}</strong></bdi> " is in this folder. The old one stays until the new one has arrived whole."</p>
                <div class="actions">
                    <button type="button" class="button" on:click=answer("skip")>"Leave it"</button>
                    <button type="button" class="button" on:click=answer("both")>"Keep both"</button>
                    <button type="button" class="button primary" on:click=answer("replace")>"Replace"</button>
                </div>
            </div>
        </Dialog>
    }
}

/// `name (2).ext`, with the first number that is free.
fn free_name(name: &str, taken: impl Fn(&str) -> bool) -> String {
    let (stem, extension) = match name.rfind('.') {
        Some(at) if at > 0 => name.split_at(at),
        _ => (name, ""),
    };
    (2..)
        .map(|number| format!("{stem} ({number}){extension}"))
        .find(|name| !taken(name))
        .unwrap_or_default()
}
