//! The link: which way it goes, how fast, and the receipt of the call.

use leptos::prelude::*;
use ringback_wasm::{LinkState, PathKind};

use super::{
    graph::Graph,
    icon::{Icon, icon},
};
use crate::{
    figures,
    links::Stage,
    live::Live,
    state::{App, Call},
};

/// In a word, and whether data flows.
pub(crate) fn condition(call: Call) -> (String, bool) {
    if call.links.stage.get() != Stage::Linked {
        return ("Link lost, calling again…".into(), false);
    }
    match call.link_state.get() {
        LinkState::Interrupted => ("Nothing is heard from the device…".into(), false),
        LinkState::Ended => ("Link lost, calling again…".into(), false),
        LinkState::Connected => {
            let path = call
                .receipt
                .with(|receipt| receipt.as_ref().map(|it| it.path));
            let text = match path {
                Some(PathKind::Direct) => "Direct",
                Some(PathKind::Turn) => "Through a TURN server",
                None => "Linked",
            };
            (text.into(), true)
        }
    }
}

/// `receipt`: it is wanted.
#[component]
pub(crate) fn LinkPanel(call: Call, receipt: Live<bool>) -> impl IntoView {
    let app = App::current();
    let rtt = move || {
        call.gauge
            .with(|gauge| gauge.rtt_ms)
            .map_or("–".to_owned(), figures::milliseconds)
    };
    let last = move || {
        call.gauge
            .with(|gauge| gauge.samples.last().copied().unwrap_or_default())
    };
    let addresses = move || {
        call.receipt.with(|receipt| {
            let receipt = receipt.as_ref()?;
            let won = receipt.pairs.iter().find(|pair| pair.won)?;
            let remote = receipt.remote.get(won.remote)?;
            if remote.address.is_empty() {
                return None;
            }
            let address = crate::plain::plain(&remote.address, 60);
            Some(figures::endpoint(&address, remote.port))
        })
    };
    view! {
        <section class="panel card" aria-label="The link">
            <p class="panel-path" class:quiet=move || !condition(call).1>
                <span class="dot" aria-hidden="true"></span>
                <strong>{move || condition(call).0}</strong>
            </p>
            <dl class="facts">
                <dt>"Round trip"</dt>
                <dd class="figures">{move || rtt()}</dd>
                <dt>"Down"</dt>
                <dd class="figures"><span class="key down" aria-hidden="true"></span>{move || figures::rate(last().down)}</dd>
                <dt>"Up"</dt>
                <dd class="figures"><span class="key up" aria-hidden="true"></span>{move || figures::rate(last().up)}</dd>
            </dl>
            <Graph gauge=call.gauge />
            <dl class="facts">
                <dt>"Received"</dt>
                <dd class="figures">{move || figures::bytes(call.gauge.with(|gauge| gauge.bytes_down))}</dd>
                <dt>"Sent"</dt>
                <dd class="figures">{move || figures::bytes(call.gauge.with(|gauge| gauge.bytes_up))}</dd>
                {move || addresses().map(|text| view! {
                    <dt>"Device at"</dt>
                    <dd><code>{text}</code></dd>
                }.into_any())}
            </dl>
            <div class="panel-tools">
                <button type="button" class="button small" on:click=move |_| receipt.set(true)>
                    "Receipt"
                </button>
                <button type="button" class="button small danger-quiet" on:click=move |_| call.hang_up(app)>
                    {icon(Icon::HangUp)} <span>"Hang up"</span>
                </button>
            </div>
        </section>
    }
}
