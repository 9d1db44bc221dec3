//! The beacon's datagrams (§16.1). All types stand in the list below; a removed number stays there
//! as a comment. Every layout has one length; a datagram of another length is malformed.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use super::FIRST_BYTE;
use crate::Code;
use crate::candidate::canonical;

pub(super) const HELLO: u8 = 0x01;
pub(super) const COOKIE: u8 = 0x02;
pub(super) const REGISTER: u8 = 0x03;
pub(super) const KEEPALIVE: u8 = 0x04;
pub(super) const REGISTERED: u8 = 0x05;
pub(super) const NOTIFY: u8 = 0x06;
pub(super) const NOTIFIED: u8 = 0x07;
pub(super) const PROBE: u8 = 0x08;
pub(super) const PROBED: u8 = 0x09;
pub(super) const LEAVE: u8 = 0x0a;
pub(super) const JOIN: u8 = 0x10;
pub(super) const JOINED: u8 = 0x11;
pub(super) const RELAY_PING: u8 = 0x12;
pub(super) const RELAY_LEAVE: u8 = 0x13;

/// Bytes of a Hello: more than of any answer to it.
pub const HELLO_LEN: usize = 160;
pub const COOKIE_LEN: usize = 2 + 16 + 32;
pub const REGISTER_LEN: usize = 2 + 32 + 16 + 32 + 8 + BODY + 16;
/// Bytes of every datagram of a session but Probe.
pub const SESSION_LEN: usize = 2 + 8 + 8 + BODY + 16;
/// A Probe is answered twice.
pub const PROBE_LEN: usize = 2 * SESSION_LEN;
pub const JOIN_LEN: usize = 2 + 1 + 32 + 32 + 16 + 16 + 32 + 64;
pub const JOINED_LEN: usize = 2 + 16 + 1 + 1 + 4;
/// No datagram of the beacon's is larger.
pub const MAX_LEN: usize = JOIN_LEN;

/// Bytes of a sealed body.
pub(super) const BODY: usize = 32;
pub(super) const PROBE_BODY: usize = PROBE_LEN - SESSION_LEN + BODY;
/// What stands before the sealed body of a session's datagram.
pub(super) const SESSION_HEADER: usize = 2 + 8 + 8;
/// What stands before the sealed body of a Register.
pub(super) const REGISTER_HEADER: usize = 2 + 32 + 16 + 32 + 8;

/// What the beacon knows of a device or of a room's member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Standing {
    /// The registry knows it.
    Good,
    /// The registry has been asked.
    Pending,
    NotEnrolled,
    Revoked,
    /// The beacon has lost the registry: nobody can ring through it now.
    RegistryAway,
    /// This beacon relays nothing.
    RelayDisabled,
    /// The owner's allowance for today is used up.
    Exhausted,
    /// Too many rooms, or too many from one address.
    Busy,
    /// A standing of a later version.
    Unknown(u8),
}

impl Standing {
    /// By the registry's answer about a device: none, or why it is not one.
    pub(crate) fn by_registry(refused: Option<&Code>) -> Self {
        match refused {
            None => Self::Good,
            Some(Code::Revoked) => Self::Revoked,
            Some(_) => Self::NotEnrolled,
        }
    }

    pub(super) fn to_byte(self) -> u8 {
        match self {
            Self::Good => 0,
            Self::Pending => 1,
            Self::NotEnrolled => 2,
            Self::Revoked => 3,
            Self::RegistryAway => 4,
            Self::RelayDisabled => 5,
            Self::Exhausted => 6,
            Self::Busy => 7,
            Self::Unknown(byte) => byte,
        }
    }

    pub(super) fn from_byte(byte: u8) -> Self {
        match byte {
            0 => Self::Good,
            1 => Self::Pending,
            2 => Self::NotEnrolled,
            3 => Self::Revoked,
            4 => Self::RegistryAway,
            5 => Self::RelayDisabled,
            6 => Self::Exhausted,
            7 => Self::Busy,
            other => Self::Unknown(other),
        }
    }
}

/// A body of a session's datagram, before it is sealed. Unknown bytes behind it are zero and
/// ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Body {
    /// Of Register and Keepalive.
    Interval(u16),
    Registered {
        /// The counter of the datagram that this answers.
        answers: u64,
        public: SocketAddr,
        standing: Standing,
    },
    /// Of Notify and Notified.
    Notice(u64),
    Probe {
        id: u64,
        delay_s: u16,
    },
    Probed {
        id: u64,
        /// The delay has passed; false: the probe has arrived.
        late: bool,
    },
    Leave,
}

impl Body {
    pub(super) fn encode(&self, len: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(len);
        match self {
            Self::Interval(seconds) => out.extend_from_slice(&seconds.to_be_bytes()),
            Self::Registered {
                answers,
                public,
                standing,
            } => {
                out.extend_from_slice(&answers.to_be_bytes());
                out.extend_from_slice(&address_bytes(*public));
                out.push(standing.to_byte());
            }
            Self::Notice(id) => out.extend_from_slice(&id.to_be_bytes()),
            Self::Probe { id, delay_s } => {
                out.extend_from_slice(&id.to_be_bytes());
                out.extend_from_slice(&delay_s.to_be_bytes());
            }
            Self::Probed { id, late } => {
                out.extend_from_slice(&id.to_be_bytes());
                out.push(u8::from(*late));
            }
            Self::Leave => {}
        }
        out.resize(len, 0);
        out
    }

    /// `bytes` has [`BODY`] bytes at least, by the length of the datagram.
    pub(super) fn decode(kind: u8, bytes: &[u8]) -> Option<Self> {
        let mut body = Reader(bytes);
        Some(match kind {
            REGISTER | KEEPALIVE => Self::Interval(u16::from_be_bytes(body.take()?)),
            REGISTERED => Self::Registered {
                answers: u64::from_be_bytes(body.take()?),
                public: address_from(body.take()?),
                standing: Standing::from_byte(body.take::<1>()?[0]),
            },
            NOTIFY | NOTIFIED => Self::Notice(u64::from_be_bytes(body.take()?)),
            PROBE => Self::Probe {
                id: u64::from_be_bytes(body.take()?),
                delay_s: u16::from_be_bytes(body.take()?),
            },
            PROBED => Self::Probed {
                id: u64::from_be_bytes(body.take()?),
                late: body.take::<1>()?[0] != 0,
            },
            LEAVE => Self::Leave,
            _ => return None,
        })
    }
}

/// The type of what may be a datagram of the beacon's, if its length is that type's.
pub(super) fn kind(datagram: &[u8]) -> Option<u8> {
    let (&[FIRST_BYTE, kind], _) = datagram.split_first_chunk::<2>()? else {
        return None;
    };
    let fits = match kind {
        // Later versions may say more in a Hello, up to what fits any path.
        HELLO => (HELLO_LEN..=1200).contains(&datagram.len()),
        COOKIE => datagram.len() == COOKIE_LEN,
        REGISTER => datagram.len() == REGISTER_LEN,
        KEEPALIVE | REGISTERED | NOTIFY | NOTIFIED | PROBED | LEAVE => {
            datagram.len() == SESSION_LEN
        }
        PROBE => datagram.len() == PROBE_LEN,
        JOIN => datagram.len() == JOIN_LEN,
        JOINED | RELAY_PING | RELAY_LEAVE => datagram.len() == JOINED_LEN,
        _ => false,
    };
    fits.then_some(kind)
}

pub(super) fn hello(nonce: &[u8; 16]) -> Vec<u8> {
    let mut out = vec![FIRST_BYTE, HELLO];
    out.extend_from_slice(nonce);
    out.resize(HELLO_LEN, 0);
    out
}

pub(super) fn cookie(nonce: &[u8; 16], cookie: &[u8; 32]) -> Vec<u8> {
    [&[FIRST_BYTE, COOKIE][..], nonce, cookie].concat()
}

/// The cookie in an answer to the Hello with this nonce.
pub(super) fn read_cookie(datagram: &[u8], nonce: &[u8; 16]) -> Option<[u8; 32]> {
    if kind(datagram)? != COOKIE {
        return None;
    }
    let mut rest = Reader(&datagram[2..]);
    (rest.take::<16>()? == *nonce).then(|| rest.take())?
}

/// A Join, taken apart.
#[derive(Debug, Clone, Copy)]
pub(super) struct Join {
    pub(super) role: u8,
    pub(super) peer: [u8; 32],
    pub(super) device: [u8; 32],
    pub(super) room: [u8; 16],
    pub(super) nonce: [u8; 16],
    pub(super) cookie: [u8; 32],
    pub(super) signature: [u8; 64],
}

impl Join {
    pub(super) fn encode(&self) -> Vec<u8> {
        [
            &[FIRST_BYTE, JOIN, self.role][..],
            &self.peer,
            &self.device,
            &self.room,
            &self.nonce,
            &self.cookie,
            &self.signature,
        ]
        .concat()
    }

    pub(super) fn decode(datagram: &[u8]) -> Option<Self> {
        let mut rest = Reader(datagram.get(2..)?);
        Some(Self {
            role: rest.take::<1>()?[0],
            peer: rest.take()?,
            device: rest.take()?,
            room: rest.take()?,
            nonce: rest.take()?,
            cookie: rest.take()?,
            signature: rest.take()?,
        })
    }
}

/// The answer to Join and RelayPing, and what a member is sent when the other one comes or goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Joined {
    pub(super) nonce: [u8; 16],
    pub(super) standing: Standing,
    /// Is the other member there?
    pub(super) present: bool,
    /// Bytes a second, both ways together.
    pub(super) rate: u32,
}

impl Joined {
    pub(super) fn encode(&self) -> Vec<u8> {
        [
            &[FIRST_BYTE, JOINED][..],
            &self.nonce,
            &[self.standing.to_byte(), u8::from(self.present)],
            &self.rate.to_be_bytes(),
        ]
        .concat()
    }

    pub(super) fn decode(datagram: &[u8]) -> Option<Self> {
        if kind(datagram)? != JOINED {
            return None;
        }
        let mut rest = Reader(&datagram[2..]);
        Some(Self {
            nonce: rest.take()?,
            standing: Standing::from_byte(rest.take::<1>()?[0]),
            present: rest.take::<1>()?[0] != 0,
            rate: u32::from_be_bytes(rest.take()?),
        })
    }
}

/// A RelayPing or RelayLeave: as long as the answer.
pub(super) fn relay(kind: u8, nonce: &[u8; 16]) -> Vec<u8> {
    let mut out = vec![FIRST_BYTE, kind];
    out.extend_from_slice(nonce);
    out.resize(JOINED_LEN, 0);
    out
}

/// 18 bytes, IPv4 as IPv4-mapped: a fixed length.
pub(super) fn address_bytes(address: SocketAddr) -> [u8; 18] {
    let ip = match address.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    let mut out = [0; 18];
    out[..16].copy_from_slice(&ip.octets());
    out[16..].copy_from_slice(&address.port().to_be_bytes());
    out
}

pub(super) fn address_from(bytes: [u8; 18]) -> SocketAddr {
    let mut rest = Reader(&bytes);
    let ip: [u8; 16] = rest.take().expect("18 bytes");
    let port = u16::from_be_bytes(rest.take().expect("18 bytes"));
    canonical((Ipv6Addr::from(ip), port).into())
}

/// Fixed parts off the front of a datagram.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl Reader<'_> {
    pub(super) fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (part, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*part)
    }
}

const _: () = {
    assert!(COOKIE_LEN <= HELLO_LEN);
    assert!(SESSION_LEN <= REGISTER_LEN);
    assert!(JOINED_LEN <= JOIN_LEN);
    assert!(MAX_LEN >= HELLO_LEN && MAX_LEN >= PROBE_LEN && MAX_LEN >= REGISTER_LEN);
};
