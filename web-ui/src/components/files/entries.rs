//! The entries of a folder, as a table.
//!
//! There may be thousands. A view of its own for each row takes milliseconds, so rows are copies of a
//! few that are drawn once, by markup of our own alone, and one listener serves all their buttons.
//! All of them are in the document, where the browser's own search and screen readers find them; but
//! only those in sight are laid out, which rows of a grid can be spared and rows of a table can not.
//! So the parts of the table say by their roles what they are.

use std::rc::Rc;

use js_sys::wasm_bindgen::JsCast;
use leptos::{prelude::*, task::spawn_local};
use ringback_protocol::service::files::{Entry, EntryKind};
use web_sys::{Element, HtmlInputElement, MouseEvent};

use super::{
    super::{
        failure::failure_note,
        icon::{Icon, icon},
    },
    preview,
};
use crate::{
    browse::{Asked, Browse},
    browser, figures, folder,
    live::Kept,
    plain::plain,
    reading::Reading,
};

/// Rows that are made at a time: the page answers in between.
const LOT: usize = 250;

/// What can be done with the entries.
#[derive(Clone, Copy)]
struct Use {
    writable: bool,
    /// Files are being chosen.
    picking: bool,
}

#[component]
pub(super) fn Entries(browse: Browse) -> impl IntoView {
    let is_picking = Memo::new(move |_| browse.picked.with(Option::is_some));
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
            let allowed = Use { writable: listing.writable, picking: is_picking.get() };
            view! {
                {table(browse, listing.entries, allowed)}
                {listing.cut.then(|| view! { <p class="hint">"There are more entries than can be shown here."</p> }.into_any())}
            }
            .into_any()
        }
    }
    };
    view! { {move || entries()} }
}

fn table(browse: Browse, entries: Vec<Entry>, allowed: Use) -> AnyView {
    let entries = Kept::new(Rc::<[Entry]>::from(entries));
    let clicked = move |event: MouseEvent| {
        let meant = event.target().and_then(|target| meant(&target));
        let Some((action, at)) = meant else { return };
        if let Some(entry) = entries.get_value().get(at) {
            act(browse, allowed, &action, entry);
        }
    };
    // Of the boxes by which files are chosen.
    let changed = move |event: web_sys::Event| {
        let at = event.target().and_then(|target| place(target.dyn_ref()?));
        if let Some(entry) = at.and_then(|at| entries.get_value().get(at).cloned()) {
            browse.pick(&entry.name);
        }
    };
    // Several folders may be open.
    let id = format!("entries-{}", browser::fresh_number());
    let own = id.clone();
    browser::after_render(move || {
        let table = browser::element::<Element>(&own);
        // Another folder may have been opened meanwhile.
        if let (Some(table), Some(entries)) = (table, entries.try_with_value(Rc::clone)) {
            spawn_local(async move { fill(&table, &own, &entries, browse, allowed).await });
        }
    });
    if allowed.picking {
        let own = id.clone();
        Effect::new(move |_| {
            browse.picked.with(|_| ());
            if let Some(table) = browser::element::<Element>(&own) {
                check(&table, &entries.get_value(), browse);
            }
        });
    }
    view! {
        <table id=id class="entries" class:writable=allowed.writable role="table" on:click=clicked on:change=changed>
            <thead role="rowgroup">
                <tr role="row">
                    <th role="columnheader" scope="col">"Name"</th>
                    <th role="columnheader" scope="col" class="number">"Size"</th>
                    <th role="columnheader" scope="col" class="when">"Changed"</th>
                    <th role="columnheader" scope="col"><span class="visually-hidden">"Actions"</span></th>
                </tr>
            </thead>
        </table>
    }
    .into_any()
}

/// What a button is for, and the place of its entry.
fn meant(target: &web_sys::EventTarget) -> Option<(String, usize)> {
    let element = target.dyn_ref::<Element>()?;
    let button = element.closest("button[data-do]").ok()??;
    Some((button.get_attribute("data-do")?, place(&button)?))
}

/// The place of the entry in whose row this is.
fn place(element: &Element) -> Option<usize> {
    let row = element.closest("tr").ok()??;
    row.get_attribute("data-at")?.parse().ok()
}

fn act(browse: Browse, allowed: Use, action: &str, entry: &Entry) {
    match (action, entry.kind) {
        ("open", EntryKind::File) if allowed.picking => browse.pick(&entry.name),
        ("open", EntryKind::File) => browse.look_at(entry),
        ("open", _) => browse.enter(&folder::join(&browse.path.get_untracked(), &entry.name)),
        ("save", _) => browse.download(entry),
        ("rename", _) => browse.asked.set(Asked::Rename(entry.clone())),
        ("remove", _) => browse.asked.set(Asked::Remove(entry.clone())),
        _ => {}
    }
}

/// How a row looks apart from what is written in it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Looks {
    Folder,
    Link,
    Picture,
    File,
    /// A device, a socket: nothing can be done with it.
    Other,
}

impl Looks {
    const ALL: [Self; 5] = [
        Self::Folder,
        Self::Link,
        Self::Picture,
        Self::File,
        Self::Other,
    ];

    fn of(entry: &Entry) -> Self {
        match entry.kind {
            EntryKind::Folder => Self::Folder,
            EntryKind::Link => Self::Link,
            EntryKind::File if preview::is_picture(&entry.name) => Self::Picture,
            EntryKind::File => Self::File,
            EntryKind::Other => Self::Other,
        }
    }

    fn sign(self) -> Icon {
        match self {
            Self::Folder => Icon::Folder,
            Self::Link => Icon::Link,
            Self::Picture => Icon::Picture,
            Self::File | Self::Other => Icon::File,
        }
    }

    /// A row with nothing written in it yet.
    fn row(self, allowed: Use) -> String {
        let is_file = matches!(self, Self::Picture | Self::File);
        let usable = self != Self::Other;
        let pick = if allowed.picking && is_file {
            "<input type=checkbox class=pick>"
        } else {
            ""
        };
        let mut row = format!(
            "<tr role=row><td role=cell class=entry-name>{pick}\
             <button type=button class=entry data-do=open{}>{}\
             <span class=entry-words><bdi></bdi><span class='entry-phone small faint'></span></span>\
             </button></td><td role=cell class='number figures'></td><td role=cell class=when></td>\
             <td role=cell class=entry-tools>",
            if usable { "" } else { " disabled" },
            self.sign().markup(),
        );
        let is_changed = allowed.writable && usable;
        for (action, sign, is_there) in [
            ("save", Icon::Download, is_file),
            ("rename", Icon::Pencil, is_changed),
            ("remove", Icon::Trash, is_changed),
        ] {
            if is_there {
                row += &format!(
                    "<button type=button class='quiet square' data-do={action}>{}</button>",
                    sign.markup()
                );
            }
        }
        row + "</td></tr>"
    }
}

/// Puts the rows into the table, lot by lot, until it is taken away or given to another folder with
/// another ID.
async fn fill(table: &Element, id: &str, entries: &[Entry], browse: Browse, allowed: Use) {
    let Some(drawn) = draw(allowed) else { return };
    // Leptos keeps the element where the next folder is a table, too, and knows nothing of its rows.
    // They give way lot by lot, so that a folder that is read again stays where it was scrolled to;
    // nothing can be done with them any more.
    let mut old = Vec::new();
    let head = table.first_element_child();
    let mut next = head.and_then(|head| head.next_element_sibling());
    while let Some(lot) = next {
        next = lot.next_element_sibling();
        let _ = lot.set_attribute("inert", "");
        old.push(lot);
    }
    let mut old = old.into_iter();
    let mut rest = entries;
    while !rest.is_empty() {
        let start = entries.len() - rest.len();
        let (lot, more) = rest.split_at(rest.len().min(LOT));
        let Some(body) = body_of(&drawn, lot, start) else {
            return;
        };
        let placed = match old.next() {
            Some(old) => table.replace_child(&body, &old),
            None => table.append_child(&body),
        };
        if placed.is_err() {
            return;
        }
        rest = more;
        if rest.is_empty() {
            old.by_ref().for_each(|old| old.remove());
        }
        if allowed.picking {
            check(table, entries, browse);
        }
        // What is there is shown, and a click on it is heard.
        browser::sleep(0).await;
        if !table.is_connected() || table.id() != id {
            return;
        }
    }
}

/// Shows which files are chosen.
fn check(table: &Element, entries: &[Entry], browse: Browse) {
    browse.picked.with_untracked(|picked| {
        let mut lot = table.first_element_child();
        while let Some(rows) = lot {
            let mut row = rows.first_element_child();
            while let Some(this) = row {
                let entry = place(&this).and_then(|at| entries.get(at));
                let cell = this.first_element_child();
                let first = cell.and_then(|cell| cell.first_element_child());
                let input = first.and_then(|it| it.dyn_into::<HtmlInputElement>().ok());
                if let (Some(entry), Some(input)) = (entry, input) {
                    let picked = picked.as_ref();
                    input.set_checked(picked.is_some_and(|it| it.contains(&entry.name)));
                }
                row = this.next_element_sibling();
            }
            lot = rows.next_element_sibling();
        }
    });
}

/// One row of each looks.
fn draw(allowed: Use) -> Option<[Element; Looks::ALL.len()]> {
    let body = browser::document().create_element("tbody").ok()?;
    let rows: String = Looks::ALL.iter().map(|looks| looks.row(allowed)).collect();
    body.set_inner_html(&rows);
    let mut next = body.first_element_child();
    let rows = Looks::ALL.map(|_| {
        let row = next.take()?;
        next = row.next_element_sibling();
        Some(row)
    });
    let [a, b, c, d, e] = rows;
    Some([a?, b?, c?, d?, e?])
}

fn body_of(drawn: &[Element], lot: &[Entry], start: usize) -> Option<Element> {
    let body = browser::document().create_element("tbody").ok()?;
    body.set_attribute("role", "rowgroup").ok()?;
    let now = browser::unix_s();
    for (at, entry) in lot.iter().enumerate() {
        let drawn = drawn.get(Looks::of(entry) as usize)?;
        let row: Element = drawn.clone_node_with_deep(true).ok()?.dyn_into().ok()?;
        write(&row, entry, start + at, now)?;
        body.append_child(&row).ok()?;
    }
    Some(body)
}

fn write(row: &Element, entry: &Entry, at: usize, now: f64) -> Option<()> {
    let name = plain(&entry.name, 255);
    let when = figures::ago(now, entry.modified_ms as f64 / 1000.0);
    let size = (entry.kind == EntryKind::File).then(|| figures::bytes(entry.size as f64));
    let phone = match &size {
        Some(size) => format!("{size} · {when}"),
        None => when.clone(),
    };
    let call = |element: &Element, verb: &str| {
        let label = format!("{verb} {name}");
        element.set_attribute("aria-label", &label).ok()
    };
    let set = |cell: &Element, text: &str| cell.set_text_content(Some(text));
    row.set_attribute("data-at", &at.to_string()).ok()?;
    // A row that is not laid out is told to a screen reader all the same, by this name.
    row.set_attribute("aria-label", &name).ok()?;
    let cell = row.first_element_child()?;
    let open = cell.last_element_child()?;
    if let Some(pick) = open.previous_element_sibling() {
        call(&pick, "Choose")?;
    }
    let words = open.last_element_child()?;
    set(&words.first_element_child()?, &name);
    set(&words.last_element_child()?, &phone);
    let cell = cell.next_element_sibling()?;
    if let Some(size) = &size {
        set(&cell, size);
    }
    let cell = cell.next_element_sibling()?;
    set(&cell, &when);
    // What is no file can not be downloaded.
    let verbs = ["Download", "Rename", "Delete"];
    let verbs = &verbs[usize::from(size.is_none())..];
    let mut tool = cell.next_element_sibling()?.first_element_child();
    for verb in verbs {
        let Some(button) = tool else { break };
        call(&button, verb)?;
        tool = button.next_element_sibling();
    }
    Some(())
}
