//! Bringing a device into the registry: a single-use code and the command to run there.

use leptos::{prelude::*, task::spawn_local};

use super::{
    dialog::{CopyButton, Dialog},
    failure::failure_note,
    icon::{Icon, icon},
    page_link::go,
    qr::qr,
};
use crate::{
    browser, figures,
    live::{Kept, Live},
    owner::{self, Code},
    plain::plain,
    route::Route,
    sentence::Failure,
    state::App,
};

#[component]
pub(crate) fn EnrolDialog(#[prop(into)] on_close: Callback<()>) -> impl IntoView {
    let code = Live::new(None::<Code>);
    view! {
        <Dialog title="Add a device" on_close>
            {move || match code.get() {
                None => view! { <NameForm code /> }.into_any(),
                Some(code) => view! { <Command code /> }.into_any(),
            }}
        </Dialog>
    }
}

#[component]
fn NameForm(code: Live<Option<Code>>) -> impl IntoView {
    let app = App::current();
    let name = Live::new(String::new());
    let failure = Live::new(None::<Failure>);
    browser::focus("enrol-name");
    let submit = move |event: web_sys::SubmitEvent| {
        event.prevent_default();
        let wanted = name.get_untracked().trim().to_ascii_lowercase();
        spawn_local(async move {
            let Some(secret) = app.secret() else { return };
            let wanted = (!wanted.is_empty()).then_some(wanted.as_str());
            match owner::enrolment_code(&secret, wanted).await {
                Ok(made) => code.set(Some(made)),
                Err(reason) => failure.set(Some(reason)),
            }
        });
    };
    view! {
        <form class="form" on:submit=submit>
            <div class="field">
                <label for="enrol-name">"Name " <span class="faint">"(may be left empty)"</span></label>
                <input
                    id="enrol-name"
                    type="text"
                    maxlength="63"
                    placeholder="nas"
                    pattern="[a-zA-Z0-9]([a-zA-Z0-9\\-]*[a-zA-Z0-9])?"
                    autocomplete="off"
                    autocapitalize="none"
                    spellcheck="false"
                    prop:value=move || name.get()
                    on:input=move |event| name.set(browser::input_value(&event))
                />
            </div>
            {move || failure.get().as_ref().map(failure_note)}
            <div class="actions">
                <button type="submit" class="button primary">"Make the code"</button>
            </div>
        </form>
    }
}

#[component]
fn Command(code: Code) -> impl IntoView {
    let app = App::current();
    let command = format!(
        "ringback up --registry {} --enroll {}",
        browser::origin(),
        code.code
    );
    // The device that this code brings in is the one that was not there when it was made.
    let before = Kept::new(app.devices.with_untracked(|devices| {
        devices
            .iter()
            .map(|device| (device.id.clone(), device.revoked))
            .collect::<Vec<_>>()
    }));
    let arrived = Memo::new(move |_| {
        app.devices.with(|devices| {
            devices
                .iter()
                .find(|device| {
                    !device.revoked
                        && before.with_value(|before| !before.contains(&(device.id.clone(), false)))
                })
                .cloned()
        })
    });
    let lasts = figures::span(code.expires_at - browser::unix_s());
    let shown = command.clone();
    view! {
        <div class="form">
            <p>"Run this on the device. It prints the password that you will need here."</p>
            <div class="command">
                <code>{shown}</code>
                <CopyButton text=Signal::stored(command.clone()) label="Copy the command" square=true />
            </div>
            <div class="enrol-code">
                {qr(&command, "The command as a QR code")}
                <div>
                    <p class="small">"Enrolment code"</p>
                    <p class="code">{code.code.clone()}</p>
                    <p class="small">"Works once, within " {lasts} "."</p>
                    <p class="small">
                        "To let it answer a terminal or files here: "
                        <code>"ringback expose shell"</code> ", "
                        <code>"ringback expose docs files:DIR"</code> "."
                    </p>
                </div>
            </div>
            <div role="status">
                {move || match arrived.get() {
                    None => view! {
                        <p class="waiting"><span class="spinner" aria-hidden="true"></span>"Waiting for the device…"</p>
                    }.into_any(),
                    Some(device) => {
                        let route = Route::Device(device.id.clone());
                        view! {
                            <div class="note good">
                                {icon(Icon::Check)}
                                <div>
                                    <p class="note-title">{plain(&device.title(), 64)} " is here."</p>
                                    <p><a href=route.path() on:click=go(app, route)>"Call it"</a></p>
                                </div>
                            </div>
                        }.into_any()
                    }
                }}
            </div>
        </div>
    }
}
