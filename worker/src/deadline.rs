//! A timer for sockets that have to prove a key in time (§6.1, §15.2): one for all of an object's
//! sockets, gone as soon as none is waited for, so that it does not keep the object awake.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::{AbortHandle, abortable};
use worker::{Delay, State};

#[derive(Debug, Default)]
pub struct Deadline(RefCell<Option<AbortHandle>>);

/// An object whose sockets have a deadline.
pub trait Watched: 'static {
    fn deadline(&self) -> &Deadline;
    /// Closes what is overdue; milliseconds until the next is.
    fn close_overdue(&self) -> Option<u64>;
}

impl Deadline {
    /// Starts the timer, unless it runs.
    pub fn watch<T: Watched>(object: &Rc<T>, state: &State) {
        if object.deadline().0.borrow().is_some() {
            return;
        }
        let watched = object.clone();
        let (watch, handle) = abortable(async move {
            while let Some(patience_ms) = watched.close_overdue() {
                Delay::from(Duration::from_millis(patience_ms.max(1))).await;
            }
            watched.deadline().0.take();
        });
        *object.deadline().0.borrow_mut() = Some(handle);
        state.wait_until(async {
            watch.await.ok();
        });
    }

    /// Nobody is waited for any more.
    pub fn release(&self) {
        if let Some(handle) = self.0.take() {
            handle.abort();
        }
    }
}
