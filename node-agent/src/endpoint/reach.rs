//! What a link does beside pinging addresses, to get a path and to get a better one: TCP to the
//! peer, both ends opening at the same time where routers stand between, and new addresses when the
//! old ones fail. One task per link, quiet when the link has a UDP path.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use ringback_protocol::address_scope::Scope;
use ringback_protocol::candidate::{Candidate, Kind, MAX_TCP};
use ringback_protocol::path::Class;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::link_path::InUse;
use super::own_addresses::OwnAddresses;
use super::paths::{Paths, WeakPaths};
use super::{addresses, tcp, tcp_port};

/// Addresses that are dialled by TCP for one link, however often the peer names others.
const MAX_DIALLED: usize = 16;
/// UDP has this long before TCP is tried.
const UDP_FIRST: Duration = Duration::from_millis(300);
/// How long one TCP connection may take.
const CONNECT: Duration = Duration::from_millis(2500);
/// Pauses between attempts to reach one TCP address; the routers on the way have to see both ends'
/// first packets before one gets through.
const ATTEMPTS: [Duration; 4] = [
    Duration::ZERO,
    Duration::from_millis(200),
    Duration::from_millis(600),
    Duration::from_millis(1500),
];
/// A link without a direct path opens a TCP port on its router after this time, and again after
/// these pauses.
const OPEN_PORT: [Duration; 4] = [
    Duration::from_millis(1200),
    Duration::from_secs(10),
    Duration::from_secs(60),
    Duration::from_secs(300),
];
/// The router keeps a TCP port for the peer's attempts while this end stays connected to the STUN
/// server.
const PORT_OPEN: Duration = Duration::from_secs(8);

/// The task's state.
#[derive(Debug)]
pub(super) struct Reach {
    own: Arc<OwnAddresses>,
    paths: WeakPaths,
    named: mpsc::UnboundedReceiver<Vec<Candidate>>,
    /// The peer's TCP candidates.
    known: Vec<Candidate>,
    /// All that were ever dialled for this link.
    ever: HashSet<SocketAddr>,
    /// Those that are being dialled, or carry a connection.
    dialled: Arc<Mutex<HashSet<SocketAddr>>>,
}

impl Reach {
    pub(super) fn new(
        own: Arc<OwnAddresses>,
        paths: &Paths,
        named: mpsc::UnboundedReceiver<Vec<Candidate>>,
    ) -> Self {
        Self {
            own,
            paths: paths.downgrade(),
            named,
            known: Vec::new(),
            ever: HashSet::new(),
            dialled: Arc::default(),
        }
    }

    /// The peer's candidates, of which the TCP ones are dialled unless UDP works soon.
    pub(super) fn set_candidates(&mut self, candidates: &[Candidate]) {
        let own = self.own.known().public.map(|own| own.ip());
        self.known = worth_dialling(candidates, own, &mut self.ever);
        self.try_tcp();
    }

    fn try_tcp(&self) {
        let Some(paths) = self.paths.upgrade() else {
            return;
        };
        for candidate in &self.known {
            let to = candidate.address;
            let mut dialled = self.dialled.lock();
            if !dialled.insert(to) {
                continue;
            }
            let (weak, kind) = (self.paths.clone(), candidate.kind);
            let port = self.own.ports.tcp;
            let dialled = self.dialled.clone();
            let task = tokio::spawn(async move {
                dial(weak, kind, to, port).await;
                dialled.lock().remove(&to);
            });
            paths.own(task.abort_handle());
        }
    }

    /// Until the link's paths are closed.
    pub(super) async fn run(mut self) {
        let Some(mut in_use) = self.paths.upgrade().map(|paths| paths.in_use()) else {
            return;
        };
        let mut last = None;
        let mut pauses = OPEN_PORT.iter();
        loop {
            let class = in_use.borrow_and_update().verified;
            if class > last && last.is_some() || class.is_none() && last.is_some() {
                // Lost, maybe because this end has got another address.
                self.own.doubt();
                pauses = OPEN_PORT.iter();
                if class.is_none_or(Class::is_relay) {
                    self.try_tcp();
                }
            }
            last = class;
            let is_direct = class.is_some_and(|class| !class.is_relay());
            let pause = if is_direct {
                None
            } else {
                pauses.clone().next()
            };
            tokio::select! {
                changed = in_use.changed() => if changed.is_err() { return },
                named = self.named.recv() => match named {
                    Some(candidates) => self.set_candidates(&candidates),
                    None => return,
                },
                () = async { sleep(*pause.expect("checked")).await }, if pause.is_some() => {
                    pauses.next();
                    self.open_port();
                    self.try_tcp();
                }
            }
        }
    }

    /// Has the router map the TCP port, by asking a STUN server over TCP, and tells the peer which
    /// port that is.
    fn open_port(&self) {
        let (own, weak) = (self.own.clone(), self.paths.clone());
        let Some(paths) = self.paths.upgrade() else {
            return;
        };
        let task = tokio::spawn(async move {
            let servers = own.stun_servers().borrow().clone();
            let Some((public, stun)) = addresses::ask_by_tcp(own.ports, &servers).await else {
                return;
            };
            let known = own.known();
            let mut candidates = known.candidates;
            candidates.insert(0, Candidate::tcp(Kind::ServerReflexive, public));
            let candidates = ringback_protocol::candidate::rank(&candidates, own.loopback);
            let Some(paths) = weak.upgrade() else { return };
            paths.offer(&candidates, known.nat);
            drop(paths);
            hold(stun).await;
        });
        paths.own(task.abort_handle());
    }
}

/// The TCP candidates that are dialled: a few, and those in private networks only where the peer may be
/// on this one. Otherwise whoever has a link could have this host try ports of its neighbours, and learn
/// by the time that it takes which are open.
fn worth_dialling(
    candidates: &[Candidate],
    own_public: Option<IpAddr>,
    ever: &mut HashSet<SocketAddr>,
) -> Vec<Candidate> {
    let is_private = |candidate: &Candidate| {
        let scope = Scope::of(candidate.address.ip());
        matches!(scope, Scope::Private | Scope::LinkLocal)
    };
    let seen_by_servers =
        |candidate: &&Candidate| matches!(candidate.kind, Kind::ServerReflexive | Kind::Mapped);
    let mut theirs = candidates
        .iter()
        .filter(seen_by_servers)
        .map(|candidate| candidate.address.ip());
    let same_site = match own_public {
        Some(own) => theirs.clone().next().is_none() || theirs.any(|ip| ip == own),
        None => true,
    };
    let tcp = candidates.iter().filter(|candidate| candidate.is_tcp());
    let worth = tcp.filter(|candidate| same_site || !is_private(candidate));
    worth
        .take(MAX_TCP)
        .filter(|candidate| {
            ever.contains(&candidate.address)
                || (ever.len() < MAX_DIALLED && ever.insert(candidate.address))
        })
        .cloned()
        .collect()
}

/// Keeps the connection to the STUN server open for as long as the peer's attempts take.
async fn hold(stun: TcpStream) {
    sleep(PORT_OPEN).await;
    drop(stun);
}

/// Dials `to` until it answers, UDP works, or the attempts are used up; then carries datagrams until
/// the connection ends.
async fn dial(weak: WeakPaths, kind: Kind, to: SocketAddr, port: u16) {
    let Some(mut in_use) = weak.upgrade().map(|paths| paths.in_use()) else {
        return;
    };
    let has_udp = |in_use: &InUse| in_use.verified == Some(Class::Udp);
    if tokio::time::timeout(UDP_FIRST, in_use.wait_for(has_udp))
        .await
        .is_ok()
    {
        return;
    }
    for pause in ATTEMPTS {
        sleep(pause).await;
        let connecting = tcp_port::connect(port, to, CONNECT);
        let connected = tokio::select! {
            connected = connecting => connected,
            _ = in_use.wait_for(has_udp) => return,
        };
        match connected {
            Ok(stream) => {
                let Some(paths) = weak.upgrade() else { return };
                let carrying = tcp::carry(stream, &paths, kind, to);
                drop(paths);
                carrying.await;
                return;
            }
            Err(error) => tracing::debug!(%error, "a TCP candidate does not answer"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(kind: Kind, address: &str) -> Candidate {
        Candidate::tcp(kind, address.parse().unwrap())
    }

    #[test]
    fn hosts_of_this_lan_are_not_tried_for_a_peer_from_elsewhere() {
        let own = Some("202.204.16.13".parse().unwrap());
        let mut named: Vec<_> = (1..=16)
            .map(|host| tcp(Kind::Host, &format!("192.168.1.{host}:22")))
            .collect();
        named.push(Candidate::udp(
            Kind::ServerReflexive,
            "4.17.168.2:40000".parse().unwrap(),
        ));
        assert!(worth_dialling(&named, own, &mut HashSet::new()).is_empty());
        named.push(tcp(Kind::Mapped, "4.17.168.2:40001"));
        let worth = worth_dialling(&named, own, &mut HashSet::new());
        assert_eq!(worth, [tcp(Kind::Mapped, "4.17.168.2:40001")]);
    }

    #[test]
    fn a_neighbour_is_tried_at_few_addresses_however_often_it_names_others() {
        let own = Some("202.204.16.13".parse().unwrap());
        let mut ever = HashSet::new();
        let mut dialled = HashSet::new();
        for round in 0..100 {
            let mut named: Vec<_> = (0..16)
                .map(|host| tcp(Kind::Host, &format!("192.168.{round}.{host}:22")))
                .collect();
            named.push(Candidate::udp(
                Kind::ServerReflexive,
                "202.204.16.13:40000".parse().unwrap(),
            ));
            let worth = worth_dialling(&named, own, &mut ever);
            assert!(worth.len() <= MAX_TCP);
            dialled.extend(worth.into_iter().map(|candidate| candidate.address));
        }
        assert_eq!(dialled.len(), MAX_DIALLED);
    }
}
