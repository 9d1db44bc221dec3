//! A web page of a device's network as its own network knows it: what of its requests and answers is
//! translated on the way.

/// The address of a site.
#[derive(Clone, Debug, Default)]
pub struct Site {
    /// `http://host:port`, as the device names it.
    target: String,
    /// The same as browsers name it, without the scheme's own port. Empty: not known.
    origin: String,
}

impl Site {
    /// By the address that the device gives.
    pub fn new(target: &str) -> Self {
        let target = target.trim_end_matches('/');
        let port = match target.split_once("://") {
            Some(("http", _)) => ":80",
            Some(("https", _)) => ":443",
            _ => return Self::default(),
        };
        Self {
            target: target.to_owned(),
            origin: target.strip_suffix(port).unwrap_or(target).to_owned(),
        }
    }

    /// `Origin` and `Referer` of a request that a document of the site makes, as if it were open at
    /// the site's own address. `referrer` is path and query of the document, empty where it does not
    /// say.
    pub fn origin_and_referer(
        &self,
        method: &str,
        referrer: &str,
    ) -> impl Iterator<Item = (&'static str, String)> {
        let known = !self.origin.is_empty();
        let origin =
            (known && !matches!(method, "GET" | "HEAD")).then(|| ("origin", self.origin.clone()));
        let referer = (known && referrer.starts_with('/'))
            .then(|| ("referer", format!("{}{referrer}", self.origin)));
        origin.into_iter().chain(referer)
    }

    /// A redirect to the site's own host stays on the bridge.
    pub fn local(&self, location: &str) -> String {
        let rest = [&self.target, &self.origin]
            .into_iter()
            .filter(|address| !address.is_empty())
            .find_map(|address| location.strip_prefix(address.as_str()));
        match rest {
            Some("") => "/".into(),
            Some(rest) if rest.starts_with('/') => rest.into(),
            Some(rest) if rest.starts_with('?') => format!("/{rest}"),
            _ => location.into(),
        }
    }
}

/// Request headers that belong to this browser's hop, or name this origin.
pub fn goes_out(name: &str) -> bool {
    !matches!(
        name.to_ascii_lowercase().as_str(),
        "host"
            | "origin"
            | "referer"
            | "cookie"
            | "accept-encoding"
            | "content-length"
            | "user-agent"
    ) && !name.to_ascii_lowercase().starts_with("sec-")
}

/// Response headers that would keep the page from being framed, or speak for the whole origin.
pub fn comes_in(name: &str) -> bool {
    !matches!(
        name,
        "x-frame-options"
            | "strict-transport-security"
            | "clear-site-data"
            | "service-worker-allowed"
            | "alt-svc"
            | "public-key-pins"
            | "cross-origin-opener-policy"
            | "cross-origin-embedder-policy"
            | "cross-origin-resource-policy"
            | "referrer-policy"
    )
}

/// A policy without its word on who may frame the page: that is the registry's page.
pub fn without_ancestors(policy: &str) -> String {
    policy
        .split(';')
        .filter(|directive| {
            !directive
                .trim_start()
                .to_ascii_lowercase()
                .starts_with("frame-ancestors")
        })
        .collect::<Vec<_>>()
        .join(";")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_of_the_page_name_the_site_itself() {
        let site = Site::new("http://192.168.1.5:80/");
        let named = |method, referrer| {
            let named = site.origin_and_referer(method, referrer);
            named
                .map(|(name, value)| format!("{name}: {value}"))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            named("POST", "/login?next=/"),
            [
                "origin: http://192.168.1.5",
                "referer: http://192.168.1.5/login?next=/"
            ]
        );
        assert_eq!(named("GET", "/"), ["referer: http://192.168.1.5/"]);
        assert_eq!(named("DELETE", ""), ["origin: http://192.168.1.5"]);
        assert!(named("GET", "").is_empty());
        let https = Site::new("https://nas.local:8443");
        let origin = https.origin_and_referer("POST", "").next();
        assert_eq!(origin, Some(("origin", "https://nas.local:8443".into())));
        assert_eq!(Site::new("").origin_and_referer("POST", "/").count(), 0);
    }

    #[test]
    fn redirects_to_the_site_stay_on_the_bridge() {
        let site = Site::new("http://192.168.1.5:80");
        for (location, stays) in [
            ("http://192.168.1.5:80/a", "/a"),
            ("http://192.168.1.5/a?b", "/a?b"),
            ("http://192.168.1.5", "/"),
            ("http://192.168.1.5?x", "/?x"),
            ("http://192.168.1.50/a", "http://192.168.1.50/a"),
            ("http://192.168.1.5:8080/", "http://192.168.1.5:8080/"),
            ("/b", "/b"),
        ] {
            assert_eq!(site.local(location), stays, "{location}");
        }
        assert_eq!(Site::new("").local("/x"), "/x");
    }
}
