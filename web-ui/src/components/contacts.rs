//! Devices that this browser has called.

use leptos::{prelude::*, task::spawn_local};

use super::{
    dialog::Dialog,
    icon::{Icon, icon},
    shown::shown_or,
};
use crate::{
    app::go, browser, figures, live::Live, plain::plain, route::Route, session, state::App,
};

#[component]
pub(crate) fn ContactsScreen() -> impl IntoView {
    let app = App::current();
    let asked = Live::new(None::<(String, String)>);
    let row = move |contact: ringback_wasm::Contact| {
        let id = contact.id.to_string();
        let name = contact
            .name
            .as_deref()
            .map_or_else(|| figures::short_id(&id), |name| plain(name, 64));
        let route = Route::Device(id.clone());
        let when = figures::ago(browser::unix_s(), contact.last_used_ms / 1000.0);
        let (forget_id, forget_name) = (id.clone(), name.clone());
        let label = format!("Forget {name}");
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
                    <button type="button" class="quiet square" aria-label=label
                        on:click=move |_| asked.set(Some((forget_id.clone(), forget_name.clone())))>
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
        {move || asked.get().map(|(id, name)| view! {
            <Dialog title=format!("Forget {name}?") on_close=move || asked.set(None)>
                <div class="form">
                    <p>
                        "This browser forgets its name and key. The device goes on remembering this \
                         browser if it did: take that back on the device with "
                        <code>"ringback callers"</code> "."
                    </p>
                    <div class="actions">
                        <button type="button" class="button" on:click=move |_| asked.set(None)>"Keep"</button>
                        <button type="button" class="button danger" on:click=move |_| {
                            let id = id.clone();
                            spawn_local(async move {
                                if let Err(failure) = session::forget_contact(app, &id).await {
                                    app.complain(&failure);
                                }
                                asked.set(None);
                            });
                        }>"Forget"</button>
                    </div>
                </div>
            </Dialog>
        }.into_any())}
    }
}
