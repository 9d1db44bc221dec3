//! What really went over an interface: tcpdump, and a reader for what it writes.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};

use super::{
    Lab,
    ip_protocol::{TCP, UDP},
    namespace::Namespace,
    process::Process,
};

/// A capture that runs until it is finished.
#[derive(Debug)]
pub struct Capture<'a> {
    namespace: &'a Namespace,
    interface: String,
    file: PathBuf,
    tcpdump: Process,
}

/// One captured IPv4 packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Time since the epoch, from the kernel, in microsecond steps.
    pub time: Duration,
    /// [IP protocol number](super::ip_protocol); 1 is ICMP.
    pub protocol: u8,
    /// Sender; port 0 where the protocol has none.
    pub source: SocketAddrV4,
    /// Receiver; port 0 where the protocol has none.
    pub destination: SocketAddrV4,
    /// The start of what follows the transport header, as far as it was captured.
    pub payload: Vec<u8>,
    /// Length of the whole IP packet, in bytes.
    pub length: usize,
}

/// Where the marker goes that tells the end of a capture: a documentation address (RFC 5737), which
/// the core swallows, and the discard port.
const MARKER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 9), 9);
/// Bytes kept of each packet.
const SNAPSHOT: usize = 256;

impl<'a> Capture<'a> {
    /// Starts to capture all IPv4 packets on an interface, and waits until it does.
    pub fn start(lab: &Lab, namespace: &'a Namespace, interface: &str) -> Result<Self> {
        let name = format!(
            "capture-{}-{interface}-{:08x}",
            namespace.name(),
            fastrand::u32(..)
        );
        let file = lab.dir().join(format!("{name}.pcap"));
        let mut command = namespace.command("tcpdump");
        command.args([
            "-i",
            interface,
            "-n",
            "-U",
            "--immediate-mode",
            "-Z",
            "root",
        ]);
        command
            .args(["-s", &SNAPSHOT.to_string(), "-B", "16384", "-w"])
            .arg(&file)
            .arg("ip");
        let tcpdump = lab.spawn(&name, command)?;
        tcpdump.stderr_line(Duration::from_secs(10), |line| {
            line.contains("listening on")
        })?;
        Ok(Self {
            namespace,
            interface: interface.to_owned(),
            file,
            tcpdump,
        })
    }

    /// Ends the capture and gives all packets up to now. To be sure that none is still in a buffer,
    /// it sends a marker by the interface (in vain: the core drops it) and waits for that to show.
    pub fn finish(mut self) -> Result<Vec<Packet>> {
        let marker: [u8; 16] = std::array::from_fn(|_| fastrand::u8(..));
        let interface = self.interface.clone();
        self.namespace.enter(|| -> Result<()> {
            let socket = socket2::Socket::new(
                socket2::Domain::IPV4,
                socket2::Type::DGRAM,
                Some(socket2::Protocol::UDP),
            )?;
            socket.bind_device(Some(interface.as_bytes()))?;
            socket.send_to(&marker, &SocketAddr::V4(MARKER).into())?;
            Ok(())
        })??;
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let mut packets = parse(&fs::read(&self.file)?)?;
            if packets.iter().any(|packet| packet.payload == marker) {
                self.tcpdump.interrupt(Duration::from_secs(5))?;
                packets.retain(|packet| packet.payload != marker);
                return Ok(packets);
            }
            ensure!(
                Instant::now() < deadline,
                "the capture's end does not show in it"
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Packet {
    /// Whether either end has that address.
    pub fn concerns(&self, address: Ipv4Addr) -> bool {
        *self.source.ip() == address || *self.destination.ip() == address
    }
}

/// Reads a pcap file of Ethernet frames (little-endian, microseconds: what tcpdump writes here).
/// A last record that is not wholly there yet is left out.
pub fn parse(file: &[u8]) -> Result<Vec<Packet>> {
    let Some((header, mut rest)) = file.split_at_checked(24) else {
        return Ok(Vec::new());
    };
    ensure!(
        header[..4] == [0xd4, 0xc3, 0xb2, 0xa1],
        "not a pcap file of this machine"
    );
    ensure!(
        header[20..24] == [1, 0, 0, 0],
        "not a capture of Ethernet frames"
    );
    let mut packets = Vec::new();
    while let Some((record, after)) = rest.split_at_checked(16) {
        let word = |at: usize| u32::from_le_bytes(record[at..at + 4].try_into().expect("4 bytes"));
        let Some((frame, after)) = after.split_at_checked(word(8) as usize) else {
            break;
        };
        rest = after;
        let time = Duration::new(word(0).into(), word(4) * 1000);
        packets.extend(ipv4(frame, time));
    }
    Ok(packets)
}

fn ipv4(frame: &[u8], time: Duration) -> Option<Packet> {
    let (ethernet, ip) = frame.split_at_checked(14)?;
    if ethernet[12..] != [8, 0] {
        return None;
    }
    let half =
        |from: &[u8], at: usize| Some(u16::from_be_bytes(from.get(at..at + 2)?.try_into().ok()?));
    let address = |at: usize| {
        let octets: [u8; 4] = ip.get(at..at + 4)?.try_into().ok()?;
        Some(Ipv4Addr::from(octets))
    };
    let protocol = *ip.get(9)?;
    let transport = ip.get(usize::from(ip[0] & 15) * 4..)?;
    let (ports, header) = match protocol {
        UDP => ((half(transport, 0)?, half(transport, 2)?), 8),
        TCP => (
            (half(transport, 0)?, half(transport, 2)?),
            usize::from(*transport.get(12)? >> 4) * 4,
        ),
        _ => ((0, 0), 0),
    };
    Some(Packet {
        time,
        protocol,
        source: SocketAddrV4::new(address(12)?, ports.0),
        destination: SocketAddrV4::new(address(16)?, ports.1),
        payload: transport.get(header..).unwrap_or_default().to_vec(),
        length: half(ip, 2)?.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend([
            8, 0, 0x45, 0, 0, 31, 0, 0, 0, 0, 64, UDP, 0, 0, 4, 17, 168, 2, 130, 74, 23, 6,
        ]);
        frame.extend([0x4e, 0x20, 0x01, 0xbb, 0, 11, 0, 0, 1, 2, 3]);
        let mut file = vec![0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0];
        file.extend([0; 8]);
        file.extend([0, 1, 0, 0, 1, 0, 0, 0]);
        for word in [9, 500_000, frame.len() as u32, frame.len() as u32] {
            file.extend(word.to_le_bytes());
        }
        file.extend(frame);
        file
    }

    #[test]
    fn a_udp_packet_is_read() {
        let expected = Packet {
            time: Duration::from_millis(9500),
            protocol: UDP,
            source: "4.17.168.2:20000".parse().unwrap(),
            destination: "130.74.23.6:443".parse().unwrap(),
            payload: vec![1, 2, 3],
            length: 31,
        };
        assert_eq!(parse(&file()).unwrap(), [expected]);
    }

    #[test]
    fn a_file_that_is_still_being_written_is_read_as_far_as_it_goes() {
        let file = file();
        for length in 0..file.len() {
            assert_eq!(parse(&file[..length]).unwrap(), []);
        }
        assert!(parse(&[0; 40]).is_err());
    }
}
