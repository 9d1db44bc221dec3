//! Files on their way.

use leptos::prelude::*;

use super::super::{
    failure::failure_note,
    icon::{Icon, icon},
    shown::{rows, shown},
};
use crate::{
    figures,
    live::Live,
    plain::plain,
    transfer::{Direction, State, Transfer},
};

#[component]
pub(crate) fn Transfers(
    transfers: Live<Vec<Transfer>>,
    /// An upload has arrived.
    #[prop(into)]
    on_done: Callback<()>,
) -> impl IntoView {
    Effect::new(move |arrived: Option<usize>| {
        let now = transfers.with(|list| {
            list.iter()
                .filter(|it| it.direction == Direction::Up && it.state.get() == State::Done)
                .count()
        });
        if arrived.is_some_and(|before| now > before) {
            on_done.run(());
        }
        now
    });
    let over = move || transfers.with(|list| list.iter().any(|it| it.is_over()));
    let clear = move || {
        view! {
            <button type="button" class="as-link small" on:click=move |_| {
                transfers.update(|list| list.retain(|it| !it.is_over()));
            }>"Clear finished"</button>
        }
        .into_any()
    };
    let key = |it: &Transfer| it.number.to_string();
    let row = move |it| view! { <TransferRow it transfers /> }.into_any();
    let list = move || {
        view! {
            <section class="transfers" aria-label="Transfers">
                <header class="transfers-head">
                    <h3>"Transfers"</h3>
                    {shown(over, clear)}
                </header>
                <ul>{rows(move || transfers.get(), key, row)}</ul>
            </section>
        }
        .into_any()
    };
    shown(move || !transfers.with(Vec::is_empty), list)
}

#[component]
fn TransferRow(it: Transfer, transfers: Live<Vec<Transfer>>) -> impl IntoView {
    let name = plain(&it.name.get_value(), 120);
    let part = move || {
        let size = it.size.get();
        if size > 0.0 {
            it.done.get() / size
        } else {
            1.0
        }
    };
    let words = move || {
        let (done, size) = (it.done.get(), it.size.get());
        let amount = format!("{} of {}", figures::bytes(done), figures::bytes(size));
        match it.state.get() {
            State::Running => {
                let rate = it.rate.get();
                if rate > 0.0 {
                    let left = figures::span((size - done) / rate);
                    format!("{amount} · {} · {left} left", figures::rate(rate))
                } else {
                    amount
                }
            }
            State::Paused => format!("{amount} · paused"),
            State::Waiting => format!("{amount} · waiting for the link"),
            State::Checking => "Comparing the hashes…".into(),
            State::Done => match it.direction {
                Direction::Down => format!(
                    "{} · verified, handed to your downloads",
                    figures::bytes(size)
                ),
                Direction::Up => format!("{} · verified on the device", figures::bytes(size)),
            },
            State::Failed(_) => amount,
        }
    };
    let sign = match it.direction {
        Direction::Down => Icon::Download,
        Direction::Up => Icon::Upload,
    };
    let cancel = move |_| {
        it.cancel();
        transfers.update(|list| list.retain(|other| other.number != it.number));
    };
    let label = format!("Progress of {name}");
    let (pause_label, resume_label, cancel_label) = (
        format!("Pause {name}"),
        format!("Resume {name}"),
        format!("Cancel {name}"),
    );
    view! {
        <li class="transfer" class:done=move || it.state.get() == State::Done>
            <span class="transfer-sign">{move || icon(if it.state.get() == State::Done { Icon::Check } else { sign })}</span>
            <div class="transfer-words">
                <bdi class="name">{name}</bdi>
                <progress aria-label=label max="1" prop:value=part></progress>
                <span class="small figures">{move || words()}</span>
                {move || match it.state.get() {
                    State::Failed(failure) => failure_note(&failure),
                    _ => ().into_any(),
                }}
            </div>
            <span class="transfer-tools">
                {move || match it.state.get() {
                    State::Running | State::Waiting | State::Checking => view! {
                        <button type="button" class="quiet square" aria-label=pause_label.clone() on:click=move |_| it.pause()>{icon(Icon::Pause)}</button>
                    }.into_any(),
                    State::Paused | State::Failed(_) => view! {
                        <button type="button" class="quiet square" aria-label=resume_label.clone() on:click=move |_| it.resume()>{icon(Icon::Resume)}</button>
                    }.into_any(),
                    State::Done => ().into_any(),
                }}
                {shown(move || it.state.get() != State::Done, move || view! {
                    <button type="button" class="quiet square" aria-label=cancel_label.clone() on:click=cancel>{icon(Icon::Close)}</button>
                }.into_any())}
            </span>
        </li>
    }
}
