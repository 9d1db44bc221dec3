//! A look at a file: pictures of kinds that can hold no program, and text as text. Everything else
//! can only be downloaded; nothing of a file is ever interpreted here.

use js_sys::{Array, Uint8Array};
use leptos::{prelude::*, task::spawn_local};
use ringback_protocol::service::files::Entry;
use web_sys::{Blob, BlobPropertyBag, Url};

use super::super::{
    dialog::Dialog,
    failure::failure_note,
    icon::{Icon, icon},
};
use crate::{
    browse::Browse, browser, figures, folder, live::Live, plain::plain, sentence::Failure,
};

/// Bytes of a picture that are fetched to be shown.
const PICTURE: u64 = 48 << 20;
/// Bytes of a text that are.
const TEXT: u64 = 512 << 10;

#[derive(Clone, PartialEq)]
enum Look {
    Waiting,
    Picture(String),
    Text {
        text: String,
        cut: bool,
    },
    /// Nothing to see; why.
    Nothing(&'static str),
    Failed(Failure),
}

/// The type to show a picture as, by its name. SVG is not among them: it can hold scripts.
fn picture_type(name: &str) -> Option<&'static str> {
    let extension = name.rsplit_once('.')?.1.to_ascii_lowercase();
    Some(match extension.as_str() {
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "gif" => "image/gif",
        "webp" => "image/webp",
        "avif" => "image/avif",
        "bmp" => "image/bmp",
        "ico" => "image/x-icon",
        _ => return None,
    })
}

pub(crate) fn is_picture(name: &str) -> bool {
    picture_type(name).is_some()
}

#[component]
pub(crate) fn Preview(browse: Browse, entry: Entry) -> impl IntoView {
    let look = Live::new(Look::Waiting);
    let path = folder::join(&browse.path.get_untracked(), &entry.name);
    let service = browse.service.get_value();
    let (size, kind) = (entry.size, picture_type(&entry.name));
    spawn_local(async move {
        let (_, link) = browse.links.next(None).await;
        let found = match kind {
            Some(_) if size > PICTURE => {
                Look::Nothing("The picture is too large to be shown here.")
            }
            Some(kind) => match folder::head(&link, &service, &path, PICTURE).await {
                Ok(bytes) => picture(&bytes, kind),
                Err(failure) => Look::Failed(failure),
            },
            None => match folder::head(&link, &service, &path, TEXT).await {
                Ok(bytes) => text(&bytes, size),
                Err(failure) => Look::Failed(failure),
            },
        };
        if let Some(Look::Picture(url)) = look.try_set(found) {
            let _ = Url::revoke_object_url(&url);
        }
    });
    on_cleanup(move || {
        if let Some(Look::Picture(url)) = look.try_get_untracked() {
            let _ = Url::revoke_object_url(&url);
        }
    });
    let name = plain(&entry.name, 120);
    let facts = format!(
        "{} · changed {}",
        figures::bytes(entry.size as f64),
        figures::ago(browser::unix_s(), entry.modified_ms as f64 / 1000.0)
    );
    let alternative = format!("Picture {name}");
    let saved = entry;
    view! {
        <Dialog title=name on_close=move || browse.close_preview()>
            <div class="preview">
                <p class="small faint">{facts}</p>
                {move || match look.get() {
                    Look::Waiting => view! {
                        <p class="waiting"><span class="spinner" aria-hidden="true"></span>"Fetching…"</p>
                    }.into_any(),
                    Look::Picture(url) => view! {
                        <img class="preview-picture" src=url alt=alternative.clone()
                            on:error=move |_| look.set(Look::Nothing("This picture can not be shown.")) />
                    }.into_any(),
                    Look::Text { text, cut } => view! {
                        <pre class="preview-text" tabindex="0" role="region" aria-label="The text">{text}</pre>
                        {cut.then(|| view! { <p class="hint">"This is its beginning."</p> }.into_any())}
                    }.into_any(),
                    Look::Nothing(why) => view! {
                        <div class="empty small-empty"><span class="empty-sign">{icon(Icon::File)}</span><p>{why}</p></div>
                    }.into_any(),
                    Look::Failed(failure) => failure_note(&failure),
                }}
                <div class="actions">
                    <button type="button" class="button primary" on:click=move |_| {
                        browse.download(&saved);
                        browse.close_preview();
                    }>{icon(Icon::Download)} <span>"Download"</span></button>
                </div>
            </div>
        </Dialog>
    }
}

fn picture(bytes: &[u8], kind: &str) -> Look {
    let options = BlobPropertyBag::new();
    options.set_type(kind);
    let parts = Array::of1(&Uint8Array::from(bytes));
    Blob::new_with_u8_array_sequence_and_options(&parts, &options)
        .and_then(|blob| Url::create_object_url_with_blob(&blob))
        .map_or(
            Look::Nothing("This picture can not be shown."),
            Look::Picture,
        )
}

fn text(bytes: &[u8], size: u64) -> Look {
    if bytes.is_empty() {
        return Look::Nothing("The file is empty.");
    }
    if bytes.contains(&0) {
        return Look::Nothing("This is no picture and no text. It can be downloaded.");
    }
    let text = String::from_utf8_lossy(bytes);
    // What is cut in the middle of a letter ends with a replacement character or a few.
    let strange = text.chars().filter(|letter| *letter == '\u{fffd}').count();
    if strange > 4 + text.len() / 50 {
        return Look::Nothing("This is no picture and no text. It can be downloaded.");
    }
    Look::Text {
        text: text
            .lines()
            .map(|line| plain(&line.replace('\t', "    "), 4_000))
            .collect::<Vec<_>>()
            .join("\n"),
        cut: (bytes.len() as u64) < size,
    }
}
