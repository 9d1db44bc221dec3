//! What the page needs of the browser itself: clock, storage, clipboard, focus, navigation.

use std::cell::Cell;

use js_sys::{Function, JsString, Promise, Reflect};
use wasm_bindgen::{JsCast, JsValue, closure::Closure};
use wasm_bindgen_futures::JsFuture;
use web_sys::{HtmlElement, HtmlInputElement, HtmlMetaElement};

pub(crate) fn window() -> web_sys::Window {
    web_sys::window().expect("the page runs in a window")
}

pub(crate) fn document() -> web_sys::Document {
    window().document().expect("a window has a document")
}

/// Milliseconds of a clock that never goes back.
pub(crate) fn clock_ms() -> f64 {
    window().performance().map_or(0.0, |clock| clock.now())
}

/// Unix seconds.
pub(crate) fn unix_s() -> f64 {
    js_sys::Date::now() / 1000.0
}

pub(crate) fn origin() -> String {
    window().location().origin().unwrap_or_default()
}

/// The registry as a person knows it: its host.
pub(crate) fn host() -> String {
    window().location().host().unwrap_or_default()
}

pub(crate) async fn sleep(ms: u32) {
    let promise = Promise::new(&mut |resolve, _| {
        let delay = i32::try_from(ms).unwrap_or(i32::MAX);
        let _ = window().set_timeout_with_callback_and_timeout_and_arguments_0(&resolve, delay);
    });
    let _ = JsFuture::from(promise).await;
}

/// Calls `action` after the current rendering, when new elements are in the document.
pub(crate) fn after_render(action: impl FnOnce() + 'static) {
    let callback = Closure::once_into_js(action);
    let _ = window().request_animation_frame(callback.unchecked_ref());
}

pub(crate) fn focus(id: &'static str) {
    after_render(move || {
        if let Some(element) = element::<HtmlElement>(id) {
            let _ = element.focus();
        }
    });
}

pub(crate) fn element<T: JsCast>(id: &str) -> Option<T> {
    document().get_element_by_id(id)?.dyn_into().ok()
}

/// Of a field or a list of choices.
pub(crate) fn input_value(event: &web_sys::Event) -> String {
    event
        .target()
        .and_then(|target| Reflect::get(&target, &"value".into()).ok()?.as_string())
        .unwrap_or_default()
}

pub(crate) fn input_checked(event: &web_sys::Event) -> bool {
    event
        .target()
        .and_then(|target| target.dyn_into::<HtmlInputElement>().ok())
        .is_some_and(|input| input.checked())
}

/// By the browser's own table of letters, which is there already.
pub(crate) fn lowercase(text: &str) -> String {
    JsString::from(text).to_lower_case().into()
}

pub(crate) async fn copy(text: &str) -> bool {
    let clipboard = window().navigator().clipboard();
    // Absent outside of secure contexts.
    if clipboard.is_undefined() {
        return false;
    }
    JsFuture::from(clipboard.write_text(text)).await.is_ok()
}

/// The content of `<meta name=…>`: how the build tells the page its hashed file names.
pub(crate) fn meta(name: &str) -> Option<String> {
    let element = document()
        .query_selector(&format!("meta[name=\"{name}\"]"))
        .ok()??;
    Some(element.dyn_into::<HtmlMetaElement>().ok()?.content())
}

/// Storage that ends with the tab, or stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    Tab,
    Browser,
}

impl Keep {
    fn storage(self) -> Option<web_sys::Storage> {
        match self {
            Self::Tab => window().session_storage().ok()?,
            Self::Browser => window().local_storage().ok()?,
        }
    }

    pub(crate) fn read(self, key: &str) -> Option<String> {
        self.storage()?.get_item(key).ok()?
    }

    pub(crate) fn write(self, key: &str, value: &str) {
        if let Some(storage) = self.storage() {
            let _ = storage.set_item(key, value);
        }
    }

    pub(crate) fn remove(self, key: &str) {
        if let Some(storage) = self.storage() {
            let _ = storage.remove_item(key);
        }
    }
}

/// What the browser would do if the page reached for an address of the local network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LocalNetwork {
    /// It asks the user first.
    Asks,
    Denied,
    /// Granted, or a browser that knows no such permission.
    Free,
}

pub(crate) async fn local_network() -> LocalNetwork {
    let Ok(permissions) = window().navigator().permissions() else {
        return LocalNetwork::Free;
    };
    for name in ["local-network", "local-network-access"] {
        let query = js_sys::Object::new();
        let _ = Reflect::set(&query, &"name".into(), &name.into());
        let Ok(promise) = permissions.query(&query) else {
            continue;
        };
        let Ok(status) = JsFuture::from(promise).await else {
            continue;
        };
        return match Reflect::get(&status, &"state".into())
            .ok()
            .and_then(|state| state.as_string())
            .as_deref()
        {
            Some("prompt") => LocalNetwork::Asks,
            Some("denied") => LocalNetwork::Denied,
            _ => LocalNetwork::Free,
        };
    }
    LocalNetwork::Free
}

/// A listener that lives as long as the page.
pub(crate) fn listen_forever(
    target: &web_sys::EventTarget,
    kind: &str,
    listener: impl FnMut(web_sys::Event) + 'static,
) {
    let closure = Closure::<dyn FnMut(web_sys::Event)>::new(listener);
    let _ = target.add_event_listener_with_callback(kind, closure.as_ref().unchecked_ref());
    closure.forget();
}

/// Imports a module of our own origin once it is needed.
pub(crate) async fn import(url: &str) -> Result<JsValue, JsValue> {
    // `import()` is syntax, not a function; the entry module puts it where it can be called.
    let import = Reflect::get(&window(), &"ringbackImport".into())?;
    let promise = import
        .dyn_into::<Function>()?
        .call1(&JsValue::NULL, &url.into())?;
    JsFuture::from(promise.dyn_into::<Promise>()?).await
}

thread_local! {
    static NEXT: Cell<u32> = const { Cell::new(0) };
}

/// A number that no other thing on this page has.
pub(crate) fn fresh_number() -> u32 {
    NEXT.with(|next| {
        next.set(next.get() + 1);
        next.get()
    })
}
