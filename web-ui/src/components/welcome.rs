//! The first screen of somebody who has no account here: a device's link, ID or name.

use leptos::prelude::*;

use super::{
    device_form::DeviceForm,
    diagram::{Diagram, Phase},
    icon::{Icon, icon},
    page_link::go,
    shown::shown,
};
use crate::{browser, figures, reading::Reading, route::Route, state::App};

#[component]
pub(crate) fn WelcomeScreen() -> impl IntoView {
    let app = App::current();
    view! {
        <div class="welcome">
            <section class="welcome-words">
                <h1>"Ring your device." <br /> "It calls you back."</h1>
                <p class="lead">
                    "Terminal, files and web pages of any device you have a password for, straight \
                     from this tab. Nothing to install, and nothing in between: the registry only \
                     passes on a sealed request."
                </p>
                <DeviceForm />
                <Unreachable />
                <p class="aside">
                    "Is this registry yours? "
                    <a href="/sign-in" on:click=go(app, Route::SignIn)>"Sign in as its owner"</a>
                    " to see and enrol devices."
                </p>
            </section>
            <section class="welcome-picture" aria-label="How a call goes">
                <Diagram
                    phase=Signal::stored(Phase::Linked)
                    device=Signal::stored("Your device".to_owned())
                    direct=Signal::stored("direct and encrypted".to_owned())
                />
            </section>
            <Recent />
        </div>
    }
}

/// Says so at once if the registry does not answer: nothing else works then.
#[component]
fn Unreachable() -> impl IntoView {
    let app = App::current();
    view! {
        {move || match app.registry.get() {
            Reading::Failed(failure) => super::failure::failure_note(&failure),
            _ => ().into_any(),
        }}
    }
}

/// Devices that were called from this browser.
#[component]
fn Recent() -> impl IntoView {
    let app = App::current();
    let list = move || {
        app.contacts
            .get()
            .into_iter()
            .take(6)
            .map(|contact| {
                let id = contact.id.to_string();
                let name = app.title(&id);
                let route = Route::Device(id);
                let when = figures::ago(browser::unix_s(), contact.last_used_ms / 1000.0);
                view! {
                    <li>
                        <a class="card-link" href=route.path() on:click=go(app, route)>
                            {icon(Icon::Device)}
                            <span class="card-words">
                                <span class="name">{name}</span>
                                <span class="small">"Called " {when}</span>
                            </span>
                            {icon(Icon::Right)}
                        </a>
                    </li>
                }
                .into_any()
            })
            .collect_view()
    };
    let section = move || {
        view! {
            <section class="recent" aria-labelledby="recent">
                <h2 id="recent">"Called from this browser"</h2>
                <ul class="cards">{move || list()}</ul>
            </section>
        }
        .into_any()
    };
    shown(move || !app.contacts.with(Vec::is_empty), section)
}
