//! Where the socket puts the datagrams of browsers: each link has an inlet, found by the name in an
//! ICE check, or by the address that a datagram comes from. Whether a datagram is the browser's is
//! for ICE and DTLS to say; here nothing is parsed beyond that.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;

use super::stream::UnreadStreams;

/// Bytes that wait for a link's driver, at most; more is lost, as in the socket's buffer.
const CAPACITY: usize = 4 << 20;
/// Addresses that a link takes datagrams from: those that the browser has named, and others that it
/// has proven itself from.
const MAX_ADDRESSES: usize = 32;

const STUN_HEADER: usize = 20;
const BINDING_REQUEST: [u8; 2] = [0x00, 0x01];
const USERNAME: u16 = 0x0006;

/// The inlets of all links.
#[derive(Debug, Default)]
pub(crate) struct Inlets {
    tables: RwLock<Tables>,
    /// What the streams of all these links hold.
    unread: UnreadStreams,
}

#[derive(Debug, Default)]
struct Tables {
    by_name: HashMap<String, Arc<Inlet>>,
    /// One link for an address, as a rule; what is not its own a link does not take.
    by_address: HashMap<SocketAddr, Vec<Arc<Inlet>>>,
}

/// One link's inlet.
#[derive(Debug)]
pub(crate) struct Inlet {
    name: String,
    /// Of a search's connection that has not been heard from: no link yet.
    is_awaited: AtomicBool,
    queue: Mutex<Queue>,
    addresses: Mutex<Vec<SocketAddr>>,
    arrived: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    batches: VecDeque<Batch>,
    bytes: usize,
}

/// Datagrams from one address: `stride` bytes each, the last may be shorter.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) from: SocketAddr,
    pub(super) contents: Vec<u8>,
    pub(super) stride: usize,
}

impl Inlets {
    /// Opens an inlet for the link with this local user name fragment.
    pub(super) fn open(&self, name: &str, named: &[SocketAddr]) -> Arc<Inlet> {
        self.enter(name, named, false)
    }

    /// The same for a connection of a search, most of which are never heard from.
    pub(super) fn open_awaited(&self, name: &str) -> Arc<Inlet> {
        self.enter(name, &[], true)
    }

    fn enter(&self, name: &str, named: &[SocketAddr], is_awaited: bool) -> Arc<Inlet> {
        let inlet = Arc::new(Inlet {
            name: name.to_owned(),
            is_awaited: is_awaited.into(),
            queue: Mutex::default(),
            addresses: Mutex::default(),
            arrived: Notify::new(),
        });
        let mut tables = self.tables.write();
        tables.by_name.insert(name.to_owned(), inlet.clone());
        drop(tables);
        for address in named {
            self.add(&inlet, *address);
        }
        inlet
    }

    pub(super) fn unread(&self) -> UnreadStreams {
        self.unread.clone()
    }

    /// Links that are open or under way; connections of searches that have not been heard from are
    /// none.
    pub(crate) fn count(&self) -> usize {
        let tables = self.tables.read();
        let is_link = |inlet: &&Arc<Inlet>| !inlet.is_awaited.load(Ordering::Relaxed);
        tables.by_name.values().filter(is_link).count()
    }

    /// From now on the link takes what comes from there. False if it has too many addresses.
    pub(super) fn add(&self, inlet: &Arc<Inlet>, address: SocketAddr) -> bool {
        let mut addresses = inlet.addresses.lock();
        if addresses.contains(&address) {
            return true;
        }
        if addresses.len() == MAX_ADDRESSES {
            return false;
        }
        addresses.push(address);
        drop(addresses);
        let mut tables = self.tables.write();
        let known = tables.by_address.entry(address).or_default();
        known.push(inlet.clone());
        true
    }

    pub(super) fn remove(&self, inlet: &Arc<Inlet>) {
        let mut tables = self.tables.write();
        tables.by_name.remove(&inlet.name);
        for address in inlet.addresses.lock().drain(..) {
            if let Some(known) = tables.by_address.get_mut(&address) {
                known.retain(|known| !Arc::ptr_eq(known, inlet));
                if known.is_empty() {
                    tables.by_address.remove(&address);
                }
            }
        }
    }

    /// Datagrams that look like DTLS, or like the answer to an ICE check.
    pub(crate) fn receive(&self, from: SocketAddr, contents: &[u8], stride: usize) {
        let tables = self.tables.read();
        for inlet in tables.by_address.get(&from).into_iter().flatten() {
            inlet.push(from, contents, stride);
        }
    }

    /// A datagram that looks like STUN. False if it is no ICE check.
    pub(crate) fn receive_check(&self, from: SocketAddr, datagram: &[u8]) -> bool {
        if !datagram.starts_with(&BINDING_REQUEST) {
            return false;
        }
        if let Some(name) = check_name(datagram) {
            let tables = self.tables.read();
            if let Some(inlet) = tables.by_name.get(name) {
                inlet.push(from, datagram, datagram.len());
            }
        }
        true
    }
}

impl Inlet {
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// It is a link's from now on.
    pub(super) fn is_heard(&self) {
        self.is_awaited.store(false, Ordering::Relaxed);
    }

    pub(super) fn push(&self, from: SocketAddr, contents: &[u8], stride: usize) {
        let mut queue = self.queue.lock();
        if queue.bytes + contents.len() <= CAPACITY {
            queue.bytes += contents.len();
            queue.batches.push_back(Batch {
                from,
                contents: contents.to_vec(),
                stride: stride.max(1),
            });
            drop(queue);
            self.arrived.notify_one();
        }
    }

    pub(super) fn pop(&self) -> Option<Batch> {
        let mut queue = self.queue.lock();
        let batch = queue.batches.pop_front()?;
        queue.bytes -= batch.contents.len();
        Some(batch)
    }

    pub(super) async fn arrived(&self) {
        self.arrived.notified().await;
    }

    pub(super) fn knows(&self, address: SocketAddr) -> bool {
        let addresses = self.addresses.lock();
        addresses.contains(&address)
    }
}

/// Whom an ICE check is for; `None`: it is no check.
pub(crate) fn check_name(datagram: &[u8]) -> Option<&str> {
    let is_check = datagram.starts_with(&BINDING_REQUEST);
    is_check.then(|| local_name(datagram)).flatten()
}

/// The receiver's part of a check's USERNAME (RFC 8445, 7.2.2).
fn local_name(datagram: &[u8]) -> Option<&str> {
    let mut attributes = datagram.get(STUN_HEADER..)?;
    loop {
        let (kind, rest) = attributes.split_first_chunk::<2>()?;
        let (length, rest) = rest.split_first_chunk::<2>()?;
        let length = usize::from(u16::from_be_bytes(*length));
        if u16::from_be_bytes(*kind) == USERNAME {
            let name = std::str::from_utf8(rest.get(..length)?).ok()?;
            return Some(name.split_once(':')?.0);
        }
        attributes = rest.get(length.next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut datagram = vec![0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42];
        datagram.extend_from_slice(&[7; 12]);
        for (kind, value) in attributes {
            datagram.extend_from_slice(&kind.to_be_bytes());
            datagram.extend_from_slice(&(value.len() as u16).to_be_bytes());
            datagram.extend_from_slice(value);
            datagram.resize(datagram.len().next_multiple_of(4), 0);
        }
        datagram
    }

    #[test]
    fn finds_the_name_behind_other_attributes() {
        let datagram = check(&[(0x8022, b"software"), (0x24, &[0; 4]), (6, b"mine:theirs")]);
        assert_eq!(local_name(&datagram), Some("mine"));
        for end in 0..datagram.len() {
            assert_eq!(local_name(&datagram[..end.min(datagram.len() - 2)]), None);
        }
        assert_eq!(local_name(&check(&[(6, b"no colon")])), None);
        assert_eq!(local_name(&check(&[(6, &[0xff, b':', 0xff])])), None);
    }

    #[test]
    fn checks_go_by_name_and_the_rest_by_address() {
        let [named, other] = ["192.168.1.2:5000", "192.168.1.9:5000"]
            .map(|text| text.parse::<SocketAddr>().unwrap());
        let inlets = Inlets::default();
        let inlet = inlets.open("mine", &[named]);
        let datagram = check(&[(6, b"mine:theirs")]);
        assert!(inlets.receive_check(other, &datagram), "from anywhere");
        assert!(inlets.receive_check(other, &check(&[(6, b"another:x")])));
        assert!(
            !inlets.receive_check(other, &[0x01, 0x01, 0, 0]),
            "an answer"
        );
        inlets.receive(other, &[22; 30], 10);
        inlets.receive(named, &[22; 30], 10);
        let batch = inlet.pop().unwrap();
        assert_eq!((batch.from, batch.contents), (other, datagram));
        let batch = inlet.pop().unwrap();
        assert_eq!((batch.from, batch.stride), (named, 10));
        assert!(inlet.pop().is_none());
        inlets.remove(&inlet);
        assert_eq!(inlets.count(), 0);
        inlets.receive(named, &[22; 30], 10);
        assert!(inlet.pop().is_none());
    }

    #[test]
    fn what_waits_and_where_from_is_bounded() {
        let inlets = Inlets::default();
        let address = |port: u16| SocketAddr::from(([192, 168, 1, 2], port));
        let inlet = inlets.open("mine", &[address(1)]);
        for _ in 0..100 {
            inlets.receive(address(1), &[22; 60_000], 1200);
        }
        let waiting: usize = std::iter::from_fn(|| inlet.pop())
            .map(|b| b.contents.len())
            .sum();
        assert!(
            waiting <= CAPACITY && waiting > CAPACITY - 60_000,
            "{waiting}"
        );
        let taken = (1..=100)
            .filter(|port| inlets.add(&inlet, address(*port)))
            .count();
        assert_eq!(taken, MAX_ADDRESSES);
    }
}
