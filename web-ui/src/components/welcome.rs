//! The first screen of somebody who has no account here: a device's link, ID or name.

use leptos::{prelude::*, task::spawn_local};

use super::{
    diagram::{Diagram, Phase},
    icon::{Icon, icon},
    shown::shown,
};
use crate::{
    app::go,
    browser, figures,
    live::Live,
    plain::plain,
    route::{Pasted, Route},
    session,
    state::{App, Reading},
    target,
};

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

/// The field for a link, an ID or a name.
#[component]
pub(crate) fn DeviceForm() -> impl IntoView {
    let app = App::current();
    let text = Live::new(String::new());
    let wrong = Live::new(None::<String>);
    let busy = Live::new(false);
    let submit = move |event: web_sys::SubmitEvent| {
        event.prevent_default();
        let given = text.get_untracked();
        let pasted = match meant(&given) {
            Ok(pasted) => pasted,
            Err(mistake) => {
                wrong.set(Some(mistake));
                browser::focus("device");
                return;
            }
        };
        if busy.get_untracked() {
            return;
        }
        busy.set(true);
        spawn_local(async move {
            let found = session::look_for(&pasted.target).await;
            let _ = busy.try_set(false);
            // It was left or typed into meanwhile.
            if text.try_get_untracked().as_ref() != Some(&given) {
                return;
            }
            match found {
                Err(failure) if failure.is_about_the_target() => {
                    let (title, advice) = failure.sentence(browser::unix_s());
                    wrong.set(Some(format!("{title} {advice}")));
                    browser::focus("device");
                }
                // What else is in the way is told with the call.
                _ => {
                    if pasted.password.is_some() {
                        app.link_password.set_value(pasted.password);
                    }
                    app.go(Route::Device(pasted.target));
                }
            }
        });
    };
    view! {
        <form class="device-form" on:submit=submit novalidate=true>
            <label for="device">"Device link, ID or name"</label>
            <div class="row">
                <input
                    id="device"
                    name="device"
                    type="text"
                    autocomplete="off"
                    autocapitalize="none"
                    spellcheck="false"
                    placeholder="rb1… or nas"
                    aria-describedby="device-wrong"
                    aria-invalid=move || wrong.get().map(|_| "true")
                    prop:value=move || text.get()
                    on:input=move |event| {
                        text.set(browser::input_value(&event));
                        wrong.set(None);
                    }
                />
                <button type="submit" class="button primary" aria-busy=move || busy.get().to_string()>
                    {move || if busy.get() { "Looking…" } else { "Continue" }}
                </button>
            </div>
            <p id="device-wrong" class="wrong" role="alert">{move || wrong.get()}</p>
        </form>
    }
}

/// What is given in the field, or what is wrong with it.
fn meant(text: &str) -> Result<Pasted, String> {
    let pasted = Pasted::parse(text)
        .ok_or("This is not a device’s link, ID or name. IDs begin with rb1.")?;
    if let Some(other) = pasted
        .origin
        .as_deref()
        .filter(|origin| *origin != browser::origin())
    {
        return Err(format!(
            "This link belongs to another registry. Open it at {}.",
            plain(other, 80)
        ));
    }
    target::check(&pasted.target)?;
    Ok(pasted)
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
