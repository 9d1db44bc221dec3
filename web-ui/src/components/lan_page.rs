//! A web page of the device's network, in a frame on an origin of its own.

use js_sys::{Object, Reflect};
use leptos::{html, prelude::*};
use ringback_protocol::PeerId;
use ringback_wasm::Service;
use sha2::{Digest, Sha256};
use wasm_bindgen::{JsCast, JsValue, closure::Closure};
use web_sys::{MessageChannel, MessageEvent};

use super::icon::{Icon, icon};
use crate::{
    bridge::Bridge,
    browser,
    live::{Kept, Live},
    plain::plain,
    state::{App, Call, Reading},
};

#[derive(Clone, PartialEq)]
enum State {
    Starting,
    Shown,
    /// The same origin was opened in another tab.
    Taken,
    Failed(String),
}

#[component]
pub(crate) fn LanPage(call: Call, service: Service) -> impl IntoView {
    let app = App::current();
    let device = call
        .link
        .with_untracked(|link| link.as_ref().map(|link| link.device()));
    let lan_origin = app.registry.with_untracked(|registry| match registry {
        Reading::Here(info) => info.lan_origin.clone(),
        _ => None,
    });
    let (Some(device), Some(lan_origin)) = (device, lan_origin) else {
        return view! { <p class="note">"This registry offers no pages of a device’s network."</p> }.into_any();
    };
    let label = label(&device, &service.name);
    let origin = lan_origin.replacen('*', &label, 1);
    let address = format!("{origin}/.ringback/boot.html#{label}");
    let bridge = Bridge::new(call, &service.name, service.target.as_deref());
    let place = bridge.place;
    let state = Live::new(State::Starting);
    let frame = NodeRef::<html::Iframe>::new();
    let listener = {
        let origin = origin.clone();
        move |event: MessageEvent| {
            let Some(window) = frame
                .get_untracked()
                .and_then(|frame| frame.content_window())
            else {
                return;
            };
            let source = event.source().map(JsValue::from);
            if event.origin() != origin || source.as_ref() != Some(window.as_ref()) {
                return;
            }
            let data = event.data();
            let text = |key: &str| {
                Reflect::get(&data, &key.into())
                    .ok()
                    .and_then(|value| value.as_string())
            };
            match text("ringback").as_deref() {
                Some("ready") => {
                    if let Ok(channel) = MessageChannel::new() {
                        bridge.serve(&channel.port1());
                        let port = js_sys::Array::of1(&channel.port2());
                        let _ = window.post_message_with_transfer(&word("port"), &origin, &port);
                        state.set(State::Shown);
                    }
                }
                Some("taken") => state.set(State::Taken),
                Some("failed") => {
                    state.set(State::Failed(plain(
                        &text("reason").unwrap_or_default(),
                        200,
                    )));
                }
                _ => {}
            }
        }
    };
    let closure = Kept::new(Closure::<dyn FnMut(MessageEvent)>::new(listener));
    closure.with_value(|closure| {
        let _ = browser::window()
            .add_event_listener_with_callback("message", closure.as_ref().unchecked_ref());
    });
    on_cleanup(move || {
        let _ = closure.try_with_value(|closure| {
            browser::window()
                .remove_event_listener_with_callback("message", closure.as_ref().unchecked_ref())
        });
    });
    let tell = move |what: &'static str| {
        let origin = origin.clone();
        move |_: web_sys::MouseEvent| {
            if let Some(window) = frame
                .get_untracked()
                .and_then(|frame| frame.content_window())
            {
                let _ = window.post_message(&word(what), &origin);
            }
        }
    };
    let target = service
        .target
        .as_deref()
        .map_or_else(String::new, |target| {
            plain(target.trim_end_matches('/'), 80)
        });
    let (home, reload) = (tell("go"), tell("reload"));
    view! {
        <div class="lan">
            <div class="lan-bar">
                <button type="button" class="quiet square" aria-label="To the start of the page" on:click=home>{icon(Icon::Page)}</button>
                <button type="button" class="quiet square" aria-label="Reload the page" on:click=reload>{icon(Icon::Reload)}</button>
                <span class="lan-address"><span class="faint">{target}</span>{move || plain(&place.get(), 200)}</span>
            </div>
            {move || match state.get() {
                State::Starting => view! {
                    <p class="waiting"><span class="spinner" aria-hidden="true"></span>"Opening the page…"</p>
                }.into_any(),
                State::Shown => ().into_any(),
                State::Taken => view! {
                    <p class="note">"A page of a device’s network was opened in another tab, and only one can be at a time."</p>
                }.into_any(),
                State::Failed(reason) => view! {
                    <div class="note bad" role="alert">
                        {icon(Icon::Warning)}
                        <div>
                            <p class="note-title">"The page can not be shown in this browser."</p>
                            <p>"It needs service workers and site data for " {lan_origin.clone()} "."</p>
                            <p class="small">{reason}</p>
                        </div>
                    </div>
                }.into_any(),
            }}
            <iframe
                node_ref=frame
                class="lan-frame"
                hidden=move || state.get() == State::Taken
                title=format!("Page of {}", plain(&service.name, 64))
                src=address
                // No way to the page above: neither its window nor its address.
                sandbox="allow-scripts allow-same-origin allow-forms allow-popups allow-modals allow-downloads"
                referrerpolicy="no-referrer"
            ></iframe>
        </div>
    }
    .into_any()
}

/// The name of the site's own origin: nothing else has it, and it tells nothing of the device.
fn label(device: &PeerId, service: &str) -> String {
    let mut hash = Sha256::new();
    hash.update(device.as_bytes());
    hash.update([0]);
    hash.update(service.as_bytes());
    hash.finalize()
        .iter()
        .take(16)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn word(what: &str) -> JsValue {
    let message = Object::new();
    let _ = Reflect::set(&message, &"ringback".into(), &what.into());
    message.into()
}
