//! Which page of this browser carries a download: another one neither shows it as standing still nor
//! writes into its file. The browser lets go of what a page holds when the page ends, however it does.

use futures::channel::oneshot;
use js_sys::{Array, Function, Object, Promise, Reflect};
use ringback_wasm::object::text;
use wasm_bindgen::{JsCast, JsValue, closure::Closure};
use wasm_bindgen_futures::JsFuture;

use crate::browser;

/// Given back when it is dropped.
pub(super) struct Hold(Option<Function>);

impl Hold {
    /// `None`: another page has it.
    pub(super) async fn take(name: &str) -> Option<Self> {
        /// What this page has just given back takes a moment.
        const TRIES: u32 = 5;
        const PAUSE_MS: u32 = 100;
        for attempt in 0..TRIES {
            if attempt > 0 {
                browser::sleep(PAUSE_MS).await;
            }
            if let Some(hold) = Self::attempt(name).await {
                return Some(hold);
            }
        }
        None
    }

    async fn attempt(name: &str) -> Option<Self> {
        let (sender, answer) = oneshot::channel();
        let callback = Closure::once_into_js(move |lock: JsValue| -> JsValue {
            if lock.is_null() {
                let _ = sender.send(None);
                return JsValue::UNDEFINED;
            }
            let mut release = None;
            let held = Promise::new(&mut |resolve, _| release = Some(resolve));
            // Dropped where nobody waits for it any more.
            let _ = sender.send(Some(Self(release)));
            held.into()
        });
        let options = Object::new();
        let _ = Reflect::set(&options, &"ifAvailable".into(), &JsValue::TRUE);
        let asked = ask("request", &[&name.into(), &options, &callback]);
        if asked.is_none() {
            // A browser without locks: as before there were any.
            return Some(Self(None));
        }
        answer.await.ok().flatten()
    }

    /// The names that pages of this browser hold.
    pub(super) async fn all() -> Vec<String> {
        let Some(promise) = ask("query", &[]) else {
            return Vec::new();
        };
        let snapshot = JsFuture::from(promise).await.unwrap_or_default();
        let held = Reflect::get(&snapshot, &"held".into()).unwrap_or_default();
        let Ok(held) = held.dyn_into::<Array>() else {
            return Vec::new();
        };
        held.iter().filter_map(|lock| text(&lock, "name")).collect()
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if let Some(release) = &self.0 {
            let _ = release.call0(&JsValue::UNDEFINED);
        }
    }
}

fn ask(method: &str, arguments: &[&JsValue]) -> Option<Promise> {
    let navigator = browser::window().navigator();
    let locks = Reflect::get(&navigator, &"locks".into()).ok()?;
    let function = Reflect::get(&locks, &method.into()).ok()?;
    let list: Array = arguments.iter().copied().collect();
    let promise = function
        .dyn_into::<Function>()
        .ok()?
        .apply(&locks, &list)
        .ok()?;
    promise.dyn_into().ok()
}
