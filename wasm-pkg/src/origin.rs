//! Addresses that people give: a registry's origin, and links to devices.

use ringback_protocol::PeerId;

use crate::CallError;
use crate::error::{BAD_ID, REGISTRY_UNREACHABLE};

/// The origin in an address of a registry, as `https://registry.example`: what stands behind the host
/// is left out. Plain http is for this machine only.
pub(crate) fn parse(address: &str) -> Result<String, CallError> {
    let bad = |why: &str| {
        let message = format!("{address} is no address of a registry: {why}");
        CallError::new(REGISTRY_UNREACHABLE, message)
    };
    let (scheme, rest) = address
        .trim()
        .split_once("://")
        .ok_or_else(|| bad("it starts with https://"))?;
    let scheme = scheme.to_ascii_lowercase();
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = host.to_ascii_lowercase();
    let default_port = if scheme == "https" { ":443" } else { ":80" };
    let host = host.strip_suffix(default_port).unwrap_or(&host);
    let sane = |byte: u8| byte.is_ascii_alphanumeric() || b"-.:[]_".contains(&byte);
    if host.is_empty() || !host.bytes().all(sane) {
        return Err(bad("there is no host name in it"));
    }
    match scheme.as_str() {
        "https" => {}
        "http" if is_this_machine(host) => {}
        "http" => return Err(bad("a registry is reached by https")),
        _ => return Err(bad("it starts with https://")),
    }
    Ok(format!("{scheme}://{host}"))
}

fn is_this_machine(host: &str) -> bool {
    if host == "[::1]" || host.starts_with("[::1]:") {
        return true;
    }
    let name = host.split(':').next().unwrap_or_default();
    name == "localhost"
        || name.ends_with(".localhost")
        || name
            .parse::<std::net::Ipv4Addr>()
            .is_ok_and(|address| address.is_loopback())
}

/// A link to a device: `https://REGISTRY/d/rb1…`, and behind `#p=` its password, which a browser sends
/// to nobody.
#[derive(Clone, PartialEq, Eq)]
pub struct DeviceLink {
    /// The registry's origin.
    pub registry: String,
    pub device: PeerId,
    pub password: Option<String>,
}

impl DeviceLink {
    pub fn parse(link: &str) -> Result<Self, CallError> {
        let registry = parse(link)?;
        let bad = || CallError::new(BAD_ID, "this is no link to a device");
        let (address, secrets) = link.trim().split_once('#').unwrap_or((link.trim(), ""));
        let (_, device) = address.split_once("/d/").ok_or_else(bad)?;
        let device = device.split(['/', '?']).next().unwrap_or_default();
        let device = device
            .parse::<PeerId>()
            .map_err(|error| CallError::new(BAD_ID, error.to_string()))?;
        let password = secrets
            .split('&')
            .find_map(|part| part.strip_prefix("p="))
            .map(|text| decode(text).ok_or_else(bad))
            .transpose()?
            .filter(|password| !password.is_empty());
        Ok(Self {
            registry,
            device,
            password,
        })
    }
}

impl std::fmt::Display for DeviceLink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/d/{}", self.registry, self.device)?;
        match &self.password {
            Some(password) => write!(f, "#p={}", encode(password)),
            None => Ok(()),
        }
    }
}

impl std::fmt::Debug for DeviceLink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DeviceLink({}, {:?})", self.registry, self.device)
    }
}

/// Percent-encoding (RFC 3986) of all but unreserved characters.
fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            use std::fmt::Write as _;
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

/// `None` for what is not percent-encoded UTF-8.
fn decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let mut digit = || char::from(bytes.next()?).to_digit(16);
        let value = digit()? * 16 + digit()?;
        out.push(u8::try_from(value).ok()?);
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "rb1uukz3ln33carpt7ywsud5aua2zxjmt26ye06l660xalp64lmpxxqj3hstk";

    #[test]
    fn an_origin_is_taken_from_what_people_paste() {
        for (given, origin) in [
            ("https://registry.example", "https://registry.example"),
            ("https://Registry.Example/", "https://registry.example"),
            (" HTTPS://r.example:8443/d/x?y#z ", "https://r.example:8443"),
            ("https://registry.example:443/", "https://registry.example"),
            ("http://localhost:8787", "http://localhost:8787"),
            ("http://localhost:80", "http://localhost"),
            ("http://127.0.0.1:1/x", "http://127.0.0.1:1"),
            ("http://[::1]:99", "http://[::1]:99"),
            ("http://a.lan.localhost:5", "http://a.lan.localhost:5"),
        ] {
            assert_eq!(parse(given).as_deref(), Ok(origin));
        }
    }

    #[test]
    fn other_addresses_are_refused() {
        for given in [
            "",
            "registry.example",
            "ftp://registry.example",
            "javascript://x",
            "https://",
            "https:///path",
            "https://user@registry.example",
            "https://a b",
            "http://registry.example",
            "http://localhost.example",
            "http://127.0.0.1.example",
            "http://[::1].example",
        ] {
            assert!(parse(given).is_err(), "{given}");
        }
    }

    #[test]
    fn a_device_link_goes_both_ways() {
        let link = DeviceLink {
            registry: "https://registry.example".into(),
            device: ID.parse().unwrap(),
            password: Some("käse & 100% #1".into()),
        };
        let text = link.to_string();
        assert!(text.is_ascii() && text.matches('#').count() == 1, "{text}");
        assert_eq!(DeviceLink::parse(&text).unwrap(), link);
        assert!(!format!("{link:?}").contains("käse"));

        let plain = format!("https://registry.example/d/{ID}");
        let parsed = DeviceLink::parse(&plain).unwrap();
        assert_eq!(
            (parsed.password.as_deref(), parsed.to_string()),
            (None, plain)
        );
    }

    #[test]
    fn other_links_are_refused() {
        for link in [
            "https://registry.example/".to_owned(),
            format!("https://registry.example/x/{ID}"),
            format!("https://registry.example/d/{}", &ID[..60]),
            format!("https://registry.example/d/{ID}#p=%f"),
            format!("https://registry.example/d/{ID}#p=%ff"),
            format!("https://registry.example/d/{ID}#p=%zz"),
        ] {
            assert!(DeviceLink::parse(&link).is_err(), "{link}");
        }
    }
}
