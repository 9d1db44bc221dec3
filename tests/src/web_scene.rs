//! What most tests of a link in the lab begin with: a device that exposes a file server as `web`, its
//! registry, and a caller.

use std::net::Ipv4Addr;

use anyhow::Result;

use crate::{
    lab::{Lab, coturn::Coturn, file_server::FileServer, registry::Registry},
    profile::Profile,
};

/// All is ready; the device's agent is still to be started.
#[derive(Debug)]
pub struct WebScene<'a> {
    _coturn: Coturn,
    _files: FileServer,
    /// The lab's registry.
    pub registry: Registry,
    /// On the device's host, named `nas`.
    pub device: Profile<'a>,
    /// On the caller's host, named `laptop`.
    pub caller: Profile<'a>,
}

impl<'a> WebScene<'a> {
    /// On a lab of two sites.
    pub fn set(lab: &'a Lab) -> Result<Self> {
        let coturn = Coturn::start(lab)?;
        let registry = Registry::start(lab)?;
        let files = FileServer::start(lab.device().host(), (Ipv4Addr::LOCALHOST, 80))?;
        let device = Profile::new(lab, &registry, lab.device().host(), "nas");
        device.expose(&[("web", "http://127.0.0.1")])?;
        let caller = Profile::new(lab, &registry, lab.caller().host(), "laptop");
        Ok(Self {
            _coturn: coturn,
            _files: files,
            registry,
            device,
            caller,
        })
    }
}
