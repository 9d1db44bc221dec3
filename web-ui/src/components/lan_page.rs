//! A web page of the device's network, in a frame on an origin of its own.

use js_sys::{Object, Reflect};
use leptos::{html, prelude::*};
use ringback_protocol::PeerId;
use ringback_wasm::Service;
use sha2::{Digest, Sha256};
use wasm_bindgen::{JsCast, JsValue, closure::Closure};
use web_sys::{BroadcastChannel, MessageChannel, MessageEvent};

use super::icon::{Icon, icon};
use crate::{
    bridge::Bridge,
    browser::{self, Keep},
    live::{Kept, Live},
    plain::plain,
    reading::Reading,
    state::{App, Call},
};

#[derive(Clone, PartialEq)]
enum State {
    Starting,
    Shown,
    /// The same origin shows a page elsewhere now.
    Taken,
    /// Something of the origin is open outside of the registry's pages.
    Busy,
    Failed(String),
}

#[component]
pub(crate) fn LanPage(call: Call, service: Service) -> impl IntoView {
    let app = App::current();
    let device = call
        .links
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
    // Not an origin to itself: sites take turns on it.
    let is_shared = origin == lan_origin;
    let address = format!("{origin}/.ringback/boot.html");
    let bridge = Bridge::new(call.links, &service.name, service.target.as_deref());
    let place = bridge.place;
    let state = Live::new(State::Starting);
    let is_framed = Live::new(true);
    let frame = NodeRef::<html::Iframe>::new();
    let window_in = move || frame.get_untracked()?.content_window();
    let turns = Turns::of(&origin);
    let leave = {
        let bridge = bridge.clone();
        move |left: State| {
            bridge.close();
            state.set(left);
            is_framed.set(false);
        }
    };
    let listener = {
        let (origin, bridge, leave) = (origin.clone(), bridge.clone(), leave.clone());
        let mark = Mark {
            origin: origin.clone(),
            label,
        };
        move |event: MessageEvent| {
            let Some(window) = window_in() else {
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
                        let message = word("port");
                        let clear = is_shared && mark.is_anothers();
                        if clear {
                            mark.remove();
                        }
                        let _ = Reflect::set(&message, &"clear".into(), &clear.into());
                        let port = js_sys::Array::of1(&channel.port2());
                        let _ = window.post_message_with_transfer(&message, &origin, &port);
                    }
                }
                Some("shown") => {
                    mark.set();
                    state.set(State::Shown);
                }
                Some("busy") => leave(State::Busy),
                Some("failed") => {
                    leave(State::Failed(plain(
                        &text("reason").unwrap_or_default(),
                        200,
                    )));
                }
                _ => {}
            }
        }
    };
    let closure = Kept::new(Closure::<dyn FnMut(MessageEvent)>::new(listener));
    let taken = {
        let leave = leave.clone();
        Kept::new(Closure::<dyn FnMut(MessageEvent)>::new(
            move |_: MessageEvent| leave(State::Taken),
        ))
    };
    // A tab that can come back from the browser's memory must not bring the site back with it, when
    // the origin may be another's.
    let hidden = Kept::new(Closure::<dyn FnMut(MessageEvent)>::new(
        move |_: MessageEvent| leave(State::Taken),
    ));
    let listened = [("message", closure), ("pagehide", hidden)];
    for (kind, closure) in listened {
        closure.with_value(|closure| {
            let _ = browser::window()
                .add_event_listener_with_callback(kind, closure.as_ref().unchecked_ref());
        });
    }
    taken.with_value(|taken| turns.on_taken(taken.as_ref().unchecked_ref()));
    turns.take();
    let turns = Kept::new(turns);
    let kept = Kept::new(bridge);
    on_cleanup({
        move || {
            let _ = kept.try_with_value(Bridge::close);
            let _ = turns.try_with_value(Turns::close);
            for (kind, closure) in listened {
                let _ = closure.try_with_value(|closure| {
                    browser::window()
                        .remove_event_listener_with_callback(kind, closure.as_ref().unchecked_ref())
                });
            }
        }
    });
    let again = move |_: web_sys::MouseEvent| {
        turns.with_value(Turns::take);
        state.set(State::Starting);
        is_framed.set(true);
    };
    let tell = move |what: &'static str| {
        let origin = origin.clone();
        move |_: web_sys::MouseEvent| {
            if let Some(window) = window_in() {
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
    let title = format!("Page of {}", plain(&service.name, 64));
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
                    <p class="note">"A page of a device’s network was opened elsewhere in this browser, and only one can be at a time."</p>
                    <button type="button" on:click=again>"Show it here"</button>
                }.into_any(),
                State::Busy => view! {
                    <p class="note">"A page of a device’s network is still open in another tab or window. Close it first."</p>
                    <button type="button" on:click=again>"Try again"</button>
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
            {move || is_framed.get().then(|| view! {
                <iframe
                    node_ref=frame
                    class="lan-frame"
                    title=title.clone()
                    src=address.clone()
                    sandbox=sandbox(is_shared)
                    referrerpolicy="no-referrer"
                ></iframe>
            }.into_any())}
        </div>
    }
    .into_any()
}

/// No way to the page above: neither its window nor its address. A window that the site opened would
/// outlive its frame, and be of the same origin as the site that comes next.
fn sandbox(is_shared: bool) -> &'static str {
    if is_shared {
        "allow-scripts allow-same-origin allow-forms allow-modals allow-downloads"
    } else {
        "allow-scripts allow-same-origin allow-forms allow-modals allow-downloads allow-popups"
    }
}

/// The registry's pages of this browser tell each other which of them shows a page on an origin: the
/// others take their frames away.
struct Turns(Option<BroadcastChannel>);

impl Turns {
    fn of(origin: &str) -> Self {
        Self(BroadcastChannel::new(&format!("ringback-lan {origin}")).ok())
    }

    fn on_taken(&self, listener: &js_sys::Function) {
        if let Self(Some(channel)) = self {
            channel.set_onmessage(Some(listener));
        }
    }

    fn take(&self) {
        if let Self(Some(channel)) = self {
            let _ = channel.post_message(&JsValue::TRUE);
        }
    }

    fn close(&self) {
        if let Self(Some(channel)) = self {
            channel.set_onmessage(None);
            channel.close();
        }
    }
}

/// Which site has used a shared origin last. It is kept where no site can change it.
struct Mark {
    origin: String,
    label: String,
}

impl Mark {
    fn key(&self) -> String {
        format!("ringback-lan {}", self.origin)
    }

    fn is_anothers(&self) -> bool {
        Keep::Browser.read(&self.key()).as_ref() != Some(&self.label)
    }

    fn remove(&self) {
        Keep::Browser.remove(&self.key());
    }

    fn set(&self) {
        Keep::Browser.write(&self.key(), &self.label);
    }
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
