//! One way to the peer: when to ping it and whether it answers.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use super::via::{Class, Via};
use crate::candidate::Kind;
use crate::receipt::Transport;

/// Pause before the n-th ping to a way that has not answered; the last one repeats.
const PROBE_SCHEDULE: [Duration; 8] = [
    Duration::ZERO,
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(400),
    Duration::from_millis(800),
    Duration::from_millis(1500),
    Duration::from_secs(2),
];
/// Left for an address that has never answered; once more if it is heard.
const MAX_PINGS: u32 = 12;
const MAX_HANDSHAKES: u32 = 8;
/// While a link has no better path, an address that never answered is tried again this often, so
/// that a network that opens later is found; and so many times in all.
const TRICKLE: Duration = Duration::from_secs(30);
const MAX_TRICKLE: u32 = 60;
/// Between pings to the path in use, and to others that work.
const KEEPALIVE: Duration = Duration::from_secs(5);
const STANDBY: Duration = Duration::from_secs(15);
/// A verified way that does not answer is pinged this often, and lost after so many.
const RETRY: Duration = Duration::from_millis(500);
const LOST_AFTER: u32 = 4;
/// The same while data is sent and nothing at all comes back: pings follow each other by the
/// path's own timeout, within these bounds.
const QUICK: (Duration, Duration) = (Duration::from_millis(100), Duration::from_millis(500));
const LOST_AFTER_QUICK: u32 = 3;
/// A lost way is tried this often while nothing better works: at first, and after so many tries.
const RELAPSE: (Duration, Duration, u32) = (Duration::from_secs(2), Duration::from_secs(10), 40);
/// Pings whose answers still count.
const OUTSTANDING: usize = 8;
/// Round trips of which the shortest is told: what is over it was spent waiting for a processor, of
/// which the first has most, since its ping goes out into the handshake.
const RECENT: usize = 4;
/// Answers after which a round trip can be told. Until there are as many, the next ping follows the
/// last answer at once.
const MEASURED: usize = 3;

#[derive(Debug)]
pub(super) struct Remote {
    pub(super) via: Via,
    pub(super) class: Class,
    pub(super) transport: Transport,
    pub(super) kind: Kind,
    /// Of the peer, or of the relay.
    pub(super) address: SocketAddr,
    /// The last authentic datagram from here.
    pub(super) heard: Option<Duration>,
    /// Round trip of the last answered ping.
    pub(super) rtt: Option<Duration>,
    /// In all, for the receipt.
    pub(super) pings_sent: u32,
    standing: Standing,
    /// The last [`RECENT`] round trips.
    recent: VecDeque<Duration>,
    /// Smoothed round trip and its deviation (RFC 6298).
    smoothed: Option<(Duration, Duration)>,
    /// Pings since the last answer, or since the probing was started anew.
    unanswered: u32,
    last_ping: Duration,
    /// The next ping is due at once.
    hurry: bool,
    /// A full-sized ping has not been answered: an answer to a short one says nothing until then.
    in_question: bool,
    /// A short ping was answered.
    is_short: bool,
    outstanding: VecDeque<Ping>,
}

#[derive(Debug, Clone, Copy)]
struct Ping {
    nonce: [u8; 8],
    sent: Duration,
    full: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// Has never answered, and may be somebody else's: what may still be sent there.
    Stranger {
        pings: u32,
        handshakes: u32,
        trickle: u32,
    },
    Verified,
    /// Was verified and fell silent.
    Lost,
}

/// What the link's state means for its ways.
#[derive(Debug, Clone, Copy)]
pub(super) struct Situation {
    pub(super) established: bool,
    pub(super) best: Option<Via>,
    pub(super) best_class: Option<Class>,
    /// Data was sent on the best path, long enough ago, and nothing has come back.
    pub(super) in_doubt: bool,
    /// The peer answers a ping in its length: a path that takes short datagrams only is none.
    pub(super) pads: bool,
    /// When data was last seen to be sent.
    pub(super) sent_at: Option<Duration>,
}

impl Situation {
    /// Would a path of this class be better than what the link has?
    fn lacks(&self, class: Class) -> bool {
        self.best_class.is_none_or(|best| best > class)
    }
}

impl Standing {
    const STRANGER: Self = Self::Stranger {
        pings: MAX_PINGS,
        handshakes: MAX_HANDSHAKES,
        trickle: MAX_TRICKLE,
    };
}

impl Remote {
    pub(super) fn udp(via: Via, to: SocketAddr, kind: Kind, now: Duration) -> Self {
        Self::new(via, Class::Udp, Transport::Udp, kind, to, now)
    }

    pub(super) fn new(
        via: Via,
        class: Class,
        transport: Transport,
        kind: Kind,
        address: SocketAddr,
        now: Duration,
    ) -> Self {
        Self {
            via,
            class,
            transport,
            kind,
            address,
            heard: None,
            rtt: None,
            pings_sent: 0,
            standing: Standing::STRANGER,
            recent: VecDeque::with_capacity(RECENT),
            smoothed: None,
            unanswered: 0,
            last_ping: now,
            hurry: false,
            in_question: false,
            is_short: false,
            outstanding: VecDeque::new(),
        }
    }

    pub(super) fn is_verified(&self) -> bool {
        self.standing == Standing::Verified
    }

    /// Short datagrams pass here, and no others as far as is known.
    pub(super) fn is_short(&self) -> bool {
        self.is_short && !self.is_verified()
    }

    /// What was measured until now had the handshake in it.
    pub(super) fn measure_anew(&mut self) {
        if self.is_verified() && !self.class.is_relay() {
            self.recent.clear();
            self.hurry = true;
        }
    }

    /// The shortest of the last round trips.
    pub(super) fn round_trip(&self) -> Option<Duration> {
        self.recent.iter().min().copied()
    }

    /// Were there enough of them to tell?
    pub(super) fn is_measured(&self) -> bool {
        let enough = if self.class.is_relay() { 1 } else { MEASURED };
        self.recent.len() >= enough
    }

    pub(super) fn is_lost(&self) -> bool {
        self.standing == Standing::Lost
    }

    /// How long an answer may take (RFC 6298), between 100 ms and 1 s.
    pub(super) fn timeout(&self) -> Duration {
        let (smoothed, deviation) = self.smoothed.unwrap_or_default();
        (smoothed + 4 * deviation).clamp(Duration::from_millis(100), Duration::from_secs(1))
    }

    /// When the next ping is due; `None` if this way is left alone.
    ///
    /// Ways that were never heard are left alone once the link has one that is as good; lost ones
    /// are tried on and on only while nothing as good works; a relay that works and is not needed
    /// is left to sleep.
    pub(super) fn next_ping(&self, link: &Situation) -> Option<Duration> {
        if self.hurry {
            return Some(self.last_ping);
        }
        let step = (self.unanswered as usize).min(PROBE_SCHEDULE.len() - 1);
        let is_best = link.best == Some(self.via);
        let pause = match self.standing {
            Standing::Stranger {
                pings: 0, trickle, ..
            } => {
                let tries = trickle > 0 && link.established && link.lacks(self.class);
                return tries.then(|| self.last_ping + TRICKLE);
            }
            Standing::Stranger { .. }
                if link.established && self.heard.is_none() && !link.lacks(self.class) =>
            {
                return None;
            }
            Standing::Stranger { .. } => PROBE_SCHEDULE[step],
            Standing::Verified if is_best && link.in_doubt => {
                self.timeout().clamp(QUICK.0, QUICK.1)
            }
            Standing::Verified if self.unanswered > 0 => RETRY,
            Standing::Verified if is_best => KEEPALIVE,
            Standing::Verified if self.class.is_relay() => return None,
            Standing::Verified => STANDBY,
            Standing::Lost if self.unanswered < MAX_PINGS => PROBE_SCHEDULE[step],
            Standing::Lost if !link.lacks(self.class) => return None,
            Standing::Lost if self.unanswered < RELAPSE.2 => RELAPSE.0,
            Standing::Lost => RELAPSE.1,
        };
        Some(self.last_ping + pause)
    }

    /// Is the next ping to be as long as the data that is sent? A path that works is asked with short
    /// ones while it is idle. Where nobody has been heard, one in full size is enough: whose address
    /// it is is not known.
    pub(super) fn takes_full_ping(&self, link: &Situation) -> bool {
        if !link.pads {
            return false;
        }
        match self.standing {
            _ if self.via.address().is_none() && !self.is_verified() => true,
            Standing::Stranger { pings, .. } => self.heard.is_some() || pings == MAX_PINGS,
            Standing::Verified => {
                let in_doubt = link.in_doubt && link.best == Some(self.via);
                in_doubt || self.in_question || link.sent_at.is_some_and(|at| at >= self.last_ping)
            }
            Standing::Lost => true,
        }
    }

    pub(super) fn pinged(&mut self, nonce: [u8; 8], full: bool, in_doubt: bool, now: Duration) {
        if self.outstanding.len() == OUTSTANDING {
            self.outstanding.pop_front();
        }
        let sent = now;
        self.outstanding.push_back(Ping { nonce, sent, full });
        self.last_ping = now;
        self.hurry = false;
        self.in_question |= full;
        self.pings_sent += 1;
        self.unanswered += 1;
        let limit = if in_doubt {
            LOST_AFTER_QUICK
        } else {
            LOST_AFTER
        };
        match &mut self.standing {
            Standing::Stranger {
                pings: 0, trickle, ..
            } => *trickle = trickle.saturating_sub(1),
            Standing::Stranger { pings, .. } => *pings -= 1,
            Standing::Verified if self.unanswered > limit => {
                self.standing = Standing::Lost;
                self.unanswered = 1;
                self.recent.clear();
            }
            Standing::Verified | Standing::Lost => {}
        }
    }

    /// Is this nonce one of ours, and the answer as long as it has to be? Then the way is verified, and
    /// worked when the ping was sent, which is what comes back.
    pub(super) fn answered(
        &mut self,
        nonce: [u8; 8],
        full: bool,
        pads: bool,
        now: Duration,
    ) -> Option<Duration> {
        let position = self.outstanding.iter().position(|p| p.nonce == nonce)?;
        let ping = self.outstanding[position];
        self.outstanding.drain(..=position);
        let sent = ping.sent;
        let rtt = now.saturating_sub(sent);
        self.rtt = Some(rtt);
        self.recent.truncate(RECENT - 1);
        self.recent.push_front(rtt);
        self.smoothed = Some(match self.smoothed {
            None => (rtt, rtt / 2),
            Some((smoothed, deviation)) => (
                (7 * smoothed + rtt) / 8,
                (3 * deviation + smoothed.abs_diff(rtt)) / 4,
            ),
        });
        let is_full = full && ping.full;
        let still_works = self.is_verified() && !self.in_question;
        if pads && !is_full && !still_works {
            self.is_short = true;
            return None;
        }
        self.standing = Standing::Verified;
        (self.in_question, self.is_short) = (false, false);
        self.unanswered = 0;
        // A relay is not asked again: it is paid for by the message.
        self.hurry |= !self.is_measured();
        Some(sent)
    }

    /// The peer answers pings in their length, it turns out: what was learned by short ones says too
    /// little.
    pub(super) fn doubt_size(&mut self) {
        if self.is_verified() {
            self.standing = Standing::STRANGER;
            self.renew();
        }
    }

    /// An authentic datagram came from here: ask back, unless it is known to work. Is it the first?
    pub(super) fn hear(&mut self, now: Duration) -> bool {
        let first = self.heard.is_none();
        match self.standing {
            Standing::Stranger { .. } if first => {
                self.standing = Standing::STRANGER;
                self.renew();
            }
            Standing::Lost if self.last_ping + RETRY <= now => self.renew(),
            _ => {}
        }
        self.heard = Some(now);
        first
    }

    /// Pings at once; what does not answer is probed from the start of the schedule, within what
    /// is left for it.
    pub(super) fn renew(&mut self) {
        self.hurry = !matches!(self.standing, Standing::Stranger { pings: 0, .. });
        if !self.is_verified() {
            self.unanswered = 0;
        }
    }

    /// May one more handshake datagram go here?
    pub(super) fn take_handshake(&mut self) -> bool {
        match &mut self.standing {
            Standing::Stranger { handshakes: 0, .. } => false,
            Standing::Stranger { handshakes, .. } => {
                *handshakes -= 1;
                true
            }
            Standing::Verified | Standing::Lost => true,
        }
    }
}
