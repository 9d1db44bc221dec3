//! A failure as a person reads it.

use leptos::prelude::*;

use super::icon::{Icon, icon};
use crate::{browser, plain::plain, sentence::Failure};

/// An alert with the sentence, the advice, and the code for those who look it up.
pub(crate) fn failure_note(failure: &Failure) -> AnyView {
    let (title, advice) = failure.sentence(browser::unix_s());
    let code = plain(&failure.code, 40);
    // The sentences are the page's own; what the other side adds is shown small.
    let detail = plain(&failure.detail, 200);
    let detail = (!detail.is_empty()).then(|| view! { <span>{detail}</span> }.into_any());
    view! {
        <div class="note bad" role="alert">
            {icon(Icon::Warning)}
            <div>
                <p class="note-title">{title}</p>
                <p>{advice}</p>
                <details class="more">
                    <summary>"Details"</summary>
                    <p class="small"><code>{code}</code> " " {detail}</p>
                </details>
            </div>
        </div>
    }
    .into_any()
}
