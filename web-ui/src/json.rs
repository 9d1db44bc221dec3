//! JSON by the browser's own writer, which is there already. It is read by [`ringback_wasm::object`].

use js_sys::JSON;
use serde::Serialize;
use serde_wasm_bindgen::Serializer;
use wasm_bindgen::JsValue;

pub(crate) fn text<T: Serialize>(value: &T) -> String {
    made(value, 0)
}

/// The same for people, indented.
pub(crate) fn readable<T: Serialize>(value: &T) -> String {
    made(value, 2)
}

fn made<T: Serialize>(value: &T, indent: u32) -> String {
    value
        .serialize(&Serializer::json_compatible())
        .ok()
        .and_then(|value| {
            JSON::stringify_with_replacer_and_space(&value, &JsValue::NULL, &indent.into()).ok()
        })
        .map(String::from)
        .unwrap_or_default()
}
