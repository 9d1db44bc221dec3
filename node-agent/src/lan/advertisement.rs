//! The device's name on the LAN, for as long as its agent runs.

use anyhow::{Context as _, Result};
use mdns_sd::{ServiceDaemon, ServiceInfo};
use ringback_protocol::{PeerId, lan};

/// Dropping it says goodbye to the LAN.
pub(crate) struct Advertisement {
    daemon: ServiceDaemon,
    name: String,
}

impl Advertisement {
    /// Advertises `device` with the TCP port on which it takes requests, on all interfaces, also those
    /// that come later.
    pub(crate) fn start(device: &PeerId, port: u16) -> Result<Self> {
        let daemon = ServiceDaemon::new().context("mDNS does not start")?;
        let instance = lan::instance(device);
        let host = format!("{instance}.local.");
        let txt = [("v", "1")];
        let service = ServiceInfo::new(lan::SERVICE_TYPE, &instance, &host, "", port, &txt[..])?
            .enable_addr_auto();
        let name = service.get_fullname().to_owned();
        daemon.register(service)?;
        Ok(Self { daemon, name })
    }
}

impl Drop for Advertisement {
    fn drop(&mut self) {
        // Without an answer nothing is lost: the entry ends by itself.
        let _ = self.daemon.unregister(&self.name);
        let _ = self.daemon.shutdown();
    }
}
