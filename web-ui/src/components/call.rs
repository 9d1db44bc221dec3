//! A device's screen: its password, the call as it happens, and the link that comes of it.

use leptos::{prelude::*, task::spawn_local};

use super::{
    diagram::{Diagram, Phase},
    failure::failure_note,
    icon::{Icon, icon},
    link::LinkScreen,
    page_link::go,
    secret_field::SecretField,
    shown::shown_or,
    steps::Steps,
};
use crate::{
    browser::{self, LocalNetwork},
    figures,
    links::Stage,
    live::Live,
    plain::plain,
    reading::Reading,
    route::Route,
    sentence::Failure,
    session::{self, Ask},
    state::{App, Call},
    target,
};

#[component]
pub(crate) fn CallScreen(call: Call) -> impl IntoView {
    shown_or(
        move || call.is_linked(),
        move || view! { <LinkScreen call /> }.into_any(),
        move || view! { <Ringing call /> }.into_any(),
    )
}

/// What is seen until there is a link.
#[component]
fn Ringing(call: Call) -> impl IntoView {
    let app = App::current();
    let target = call.target.get_value();
    let title = {
        let target = target.clone();
        Memo::new(move |_| app.title(&target))
    };
    let phase = Memo::new(move |_| {
        call.steps
            .with(|steps| call.links.stage.with(|stage| Phase::of(stage, steps)))
    });
    // It is this device's, whatever becomes of the call.
    let given = app.link_password.try_update_value(Option::take).flatten();
    if let Some(given) = given {
        call.password.set(given);
    }
    let found = Live::new(known_here(app, call));
    let look = move || {
        let target = call.target.get_value();
        if let Err(mistake) = target::check(&target) {
            return found.set(Reading::Failed(Failure::new("bad_id", mistake)));
        }
        found.set(Reading::Waiting);
        spawn_local(async move {
            let answer = session::look_for(&target).await;
            let _ = found.try_set(match answer {
                Err(failure) if failure.is_about_the_target() => Reading::Failed(failure),
                // What else is in the way is told with the call.
                answer => Reading::Here(answer.unwrap_or_default()),
            });
        });
    };
    if found.with_untracked(|found| *found == Reading::Waiting) {
        look();
    }
    let is_name = !target.starts_with("rb1");
    let whole_id = move || {
        if is_name {
            // Whose name it is, is to be seen before a password is given for it.
            found.with(|found| match found {
                Reading::Here(id) => id.clone(),
                _ => String::new(),
            })
        } else {
            call.target.get_value()
        }
    };
    let id = target.clone();
    let presence = move || {
        app.devices.with(|devices| {
            let device = devices
                .iter()
                .find(|device| device.id == id || device.name.as_deref() == Some(id.as_str()))?;
            Some(if device.online {
                "Online now".to_owned()
            } else {
                device.last_seen.map_or("Never seen".to_owned(), |seen| {
                    format!(
                        "Offline, last seen {}",
                        figures::ago(browser::unix_s(), seen)
                    )
                })
            })
        })
    };
    view! {
        <div class="ringing" class:asking=move || call.links.stage.get() != Stage::Calling>
            <header class="ringing-head">
                <h1>{title}</h1>
                <p class="small faint">
                    <code class="whole">{move || whole_id()}</code>
                    {move || presence().map(|text| view! { <span class="presence-words">{text}</span> }.into_any())}
                </p>
            </header>
            <div class="ringing-picture">
                <Diagram phase=phase device=title direct=Signal::derive(move || match phase.get() {
                    Phase::Back => "ringing back…".to_owned(),
                    Phase::FailedBack => "no path".to_owned(),
                    _ => String::new(),
                }) />
            </div>
            <div class="ringing-side">
                {shown_or(
                    move || call.links.stage.get() == Stage::Calling,
                    move || view! { <Calling call /> }.into_any(),
                    move || view! { {move || match found.get() {
                        Reading::Waiting => view! {
                            <p class="waiting"><span class="spinner" aria-hidden="true"></span>"Asking the registry for this device…"</p>
                        }.into_any(),
                        Reading::Here(_) => view! { <Asking call /> }.into_any(),
                        Reading::Failed(failure) => no_such_device(app, failure, look),
                    }} }.into_any(),
                )}
            </div>
        </div>
    }
}

/// What is known of the device without asking for it: its ID, if it is in a list here or was called
/// before.
fn known_here(app: App, call: Call) -> Reading<String> {
    let target = call.target.get_value();
    let listed = app.devices.with_untracked(|devices| {
        let device = devices.iter().find(|device| {
            !device.revoked && (device.id == target || device.name.as_ref() == Some(&target))
        })?;
        Some(device.id.clone())
    });
    let noted = || app.contact(&target).map(|contact| contact.id.to_string());
    // After a call it is the call that tells.
    let called = || (call.links.stage.get_untracked() != Stage::Asking(None)).then(String::new);
    match noted().or(listed).or_else(called) {
        Some(id) => Reading::Here(id),
        None => Reading::Waiting,
    }
}

/// There is nothing to give a password for.
fn no_such_device(app: App, failure: Failure, look: impl Fn() + 'static) -> AnyView {
    let (title, advice) = failure.sentence(browser::unix_s());
    // The mistake itself says more than what it means in general.
    let mistyped = failure.is("bad_id");
    let advice = if mistyped { failure.detail } else { advice };
    view! {
        <div class="note bad" role="alert">
            {icon(Icon::Warning)}
            <div>
                <p class="note-title">{title}</p>
                <p>{advice}</p>
            </div>
        </div>
        <div class="actions start">
            <a class="button" href="/" on:click=go(app, Route::Home)>"Another device"</a>
            {(!mistyped).then(|| view! {
                <button type="button" class="button" on:click=move |_| look()>{icon(Icon::Reload)} <span>"Look again"</span></button>
            }.into_any())}
        </div>
    }
    .into_any()
}

/// The password, and what else is to be known before a call.
#[component]
fn Asking(call: Call) -> impl IntoView {
    let app = App::current();
    let target = call.target.get_value();
    let password = call.password;
    let with_link = !password.get_untracked().is_empty();
    let failure = Memo::new(move |_| match call.links.stage.get() {
        Stage::Asking(failure) => failure,
        Stage::Ended(failure) => Some(failure),
        _ => None,
    });
    let known = {
        let target = target.clone();
        Memo::new(move |_| {
            let refused = failure.with(|failure| {
                failure
                    .as_ref()
                    .is_some_and(|failure| failure.is("unknown_caller"))
            });
            !refused
                && app
                    .contact(&target)
                    .is_some_and(|contact| contact.remembered)
        })
    };
    let by_password = Live::new(with_link);
    let remember = Live::new(false);
    let network = Live::new(LocalNetwork::Free);
    spawn_local(async move { network.set(browser::local_network().await) });
    let asks_password = move || !known.get() || by_password.get();
    let ring = move |accept_new_key: bool| {
        let given = password.get_untracked();
        if asks_password() && given.is_empty() {
            browser::focus("password");
            return;
        }
        call.start(
            app,
            Ask {
                password: asks_password().then_some(given),
                remember: remember.get_untracked(),
                accept_new_key,
            },
        );
    };
    let wrong = failure.with_untracked(|failure| {
        failure
            .as_ref()
            .is_some_and(|failure| failure.is("wrong_password"))
    });
    let ready = !wrong && (with_link || known.get_untracked());
    browser::focus(if ready { "call" } else { "password" });
    let submit = move |event: web_sys::SubmitEvent| {
        event.prevent_default();
        ring(false);
    };
    let with_password = move || {
        view! {
            <SecretField id="password" label="Password of the device" value=password autocomplete="current-password" />
            <label class="check">
                <input
                    type="checkbox"
                    prop:checked=move || remember.get()
                    on:change=move |event| remember.set(browser::input_checked(&event))
                />
                <span>
                    "Remember this browser on the device"
                    <span class="hint">"Next time it calls without a password."</span>
                </span>
            </label>
        }
        .into_any()
    };
    let without = move || {
        view! {
            <p>
                {icon(Icon::Key)}
                " The device knows this browser: no password is needed. "
                <button type="button" class="as-link" on:click=move |_| {
                    by_password.set(true);
                    browser::focus("password");
                }>"Use the password"</button>
            </p>
        }
        .into_any()
    };
    let key_changed = move || {
        failure
            .get()
            .filter(|failure| failure.is("key_changed"))
            .map(|failure| view! { <KeyChanged failure ring=move || ring(true) /> }.into_any())
    };
    let other = move || {
        failure
            .get()
            .filter(|failure| !failure.is("key_changed"))
            .as_ref()
            .map(failure_note)
    };
    view! {
        {move || key_changed()}
        {move || other()}
        <form class="card form" on:submit=submit>
            <input class="away" type="text" name="username" autocomplete="username" value=target tabindex="-1" aria-hidden="true" readonly=true />
            {shown_or(asks_password, with_password, without)}
            <button id="call" type="submit" class="button primary wide" aria-describedby="network-note">
                {move || if failure.with(Option::is_some) { "Call again" } else { "Call" }}
            </button>
            <div id="network-note">{move || match network.get() {
                LocalNetwork::Free => ().into_any(),
                LocalNetwork::Asks => view! {
                    <div class="note">
                        {icon(Icon::Browser)}
                        <div>
                            <p class="note-title">"The browser will ask about devices on your local network."</p>
                            <p>
                                "Choose “Allow” to reach this device directly when it is near. \
                                 Nothing else on your network is looked at."
                            </p>
                        </div>
                    </div>
                }.into_any(),
                LocalNetwork::Denied => view! {
                    <div class="note warn">
                        {icon(Icon::Warning)}
                        <div>
                            <p class="note-title">"This page may not reach your local network."</p>
                            <p>
                                "Devices elsewhere work. For one that is near, allow “Local network” in the \
                                 site settings beside the address."
                            </p>
                        </div>
                    </div>
                }.into_any(),
            }}</div>
            <p class="hint">
                {icon(Icon::Lock)}
                " The password stays in this tab. What is sent proves it without showing it, to the device only."
            </p>
        </form>
    }
}

/// The warning that stops a call to a name whose key is another one now.
#[component]
fn KeyChanged(failure: Failure, ring: impl Fn() + 'static) -> impl IntoView {
    let sure = Live::new(false);
    let new = plain(&failure.new_device.unwrap_or_default(), 80);
    view! {
        <div class="note bad" role="alert">
            {icon(Icon::Warning)}
            <div>
                <p class="note-title">"This name now belongs to another key."</p>
                <p>
                    "Either somebody has set the device up anew, or somebody is posing as it. Nothing was \
                     sent. Ask whoever runs the device whether its ID is now:"
                </p>
                <p><code class="whole">{new}</code></p>
                <label class="check">
                    <input
                        type="checkbox"
                        prop:checked=move || sure.get()
                        on:change=move |event| sure.set(browser::input_checked(&event))
                    />
                    <span>"I have checked it, and this is the device I mean"</span>
                </label>
                <button type="button" class="button danger" disabled=move || !sure.get() on:click=move |_| ring()>
                    "Accept the new key and call"
                </button>
            </div>
        </div>
    }
}

/// The call as it happens.
#[component]
fn Calling(call: Call) -> impl IntoView {
    browser::focus("cancel");
    view! {
        <div class="card">
            <h2 class="visually-hidden">"The call"</h2>
            <Steps steps=Signal::derive(move || call.steps.get()) going=Signal::stored(true) />
            <div class="actions">
                <button id="cancel" type="button" class="button" on:click=move |_| call.cancel()>"Cancel"</button>
            </div>
        </div>
    }
}
