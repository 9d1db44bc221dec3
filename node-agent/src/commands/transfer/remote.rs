//! A file or folder of a device, as a person writes it.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

use anyhow::{Result, bail};

use crate::failure::{Exit, Failure};

/// `DEVICE:SERVICE/PATH`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Remote {
    pub(super) device: String,
    pub(super) service: String,
    /// Empty: the exposed folder. Names are bytes.
    pub(super) path: Vec<u8>,
    /// Written with a `/` at the end: a folder.
    pub(super) is_folder: bool,
}

impl Remote {
    pub(super) fn parse(given: &OsStr) -> Result<Self> {
        let bad = || {
            Failure::new(
                Exit::Usage,
                format!(
                    "'{}' is not DEVICE:PATH, as nas:docs/letters/may.pdf is, where docs is the service",
                    given.display()
                ),
            )
        };
        let (device, path) = split_once(given.as_bytes(), b':').ok_or_else(bad)?;
        let slashes = path.iter().take_while(|byte| **byte == b'/').count();
        let path = &path[slashes..];
        let (service, path) = split_once(path, b'/').unwrap_or((path, b""));
        let text = |bytes: &[u8]| str::from_utf8(bytes).map(str::to_owned).map_err(|_| bad());
        let (device, service) = (text(device)?, text(service)?);
        ringback_protocol::name::check(&service).map_err(|_| bad())?;
        if device.is_empty() {
            bail!(bad());
        }
        let slashes = path.iter().rev().take_while(|byte| **byte == b'/').count();
        let trimmed = &path[..path.len() - slashes];
        Ok(Self {
            device,
            service,
            path: trimmed.to_owned(),
            is_folder: path.is_empty() || slashes > 0,
        })
    }

    /// A file in it.
    pub(super) fn join(&self, name: &OsStr) -> Vec<u8> {
        match self.path.is_empty() {
            true => name.as_bytes().to_owned(),
            false => [&self.path, &b"/"[..], name.as_bytes()].concat(),
        }
    }

    /// A path of this service as a person writes it.
    pub(super) fn written(&self, path: &[u8]) -> OsString {
        let service = format!("{}:{}/", self.device, self.service);
        OsString::from_vec([service.as_bytes(), path].concat())
    }
}

fn split_once(bytes: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let position = bytes.iter().position(|byte| *byte == at)?;
    Some((&bytes[..position], &bytes[position + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_part_of_a_path_is_the_service() {
        let parse = |text: &str| {
            let remote = Remote::parse(OsStr::new(text)).ok()?;
            let path = String::from_utf8(remote.path).ok()?;
            Some((remote.device, remote.service, path, remote.is_folder))
        };
        let some = |device: &str, service: &str, path: &str, is_folder| {
            Some((device.into(), service.into(), path.into(), is_folder))
        };
        assert_eq!(parse("nas:docs/a/b"), some("nas", "docs", "a/b", false));
        assert_eq!(parse("nas:/docs/a/"), some("nas", "docs", "a", true));
        assert_eq!(parse("nas:docs"), some("nas", "docs", "", true));
        for bad in ["nas", "nas:", ":docs/a", "nas:Docs/a"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
        let latin = Remote::parse(OsStr::from_bytes(b"nas:docs/caf\xe9/")).unwrap();
        assert_eq!((latin.path, latin.is_folder), (b"caf\xe9".to_vec(), true));
        Remote::parse(OsStr::from_bytes(b"nas:d\xe9/x")).unwrap_err();
    }
}
