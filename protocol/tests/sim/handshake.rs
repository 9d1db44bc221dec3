//! What a QUIC handshake looks like from below: flights of two datagrams that are sent again until
//! they are answered. The device is the client (§11).

use std::time::Duration;

/// Bytes of one datagram.
pub const DATAGRAM: usize = 1200;

/// QUIC's first probe timeout without a round trip measured (RFC 9002, 6.2.2); it doubles.
const PROBE: Duration = Duration::from_secs(1);

const CLIENT: u8 = 0xc1;
const SERVER: u8 = 0xe1;
const FINISH: u8 = 0xe3;

#[derive(Debug)]
pub enum Handshake {
    Idle,
    Client {
        server: u8,
        again: Repeat,
    },
    Server {
        client: u8,
        again: Option<Repeat>,
    },
    /// Until the server confirms (RFC 9001, 4.1.2), the finish is sent again.
    ClientDone {
        again: Option<Repeat>,
    },
    ServerDone,
}

/// When a flight is sent again.
#[derive(Debug)]
pub struct Repeat {
    at: Duration,
    pause: Duration,
}

impl Handshake {
    pub fn client(now: Duration) -> Self {
        Self::Client {
            server: 0,
            again: Repeat {
                at: now,
                pause: PROBE,
            },
        }
    }

    pub fn server() -> Self {
        Self::Server {
            client: 0,
            again: None,
        }
    }

    pub fn is_done(&self) -> bool {
        matches!(self, Self::ClientDone { .. } | Self::ServerDone)
    }

    pub fn poll_timeout(&self) -> Option<Duration> {
        match self {
            Self::Client { again, .. } => Some(again.at),
            Self::Server { again, .. } | Self::ClientDone { again } => {
                again.as_ref().map(|again| again.at)
            }
            Self::Idle | Self::ServerDone => None,
        }
    }

    pub fn handle_timeout(&mut self, now: Duration) -> Vec<Vec<u8>> {
        let (flight, again) = match self {
            Self::Client { again, .. } => (flight(CLIENT), again),
            Self::Server {
                again: Some(again), ..
            } => (flight(SERVER), again),
            Self::ClientDone { again: Some(again) } => (finish(), again),
            _ => return Vec::new(),
        };
        if again.at > now {
            return Vec::new();
        }
        again.at = now + again.pause;
        again.pause *= 2;
        flight
    }

    /// A bare datagram of the server confirms the handshake.
    pub fn confirm(&mut self) {
        if let Self::ClientDone { again } = self {
            *again = None;
        }
    }

    pub fn handle(&mut self, quic: &[u8], now: Duration) -> Vec<Vec<u8>> {
        let (kind, part) = (quic[0], quic[1]);
        match (&mut *self, kind) {
            (Self::Server { client, again }, CLIENT) => {
                *client |= 1 << part;
                if *client == 0b11 && again.is_none() {
                    *again = Some(Repeat::after(now));
                    return flight(SERVER);
                }
            }
            (Self::Client { server, .. }, SERVER) => {
                *server |= 1 << part;
                if *server == 0b11 {
                    *self = Self::ClientDone {
                        again: Some(Repeat::after(now)),
                    };
                    return finish();
                }
            }
            (Self::ClientDone { .. }, SERVER) => return finish(),
            (Self::Server { .. }, FINISH) => *self = Self::ServerDone,
            _ => {}
        }
        Vec::new()
    }
}

impl Repeat {
    fn after(now: Duration) -> Self {
        Self {
            at: now + PROBE,
            pause: 2 * PROBE,
        }
    }
}

fn finish() -> Vec<Vec<u8>> {
    vec![datagram(FINISH, 0)]
}

fn flight(kind: u8) -> Vec<Vec<u8>> {
    vec![datagram(kind, 0), datagram(kind, 1)]
}

fn datagram(kind: u8, part: u8) -> Vec<u8> {
    let mut datagram = vec![0; DATAGRAM];
    datagram[..2].copy_from_slice(&[kind, part]);
    datagram
}
