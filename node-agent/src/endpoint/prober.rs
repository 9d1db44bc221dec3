//! A socket of its own that asks STUN servers (RFC 8489), to find out what a NAT does.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use ringback_protocol::candidate::canonical;
use ringback_protocol::diagnosis::Sighting;
use stun_types::attribute::{AttributeType, MappedSocketAddr, RawAttribute, XorMappedAddress};
use stun_types::message::{BINDING, Message, MessageClass, MessageWriteVec};
use stun_types::prelude::{MessageWrite as _, MessageWriteExt as _};
use tokio::net::UdpSocket;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use crate::nat64;

/// RFC 5780, 7.2 and 7.4; the second under its name of RFC 3489, which older servers use.
const CHANGE_REQUEST: AttributeType = AttributeType::new(0x0003);
const OTHER_ADDRESS: AttributeType = AttributeType::new(0x802C);
const CHANGED_ADDRESS: AttributeType = AttributeType::new(0x0005);
pub(super) const CHANGE_IP: u8 = 4;
pub(super) const CHANGE_PORT: u8 = 2;

/// Pauses after each transmission of a request. 1.3 s in all.
const PAUSES: [Duration; 3] = [
    Duration::from_millis(250),
    Duration::from_millis(400),
    Duration::from_millis(650),
];

/// A socket that asks STUN servers.
pub(super) struct Prober {
    socket: Arc<UdpSocket>,
    waiting: Arc<Mutex<Waiting>>,
    _reader: AbortOnDropHandle<()>,
}

#[derive(Default)]
struct Waiting {
    answers: HashMap<u128, oneshot::Sender<(SocketAddr, Parsed)>>,
    /// Requests that have come, as they do from a neighbour by the way through the router.
    heard: Vec<u128>,
}

struct Parsed {
    mapped: SocketAddr,
    other: Option<SocketAddr>,
}

pub(super) struct Answer {
    pub(super) server: SocketAddr,
    /// Where it came from.
    pub(super) from: SocketAddr,
    pub(super) mapped: SocketAddr,
    /// The server's second address (RFC 5780, 7.4).
    pub(super) other: Option<SocketAddr>,
    pub(super) rtt: Duration,
}

impl Answer {
    pub(super) fn sighting(&self) -> Sighting {
        Sighting {
            server: self.server,
            seen: self.mapped,
        }
    }
}

impl Prober {
    /// For servers of one address family.
    pub(super) fn bind(v6: bool) -> io::Result<Self> {
        let any: SocketAddr = if v6 || nat64::prefix().is_some() {
            (Ipv6Addr::UNSPECIFIED, 0).into()
        } else {
            (Ipv4Addr::UNSPECIFIED, 0).into()
        };
        let socket = std::net::UdpSocket::bind(any)?;
        socket.set_nonblocking(true)?;
        let socket = Arc::new(UdpSocket::from_std(socket)?);
        let waiting = Arc::<Mutex<Waiting>>::default();
        let reader = tokio::spawn(read(socket.clone(), waiting.clone()));
        Ok(Self {
            socket,
            waiting,
            _reader: AbortOnDropHandle::new(reader),
        })
    }

    pub(super) fn local(&self) -> Option<SocketAddr> {
        self.socket.local_addr().ok()
    }

    pub(super) async fn ask_each(&self, servers: &[SocketAddr]) -> Vec<Answer> {
        let questions = servers.iter().map(|server| self.ask(*server, 0));
        let answers = futures_util::future::join_all(questions).await;
        answers.into_iter().flatten().collect()
    }

    /// `change`: flags of what is to be different about the answer's source.
    pub(super) async fn ask(&self, server: SocketAddr, change: u8) -> Option<Answer> {
        let (request, key) = request(change)?;
        let (sender, mut answer) = oneshot::channel();
        self.lock().answers.insert(key, sender);
        let mut found = None;
        for pause in PAUSES {
            let sent = Instant::now();
            // A way that is closed now may be open at the next attempt.
            let _ = self.socket.send_to(&request, nat64::outward(server)).await;
            if let Ok(Ok((from, parsed))) = timeout(pause, &mut answer).await {
                let rtt = sent.elapsed();
                // Only a server that was told to may answer from elsewhere.
                if from == server || change != 0 {
                    found = Some(Answer {
                        server,
                        from,
                        mapped: parsed.mapped,
                        other: parsed.other,
                        rtt,
                    });
                }
                break;
            }
        }
        self.lock().answers.remove(&key);
        found
    }

    /// Does a request to `public`, which is `peer`'s address, reach it?
    pub(super) async fn ask_peer(&self, public: SocketAddr, peer: &Self) -> bool {
        let Some((request, key)) = request(0) else {
            return false;
        };
        for _ in 0..4 {
            let _ = self.socket.send_to(&request, nat64::outward(public)).await;
            tokio::time::sleep(Duration::from_millis(120)).await;
            if peer.lock().heard.contains(&key) {
                return true;
            }
        }
        false
    }

    fn lock(&self) -> parking_lot::MutexGuard<'_, Waiting> {
        self.waiting.lock()
    }
}

/// Requests that a socket remembers: as many as a test sends, and not what strangers send.
const HEARD: usize = 16;

async fn read(socket: Arc<UdpSocket>, waiting: Arc<Mutex<Waiting>>) {
    let mut buffer = [0; 1500];
    loop {
        let (length, from) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            // A closed port somewhere; the socket is as good as before.
            Err(_) => {
                tokio::task::yield_now().await;
                continue;
            }
        };
        let Ok(message) = Message::from_bytes(&buffer[..length]) else {
            continue;
        };
        let key = message.transaction_id().into();
        let mut waiting = waiting.lock();
        if message.class() == MessageClass::Request {
            if waiting.heard.len() < HEARD {
                waiting.heard.push(key);
            }
        } else if let Some(parsed) = parse(&message)
            && let Some(answer) = waiting.answers.remove(&key)
        {
            // The asker may have given up.
            let _ = answer.send((nat64::inward(from), parsed));
        }
    }
}

fn parse(message: &Message<'_>) -> Option<Parsed> {
    if message.class() != MessageClass::Success || message.method() != BINDING {
        return None;
    }
    let mapped = message.attribute::<XorMappedAddress>().ok()?;
    let other = [OTHER_ADDRESS, CHANGED_ADDRESS]
        .into_iter()
        .find_map(|kind| message.raw_attribute(kind))
        .and_then(|raw| MappedSocketAddr::from_raw(&raw).ok())
        .map(|other| canonical(other.addr()));
    Some(Parsed {
        mapped: canonical(mapped.addr(message.transaction_id())),
        other,
    })
}

/// A binding request and its transaction.
fn request(change: u8) -> Option<(Vec<u8>, u128)> {
    let mut request = Message::builder_request(BINDING, MessageWriteVec::new());
    if change != 0 {
        let flags = [0, 0, 0, change];
        request
            .add_attribute(&RawAttribute::new(CHANGE_REQUEST, &flags))
            .ok()?;
    }
    let bytes = request.finish();
    let key = Message::from_bytes(&bytes).ok()?.transaction_id().into();
    Some((bytes, key))
}
