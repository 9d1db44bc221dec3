//! The owner's devices, live.

use leptos::{prelude::*, task::spawn_local};

use super::{
    device_form::DeviceForm,
    dialog::{CopyButton, Dialog},
    enrol::EnrolDialog,
    failure::failure_note,
    icon::{Icon, icon},
    page_link::go,
    shown::{rows, shown, shown_or},
};
use crate::{
    browser::{self, Keep},
    figures,
    live::Live,
    order::sorted,
    owner::{self, Device},
    plain::plain,
    ranking::{Order, Ranked, is_found},
    route::Route,
    sentence::Failure,
    state::{App, Presence},
};

/// What is asked about one device.
#[derive(Clone, PartialEq)]
enum Asked {
    Nothing,
    Enrol,
    Rename(Device),
    Revoke(Device),
}

#[component]
pub(crate) fn DevicesScreen() -> impl IntoView {
    let app = App::current();
    let asked = Live::new(Asked::Nothing);
    let active = Memo::new(move |_| {
        app.devices.with(|list| {
            list.iter()
                .filter(|it| !it.revoked)
                .cloned()
                .collect::<Vec<_>>()
        })
    });
    let revoked = Memo::new(move |_| {
        app.devices.with(|list| {
            list.iter()
                .filter(|it| it.revoked)
                .cloned()
                .collect::<Vec<_>>()
        })
    });
    let wanted = Live::new(Keep::Tab.read(WANTED).unwrap_or_default());
    let order = Live::new(Order::named(&Keep::Browser.read(ORDER).unwrap_or_default()));
    let chosen = Memo::new(move |_| {
        let found = active.with(|list| {
            wanted.with(|wanted| {
                let all = list.iter();
                all.filter(|it| is_wanted(wanted, it))
                    .cloned()
                    .collect::<Vec<_>>()
            })
        });
        let order = order.get();
        sorted(found, |device| {
            order.place(Ranked {
                title: &device.title(),
                online: device.online,
                last_seen: device.last_seen,
            })
        })
    });
    let is_long = Memo::new(move |_| active.with(Vec::len) > FEW);
    let summary = move || {
        let all = active.with(Vec::len);
        let online = active.with(|list| list.iter().filter(|it| it.online).count());
        let found = chosen.with(Vec::len);
        match (app.presence.get(), all) {
            (Presence::Lost, _) => "No connection to the registry. Trying again…".to_owned(),
            (Presence::Connecting, 0) => "Asking the registry…".to_owned(),
            (_, 0) => "No devices yet".to_owned(),
            (_, all) if found < all => format!("{found} of {all} found"),
            (_, all) => format!("{online} of {all} online"),
        }
    };
    let row = move |device| view! { <DeviceRow device asked /> }.into_any();
    view! {
        <div class="page">
            <header class="page-head">
                <div>
                    <h1>"Devices"</h1>
                    <p class="lead small" role="status">{move || summary()}</p>
                </div>
                <button type="button" class="button primary" on:click=move |_| asked.set(Asked::Enrol)>
                    {icon(Icon::Plus)} <span>"Add a device"</span>
                </button>
            </header>
            {shown(move || is_long.get(), move || view! { <Finding wanted order chosen /> }.into_any())}
            {shown_or(
                move || !active.with(Vec::is_empty),
                move || view! {
                    {shown(move || !chosen.with(Vec::is_empty), move || view! {
                        <ul class="devices" id="device-list">{rows(move || chosen.get(), state_of, row)}</ul>
                    }.into_any())}
                    {shown(move || chosen.with(Vec::is_empty), move || view! {
                        <div class="card empty small-empty">
                            <p>"No device has that in its name, ID or version."</p>
                            <button type="button" class="button small" on:click=move |_| {
                                look_for(wanted, String::new());
                                browser::focus("find-device");
                            }>"Show all"</button>
                        </div>
                    }.into_any())}
                }.into_any(),
                move || view! { <NoDevices asked /> }.into_any(),
            )}
            {shown(move || !revoked.with(Vec::is_empty), move || view! {
                <details class="revoked">
                    <summary>{move || format!("Revoked ({})", revoked.with(Vec::len))}</summary>
                    <ul class="devices">{rows(move || revoked.get(), |device| device.id.clone(), revoked_row)}</ul>
                </details>
            }.into_any())}
            <section class="other" aria-labelledby="other">
                <h2 id="other">"Another device"</h2>
                <DeviceForm />
            </section>
        </div>
        {move || match asked.get() {
            Asked::Nothing => ().into_any(),
            Asked::Enrol => view! { <EnrolDialog on_close=move || asked.set(Asked::Nothing) /> }.into_any(),
            Asked::Rename(device) => view! { <RenameDialog device asked /> }.into_any(),
            Asked::Revoke(device) => view! { <RevokeDialog device asked /> }.into_any(),
        }}
    }
}

/// Where the words that are looked for are kept: as long as the tab, so that they are there again
/// behind a device that was opened.
const WANTED: &str = "ringback.devices.wanted";
/// Where the order is kept.
const ORDER: &str = "ringback.devices.order";
/// Devices that are seen at a glance.
const FEW: usize = 7;

fn is_wanted(wanted: &str, device: &Device) -> bool {
    let texts = [
        device.name.as_deref().unwrap_or_default(),
        device.id.as_str(),
        device.agent.as_deref().unwrap_or_default(),
    ];
    is_found(wanted, &texts)
}

fn look_for(wanted: Live<String>, words: String) {
    Keep::Tab.write(WANTED, &words);
    wanted.set(words);
}

/// Search and order of a long list.
#[component]
fn Finding(wanted: Live<String>, order: Live<Order>, chosen: Memo<Vec<Device>>) -> impl IntoView {
    let app = App::current();
    let submit = move |event: web_sys::SubmitEvent| {
        event.prevent_default();
        // The only one that is left is meant.
        let only = chosen.with_untracked(|list| match list.as_slice() {
            [device] => Some(device.id.clone()),
            _ => None,
        });
        if let Some(id) = only {
            app.go(Route::Device(id));
        }
    };
    let choice = move |it: Order| {
        view! { <option value=it.name() selected=move || order.get() == it>{it.words()}</option> }
            .into_any()
    };
    view! {
        <form class="finding" role="search" aria-label="Devices" on:submit=submit>
            <label class="visually-hidden" for="find-device">"Search devices"</label>
            <input
                id="find-device"
                type="search"
                autocomplete="off"
                autocapitalize="none"
                spellcheck="false"
                enterkeyhint="search"
                placeholder="Search by name, ID or version"
                aria-controls="device-list"
                prop:value=move || wanted.get()
                on:input=move |event| look_for(wanted, browser::input_value(&event))
            />
            <label for="order-devices">"Order"</label>
            <select id="order-devices" on:change=move |event| {
                let name = browser::input_value(&event);
                Keep::Browser.write(ORDER, &name);
                order.set(Order::named(&name));
            }>
                {Order::ALL.into_iter().map(choice).collect_view()}
            </select>
        </form>
    }
}

/// All that a row shows: it is made anew whenever anything in it has changed.
fn state_of(device: &Device) -> String {
    let seen = device.last_seen.map(|seen| seen as u64);
    format!(
        "{} {:?} {} {} {:?} {:?} {seen:?}",
        device.id, device.name, device.online, device.silent, device.agent, device.via
    )
}

fn revoked_row(device: Device) -> AnyView {
    view! {
        <li class="device off">
            <span class="device-words">
                <span class="name">{plain(&device.title(), 64)}</span>
                <span class="small"><code>{figures::short_id(&device.id)}</code></span>
            </span>
        </li>
    }
    .into_any()
}

#[component]
fn NoDevices(asked: Live<Asked>) -> impl IntoView {
    let app = App::current();
    let how = move || {
        view! {
            <div class="card empty">
                <span class="empty-sign">{icon(Icon::Device)}</span>
                <h2>"Add your first device"</h2>
                <p>
                    "Run one command on it, and it appears here. It needs no open port, \
                     only a way out to this registry."
                </p>
                <button type="button" class="button" on:click=move |_| asked.set(Asked::Enrol)>
                    "Get the command"
                </button>
            </div>
        }
        .into_any()
    };
    shown(move || app.presence.get() == Presence::Live, how)
}

#[component]
fn DeviceRow(device: Device, asked: Live<Asked>) -> impl IntoView {
    let app = App::current();
    let route = Route::Device(device.id.clone());
    let title = plain(&device.title(), 64);
    let state = if device.online {
        match device.via.as_deref() {
            Some("beacon") => "Online through a beacon".to_owned(),
            _ => "Online".to_owned(),
        }
    } else {
        match device.last_seen {
            Some(seen) if device.silent => format!(
                "Not heard of for {}",
                figures::span((browser::unix_s() - seen).max(0.0))
            ),
            Some(seen) => format!("Last seen {}", figures::ago(browser::unix_s(), seen)),
            None => "Never seen".to_owned(),
        }
    };
    let beacon = device.role == "beacon";
    let agent = device.agent.as_deref().map(|agent| plain(agent, 40));
    let (to_rename, to_revoke) = (device.clone(), device.clone());
    let id = device.id.clone();
    let (rename_label, revoke_label) = (format!("Rename {title}"), format!("Revoke {title}"));
    view! {
        <li class="device" class:off=!device.online>
            <span class="presence" class:online=device.online aria-hidden="true"></span>
            <a class="device-words" href=route.path() on:click=go(app, route)>
                <span class="name">{title}</span>
                {beacon.then(|| view! { <span class="tag">"beacon"</span> }.into_any())}
                <span class="small">{state}</span>
            </a>
            <span class="device-facts small">
                <code title=device.id.clone()>{figures::short_id(&device.id)}</code>
                <span>{agent}</span>
            </span>
            <span class="device-tools">
                <CopyButton text=Signal::stored(format!("{}/d/{id}", browser::origin())) label="Copy the device’s link" square=true />
                <button type="button" class="quiet square" aria-label=rename_label
                    on:click=move |_| asked.set(Asked::Rename(to_rename.clone()))>
                    {icon(Icon::Pencil)}
                </button>
                <button type="button" class="quiet square" aria-label=revoke_label
                    on:click=move |_| asked.set(Asked::Revoke(to_revoke.clone()))>
                    {icon(Icon::Trash)}
                </button>
            </span>
        </li>
    }
}

#[component]
fn RenameDialog(device: Device, asked: Live<Asked>) -> impl IntoView {
    let app = App::current();
    let name = Live::new(device.name.clone().unwrap_or_default());
    let failure = Live::new(None::<Failure>);
    let id = device.id.clone();
    browser::focus("new-name");
    let submit = move |event: web_sys::SubmitEvent| {
        event.prevent_default();
        let (id, wanted) = (id.clone(), name.get_untracked().trim().to_ascii_lowercase());
        spawn_local(async move {
            let Some(secret) = app.secret() else { return };
            match owner::rename(&secret, &id, &wanted).await {
                Ok(()) => {
                    app.devices.update(|devices| {
                        if let Some(device) = devices.iter_mut().find(|device| device.id == id) {
                            device.name = Some(wanted.clone());
                        }
                    });
                    asked.set(Asked::Nothing);
                }
                Err(reason) => failure.set(Some(reason)),
            }
        });
    };
    view! {
        <Dialog title="Rename" on_close=move || asked.set(Asked::Nothing)>
            <form class="form" on:submit=submit>
                <div class="field">
                    <label for="new-name">"Name"</label>
                    <input
                        id="new-name"
                        type="text"
                        maxlength="63"
                        pattern="[a-zA-Z0-9]([a-zA-Z0-9\\-]*[a-zA-Z0-9])?"
                        required=true
                        autocomplete="off"
                        autocapitalize="none"
                        spellcheck="false"
                        aria-describedby="new-name-hint"
                        prop:value=move || name.get()
                        on:input=move |event| name.set(browser::input_value(&event))
                    />
                    <p id="new-name-hint" class="hint">"Letters, digits and dashes. Callers use it in place of the ID."</p>
                </div>
                {move || failure.get().as_ref().map(failure_note)}
                <div class="actions">
                    <button type="button" class="button" on:click=move |_| asked.set(Asked::Nothing)>"Cancel"</button>
                    <button type="submit" class="button primary">"Rename"</button>
                </div>
            </form>
        </Dialog>
    }
}

#[component]
fn RevokeDialog(device: Device, asked: Live<Asked>) -> impl IntoView {
    let app = App::current();
    let failure = Live::new(None::<Failure>);
    let title = plain(&device.title(), 64);
    let id = device.id.clone();
    let revoke = move |_| {
        let id = id.clone();
        spawn_local(async move {
            let Some(secret) = app.secret() else { return };
            match owner::revoke(&secret, &id).await {
                Ok(()) => {
                    app.devices.update(|devices| {
                        if let Some(device) = devices.iter_mut().find(|device| device.id == id) {
                            device.revoked = true;
                            device.online = false;
                        }
                    });
                    asked.set(Asked::Nothing);
                }
                Err(reason) => failure.set(Some(reason)),
            }
        });
    };
    view! {
        <Dialog title=format!("Revoke {title}?") on_close=move || asked.set(Asked::Nothing)>
            <div class="form">
                <p>
                    "It is disconnected at once and can not be called any more, by anybody. To bring it \
                     back, enrol it anew with a fresh code. Nothing on the device is changed."
                </p>
                {move || failure.get().as_ref().map(failure_note)}
                <div class="actions">
                    <button type="button" class="button" on:click=move |_| asked.set(Asked::Nothing)>"Keep it"</button>
                    <button type="button" class="button danger" on:click=revoke>"Revoke"</button>
                </div>
            </div>
        </Dialog>
    }
}
