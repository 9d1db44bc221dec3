//! Links and streams as JavaScript sees them.

use std::cell::RefCell;

use js_sys::{Function, Promise};
use ringback_protocol::stream::Mode;
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::{JsFuture, future_to_promise, spawn_local};

use super::{cancellable, listener, notify, signal, streams, thrown, to_js};
use crate::object::text;

/// A link to a device. Call `close()` when it is no longer needed.
#[wasm_bindgen]
#[derive(Debug)]
pub struct Link {
    inner: crate::Link,
    closed: RefCell<Option<Promise>>,
}

/// A stream to a service of the device.
#[wasm_bindgen]
#[derive(Debug)]
pub struct Stream {
    inner: crate::Stream,
    opened: Promise,
    readable: JsValue,
    writable: JsValue,
}

impl Link {
    pub(crate) fn new(inner: crate::Link) -> Self {
        Self {
            inner,
            closed: RefCell::new(None),
        }
    }
}

#[wasm_bindgen]
impl Link {
    /// The device's ID.
    #[wasm_bindgen(getter)]
    pub fn device(&self) -> String {
        self.inner.device().to_string()
    }

    /// The device knows this browser's key from now on: no password is needed any more.
    #[wasm_bindgen(getter)]
    pub fn remembered(&self) -> bool {
        self.inner.remembered()
    }

    /// Whether data flows.
    #[wasm_bindgen(getter, unchecked_return_type = "LinkState")]
    pub fn state(&self) -> JsValue {
        to_js(&self.inner.state())
    }

    /// Resolves, never rejects, when the link has ended, with the reason.
    #[wasm_bindgen(getter, unchecked_return_type = "Promise<LinkEnd>")]
    pub fn closed(&self) -> Promise {
        let mut closed = self.closed.borrow_mut();
        let promise = closed.get_or_insert_with(|| {
            let ending = self.inner.closed();
            future_to_promise(async move { Ok(to_js(&ending.await)) })
        });
        promise.clone()
    }

    /// Calls `listener` at each change of `state`, until the link ends.
    #[wasm_bindgen(js_name = onState)]
    pub fn on_state(
        &self,
        #[wasm_bindgen(unchecked_param_type = "(state: LinkState) => void")] listener: Function,
    ) {
        self.inner
            .on_state(move |state| notify(&listener, &to_js(&state)));
    }

    /// How the call went, and the paths as they are now.
    #[wasm_bindgen(unchecked_return_type = "Receipt")]
    pub async fn receipt(&self) -> Result<JsValue, JsValue> {
        let receipt = self.inner.receipt().await;
        receipt
            .map(|receipt| to_js(&receipt))
            .map_err(|error| thrown(&error))
    }

    /// Path, round trip and bytes so far.
    #[wasm_bindgen(unchecked_return_type = "LinkStats")]
    pub async fn stats(&self) -> Result<JsValue, JsValue> {
        let stats = self.inner.stats().await;
        stats
            .map(|stats| to_js(&stats))
            .map_err(|error| thrown(&error))
    }

    /// The services that the device exposes.
    #[wasm_bindgen(unchecked_return_type = "Service[]")]
    pub async fn services(&self) -> Result<JsValue, JsValue> {
        let services = self.inner.services().await;
        services
            .map(|services| to_js(&services))
            .map_err(|error| thrown(&error))
    }

    /// Opens a stream to a service. It can be written to at once; `opened` tells whether the device
    /// takes it.
    pub fn open(
        &self,
        service: &str,
        #[wasm_bindgen(unchecked_param_type = "{ mode?: \"raw\" | \"http\" }")] options: Option<
            js_sys::Object,
        >,
    ) -> Result<Stream, JsValue> {
        let mode = options.and_then(|options| text(&options, "mode"));
        let mode = match mode.as_deref() {
            None | Some("raw") => Mode::Raw,
            Some("http") => Mode::Http,
            Some(other) => {
                let message = format!("mode: \"raw\" or \"http\", not \"{other}\"");
                return Err(js_sys::TypeError::new(&message).into());
            }
        };
        let inner = self.inner.open(service, mode);
        let inner = inner.map_err(|error| thrown(&error))?;
        Stream::new(inner)
    }

    /// Ends the link: streams that are open are reset.
    pub fn close(&self) {
        self.inner.close();
    }

    /// Calls the same device again with the same right, for a link that is lost, or interrupted by a
    /// change of network. This link is closed once the new one is there.
    pub async fn restart(
        &self,
        #[wasm_bindgen(unchecked_param_type = "RestartOptions")] options: Option<js_sys::Object>,
    ) -> Result<Link, JsValue> {
        let options = options.map_or(JsValue::UNDEFINED, JsValue::from);
        let calling = self.inner.restart(listener(&options));
        cancellable(calling, signal(&options)).await.map(Self::new)
    }
}

impl Stream {
    fn new(inner: crate::Stream) -> Result<Self, JsValue> {
        let stream = inner.clone();
        let opened = future_to_promise(async move {
            let opened = stream.opened().await;
            opened
                .map(|()| JsValue::UNDEFINED)
                .map_err(|error| thrown(&error))
        });
        // Whoever does not ask learns of a refusal by the first read.
        let unasked = JsFuture::from(opened.clone());
        spawn_local(async move { drop(unasked.await) });
        Ok(Self {
            readable: streams::readable(&inner)?,
            writable: streams::writable(&inner)?,
            inner,
            opened,
        })
    }
}

#[wasm_bindgen]
impl Stream {
    /// Resolves when the device has taken the stream; rejects with its refusal.
    #[wasm_bindgen(getter, unchecked_return_type = "Promise<void>")]
    pub fn opened(&self) -> Promise {
        self.opened.clone()
    }

    /// What the service sends. Reading slowly slows the service down; cancelling ends what it sends.
    #[wasm_bindgen(getter, unchecked_return_type = "ReadableStream<Uint8Array>")]
    pub fn readable(&self) -> JsValue {
        self.readable.clone()
    }

    /// What goes to the service. A write is done when it is taken; closing says that no more follows,
    /// and leaves reading open; aborting aborts both directions.
    #[wasm_bindgen(getter, unchecked_return_type = "WritableStream<BufferSource>")]
    pub fn writable(&self) -> JsValue {
        self.writable.clone()
    }

    /// Aborts both directions.
    pub fn reset(&self) {
        self.inner.reset();
    }
}
