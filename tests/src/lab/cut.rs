//! What the core does not let through between the two sites, while registry and STUN servers stay
//! reachable for both.

use std::net::Ipv4Addr;

use anyhow::Result;

use super::namespace::Namespace;

/// What is dropped, silently and in both directions, on its way from one site to the other's public
/// address (IPv4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Nothing.
    Nothing,
    /// UDP.
    Udp,
    /// Everything.
    All,
    /// Everything but TCP to and from this port of the device's site.
    AllBut(u16),
    /// Packets of more than so many bytes, of UDP and of TCP.
    Longer(u16),
}

impl Cut {
    /// Puts the rules into the core, in place of those of another cut. A side is a leg and the
    /// public address behind it.
    pub(super) fn apply(self, core: &Namespace, sides: [(&str, Ipv4Addr); 2]) -> Result<()> {
        let verdicts = match self {
            Self::Nothing => vec![],
            Self::Udp => vec!["meta l4proto udp drop".to_owned()],
            Self::All => vec!["drop".to_owned()],
            // Not `tcp dport != … tcp sport != … drop`: nft 1.0.6 makes one comparison of the two.
            Self::AllBut(port) => vec![
                format!("tcp dport {port} accept"),
                format!("tcp sport {port} accept"),
                "drop".to_owned(),
            ],
            Self::Longer(most) => vec![format!("meta length > {most} drop")],
        };
        let [a, b] = sides;
        let mut rules = String::new();
        for ((leg, _), (_, to)) in [(a, b), (b, a)] {
            for verdict in &verdicts {
                rules += &format!("iifname \"{leg}\" ip daddr {to} {verdict}\n");
            }
        }
        core.nft(&format!(
            "table ip cut\ndelete table ip cut\ntable ip cut {{\nchain forward {{\n\
             type filter hook forward priority 0\n{rules}}}\n}}\n"
        ))
    }
}
