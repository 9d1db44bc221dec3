//! The receipt of a call: every step with its time, every path with how it fared.

use leptos::{prelude::*, task::spawn_local};
use ringback_wasm::{
    PathKind, Receipt,
    receipt::{Candidate, Pair},
};

use super::{
    dialog::{CopyButton, Dialog},
    steps::Steps,
};
use crate::{
    figures, json,
    order::sorted,
    plain::plain,
    state::{Call, Seen},
};

#[component]
pub(crate) fn ReceiptDialog(call: Call, #[prop(into)] on_close: Callback<()>) -> impl IntoView {
    // The paths as they are now, not as they were when the link came up.
    spawn_local(async move {
        if let Some(link) = call.links.link.get_untracked()
            && let Ok(receipt) = link.receipt().await
        {
            call.receipt.set(Some(receipt));
        }
    });
    let text = Signal::derive(move || {
        call.receipt
            .with(|receipt| receipt.as_ref().map(json::readable).unwrap_or_default())
    });
    let steps = Signal::derive(move || {
        call.receipt.with(|receipt| {
            receipt.as_ref().map_or_else(
                || call.steps.get(),
                |receipt| {
                    receipt
                        .steps
                        .iter()
                        .map(|event| Seen {
                            step: event.step,
                            at_ms: event.at_ms,
                            detail: event.detail.clone(),
                        })
                        .collect()
                },
            )
        })
    });
    view! {
        <Dialog title="Receipt of the call" on_close>
            <div class="receipt">
                <Steps steps going=Signal::stored(false) />
                {move || call.receipt.with(|receipt| receipt.as_ref().map(paths))}
                <div class="actions">
                    <CopyButton text label="Copy as JSON" />
                </div>
            </div>
        </Dialog>
    }
}

fn paths(receipt: &Receipt) -> AnyView {
    let pairs = sorted(&receipt.pairs, |pair| {
        (!pair.won, pair.state != "succeeded")
    });
    let untold = pairs.len().saturating_sub(12);
    let rows = pairs
        .into_iter()
        .take(12)
        .map(|pair| {
            let (local, remote) = (
                receipt.local.get(pair.local),
                receipt.remote.get(pair.remote),
            );
            view! {
                <tr class:won=pair.won>
                    <td>{address(local)}</td>
                    <td>{address(remote)}</td>
                    <td>{outcome(pair)}</td>
                </tr>
            }
            .into_any()
        })
        .collect_view();
    let verdict = match receipt.path {
        PathKind::Direct => "The data flows directly between this browser and the device.",
        PathKind::Turn => {
            "No direct path was found: the data, still encrypted end to end, flows through a TURN server."
        }
    };
    view! {
        <h3>"Paths"</h3>
        <p class="small">{verdict}</p>
        <div class="scroll" tabindex="0" role="region" aria-label="Paths that were tried">
            <table>
                <thead>
                    <tr><th scope="col">"This browser"</th><th scope="col">"Device"</th><th scope="col">"Outcome"</th></tr>
                </thead>
                <tbody>{rows}</tbody>
            </table>
        </div>
        {(untold > 0).then(|| view! { <p class="small faint">{untold} " more are in the copy."</p> }.into_any())}
    }
    .into_any()
}

fn address(candidate: Option<&Candidate>) -> String {
    let Some(candidate) = candidate else {
        return "–".into();
    };
    let kind = match candidate.kind.as_str() {
        "host" => "own",
        "srflx" => "public",
        "prflx" => "seen",
        "relay" => "TURN",
        other => other,
    };
    if candidate.address.is_empty() {
        format!("{}, hidden by the browser", plain(kind, 20))
    } else {
        let at = figures::endpoint(&plain(&candidate.address, 60), candidate.port);
        format!("{} {at}", plain(kind, 20))
    }
}

fn outcome(pair: &Pair) -> String {
    let rtt = pair
        .rtt_ms
        .map(|rtt| format!(", {}", figures::milliseconds(rtt)))
        .unwrap_or_default();
    match (pair.won, pair.state.as_str()) {
        (true, _) => format!("in use{rtt}"),
        (_, "succeeded") => format!("works{rtt}"),
        (_, "failed") => "no answer".into(),
        (_, "in-progress") if pair.requests_sent > 0 => {
            format!(
                "{} asked, {} answered",
                pair.requests_sent, pair.responses_received
            )
        }
        _ => "not tried".into(),
    }
}
