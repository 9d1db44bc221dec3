//! A STUN binding request (RFC 8489), to ask a server how it sees a socket.

use std::{
    io::ErrorKind,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

const MAGIC: u32 = 0x2112_A442;
const BINDING_SUCCESS: u16 = 0x0101;
const XOR_MAPPED_ADDRESS: u16 = 0x0020;

/// Asks `server` for the address and port that `socket` has in its eyes. Asks again every 100 ms,
/// as datagrams can be lost, and gives up after `timeout`.
pub fn mapped_address(
    socket: &UdpSocket,
    server: SocketAddr,
    timeout: Duration,
) -> Result<SocketAddrV4> {
    let transaction: [u8; 12] = std::array::from_fn(|_| fastrand::u8(..));
    let mut request = vec![0, 1, 0, 0];
    request.extend(MAGIC.to_be_bytes());
    request.extend(transaction);
    let before = socket.read_timeout()?;
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    let deadline = Instant::now() + timeout;
    let mut buffer = [0; 1500];
    let mut mapped = None;
    while mapped.is_none() && Instant::now() < deadline {
        // Nobody may be listening yet.
        let _ = socket.send_to(&request, server);
        match socket.recv_from(&mut buffer) {
            Ok((length, from)) if from == server => {
                mapped = parse(&buffer[..length], &transaction);
            }
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
            Err(error) => return Err(error.into()),
        }
    }
    socket.set_read_timeout(before)?;
    match mapped {
        Some(address) => Ok(address),
        None => bail!("no answer from the STUN server {server} within {timeout:?}"),
    }
}

fn parse(message: &[u8], transaction: &[u8; 12]) -> Option<SocketAddrV4> {
    let half = |at: usize| {
        Some(u16::from_be_bytes(
            message.get(at..at + 2)?.try_into().ok()?,
        ))
    };
    let word = |at: usize| {
        Some(u32::from_be_bytes(
            message.get(at..at + 4)?.try_into().ok()?,
        ))
    };
    if half(0)? != BINDING_SUCCESS || word(4)? != MAGIC || message.get(8..20)? != transaction {
        return None;
    }
    let mut at = 20;
    loop {
        let (kind, length) = (half(at)?, usize::from(half(at + 2)?));
        if kind == XOR_MAPPED_ADDRESS && length == 8 {
            let port = half(at + 6)? ^ (MAGIC >> 16) as u16;
            return Some(SocketAddrV4::new(
                Ipv4Addr::from(word(at + 8)? ^ MAGIC),
                port,
            ));
        }
        at += 4 + length.next_multiple_of(4);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The IPv4 response of RFC 5769, section 2.2.
    #[test]
    fn the_sample_response_is_understood() {
        let message = b"\x01\x01\x00\x3c\x21\x12\xa4\x42\xb7\xe7\xa7\x01\xbc\x34\xd6\x86\xfa\x87\
            \xdf\xae\x80\x22\x00\x0b\x74\x65\x73\x74\x20\x76\x65\x63\x74\x6f\x72\x20\x00\x20\x00\
            \x08\x00\x01\xa1\x47\xe1\x12\xa6\x43";
        let transaction = b"\xb7\xe7\xa7\x01\xbc\x34\xd6\x86\xfa\x87\xdf\xae";
        let mapped = parse(message, transaction);
        assert_eq!(mapped, Some("192.0.2.1:32853".parse().unwrap()));
        assert_eq!(parse(message, b"someone else"), None);
        for length in 0..message.len() {
            assert_eq!(parse(&message[..length], transaction), None);
        }
    }
}
