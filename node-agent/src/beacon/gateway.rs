//! Which network this is: intervals that one router bears are of no use at another.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// The default gateway of IPv4, as Linux tells it.
fn gateway() -> Option<Ipv4Addr> {
    parse(&std::fs::read_to_string("/proc/net/route").ok()?)
}

fn parse(routes: &str) -> Option<Ipv4Addr> {
    routes.lines().skip(1).find_map(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let (destination, gateway) = (fields.next()?, fields.next()?);
        // Hexadecimal, in the byte order of the machine.
        let gateway = u32::from_str_radix(gateway, 16).ok()?;
        (destination == "00000000" && gateway != 0).then(|| Ipv4Addr::from(gateway.to_ne_bytes()))
    })
}

/// A name for the network behind the gateway and public address.
pub(super) fn network(public: SocketAddr) -> String {
    let ip: IpAddr = public.ip();
    match gateway() {
        Some(gateway) => format!("{gateway} {ip}"),
        None => format!("- {ip}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn the_default_route_is_found() {
        let routes = "Iface\tDestination\tGateway \tFlags\n\
            eth0\t0001A8C0\t00000000\t0001\n\
            eth0\t00000000\t0101A8C0\t0003\n";
        assert_eq!(parse(routes), Some(Ipv4Addr::new(192, 168, 1, 1)));
        assert_eq!(parse("Iface\n"), None);
    }
}
