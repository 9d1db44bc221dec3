//! STUN binding requests (RFC 8489) on the agent's own socket: they tell the public address and
//! keep the NAT's mapping open.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use stun_types::attribute::XorMappedAddress;
use stun_types::message::{BINDING, Message, MessageClass, MessageWriteVec};
use stun_types::prelude::MessageWrite as _;
use tokio::sync::oneshot;

use super::socket::PathSocket;

/// Pauses between transmissions of a request (RFC 8489, 6.2.1, with a shorter first one: a call
/// waits for the answer).
const RETRANSMISSIONS: [Duration; 4] = [
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_millis(1000),
    Duration::from_millis(1500),
];

/// Requests that wait for their answer.
#[derive(Debug, Default)]
pub(crate) struct Stun {
    waiting: Mutex<HashMap<u128, (SocketAddr, oneshot::Sender<SocketAddr>)>>,
}

impl Stun {
    /// A datagram that looks like STUN. Answers count only from the server that was asked.
    pub(crate) fn handle(&self, from: SocketAddr, datagram: &[u8]) {
        let Ok(message) = Message::from_bytes(datagram) else {
            return;
        };
        if message.class() != MessageClass::Success || message.method() != BINDING {
            return;
        }
        let Ok(mapped) = message.attribute::<XorMappedAddress>() else {
            return;
        };
        let transaction = message.transaction_id();
        let mut waiting = self.waiting.lock().expect("not poisoned");
        let key = transaction.into();
        if waiting.get(&key).is_some_and(|(server, _)| *server == from)
            && let Some((_, answer)) = waiting.remove(&key)
        {
            // The asker may have given up; then nobody wants to know.
            let _ = answer.send(ringback_protocol::candidate::canonical(
                mapped.addr(transaction),
            ));
        }
    }
}

/// Asks `server` for this socket's public address. `None` if it does not answer in about 3 s.
pub(crate) async fn ask(socket: &Arc<PathSocket>, server: SocketAddr) -> Option<SocketAddr> {
    let datagram = Message::builder_request(BINDING, MessageWriteVec::new()).finish();
    let key: u128 = Message::from_bytes(&datagram).ok()?.transaction_id().into();
    let (sender, mut answer) = oneshot::channel();
    socket
        .stun
        .waiting
        .lock()
        .expect("not poisoned")
        .insert(key, (server, sender));
    let mut found = None;
    for pause in RETRANSMISSIONS {
        socket.send(server, &datagram);
        if let Ok(Ok(address)) = tokio::time::timeout(pause, &mut answer).await {
            found = Some(address);
            break;
        }
    }
    socket
        .stun
        .waiting
        .lock()
        .expect("not poisoned")
        .remove(&key);
    found
}
