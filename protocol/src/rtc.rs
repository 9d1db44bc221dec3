//! What a browser and a device must know of each other to make a WebRTC connection (§19): the
//! sealed request carries the browser's description, the sealed reply the device's. No SDP travels:
//! the few values that matter do, and the certificates are pinned by being among them.

use std::fmt;
use std::net::{IpAddr, SocketAddr, SocketAddrV4};

use minicbor::{Decode, Decoder, Encode, decode};

use crate::candidate::{Candidate, Kind, MAX_CANDIDATES};
use crate::cbor::Malformed;

/// Bytes of the longest candidate line.
pub const MAX_CANDIDATE: usize = 256;
/// Port numbers of SCTP inside DTLS, on both ends (RFC 8841).
pub const SCTP_PORT: u16 = 5000;
/// Bytes of the largest message on a data channel (§19.2 uses less).
pub const MAX_MESSAGE: u32 = 262_144;
/// Data channels that are open at a time on one link, at most.
pub const MAX_CHANNELS: usize = 64;
/// And so many more wait for one to end, for [`CHANNEL_PATIENCE_S`], and are then refused.
pub const MAX_WAITING_CHANNELS: usize = 16;
/// Seconds.
pub const CHANNEL_PATIENCE_S: u64 = 10;
/// Connections that a search opens beside the first one, at most (§19.3).
pub const MAX_LEGS: usize = 64;
/// The label of every data channel that carries a stream.
pub const CHANNEL_LABEL: &str = "ringback";

/// One end's part of an ICE and DTLS session. What is decoded is within its bounds and holds no
/// character that could end a line of SDP.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Description {
    /// ICE user name fragment (RFC 8445), 4 to 256 ice-chars.
    #[cbor(n(0), decode_with = "read_ufrag")]
    pub ufrag: String,
    /// ICE password, 22 to 256 ice-chars.
    #[cbor(n(1), decode_with = "read_pwd")]
    pub pwd: String,
    /// SHA-256 of the certificate that this end shows in DTLS.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub fingerprint: [u8; 32],
    /// Candidate lines of RFC 8839 without `a=`, at most 16 of at most [`MAX_CANDIDATE`] bytes.
    #[cbor(n(3), decode_with = "read_candidates")]
    pub candidates: Vec<String>,
    /// Further connections, of which one may become the link (§19.3). At most [`MAX_LEGS`].
    #[cbor(n(4), default, skip_if = "Vec::is_empty", decode_with = "read_legs")]
    pub legs: Vec<Leg>,
}

/// One end's part of a connection in a search (§19.3). Its fingerprint is the description's.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Leg {
    /// ICE user name fragment (RFC 8445), 4 to 256 ice-chars.
    #[cbor(n(0), decode_with = "read_ufrag")]
    pub ufrag: String,
    /// ICE password, 22 to 256 ice-chars.
    #[cbor(n(1), decode_with = "read_pwd")]
    pub pwd: String,
    /// The address that a STUN server saw it at, if it asked one.
    #[cbor(
        n(2),
        default,
        skip_if = "Vec::is_empty",
        decode_with = "read_candidates"
    )]
    pub candidates: Vec<String>,
}

impl Leg {
    /// The IPv4 address that a STUN server saw it at.
    pub fn public(&self) -> Option<SocketAddrV4> {
        public_v4(self.candidates.iter().map(String::as_str)).next()
    }
}

impl Description {
    /// Is it one that the other end takes? Whoever makes a description asks before sealing it.
    pub fn check(&self) -> Result<(), Malformed> {
        check(&self.ufrag, &self.pwd, &self.candidates)?;
        if self.legs.len() > MAX_LEGS {
            return Err(Malformed(format!("over {MAX_LEGS} legs")));
        }
        let mut legs = self.legs.iter();
        legs.try_for_each(|leg| check(&leg.ufrag, &leg.pwd, &leg.candidates))
    }

    /// The candidates that name a UDP address. mDNS names, TCP and what is not understood are left
    /// out.
    pub fn addresses(&self) -> Vec<Candidate> {
        let lines = self.candidates.iter();
        lines.filter_map(|line| read_candidate(line)).collect()
    }

    /// The IPv4 addresses that STUN servers saw this end at, or that its router opens for it.
    pub fn public(&self) -> Vec<SocketAddrV4> {
        public_v4(self.candidates.iter().map(String::as_str)).collect()
    }
}

fn public_v4<'a>(lines: impl Iterator<Item = &'a str>) -> impl Iterator<Item = SocketAddrV4> {
    let public = lines.filter_map(read_candidate);
    public.filter_map(|candidate| match candidate.address {
        SocketAddr::V4(address) if candidate.kind == Kind::ServerReflexive => Some(address),
        _ => None,
    })
}

impl fmt::Debug for Description {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The password lets anybody answer checks, and candidates name people's addresses.
        f.debug_struct("Description")
            .field("candidates", &self.candidates.len())
            .field("legs", &self.legs.len())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Leg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leg").finish_non_exhaustive()
    }
}

/// The UDP address in a candidate line, and what kind it is. Its priority is the sender's own
/// matter; component 1 is the only one here.
pub fn read_candidate(line: &str) -> Option<Candidate> {
    let mut words = line.strip_prefix("candidate:")?.split(' ');
    let _foundation = words.next()?;
    if words.next()? != "1" || !words.next()?.eq_ignore_ascii_case("udp") {
        return None;
    }
    let _priority: u32 = words.next()?.parse().ok()?;
    let ip: IpAddr = words.next()?.parse().ok()?;
    let port: u16 = words.next()?.parse().ok()?;
    if words.next()? != "typ" {
        return None;
    }
    let kind = match words.next()? {
        "host" => Kind::Host,
        "srflx" => Kind::ServerReflexive,
        "prflx" => Kind::PeerReflexive,
        "relay" => Kind::Relayed,
        _ => return None,
    };
    Some(Candidate::udp(kind, SocketAddr::new(ip, port)))
}

/// Candidate lines for the UDP ones among `candidates`, the first with the highest priority of its
/// type (RFC 8445, 5.1.2.1).
pub fn candidate_lines(candidates: &[Candidate]) -> Vec<String> {
    let udp = candidates.iter().filter(|candidate| candidate.is_udp());
    udp.take(MAX_CANDIDATES)
        .enumerate()
        .map(|(at, candidate)| candidate_line(at as u16, candidate))
        .collect()
}

/// The line for one UDP candidate; `at` of a list, which ranks it within its type.
pub fn candidate_line(at: u16, candidate: &Candidate) -> String {
    let (preference, kind, related) = match candidate.kind {
        Kind::Host => (126, "host", ""),
        Kind::PeerReflexive => (110, "prflx", " raddr 0.0.0.0 rport 0"),
        Kind::Relayed => (0, "relay", " raddr 0.0.0.0 rport 0"),
        // How a router's port came to lead here is nothing that ICE has words for.
        _ => (100, "srflx", " raddr 0.0.0.0 rport 0"),
    };
    let priority = (preference << 24) | (u32::from(u16::MAX - at) << 8) | 255;
    let (ip, port) = (candidate.address.ip(), candidate.address.port());
    format!("candidate:{at} 1 udp {priority} {ip} {port} typ {kind}{related}")
}

fn check(ufrag: &str, pwd: &str, candidates: &[String]) -> Result<(), Malformed> {
    check_credential(ufrag, 4, "ufrag")?;
    check_credential(pwd, 22, "pwd")?;
    if candidates.len() > MAX_CANDIDATES {
        return Err(Malformed(format!("over {MAX_CANDIDATES} candidates")));
    }
    candidates.iter().try_for_each(|line| check_candidate(line))
}

fn check_credential(text: &str, least: usize, what: &str) -> Result<(), Malformed> {
    let ice_char = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'+' || byte == b'/';
    if (least..=256).contains(&text.len()) && text.bytes().all(ice_char) {
        Ok(())
    } else {
        Err(Malformed(format!("{what} is not {least} to 256 ice-chars")))
    }
}

fn check_candidate(line: &str) -> Result<(), Malformed> {
    let printable = |byte: u8| byte == b' ' || byte.is_ascii_graphic();
    if line.len() <= MAX_CANDIDATE && line.starts_with("candidate:") && line.bytes().all(printable)
    {
        Ok(())
    } else {
        Err(Malformed("not a candidate line".into()))
    }
}

fn read_ufrag<C>(d: &mut Decoder<'_>, _: &mut C) -> Result<String, decode::Error> {
    credential(d, 4, "ufrag")
}

fn read_pwd<C>(d: &mut Decoder<'_>, _: &mut C) -> Result<String, decode::Error> {
    credential(d, 22, "pwd")
}

fn credential(d: &mut Decoder<'_>, least: usize, what: &str) -> Result<String, decode::Error> {
    let text = d.str()?;
    check_credential(text, least, what).map_err(decode::Error::message)?;
    Ok(text.to_owned())
}

fn read_candidates<C>(d: &mut Decoder<'_>, _: &mut C) -> Result<Vec<String>, decode::Error> {
    let mut candidates = Vec::new();
    for line in d.array_iter::<&str>()? {
        let line = line?;
        check_candidate(line).map_err(decode::Error::message)?;
        if candidates.len() == MAX_CANDIDATES {
            return Err(decode::Error::message("too many candidates"));
        }
        candidates.push(line.to_owned());
    }
    Ok(candidates)
}

fn read_legs<C>(d: &mut Decoder<'_>, _: &mut C) -> Result<Vec<Leg>, decode::Error> {
    let mut legs = Vec::new();
    for leg in d.array_iter()? {
        if legs.len() == MAX_LEGS {
            return Err(decode::Error::message("too many legs"));
        }
        legs.push(leg?);
    }
    Ok(legs)
}
