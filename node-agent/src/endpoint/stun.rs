//! STUN binding requests (RFC 8489) from the agent's own ports: they tell the public address and
//! keep the NAT's mapping open.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use parking_lot::Mutex;
use ringback_protocol::candidate::canonical;
use stun_types::attribute::XorMappedAddress;
use stun_types::message::{BINDING, Message, MessageClass, MessageWriteVec};
use stun_types::prelude::MessageWrite as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use super::tcp_port;

/// For a TCP server to be reached and to answer.
const TCP_PATIENCE: Duration = Duration::from_millis(1500);
/// Bytes of a STUN message's header, and of the longest body that is taken.
const HEADER: usize = 20;
const MAX_BODY: usize = 1024;

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
    /// Asks `server` for the public address of the socket that `send` sends from. `None` if it does not
    /// answer in about 3 s.
    pub(super) async fn ask(&self, server: SocketAddr, send: impl Fn(&[u8])) -> Option<SocketAddr> {
        let datagram = Message::builder_request(BINDING, MessageWriteVec::new()).finish();
        let key: u128 = Message::from_bytes(&datagram).ok()?.transaction_id().into();
        let (sender, mut answer) = oneshot::channel();
        self.waiting.lock().insert(key, (server, sender));
        let mut found = None;
        for pause in RETRANSMISSIONS {
            send(&datagram);
            if let Ok(Ok(address)) = tokio::time::timeout(pause, &mut answer).await {
                found = Some(address);
                break;
            }
        }
        self.waiting.lock().remove(&key);
        found
    }

    /// A datagram that looks like STUN. Answers count only from the server that was asked. False
    /// if it is no answer to a question that waits.
    pub(crate) fn handle(&self, from: SocketAddr, datagram: &[u8]) -> bool {
        let Some((key, mapped)) = read_answer(datagram) else {
            return false;
        };
        let mut waiting = self.waiting.lock();
        if waiting.get(&key).is_some_and(|(server, _)| *server == from)
            && let Some((_, answer)) = waiting.remove(&key)
        {
            // The asker may have given up; then nobody wants to know.
            let _ = answer.send(mapped);
            return true;
        }
        false
    }
}

/// Transaction and mapped address of a binding success response.
pub(crate) fn read_answer(datagram: &[u8]) -> Option<(u128, SocketAddr)> {
    let message = Message::from_bytes(datagram).ok()?;
    if message.class() != MessageClass::Success || message.method() != BINDING {
        return None;
    }
    let mapped = message.attribute::<XorMappedAddress>().ok()?;
    let transaction = message.transaction_id();
    Some((transaction.into(), canonical(mapped.addr(transaction))))
}

/// Asks `server` over TCP (RFC 8489, 6.2.2) for the public address of the local port `from`. The
/// router keeps the mapping while the connection is open.
pub(crate) async fn ask_by_tcp(
    from: u16,
    server: SocketAddr,
) -> io::Result<(SocketAddr, TcpStream)> {
    let asking = async {
        let mut stream = tcp_port::connect(from, server, TCP_PATIENCE).await?;
        let request = Message::builder_request(BINDING, MessageWriteVec::new()).finish();
        stream.write_all(&request).await?;
        let mut answer = vec![0; HEADER];
        stream.read_exact(&mut answer).await?;
        let length = usize::from(u16::from_be_bytes([answer[2], answer[3]]));
        answer.resize(HEADER + length.min(MAX_BODY), 0);
        stream.read_exact(&mut answer[HEADER..]).await?;
        let asked = Message::from_bytes(&request).map(|m| m.transaction_id().into());
        match read_answer(&answer) {
            Some((key, mapped)) if asked == Ok(key) => Ok((mapped, stream)),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    };
    match tokio::time::timeout(TCP_PATIENCE, asking).await {
        Ok(answer) => answer,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}
