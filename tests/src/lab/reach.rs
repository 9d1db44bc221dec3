//! The best way that physics leaves between two sites: what the matrix is measured by.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Topology, kind::Kind};

/// What carries the datagrams of a direct path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Transport {
    /// UDP.
    Udp,
    /// TCP, as UDP is blocked on a side.
    Tcp,
}

/// The path that a call must end up on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Expected {
    /// From router to router.
    Direct(Transport),
    /// By the relay, for a reason that nothing in software can do away with.
    Relay(&'static str),
}

/// The one reason of two families.
const FAMILIES: &str = "one side has only IPv6 and the other only IPv4";
const SYMMETRIC: &str = "both NATs take another random port for each destination and let in only \
                         what answers: 1 in 10,000² pairs of ports would fit";
const SYMMETRIC_TCP: &str = "UDP is blocked on one side, and the other's NAT takes another random \
                             port for each TCP connection: it can not be told, only flooded";
const ONLY_443: &str = "nothing leaves one side but TCP to port 443, and the other side has no port \
                        443 to offer: it belongs to others, or to a NAT that maps to high ports";

/// What a side can offer to the other over one transport.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reach {
    /// Strangers get in: a global address, or a port that the router opened or opens to all.
    Strangers,
    /// A port that can be told beforehand, for those who were sent to.
    Told,
    /// A port that is another for each destination, for those who were sent to.
    Random,
    /// Nothing passes.
    Nothing,
}

impl Kind {
    /// The best path between a caller and a device behind such routers.
    ///
    /// | UDP of the two sides | path |
    /// |---|---|
    /// | one lets strangers in | direct: the other sends first |
    /// | both ports can be told | direct: both send, each opens its own router |
    /// | one told, one random | direct: many sockets here, many ports tried there |
    /// | both random | none |
    ///
    /// TCP, where UDP is blocked: a connection where strangers are let in, a simultaneous open where
    /// both ports can be told (by STUN over TCP from that port), none where one is random. The
    /// table is symmetric, as either side can be asked to go first.
    pub fn reach(self, device: Self) -> Expected {
        use Reach::{Nothing, Random, Strangers, Told};
        let pair = (self, device);
        let has_ipv4 = |kind: Self| kind != Self::Ipv6Only;
        let share_ipv4 = has_ipv4(self) && has_ipv4(device);
        let share_ipv6 = self.is_ipv6() && device.is_ipv6();
        if !(share_ipv4 || share_ipv6) {
            return Expected::Relay(FAMILIES);
        }
        match (self.udp(), device.udp()) {
            (Nothing, _) | (_, Nothing) => {}
            (Random, Random) => return Expected::Relay(SYMMETRIC),
            (Strangers | Told | Random, Strangers | Told | Random) => {
                return Expected::Direct(Transport::Udp);
            }
        }
        if pair.0 == Self::Only443 || pair.1 == Self::Only443 {
            return Expected::Relay(ONLY_443);
        }
        match (self.tcp(), device.tcp()) {
            (Strangers, _) | (_, Strangers) | (Told, Told) => Expected::Direct(Transport::Tcp),
            _ => Expected::Relay(SYMMETRIC_TCP),
        }
    }

    fn udp(self) -> Reach {
        match self {
            Self::Open
            | Self::FullCone
            | Self::AddressOnly
            | Self::SymmetricUpnp
            | Self::PortRestrictedPcp => Reach::Strangers,
            Self::PortRestricted | Self::CarrierNat | Self::Ipv6Only | Self::Nat64 => Reach::Told,
            Self::Symmetric => Reach::Random,
            Self::UdpBlocked | Self::Only443 => Reach::Nothing,
        }
    }

    fn tcp(self) -> Reach {
        match self {
            Self::Open | Self::AddressOnly | Self::SymmetricUpnp | Self::PortRestrictedPcp => {
                Reach::Strangers
            }
            // A full cone is one for UDP only, as real ones are.
            Self::FullCone
            | Self::PortRestricted
            | Self::CarrierNat
            | Self::UdpBlocked
            | Self::Ipv6Only
            | Self::Nat64 => Reach::Told,
            Self::Symmetric => Reach::Random,
            Self::Only443 => Reach::Nothing,
        }
    }
}

impl Topology {
    /// The best path when the sites are connected like this.
    pub fn reach(self, caller: Kind, device: Kind) -> Expected {
        match self {
            Self::Apart => caller.reach(device),
            // Switched, or looped by the router: no rule of the router is in the way.
            Self::SameRouter | Self::Hairpin => Expected::Direct(Transport::Udp),
        }
    }
}

impl Expected {
    /// The path class, as receipts name it.
    pub fn path(self) -> &'static str {
        match self {
            Self::Direct(_) => "direct",
            Self::Relay(_) => "relay",
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
        })
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Direct(transport) => write!(f, "direct by {transport}"),
            Self::Relay(reason) => write!(f, "relay ({reason})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nat64_joins_the_families() {
        let udp = Expected::Direct(Transport::Udp);
        assert_eq!(Kind::Nat64.reach(Kind::Ipv6Only), udp);
        assert_eq!(Kind::Nat64.reach(Kind::Nat64), udp);
        for kind in Kind::ALL.into_iter().filter(|kind| !kind.is_ipv6()) {
            assert_eq!(
                Kind::Nat64.reach(kind),
                Kind::PortRestricted.reach(kind),
                "{kind}"
            );
        }
    }

    #[test]
    fn the_table_is_symmetric_and_as_drawn() {
        let mut drawn = String::new();
        for caller in Kind::ALL {
            for device in Kind::ALL {
                let expected = caller.reach(device);
                assert_eq!(expected, device.reach(caller), "{caller}, {device}");
                drawn.push(match expected {
                    Expected::Direct(Transport::Udp) => 'u',
                    Expected::Direct(Transport::Tcp) => 't',
                    Expected::Relay(_) => '.',
                });
            }
            drawn.push_str(&format!(" {caller}\n"));
        }
        let expected = "\
uuuuuuuut.. open
uuuuuuuut.. full-cone
uuuuuuuut.. port-restricted
uuuuuuuut.. address-only
uuuu.uuu... symmetric
uuuuuuuut.. symmetric-upnp
uuuuuuuut.. port-restricted-pcp
uuuuuuuut.. carrier-nat
tttt.tttt.. udp-blocked
........... only-443
..........u ipv6-only
";
        assert_eq!(drawn, expected);
    }
}
