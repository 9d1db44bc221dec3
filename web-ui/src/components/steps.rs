//! The steps of a call with their times.

use leptos::prelude::*;
use ringback_wasm::Step;

use super::icon::{Icon, icon};
use crate::{figures, plain::plain, state::Seen};

/// Every call goes through these; what is between them is shown as it comes.
const MAIN: [Step; 6] = [
    Step::Registry,
    Step::Gathered,
    Step::Sealed,
    Step::Delivered,
    Step::Accepted,
    Step::Connected,
];

/// The steps of a call with their times: those that happened, and, while it goes on, those to come.
#[component]
pub(crate) fn Steps(#[prop(into)] steps: Signal<Vec<Seen>>, going: Signal<bool>) -> impl IntoView {
    let rows = move || {
        let seen = steps.get();
        let mut rows: Vec<(Step, Option<Seen>)> = seen
            .iter()
            // The end of gathering tells more than its beginning, and replaces it.
            .filter(|it| {
                it.step != Step::Gathering || !seen.iter().any(|other| other.step == Step::Gathered)
            })
            .map(|it| (it.step, Some(it.clone())))
            .collect();
        if going.get() {
            for step in MAIN {
                let begun =
                    step == Step::Gathered && rows.iter().any(|(seen, _)| *seen == Step::Gathering);
                if !begun && rows.iter().all(|(seen, _)| *seen != step) {
                    rows.push((step, None));
                }
            }
        }
        let done = rows.iter().filter(|(_, seen)| seen.is_some()).count();
        rows.into_iter()
            .enumerate()
            .map(|(at, (step, seen))| {
                let class = match &seen {
                    Some(_) => "step done",
                    None if at == done => "step now",
                    None => "step",
                };
                let time = seen.as_ref().map(|it| figures::milliseconds(it.at_ms));
                let detail = seen.and_then(|it| it.detail).map(|text| plain(&text, 120));
                view! {
                    <li class=class>
                        <span class="step-sign" aria-hidden="true">{icon(Icon::Check)}</span>
                        <span class="step-words">
                            {words(step)}
                            {detail.map(|text| view! { <span class="small faint">{text}</span> }.into_any())}
                        </span>
                        <span class="figures small">{time}</span>
                    </li>
                }
                .into_any()
            })
            .collect_view()
    };
    view! { <ol class="steps" aria-live="polite">{move || rows()}</ol> }
}

fn words(step: Step) -> &'static str {
    match step {
        Step::Registry => "Registry reached",
        Step::Gathering => "Looking for this browser’s addresses",
        Step::Gathered => "This browser’s addresses found",
        Step::Sealed => "Request sealed for the device alone",
        Step::Delivered => "Delivered to the device",
        Step::ClockCorrected => "Clock corrected, asked again",
        Step::Accepted => "Admitted; the device rings back",
        Step::Checking => "Trying paths",
        Step::Connected => "Connected, both keys proven",
    }
}
