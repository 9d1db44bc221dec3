//! Registration → request → accepted call → link, in virtual time, over every pair of routers and
//! with everything that networks do to datagrams. Also what must hold when paths come and go.

mod sim;

use std::time::Duration;

use ringback_protocol::Code;
use ringback_protocol::call::Outcome;
use ringback_protocol::candidate::{Candidate, Kind};
use ringback_protocol::path::Via;
use ringback_protocol::receipt::TriedResult;
use ringback_protocol::registration::{
    CloseReason, PING_INTERVAL, PONG_TIMEOUT, STEP_TIMEOUT, UPDATE_TIMEOUT,
};
use ringback_protocol::secret::Psk;
use sim::router::NatKind;
use sim::{Conditions, End, KEEPALIVE, World, psk, stranger};

const SEEDS: u64 = 12;

/// §10: what an address that never answered may get, and once more if it was heard.
const MAX_PINGS: u32 = 12;
const MAX_HANDSHAKES: u32 = 8;

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn linked(caller: NatKind, device: NatKind) -> World {
    let mut world = World::new(caller, device, Conditions::CALM, 1);
    world.connect();
    world
}

#[test]
fn every_pair_of_routers_links_through_loss_delay_and_reordering() {
    for caller in NatKind::ALL {
        for device in NatKind::ALL {
            for loss in [0.0, 0.1, 0.3] {
                for seed in 0..SEEDS {
                    let mut world = World::new(caller, device, Conditions::rough(loss), seed);
                    world.connect();
                    assert!(world.delivered);
                    let device_at = world.device.router.public();
                    let caller_at = world.caller.router.public();
                    assert_eq!(world.paths(End::Caller).route(), Some(Via::udp(device_at)));
                    assert_eq!(world.paths(End::Device).route(), Some(Via::udp(caller_at)));
                    assert_eq!(world.closed, None);
                }
            }
        }
    }
}

/// With 20 ms on every leg: request and answer are two round trips through the registry, and the
/// handshake one and a half more, of which the first half passes while the answer is under way.
#[test]
fn a_calm_call_takes_as_many_round_trips_as_the_protocol_has() {
    for caller in NatKind::ALL {
        for device in NatKind::ALL {
            let mut world = World::new(caller, device, Conditions::CALM, 1);
            world.run(secs(1), |w| w.registration.is_live());
            let rung = world.now;
            world.ring(&psk());
            assert!(world.run(secs(5), |w| w.caller.handshake.is_done()));
            let took = world.now - rung;
            assert!(
                took <= Duration::from_millis(160),
                "{caller:?} to {device:?}: {took:?}"
            );
        }
    }
}

#[test]
fn a_wrong_password_brings_a_refusal_and_not_one_datagram() {
    let mut world = World::new(NatKind::Open, NatKind::Open, Conditions::CALM, 1);
    world.run(secs(1), |w| w.registration.is_live());
    world.ring(&Psk::from_bytes([0; 32]));
    assert!(world.run(secs(1), |w| w.outcome.is_some()));
    let Some(Outcome::Refused(refusal)) = &world.outcome else {
        panic!("{:?}", world.outcome);
    };
    assert_eq!(refusal.code, Code::WrongPassword);
    world.pass(secs(60));
    assert_eq!(world.device.sent, 0);
}

/// The registry holds the answer back until the device has spent its budget on a closed router.
#[test]
fn a_late_answer_still_links() {
    for seed in 0..SEEDS {
        let conditions = Conditions::rough(0.2);
        let mut world = World::new(
            NatKind::PortRestricted,
            NatKind::PortRestricted,
            conditions,
            seed,
        );
        world.registry.slow_by = secs(14);
        world.connect();
    }
}

#[test]
fn an_address_that_nobody_named_is_learned_from_the_peers_ping() {
    let mut world = World::new(NatKind::PortRestricted, NatKind::Open, Conditions::CALM, 1);
    world.caller_candidates = Some(vec![stranger(1)]);
    world.connect();
    let caller_at = world.caller.router.public();
    let report = world.paths(End::Device).report();
    let learned = report
        .iter()
        .find(|tried| tried.address == caller_at)
        .expect("in the report");
    assert_eq!(learned.kind, Kind::PeerReflexive);
    assert_eq!(learned.result, TriedResult::Won);
}

#[test]
fn a_path_that_was_silent_for_a_while_is_found_again() {
    for silence in [3, 10, 60, 300] {
        for device in NatKind::ALL {
            let mut world = linked(NatKind::PortRestricted, device);
            world.pass(secs(20));
            let start = world.now;
            let end = start + secs(silence);
            world.blackout = Some((start, end));
            world.run(secs(silence), |_| false);
            assert!(
                world.run(secs(7), |w| w.carries_since(end)),
                "no data after {silence} s of silence"
            );
            world.pass(secs(7));
            for end in [End::Device, End::Caller] {
                assert!(
                    world.paths(end).rtt().is_some(),
                    "{end:?} has no verified path after {silence} s of silence"
                );
            }
        }
    }
}

/// A router gets a new public address in the middle of a link. The other end follows, if its own
/// router lets it hear of it: behind one that does not, only the registry could tell.
#[test]
fn a_link_follows_a_change_of_address() {
    for moving in NatKind::ALL {
        for staying in [NatKind::Open, NatKind::FullCone] {
            for end in [End::Device, End::Caller] {
                let mut world = match end {
                    End::Device => linked(staying, moving),
                    End::Caller => linked(moving, staying),
                };
                for change in 1..=20 {
                    world.pass(secs(20));
                    world.side(end).router.rebind();
                    let changed = world.now;
                    // The next keepalive shows the new address; the old one is given up after
                    // its retries.
                    assert!(
                        world.run(secs(8), |w| w.carries_since(changed + secs(1))),
                        "{end:?} behind {moving:?}: no data after change {change}"
                    );
                }
            }
        }
    }
}

/// Whatever a request names and whatever happens to the link, an address that never answered gets
/// no more than the protocol's budget.
#[test]
fn strangers_get_no_more_than_the_budget() {
    for seed in 0..SEEDS {
        let mut world = World::new(
            NatKind::FullCone,
            NatKind::FullCone,
            Conditions::rough(0.2),
            seed,
        );
        let mut candidates: Vec<Candidate> = (1..16).map(stranger).collect();
        candidates.push(Candidate::udp(Kind::Mapped, world.caller.router.public()));
        world.caller_candidates = Some(candidates);
        world.run(secs(2), |w| w.registration.is_live());
        world.ring(&psk());
        // Paths are verified and lost again and again, before and after the link is up.
        for round in 0..20 {
            world.pass(Duration::from_millis(150 + 400 * round));
            world.blackout = Some((world.now, world.now + secs(4)));
            world.pass(secs(4));
        }
        assert_eq!(
            world
                .strangers
                .keys()
                .filter(|(end, _)| *end == End::Device)
                .count(),
            15
        );
        // One more in 30 s while the link has no path.
        let trickle = world.now.as_secs() as u32 / 30;
        for (address, spray) in &world.strangers {
            // One ping is as long as a datagram of the handshake.
            assert!(
                spray.pings <= MAX_PINGS - 1 + trickle && spray.handshakes <= MAX_HANDSHAKES + 1,
                "{address:?} got {spray:?}"
            );
            assert_eq!(spray.others, 0, "{address:?}");
        }
    }
}

#[test]
fn a_call_to_nowhere_ends_in_silence() {
    let mut world = World::new(NatKind::Open, NatKind::Open, Conditions::CALM, 1);
    world.caller_candidates = Some(vec![stranger(1)]);
    world.device_candidates = Some(vec![stranger(2)]);
    world.run(secs(2), |w| w.registration.is_live());
    world.ring(&psk());
    world.pass(secs(120));
    let before = (world.device.sent, world.caller.sent);
    world.pass(secs(600));
    assert_eq!((world.device.sent, world.caller.sent), before);
}

/// A link with nothing to say costs one ping and one pong in five seconds, in each direction.
#[test]
fn an_idle_link_is_quiet() {
    let mut world = linked(NatKind::Open, NatKind::Open);
    world.pass(secs(60));
    let (before, heard) = (world.device.sent, world.device.heard_bare.len());
    world.pass(secs(300));
    let data = 3000;
    assert!(world.device.heard_bare.len() >= heard + data - 1);
    let pings_and_pongs = world.device.sent - before - data as u32;
    assert!(
        (110..=130).contains(&pings_and_pongs),
        "{pings_and_pongs} in 300 s"
    );
}

#[test]
fn a_socket_without_pongs_is_dead() {
    let mut world = World::new(NatKind::Open, NatKind::Open, Conditions::CALM, 1);
    world.pass(secs(200));
    assert_eq!(world.closed, None, "a socket with pongs lives");
    world.registry.silent = true;
    let silent_since = world.now;
    assert!(world.run(secs(60), |w| w.closed.is_some()));
    assert_eq!(world.closed, Some((CloseReason::Dead, world.now)));
    assert!(world.now - silent_since <= PING_INTERVAL + PONG_TIMEOUT);
    assert_eq!(world.registration.poll_timeout(), None);
}

#[test]
fn a_change_of_network_finds_a_dead_socket_at_once() {
    let mut world = World::new(NatKind::Open, NatKind::Open, Conditions::CALM, 1);
    world.pass(secs(3));
    world.registry.silent = true;
    world.registration.check(world.now);
    let checked = world.now;
    assert!(world.run(secs(60), |w| w.closed.is_some()));
    assert_eq!(world.now - checked, PONG_TIMEOUT);
}

#[test]
fn a_registry_that_never_answers_is_given_up() {
    let mut world = World::new(NatKind::Open, NatKind::Open, Conditions::CALM, 1);
    world.registry.silent = true;
    assert!(world.run(secs(60), |w| w.closed.is_some()));
    assert!(world.now <= STEP_TIMEOUT + secs(1));
    assert!(matches!(world.closed, Some((CloseReason::Dead, _))));
}

#[test]
fn a_change_of_address_reaches_the_device_list_within_a_keepalive() {
    let mut world = World::new(NatKind::Open, NatKind::FullCone, Conditions::CALM, 1);
    world.pass(secs(30));
    assert_eq!(world.registry.public, Some(world.device.router.public()));
    world.device.router.rebind();
    let changed = world.now;
    let known = |w: &World| w.registry.public == Some(w.device.router.public());
    assert!(!known(&world));
    assert!(world.run(secs(60), known));
    assert!(world.now - changed <= KEEPALIVE + secs(1));
    world.connect();
    world.pass(secs(60));
    assert_eq!(world.closed, None);
}

#[test]
fn a_registry_that_loses_updates_is_left() {
    let mut world = World::new(NatKind::Open, NatKind::FullCone, Conditions::CALM, 1);
    world.pass(secs(30));
    world.registry.loses_updates = true;
    world.device.router.rebind();
    let changed = world.now;
    assert!(world.run(secs(60), |w| w.closed.is_some()));
    assert_eq!(world.closed, Some((CloseReason::Dead, world.now)));
    assert!(world.now - changed <= KEEPALIVE + UPDATE_TIMEOUT);
}
