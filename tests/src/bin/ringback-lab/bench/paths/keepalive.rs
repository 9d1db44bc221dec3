//! What it takes to stay reachable when nobody calls: every IPv4 packet on the device's interface,
//! Ethernet headers included, from one keepalive to another, and scaled to an hour.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddrV4},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use ringback_tests::{
    agent::PATIENCE,
    lab::{
        Lab, REGISTRY, STUN, STUN_PORT,
        beacon::Beacon,
        capture::{Capture, Packet},
        ip_protocol::{TCP, UDP},
        kind::Kind,
        registry::Registry,
    },
    profile::{Profile, Up, until},
};
use serde::Serialize;
use serde_json::Value;

use super::super::report::Report;

/// An Ethernet header, which captures do not count.
const ETHERNET: u64 = 14;
/// The beacon's Keepalive (PROTOCOL §16.1).
const KEEPALIVE: [u8; 2] = [9, 4];
/// STUN's (RFC 8489), which is the keepalive of a device with a WebSocket.
const BINDING_REQUEST: [u8; 2] = [0, 1];
/// The first byte of a TLS record with data.
const TLS_DATA: u8 = 23;
/// Where STUN server and beacon are.
const BEACON: SocketAddrV4 = SocketAddrV4::new(STUN[0], STUN_PORT);
/// Without a packet at the registry for so long, nobody is registering.
const QUIET: Duration = Duration::from_secs(3);

/// How a device stays reachable: name, and further arguments of `up`.
///
/// The search for a longer interval takes longer than a bench may: 90 s is four fifths of the
/// longest silence that it tries behind a router that keeps a mapping for [`LIFE_S`], and a device
/// that has found it does just what one does that was told.
const MODES: [(&str, &[&str]); 4] = [
    ("WebSocket and STUN (the default)", &[]),
    (
        "--udp-only, every 25 s",
        &["--udp-only", "--keepalive-s", "25"],
    ),
    (
        "--udp-only, while it searches for an interval",
        &["--udp-only"],
    ),
    (
        "--udp-only, 90 s found",
        &["--udp-only", "--keepalive-s", "90"],
    ),
];

/// One router for each, so that none hears the others' multicast.
const ROUTERS: [Ipv4Addr; MODES.len()] = [
    Ipv4Addr::new(81, 2, 69, 1),
    Ipv4Addr::new(81, 2, 69, 2),
    Ipv4Addr::new(81, 2, 69, 3),
    Ipv4Addr::new(81, 2, 69, 4),
];
/// How long the routers keep a mapping that nothing uses.
const LIFE_S: u32 = 120;
const HOST: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 7);

/// What one device has sent and received.
#[derive(Debug, Serialize)]
pub(super) struct Mode {
    name: &'static str,
    /// From the first keepalive that was seen to the last one.
    window_s: f64,
    /// Keepalives in it: one for each interval.
    keepalives: u64,
    bytes_up: u64,
    bytes_down: u64,
    packets: u64,
    bytes_up_per_hour: f64,
    bytes_down_per_hour: f64,
    packets_per_hour: f64,
}

/// What the registry had to do meanwhile.
#[derive(Debug, Serialize)]
pub(super) struct Idle {
    #[serde(skip)]
    pub(super) modes: Vec<Mode>,
    pub(super) seconds: f64,
    pub(super) devices: u64,
    /// TLS records with data from the device on the WebSocket: its pings.
    pub(super) device_messages: u64,
    /// Times that an object was woken or made.
    pub(super) objects_loaded: u64,
    /// Registrations and rows that the registry counted.
    pub(super) registrations: u64,
    pub(super) rows: u64,
}

/// A network of devices that nobody calls.
pub(super) struct Ground {
    _devices: Vec<Up>,
    _beacon: Beacon,
    registry: Registry,
    lab: Lab,
}

/// Captures of all of them.
pub(super) struct Watch<'a> {
    ground: &'a Ground,
    start: Instant,
    before: Counts,
    at_registry: Capture<'a>,
    at_devices: Vec<Capture<'a>>,
}

/// What the registry tells of itself.
#[derive(Clone, Copy, Debug)]
struct Counts {
    registrations: u64,
    rows: u64,
    /// Constructions of devices' objects, in its log.
    loaded: u64,
}

impl Ground {
    pub(super) fn set() -> Result<Self> {
        let mut lab = Lab::builder();
        for (at, public) in ROUTERS.into_iter().enumerate() {
            lab = lab.visitor(&format!("idle{at}"), public, HOST, Kind::PortRestricted);
        }
        let lab = lab.build()?;
        for site in lab.visitors() {
            site.set_mapping_lifetime(LIFE_S, LIFE_S)?;
        }
        let registry = Registry::start(&lab)?;
        let beacon = Beacon::start(&lab, &registry, &[])?;
        let mut devices = Vec::new();
        for (at, (_, more)) in MODES.into_iter().enumerate() {
            let host = lab.visitors()[at].host();
            let device = Profile::new(&lab, &registry, host, &format!("idle{at}"));
            devices.push(device.up(&registry, more)?);
        }
        Ok(Self {
            _devices: devices,
            _beacon: beacon,
            registry,
            lab,
        })
    }

    /// Begins to watch. What registering takes is over when nobody has asked the registry for
    /// anything for a while.
    pub(super) fn watch(&self) -> Result<Watch<'_>> {
        let (mut last, mut quiet) = (self.lab.registry_traffic()?, Instant::now());
        until(PATIENCE, "a quiet registry", || {
            let now = self.lab.registry_traffic()?;
            if now != last {
                (last, quiet) = (now, Instant::now());
            }
            Ok((quiet.elapsed() > QUIET).then_some(()))
        })?;
        let capture = |host| Capture::start(&self.lab, host, "eth0");
        let sites = self.lab.visitors().iter();
        Ok(Watch {
            ground: self,
            before: self.counts()?,
            at_devices: sites
                .map(|site| capture(site.host()))
                .collect::<Result<_>>()?,
            at_registry: Capture::start(&self.lab, self.lab.registry(), "wan")?,
            start: Instant::now(),
        })
    }

    fn counts(&self) -> Result<Counts> {
        let (lab, registry) = (&self.lab, &self.registry);
        let log = fs::read_to_string(lab.dir().join("registry/workerd.log"))?;
        let (status, usage) = registry.call(lab.registry(), "GET", "/v1/usage", None)?;
        ensure!(status == 200, "no usage: {status} {usage}");
        let number = |of: &Value| of.as_u64().with_context(|| format!("{usage}"));
        Ok(Counts {
            registrations: number(&usage["registrations"]["count"])?,
            rows: number(&usage["rows_written"]["used"])?,
            loaded: log.matches("device object loaded").count() as u64,
        })
    }
}

impl Watch<'_> {
    /// Goes on until the window is as long as that, and counts.
    pub(super) fn finish(self, window: Duration) -> Result<Idle> {
        let left = window.saturating_sub(self.start.elapsed());
        if !left.is_zero() {
            eprintln!("idle devices: {} s more", left.as_secs());
            std::thread::sleep(left);
        }
        let seconds = self.start.elapsed().as_secs_f64();
        let mut modes = Vec::new();
        for ((name, _), capture) in MODES.into_iter().zip(self.at_devices) {
            let mode = Mode::of(name, &capture.finish()?);
            modes.push(mode.with_context(|| format!("{name}: no two keepalives"))?);
        }
        let packets = self.at_registry.finish()?;
        let now = self.ground.counts()?;
        let is_message = |packet: &&Packet| {
            let to = (*packet.destination.ip(), packet.destination.port());
            let is_data = packet.payload.first() == Some(&TLS_DATA);
            let from_device = *packet.source.ip() == ROUTERS[0];
            packet.protocol == TCP && from_device && to == (REGISTRY, 443) && is_data
        };
        let messages = packets.iter().filter(is_message).count();
        Ok(Idle {
            modes,
            seconds,
            device_messages: messages as u64,
            devices: MODES.len() as u64,
            objects_loaded: now.loaded - self.before.loaded,
            registrations: now.registrations - self.before.registrations,
            rows: now.rows.saturating_sub(self.before.rows),
        })
    }
}

impl Mode {
    /// From the packets of an interface. `None`: they hold no two keepalives.
    fn of(name: &'static str, packets: &[Packet]) -> Option<Self> {
        let is_keepalive = |packet: &&Packet| {
            let starts = |with: [u8; 2]| packet.payload.starts_with(&with);
            packet.protocol == UDP
                && packet.destination == BEACON
                && (starts(KEEPALIVE) || starts(BINDING_REQUEST))
        };
        let mut keepalives = packets.iter().filter(is_keepalive);
        let first = keepalives.next()?;
        let intervals = keepalives.clone().count() as u64;
        let last = keepalives.next_back()?;
        let is_within = |packet: &&Packet| (first.time..last.time).contains(&packet.time);
        let (mut up, mut down, mut count) = (0, 0, 0);
        for packet in packets.iter().filter(is_within) {
            let is_sent = *packet.source.ip() == HOST;
            *(if is_sent { &mut up } else { &mut down }) += packet.length as u64 + ETHERNET;
            count += 1;
        }
        let window_s = (last.time - first.time).as_secs_f64();
        let per_hour = |count: u64| count as f64 * 3600.0 / window_s;
        Some(Self {
            name,
            window_s,
            keepalives: intervals,
            bytes_up: up,
            bytes_down: down,
            packets: count,
            bytes_up_per_hour: per_hour(up),
            bytes_down_per_hour: per_hour(down),
            packets_per_hour: per_hour(count),
        })
    }

    pub(super) fn report(&self, report: &mut Report) {
        let part = "idle device: bytes on its interface in an hour";
        let both = self.bytes_up_per_hour + self.bytes_down_per_hour;
        report.add(part, self.name, both, "bytes");
        report.add(part, "  sent", self.bytes_up_per_hour, "bytes");
        report.add(part, "  received", self.bytes_down_per_hour, "bytes");
        report.add(part, "  packets, both ways", self.packets_per_hour, "");
        let name = format!("  keepalives in a window of {:.0} s", self.window_s);
        report.add(part, name, self.keepalives as f64, "");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_between_two_keepalives_is_scaled_to_an_hour() {
        let packet = |second, source: Ipv4Addr, destination, payload: &[u8], length| Packet {
            time: Duration::from_secs(second),
            protocol: UDP,
            source: SocketAddrV4::new(source, 5),
            destination,
            payload: payload.to_vec(),
            length,
        };
        let back = SocketAddrV4::new(HOST, 5);
        let packets = [
            packet(1, STUN[0], back, &[], 1000),
            packet(10, HOST, BEACON, &KEEPALIVE, 86),
            packet(11, STUN[0], back, &[9, 5], 86),
            packet(20, HOST, back, &[9, 8], 36),
            packet(70, HOST, BEACON, &KEEPALIVE, 86),
            packet(71, STUN[0], back, &[9, 5], 1000),
        ];
        let mode = Mode::of("test", &packets).expect("two keepalives");
        assert_eq!((mode.window_s, mode.keepalives, mode.packets), (60.0, 1, 3));
        assert_eq!((mode.bytes_up, mode.bytes_down), (150, 100));
        assert_eq!(
            (mode.bytes_up_per_hour, mode.bytes_down_per_hour),
            (9000.0, 6000.0)
        );
        assert!(Mode::of("test", &packets[..3]).is_none());
    }
}
