//! What an interface has carried.

use std::ops::Sub;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

/// Bytes (Ethernet headers included) and packets that an interface has received and sent. With
/// segmentation offload a packet may be a large one that no real wire would carry whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counter {
    /// Bytes received.
    pub rx_bytes: u64,
    /// Packets received.
    pub rx_packets: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets sent.
    pub tx_packets: u64,
}

impl Counter {
    /// Bytes in both directions.
    pub fn bytes(&self) -> u64 {
        self.rx_bytes + self.tx_bytes
    }

    /// Reads what `ip -s -j link show` prints for one interface.
    pub(super) fn parse(json: &[u8]) -> Result<Self> {
        let links: serde_json::Value = serde_json::from_slice(json)?;
        let field = |direction: &str, name: &str| {
            links[0]["stats64"][direction][name]
                .as_u64()
                .with_context(|| format!("ip shows no {direction} {name}"))
        };
        Ok(Self {
            rx_bytes: field("rx", "bytes")?,
            rx_packets: field("rx", "packets")?,
            tx_bytes: field("tx", "bytes")?,
            tx_packets: field("tx", "packets")?,
        })
    }
}

impl Sub for Counter {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            rx_bytes: self.rx_bytes - earlier.rx_bytes,
            rx_packets: self.rx_packets - earlier.rx_packets,
            tx_bytes: self.tx_bytes - earlier.tx_bytes,
            tx_packets: self.tx_packets - earlier.tx_packets,
        }
    }
}
