//! Files on their way.

use leptos::prelude::*;

use super::super::{
    failure::failure_note,
    icon::{Icon, icon},
    shown::{rows, shown},
};
use crate::{
    browse::Browse,
    figures,
    live::Live,
    order::sorted,
    plain::plain,
    transfer::{Direction, State, Transfer},
};

/// From how many on there is a line for all of them.
const MANY: usize = 3;

#[component]
pub(crate) fn Transfers(browse: Browse) -> impl IntoView {
    let all = move || of(browse);
    Effect::new(move |arrived: Option<usize>| {
        let is_there = |it: &Transfer| it.direction == Direction::Up && it.is_done();
        let now = all().iter().filter(|it| is_there(it)).count();
        if arrived.is_some_and(|before| now > before) {
            browse.refresh();
        }
        now
    });
    let over = move || all().into_iter().any(Transfer::is_over);
    let clear = move || {
        view! {
            <button type="button" class="as-link small" on:click=move |_| {
                let over = all().into_iter().filter(|it| it.is_over());
                let over: Vec<u32> = over.map(|it| it.number).collect();
                browse.transfers.list.update(|list| list.retain(|it| !over.contains(&it.number)));
            }>"Clear finished"</button>
        }
        .into_any()
    };
    let whole = Live::new(false);
    let hidden = move || all().len() - seen(all(), whole.get()).len();
    let rest = move || {
        view! {
            <button type="button" class="as-link small" on:click=move |_| whole.set(true)>
                {move || format!("Show {} more", hidden())}
            </button>
        }
        .into_any()
    };
    let key = |it: &Transfer| it.number.to_string();
    let row = move |it| view! { <TransferRow it /> }.into_any();
    let list = move || {
        view! {
            <section class="transfers" aria-label="Transfers">
                <header class="transfers-head">
                    <h3>"Transfers"</h3>
                    {shown(over, clear)}
                </header>
                {shown(move || all().len() > MANY, move || view! { <Sum browse /> }.into_any())}
                <ul>{rows(move || seen(all(), whole.get()), key, row)}</ul>
                {shown(move || hidden() > 0, rest)}
            </section>
        }
        .into_any()
    };
    shown(move || !all().is_empty(), list)
}

/// Those of the folder's service.
fn of(browse: Browse) -> Vec<Transfer> {
    browse
        .service
        .with_value(|service| browse.transfers.of(service))
}

/// What of many is seen: what moves or needs somebody, and a few of the others. What moves is first,
/// the rest in the order of its turns.
fn seen(all: Vec<Transfer>, whole: bool) -> Vec<Transfer> {
    /// Of those that wait, and of those that have arrived.
    const FEW: usize = 4;
    let mut ordered = sorted(all, |it| it.progress.state.with_untracked(place));
    if whole {
        return ordered;
    }
    let count = |is: fn(&State) -> bool| {
        let those = ordered
            .iter()
            .filter(|it| it.progress.state.with_untracked(is));
        those.count()
    };
    let (queued, done) = (
        count(|state| *state == State::Queued),
        count(|state| *state == State::Done),
    );
    let done_from = ordered.len() - done;
    // The last of those that have arrived, the first of those that wait.
    ordered.drain(done_from..done_from + done.saturating_sub(FEW));
    ordered.drain(done_from - queued.saturating_sub(FEW)..done_from);
    ordered
}

fn place(state: &State) -> u8 {
    match state {
        State::Running | State::Waiting | State::Checking => 0,
        State::Failed(_) => 1,
        State::Paused => 2,
        State::Queued => 3,
        State::Done => 4,
    }
}

/// All of many, in one line.
#[component]
fn Sum(browse: Browse) -> impl IntoView {
    let all = move || of(browse);
    let count = move |is: fn(&State) -> bool| {
        all()
            .iter()
            .filter(|it| it.progress.state.with_untracked(is))
            .count()
    };
    let words = move || {
        let part = |count: usize, word: &str| (count > 0).then(|| format!("{count} {word}"));
        let parts = [
            Some(format!(
                "{} of {} done",
                count(|state| *state == State::Done),
                all().len()
            )),
            part(count(|state| place(state) == 0), "running"),
            part(count(|state| *state == State::Queued), "waiting"),
            part(count(|state| *state == State::Paused), "paused"),
            part(count(|state| matches!(state, State::Failed(_))), "failed"),
        ];
        parts.into_iter().flatten().collect::<Vec<_>>().join(" · ")
    };
    let part = move || {
        let add = |(done, size), it: Transfer| {
            (
                done + it.progress.done.get_untracked(),
                size + it.size.get_untracked(),
            )
        };
        let (done, size) = all().into_iter().fold((0.0, 0.0), add);
        if size > 0.0 { done / size } else { 1.0 }
    };
    let pause = move |_| {
        // From the end, so that none takes the turn of one that was stopped.
        for it in all().into_iter().rev().filter(|it| it.goes_on()) {
            it.pause();
        }
    };
    let resume = move |_| {
        for it in all()
            .into_iter()
            .filter(|it| it.progress.state.with_untracked(rests))
        {
            it.resume();
        }
    };
    let moves = move || count(State::goes_on) > 0;
    let some_rest = move || count(rests) > 0;
    view! {
        <div class="transfers-sum">
            <div class="transfer-words">
                <span class="small figures" role="status">{move || words()}</span>
                <progress aria-label="Progress of all" max="1" prop:value=part></progress>
            </div>
            {shown(moves, move || view! {
                <button type="button" class="button small" on:click=pause>{icon(Icon::Pause)} <span>"Pause all"</span></button>
            }.into_any())}
            {shown(some_rest, move || view! {
                <button type="button" class="button small" on:click=resume>{icon(Icon::Resume)} <span>"Resume all"</span></button>
            }.into_any())}
        </div>
    }
}

fn rests(state: &State) -> bool {
    matches!(state, State::Paused | State::Failed(_))
}

#[component]
fn TransferRow(it: Transfer) -> impl IntoView {
    let name = plain(&it.name.get_value(), 120);
    let part = move || {
        let size = it.size.get();
        if size > 0.0 {
            it.progress.done.get() / size
        } else {
            1.0
        }
    };
    let words = move || {
        let (done, size) = (it.progress.done.get(), it.size.get());
        let amount = format!("{} of {}", figures::bytes(done), figures::bytes(size));
        match it.progress.state.get() {
            State::Running => {
                let rate = it.progress.rate.get();
                if rate > 0.0 {
                    let left = figures::span((size - done) / rate);
                    format!("{amount} · {} · {left} left", figures::rate(rate))
                } else {
                    amount
                }
            }
            State::Queued if done > 0.0 => format!("{amount} · waiting for its turn"),
            State::Queued => format!("{} · waiting for its turn", figures::bytes(size)),
            State::Paused => format!("{amount} · paused"),
            State::Waiting => format!("{amount} · waiting for the link"),
            State::Checking => "Comparing the hashes…".into(),
            State::Done => match it.direction {
                Direction::Down => {
                    let kept = it.saved_as.get().map_or_else(
                        || "handed to your downloads".to_owned(),
                        |name| format!("saved as {}", plain(&name, 120)),
                    );
                    // A browser keeps no permissions.
                    let wider = if it.is_private() {
                        " · on the device it is for some only; here, whoever may read your downloads may read it"
                    } else {
                        ""
                    };
                    format!("{} · verified, {kept}{wider}", figures::bytes(size))
                }
                Direction::Up => format!("{} · verified on the device", figures::bytes(size)),
            },
            State::Failed(_) => amount,
        }
    };
    let sign = match it.direction {
        Direction::Down => Icon::Download,
        Direction::Up => Icon::Upload,
    };
    let cancel = move |_| it.cancel();
    let label = format!("Progress of {name}");
    let (pause_label, resume_label, cancel_label) = (
        format!("Pause {name}"),
        format!("Resume {name}"),
        format!("Cancel {name}"),
    );
    view! {
        <li class="transfer" class:done=move || it.progress.state.get() == State::Done>
            <span class="transfer-sign">{move || icon(if it.progress.state.get() == State::Done { Icon::Check } else { sign })}</span>
            <div class="transfer-words">
                <bdi class="name">{name}</bdi>
                <progress aria-label=label max="1" prop:value=part></progress>
                <span class="small figures">{move || words()}</span>
                {move || match it.progress.state.get() {
                    State::Failed(failure) => failure_note(&failure),
                    _ => ().into_any(),
                }}
            </div>
            <span class="transfer-tools">
                {move || match it.progress.state.get() {
                    State::Queued | State::Running | State::Waiting | State::Checking => view! {
                        <button type="button" class="quiet square" aria-label=pause_label.clone() on:click=move |_| it.pause()>{icon(Icon::Pause)}</button>
                    }.into_any(),
                    State::Paused | State::Failed(_) => view! {
                        <button type="button" class="quiet square" aria-label=resume_label.clone() on:click=move |_| it.resume()>{icon(Icon::Resume)}</button>
                    }.into_any(),
                    State::Done => ().into_any(),
                }}
                {shown(move || it.progress.state.get() != State::Done, move || view! {
                    <button type="button" class="quiet square" aria-label=cancel_label.clone() on:click=cancel>{icon(Icon::Close)}</button>
                }.into_any())}
            </span>
        </li>
    }
}
