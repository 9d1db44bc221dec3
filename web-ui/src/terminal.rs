//! A terminal: what it shows and the shell behind it go on while another view is seen. Its element is
//! made once, and the view that is there shows it.

use std::rc::Rc;

use futures::{
    FutureExt,
    channel::mpsc,
    future::{AbortHandle, Abortable},
};
use js_sys::{Function, JsString, Promise, Reflect, Uint8Array};
use leptos::task::spawn_local;
use wasm_bindgen::{JsCast, JsValue, closure::Closure};
use wasm_bindgen_futures::JsFuture;
use web_sys::HtmlElement;

use crate::{
    browser,
    links::Links,
    live::{Kept, Live},
    sentence::Failure,
    shell::{self, End, Event, Screen},
};

#[derive(Clone, PartialEq)]
pub(crate) enum State {
    Loading,
    Open,
    /// The shell has ended; why, in words.
    Over(String),
    Failed(Failure),
}

#[derive(Clone, Copy)]
pub(crate) struct Terminal {
    pub(crate) state: Live<State>,
    /// Ctrl of the key bar is held.
    pub(crate) control: Live<bool>,
    links: Links,
    /// The number of what is in front.
    front: Live<Option<u32>>,
    number: u32,
    service: Kept<String>,
    element: Kept<Option<HtmlElement>>,
    sender: Kept<Option<mpsc::UnboundedSender<Event>>>,
    screen: Kept<Option<Rc<Xterm>>>,
    abort: Kept<Option<AbortHandle>>,
    /// Counts starts and ends.
    round: Kept<u32>,
}

impl Terminal {
    pub(crate) fn new(links: Links, front: Live<Option<u32>>, number: u32, service: &str) -> Self {
        Self {
            state: Live::new(State::Loading),
            control: Live::new(false),
            links,
            front,
            number,
            service: Kept::new(service.to_owned()),
            element: Kept::new(None),
            sender: Kept::new(None),
            screen: Kept::new(None),
            abort: Kept::new(None),
            round: Kept::new(0),
        }
    }

    /// Shows it in `place`; the first time, the shell is started.
    pub(crate) fn show_in(self, place: &HtmlElement) {
        let known = self.element.get_value();
        let is_new = known.is_none();
        let Some(element) = known.or_else(made) else {
            return;
        };
        let _ = place.append_child(&element);
        self.element.set_value(Some(element));
        if is_new {
            self.start();
        }
    }

    /// A new shell, on an empty screen.
    pub(crate) fn start(self) {
        self.close();
        let Some(element) = self.element.get_value() else {
            return;
        };
        self.state.set(State::Loading);
        let (told, events) = mpsc::unbounded();
        self.sender.set_value(Some(told.clone()));
        let round = self.round.get_value();
        spawn_local(async move {
            let opened = Xterm::open(&element, told, self.control).await;
            if self.round.get_value() != round {
                // It was closed while it loaded.
                if let Ok(xterm) = opened {
                    xterm.call("close", &[]);
                }
                return;
            }
            match opened {
                Ok(xterm) => self.run(Rc::new(xterm), events),
                Err(_) => {
                    let failure = Failure::new("registry_unreachable", "the terminal's program");
                    self.state.set(State::Failed(failure));
                }
            }
        });
    }

    fn run(self, xterm: Rc<Xterm>, events: mpsc::UnboundedReceiver<Event>) {
        self.state.set(State::Open);
        self.screen.set_value(Some(xterm.clone()));
        if self.front.get_untracked() == Some(self.number) {
            self.focus();
        }
        let run = async move {
            let end = shell::run(self.links, &self.service.get_value(), &*xterm, events).await;
            self.state.set(match end {
                End::Failed(failure) => State::Failed(failure),
                End::Exited(exited) => State::Over(match (exited.code, exited.signal) {
                    (Some(0), _) => "The shell has ended.".into(),
                    (Some(code), _) => format!("The shell has ended with code {code}."),
                    (None, Some(signal)) => format!("The shell was ended by signal {signal}."),
                    (None, None) => "The shell has ended.".into(),
                }),
            });
        };
        let (handle, registration) = AbortHandle::new_pair();
        self.abort.set_value(Some(handle));
        spawn_local(Abortable::new(run, registration).map(drop));
    }

    /// Leaves the shell, wherever it stands.
    pub(crate) fn close(self) {
        self.round.update_value(|round| *round += 1);
        if let Some(handle) = self.abort.try_update_value(Option::take).flatten() {
            handle.abort();
        }
        self.sender.set_value(None);
        if let Some(screen) = self.screen.try_update_value(Option::take).flatten() {
            screen.call("close", &[]);
        }
    }

    pub(crate) fn is_running(self) -> bool {
        self.state
            .with_untracked(|state| matches!(state, State::Loading | State::Open))
    }

    pub(crate) fn press(self, keys: &str) {
        if let Some(sender) = self.sender.get_value() {
            let _ = sender.unbounded_send(Event::Input(keys.as_bytes().to_vec()));
        }
        self.focus();
    }

    pub(crate) fn focus(self) {
        if let Some(screen) = self.screen.get_value() {
            screen.call("focus", &[]);
        }
    }
}

fn made() -> Option<HtmlElement> {
    let element = browser::document().create_element("div").ok()?;
    element.set_class_name("terminal-screen");
    element.dyn_into().ok()
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

    fn renew(&self) {
        // Out of the other screen, letters and colours as usual, no mouse, keys as usual.
        const USUAL: &str =
            "\x1b[?1049l\x1b[!p\x1b[0m\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1006l\x1b[?2004l";
        self.call("write", &[&USUAL.into()]);
    }
}

/// What is typed while Ctrl of the key bar is held.
fn typed(text: &str, control: bool) -> Vec<u8> {
    match text.as_bytes() {
        [byte @ (b'@'..=b'_' | b'a'..=b'z')] if control => vec![byte & 0x1f],
        bytes => bytes.to_vec(),
    }
}
