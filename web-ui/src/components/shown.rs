//! Parts of a view that come and go.
//!
//! Leptos has components for both, which are compiled anew for each place where they stand. These
//! are compiled once, and what they show is an [`AnyView`].
//!
//! For the same reason views all over the page say `{move || words()}` where `{words}` would do, and
//! `prop:value=move || name.get()`: only a closure that is written in the view itself is boxed by the
//! macro (with `erase_components`); any other makes a type of its own.

use std::sync::Arc;

use leptos::prelude::*;

/// `view` for as long as `when` holds.
pub(crate) fn shown(
    when: impl Fn() -> bool + Send + Sync + 'static,
    view: impl Fn() -> AnyView + Send + 'static,
) -> AnyView {
    shown_or(when, view, || ().into_any())
}

/// `view` for as long as `when` holds, and `other` as long as it does not.
pub(crate) fn shown_or(
    when: impl Fn() -> bool + Send + Sync + 'static,
    view: impl Fn() -> AnyView + Send + 'static,
    other: impl Fn() -> AnyView + Send + 'static,
) -> AnyView {
    let when = Memo::new(move |_| when());
    view! { {move || if when.get() { view() } else { other() }} }.into_any()
}

/// A row for each of `items`. It stays as it is for as long as there is an item of its key.
pub(crate) fn rows<T: Send + 'static>(
    items: impl Fn() -> Vec<T> + Send + 'static,
    key: impl Fn(&T) -> String + Send + 'static,
    row: impl Fn(T) -> AnyView + Send + Sync + 'static,
) -> AnyView {
    let row = Arc::new(row);
    let rows = move || {
        let row_of = |item| Row {
            key: key(&item),
            view: {
                let row = row.clone();
                Box::new(move || row(item))
            },
        };
        items().into_iter().map(row_of).collect()
    };
    list(Box::new(rows))
}

struct Row {
    key: String,
    view: Box<dyn FnOnce() -> AnyView + Send>,
}

fn list(rows: Box<dyn Fn() -> Vec<Row> + Send>) -> AnyView {
    view! { <For each=rows key=|row: &Row| row.key.clone() children=|row: Row| (row.view)() /> }
        .into_any()
}
