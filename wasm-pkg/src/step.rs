//! The steps of a call, told as they come.

use std::cell::RefCell;

use serde::Serialize;

use crate::clock::now_ms;

/// What has just happened, or begun.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CallEvent {
    pub step: Step,
    /// Milliseconds since the call began.
    pub at_ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// The steps of a call, in the order in which they come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// It is known which device is meant.
    Registry,
    /// The browser looks for its own addresses.
    Gathering,
    /// It has them, or waits no longer; `detail` says how many.
    Gathered,
    /// The request is sealed with the proof, and sent.
    Sealed,
    /// The device has the request.
    Delivered,
    /// The device's clock differs from this one; the request is made anew.
    ClockCorrected,
    /// The device admits the call and dials.
    Accepted,
    /// Addresses are tried.
    Checking,
    /// A path is found, and the device has proven its certificate.
    Connected,
}

impl Step {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Registry => "registry",
            Self::Gathering => "gathering",
            Self::Gathered => "gathered",
            Self::Sealed => "sealed",
            Self::Delivered => "delivered",
            Self::ClockCorrected => "clock_corrected",
            Self::Accepted => "accepted",
            Self::Checking => "checking",
            Self::Connected => "connected",
        }
    }
}

/// The steps so far, told as they come.
pub(crate) struct Log {
    started: f64,
    steps: RefCell<Vec<CallEvent>>,
    listener: RefCell<Box<dyn FnMut(CallEvent)>>,
}

impl Log {
    pub(crate) fn new(listener: Box<dyn FnMut(CallEvent)>) -> Self {
        Self {
            started: now_ms(),
            steps: RefCell::default(),
            listener: RefCell::new(listener),
        }
    }

    pub(crate) fn note(&self, step: Step, detail: Option<String>) {
        let event = CallEvent {
            step,
            at_ms: now_ms() - self.started,
            detail,
        };
        self.steps.borrow_mut().push(event.clone());
        // A listener that does not end before the next step would be one that calls itself.
        if let Ok(mut listener) = self.listener.try_borrow_mut() {
            listener(event);
        }
    }
    /// The steps so far.
    pub(crate) fn steps(&self) -> Vec<CallEvent> {
        self.steps.borrow().clone()
    }
}
