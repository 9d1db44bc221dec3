//! Delay, loss and reordering between namespaces where the kernel has no netem: policy routing
//! sends every packet that enters the core by a leg into one TUN device; a thread takes it from
//! there through a [`Line`] and writes it back, and the core routes it on.
//!
//! Packets keep their bytes but for a second decrement of the TTL. Segmentation offload ends at the
//! TUN device, so that what is lost or reordered is one packet of one MTU, as on a wire.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::{fd::AsFd as _, unix::net::UnixStream},
    sync::{Arc, Mutex},
    thread::JoinHandle,
    time::Instant,
};

use anyhow::{Context as _, Result};
use nix::{
    poll::{PollFd, PollFlags, ppoll},
    sys::{prctl, time::TimeSpec},
};
use tun_rs::{DeviceBuilder, SyncDevice};

use super::{
    impairment::{Flow, Impairment, Line, Tally},
    ip_protocol::UDP,
    namespace::{Namespace, ip, ip6},
};

/// The TUN device in the core, and the routing table that leads into it.
const DEVICE: &str = "line";
const TABLE: u32 = 100;

/// A running forwarder. Dropping it gives the packets back to the kernel; those under way are lost.
#[derive(Debug)]
pub struct Forwarder {
    core: Option<String>,
    has_ipv6: bool,
    legs: Vec<String>,
    next: Arc<Mutex<Option<Impairment>>>,
    tally: Arc<Mutex<Tally>>,
    bell: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

impl Forwarder {
    /// Puts all traffic between the legs of the core through an impairment.
    pub(super) fn start(core: &Namespace, legs: &[String], impairment: Impairment) -> Result<Self> {
        let name = Some(core.name().to_owned());
        core.enter(|| Self::start_in(name, legs, impairment))?
    }

    /// Does so for interfaces of the namespace that the calling thread is in.
    pub fn start_here(legs: &[String], impairment: Impairment) -> Result<Self> {
        Self::start_in(None, legs, impairment)
    }

    fn start_in(core: Option<String>, legs: &[String], impairment: Impairment) -> Result<Self> {
        let device = DeviceBuilder::new().name(DEVICE).mtu(1500).build_sync();
        let device = device.context("can not make a TUN device (is /dev/net/tun there?)")?;
        device.set_nonblocking(true)?;
        let (bell, rung) = UnixStream::pair()?;
        rung.set_nonblocking(true)?;
        let next = Arc::new(Mutex::new(None));
        let tally = Arc::new(Mutex::new(Tally::default()));
        let thread = {
            let (next, tally) = (Arc::clone(&next), Arc::clone(&tally));
            let line = Line::new(impairment);
            std::thread::Builder::new()
                .name("line".into())
                .spawn(move || forward(&device, &rung, line, &next, &tally))?
        };
        // Where a person uses it, IPv6 may be off.
        let has_ipv6 =
            std::fs::read_to_string(format!("/proc/sys/net/ipv6/conf/{DEVICE}/disable_ipv6"))
                .is_ok_and(|off| off.trim() == "0");
        let forwarder = Self {
            core,
            has_ipv6,
            legs: legs.to_vec(),
            next,
            tally,
            bell: Some(bell),
            thread: Some(thread),
        };
        let core = forwarder.core.as_deref();
        ip(core, &format!("link set {DEVICE} txqueuelen 10000 up\n"))?;
        let mut script = format!("route replace default dev {DEVICE} table {TABLE}\n");
        for leg in legs {
            script += &format!("rule add pref {TABLE} iif {leg} lookup {TABLE}\n");
        }
        ip(core, &script)?;
        if forwarder.has_ipv6 {
            ip6(core, &script)?;
        }
        Ok(forwarder)
    }

    /// Changes the impairment of later packets.
    pub fn set(&self, impairment: Impairment) {
        *self.next.lock().expect("not poisoned") = Some(impairment);
        let _ = self.bell.as_ref().expect("until drop").write_all(&[1]);
    }

    /// What has happened to packets, at most a moment ago.
    pub fn tally(&self) -> Tally {
        *self.tally.lock().expect("not poisoned")
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        let mut script = String::new();
        for leg in &self.legs {
            script += &format!("rule del pref {TABLE} iif {leg} lookup {TABLE}\n");
        }
        // The rules must go before the device, or packets would find no way in between.
        let core = self.core.as_deref();
        let mut removed = ip(core, &script);
        if self.has_ipv6 {
            removed = removed.and(ip6(core, &script));
        }
        if let Err(error) = removed {
            eprintln!("the forwarder's rules can not be removed: {error:#}");
        }
        self.bell = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Runs until the other end of the bell is closed.
fn forward(
    device: &SyncDevice,
    bell: &UnixStream,
    mut line: Line<Vec<u8>>,
    next: &Mutex<Option<Impairment>>,
    tally: &Mutex<Tally>,
) {
    // Without this the kernel may wake a thread 50 µs late.
    let _ = prctl::set_timerslack(1);
    let mut buffer = vec![0; 65536];
    loop {
        // Bounded, so that a flood of input can not keep due packets from leaving.
        for _ in 0..64 {
            match device.recv(&mut buffer) {
                Ok(length) => {
                    let packet = &buffer[..length];
                    if let Some(flow) = flow(packet) {
                        line.handle_input(flow, packet.to_vec(), Instant::now());
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return eprintln!("the TUN device can not be read: {error}"),
            }
        }
        let now = Instant::now();
        while let Some(packet) = line.poll_output(now) {
            // A packet that no route takes is lost, as in any router.
            let _ = device.send(&packet);
        }
        *tally.lock().expect("not poisoned") = line.tally();

        let wait = line
            .poll_timeout()
            .map(|due| TimeSpec::from(due.saturating_duration_since(Instant::now())));
        let mut events = [
            PollFd::new(device.as_fd(), PollFlags::POLLIN),
            PollFd::new(bell.as_fd(), PollFlags::POLLIN),
        ];
        if ppoll(&mut events, wait, None).is_err() {
            continue;
        }
        if events[1].any() == Some(true) {
            match (&mut &*bell).read(&mut [0; 64]) {
                Ok(1..) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                _ => return,
            }
            if let Some(impairment) = next.lock().expect("not poisoned").take() {
                line.set(impairment);
            }
        }
    }
}

/// What the IP header says. Multicast and what is for one link only has no business here.
fn flow(packet: &[u8]) -> Option<Flow> {
    let (source, destination, protocol) = match packet.first()? >> 4 {
        4 => {
            let address = |at: usize| {
                let octets: [u8; 4] = packet.get(at..at + 4)?.try_into().ok()?;
                Some(IpAddr::V4(Ipv4Addr::from(octets)))
            };
            (address(12)?, address(16)?, *packet.get(9)?)
        }
        6 => {
            let address = |at: usize| {
                let octets: [u8; 16] = packet.get(at..at + 16)?.try_into().ok()?;
                Some(Ipv6Addr::from(octets)).filter(|it| !it.is_unicast_link_local())
            };
            (
                IpAddr::V6(address(8)?),
                IpAddr::V6(address(24)?),
                *packet.get(6)?,
            )
        }
        _ => return None,
    };
    if destination.is_multicast() {
        return None;
    }
    Some(Flow {
        source,
        destination,
        is_udp: protocol == UDP,
    })
}
