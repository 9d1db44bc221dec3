//! The two ends of a link's paths (section 10) with a network between them that does anything.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::LazyLock;
use std::time::Duration;

use arbitrary::Arbitrary;
use hpke::rand_core::{TryCryptoRng, TryRng};
use ringback_protocol::candidate::{Candidate, Kind};
use ringback_protocol::envelope::CallKeys;
use ringback_protocol::path::{Class, PathSet, Role, Traffic, Via};
use ringback_protocol::receipt::{Nat, Transport};

use crate::steps::{Damage, Pause, steps};
use crate::vector;

#[derive(Debug, Arbitrary)]
enum Step {
    /// One end's datagrams reach the other, from this address.
    Carry {
        caller: bool,
        from: u8,
        damage: Damage,
    },
    Raw {
        caller: bool,
        via: Address,
        bytes: Vec<u8>,
    },
    Handshake {
        caller: bool,
        bytes: Vec<u8>,
    },
    Candidates {
        caller: bool,
        kinds: Vec<(u8, Address)>,
    },
    Offer {
        caller: bool,
        kinds: Vec<(u8, Address)>,
        nat: u8,
    },
    Nats {
        caller: bool,
        own: u8,
        peer: u8,
    },
    Connection {
        caller: bool,
        number: u8,
        class: u8,
    },
    Ended {
        caller: bool,
        number: u8,
    },
    Data {
        caller: bool,
        via: Address,
    },
    Traffic {
        caller: bool,
        unanswered: Option<u16>,
        received: Option<u16>,
        sent: bool,
    },
    Padding {
        caller: bool,
    },
    NetworkChanged {
        caller: bool,
    },
    Established {
        caller: bool,
    },
    Later(Pause),
}

#[derive(Debug, Clone, Copy, Arbitrary)]
enum Address {
    Udp { socket: u16, last: u8, port: u16 },
    V6 { last: u8, port: u16 },
    Connection(u8),
}

impl Address {
    fn via(self) -> Via {
        match self {
            Self::Udp { socket, .. } => Via::Udp {
                socket,
                to: self.socket_address(),
            },
            Self::V6 { .. } => Via::udp(self.socket_address()),
            Self::Connection(number) => Via::Connection(number.into()),
        }
    }

    fn socket_address(self) -> SocketAddr {
        match self {
            Self::Udp { last, port, .. } => ([202, 204, 16, last], port).into(),
            Self::V6 { last, port } => ([0x2001, 0xdb8, 0, 0, 0, 0, 0, last.into()], port).into(),
            Self::Connection(number) => ([127, 0, 0, number], 1).into(),
        }
    }
}

pub fn path(bytes: &[u8]) {
    static KEYS: LazyLock<CallKeys> = LazyLock::new(|| vector::seal().1);
    let keys = &*KEYS;
    let mut now = Duration::ZERO;
    let end = |role: Role| {
        let peer = Candidate::udp(Kind::ServerReflexive, address(role as u8 + 1));
        PathSet::new(role, &keys.path, [role as u8; 32], &[peer], Duration::ZERO)
    };
    let mut ends = [end(Role::Device), end(Role::Caller)];
    for step in steps::<Step>(bytes) {
        take(&mut ends, step, &mut now);
        for end in &mut ends {
            let sent = std::iter::from_fn(|| end.poll_transmit()).count();
            assert!(sent <= 4096, "{sent} datagrams for one input");
            if end.poll_timeout().is_some_and(|at| at <= now) {
                end.handle_timeout(now);
                while end.poll_transmit().is_some() {}
            }
            let report = end.report();
            assert!(report.len() <= 4096, "{} ways", report.len());
            let _ = (
                end.route(),
                end.in_use(),
                end.class(),
                end.rtt(),
                end.is_searching(),
            );
        }
    }
}

fn take(ends: &mut [PathSet; 2], step: Step, now: &mut Duration) {
    let at = *now;
    match step {
        Step::Carry {
            caller,
            from,
            damage,
        } => {
            let sender = &mut ends[usize::from(caller)];
            sender.handle_timeout(at);
            let sent: Vec<_> = std::iter::from_fn(|| sender.poll_transmit())
                .take(64)
                .collect();
            let receiver = &mut ends[usize::from(!caller)];
            for transmit in sent {
                for datagram in damage.done_to(&transmit.datagram) {
                    receiver.handle_datagram(Via::udp(address(from)), &datagram, at);
                }
            }
        }
        Step::Raw { caller, via, bytes } => {
            ends[usize::from(caller)].handle_datagram(via.via(), &bytes, at);
        }
        Step::Handshake { caller, bytes } => ends[usize::from(caller)].send_handshake(&bytes),
        Step::Candidates { caller, kinds } => {
            ends[usize::from(caller)].add_candidates(&candidates(&kinds), at);
        }
        Step::Offer { caller, kinds, nat } => {
            ends[usize::from(caller)].offer(&candidates(&kinds), kind_of_nat(nat), at);
        }
        Step::Nats { caller, own, peer } => {
            ends[usize::from(caller)].set_nats(kind_of_nat(own), kind_of_nat(peer), at);
        }
        Step::Connection {
            caller,
            number,
            class,
        } => {
            let classes = [Class::Tcp, Class::OwnRelay, Class::Relay];
            let class = classes[usize::from(class) % classes.len()];
            let kind = if class.is_relay() {
                Kind::Relayed
            } else {
                Kind::Host
            };
            ends[usize::from(caller)].add_connection(
                number.into(),
                class,
                Transport::Tcp,
                kind,
                address(number),
                at,
            );
        }
        Step::Ended { caller, number } => {
            ends[usize::from(caller)].remove_connection(number.into(), at);
        }
        Step::Data { caller, via } => ends[usize::from(caller)].heard_data(via.via(), at),
        Step::Traffic {
            caller,
            unanswered,
            received,
            sent,
        } => {
            let before = |ago: u16| at.saturating_sub(Duration::from_millis(ago.into()));
            let traffic = Traffic {
                unanswered_since: unanswered.map(before),
                last_received: received.map(before),
                sent,
            };
            ends[usize::from(caller)].note_traffic(traffic, at);
        }
        Step::Padding { caller } => ends[usize::from(caller)].set_padding(at),
        Step::NetworkChanged { caller } => ends[usize::from(caller)].network_changed(at),
        Step::Established { caller } => ends[usize::from(caller)].set_established(),
        Step::Later(pause) => *now = at.saturating_add(pause.duration()),
    }
}

fn address(last: u8) -> SocketAddr {
    ([202, 204, 16, last], 20_000).into()
}

fn candidates(kinds: &[(u8, Address)]) -> Vec<Candidate> {
    const KINDS: [Kind; 4] = [
        Kind::Host,
        Kind::ServerReflexive,
        Kind::Mapped,
        Kind::Static,
    ];
    let candidate = |(kind, address): &(u8, Address)| {
        let kind = KINDS[usize::from(*kind) % KINDS.len()];
        Candidate::udp(kind, address.socket_address())
    };
    kinds.iter().take(64).map(candidate).collect()
}

fn kind_of_nat(number: u8) -> Nat {
    const NATS: [Nat; 3] = [
        Nat::Unknown,
        Nat::EndpointIndependent,
        Nat::EndpointDependent,
    ];
    NATS[usize::from(number) % NATS.len()]
}

/// A generator with a seed, for what is to be the same in every run.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.max(1))
    }
}

impl TryRng for Dice {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(self.try_next_u64()? as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        Ok(self.0)
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Infallible> {
        for chunk in out.chunks_mut(8) {
            let bytes = self.try_next_u64()?.to_le_bytes();
            chunk.copy_from_slice(&bytes[..chunk.len()]);
        }
        Ok(())
    }
}

impl TryCryptoRng for Dice {}
