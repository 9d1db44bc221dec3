//! Files of the device: folders, what can be done with an entry, and transfers below.

mod entries;
mod preview;
mod transfers;

use std::collections::BTreeSet;

use js_sys::wasm_bindgen::JsCast;
use leptos::{html, prelude::*};
use ringback_protocol::service::files::{Entry, EntryKind, FileRequest, Op};
use web_sys::HtmlInputElement;

use super::{
    dialog::Dialog,
    failure::failure_note,
    icon::{Icon, icon},
    shown::shown,
};
use crate::{
    browse::{Asked, Browse, Taken, is_writable},
    browser, figures, folder,
    live::Live,
    plain::plain,
    sentence::Failure,
};
use entries::Entries;
use preview::Preview;
use transfers::Transfers;

#[component]
pub(crate) fn Files(browse: Browse) -> impl IntoView {
    let over = Live::new(false);
    let drop_files = move |event: web_sys::DragEvent| {
        event.prevent_default();
        over.set(false);
        if !browse.writable() {
            return;
        }
        if let Some(list) = event.data_transfer().and_then(|data| data.files()) {
            browse.send(files_of(&list));
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
            <Toolbar browse />
            {shown(move || browse.picked.with(Option::is_some), move || view! { <Picking browse /> }.into_any())}
            <Entries browse />
            <Transfers browse />
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

fn files_of(list: &web_sys::FileList) -> Vec<web_sys::File> {
    (0..list.length()).filter_map(|at| list.get(at)).collect()
}

#[component]
fn Toolbar(browse: Browse) -> impl IntoView {
    let root = browse.service.with_value(|name| plain(name, 40));
    let picker = NodeRef::<html::Input>::new();
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
                        <button type="button" class="crumb" aria-current=current on:click=move |_| browse.enter(&to)>{name}</button>
                    </li>
                }
                .into_any()
            })
            .collect_view()
    };
    let choose = move |_| {
        if let Some(input) = picker.get_untracked() {
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
            browse.send(files_of(&list));
        }
        // The same file may be chosen again.
        input.set_value("");
    };
    view! {
        <div class="files-bar">
            <nav aria-label="Folder">
                <ol class="crumbs">
                    <li><button type="button" class="crumb" on:click=move |_| browse.enter("")>{icon(Icon::Files)} <span>{root}</span></button></li>
                    {move || crumbs()}
                </ol>
            </nav>
            <div class="files-tools">
                <button type="button" class="button small" aria-pressed=move || browse.picked.with(Option::is_some).to_string()
                    on:click=move |_| browse.picked.update(|picked| {
                        *picked = match picked {
                            Some(_) => None,
                            None => Some(BTreeSet::new()),
                        };
                    })>
                    {icon(Icon::Check)} <span>"Select"</span>
                </button>
                <button type="button" class="quiet square" aria-label="Reload the folder" on:click=move |_| browse.load()>{icon(Icon::Reload)}</button>
                {shown(move || browse.listing.with(is_writable), move || view! {
                    <button type="button" class="button small" on:click=move |_| browse.asked.set(Asked::NewFolder)>
                        {icon(Icon::Plus)} <span>"Folder"</span>
                    </button>
                    <button type="button" class="button small primary" on:click=choose>
                        {icon(Icon::Upload)} <span>"Upload"</span>
                    </button>
                    <input node_ref=picker class="away" type="file" multiple=true tabindex="-1" aria-label="Files to upload" on:change=chosen />
                }.into_any())}
            </div>
        </div>
    }
}

/// What can be done with the files that are chosen.
#[component]
fn Picking(browse: Browse) -> impl IntoView {
    let sum = Memo::new(move |_| {
        let files = browse.picked_files();
        let size: u64 = files.iter().map(|it| it.size).sum();
        (files.len(), size)
    });
    let words = move || match sum.get() {
        (0, _) => "No file is chosen".to_owned(),
        (1, size) => format!("1 file, {}", figures::bytes(size as f64)),
        (count, size) => format!("{count} files, {}", figures::bytes(size as f64)),
    };
    view! {
        <div class="picking" role="group" aria-label="Chosen files">
            <span class="figures" role="status">{move || words()}</span>
            <button type="button" class="button small" on:click=move |_| browse.pick_all()>"All files"</button>
            <button type="button" class="button small primary" disabled=move || sum.get().0 == 0
                on:click=move |_| browse.download_picked()>
                {icon(Icon::Download)} <span>"Download chosen"</span>
            </button>
        </div>
    }
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
    let shown_name = plain(&name, 120);
    let others = browse.also_taken();
    let for_all = Live::new(false);
    let answer = move |taken: Taken| {
        move |_: web_sys::MouseEvent| browse.answer(taken, for_all.get_untracked())
    };
    let also = (others > 0).then(|| {
        let words = if others == 1 {
            "The same for the other file whose name is taken".to_owned()
        } else {
            format!("The same for the {others} other files whose names are taken")
        };
        view! {
            <label class="check">
                <input type="checkbox" prop:checked=move || for_all.get()
                    on:change=move |event| for_all.set(browser::input_checked(&event)) />
                <span>{words}</span>
            </label>
        }
        .into_any()
    });
    view! {
        <Dialog title="There is already a file of this name" on_close=move || browse.answer(Taken::Leave, for_all.get_untracked())>
            <div class="form">
                <p><bdi><strong>{shown_name}</strong></bdi> " is in this folder. The old one stays until the new one has arrived whole."</p>
                {also}
                <div class="actions">
                    <button type="button" class="button" on:click=answer(Taken::Leave)>"Leave it"</button>
                    <button type="button" class="button" on:click=answer(Taken::KeepBoth)>"Keep both"</button>
                    <button type="button" class="button primary" on:click=answer(Taken::Replace)>"Replace"</button>
                </div>
            </div>
        </Dialog>
    }
}
