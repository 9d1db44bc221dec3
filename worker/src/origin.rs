//! The origin that a client dials (RFC 6454), which devices sign (§6.1).

/// ASCII origin of an absolute URL: scheme and host in lower case, the port unless it is the
/// scheme's own. `None` if `url` is not `http` or `https` with a host.
pub fn of_url(url: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    let scheme = scheme.to_ascii_lowercase();
    let default_port = match scheme.as_str() {
        "http" => ":80",
        "https" => ":443",
        _ => return None,
    };
    let authority = rest.split(['/', '?', '#']).next()?;
    let host = authority
        .rsplit_once('@')
        .map_or(authority, |(_, host)| host)
        .to_ascii_lowercase();
    let host = host
        .strip_suffix(default_port)
        .or(host.strip_suffix(':'))
        .unwrap_or(&host);
    (!host.is_empty()).then(|| format!("{scheme}://{host}"))
}

/// Is this connection protected, or does it never leave the machine? TLS is required except to
/// loopback (§5).
pub fn is_protected(origin: &str) -> bool {
    let Some(host) = origin.strip_prefix("http://") else {
        return true;
    };
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name == "localhost"
        || name.ends_with(".localhost")
        || name
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_what_a_client_dials() {
        for (url, origin) in [
            (
                "https://registry.example/v1/registry",
                "https://registry.example",
            ),
            ("https://registry.example:443/", "https://registry.example"),
            (
                "https://registry.example:8443?x",
                "https://registry.example:8443",
            ),
            ("http://LocalHost:80/v1", "http://localhost"),
            ("HTTP://127.0.0.1:8787/v1", "http://127.0.0.1:8787"),
            ("http://[::1]:8787/", "http://[::1]:8787"),
            (
                "https://user:pass@registry.example/",
                "https://registry.example",
            ),
            ("https://registry.example:/", "https://registry.example"),
        ] {
            assert_eq!(of_url(url).as_deref(), Some(origin), "{url}");
        }
        for url in [
            "",
            "registry.example",
            "ftp://registry.example/",
            "https:///v1",
            "http://:80/",
        ] {
            assert_eq!(of_url(url), None, "{url}");
        }
    }

    #[test]
    fn plain_http_is_for_loopback() {
        for origin in [
            "https://a",
            "http://localhost:1",
            "http://127.9.9.9",
            "http://[::1]:80",
            "http://a.localhost",
        ] {
            assert!(is_protected(origin), "{origin}");
        }
        for origin in [
            "http://registry.example",
            "http://130.74.23.6:8787",
            "http://[2001:db8::1]",
            "http://127.0.0.1.example",
        ] {
            assert!(!is_protected(origin), "{origin}");
        }
    }
}
