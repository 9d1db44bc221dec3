//! The NAT matrix: whatever the routers, the call is direct, what flows arrives whole, and the registry
//! carries none of it. `cargo xtask nat` is all pairs.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ringback_tests::{
    case::{Case, Stage, milliseconds},
    lab::{Topology, impairment::Impairment, kind::Kind},
};

/// Many times what the registry is allowed to carry.
const BYTES: u64 = 20_000_000;

fn call(caller: Kind, device: Kind) -> Result<()> {
    Stage::set()?
        .run(&Case::new(caller, device, BYTES))?
        .check()
}

/// Pairs beyond those that have a test of their own, run one after the other on one stage.
/// `cargo xtask nat` runs them all.
const PAIRS: &[(Kind, Kind)] = &[
    (Kind::Ipv6Only, Kind::Ipv6Only),
    (Kind::CarrierNat, Kind::PortRestricted),
    (Kind::PortRestricted, Kind::CarrierNat),
    (Kind::CarrierNat, Kind::CarrierNat),
    (Kind::Open, Kind::Symmetric),
    (Kind::Symmetric, Kind::FullCone),
    (Kind::PortRestrictedPcp, Kind::PortRestricted),
    (Kind::Symmetric, Kind::PortRestricted),
    (Kind::PortRestricted, Kind::Symmetric),
    (Kind::SymmetricUpnp, Kind::Symmetric),
    (Kind::UdpBlocked, Kind::Open),
    (Kind::PortRestricted, Kind::UdpBlocked),
    (Kind::Symmetric, Kind::Symmetric),
    (Kind::Only443, Kind::PortRestricted),
    (Kind::Ipv6Only, Kind::Open),
    (Kind::Nat64, Kind::Ipv6Only),
    (Kind::Nat64, Kind::PortRestricted),
    (Kind::PortRestricted, Kind::Nat64),
    (Kind::Nat64, Kind::Symmetric),
    (Kind::Symmetric, Kind::Nat64),
    (Kind::UdpBlocked, Kind::Nat64),
];

/// Where both are behind one router of that kind.
const SHARED: &[(Topology, Kind)] = &[
    (Topology::SameRouter, Kind::PortRestricted),
    (Topology::Hairpin, Kind::PortRestricted),
];

#[test]
fn more_pairs_are_connected_the_best_way() -> Result<()> {
    let stage = Stage::set()?;
    let pairs = PAIRS
        .iter()
        .map(|&(caller, device)| Case::new(caller, device, BYTES / 10));
    let shared = SHARED.iter().map(|&(topology, kind)| Case {
        topology,
        ..Case::new(kind, kind, BYTES / 10)
    });
    for case in pairs.chain(shared) {
        let outcome = stage.run(&case)?;
        println!("{case}: {} by {}", outcome.way.path, outcome.way.transport);
        outcome.check()?;
    }
    Ok(())
}

/// The caller's router has kept the device's first datagrams out: they come with the reply, and the
/// caller need not knock first and wait for others.
#[test]
fn the_reply_carries_the_dial_back_through_a_closed_router() -> Result<()> {
    let one_way = Duration::from_millis(100);
    let outcome = Stage::set()?.run(&Case {
        impairment: Impairment {
            delay: one_way,
            ..Impairment::default()
        },
        ..Case::new(Kind::PortRestricted, Kind::PortRestricted, 100_000)
    })?;
    outcome.check()?;
    let steps = outcome.receipt["steps"].as_array().context("no steps")?;
    let at = |name: &str| {
        let step = steps.iter().find(|step| step["step"] == name);
        step.and_then(|step| step["at_ms"].as_f64())
            .with_context(|| format!("no '{name}' in {steps:?}"))
    };
    let waited = at("device dialled back")? - at("accepted")?;
    // Anything that comes by a path after the answer has a way there and back behind it.
    ensure!(
        waited < milliseconds(one_way),
        "{waited} ms after the answer"
    );
    Ok(())
}

macro_rules! matrix {
    ($($name:ident: $caller:ident calls $device:ident;)*) => {$(
        #[test]
        fn $name() -> Result<()> {
            call(Kind::$caller, Kind::$device)
        }
    )*};
}

matrix! {
    open_calls_open: Open calls Open;
    open_calls_full_cone: Open calls FullCone;
    open_calls_port_restricted: Open calls PortRestricted;
    open_calls_address_only: Open calls AddressOnly;
    full_cone_calls_open: FullCone calls Open;
    full_cone_calls_full_cone: FullCone calls FullCone;
    full_cone_calls_port_restricted: FullCone calls PortRestricted;
    full_cone_calls_address_only: FullCone calls AddressOnly;
    port_restricted_calls_open: PortRestricted calls Open;
    port_restricted_calls_full_cone: PortRestricted calls FullCone;
    port_restricted_calls_port_restricted: PortRestricted calls PortRestricted;
    port_restricted_calls_address_only: PortRestricted calls AddressOnly;
    address_only_calls_open: AddressOnly calls Open;
    address_only_calls_full_cone: AddressOnly calls FullCone;
    address_only_calls_port_restricted: AddressOnly calls PortRestricted;
    address_only_calls_address_only: AddressOnly calls AddressOnly;
}
