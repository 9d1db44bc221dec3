//! `config.toml`: what `up` has been told and `expose` has named. Edited in place, so that a
//! person's comments stay.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::PathBuf;

use anyhow::{Result, bail};
use serde::Deserialize;
use toml_edit::{DocumentMut, InlineTable, Item, Table, value};

use crate::failure::{Exit, Failure};
use crate::profile::{Profile, write_atomically};
use crate::service::Service;

/// Seconds between two keepalives to the STUN server.
pub(crate) const KEEPALIVE_S: u16 = 25;

/// Everything that the file may hold.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// The registry's origin.
    pub(crate) registry: Option<String>,
    /// PEM file of the CAs to trust for the registry instead of the system's.
    pub(crate) registry_ca: Option<PathBuf>,
    /// The fixed UDP port; absent or 0: any.
    pub(crate) port: Option<u16>,
    /// STUN servers, `host:port`; absent: the registry's.
    pub(crate) stun: Option<Vec<String>>,
    /// Seconds between two keepalives, 1 to 120.
    pub(crate) keepalive_s: Option<u16>,
    /// Ask the router to forward this agent's ports; absent: yes.
    pub(crate) port_mapping: Option<bool>,
    /// Seconds of lease to ask the router for at most, 2 to 86400; absent: 3600 (UPnP), 7200.
    pub(crate) port_mapping_lease_s: Option<u32>,
    /// Answer requests from the LAN, and look for devices there; absent: yes.
    pub(crate) lan: Option<bool>,
    /// Links of this device may use a relay; absent: yes.
    pub(crate) relay: Option<bool>,
    #[serde(default)]
    pub(crate) services: BTreeMap<String, Service>,
}

impl Config {
    pub(crate) fn load(profile: &Profile) -> Result<Self> {
        let path = profile.config_file();
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => bail!(Failure::new(
                Exit::Usage,
                format!("can not read {}: {error}", path.display())
            )),
        };
        let config: Self = toml_edit::de::from_str(&text).map_err(|error| {
            let line = error.span().map(|span| {
                text.bytes()
                    .take(span.start)
                    .filter(|byte| *byte == b'\n')
                    .count()
                    + 1
            });
            let at = line.map_or(String::new(), |line| format!(", line {line}"));
            Failure::new(
                Exit::Usage,
                format!("{}{at}: {}", path.display(), error.message().trim()),
            )
        })?;
        if let Some(seconds) = config.keepalive_s
            && !(1..=120).contains(&seconds)
        {
            bail!(Failure::new(
                Exit::Usage,
                format!("{}: keepalive_s is 1 to 120", path.display())
            ));
        }
        if let Some(seconds) = config.port_mapping_lease_s
            && !(2..=86_400).contains(&seconds)
        {
            bail!(Failure::new(
                Exit::Usage,
                format!("{}: port_mapping_lease_s is 2 to 86400", path.display())
            ));
        }
        for name in config.services.keys() {
            ringback_protocol::name::check(name).map_err(|error| {
                Failure::new(
                    Exit::Usage,
                    format!("{}: service '{name}': {error}", path.display()),
                )
            })?;
        }
        Ok(config)
    }

    /// Changes the file, keeping what is not touched as it is.
    pub(crate) fn edit(profile: &Profile, change: impl FnOnce(&mut DocumentMut)) -> Result<()> {
        // Says so if the file is not valid, before anything is changed.
        Self::load(profile)?;
        let path = profile.config_file();
        let text = fs::read_to_string(&path).or_else(|error| match error.kind() {
            io::ErrorKind::NotFound => Ok(String::new()),
            _ => Err(error),
        })?;
        let mut document: DocumentMut = text.parse()?;
        change(&mut document);
        let changed = document.to_string();
        if changed == text {
            Ok(())
        } else {
            write_atomically(&path, changed.as_bytes())
        }
    }

    /// Names a service; replaces one of the same name.
    pub(crate) fn expose(profile: &Profile, name: &str, service: &Service) -> Result<()> {
        Self::edit(profile, |document| {
            let services = document
                .entry("services")
                .or_insert(Item::Table(Table::new()));
            services[name] = match service {
                Service::Files(folder) if folder.writable => {
                    let mut table = InlineTable::new();
                    table.insert("files", folder.path.to_string_lossy().as_ref().into());
                    table.insert("writable", true.into());
                    let quotas = [
                        ("quota", folder.quota),
                        ("caller_quota", folder.caller_quota),
                    ];
                    for (name, quota) in quotas {
                        if let Some(quota) = quota {
                            table.insert(name, String::from(quota).into());
                        }
                    }
                    value(table)
                }
                service => value(service.to_string()),
            };
        })
    }

    /// Removes a service; false if there was none of this name.
    pub(crate) fn unexpose(profile: &Profile, name: &str) -> Result<bool> {
        let mut found = false;
        Self::edit(profile, |document| {
            if let Some(services) = document
                .get_mut("services")
                .and_then(Item::as_table_like_mut)
            {
                found = services.remove(name).is_some();
            }
        })?;
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::{Folder, Size};

    fn profile(text: &str) -> (tempfile::TempDir, Profile) {
        let dir = tempfile::tempdir().unwrap();
        let profile = Profile::open(Some(dir.path())).unwrap();
        fs::write(profile.config_file(), text).unwrap();
        (dir, profile)
    }

    fn text(profile: &Profile) -> String {
        fs::read_to_string(profile.config_file()).unwrap()
    }

    const BY_HAND: &str = "# The office.\nport = 4000   # mapped by hand\n\n[services]\n# the printer\nprint = \"192.168.1.9:631\"\n";

    #[test]
    fn an_edit_keeps_what_a_person_wrote() {
        let (_dir, profile) = profile(BY_HAND);
        let ssh = "127.0.0.1:22".parse().unwrap();
        Config::expose(&profile, "ssh", &ssh).unwrap();
        assert_eq!(text(&profile), format!("{BY_HAND}ssh = \"127.0.0.1:22\"\n"));
        assert_eq!(Config::load(&profile).unwrap().services["ssh"], ssh);
        assert!(Config::unexpose(&profile, "ssh").unwrap());
        assert_eq!(text(&profile), BY_HAND);
        assert!(!Config::unexpose(&profile, "ssh").unwrap());
    }

    #[test]
    fn every_kind_of_service_comes_back_as_it_was_exposed() {
        let (_dir, profile) = profile(BY_HAND);
        let folder = Folder::new("/srv/our \"docs\"", true).unwrap();
        let services: Vec<(&str, Service)> = vec![
            ("docs", Service::Files(folder.clone())),
            (
                "inbox",
                Service::Files(Folder {
                    quota: Some(Size(10 << 30)),
                    caller_quota: Some(Size(1_234_567)),
                    ..folder
                }),
            ),
            ("music", "files:/srv/music".parse().unwrap()),
            ("shell", Service::Shell),
            ("dial", Service::Dial),
            ("nas", "https://nas.local:8443".parse().unwrap()),
        ];
        for (name, service) in &services {
            Config::expose(&profile, name, service).unwrap();
        }
        let loaded = Config::load(&profile).unwrap().services;
        for (name, service) in &services {
            assert_eq!(loaded[*name], *service);
        }
        let docs = "docs = { files = '/srv/our \"docs\"', writable = true }\n";
        assert!(text(&profile).contains(docs), "{}", text(&profile));
        for (name, _) in &services {
            assert!(Config::unexpose(&profile, name).unwrap());
        }
        assert_eq!(text(&profile), BY_HAND);
    }

    #[test]
    fn an_edit_that_changes_nothing_writes_nothing() {
        let (dir, profile) = profile(BY_HAND);
        let before = fs::metadata(profile.config_file()).unwrap();
        Config::edit(&profile, |_| {}).unwrap();
        let after = fs::metadata(profile.config_file()).unwrap();
        use std::os::unix::fs::MetadataExt as _;
        assert_eq!(before.ino(), after.ino());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_wrong_file_is_named_by_line_and_not_edited() {
        for (wrong, line) in [
            ("colour = 1\n", 1),
            ("\n\ncolour = 1\n", 3),
            ("port = 1\nport = 2\n", 2),
            ("[services]\n\nssh = \"22\"\n", 3),
        ] {
            let (_dir, profile) = profile(wrong);
            let error = Config::edit(&profile, |_| panic!("it is not valid")).unwrap_err();
            assert!(
                error.to_string().contains(&format!(", line {line}: ")),
                "{error}"
            );
            assert_eq!(Failure::exit_code(&error), Exit::Usage as u8);
            assert_eq!(text(&profile), wrong);
        }
    }
}
