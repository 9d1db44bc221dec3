//! The beacon's front and its two clients (section 16), with strangers and a rough network.

use std::time::Duration;

use arbitrary::Arbitrary;
use ringback_protocol::beacon::{
    Config, Device, DeviceOutput, Front, Member, MemberOutput, RelayConfig, Source,
};
use ringback_protocol::path::Role;
use ringback_protocol::relay::Room;
use ringback_protocol::{Code, SecretKey};

use crate::steps::{Damage, Pause, steps};
use crate::vector;

const MAX_DEVICES: usize = 8;

#[derive(Debug, Arbitrary)]
enum Step {
    Raw {
        from: u8,
        tcp: bool,
        bytes: Vec<u8>,
    },
    /// What a client says goes to the beacon, and the answers come back.
    Talk {
        client: u8,
        from: u8,
        there: Damage,
        back: Damage,
    },
    Known {
        client: u8,
        code: Option<bool>,
    },
    Notify {
        client: u8,
    },
    Closed {
        from: u8,
    },
    Registry(bool),
    Stun {
        from: u8,
        length: u16,
    },
    Later(Pause),
}

fn source(number: u8, tcp: bool) -> Source {
    let remote = ([192, 0, 2, number], 4000).into();
    if tcp {
        Source::Tcp(number.into(), remote)
    } else {
        Source::Udp {
            remote,
            local: None,
        }
    }
}

fn beacon() -> SecretKey {
    SecretKey::from_seed(&[0xbe; 32])
}

fn key(number: usize) -> SecretKey {
    SecretKey::from_seed(&[number as u8; 32])
}

enum Client {
    Device(Box<Device>),
    Member(Box<Member>),
}

impl Client {
    fn all() -> Vec<Self> {
        let room = Room([7; 16]);
        let device = |number| {
            let interval = Duration::from_secs(25);
            Box::new(Device::new(
                key(number),
                beacon().id(),
                interval,
                [1; 32],
                Duration::ZERO,
            ))
        };
        let member = |role, number| {
            let device = key(2).id();
            let (beacon, seed) = (beacon().id(), [2; 32]);
            let member = Member::new(
                key(number),
                role,
                device,
                room,
                beacon,
                seed,
                Duration::ZERO,
            );
            Box::new(member)
        };
        vec![
            Self::Device(device(1)),
            Self::Device(device(2)),
            Self::Member(member(Role::Device, 2)),
            Self::Member(member(Role::Caller, 3)),
        ]
    }

    fn handle(&mut self, datagram: &[u8], now: Duration) {
        match self {
            Self::Device(device) => device.handle_datagram(datagram, now),
            Self::Member(member) => member.handle_datagram(datagram, now),
        }
    }

    fn handle_timeout(&mut self, now: Duration) {
        match self {
            Self::Device(device) => device.handle_timeout(now),
            Self::Member(member) => member.handle_timeout(now),
        }
    }

    fn sends(&mut self) -> Vec<Vec<u8>> {
        let next = || match self {
            Self::Device(device) => device.poll_output().map(|output| match output {
                DeviceOutput::Send(datagram) => Some(datagram),
                _ => None,
            }),
            Self::Member(member) => member.poll_output().map(|output| match output {
                MemberOutput::Send(datagram) => Some(datagram),
                _ => None,
            }),
        };
        std::iter::from_fn(next).flatten().collect()
    }
}

pub fn beacon_front(bytes: &[u8]) {
    let config = Config {
        max_devices: MAX_DEVICES,
        relay: Some(RelayConfig::default()),
        ..Config::default()
    };
    let mut front = Front::new(beacon(), &config, &[0x5e; 32]);
    let mut clients = Client::all();
    let mut now = Duration::ZERO;
    for step in steps::<Step>(bytes) {
        match step {
            Step::Raw { from, tcp, bytes } => {
                let asked = bytes.len();
                front.handle_datagram(source(from, tcp), &bytes, now);
                while let Some((_, answer)) = front.poll_send() {
                    assert!(
                        answer.len() <= asked,
                        "no answer is larger than the question"
                    );
                }
            }
            Step::Talk {
                client,
                from,
                there,
                back,
            } => {
                let client = usize::from(client) % clients.len();
                let client = &mut clients[client];
                client.handle_timeout(now);
                for datagram in client.sends() {
                    for datagram in there.done_to(&datagram) {
                        front.handle_datagram(source(from, false), &datagram, now);
                    }
                }
                while let Some((_, answer)) = front.poll_send() {
                    for answer in back.done_to(&answer) {
                        client.handle(&answer, now);
                    }
                }
            }
            Step::Known { client, code } => {
                let code = code.map(|revoked| {
                    if revoked {
                        Code::Revoked
                    } else {
                        Code::NotEnrolled
                    }
                });
                front.handle_known(&key(client.into()).id(), code.as_ref(), now);
            }
            Step::Notify { client } => {
                front.handle_notify(&key(client.into()).id(), now);
            }
            Step::Closed { from } => front.handle_closed(source(from, true)),
            Step::Registry(live) => front.set_registry(live),
            Step::Stun { from, length } => {
                front.allow_stun(source(from, false).address(), length.into(), now);
            }
            Step::Later(pause) => now += pause.duration(),
        }
        if front.poll_timeout().is_some_and(|at| at <= now) {
            front.handle_timeout(now);
        }
        while front.poll_send().is_some() {}
        while front.poll_report(now).is_some() {}
        assert!(front.devices() <= MAX_DEVICES);
    }
}

/// A device, and whatever claims to be its beacon.
pub fn beacon_device(bytes: &[u8]) {
    client(bytes, &mut Client::all().remove(0));
}

/// A member of a room on a relay, and whatever claims to be the relay.
pub fn relay_member(bytes: &[u8]) {
    client(bytes, &mut Client::all().remove(3));
}

#[derive(Debug, Arbitrary)]
enum Heard {
    Raw(Vec<u8>),
    Vector { which: u8, damage: Damage },
    Later(Pause),
}

fn client(bytes: &[u8], client: &mut Client) {
    use vector::beacon::{COOKIE, NOTIFICATION, PROBED, REGISTERED, RELAY_JOINED};
    let known = [COOKIE, NOTIFICATION, PROBED, REGISTERED, RELAY_JOINED].map(vector::bytes);
    let mut now = Duration::ZERO;
    for step in steps::<Heard>(bytes) {
        match step {
            Heard::Raw(datagram) => client.handle(&datagram, now),
            Heard::Vector { which, damage } => {
                for datagram in damage.done_to(&known[usize::from(which) % known.len()]) {
                    client.handle(&datagram, now);
                }
            }
            Heard::Later(pause) => {
                now += pause.duration();
                client.handle_timeout(now);
            }
        }
        assert!(client.sends().len() <= 16, "no storm");
    }
}
