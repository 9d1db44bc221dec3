//! The NAT matrix with a browser as the caller: where native callers get through by punching or by a
//! search, a browser does, directly; what flows arrives whole, and the registry carries none of it.
//! Where nothing gets through it is carried by TURN. Here each class of NAT meets each other one once;
//! `cargo xtask nat --browser` is all pairs, with 100 MB each.

use anyhow::{Result, ensure};
use ringback_tests::{
    browser_case::{BrowserStage, is_direct},
    case::Case,
    lab::{Topology, kind::Kind},
};

/// Many times what the registry is allowed to carry.
const BYTES: u64 = 2_000_000;

fn run(stage: &BrowserStage, case: &Case, wanted: &str) -> Result<()> {
    let (fetched, carried) = stage.run(case)?;
    println!(
        "{case}: {} after {:.0} ms, {:.0} Mb/s",
        fetched.path,
        fetched.connect_ms,
        fetched.megabits(),
    );
    fetched.check(case, wanted, carried)
}

/// Kinds of the device's router for one kind of the browser's, one after the other on one stage.
fn row(caller: Kind, devices: &[Kind]) -> Result<()> {
    let stage = BrowserStage::set()?;
    let mut failed = Vec::new();
    for &device in devices {
        ensure!(
            is_direct(caller, device),
            "{caller} does not reach {device} directly"
        );
        let case = Case::new(caller, device, BYTES);
        let mut done = run(&stage, &case, "direct");
        if done.is_err() && (caller == Kind::Symmetric || device == Kind::Symmetric) {
            // A search goes by chance, and finds nothing once in a hundred times.
            println!("{case}: once more");
            done = run(&stage, &case, "direct");
        }
        if let Err(error) = done {
            println!("{error:#}");
            failed.push(format!("{error:#}"));
        }
    }
    ensure!(failed.is_empty(), "{}", failed.join("\n"));
    Ok(())
}

macro_rules! rows {
    ($($name:ident: $caller:ident calls $($device:ident),*;)*) => {$(
        #[test]
        fn $name() -> Result<()> {
            row(Kind::$caller, &[$(Kind::$device),*])
        }
    )*};
}

rows! {
    open_reaches_devices: Open calls Open, Symmetric;
    full_cone_reaches_devices: FullCone calls PortRestricted;
    port_restricted_reaches_devices: PortRestricted calls
        Open, FullCone, PortRestricted, AddressOnly, Symmetric, CarrierNat;
    address_only_reaches_devices: AddressOnly calls AddressOnly, PortRestricted;
    symmetric_reaches_devices: Symmetric calls FullCone, PortRestricted, CarrierNat;
    carrier_nat_reaches_devices: CarrierNat calls CarrierNat, Symmetric;
    ipv6_only_reaches_devices: Ipv6Only calls Ipv6Only;
}

#[test]
fn on_one_lan_it_is_the_lan_itself() -> Result<()> {
    let stage = BrowserStage::set()?;
    let case = Case {
        topology: Topology::SameRouter,
        ..Case::new(Kind::PortRestricted, Kind::PortRestricted, BYTES)
    };
    run(&stage, &case, "direct")
}

#[test]
fn between_two_symmetric_routers_it_is_carried_by_turn() -> Result<()> {
    let stage = BrowserStage::set()?;
    let case = Case::new(Kind::Symmetric, Kind::Symmetric, BYTES);
    run(&stage, &case, "turn")
}
