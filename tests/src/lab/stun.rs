//! STUN binding requests (RFC 8489) over UDP and TCP, and the two questions of NAT behaviour
//! discovery (RFC 5780): to ask a server how it sees a socket.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

/// What tells STUN from other protocols (RFC 8489, section 5).
pub(super) const MAGIC: u32 = 0x2112_A442;
/// The type of a binding request, and of the answer to one.
pub(super) const BINDING_REQUEST: u16 = 0x0001;
pub(super) const BINDING_SUCCESS: u16 = 0x0101;
pub(super) const XOR_MAPPED_ADDRESS: u16 = 0x0020;
const CHANGE_REQUEST: u16 = 0x0003;
const OTHER_ADDRESS: u16 = 0x802c;
/// Length of the header that every message starts with.
pub(super) const HEADER: usize = 20;

/// From where the server shall answer (RFC 5780, section 7.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// From where it was asked.
    Nothing,
    /// From its other port.
    Port,
    /// From its other address and port.
    AddressAndPort,
}

/// What a server said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// How it sees the socket.
    pub mapped: SocketAddr,
    /// The other address and port that it has, if it can be asked to answer from there.
    pub other: Option<SocketAddr>,
    /// Where the answer came from.
    pub from: SocketAddr,
}

/// Asks `server` for the address and port that `socket` has in its eyes. Asks again every 100 ms,
/// as datagrams can be lost, and gives up after `timeout`.
pub fn mapped_address(
    socket: &UdpSocket,
    server: SocketAddr,
    timeout: Duration,
) -> Result<SocketAddr> {
    let answer = ask(socket, server, Change::Nothing, timeout)?;
    let answer = answer.filter(|answer| answer.from == server);
    let answer = answer
        .with_context(|| format!("no answer from the STUN server {server} within {timeout:?}"))?;
    Ok(answer.mapped)
}

/// Asks `server` to answer from where it is told. `None` if no answer comes within `timeout`.
pub fn ask(
    socket: &UdpSocket,
    server: SocketAddr,
    change: Change,
    timeout: Duration,
) -> Result<Option<Answer>> {
    let (request, transaction) = request(change);
    let before = socket.read_timeout()?;
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    let deadline = Instant::now() + timeout;
    let mut buffer = [0; 1500];
    let mut answer = None;
    while answer.is_none() && Instant::now() < deadline {
        // Nobody may be listening yet.
        let _ = socket.send_to(&request, server);
        match socket.recv_from(&mut buffer) {
            Ok((length, from)) => answer = parse(&buffer[..length], &transaction, from),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
            Err(error) => return Err(error.into()),
        }
    }
    socket.set_read_timeout(before)?;
    Ok(answer)
}

/// Asks the server at the other end of a TCP connection how it sees this end.
pub fn mapped_address_by_tcp(mut stream: &TcpStream, timeout: Duration) -> Result<SocketAddr> {
    let (request, transaction) = request(Change::Nothing);
    stream.set_read_timeout(Some(timeout))?;
    stream.write_all(&request)?;
    let mut message = vec![0; HEADER];
    stream.read_exact(&mut message)?;
    let length = u16::from_be_bytes([message[2], message[3]]);
    message.resize(HEADER + usize::from(length), 0);
    stream.read_exact(&mut message[HEADER..])?;
    stream.set_read_timeout(None)?;
    let answer = parse(&message, &transaction, stream.peer_addr()?);
    Ok(answer.context("no answer to what was asked")?.mapped)
}

/// What a NAT does to a UDP socket, measured as RFC 5780 says (sections 4.3 and 4.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Behaviour {
    /// Whether all destinations see the same address and port.
    pub independent_mapping: bool,
    /// Whether a stranger gets in.
    pub independent_filtering: bool,
    /// Whether another port of an address that was sent to gets in.
    pub address_filtering: bool,
}

/// Measures it with a server of two addresses; `patience` is how long an answer that may not come
/// is waited for.
pub fn behaviour(socket: &UdpSocket, server: SocketAddr, patience: Duration) -> Result<Behaviour> {
    let asked = |server, change| ask(socket, server, change, patience);
    let first = asked(server, Change::Nothing)?.context("no answer")?;
    let other = first.other.context("the server has no other address")?;
    // Filtering first: what is sent to the other address would let it in.
    let from_other = asked(server, Change::AddressAndPort)?;
    let from_port = asked(server, Change::Port)?;
    for (answer, ip) in [(from_other, other.ip()), (from_port, server.ip())] {
        if let Some(Answer { from, .. }) = answer {
            ensure!(from == SocketAddr::new(ip, other.port()), "from {from}");
        }
    }
    let mut independent_mapping = true;
    for server in [SocketAddr::new(other.ip(), server.port()), other] {
        let answer = asked(server, Change::Nothing)?.context("no answer from the other address")?;
        independent_mapping &= answer.mapped == first.mapped;
    }
    Ok(Behaviour {
        independent_mapping,
        independent_filtering: from_other.is_some(),
        address_filtering: from_port.is_some(),
    })
}

fn request(change: Change) -> (Vec<u8>, [u8; 12]) {
    let transaction: [u8; 12] = std::array::from_fn(|_| fastrand::u8(..));
    let mut attributes = Vec::new();
    let flags: u32 = match change {
        Change::Nothing => 0,
        Change::Port => 2,
        Change::AddressAndPort => 6,
    };
    if flags != 0 {
        attributes.extend(CHANGE_REQUEST.to_be_bytes());
        attributes.extend([0, 4]);
        attributes.extend(flags.to_be_bytes());
    }
    (
        message(BINDING_REQUEST, &transaction, &attributes),
        transaction,
    )
}

/// A message: header and attributes.
pub(super) fn message(kind: u16, transaction: &[u8; 12], attributes: &[u8]) -> Vec<u8> {
    let mut message = kind.to_be_bytes().to_vec();
    message.extend((attributes.len() as u16).to_be_bytes());
    message.extend(MAGIC.to_be_bytes());
    message.extend(transaction);
    message.extend(attributes);
    message
}

fn parse(message: &[u8], transaction: &[u8; 12], from: SocketAddr) -> Option<Answer> {
    let half = |at: usize| {
        Some(u16::from_be_bytes(
            message.get(at..at + 2)?.try_into().ok()?,
        ))
    };
    if half(0)? != BINDING_SUCCESS
        || message.get(4..8)? != MAGIC.to_be_bytes()
        || message.get(8..20)? != transaction
    {
        return None;
    }
    let end = HEADER + usize::from(half(2)?);
    let (mut mapped, mut other) = (None, None);
    let mut at = HEADER;
    while at < end {
        let (kind, length) = (half(at)?, usize::from(half(at + 2)?));
        let value = message.get(at + 4..at + 4 + length)?;
        match kind {
            XOR_MAPPED_ADDRESS => mapped = address(value, message.get(4..20)?),
            OTHER_ADDRESS => other = address(value, &[0; 16]),
            _ => {}
        }
        at += 4 + length.next_multiple_of(4);
    }
    Some(Answer {
        mapped: mapped?,
        other,
        from,
    })
}

/// Reads an address attribute that is XORed with a mask (RFC 8489, sections 14.1 and 14.2).
fn address(value: &[u8], mask: &[u8]) -> Option<SocketAddr> {
    let (&[_, family, high, low], octets) = value.split_first_chunk()?;
    let port = u16::from_be_bytes([high ^ mask[0], low ^ mask[1]]);
    let octets: Vec<u8> = octets.iter().zip(mask).map(|(a, b)| a ^ b).collect();
    let ip = match family {
        1 => IpAddr::from(Ipv4Addr::from(<[u8; 4]>::try_from(octets).ok()?)),
        2 => IpAddr::from(Ipv6Addr::from(<[u8; 16]>::try_from(octets).ok()?)),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

/// An address attribute as [`address`] reads it.
pub(super) fn address_attribute(kind: u16, address: SocketAddr, mask: &[u8]) -> Vec<u8> {
    let (family, octets) = match address.ip() {
        IpAddr::V4(ip) => (1, ip.octets().to_vec()),
        IpAddr::V6(ip) => (2, ip.octets().to_vec()),
    };
    let mut attribute = kind.to_be_bytes().to_vec();
    attribute.extend((4 + octets.len() as u16).to_be_bytes());
    attribute.extend([0, family]);
    let port = address.port().to_be_bytes();
    attribute.extend(port.iter().zip(mask).map(|(a, b)| a ^ b));
    attribute.extend(octets.iter().zip(mask).map(|(a, b)| a ^ b));
    attribute
}

#[cfg(test)]
mod tests {
    use super::*;

    const FROM: &str = "130.74.23.7:3478";

    /// The responses of RFC 5769, sections 2.2 and 2.3, without what follows the address.
    #[test]
    fn the_sample_responses_are_understood() {
        let head = |length: u8| {
            let mut head = vec![1, 1, 0, length];
            head.extend(MAGIC.to_be_bytes());
            head.extend(b"\xb7\xe7\xa7\x01\xbc\x34\xd6\x86\xfa\x87\xdf\xae");
            head.extend(b"\x80\x22\x00\x0b\x74\x65\x73\x74\x20\x76\x65\x63\x74\x6f\x72\x20");
            head
        };
        let four = [
            &head(28)[..],
            b"\x00\x20\x00\x08\x00\x01\xa1\x47\xe1\x12\xa6\x43",
        ]
        .concat();
        let six = [
            &head(40)[..],
            b"\x00\x20\x00\x14\x00\x02\xa1\x47\x01\x13\xa9\xfa\xa5\xd3\xf1\x79",
            b"\xbc\x25\xf4\xb5\xbe\xd2\xb9\xd9",
        ]
        .concat();
        let transaction = b"\xb7\xe7\xa7\x01\xbc\x34\xd6\x86\xfa\x87\xdf\xae";
        let from = FROM.parse().unwrap();
        for (message, mapped) in [
            (four, "192.0.2.1:32853"),
            (six, "[2001:db8:1234:5678:11:2233:4455:6677]:32853"),
        ] {
            let answer = Answer {
                mapped: mapped.parse().unwrap(),
                other: None,
                from,
            };
            assert_eq!(parse(&message, transaction, from), Some(answer));
            assert_eq!(parse(&message, b"someone else", from), None);
            for length in 0..message.len() {
                assert_eq!(parse(&message[..length], transaction, from), None);
            }
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let transaction = [7; 12];
        let mask = [&MAGIC.to_be_bytes()[..], &transaction].concat();
        for mapped in ["4.17.168.2:20000", "[2001:db8::1]:443"] {
            let mapped = mapped.parse().unwrap();
            let attributes = [
                address_attribute(XOR_MAPPED_ADDRESS, mapped, &mask),
                address_attribute(OTHER_ADDRESS, FROM.parse().unwrap(), &[0; 16]),
            ]
            .concat();
            let message = message(BINDING_SUCCESS, &transaction, &attributes);
            let from = FROM.parse().unwrap();
            let answer = Answer {
                mapped,
                other: Some(from),
                from,
            };
            assert_eq!(parse(&message, &transaction, from), Some(answer));
        }
    }
}
