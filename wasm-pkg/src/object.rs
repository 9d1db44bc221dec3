//! Members of JavaScript objects that come without a type, as JSON does. To read them one by one is
//! a tenth of the code of a general deserialiser.

use js_sys::{Array, JSON, Reflect};
use wasm_bindgen::JsValue;

/// What the JSON `text` is; `None`: it is none.
pub fn parse(text: &str) -> Option<JsValue> {
    JSON::parse(text).ok()
}

/// `undefined` where there is none.
pub fn member(of: &JsValue, name: &str) -> JsValue {
    Reflect::get(of, &name.into()).unwrap_or(JsValue::UNDEFINED)
}

pub fn text(of: &JsValue, name: &str) -> Option<String> {
    member(of, name).as_string()
}

pub fn number(of: &JsValue, name: &str) -> Option<f64> {
    member(of, name).as_f64()
}

pub fn flag(of: &JsValue, name: &str) -> Option<bool> {
    member(of, name).as_bool()
}

/// The items of the list that is the member `name`, as by [`items`].
pub fn list<T>(of: &JsValue, name: &str, read: impl Fn(&JsValue) -> Option<T>) -> Option<Vec<T>> {
    items(&member(of, name), read)
}

/// The items of a list, each read by `read`; `None`: it is no list, or one of them can not be read.
pub fn items<T>(list: &JsValue, read: impl Fn(&JsValue) -> Option<T>) -> Option<Vec<T>> {
    if !Array::is_array(list) {
        return None;
    }
    Array::from(list).iter().map(|item| read(&item)).collect()
}

/// What an exception says of itself.
pub(crate) fn message(exception: &JsValue) -> String {
    text(exception, "message")
        .or_else(|| exception.as_string())
        .unwrap_or_default()
}
