//! The devices that are registered here: one row each, with a cap and an end.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use zeroize::Zeroizing;

use super::report::{Counters, Report, Source};
use crate::beacon::MAX_INTERVAL;
use crate::beacon::datagram::{
    Body, KEEPALIVE, LEAVE, NOTIFIED, NOTIFY, PROBE, PROBED, REGISTER, REGISTERED, Reader, Standing,
};
use crate::beacon::session::{End, Session, Unopened};
use crate::{Code, PeerId, SecretKey};

/// A device that was not heard for this many of its intervals, and a little, is gone.
const SILENT_INTERVALS: u32 = 2;
const SILENT_MARGIN: Duration = Duration::from_secs(15);
/// The registry hears of an unchanged device again after this time.
const REPORT_INTERVAL: Duration = Duration::from_secs(600);
/// Without the registry's word about a device it is asked again after this time.
const ASK_AGAIN: Duration = Duration::from_secs(10);
/// Pauses between the repetitions of a notification.
const REPETITIONS: [Duration; 4] = [
    Duration::from_millis(500),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
];
/// Probes of one device that wait for their second answer.
const MAX_PROBES: usize = 4;
/// Rows of devices that the registry does not know (yet).
const MAX_STRANGERS: usize = 1024;
/// How long a refusal is remembered.
const REFUSED_FOR: Duration = Duration::from_secs(60);

/// A Register, taken apart.
pub(super) struct Register<'a> {
    datagram: &'a [u8],
    pub(super) device: [u8; 32],
    pub(super) nonce: [u8; 16],
    pub(super) cookie: [u8; 32],
}

impl<'a> Register<'a> {
    /// `datagram` has the length of a Register.
    pub(super) fn parse(datagram: &'a [u8]) -> Self {
        let mut rest = Reader(&datagram[2..]);
        let mut parse = || {
            Some(Self {
                datagram,
                device: rest.take()?,
                nonce: rest.take()?,
                cookie: rest.take()?,
            })
        };
        parse().expect("a Register is longer")
    }
}

#[derive(Debug)]
pub(super) struct Table {
    key: SecretKey,
    max_devices: usize,
    rows: HashMap<[u8; 32], Row>,
    by_tag: HashMap<[u8; 8], [u8; 32]>,
    strangers: usize,
    /// When which device needs a look; a row tells whether there is something to do.
    timers: BTreeSet<(Duration, [u8; 32])>,
    /// What the registry is to be told, oldest first.
    reports: VecDeque<PeerId>,
    /// The same of devices that the registry has not vouched for: they come last.
    introductions: VecDeque<PeerId>,
    queued: HashSet<PeerId>,
    gone: VecDeque<PeerId>,
    next_notice: u64,
}

#[derive(Debug)]
struct Row {
    device: PeerId,
    shared: Zeroizing<[u8; 32]>,
    session: Session,
    /// When the session's cookie was made, and with which nonce: an older one is a replay.
    baked: u64,
    nonce: [u8; 16],
    source: Source,
    interval: Duration,
    heard: Duration,
    standing: Standing,
    /// What the registry was told, and when.
    reported: Option<(SocketAddr, Duration)>,
    notice: Option<Notice>,
    probes: Vec<Probe>,
}

/// A notification that the device has not acknowledged.
#[derive(Debug)]
struct Notice {
    id: u64,
    sent: usize,
    next: Duration,
}

#[derive(Debug)]
struct Probe {
    id: u64,
    to: Source,
    due: Duration,
}

impl Table {
    pub(super) fn new(key: SecretKey, max_devices: usize, secret: &[u8; 32]) -> Self {
        // A device must not take a notification of this run for a repetition of the last one's.
        let next_notice = u64::from_be_bytes(secret[..8].try_into().expect("8 bytes")) >> 1;
        Self {
            key,
            max_devices,
            rows: HashMap::new(),
            by_tag: HashMap::new(),
            strangers: 0,
            timers: BTreeSet::new(),
            reports: VecDeque::new(),
            introductions: VecDeque::new(),
            queued: HashSet::new(),
            gone: VecDeque::new(),
            next_notice,
        }
    }

    pub(super) fn holds(&self, device: &[u8; 32]) -> bool {
        self.rows.contains_key(device)
    }

    pub(super) fn is_good(&self, device: &PeerId) -> bool {
        self.rows
            .get(device.as_bytes())
            .is_some_and(|row| row.standing == Standing::Good)
    }

    pub(super) fn devices(&self) -> usize {
        self.rows.len() - self.strangers
    }

    /// A Register whose cookie is good, made at `baked`. Gives the answer.
    pub(super) fn register(
        &mut self,
        register: &Register<'_>,
        baked: u64,
        from: Source,
        registry_away: bool,
        now: Duration,
        counters: &mut Counters,
    ) -> Option<Vec<u8>> {
        if let Some(row) = self.rows.get_mut(&register.device) {
            if row.baked == baked && row.nonce == register.nonce {
                // The same session again: its answer was lost.
                let opened = match row.session.open(REGISTER, register.datagram) {
                    Ok(opened) => opened,
                    Err(why) => return count(why, counters),
                };
                row.heard = now;
                return Some(row.registered(opened.counter, from, registry_away));
            }
            if row.baked >= baked {
                counters.replayed += 1;
                return None;
            }
        }
        self.open_session(register, baked, from, registry_away, now, counters)
    }

    fn open_session(
        &mut self,
        register: &Register<'_>,
        baked: u64,
        from: Source,
        registry_away: bool,
        now: Duration,
        counters: &mut Counters,
    ) -> Option<Vec<u8>> {
        let Ok(device) = PeerId::from_bytes(register.device) else {
            counters.forged += 1;
            return None;
        };
        let old = self.rows.get(&register.device);
        let shared = old.map_or_else(|| self.key.agree(&device), |row| row.shared.clone());
        let mut session = Session::new(
            End::Beacon,
            &shared,
            &device,
            &self.key.id(),
            &register.nonce,
            &register.cookie,
        );
        let opened = match session.open(REGISTER, register.datagram) {
            Ok(opened) => opened,
            Err(why) => return count(why, counters),
        };
        let Body::Interval(seconds) = opened.body else {
            return None;
        };
        if old.is_none() && !self.make_room() {
            counters.table_full += 1;
            return None;
        }
        let tag = session.tag();
        let mut row = match self.rows.remove(&register.device) {
            Some(old) => {
                self.by_tag.remove(&old.session.tag());
                if old.source.address() != from.address() {
                    counters.address_changes += 1;
                }
                Row {
                    session,
                    baked,
                    nonce: register.nonce,
                    source: from,
                    interval: interval(seconds),
                    heard: now,
                    ..old
                }
            }
            None => {
                self.strangers += 1;
                Row {
                    device,
                    shared,
                    session,
                    baked,
                    nonce: register.nonce,
                    source: from,
                    interval: interval(seconds),
                    heard: now,
                    standing: Standing::Pending,
                    reported: None,
                    notice: None,
                    probes: Vec::new(),
                }
            }
        };
        // A notification that was under way goes on in the new session, at once.
        if let Some(notice) = &mut row.notice {
            notice.sent = 0;
            notice.next = now;
        }
        let answer = row.registered(opened.counter, from, registry_away);
        let wants_report = row.wants_report(now);
        self.by_tag.insert(tag, register.device);
        self.timers.insert((row.next_timer(), register.device));
        self.rows.insert(register.device, row);
        if wants_report {
            self.report(device);
        }
        Some(answer)
    }

    /// A datagram of a session; gives the answer, if there is one.
    pub(super) fn in_session(
        &mut self,
        kind: u8,
        datagram: &[u8],
        from: Source,
        registry_away: bool,
        now: Duration,
        counters: &mut Counters,
    ) -> Option<Vec<u8>> {
        let tag = datagram[2..10].try_into().expect("8 bytes");
        let Some(id) = self.by_tag.get::<[u8; 8]>(tag).copied() else {
            counters.unknown += 1;
            return None;
        };
        let row = self.rows.get_mut(&id).expect("tags belong to rows");
        let opened = match row.session.open(kind, datagram) {
            Ok(opened) => opened,
            Err(why) => return count(why, counters),
        };
        row.heard = now;
        match (kind, opened.body) {
            (KEEPALIVE, Body::Interval(seconds)) => {
                counters.keepalives += 1;
                if !opened.newest {
                    // Late; what came after it counts.
                    return None;
                }
                row.interval = interval(seconds);
                if row.source != from {
                    counters.address_changes += 1;
                    row.source = from;
                    if let Some(notice) = &mut row.notice {
                        notice.sent = 0;
                        notice.next = now;
                    }
                }
                let answer = row.registered(opened.counter, from, registry_away);
                let (device, wants_report) = (row.device, row.wants_report(now));
                self.timers.insert((row.next_timer(), id));
                if wants_report {
                    self.report(device);
                }
                Some(answer)
            }
            (NOTIFIED, Body::Notice(notice)) => {
                if row.notice.as_ref().is_some_and(|known| known.id == notice) {
                    row.notice = None;
                    counters.notified += 1;
                }
                None
            }
            (PROBE, Body::Probe { id: probe, delay_s }) => {
                counters.probes += 1;
                // It comes from another socket of the device: nothing is learned from its address.
                if delay_s > 0 && row.probes.len() < MAX_PROBES {
                    row.probes.push(Probe {
                        id: probe,
                        to: from,
                        due: now + interval(delay_s),
                    });
                    self.timers.insert((row.next_timer(), id));
                }
                let body = Body::Probed {
                    id: probe,
                    late: false,
                };
                Some(row.session.seal(PROBED, &body).0)
            }
            (LEAVE, Body::Leave) => {
                self.remove(&id);
                None
            }
            _ => None,
        }
    }

    pub(super) fn notify(&mut self, device: &PeerId, now: Duration) -> Option<(Source, Vec<u8>)> {
        let row = self
            .rows
            .get_mut(device.as_bytes())
            .filter(|row| row.standing == Standing::Good)?;
        self.next_notice += 1;
        row.notice = Some(Notice {
            id: self.next_notice,
            sent: 0,
            next: now,
        });
        let datagram = row.send_notice(now)?;
        self.timers.insert((row.next_timer(), *device.as_bytes()));
        Some(datagram)
    }

    pub(super) fn known(&mut self, device: &PeerId, code: Option<&Code>, now: Duration) {
        let Some(row) = self.rows.get_mut(device.as_bytes()) else {
            return;
        };
        let standing = Standing::by_registry(code);
        let was_stranger = row.standing != Standing::Good;
        let is_stranger = standing != Standing::Good;
        row.standing = standing;
        if is_stranger {
            row.notice = None;
            row.heard = now;
        }
        self.timers.insert((row.next_timer(), *device.as_bytes()));
        match (was_stranger, is_stranger) {
            (true, false) => self.strangers -= 1,
            (false, true) => self.strangers += 1,
            _ => {}
        }
    }

    /// The registry has forgotten everything.
    pub(super) fn report_all(&mut self) {
        self.gone.clear();
        for row in self.rows.values_mut() {
            row.reported = None;
        }
        let all: Vec<PeerId> = self.rows.values().map(|row| row.device).collect();
        for device in all {
            self.report(device);
        }
    }

    fn report(&mut self, device: PeerId) {
        if self.queued.insert(device) {
            if self.is_good(&device) {
                self.reports.push_back(device);
            } else {
                self.introductions.push_back(device);
            }
        }
    }

    pub(super) fn has_reports(&self) -> bool {
        !(self.gone.is_empty() && self.reports.is_empty() && self.introductions.is_empty())
    }

    pub(super) fn poll_report(&mut self, now: Duration) -> Option<Report> {
        if let Some(device) = self.gone.pop_front() {
            return Some(Report::Gone { device });
        }
        while let Some(device) = self
            .reports
            .pop_front()
            .or_else(|| self.introductions.pop_front())
        {
            self.queued.remove(&device);
            if let Some(row) = self.rows.get_mut(device.as_bytes()) {
                row.reported = Some((row.source.address(), now));
                return Some(Report::Seen {
                    device,
                    public: row.source.address(),
                });
            }
        }
        None
    }

    pub(super) fn handle_timeout(
        &mut self,
        now: Duration,
        counters: &mut Counters,
    ) -> Vec<(Source, Vec<u8>)> {
        let mut sends = Vec::new();
        while let Some(&(due, id)) = self.timers.first()
            && due <= now
        {
            self.timers.pop_first();
            let Some(row) = self.rows.get_mut(&id) else {
                continue;
            };
            if row.silent_at() <= now {
                self.remove(&id);
                continue;
            }
            if row.notice.as_ref().is_some_and(|notice| notice.next <= now) {
                match row.send_notice(now) {
                    Some(send) => {
                        counters.notifications += 1;
                        sends.push(send);
                    }
                    // The device did not answer: whoever rings it is told by the registry.
                    None => row.notice = None,
                }
            }
            let due: Vec<Probe> = row
                .probes
                .extract_if(.., |probe| probe.due <= now)
                .collect();
            for probe in due {
                let body = Body::Probed {
                    id: probe.id,
                    late: true,
                };
                let (datagram, _) = row.session.seal(PROBED, &body);
                sends.push((probe.to, datagram));
            }
            self.timers.insert((row.next_timer(), id));
        }
        sends
    }

    pub(super) fn poll_timeout(&self) -> Option<Duration> {
        self.timers.first().map(|(due, _)| *due)
    }

    fn remove(&mut self, id: &[u8; 32]) {
        let Some(row) = self.rows.remove(id) else {
            return;
        };
        self.by_tag.remove(&row.session.tag());
        if row.standing != Standing::Good {
            self.strangers -= 1;
        }
        if row.reported.is_some()
            && !matches!(row.standing, Standing::NotEnrolled | Standing::Revoked)
        {
            self.gone.push_back(row.device);
        }
    }

    /// Is there room for a device more? Refused ones give theirs up.
    fn make_room(&mut self) -> bool {
        if self.strangers >= MAX_STRANGERS {
            let refused = self
                .rows
                .iter()
                .find(|(_, row)| matches!(row.standing, Standing::NotEnrolled | Standing::Revoked));
            let Some(id) = refused.map(|(id, _)| *id) else {
                return false;
            };
            self.remove(&id);
        }
        self.rows.len() < self.max_devices
    }
}

impl Row {
    fn registered(&mut self, answers: u64, from: Source, registry_away: bool) -> Vec<u8> {
        let standing = match self.standing {
            Standing::Good | Standing::Pending if registry_away => Standing::RegistryAway,
            standing => standing,
        };
        let body = Body::Registered {
            answers,
            public: from.address(),
            standing,
        };
        self.session.seal(REGISTERED, &body).0
    }

    fn wants_report(&self, now: Duration) -> bool {
        let is_refused = matches!(self.standing, Standing::NotEnrolled | Standing::Revoked);
        match self.reported {
            None => true,
            Some((_, at)) if self.standing == Standing::Pending && now >= at + ASK_AGAIN => true,
            // Enrolled meanwhile, perhaps: the row goes after a minute, and then it is asked again.
            Some(_) if is_refused => false,
            Some((address, at)) => address != self.source.address() || now >= at + REPORT_INTERVAL,
        }
    }

    /// The next transmission of the notification; `None` after the last.
    fn send_notice(&mut self, now: Duration) -> Option<(Source, Vec<u8>)> {
        let notice = self.notice.as_mut()?;
        let pause = match notice.sent {
            // The last one has as long to be answered as the one before it.
            sent if sent == REPETITIONS.len() => REPETITIONS[sent - 1],
            sent => *REPETITIONS.get(sent)?,
        };
        notice.sent += 1;
        notice.next = now + pause;
        let body = Body::Notice(notice.id);
        let (datagram, _) = self.session.seal(NOTIFY, &body);
        Some((self.source, datagram))
    }

    fn silent_at(&self) -> Duration {
        match self.standing {
            Standing::NotEnrolled | Standing::Revoked => self.heard + REFUSED_FOR,
            _ => self.heard + self.interval * SILENT_INTERVALS + SILENT_MARGIN,
        }
    }

    fn next_timer(&self) -> Duration {
        let notice = self.notice.iter().map(|notice| notice.next);
        let probes = self.probes.iter().map(|probe| probe.due);
        notice.chain(probes).fold(self.silent_at(), Duration::min)
    }
}

/// Seconds as a device tells them, within what a beacon takes.
fn interval(seconds: u16) -> Duration {
    Duration::from_secs(seconds.max(1).into()).min(MAX_INTERVAL)
}

fn count<T>(why: Unopened, counters: &mut Counters) -> Option<T> {
    match why {
        Unopened::Forged => counters.forged += 1,
        Unopened::Replayed => counters.replayed += 1,
    }
    None
}
