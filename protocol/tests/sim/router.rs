//! A home's router: how it maps the one socket inside, and what it lets in.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use ringback_protocol::candidate::{Candidate, Kind};

/// The kinds of the NAT matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NatKind {
    /// None: the socket has a public address.
    Open,
    /// Another port outside; everybody may answer.
    FullCone,
    /// Another port outside; only addresses and ports that were written to may answer.
    PortRestricted,
    /// The same port outside; only addresses that were written to may answer, from any port.
    AddressOnly,
}

impl NatKind {
    pub const ALL: [Self; 4] = [
        Self::Open,
        Self::FullCone,
        Self::PortRestricted,
        Self::AddressOnly,
    ];
}

#[derive(Debug)]
pub struct Router {
    kind: NatKind,
    inside: SocketAddr,
    public: SocketAddr,
    former: Vec<SocketAddr>,
    written_to: BTreeSet<SocketAddr>,
}

impl Router {
    pub fn new(kind: NatKind, inside: &str, public_ip: &str) -> Self {
        let inside: SocketAddr = inside.parse().expect("an address");
        let ip: IpAddr = public_ip.parse().expect("an address");
        let port = match kind {
            NatKind::Open | NatKind::AddressOnly => inside.port(),
            NatKind::FullCone | NatKind::PortRestricted => 40_000,
        };
        let public = SocketAddr::new(ip, port);
        Self {
            kind,
            inside: if kind == NatKind::Open {
                public
            } else {
                inside
            },
            public,
            former: Vec::new(),
            written_to: BTreeSet::new(),
        }
    }

    /// Where the socket is seen from outside, as STUN tells.
    pub fn public(&self) -> SocketAddr {
        self.public
    }

    pub fn candidates(&self) -> Vec<Candidate> {
        vec![
            Candidate::udp(Kind::Host, self.inside),
            Candidate::udp(Kind::ServerReflexive, self.public),
        ]
    }

    /// Does, or did, this address lead to the socket?
    pub fn ever_had(&self, address: SocketAddr) -> bool {
        self.public == address || self.former.contains(&address)
    }

    /// The socket sends to `to`: the address that the datagram comes from, outside.
    pub fn sends(&mut self, to: SocketAddr) -> SocketAddr {
        self.written_to.insert(to);
        self.public
    }

    pub fn lets_in(&self, from: SocketAddr) -> bool {
        match self.kind {
            NatKind::Open | NatKind::FullCone => true,
            NatKind::PortRestricted => self.written_to.contains(&from),
            NatKind::AddressOnly => self.written_to.iter().any(|to| to.ip() == from.ip()),
        }
    }

    /// The provider gives the router another address, and all mappings are new.
    pub fn rebind(&mut self) {
        self.former.push(self.public);
        let IpAddr::V4(ip) = self.public.ip() else {
            panic!("the simulator's routers have IPv4 addresses");
        };
        let ip = std::net::Ipv4Addr::from(u32::from(ip) + 1);
        self.public = SocketAddr::new(ip.into(), self.public.port() + 1);
        if self.kind == NatKind::Open {
            self.inside = self.public;
        }
        self.written_to.clear();
    }
}
