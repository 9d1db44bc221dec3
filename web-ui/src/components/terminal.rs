//! A terminal in the tab: xterm.js, loaded when the first one opens.

use std::rc::Rc;

use futures::channel::mpsc;
use js_sys::{Function, JsString, Promise, Reflect, Uint8Array};
use leptos::{html, prelude::*, task::spawn_local};
use ringback_wasm::Service;
use wasm_bindgen::{JsCast, JsValue, closure::Closure};
use wasm_bindgen_futures::JsFuture;

use super::{
    failure::failure_note,
    icon::{Icon, icon},
};
use crate::{
    browser,
    live::{Kept, Live},
    sentence::Failure,
    shell::{self, End, Event, Screen},
    state::Call,
};

#[derive(Clone, PartialEq)]
enum State {
    Loading,
    Open,
    /// The shell has ended; why, in words.
    Over(String),
    Failed(Failure),
}

#[component]
pub(crate) fn TerminalView(call: Call, number: u32, service: Service) -> impl IntoView {
    let place = NodeRef::<html::Div>::new();
    let state = Live::new(State::Loading);
    let round = Live::new(0u32);
    let sender = Kept::new(None::<mpsc::UnboundedSender<Event>>);
    let screen = Kept::new(None::<Rc<Xterm>>);
    let control = Live::new(false);
    let name = Kept::new(service.name);
    let close = move || {
        if let Some(sender) = sender.try_update_value(Option::take).flatten() {
            let _ = sender.unbounded_send(Event::Closed);
        }
        if let Some(screen) = screen.try_update_value(Option::take).flatten() {
            screen.call("close", &[]);
        }
    };
    Effect::new(move || {
        round.get();
        let Some(place) = place.get() else { return };
        state.set(State::Loading);
        let (told, events) = mpsc::unbounded();
        sender.set_value(Some(told.clone()));
        spawn_local(async move {
            let xterm = match Xterm::open(&place, told, control).await {
                Ok(xterm) => Rc::new(xterm),
                Err(_) => {
                    let failure = Failure::new("registry_unreachable", "the terminal's program");
                    let _ = state.try_set(State::Failed(failure));
                    return;
                }
            };
            if state.try_set(State::Open).is_some() {
                // It was closed while it loaded.
                xterm.call("close", &[]);
                return;
            }
            screen.set_value(Some(xterm.clone()));
            xterm.call("focus", &[]);
            let end = shell::run(call, &name.get_value(), &*xterm, events).await;
            let _ = state.try_set(match end {
                End::Closed => return,
                End::Failed(failure) => State::Failed(failure),
                End::Exited(exited) => State::Over(match (exited.code, exited.signal) {
                    (Some(0), _) => "The shell has ended.".into(),
                    (Some(code), _) => format!("The shell has ended with code {code}."),
                    (None, Some(signal)) => format!("The shell was ended by signal {signal}."),
                    (None, None) => "The shell has ended.".into(),
                }),
            });
        });
    });
    on_cleanup(close);
    // A terminal that comes to the front takes the keyboard.
    Effect::new(move || {
        if call.front.get() == Some(number) {
            browser::after_render(move || {
                if let Some(screen) = screen.try_get_value().flatten() {
                    screen.call("focus", &[]);
                }
            });
        }
    });
    let again = move |_| {
        close();
        round.update(|round| *round += 1);
    };
    let press = move |keys: &'static str| {
        move |_: web_sys::MouseEvent| {
            if let Some(sender) = sender.get_value() {
                let _ = sender.unbounded_send(Event::Input(keys.as_bytes().to_vec()));
            }
            if let Some(screen) = screen.get_value() {
                screen.call("focus", &[]);
            }
        }
    };
    view! {
        <div class="terminal-frame">
            <div class="terminal-place" node_ref=place></div>
            <div class="terminal-keys" role="group" aria-label="Keys">
                <button type="button" class="keycap" on:click=press("\x1b")>"Esc"</button>
                <button type="button" class="keycap" on:click=press("\t")>"Tab"</button>
                <button type="button" class="keycap" aria-pressed=move || control.get().to_string()
                    on:click=move |_| {
                        control.update(|on| *on = !*on);
                        if let Some(screen) = screen.get_value() {
                            screen.call("focus", &[]);
                        }
                    }>"Ctrl"</button>
                <button type="button" class="keycap" aria-label="Up" on:click=press("\x1b[A")>"↑"</button>
                <button type="button" class="keycap" aria-label="Down" on:click=press("\x1b[B")>"↓"</button>
                <button type="button" class="keycap" aria-label="Left" on:click=press("\x1b[D")>"←"</button>
                <button type="button" class="keycap" aria-label="Right" on:click=press("\x1b[C")>"→"</button>
            </div>
            <div class="terminal-word" role="status">
                {move || match state.get() {
                    State::Loading => view! {
                        <p class="waiting"><span class="spinner" aria-hidden="true"></span>"Opening the terminal…"</p>
                    }.into_any(),
                    State::Open => ().into_any(),
                    State::Over(words) => view! {
                        <p class="bar-note">
                            <span>{words}</span>
                            <button type="button" class="button small" on:click=again>"New shell"</button>
                            <button type="button" class="button small" on:click=move |_| call.close_service(number)>"Close"</button>
                        </p>
                    }.into_any(),
                    State::Failed(failure) => view! {
                        {failure_note(&failure)}
                        <button type="button" class="button small" on:click=again>{icon(Icon::Reload)} <span>"Try again"</span></button>
                    }.into_any(),
                }}
            </div>
        </div>
    }
}

/// The object that `js/terminal.js` gives.
struct Xterm {
    object: JsValue,
    events: mpsc::UnboundedSender<Event>,
    _tell: Closure<dyn FnMut(JsString, JsValue)>,
}

impl Xterm {
    async fn open(
        place: &web_sys::HtmlElement,
        events: mpsc::UnboundedSender<Event>,
        control: Live<bool>,
    ) -> Result<Self, JsValue> {
        let url = browser::meta("ringback-terminal").ok_or(JsValue::UNDEFINED)?;
        let style = browser::meta("ringback-terminal-style").ok_or(JsValue::UNDEFINED)?;
        let module = browser::import(&url).await?;
        let open: Function = Reflect::get(&module, &"open".into())?.dyn_into()?;
        let told = events.clone();
        let tell = Closure::<dyn FnMut(JsString, JsValue)>::new(move |kind: JsString, value| {
            let kind = String::from(kind);
            let text = || JsValue::as_string(&value).unwrap_or_default();
            let event = match kind.as_str() {
                "input" => {
                    let held = control.try_get_untracked().unwrap_or(false);
                    if held {
                        let _ = control.try_set(false);
                    }
                    Event::Input(typed(&text(), held))
                }
                "binary" => Event::Input(text().chars().map(|byte| byte as u32 as u8).collect()),
                "resize" => Event::Resized,
                _ => return,
            };
            let _ = told.unbounded_send(event);
        });
        let promise: Promise = open
            .call3(&JsValue::NULL, place, &style.into(), tell.as_ref())?
            .dyn_into()?;
        let object = JsFuture::from(promise).await?;
        Ok(Self {
            object,
            events,
            _tell: tell,
        })
    }

    fn call(&self, method: &str, arguments: &[&JsValue]) {
        let list = js_sys::Array::new();
        for argument in arguments {
            list.push(argument);
        }
        if let Ok(function) = Reflect::get(&self.object, &method.into())
            && let Ok(function) = function.dyn_into::<Function>()
        {
            let _ = function.apply(&self.object, &list);
        }
    }

    fn number(&self, name: &str) -> u16 {
        Reflect::get(&self.object, &name.into())
            .ok()
            .and_then(|value| value.as_f64())
            .map_or(0, |value| value as u16)
    }
}

impl Screen for Xterm {
    fn size(&self) -> (u16, u16) {
        (self.number("cols"), self.number("rows"))
    }

    fn write(&self, bytes: &[u8]) {
        let count = bytes.len();
        let events = self.events.clone();
        let shown = Closure::once_into_js(move || {
            let _ = events.unbounded_send(Event::Shown(count));
        });
        self.call("write", &[&Uint8Array::from(bytes), &shown]);
    }

    fn remark(&self, text: &str) {
        let line = format!("\r\n\x1b[0;2m[{text}]\x1b[0m\r\n");
        self.call("write", &[&line.into()]);
    }

    fn clear(&self) {
        self.call("reset", &[]);
    }
}

/// What is typed while Ctrl of the key bar is held.
fn typed(text: &str, control: bool) -> Vec<u8> {
    match text.as_bytes() {
        [byte @ (b'@'..=b'_' | b'a'..=b'z')] if control => vec![byte & 0x1f],
        bytes => bytes.to_vec(),
    }
}
