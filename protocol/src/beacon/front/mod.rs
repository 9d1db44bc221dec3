//! The beacon's side (§16): answers devices, tells the registry of them, notifies them, and relays.
//!
//! What an unknown address sends costs a look at its length, a token, and at most one MAC; a
//! public-key operation is done only for whoever has sent a cookie back. Datagrams of a session are
//! found by their tag and opened at once: no limit stands before that, so that forged ones can not
//! use up what the device needs.

mod limits;
mod report;
mod rooms;
mod table;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use self::limits::{Limits, ReportPace};
pub use self::report::{Counters, Report, Source};
pub use self::rooms::RelayConfig;
use self::rooms::Rooms;
use self::table::Table;
use super::FIRST_BYTE;
use super::cookie::Baker;
use super::datagram::{
    self, HELLO, JOIN, KEEPALIVE, LEAVE, MAX_LEN, NOTIFIED, PROBE, REGISTER, RELAY_LEAVE,
    RELAY_PING,
};
use crate::{Code, PeerId, SecretKey};

/// What a beacon allows.
#[derive(Debug, Clone)]
pub struct Config {
    /// Devices in the table at most.
    pub max_devices: usize,
    /// Absent: it relays nothing.
    pub relay: Option<RelayConfig>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_devices: 65_536,
            relay: None,
        }
    }
}

/// The beacon. Time is monotonic from its start. Drain [`poll_send`](Self::poll_send) after every
/// input; [`poll_report`](Self::poll_report) when the registry's socket takes more.
#[derive(Debug)]
pub struct Front {
    key: SecretKey,
    baker: Baker,
    limits: Limits,
    pace: ReportPace,
    table: Table,
    rooms: Rooms,
    registry_away: bool,
    counters: Counters,
    sends: VecDeque<(Source, Vec<u8>)>,
}

impl Front {
    /// `secret` must be 32 bytes of a cryptographic random source.
    pub fn new(key: SecretKey, config: &Config, secret: &[u8; 32]) -> Self {
        Self {
            baker: Baker::new(secret),
            limits: Limits::default(),
            pace: ReportPace::default(),
            table: Table::new(key.clone(), config.max_devices, secret),
            rooms: Rooms::new(&key.id(), config.relay.clone()),
            key,
            registry_away: true,
            counters: Counters::default(),
            sends: VecDeque::new(),
        }
    }

    pub fn id(&self) -> PeerId {
        self.key.id()
    }

    /// Any datagram but STUN. Gives where it is to be relayed to as it is, if it is.
    pub fn handle_datagram(
        &mut self,
        from: Source,
        datagram: &[u8],
        now: Duration,
    ) -> Option<Source> {
        self.counters.received += 1;
        self.counters.bytes_in += datagram.len() as u64;
        if datagram.first() != Some(&FIRST_BYTE) {
            let to = self
                .rooms
                .forward(from, datagram.len(), now, &mut self.counters)?;
            self.counters.bytes_out += datagram.len() as u64;
            return Some(to);
        }
        let Some(kind) = datagram::kind(datagram) else {
            if datagram.len() > MAX_LEN {
                self.counters.oversized += 1;
            } else {
                self.counters.malformed += 1;
            }
            return None;
        };
        match kind {
            HELLO => self.hello(from, datagram, now),
            REGISTER => self.register(from, datagram, now),
            KEEPALIVE | NOTIFIED | PROBE | LEAVE => self.in_session(from, kind, datagram, now),
            JOIN => self.join(from, datagram, now),
            RELAY_PING | RELAY_LEAVE => {
                let answers = self
                    .rooms
                    .in_room(from, kind, datagram, now, &mut self.counters);
                self.send_all(answers);
            }
            // What only a beacon sends.
            _ => self.counters.malformed += 1,
        }
        None
    }

    /// Has it a place in a room?
    pub fn is_member(&self, source: &Source) -> bool {
        self.rooms.is_member(source)
    }

    /// May a STUN request of this length be answered? It is counted either way.
    pub fn allow_stun(&mut self, from: SocketAddr, length: usize, now: Duration) -> bool {
        self.counters.received += 1;
        self.counters.bytes_in += length as u64;
        let allowed = self.limits.stun(from, now);
        if allowed {
            self.counters.stun += 1;
        } else {
            self.counters.rate_limited += 1;
        }
        allowed
    }

    /// An answer that the shell has made itself.
    pub fn count_out(&mut self, length: usize) {
        self.counters.bytes_out += length as u64;
    }

    /// A TCP connection has ended.
    pub fn handle_closed(&mut self, from: Source) {
        let answers = self.rooms.closed(from);
        self.send_all(answers);
    }

    /// The registry's answer to Seen or Check; without a code it knows the device.
    pub fn handle_known(&mut self, device: &PeerId, code: Option<&Code>, now: Duration) {
        self.table.known(device, code, now);
        let answers = self.rooms.known(device, code, now);
        self.send_all(answers);
    }

    /// Somebody rings this device. False: it is not here.
    pub fn handle_notify(&mut self, device: &PeerId, now: Duration) -> bool {
        match self.table.notify(device, now) {
            Some((to, datagram)) => {
                self.counters.notifications += 1;
                self.send(to, datagram);
                true
            }
            None => false,
        }
    }

    /// The registry's socket is registered, or is gone. A new one is told of every device.
    pub fn set_registry(&mut self, live: bool) {
        if live && self.registry_away {
            self.table.report_all();
            self.rooms.ask_again();
        }
        self.registry_away = !live;
    }

    pub fn handle_timeout(&mut self, now: Duration) {
        for (to, datagram) in self.table.handle_timeout(now, &mut self.counters) {
            self.send(to, datagram);
        }
        let answers = self.rooms.handle_timeout(now);
        self.send_all(answers);
    }

    /// The next datagram to send.
    pub fn poll_send(&mut self) -> Option<(Source, Vec<u8>)> {
        self.sends.pop_front()
    }

    /// The next thing to tell the registry; only while its socket is registered, and no faster
    /// than the registry listens.
    pub fn poll_report(&mut self, now: Duration) -> Option<Report> {
        if !self.has_reports() || !self.pace.take(now) {
            return None;
        }
        self.table
            .poll_report(now)
            .or_else(|| self.rooms.poll_check())
    }

    /// When [`poll_report`](Self::poll_report) has something to give.
    pub fn poll_report_timeout(&self, now: Duration) -> Option<Duration> {
        self.has_reports().then(|| self.pace.next(now))
    }

    fn has_reports(&self) -> bool {
        !self.registry_away && (self.table.has_reports() || self.rooms.has_checks())
    }

    /// When [`handle_timeout`](Self::handle_timeout) wants to be called.
    pub fn poll_timeout(&self) -> Option<Duration> {
        [self.table.poll_timeout(), self.rooms.poll_timeout()]
            .into_iter()
            .flatten()
            .min()
    }

    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Devices registered here.
    pub fn devices(&self) -> usize {
        self.table.devices()
    }

    /// Rooms with at least one member.
    pub fn rooms(&self) -> usize {
        self.rooms.len()
    }

    fn hello(&mut self, from: Source, datagram: &[u8], now: Duration) {
        if !self.limits.hello(from.address(), now) {
            self.counters.rate_limited += 1;
            return;
        }
        self.counters.hellos += 1;
        let nonce = datagram[2..18].try_into().expect("16 bytes");
        let cookie = self.baker.bake(from.address(), &nonce, now);
        self.send(from, datagram::cookie(&nonce, &cookie));
    }

    fn register(&mut self, from: Source, datagram: &[u8], now: Duration) {
        // A registration is about a NAT's mapping.
        let Source::Udp { remote, .. } = from else {
            self.counters.malformed += 1;
            return;
        };
        let register = table::Register::parse(datagram);
        let Some(baked) = self
            .baker
            .check(&register.cookie, remote, &register.nonce, now)
        else {
            self.counters.bad_cookie += 1;
            return;
        };
        if !self.table.holds(&register.device) && !self.limits.introduction(remote, now) {
            self.counters.rate_limited += 1;
            return;
        }
        let answer = self.table.register(
            &register,
            baked,
            from,
            self.registry_away,
            now,
            &mut self.counters,
        );
        if let Some(answer) = answer {
            self.counters.registrations += 1;
            self.send(from, answer);
        }
    }

    fn in_session(&mut self, from: Source, kind: u8, datagram: &[u8], now: Duration) {
        if matches!(from, Source::Tcp(..)) {
            self.counters.malformed += 1;
            return;
        }
        let answer = self.table.in_session(
            kind,
            datagram,
            from,
            self.registry_away,
            now,
            &mut self.counters,
        );
        if let Some(answer) = answer {
            self.send(from, answer);
        }
    }

    fn join(&mut self, from: Source, datagram: &[u8], now: Duration) {
        let Some(join) = datagram::Join::decode(datagram) else {
            self.counters.malformed += 1;
            return;
        };
        if self
            .baker
            .check(&join.cookie, from.address(), &join.nonce, now)
            .is_none()
        {
            self.counters.bad_cookie += 1;
            return;
        }
        if !self.limits.join(from.address(), now) {
            self.counters.rate_limited += 1;
            return;
        }
        let is_here = PeerId::from_bytes(join.device).is_ok_and(|id| self.table.is_good(&id));
        let answers = self
            .rooms
            .join(from, &join, is_here, now, &mut self.counters);
        self.send_all(answers);
    }

    fn send(&mut self, to: Source, datagram: Vec<u8>) {
        self.counters.bytes_out += datagram.len() as u64;
        self.sends.push_back((to, datagram));
    }

    fn send_all(&mut self, all: Vec<(Source, Vec<u8>)>) {
        for (to, datagram) in all {
            self.send(to, datagram);
        }
    }
}
