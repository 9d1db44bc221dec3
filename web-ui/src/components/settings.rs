//! This browser: its key, how the page looks, signing out.

use leptos::{prelude::*, task::spawn_local};

use super::{
    dialog::{CopyButton, Dialog},
    failure::failure_note,
    icon::{Icon, icon},
    page_link::go,
};
use crate::{
    browser, figures,
    live::Live,
    ownership,
    plain::plain,
    reading::Reading,
    route::Route,
    session,
    state::{App, Look, Owner},
};

#[component]
pub(crate) fn SettingsScreen() -> impl IntoView {
    let app = App::current();
    let identity = Live::new(Reading::Waiting);
    let asked = Live::new(false);
    let load = move || {
        spawn_local(async move {
            identity.set(match session::identity().await {
                Ok(known) => Reading::Here(known),
                Err(failure) => Reading::Failed(failure),
            });
        });
    };
    load();
    view! {
        <div class="page">
            <header class="page-head"><h1>"This browser"</h1></header>
            <section class="card" aria-labelledby="key-title">
                <h2 id="key-title">"Its ID"</h2>
                {move || match identity.get() {
                    Reading::Waiting => view! { <p class="faint">"…"</p> }.into_any(),
                    Reading::Failed(failure) => failure_note(&failure),
                    Reading::Here((id, kept)) => view! {
                        <div class="command">
                            <code class="whole">{id.clone()}</code>
                            <CopyButton text=Signal::stored(id) label="Copy the ID" square=true />
                        </div>
                        <p class="hint">
                            {if kept {
                                "Devices that remember this browser know it by this ID. Its key is kept \
                                 encrypted in this browser, and never leaves it."
                            } else {
                                "This browser keeps nothing for this page (private mode?): the key is gone \
                                 with the tab, and devices can not remember it."
                            }}
                        </p>
                    }.into_any(),
                }}
                <div class="actions start">
                    <button type="button" class="button danger-quiet" on:click=move |_| asked.set(true)>
                        "Forget this key…"
                    </button>
                </div>
            </section>
            <section class="card" aria-labelledby="look-title">
                <h2 id="look-title">"Appearance"</h2>
                <div class="segments" role="radiogroup" aria-labelledby="look-title">
                    {[(Look::System, "As the system"), (Look::Light, "Light"), (Look::Dark, "Dark")]
                        .map(|(look, label)| view! {
                            <label>
                                <input
                                    type="radio"
                                    name="look"
                                    prop:checked=move || app.look.get() == look
                                    on:change=move |_| {
                                        app.look.set(look);
                                        look.apply();
                                    }
                                />
                                <span>{label}</span>
                            </label>
                        }.into_any())
                        .collect_view()}
                </div>
            </section>
            <section class="card" aria-labelledby="registry-title">
                <h2 id="registry-title">"Registry"</h2>
                <dl class="facts">
                    <dt>"Address"</dt>
                    <dd>{browser::host()}</dd>
                    {move || match app.registry.get() {
                        Reading::Here(info) => {
                            let off = browser::unix_s() - info.time as f64;
                            view! {
                                <dt>"Version"</dt>
                                <dd>{plain(&info.version, 40)}</dd>
                                <dt>"Pages of a LAN"</dt>
                                <dd>{info.lan_origin.as_deref().map_or_else(
                                    || "not offered here".to_owned(), |origin| plain(origin, 80))}</dd>
                                <dt>"STUN"</dt>
                                <dd>{match info.ice_servers.iter().map(|server| server.urls.len()).sum::<usize>() {
                                    0 => "none".to_owned(),
                                    some => format!("{some} servers"),
                                }}</dd>
                                {(off.abs() > 90.0 && off.abs() < 1e8).then(|| view! {
                                    <dt>"Clock"</dt>
                                    <dd>"differs by " {figures::span(off.abs())}</dd>
                                }.into_any())}
                            }.into_any()
                        }
                        Reading::Failed(_) => view! { <dt>"State"</dt><dd>"does not answer"</dd> }.into_any(),
                        Reading::Waiting => ().into_any(),
                    }}
                    <dt>"Owner"</dt>
                    <dd>{move || match app.owner.get() {
                        Owner::Out => view! {
                            <a href="/sign-in" on:click=go(app, Route::SignIn)>"Sign in"</a>
                        }.into_any(),
                        Owner::In { .. } => view! {
                            <span>"signed in · "</span>
                            <button type="button" class="as-link" on:click=move |_| {
                                ownership::sign_out(app);
                                app.go(Route::Home);
                            }>"Sign out"</button>
                        }.into_any(),
                    }}</dd>
                </dl>
            </section>
        </div>
        {move || asked.get().then(|| view! {
            <Dialog title="Forget this browser’s key?" on_close=move || asked.set(false)>
                <div class="form">
                    <p>
                        {icon(Icon::Key)}
                        " Devices that remember this browser will ask for their password again. A new key is \
                         made with the next call."
                    </p>
                    <div class="actions">
                        <button type="button" class="button" on:click=move |_| asked.set(false)>"Keep it"</button>
                        <button type="button" class="button danger" on:click=move |_| {
                            spawn_local(async move {
                                match session::forget_identity().await {
                                    Ok(()) => app.notices.say("The key is forgotten."),
                                    Err(failure) => app.notices.complain(&failure),
                                }
                                asked.set(false);
                                load();
                            });
                        }>"Forget"</button>
                    </div>
                </div>
            </Dialog>
        }.into_any())}
    }
}
