//! One address of the peer: when to ping it and whether it answers.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use crate::candidate::Kind;

/// Pause before the n-th ping to an address that has not answered; the last one repeats.
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
/// Between pings to the path in use, and to others that work.
const KEEPALIVE: Duration = Duration::from_secs(5);
const STANDBY: Duration = Duration::from_secs(15);
/// A verified address that does not answer is pinged this often, and lost after so many.
const RETRY: Duration = Duration::from_millis(500);
const LOST_AFTER: u32 = 4;
/// Pings whose answers still count.
const OUTSTANDING: usize = 8;

#[derive(Debug)]
pub(super) struct Remote {
    pub(super) address: SocketAddr,
    pub(super) kind: Kind,
    /// The last authentic datagram from here.
    pub(super) heard: Option<Duration>,
    pub(super) rtt: Option<Duration>,
    /// In all, for the receipt.
    pub(super) pings_sent: u32,
    standing: Standing,
    /// Pings since the last answer, or since the probing was started anew.
    unanswered: u32,
    last_ping: Duration,
    /// The next ping is due at once.
    hurry: bool,
    outstanding: VecDeque<([u8; 8], Duration)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// Has never answered, and may be somebody else's: what may still be sent there.
    Stranger {
        pings: u32,
        handshakes: u32,
    },
    Verified,
    /// Was verified and fell silent.
    Lost,
}

impl Standing {
    const STRANGER: Self = Self::Stranger {
        pings: MAX_PINGS,
        handshakes: MAX_HANDSHAKES,
    };
}

impl Remote {
    pub(super) fn new(address: SocketAddr, kind: Kind, now: Duration) -> Self {
        Self {
            address,
            kind,
            heard: None,
            rtt: None,
            pings_sent: 0,
            standing: Standing::STRANGER,
            unanswered: 0,
            last_ping: now,
            hurry: false,
            outstanding: VecDeque::new(),
        }
    }

    pub(super) fn is_verified(&self) -> bool {
        self.standing == Standing::Verified
    }

    pub(super) fn is_lost(&self) -> bool {
        self.standing == Standing::Lost
    }

    /// When the next ping is due; `None` if this address is left alone. `best` is the path in use.
    /// Addresses that were never heard are left alone once the link is `established`; lost ones
    /// are tried on and on only while nothing else works.
    pub(super) fn next_ping(
        &self,
        established: bool,
        best: Option<SocketAddr>,
    ) -> Option<Duration> {
        let step = (self.unanswered as usize).min(PROBE_SCHEDULE.len() - 1);
        let pause = match self.standing {
            Standing::Stranger { pings: 0, .. } => return None,
            Standing::Stranger { .. } if established && self.heard.is_none() => return None,
            Standing::Stranger { .. } => PROBE_SCHEDULE[step],
            Standing::Verified if self.unanswered > 0 => RETRY,
            Standing::Verified if best == Some(self.address) => KEEPALIVE,
            Standing::Verified => STANDBY,
            Standing::Lost if self.unanswered < MAX_PINGS => PROBE_SCHEDULE[step],
            Standing::Lost if best.is_none() => KEEPALIVE,
            Standing::Lost => return None,
        };
        Some(self.last_ping + if self.hurry { Duration::ZERO } else { pause })
    }

    pub(super) fn pinged(&mut self, nonce: [u8; 8], now: Duration) {
        if self.outstanding.len() == OUTSTANDING {
            self.outstanding.pop_front();
        }
        self.outstanding.push_back((nonce, now));
        self.last_ping = now;
        self.hurry = false;
        self.pings_sent += 1;
        self.unanswered += 1;
        match &mut self.standing {
            Standing::Stranger { pings, .. } => *pings -= 1,
            Standing::Verified if self.unanswered > LOST_AFTER => {
                self.standing = Standing::Lost;
                self.unanswered = 1;
            }
            Standing::Verified | Standing::Lost => {}
        }
    }

    /// Is this nonce one of ours? Then the address is verified.
    pub(super) fn answered(&mut self, nonce: [u8; 8], now: Duration) -> bool {
        let Some(position) = self.outstanding.iter().position(|(n, _)| *n == nonce) else {
            return false;
        };
        let (_, sent) = self.outstanding[position];
        self.outstanding.drain(..=position);
        self.rtt = Some(now.saturating_sub(sent));
        self.standing = Standing::Verified;
        self.unanswered = 0;
        true
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
        self.hurry = true;
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
