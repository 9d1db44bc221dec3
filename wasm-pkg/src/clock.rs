//! The browser's clocks and timers, in windows and workers alike.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use futures_util::future::{Either, select};
use ringback_protocol::UnixTime;
use wasm_bindgen::prelude::*;

#[wasm_bindgen]
extern "C" {
    #[wasm_bindgen(js_name = setTimeout)]
    fn set_timeout(handler: &JsValue, ms: f64) -> JsValue;
    #[wasm_bindgen(js_name = clearTimeout)]
    fn clear_timeout(timer: &JsValue);
    #[wasm_bindgen(js_namespace = performance, js_name = now)]
    fn performance_now() -> f64;
}

/// Milliseconds since some moment; never goes back.
pub(crate) fn now_ms() -> f64 {
    performance_now()
}

/// Unix time in milliseconds, by the browser's clock.
pub(crate) fn unix_ms() -> f64 {
    js_sys::Date::now()
}

/// The browser's clock, corrected by `offset` seconds.
pub(crate) fn unix_time(offset: i64) -> UnixTime {
    (unix_ms() / 1e3) as UnixTime + 0u64.wrapping_add_signed(offset)
}

/// Ready after some time. Dropping it ends the timer.
pub(crate) struct Sleep {
    done: Rc<Signal>,
    timer: JsValue,
    _handler: Closure<dyn FnMut()>,
}

pub(crate) fn sleep(ms: f64) -> Sleep {
    let done = Rc::new(Signal::default());
    let fired = Rc::clone(&done);
    let handler = Closure::new(move || fired.fire());
    let timer = set_timeout(handler.as_ref(), ms);
    Sleep {
        done,
        timer,
        _handler: handler,
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.done.fired() {
            return Poll::Ready(());
        }
        self.done.register(context);
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        clear_timeout(&self.timer);
    }
}

/// The output of `future`, or `None` if it takes longer than that.
pub(crate) async fn within<F: Future>(ms: f64, future: F) -> Option<F::Output> {
    match select(std::pin::pin!(future), sleep(ms)).await {
        Either::Left((output, _)) => Some(output),
        Either::Right(_) => None,
    }
}

/// Wakes whoever waits for something to change. What has changed is looked up by the one that waits.
#[derive(Default)]
pub(crate) struct Signal {
    fired: std::cell::Cell<bool>,
    waiting: RefCell<Vec<std::task::Waker>>,
}

impl Signal {
    /// Wakes all that wait now.
    pub(crate) fn wake(&self) {
        for waker in self.waiting.take() {
            waker.wake();
        }
    }

    /// Wakes all, and is ready from now on.
    fn fire(&self) {
        self.fired.set(true);
        self.wake();
    }

    fn fired(&self) -> bool {
        self.fired.get()
    }

    pub(crate) fn register(&self, context: &Context<'_>) {
        let mut waiting = self.waiting.borrow_mut();
        if !waiting.iter().any(|waker| waker.will_wake(context.waker())) {
            waiting.push(context.waker().clone());
        }
    }

    /// Waits until `look` finds something; it is asked at once and at each [`Self::wake`].
    pub(crate) async fn wait<T>(&self, mut look: impl FnMut() -> Option<T>) -> T {
        std::future::poll_fn(|context| match look() {
            Some(found) => Poll::Ready(found),
            None => {
                self.register(context);
                Poll::Pending
            }
        })
        .await
    }
}

impl std::fmt::Debug for Signal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Signal")
    }
}
