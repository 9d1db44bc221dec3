//! A link: an authenticated WebRTC connection to a device, and the streams on it.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};

use ringback_protocol::channel::reset;
use ringback_protocol::receipt::Nat;
use ringback_protocol::stream::Open;
use ringback_protocol::{PeerId, name};
use serde::Serialize;
use wasm_bindgen::JsValue;
use web_sys::RtcPeerConnectionState;

use crate::clock::Signal;
use crate::error::{DEVICE_MISBEHAVED, LINK_CLOSED, TOO_MANY_STREAMS};
use crate::explanation::explain_reset;
use crate::object::{self, flag, list, member, text};
use crate::peer::Peer;
use crate::proof::DerivedProof;
use crate::stream::{self, Carrier, MAX_STREAMS};
use crate::{CallError, CallEvent, Contacts, Mode, Receipt, Registry, Stats, Stream, receipt};

/// The service that lists the others.
const LISTING: &str = ".services";
/// Bytes of the longest listing that is read.
const MAX_LISTING: usize = 1 << 20;

/// A link to a device. Cheap to clone; it ends by [`Self::close`], or when the last clone and the
/// last stream are dropped.
#[derive(Debug, Clone)]
pub struct Link {
    core: Rc<Core>,
}

pub(crate) struct Core {
    peer: Peer,
    made: Made,
    streams: RefCell<Vec<Rc<stream::Core>>>,
    state: Cell<LinkState>,
    end: Rc<End>,
}

/// The end of a link. Whoever waits for it does not keep the link.
#[derive(Default)]
struct End {
    reason: RefCell<Option<LinkEnd>>,
    changed: Signal,
}

/// How the link came about.
pub(crate) struct Made {
    pub(crate) registry: Registry,
    pub(crate) device: PeerId,
    pub(crate) service: String,
    /// `None`: the browser's key.
    pub(crate) proof: Option<DerivedProof>,
    pub(crate) remembered: bool,
    pub(crate) device_nat: Nat,
    pub(crate) steps: Vec<CallEvent>,
}

/// Whether data flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LinkState {
    Connected,
    /// Nothing has come for some seconds; it may come back by itself.
    Interrupted,
    Ended,
}

/// Why a link has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LinkEnd {
    /// `closed` (by this side), `closed_by_device`, `revoked`, `shutting_down` or `lost`.
    pub code: String,
    /// A sentence for a person.
    pub message: String,
}

/// A service that the device exposes to this caller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Service {
    pub name: String,
    /// `tcp`, `udp`, `http`, `shell`, `files` or `dial`.
    pub kind: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub writable: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

impl Service {
    fn read(of: &JsValue) -> Option<Self> {
        Some(Self {
            name: text(of, "name")?,
            kind: text(of, "kind")?,
            writable: flag(of, "writable"),
            target: text(of, "target"),
        })
    }
}

impl Link {
    pub(crate) fn new(peer: Peer, made: Made) -> Self {
        let core = Rc::new(Core {
            peer,
            made,
            streams: RefCell::default(),
            state: Cell::new(LinkState::Connected),
            end: Rc::default(),
        });
        wasm_bindgen_futures::spawn_local(Core::follow(Rc::downgrade(&core)));
        Self { core }
    }

    pub fn device(&self) -> PeerId {
        self.core.made.device
    }

    /// The device knows this browser's key from now on.
    pub fn remembered(&self) -> bool {
        self.core.made.remembered
    }

    /// What happened until the link was there, and the paths as they are now.
    pub async fn receipt(&self) -> Result<Receipt, CallError> {
        let report = self.core.peer.stats().await.ok_or_else(closed)?;
        let made = &self.core.made;
        Ok(receipt::receipt(
            &report,
            made.device,
            made.remembered,
            made.device_nat,
            made.steps.clone(),
        ))
    }

    pub async fn stats(&self) -> Result<Stats, CallError> {
        let report = self.core.peer.stats().await.ok_or_else(closed)?;
        Ok(receipt::stats(&report))
    }

    /// What the device exposes to this caller. The name that it tells with it goes into its contact.
    pub async fn services(&self) -> Result<Vec<Service>, CallError> {
        let stream = self.open(LISTING, Mode::Raw)?;
        stream.finish();
        let mut bytes = Vec::new();
        while let Some(more) = stream.read().await? {
            bytes.extend_from_slice(&more);
            if bytes.len() > MAX_LISTING {
                return Err(misbehaved("its list of services has no end"));
            }
        }
        let bad = || misbehaved("its list of services can not be read");
        let json = String::from_utf8(bytes).map_err(|_| bad())?;
        let listing = object::parse(&json).ok_or_else(bad)?;
        let told = text(&member(&listing, "device"), "name");
        if let Some(name) = told.filter(|name| name::check(name).is_ok()) {
            // That it can not be kept is no reason to show nothing.
            let _ = Contacts::told(&self.device(), name).await;
        }
        list(&listing, "services", Service::read).ok_or_else(bad)
    }

    /// Opens a stream to a service. The stream can be written to at once; whether the device takes it
    /// is known by [`Stream::opened`], or by the first read.
    pub fn open(&self, service: &str, mode: Mode) -> Result<Stream, CallError> {
        let core = &self.core;
        if let Some(end) = &*core.end.reason.borrow() {
            return Err(end.as_error());
        }
        if core.streams.borrow().len() >= MAX_STREAMS {
            return Err(CallError::new(
                TOO_MANY_STREAMS,
                format!("a link carries {MAX_STREAMS} streams at a time"),
            ));
        }
        let channel = core.peer.channel().ok_or_else(closed)?;
        let open = Open {
            mode,
            ..Open::new(service)
        };
        let carrier = Rc::clone(core);
        Ok(Stream::new(channel, &open, carrier))
    }

    #[cfg(all(test, target_arch = "wasm32"))]
    pub(crate) fn stream_count(&self) -> usize {
        self.core.streams.borrow().len()
    }

    pub fn state(&self) -> LinkState {
        self.core.state.get()
    }

    /// Calls `on_state` at each change of [`Self::state`], until the link ends.
    pub fn on_state(&self, mut on_state: impl FnMut(LinkState) + 'static) {
        let watch = Rc::clone(&self.core.peer.watch);
        let core = Rc::downgrade(&self.core);
        let mut last = self.state();
        wasm_bindgen_futures::spawn_local(async move {
            while last != LinkState::Ended {
                let next = watch.changed.wait(|| {
                    let state = core
                        .upgrade()
                        .map_or(LinkState::Ended, |core| core.state.get());
                    (state != last).then_some(state)
                });
                last = next.await;
                on_state(last);
            }
        });
    }

    /// Waits for the end of the link, which this keeps from nothing.
    pub fn closed(&self) -> impl Future<Output = LinkEnd> + use<> {
        let end = Rc::clone(&self.core.end);
        async move { end.changed.wait(|| end.reason.borrow().clone()).await }
    }

    /// Ends the link: streams that are open are reset.
    pub fn close(&self) {
        self.core
            .finish(LinkEnd::new("closed", "the link was closed"));
    }

    /// What this link was proven with, for a call to the same device without its password; `None` if
    /// it was the browser's key, with which [`Proof::Remembered`](crate::Proof::Remembered) does the
    /// same.
    pub fn proof(&self) -> Option<DerivedProof> {
        self.core.made.proof.clone()
    }

    /// How it came about.
    pub(crate) fn made(&self) -> &Made {
        &self.core.made
    }
}

impl Carrier for Core {
    fn keep(&self, stream: Rc<stream::Core>) {
        self.streams.borrow_mut().push(stream);
    }

    fn forget(&self, stream: &Rc<stream::Core>) {
        self.streams
            .borrow_mut()
            .retain(|kept| !Rc::ptr_eq(kept, stream));
    }

    /// Two of the reasons end the link, and are its last word: an agent
    /// that stops may not live to close the channel, let alone the connection.
    fn heard_reset(&self, code: u32) {
        if let reset::REVOKED | reset::SHUTTING_DOWN = code {
            let end = explain_reset(code);
            self.finish(LinkEnd::new(&end.code, &end.message));
        }
    }
}

impl Core {
    /// Follows what becomes of the connection, for as long as it is there.
    async fn follow(core: Weak<Self>) {
        let Some(watch) = core.upgrade().map(|core| Rc::clone(&core.peer.watch)) else {
            return;
        };
        let mut last = RtcPeerConnectionState::Connected;
        loop {
            let next = watch.changed.wait(|| {
                let state = watch.state();
                (state != last).then_some(state)
            });
            last = next.await;
            let Some(core) = core.upgrade() else { return };
            match last {
                RtcPeerConnectionState::Connected => core.set_state(LinkState::Connected),
                RtcPeerConnectionState::Failed => core.finish(LinkEnd::new(
                    "lost",
                    "the link is lost: nothing came from the device any more",
                )),
                RtcPeerConnectionState::Closed => {
                    core.finish(core.end_by_device());
                    return;
                }
                _ => core.set_state(LinkState::Interrupted),
            }
        }
    }

    /// The device has closed the connection; what it said on the streams tells why.
    fn end_by_device(&self) -> LinkEnd {
        let streams = self.streams.borrow();
        let reason = streams.iter().find_map(|stream| stream.reset_by_device());
        match reason {
            Some(code @ (reset::REVOKED | reset::SHUTTING_DOWN)) => {
                let end = explain_reset(code);
                LinkEnd::new(&end.code, &end.message)
            }
            _ => LinkEnd::new("closed_by_device", "the device has closed the link"),
        }
    }

    fn set_state(&self, state: LinkState) {
        if self.state.get() != LinkState::Ended && self.state.replace(state) != state {
            self.peer.watch.changed.wake();
        }
    }

    fn finish(&self, end: LinkEnd) {
        if self.end.reason.borrow().is_some() {
            return;
        }
        let error = end.as_error();
        self.end.reason.replace(Some(end));
        self.end.changed.wake();
        self.set_state(LinkState::Ended);
        for stream in self.streams.take() {
            stream.fail(error.clone());
        }
        self.peer.close();
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        self.finish(LinkEnd::new("closed", "the link was closed"));
    }
}

impl LinkEnd {
    fn new(code: &str, message: &str) -> Self {
        Self {
            code: code.to_owned(),
            message: message.to_owned(),
        }
    }

    /// As streams of the link, and attempts to open one, report it.
    fn as_error(&self) -> CallError {
        let code = match self.code.as_str() {
            "revoked" => "revoked",
            "shutting_down" => "shutting_down",
            _ => LINK_CLOSED,
        };
        CallError::new(code, self.message.clone())
    }
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Link({:?}, {:?})", self.made.device, self.state.get())
    }
}

fn closed() -> CallError {
    CallError::new(LINK_CLOSED, "the link is closed")
}

fn misbehaved(what: &str) -> CallError {
    CallError::new(
        DEVICE_MISBEHAVED,
        format!("the device broke the protocol: {what}"),
    )
}
