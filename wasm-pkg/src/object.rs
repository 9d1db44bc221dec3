//! Members of JavaScript objects that come without a type.

use js_sys::Reflect;
use wasm_bindgen::JsValue;

/// `undefined` where there is none.
pub(crate) fn member(of: &JsValue, name: &str) -> JsValue {
    Reflect::get(of, &name.into()).unwrap_or(JsValue::UNDEFINED)
}

pub(crate) fn text(of: &JsValue, name: &str) -> Option<String> {
    member(of, name).as_string()
}

pub(crate) fn number(of: &JsValue, name: &str) -> Option<f64> {
    member(of, name).as_f64()
}

/// What an exception says of itself.
pub(crate) fn message(exception: &JsValue) -> String {
    text(exception, "message")
        .or_else(|| exception.as_string())
        .unwrap_or_default()
}
