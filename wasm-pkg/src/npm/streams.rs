//! A stream's two directions as WHATWG streams. They hold nothing back themselves: a chunk is taken
//! from the stream when the page asks for one, and a write is done when the stream has taken it, so
//! that the device's credit is the page's back-pressure.

use js_sys::{ArrayBuffer, Object, Promise, Reflect, Uint8Array};
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::future_to_promise;
use web_sys::ReadableStreamDefaultController;

use super::thrown;
use crate::Stream;

#[wasm_bindgen]
extern "C" {
    type ReadableStream;
    #[wasm_bindgen(constructor, catch)]
    fn new(source: &Object, strategy: &Object) -> Result<ReadableStream, JsValue>;

    type WritableStream;
    #[wasm_bindgen(constructor, catch)]
    fn new(sink: &Object) -> Result<WritableStream, JsValue>;
}

pub(super) fn readable(stream: &Stream) -> Result<JsValue, JsValue> {
    let source = Object::new();
    let reading = stream.clone();
    let pull = Closure::<dyn FnMut(_) -> Promise>::new(
        move |controller: ReadableStreamDefaultController| {
            let stream = reading.clone();
            future_to_promise(async move {
                match stream.read().await {
                    Ok(Some(data)) => {
                        let chunk = Uint8Array::from(data.as_slice());
                        controller.enqueue_with_chunk(&chunk)?;
                    }
                    Ok(None) => controller.close()?,
                    Err(error) => return Err(thrown(&error)),
                }
                Ok(JsValue::UNDEFINED)
            })
        },
    );
    let stopping = stream.clone();
    let cancel = Closure::<dyn FnMut(JsValue)>::new(move |_| stopping.stop_reading());
    set(&source, "pull", &pull.into_js_value())?;
    set(&source, "cancel", &cancel.into_js_value())?;
    // Nothing is read before somebody wants it.
    let strategy = Object::new();
    set(&strategy, "highWaterMark", &JsValue::from(0))?;
    ReadableStream::new(&source, &strategy).map(Into::into)
}

pub(super) fn writable(stream: &Stream) -> Result<JsValue, JsValue> {
    let sink = Object::new();
    let writing = stream.clone();
    let write = Closure::<dyn FnMut(_) -> Promise>::new(move |chunk: JsValue| {
        let stream = writing.clone();
        future_to_promise(async move {
            let Some(bytes) = bytes(&chunk) else {
                return Err(js_sys::TypeError::new("a chunk is a BufferSource").into());
            };
            let written = stream.write(&bytes.to_vec()).await;
            written
                .map(|()| JsValue::UNDEFINED)
                .map_err(|error| thrown(&error))
        })
    });
    let closing = stream.clone();
    let close = Closure::<dyn FnMut()>::new(move || closing.finish());
    let aborting = stream.clone();
    let abort = Closure::<dyn FnMut(JsValue)>::new(move |_| aborting.reset());
    set(&sink, "write", &write.into_js_value())?;
    set(&sink, "close", &close.into_js_value())?;
    set(&sink, "abort", &abort.into_js_value())?;
    WritableStream::new(&sink).map(Into::into)
}

/// The bytes of an ArrayBuffer, or of any view of one.
fn bytes(chunk: &JsValue) -> Option<Uint8Array> {
    if let Some(buffer) = chunk.dyn_ref::<ArrayBuffer>() {
        return Some(Uint8Array::new(buffer));
    }
    if !ArrayBuffer::is_view(chunk) {
        return None;
    }
    let number = |name: &str| {
        let number = Reflect::get(chunk, &name.into()).ok()?.as_f64()?;
        Some(number as u32)
    };
    let buffer = Reflect::get(chunk, &"buffer".into()).ok()?;
    Some(Uint8Array::new_with_byte_offset_and_length(
        &buffer,
        number("byteOffset")?,
        number("byteLength")?,
    ))
}

fn set(of: &Object, name: &str, value: &JsValue) -> Result<(), JsValue> {
    Reflect::set(of, &name.into(), value).map(drop)
}
