//! A modal dialog on the browser's own element: focus is kept inside, Escape closes it.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use leptos::{html, prelude::*};
use wasm_bindgen::JsCast;
use web_sys::HtmlElement;

use super::icon::{Icon, icon};
use crate::{browser, live::Live};

/// Shows `children` in a dialog for as long as it is in the page.
#[component]
pub(crate) fn Dialog(
    #[prop(into)] title: String,
    #[prop(into)] on_close: Callback<()>,
    children: Children,
) -> impl IntoView {
    let node = NodeRef::<html::Dialog>::new();
    Effect::new(move || {
        if let Some(dialog) = node.get()
            && !dialog.open()
        {
            browser::after_render(move || {
                let _ = dialog.show_modal();
                // Where one types, else the choice that changes nothing; not on "Close".
                let first = dialog.query_selector("input:not(.away), .actions button");
                if let Ok(Some(first)) = first
                    && let Ok(first) = first.dyn_into::<HtmlElement>()
                {
                    let _ = first.focus();
                }
            });
        }
    });
    // A dialog that is closed gives the focus back to what opened it; one that is taken away does not.
    // Its event comes later, when something else may have been asked already: that is not closed.
    let taken_away = Arc::new(AtomicBool::new(false));
    let leaving = taken_away.clone();
    on_cleanup(move || {
        leaving.store(true, Ordering::Relaxed);
        if let Some(dialog) = node.try_get_untracked().flatten() {
            dialog.close();
        }
    });
    view! {
        <dialog
            node_ref=node
            class="dialog"
            closedby="any"
            aria-labelledby="dialog-title"
            on:close=move |_| {
                if !taken_away.load(Ordering::Relaxed) {
                    on_close.run(());
                }
            }
        >
            <header class="dialog-head">
                <h2 id="dialog-title">{title}</h2>
                <button type="button" class="quiet square" aria-label="Close" on:click=move |_| on_close.run(())>
                    {icon(Icon::Close)}
                </button>
            </header>
            {children()}
        </dialog>
    }
}

/// A button that copies `text` and says so.
#[component]
pub(crate) fn CopyButton(
    #[prop(into)] text: Signal<String>,
    #[prop(into)] label: String,
    #[prop(optional)] square: bool,
) -> impl IntoView {
    let copied = Live::new(false);
    let copy = move |_| {
        let text = text.get_untracked();
        leptos::task::spawn_local(async move {
            if browser::copy(&text).await {
                copied.set(true);
                browser::sleep(1_800).await;
                let _ = copied.try_set(false);
            }
        });
    };
    let name = label.clone();
    view! {
        <button
            type="button"
            class=if square { "quiet square" } else { "button" }
            aria-label=name
            on:click=copy
        >
            {move || icon(if copied.get() { Icon::Check } else { Icon::Copy })}
            {(!square).then(|| view! {
                <span aria-live="polite">
                    {move || if copied.get() { "Copied".to_owned() } else { label.clone() }}
                </span>
            }.into_any())}
        </button>
    }
}
