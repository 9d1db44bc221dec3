//! The relay on a beacon (§16.6): rooms of two, whose datagrams are forwarded as they are.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::time::Duration;

use super::limits::Bucket;
use super::report::{Counters, Report, Source};
use crate::beacon::datagram::{Join, Joined, RELAY_PING, Standing};
use crate::beacon::member::origin;
use crate::registration::verify_join;
use crate::relay::{MAX_DATAGRAM, Room as RoomId};
use crate::{Code, PeerId};

/// A member that was not heard for this long has gone; it pings every 20 s.
const SILENT: Duration = Duration::from_secs(65);
/// The registry's word about a device holds so long.
const KNOWN_FOR: Duration = Duration::from_secs(600);
const REFUSED_FOR: Duration = Duration::from_secs(30);
/// Devices that the registry's word is remembered of.
const MAX_KNOWN: usize = 4096;
/// Rooms of one source in which only a caller is.
const MAX_LONELY: usize = 16;
const DAY: Duration = Duration::from_secs(86_400);

/// What a relay allows.
#[derive(Debug, Clone)]
pub struct RelayConfig {
    pub max_rooms: usize,
    /// Bytes a second of one room, both ways together; a second's worth may come at once.
    pub rate: u32,
    /// Bytes of all rooms in 24 hours from the start.
    pub daily: Option<u64>,
}

impl Default for RelayConfig {
    fn default() -> Self {
        Self {
            max_rooms: 1024,
            rate: 4 << 20,
            daily: None,
        }
    }
}

/// A room belongs to a device: another device's room of the same number is another room.
type Key = ([u8; 16], [u8; 32]);

#[derive(Debug)]
pub(super) struct Rooms {
    origin: String,
    config: Option<RelayConfig>,
    rooms: HashMap<Key, Room>,
    by_source: HashMap<Source, Place>,
    known: HashMap<[u8; 32], (Standing, Duration)>,
    checks: VecDeque<PeerId>,
    asked: HashSet<PeerId>,
    timers: BTreeSet<(Duration, Source)>,
    day: Duration,
    today: u64,
}

/// Where in which room.
#[derive(Debug, Clone, Copy)]
struct Place {
    key: Key,
    side: usize,
}

#[derive(Debug, Default)]
struct Room {
    /// The device and the caller.
    members: [Option<Member>; 2],
    bucket: Bucket,
}

#[derive(Debug, Clone, Copy)]
struct Member {
    source: Source,
    peer: [u8; 32],
    nonce: [u8; 16],
    heard: Duration,
}

type Sends = Vec<(Source, Vec<u8>)>;

impl Rooms {
    pub(super) fn new(beacon: &PeerId, config: Option<RelayConfig>) -> Self {
        Self {
            origin: origin(beacon),
            config,
            rooms: HashMap::new(),
            by_source: HashMap::new(),
            known: HashMap::new(),
            checks: VecDeque::new(),
            asked: HashSet::new(),
            timers: BTreeSet::new(),
            day: Duration::ZERO,
            today: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.rooms.len()
    }

    pub(super) fn is_member(&self, source: &Source) -> bool {
        self.by_source.contains_key(source)
    }

    /// Where a datagram of a member goes.
    pub(super) fn forward(
        &mut self,
        from: Source,
        length: usize,
        now: Duration,
        counters: &mut Counters,
    ) -> Option<Source> {
        let Some(place) = self.by_source.get(&from) else {
            counters.unknown += 1;
            return None;
        };
        let config = self.config.as_ref()?;
        let room = self.rooms.get_mut(&place.key)?;
        if now >= self.day + DAY {
            self.day = now;
            self.today = 0;
        }
        let allowance = config.daily.unwrap_or(u64::MAX);
        let rate = f64::from(config.rate);
        let to = room.members[1 - place.side].map(|member| member.source);
        let fits = length <= MAX_DATAGRAM && self.today.saturating_add(length as u64) <= allowance;
        if to.is_none() || !fits || !room.bucket.spend(rate, rate, length as f64, now) {
            counters.relay_dropped += 1;
            return None;
        }
        self.today += length as u64;
        counters.relayed += 1;
        counters.relayed_bytes += length as u64;
        to
    }

    /// A Join whose cookie is good. `is_here`: the device is registered at this beacon.
    pub(super) fn join(
        &mut self,
        from: Source,
        join: &Join,
        is_here: bool,
        now: Duration,
        counters: &mut Counters,
    ) -> Sends {
        let answer = |standing, present, rate| {
            let joined = Joined {
                nonce: join.nonce,
                standing,
                present,
                rate,
            };
            vec![(from, joined.encode())]
        };
        let Some(config) = self.config.clone() else {
            return answer(Standing::RelayDisabled, false, 0);
        };
        let (Ok(peer), Ok(device)) = (
            PeerId::from_bytes(join.peer),
            PeerId::from_bytes(join.device),
        ) else {
            counters.forged += 1;
            return Vec::new();
        };
        let side = match join.role {
            0 if peer == device => 0,
            1 => 1,
            _ => {
                counters.malformed += 1;
                return Vec::new();
            }
        };
        if !verify_join(
            &peer,
            &RoomId(join.room),
            &join.cookie,
            &self.origin,
            &join.signature,
        ) {
            counters.forged += 1;
            return Vec::new();
        }
        counters.joins += 1;
        if self.is_used_up(now) {
            return answer(Standing::Exhausted, false, 0);
        }
        let standing = if is_here {
            Standing::Good
        } else {
            self.standing(&device, now)
        };
        // A caller may wait for a device of which nothing is known yet: nothing is relayed before
        // the device is there.
        if standing != Standing::Good && (side == 0 || standing != Standing::Pending) {
            return answer(standing, false, 0);
        }
        let key = (join.room, join.device);
        let is_taken = |room: &Room| room.members[side].is_some_and(|m| m.peer != join.peer);
        let is_new = !self.rooms.contains_key(&key);
        if self.rooms.get(&key).is_some_and(is_taken)
            || (is_new && self.rooms.len() >= config.max_rooms)
            || (is_new && side == 1 && self.lonely(from) >= MAX_LONELY)
        {
            return answer(Standing::Busy, false, 0);
        }
        self.take_place(from, join, key, side, now)
    }

    fn take_place(
        &mut self,
        from: Source,
        join: &Join,
        key: Key,
        side: usize,
        now: Duration,
    ) -> Sends {
        let mut sends = Vec::new();
        // A source is in one room: who joins another leaves the first.
        if self
            .by_source
            .get(&from)
            .is_some_and(|place| place.key != key || place.side != side)
        {
            sends = self.closed(from);
        }
        let room = self.rooms.entry(key).or_default();
        let member = Member {
            source: from,
            peer: join.peer,
            nonce: join.nonce,
            heard: now,
        };
        if let Some(old) = room.members[side].replace(member)
            && old.source != from
        {
            self.by_source.remove(&old.source);
        }
        self.by_source.insert(from, Place { key, side });
        self.timers.insert((now + SILENT, from));
        let members = self.rooms[&key].members;
        sends.extend(members.iter().flatten().map(|member| {
            let present = members.iter().flatten().count() == 2;
            (member.source, self.joined(member, present))
        }));
        sends
    }

    /// A RelayPing or a RelayLeave.
    pub(super) fn in_room(
        &mut self,
        from: Source,
        kind: u8,
        datagram: &[u8],
        now: Duration,
        counters: &mut Counters,
    ) -> Sends {
        let place = self.by_source.get(&from).copied();
        let member = place.and_then(|place| {
            let room = self.rooms.get_mut(&place.key)?;
            let other = room.members[1 - place.side].is_some();
            let member = room.members[place.side].as_mut()?;
            (datagram[2..18] == member.nonce).then_some((member, other))
        });
        let Some((member, present)) = member else {
            counters.unknown += 1;
            return Vec::new();
        };
        if kind == RELAY_PING {
            member.heard = now;
            let member = *member;
            if self.is_used_up(now) {
                let mut sends = self.closed(from);
                let joined = Joined {
                    nonce: member.nonce,
                    standing: Standing::Exhausted,
                    present: false,
                    rate: 0,
                };
                sends.push((from, joined.encode()));
                return sends;
            }
            return vec![(from, self.joined(&member, present))];
        }
        self.closed(from)
    }

    /// The member behind this source has gone.
    pub(super) fn closed(&mut self, from: Source) -> Sends {
        let Some(place) = self.by_source.remove(&from) else {
            return Vec::new();
        };
        let Some(room) = self.rooms.get_mut(&place.key) else {
            return Vec::new();
        };
        room.members[place.side] = None;
        match room.members[1 - place.side] {
            Some(other) => vec![(other.source, self.joined(&other, false))],
            None => {
                self.rooms.remove(&place.key);
                Vec::new()
            }
        }
    }

    /// The registry's word about a device; rooms of one that it does not know are closed.
    pub(super) fn known(&mut self, device: &PeerId, code: Option<&Code>, now: Duration) -> Sends {
        self.asked.remove(device);
        let standing = Standing::by_registry(code);
        let lifetime = if standing == Standing::Good {
            KNOWN_FOR
        } else {
            REFUSED_FOR
        };
        if self.known.len() >= MAX_KNOWN {
            self.known.retain(|_, (_, until)| *until > now);
        }
        if self.config.is_some() && self.known.len() < MAX_KNOWN {
            self.known
                .insert(*device.as_bytes(), (standing, now + lifetime));
        }
        if standing == Standing::Good {
            return Vec::new();
        }
        let closed: Vec<Source> = self
            .by_source
            .iter()
            .filter(|(_, place)| place.key.1 == *device.as_bytes())
            .map(|(source, _)| *source)
            .collect();
        let mut sends = Vec::new();
        for source in closed {
            if let Some(place) = self.by_source.get(&source)
                && let Some(member) = self.rooms[&place.key].members[place.side]
            {
                let joined = Joined {
                    nonce: member.nonce,
                    standing,
                    present: false,
                    rate: 0,
                };
                sends.push((source, joined.encode()));
            }
            self.closed(source);
        }
        sends
    }

    /// The registry has not heard what it was asked, or its answer was lost.
    pub(super) fn ask_again(&mut self) {
        self.checks = self.asked.iter().copied().collect();
    }

    pub(super) fn has_checks(&self) -> bool {
        !self.checks.is_empty()
    }

    pub(super) fn poll_check(&mut self) -> Option<Report> {
        let device = self.checks.pop_front()?;
        Some(Report::Check { device })
    }

    pub(super) fn handle_timeout(&mut self, now: Duration) -> Sends {
        let mut sends = Vec::new();
        while let Some(&(due, source)) = self.timers.first()
            && due <= now
        {
            self.timers.pop_first();
            let heard = self.by_source.get(&source).and_then(|place| {
                let room = self.rooms.get(&place.key)?;
                Some(room.members[place.side]?.heard)
            });
            match heard {
                Some(heard) if heard + SILENT > now => {
                    self.timers.insert((heard + SILENT, source));
                }
                Some(_) => sends.extend(self.closed(source)),
                None => {}
            }
        }
        sends
    }

    pub(super) fn poll_timeout(&self) -> Option<Duration> {
        self.timers.first().map(|(due, _)| *due)
    }

    /// What is known of a device; asks the registry if that is nothing.
    fn standing(&mut self, device: &PeerId, now: Duration) -> Standing {
        match self.known.get(device.as_bytes()) {
            Some((standing, until)) if *until > now => *standing,
            _ => {
                if self.asked.len() < MAX_KNOWN && self.asked.insert(*device) {
                    self.checks.push_back(*device);
                }
                Standing::Pending
            }
        }
    }

    fn is_used_up(&mut self, now: Duration) -> bool {
        if now >= self.day + DAY {
            self.day = now;
            self.today = 0;
        }
        let daily = self.config.as_ref().and_then(|config| config.daily);
        daily.is_some_and(|daily| self.today >= daily)
    }

    fn lonely(&self, from: Source) -> usize {
        let ip = from.address().ip();
        self.rooms
            .values()
            .filter(|room| {
                room.members[0].is_none()
                    && room.members[1].is_some_and(|m| m.source.address().ip() == ip)
            })
            .count()
    }

    fn joined(&self, member: &Member, present: bool) -> Vec<u8> {
        let rate = self.config.as_ref().map_or(0, |config| config.rate);
        Joined {
            nonce: member.nonce,
            standing: Standing::Good,
            present,
            rate,
        }
        .encode()
    }
}
