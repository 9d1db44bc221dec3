//! What the parts of a device's object share.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;

use ringback_protocol::frame::Frame;
use ringback_protocol::{Code, PeerId};
use worker::{Env, State, WebSocket};

use super::ringing::{FetchWindows, Waiting};
use crate::attachment::{Attachment, Stage};
use crate::calls::CallTable;
use crate::clock::now_ms;
use crate::ice::Turn;
use crate::limits::{AnsweredCallers, RequestWindow};
use crate::problem::Problem;

/// Enrolled devices on this beacon: the address, and when the directory was asked. In memory: to
/// lose it costs a question to the directory for each.
pub(super) type KnownDevices = HashMap<PeerId, (SocketAddr, u64)>;

/// The object's insides, shared with the streams and tasks that outlive an event.
pub(super) struct Shared {
    pub(super) state: State,
    pub(super) env: Env,
    pub(super) calls: RefCell<CallTable>,
    /// Calls that this device has placed and that are under way.
    pub(super) placed: Cell<usize>,
    /// Requests while the device has no socket, and so no attachment to count them in; `None` until
    /// it was read from storage.
    pub(super) missing: RefCell<Option<RequestWindow>>,
    /// `None` until it was read from storage.
    pub(super) answered: RefCell<Option<AnsweredCallers>>,
    /// Requests that the device comes for, by call.
    pub(super) waiting: RefCell<BTreeMap<u64, Waiting>>,
    pub(super) fetched: RefCell<FetchWindows>,
    pub(super) known: RefCell<KnownDevices>,
    /// For admitted browsers.
    pub(super) turn: Turn,
}

impl Shared {
    pub(super) fn new(state: State, env: Env) -> Self {
        Self {
            state,
            env,
            calls: RefCell::new(CallTable::new(now_ms())),
            placed: Cell::new(0),
            missing: RefCell::default(),
            answered: RefCell::default(),
            waiting: RefCell::default(),
            fetched: RefCell::default(),
            known: RefCell::default(),
            turn: Turn::default(),
        }
    }

    /// Closes sockets that have not registered in time. Done when another one comes: a timer would
    /// keep the object awake, for whoever opens a socket and says nothing.
    pub(super) fn close_overdue(&self) {
        let now_ms = now_ms();
        for (socket, attachment) in self.attachments() {
            if attachment.patience_ms(now_ms) == Some(0) {
                let late = Problem::new(Code::BadFrame, "no registration within 10 s");
                self.reject(&socket, late);
            }
        }
    }
}

pub(super) fn send(socket: &WebSocket, frame: impl Into<Frame>) -> worker::Result<()> {
    socket.send_with_bytes(frame.into().encode())
}

pub(super) fn close_socket(
    socket: &WebSocket,
    attachment: &mut Attachment,
    code: u16,
    reason: &str,
) {
    attachment.stage = Stage::Closed;
    attachment.store(socket).ok();
    socket.close(Some(code), Some(reason)).ok();
}

pub(super) fn is_open(socket: &WebSocket) -> bool {
    socket.as_ref().ready_state() == worker::web_sys::WebSocket::OPEN
}
