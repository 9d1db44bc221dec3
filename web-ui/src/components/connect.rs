//! Two agents: this device calls another one and opens a local port there. The bytes do not pass
//! through this browser; the port lives as long as this tab asks for it.

use leptos::{prelude::*, task::spawn_local};
use ringback_protocol::service::{
    FrameBuffer,
    dial::{Dial, DialEvent, DialKind},
};
use ringback_wasm::{Mode, Service, Stream};

use super::{
    failure::failure_note,
    icon::{Icon, icon},
    secret_field::SecretField,
    shown::rows,
};
use crate::{
    browser,
    live::{Kept, Live},
    order::sorted,
    plain::plain,
    sentence::Failure,
    state::{App, Call},
};

#[derive(Clone, PartialEq)]
struct Told {
    number: u32,
    kind: DialKind,
    text: String,
}

#[derive(Clone, PartialEq)]
enum State {
    Form(Option<Failure>),
    /// Where it listens, and over what path, once it does.
    Running {
        listen: Option<String>,
        path: Option<String>,
    },
}

#[component]
pub(crate) fn Connect(call: Call, service: Service) -> impl IntoView {
    let app = App::current();
    let device = Live::new(String::new());
    let far = Live::new(String::new());
    let port = Live::new(String::new());
    let password = Live::new(String::new());
    let remember = Live::new(false);
    let state = Live::new(State::Form(None));
    let told = Live::new(Vec::<Told>::new());
    let open = Kept::new(None::<Stream>);
    let name = Kept::new(service.name);
    let here = {
        let target = call.target.get_value();
        Signal::derive(move || app.title(&target))
    };
    let stop = move || {
        if let Some(stream) = open.try_update_value(Option::take).flatten() {
            stream.finish();
        }
    };
    on_cleanup(stop);
    let submit = move |event: web_sys::SubmitEvent| {
        event.prevent_default();
        let given = password.get_untracked();
        let dial = Dial {
            device: device.get_untracked().trim().to_owned(),
            service: far.get_untracked().trim().to_owned(),
            listen: format!(
                "127.0.0.1:{}",
                port.get_untracked().trim().parse::<u16>().unwrap_or(0)
            ),
            password: (!given.is_empty()).then_some(given),
            remember: remember.get_untracked(),
        };
        password.set(String::new());
        told.set(Vec::new());
        state.set(State::Running {
            listen: None,
            path: None,
        });
        spawn_local(async move {
            let failure = run(call, &name.get_value(), &dial, open, told, state).await;
            let _ = state.try_set(State::Form(failure));
        });
    };
    let choices = move || {
        let mut names: Vec<String> = app
            .devices
            .get()
            .into_iter()
            .filter(|device| !device.revoked)
            .filter_map(|device| device.name)
            .collect();
        names.extend(
            app.contacts
                .get()
                .into_iter()
                .filter_map(|contact| contact.name),
        );
        let mut names = sorted(names, String::clone);
        names.dedup();
        names
            .into_iter()
            .map(|name| view! { <option value=plain(&name, 64)></option> }.into_any())
            .collect_view()
    };
    let form = move |failure: Option<Failure>| {
        view! {
            <form class="card form" on:submit=submit>
                {failure.as_ref().map(failure_note)}
                <div class="field">
                    <label for="dial-device">"Device to call"</label>
                    <input id="dial-device" type="text" list="dial-devices" required=true autocomplete="off"
                        autocapitalize="none" spellcheck="false" placeholder="name or rb1…"
                        prop:value=move || device.get() on:input=move |event| device.set(browser::input_value(&event)) />
                    <datalist id="dial-devices">{move || choices()}</datalist>
                </div>
                <div class="two">
                    <div class="field">
                        <label for="dial-service">"Its service"</label>
                        <input id="dial-service" type="text" required=true autocomplete="off" autocapitalize="none"
                            spellcheck="false" placeholder="ssh"
                            prop:value=move || far.get() on:input=move |event| far.set(browser::input_value(&event)) />
                    </div>
                    <div class="field">
                        <label for="dial-port">"Local port " <span class="faint">"(any if empty)"</span></label>
                        <input id="dial-port" type="text" inputmode="numeric" pattern="[0-9]{1,5}" autocomplete="off"
                            placeholder="2222"
                            prop:value=move || port.get() on:input=move |event| port.set(browser::input_value(&event)) />
                    </div>
                </div>
                <SecretField id="dial-password" label="Its password (empty if it remembers this device)" value=password autocomplete="off" />
                <label class="check">
                    <input type="checkbox" prop:checked=move || remember.get()
                        on:change=move |event| remember.set(browser::input_checked(&event)) />
                    <span>"Let it remember this device"</span>
                </label>
                <button type="submit" class="button primary">"Connect them"</button>
                <p class="hint">
                    "The password goes over the link to this device, is used once, and kept by nobody."
                </p>
            </form>
        }
        .into_any()
    };
    let running = move |listen: Option<String>, path: Option<String>| {
        view! {
            <div class="card form">
                {match listen {
                    Some(listen) => {
                        let words = match path.as_deref() {
                            Some("relay") => "Connected through the relay",
                            Some(_) => "Connected directly",
                            None => "Connected",
                        };
                        view! {
                            <p class="panel-path"><span class="dot" aria-hidden="true"></span><strong>{words}</strong></p>
                            <p>"On " {here} " the service is now at:"</p>
                            <p class="command"><code>{plain(&listen, 80)}</code></p>
                            <p class="hint">"The bytes flow between the two devices, not through this browser. The port is closed with this tab."</p>
                        }.into_any()
                    }
                    None => view! {
                        <p class="waiting"><span class="spinner" aria-hidden="true"></span>"Calling…"</p>
                    }.into_any(),
                }}
                <ol class="log" aria-live="polite">
                    {rows(move || told.get(), |line| line.number.to_string(), line_of)}
                </ol>
                <div class="actions start">
                    <button type="button" class="button danger-quiet" on:click=move |_| stop()>{icon(Icon::HangUp)} <span>"End it"</span></button>
                </div>
            </div>
        }
        .into_any()
    };
    view! {
        <div class="service-page">
            <header class="service-head">
                <h2>"Connect two devices"</h2>
                <p class="small faint">"This device calls another one, and opens its service at a local port here."</p>
            </header>
            {move || match state.get() {
                State::Form(failure) => form(failure),
                State::Running { listen, path } => running(listen, path),
            }}
        </div>
    }
}

fn line_of(line: Told) -> AnyView {
    let bad = matches!(
        line.kind,
        DialKind::Lost | DialKind::Refused | DialKind::Failed
    );
    view! { <li class:bad=bad>{plain(&line.text, 200)}</li> }.into_any()
}

/// Dials, and tells what happens, until it is over; `None`: it was ended here.
async fn run(
    call: Call,
    service: &str,
    dial: &Dial,
    open: Kept<Option<Stream>>,
    told: Live<Vec<Told>>,
    state: Live<State>,
) -> Option<Failure> {
    let going = async {
        let link = call
            .links
            .link
            .get_untracked()
            .ok_or_else(|| Failure::new("link_lost", ""))?;
        let stream = link.open(service, Mode::Raw)?;
        stream.write(&dial.encode()).await?;
        let _ = open.try_update_value(|open| *open = Some(stream.clone()));
        let mut buffer = FrameBuffer::default();
        while let Some(bytes) = stream.read().await? {
            buffer.push(&bytes);
            while let Some(frame) = buffer.next_frame().map_err(misbehaved)? {
                let event = DialEvent::decode(&frame).map_err(misbehaved)?;
                if event.kind == DialKind::Failed {
                    let code = event.code.unwrap_or_else(|| "internal".into());
                    return Err(Failure::new(code, event.text));
                }
                if event.listen.is_some() || event.path.is_some() {
                    state.update(|state| {
                        if let State::Running { listen, path } = state {
                            *listen = event.listen.or(listen.take());
                            *path = event.path.or(path.take());
                        }
                    });
                }
                told.update(|told| {
                    told.push(Told {
                        number: browser::fresh_number(),
                        kind: event.kind,
                        text: event.text,
                    });
                });
            }
        }
        Ok(())
    };
    let outcome: Result<(), Failure> = going.await;
    let _ = open.try_update_value(Option::take);
    outcome.err()
}

fn misbehaved(error: impl std::fmt::Display) -> Failure {
    Failure::new("device_misbehaved", error.to_string())
}
