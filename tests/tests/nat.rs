//! The NAT matrix: whatever the routers, the call is direct, 100 MB arrive whole, and the registry
//! carries none of it.

use anyhow::Result;
use ringback_tests::{
    case::{Case, Stage},
    lab::{Topology, kind::Kind},
};

const BYTES: u64 = 100_000_000;

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
