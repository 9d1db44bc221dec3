//! The NAT matrix: whatever the routers, the call is direct, 100 MB arrive whole, and the registry
//! carries none of it.

use anyhow::Result;
use ringback_tests::{
    case::{Case, Stage},
    lab::{impairment::Impairment, kind::Kind},
};

fn call(caller: Kind, device: Kind) -> Result<()> {
    let impairment = Impairment::default();
    let case = Case {
        caller,
        device,
        impairment,
        bytes: 100_000_000,
    };
    Stage::set()?.run(&case)?.check()
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
