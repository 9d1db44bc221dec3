//! The JavaScript API of the npm package: the same calls and names, in JavaScript's manners.
//!
//! Types that wasm-bindgen can not say are in `npm/types.d.ts`; the error class is the package's own
//! (`../npm/index.js`), since what is thrown has to be an `Error`.

mod link;
mod registry;
mod streams;
mod values;

use std::cell::RefCell;

use futures_util::future::{Either, select};
use js_sys::{Array, Function, Reflect};
use serde::{Deserialize, Serialize};
use wasm_bindgen::prelude::*;
use web_sys::AbortSignal;

use crate::clock::Signal;
use crate::error::CANCELLED;
use crate::object::member;
use crate::{CallError, CallEvent};

pub use link::Link;
pub use registry::Registry;
pub use values::{Contacts, Identity, format_device_link, parse_device_id, parse_device_link};

#[wasm_bindgen(typescript_custom_section)]
const TYPES: &str = include_str!("npm/types.d.ts");

thread_local! {
    /// `RingbackError` of `index.js`.
    static ERROR: RefCell<Option<Function>> = const { RefCell::new(None) };
}

/// For `index.js`: the class of what is thrown.
#[wasm_bindgen(js_name = __setErrorClass, skip_typescript)]
pub fn set_error_class(class: Function) {
    ERROR.set(Some(class));
}

/// What is thrown for an error.
fn thrown(error: &CallError) -> JsValue {
    let details = to_js(error);
    let made = ERROR.with_borrow(|class| {
        let arguments = Array::of2(&error.message.as_str().into(), &details);
        Reflect::construct(class.as_ref()?, &arguments).ok()
    });
    made.unwrap_or_else(|| js_sys::Error::new(&error.message).into())
}

fn to_js(value: &impl Serialize) -> JsValue {
    // Everything here is plain numbers, texts, lists and objects of them.
    let serializer = serde_wasm_bindgen::Serializer::new().serialize_missing_as_null(false);
    value.serialize(&serializer).unwrap_or(JsValue::UNDEFINED)
}

fn from_js<T: for<'de> Deserialize<'de>>(value: JsValue) -> Result<T, JsValue> {
    serde_wasm_bindgen::from_value(value)
        .map_err(|error| js_sys::TypeError::new(&error.to_string()).into())
}

/// The member `onEvent`, if there is one.
fn listener(options: &JsValue) -> impl FnMut(CallEvent) + use<> {
    let listener = member(options, "onEvent").dyn_into::<Function>().ok();
    move |event| {
        if let Some(listener) = &listener {
            notify(listener, &to_js(&event));
        }
    }
}

/// Calls the page's function. What it throws is the page's affair, and shown as its own errors are.
fn notify(function: &Function, argument: &JsValue) {
    let Err(exception) = function.call1(&JsValue::UNDEFINED, argument) else {
        return;
    };
    let report = member(&js_sys::global(), "reportError");
    if let Ok(report) = report.dyn_into::<Function>() {
        // There is nobody left to tell.
        let _ = report.call1(&JsValue::UNDEFINED, &exception);
    }
}

/// The member `signal`, if there is one.
fn signal(options: &JsValue) -> Option<AbortSignal> {
    member(options, "signal").dyn_into().ok()
}

/// The output of `work`, unless `signal` comes first; then the work is given up.
async fn cancellable<T>(
    work: impl Future<Output = Result<T, CallError>>,
    signal: Option<AbortSignal>,
) -> Result<T, JsValue> {
    let finished = match signal {
        None => work.await,
        Some(signal) => match select(std::pin::pin!(work), std::pin::pin!(aborted(signal))).await {
            Either::Left((finished, _)) => finished,
            Either::Right(((), _)) => Err(CallError::new(CANCELLED, "the call was given up")),
        },
    };
    finished.map_err(|error| thrown(&error))
}

async fn aborted(signal: AbortSignal) {
    /// Takes the listener away again.
    struct Listening(AbortSignal, Closure<dyn FnMut()>);
    impl Drop for Listening {
        fn drop(&mut self) {
            let handler = self.1.as_ref().unchecked_ref();
            let _ = self.0.remove_event_listener_with_callback("abort", handler);
        }
    }
    let changed = std::rc::Rc::new(Signal::default());
    let woken = std::rc::Rc::clone(&changed);
    let handler = Closure::<dyn FnMut()>::new(move || woken.wake());
    let _ = signal.add_event_listener_with_callback("abort", handler.as_ref().unchecked_ref());
    let listening = Listening(signal, handler);
    changed.wait(|| listening.0.aborted().then_some(())).await;
}
