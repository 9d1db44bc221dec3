//! Devices that this browser has called.

use leptos::{prelude::*, task::spawn_local};

use super::{
    dialog::Dialog,
    icon::{Icon, icon},
    page_link::go,
    shown::shown_or,
};
use crate::{browser, figures, live::Live, route::Route, session, state::App, target};

/// What is asked about one contact, by ID.
#[derive(Clone, PartialEq)]
enum Asked {
    Nothing,
    /// With the name that it has now.
    Name(String, String),
    Forget(String, String),
}

#[component]
pub(crate) fn ContactsScreen() -> impl IntoView {
    let app = App::current();
    let asked = Live::new(Asked::Nothing);
    let row = move |contact: ringback_wasm::Contact| {
        let id = contact.id.to_string();
        let name = app.title(&id);
        let route = Route::Device(id.clone());
        let when = figures::ago(browser::unix_s(), contact.last_used_ms / 1000.0);
        let (forget_id, forget_name) = (id.clone(), name.clone());
        let (to_name, own_name) = (id.clone(), contact.name.unwrap_or_default());
        let label = format!("Forget {name}");
        let name_label = format!("Name {name}");
        view! {
            <li class="device">
                <a class="device-words" href=route.path() on:click=go(app, route)>
                    <span class="name">{name}</span>
                    <span class="small">"Called " {when}</span>
                </a>
                <span class="device-facts small">
                    <code title=id.clone()>{figures::short_id(&id)}</code>
                    <span>{if contact.remembered { "Knows this browser" } else { "Asks for its password" }}</span>
                </span>
                <span class="device-tools">
                    <button type="button" class="quiet square" aria-label=name_label
                        on:click=move |_| asked.set(Asked::Name(to_name.clone(), own_name.clone()))>
                        {icon(Icon::Pencil)}
                    </button>
                    <button type="button" class="quiet square" aria-label=label
                        on:click=move |_| asked.set(Asked::Forget(forget_id.clone(), forget_name.clone()))>
                        {icon(Icon::Trash)}
                    </button>
                </span>
            </li>
        }
        .into_any()
    };
    let contacts = move || app.contacts.get().into_iter().map(row).collect_view();
    let list = move || view! { <ul class="devices">{move || contacts()}</ul> }.into_any();
    let nobody = || {
        view! {
            <div class="card empty">
                <span class="empty-sign">{icon(Icon::Person)}</span>
                <h2>"Nobody yet"</h2>
                <p>"A device comes here with its first call, and its key is remembered: should another key answer to its name, you are warned."</p>
            </div>
        }
        .into_any()
    };
    view! {
        <div class="page">
            <header class="page-head">
                <div>
                    <h1>"Contacts"</h1>
                    <p class="lead small">
                        "Devices that were called from this browser, with the keys that they must prove."
                    </p>
                </div>
            </header>
            {shown_or(move || !app.contacts.with(Vec::is_empty), list, nobody)}
        </div>
        {move || match asked.get() {
            Asked::Nothing => ().into_any(),
            Asked::Name(id, name) => view! { <NameDialog id name asked /> }.into_any(),
            Asked::Forget(id, name) => view! { <ForgetDialog id name asked /> }.into_any(),
        }}
    }
}

#[component]
fn NameDialog(id: String, name: String, asked: Live<Asked>) -> impl IntoView {
    let app = App::current();
    let given = Live::new(name);
    let wrong = Live::new(None::<String>);
    browser::focus("contact-name");
    let submit = move |event: web_sys::SubmitEvent| {
        event.prevent_default();
        let wanted = given.get_untracked().trim().to_ascii_lowercase();
        let name = (!wanted.is_empty()).then_some(wanted);
        if let Some(Err(mistake)) = name.as_deref().map(target::check_name) {
            wrong.set(Some(mistake));
            browser::focus("contact-name");
            return;
        }
        let id = id.clone();
        spawn_local(async move {
            if let Err(failure) = session::name_contact(app, &id, name).await {
                app.notices.complain(&failure);
            }
            asked.set(Asked::Nothing);
        });
    };
    view! {
        <Dialog title="Name" on_close=move || asked.set(Asked::Nothing)>
            <form class="form" on:submit=submit novalidate=true>
                <div class="field">
                    <label for="contact-name">"Name"</label>
                    <input
                        id="contact-name"
                        type="text"
                        maxlength="63"
                        autocomplete="off"
                        autocapitalize="none"
                        spellcheck="false"
                        aria-describedby="contact-name-hint contact-name-wrong"
                        aria-invalid=move || wrong.get().map(|_| "true")
                        prop:value=move || given.get()
                        on:input=move |event| {
                            given.set(browser::input_value(&event));
                            wrong.set(None);
                        }
                    />
                    <p id="contact-name-wrong" class="wrong" role="alert">{move || wrong.get()}</p>
                    <p id="contact-name-hint" class="hint">
                        "In this browser the device is called by it, whatever it calls itself. Empty: \
                         by what it says."
                    </p>
                </div>
                <div class="actions">
                    <button type="button" class="button" on:click=move |_| asked.set(Asked::Nothing)>"Cancel"</button>
                    <button type="submit" class="button primary">"Save"</button>
                </div>
            </form>
        </Dialog>
    }
}

#[component]
fn ForgetDialog(id: String, name: String, asked: Live<Asked>) -> impl IntoView {
    let app = App::current();
    view! {
        <Dialog title=format!("Forget {name}?") on_close=move || asked.set(Asked::Nothing)>
            <div class="form">
                <p>
                    "This browser forgets its name and key. The device goes on remembering this \
                     browser if it did: take that back on the device with "
                    <code>"ringback callers"</code> "."
                </p>
                <div class="actions">
                    <button type="button" class="button" on:click=move |_| asked.set(Asked::Nothing)>"Keep"</button>
                    <button type="button" class="button danger" on:click=move |_| {
                        let id = id.clone();
                        spawn_local(async move {
                            if let Err(failure) = session::forget_contact(app, &id).await {
                                app.notices.complain(&failure);
                            }
                            asked.set(Asked::Nothing);
                        });
                    }>"Forget"</button>
                </div>
            </div>
        </Dialog>
    }
}
