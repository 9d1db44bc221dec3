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
/// To an address that is not verified, in all.
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
    verified: bool,
    /// Since the last answer or renewal.
    unanswered: u32,
    handshakes: u32,
    last_ping: Duration,
    outstanding: VecDeque<([u8; 8], Duration)>,
}

impl Remote {
    pub(super) fn new(address: SocketAddr, kind: Kind, now: Duration) -> Self {
        Self {
            address,
            kind,
            heard: None,
            rtt: None,
            pings_sent: 0,
            verified: false,
            unanswered: 0,
            handshakes: 0,
            last_ping: now,
            outstanding: VecDeque::new(),
        }
    }

    pub(super) fn is_verified(&self) -> bool {
        self.verified
    }

    /// When the next ping is due; `None` if this address is left alone. Addresses that never
    /// answered are left alone once the link is `established`.
    pub(super) fn next_ping(&self, established: bool, best: bool) -> Option<Duration> {
        if self.verified {
            let pause = match (self.unanswered, best) {
                (1.., _) => RETRY,
                (0, true) => KEEPALIVE,
                (0, false) => STANDBY,
            };
            return Some(self.last_ping + pause);
        }
        let hopeless = self.unanswered >= MAX_PINGS || (established && self.heard.is_none());
        let step = (self.unanswered as usize).min(PROBE_SCHEDULE.len() - 1);
        (!hopeless).then(|| self.last_ping + PROBE_SCHEDULE[step])
    }

    pub(super) fn pinged(&mut self, nonce: [u8; 8], now: Duration) {
        if self.outstanding.len() == OUTSTANDING {
            self.outstanding.pop_front();
        }
        self.outstanding.push_back((nonce, now));
        self.last_ping = now;
        self.pings_sent += 1;
        self.unanswered += 1;
        if self.verified && self.unanswered > LOST_AFTER {
            self.verified = false;
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
        self.verified = true;
        self.unanswered = 0;
        true
    }

    /// The peer was heard from here: ask back at once.
    pub(super) fn ping_soon(&mut self, now: Duration) {
        if !self.verified && self.pings_sent > 0 {
            self.last_ping = now.saturating_sub(*PROBE_SCHEDULE.last().expect("not empty"));
        }
    }

    /// Starts the probing anew, after the path in use was lost.
    pub(super) fn renew(&mut self, now: Duration) {
        self.unanswered = 0;
        self.last_ping = now;
        self.outstanding.clear();
    }

    /// May one more handshake datagram go here?
    pub(super) fn take_handshake(&mut self) -> bool {
        self.handshakes += 1;
        self.verified || self.handshakes <= MAX_HANDSHAKES
    }
}
