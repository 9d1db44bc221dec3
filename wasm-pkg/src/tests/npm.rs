//! The WHATWG streams of the JavaScript API.

use js_sys::{Function, Promise, Uint8Array};
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;
use wasm_bindgen_test::wasm_bindgen_test;

use super::device::link;
use crate::clock::{sleep, within};
use crate::npm;
use crate::object::{member, text};

async fn call(of: &JsValue, method: &str, argument: &JsValue) -> Result<JsValue, JsValue> {
    let function: Function = member(of, method).dyn_into().unwrap();
    let result = function.call1(of, argument)?;
    match result.dyn_into::<Promise>() {
        Ok(promise) => JsFuture::from(promise).await,
        Err(value) => Ok(value),
    }
}

async fn sync(of: &JsValue, method: &str) -> JsValue {
    call(of, method, &JsValue::UNDEFINED).await.unwrap()
}

#[wasm_bindgen_test]
async fn bytes_go_through_readable_and_writable() {
    let (inner, _device) = link().await;
    let link = npm::Link::new(inner);
    let stream = link.open("echo", None).unwrap();
    JsFuture::from(stream.opened()).await.unwrap();
    let writer = sync(&stream.writable(), "getWriter").await;
    let reader = sync(&stream.readable(), "getReader").await;
    // A view into the middle of a buffer, and a buffer.
    let bytes = Uint8Array::from([0, 1, 2, 3, 4].as_slice());
    let view = bytes.subarray(1, 4);
    call(&writer, "write", &view).await.unwrap();
    call(&writer, "write", &bytes.buffer()).await.unwrap();
    sync(&writer, "close").await;
    let mut got = Vec::new();
    loop {
        let chunk = sync(&reader, "read").await;
        if member(&chunk, "done").is_truthy() {
            break;
        }
        got.extend(Uint8Array::new(&member(&chunk, "value")).to_vec());
    }
    assert_eq!(got, [1, 2, 3, 0, 1, 2, 3, 4]);
    let writer = link.open("echo", None).unwrap().writable();
    let writer = sync(&writer, "getWriter").await;
    let error = call(&writer, "write", &"text".into()).await.unwrap_err();
    assert_eq!(text(&error, "name").as_deref(), Some("TypeError"));
}

#[wasm_bindgen_test]
async fn a_pipe_has_the_devices_back_pressure() {
    let (inner, device) = link().await;
    let link = npm::Link::new(inner);
    let counting = link.open("count", None).unwrap();
    let deaf = link.open("deaf", None).unwrap();
    let pipe: Function = member(&counting.readable(), "pipeTo").dyn_into().unwrap();
    let piped = pipe.call1(&counting.readable(), &deaf.writable()).unwrap();
    let piped: Promise = piped.dyn_into().unwrap();
    let sent = || {
        let channels = device.channels.borrow();
        channels.iter().map(|served| *served.sent.borrow()).sum()
    };
    // Until it stands still.
    let (mut before, mut now): (u64, u64) = (0, 1);
    while before != now {
        sleep(200.0).await;
        (before, now) = (now, sent());
    }
    let most = 2 * ringback_protocol::channel::WINDOW + 2 * 1024 * 1024;
    assert!(now > 0 && now <= most, "{now} bytes");
    deaf.reset();
    let error = within(5_000.0, JsFuture::from(piped)).await.unwrap();
    assert!(error.is_err(), "the pipe breaks");
}

#[wasm_bindgen_test]
async fn cancelling_ends_what_the_device_sends() {
    let (inner, _device) = link().await;
    let link = npm::Link::new(inner.clone());
    let stream = link.open("count", None).unwrap();
    let writer = sync(&stream.writable(), "getWriter").await;
    let reader = sync(&stream.readable(), "getReader").await;
    sync(&reader, "read").await;
    sync(&reader, "cancel").await;
    // The other direction still works, until it is closed as well.
    let data = Uint8Array::new_with_length(10);
    call(&writer, "write", &data).await.unwrap();
    sync(&writer, "close").await;
    let closed = within(5_000.0, async {
        while inner.stream_count() > 0 {
            sleep(5.0).await;
        }
    });
    assert!(closed.await.is_some(), "the channel is closed");
}

#[wasm_bindgen_test]
async fn a_refusal_is_an_error_with_its_code() {
    let class = Function::new_with_args(
        "message, details",
        "const error = new Error(message); error.code = details.code; return error;",
    );
    npm::set_error_class(class);
    let (inner, _device) = link().await;
    let link = npm::Link::new(inner);
    let stream = link.open("nothing", None).unwrap();
    let error = JsFuture::from(stream.opened()).await.unwrap_err();
    assert_eq!(text(&error, "code").as_deref(), Some("unknown_service"));
    assert!(error.is_instance_of::<js_sys::Error>());
    let reader = sync(&stream.readable(), "getReader").await;
    let read = call(&reader, "read", &JsValue::UNDEFINED).await;
    assert_eq!(
        text(&read.unwrap_err(), "code").as_deref(),
        Some("unknown_service")
    );
    assert!(link.open("x", Some(js_sys::Object::new())).is_ok());
}
