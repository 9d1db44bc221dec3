//! What an agent knows of its own addresses while its endpoint is open: looked for, kept true, and told
//! to the peers of all links when it changes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ringback_protocol::candidate::{self, Candidate, Kind};
use tokio::sync::{Notify, watch};

use super::addresses::{self, Addresses, Ports};
use super::socket::PathSocket;

/// The own addresses, and who is asked for more.
#[derive(Debug)]
pub(crate) struct OwnAddresses {
    socket: Arc<PathSocket>,
    pub(super) ports: Ports,
    pub(super) loopback: bool,
    known: watch::Sender<Addresses>,
    stun: watch::Sender<Vec<String>>,
    /// Somebody has reason to believe that the addresses have changed.
    doubted: Notify,
}

impl OwnAddresses {
    /// `loopback`: loopback addresses may be used for links too.
    pub(super) fn new(socket: Arc<PathSocket>, ports: Ports, loopback: bool) -> Self {
        Self {
            socket,
            ports,
            loopback,
            known: watch::Sender::default(),
            stun: watch::Sender::default(),
            doubted: Notify::new(),
        }
    }

    /// What is known, now and later.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Addresses> {
        self.known.subscribe()
    }

    /// What is known now.
    pub(crate) fn known(&self) -> Addresses {
        self.known.borrow().clone()
    }

    /// The STUN servers to ask.
    pub(crate) fn stun_servers(&self) -> &watch::Sender<Vec<String>> {
        &self.stun
    }

    /// Looks for them, at most about 1 s, and tells the peers of all links if they have changed.
    pub(crate) async fn find(&self) -> Addresses {
        let servers = self.stun.borrow().clone();
        let found = addresses::find(&self.socket, self.ports, &servers, self.loopback).await;
        self.learn(found)
    }

    /// What can be known without asking anybody.
    pub(crate) async fn find_of_host(&self) -> Addresses {
        let found = addresses::find(&self.socket, self.ports, &[], self.loopback).await;
        self.learn(found)
    }

    fn learn(&self, mut found: Addresses) -> Addresses {
        let mut news = false;
        self.known.send_if_modified(|known| {
            // Without an answer the old knowledge is better than none, unless the host has moved.
            if found.public.is_none() && known.public.is_some() && same_hosts(known, &found) {
                return false;
            }
            found = found.clone().with_mapped(&known.mapped, self.loopback);
            news = *known != found;
            if news {
                *known = found.clone();
            }
            news
        });
        if news {
            self.tell_links();
        }
        self.known()
    }

    /// Ports that the router maps to this agent now, as UDP and TCP candidates.
    pub(crate) fn set_mapped(&self, mapped: &[Candidate]) {
        let changed = self.known.send_if_modified(|known| {
            let with = known.clone().with_mapped(mapped, self.loopback);
            std::mem::replace(known, with.clone()) != with
        });
        if changed {
            self.tell_links();
        }
    }

    fn tell_links(&self) {
        let Addresses {
            candidates, nat, ..
        } = self.known();
        self.socket
            .each_link(|paths, now| paths.offer(&candidates, nat, now));
    }

    /// Somebody has reason to believe that they have changed: has them looked for soon.
    pub(crate) fn doubt(&self) {
        self.doubted.notify_one();
    }

    /// Keeps the router's mapping open and the addresses true: asks a STUN server every `interval`,
    /// and all of them when its answer is new, when there are others, or when somebody doubts. Runs
    /// until it is dropped.
    pub(crate) async fn keep(&self, interval: Duration) {
        let mut servers = self.stun.subscribe();
        loop {
            let first = servers.borrow_and_update().first().cloned();
            tokio::select! {
                () = tokio::time::sleep(interval) => {
                    let Some(first) = first else { continue };
                    let seen = addresses::ask_by_name(&self.socket, &first).await;
                    let known = self.known.borrow().public;
                    if known.is_some_and(|known| seen.contains(&known)) {
                        continue;
                    }
                }
                () = self.doubted.notified() => {}
                changed = servers.changed() => if changed.is_err() { return },
            }
            self.find().await;
        }
    }

    /// A beacon has seen this public address: it counts from now on.
    pub(crate) fn reflect(&self, public: SocketAddr) {
        let changed = self.known.send_if_modified(|known| {
            let news = known.public != Some(public);
            if news {
                let candidates = &mut known.candidates;
                candidates.retain(|known| known.kind != Kind::ServerReflexive);
                candidates.push(Candidate::udp(Kind::ServerReflexive, public));
                *candidates = candidate::rank(candidates, self.loopback);
                known.public = Some(public);
            }
            news
        });
        if changed {
            self.tell_links();
        }
    }
}

/// Has the host the addresses that it had?
fn same_hosts(known: &Addresses, found: &Addresses) -> bool {
    let hosts = |addresses: &Addresses| -> Vec<SocketAddr> {
        let hosts = addresses.candidates.iter().filter(|c| c.kind == Kind::Host);
        hosts.map(|candidate| candidate.address).collect()
    };
    hosts(known) == hosts(found)
}
