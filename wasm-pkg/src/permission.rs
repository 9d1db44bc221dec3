//! Chromium asks before a page may use the local network, and remembers the answer.

use js_sys::{Function, Object, Promise, Reflect};
use wasm_bindgen::JsCast as _;
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;

use crate::object::{member, text};

/// The permission's names, by age of the browser. Others throw, which is no.
const NAMES: [&str; 2] = ["local-network-access", "local-network"];

/// The person, or a policy, has said no.
pub(crate) async fn is_local_network_denied() -> bool {
    for name in NAMES {
        if state(name).await.as_deref() == Some("denied") {
            return true;
        }
    }
    false
}

async fn state(name: &str) -> Option<String> {
    let permissions = member(&member(&js_sys::global(), "navigator"), "permissions");
    let query: Function = Reflect::get(&permissions, &"query".into())
        .ok()?
        .dyn_into()
        .ok()?;
    let descriptor = Object::new();
    Reflect::set(&descriptor, &"name".into(), &name.into()).ok()?;
    let promise: Promise = query
        .call1(&permissions, &descriptor)
        .ok()?
        .dyn_into()
        .ok()?;
    let status: JsValue = JsFuture::from(promise).await.ok()?;
    text(&status, "state")
}
