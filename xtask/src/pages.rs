//! Static pages: which files, and the headers they are served with.
//!
//! The platform reads the headers from a file `_headers` beside the pages; the local server is told
//! them directly. Both come from here, because two of them depend on where the registry and its LAN
//! origin are deployed.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use crate::{place, wrangler::Assets};

/// The directory of some pages, and how they are served.
#[derive(Clone, Debug)]
pub struct Pages {
    pub directory: PathBuf,
    pub assets: Assets,
    /// For paths that match (a `*` at the end matches everything): headers.
    pub headers: Vec<(&'static str, Vec<(&'static str, String)>)>,
    /// Paths that match are served as another path, without the visitor noticing.
    pub rewrites: &'static [(&'static str, &'static str)],
}

/// Device links and the page's screens are all the same page, which reads the path.
const SCREENS: &[(&str, &str)] = &[
    ("/d/*", "/"),
    ("/sign-in", "/"),
    ("/contacts", "/"),
    ("/settings", "/"),
];

/// Names in this folder have a hash of their content: they never change.
const HASHED: &str = "/assets/*";

/// What the page may use of a device's sensors and the like: nothing.
const PERMISSIONS: &str = "accelerometer=(), autoplay=(), camera=(), display-capture=(), \
     geolocation=(), gyroscope=(), magnetometer=(), microphone=(), midi=(), payment=(), usb=(), \
     xr-spatial-tracking=()";

impl Pages {
    /// The registry's page, which may frame pages of its LAN origin
    /// (`https://*.lan.example.org`), if it has one.
    pub fn registry(assets: Assets, lan_origin: Option<&str>) -> Result<Self> {
        let frames = source(lan_origin.unwrap_or("'none'"))?;
        let policy = format!(
            "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; \
             img-src 'self' blob: data:; connect-src 'self'; worker-src 'self'; \
             manifest-src 'self'; frame-src {frames}; base-uri 'none'; form-action 'none'; \
             frame-ancestors 'none'"
        );
        let mut headers = safe(policy);
        headers.extend([
            ("Cross-Origin-Opener-Policy", "same-origin".to_owned()),
            ("Permissions-Policy", PERMISSIONS.to_owned()),
        ]);
        Ok(Self {
            directory: place::page(),
            assets,
            headers: vec![
                ("/*", headers),
                (
                    HASHED,
                    vec![(
                        "Cache-Control",
                        "public, max-age=31536000, immutable".to_owned(),
                    )],
                ),
            ],
            rewrites: SCREENS,
        })
    }

    /// The pages of the LAN origin, which only the registry's page at `registry`
    /// (`https://registry.example.org`; several are separated by spaces) may frame.
    pub fn lan(assets: Assets, registry: &str) -> Result<Self> {
        for origin in registry.split_whitespace() {
            source(origin)?;
        }
        let policy = format!(
            "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
             worker-src 'self'; frame-src 'self'; base-uri 'none'; form-action 'none'; \
             frame-ancestors {registry}"
        );
        // The service worker answers for the whole origin, from a folder of its own.
        let worker = vec![("Service-Worker-Allowed", "/".to_owned())];
        // Asked for where one site takes a shared origin over from another. The pages' own script
        // clears the rest; cookies of other paths it does not see.
        let cleared = vec![("Clear-Site-Data", "\"cookies\"".to_owned())];
        Ok(Self {
            directory: place::lan_pages(),
            assets,
            headers: vec![
                ("/*", safe(policy)),
                ("/.ringback/sw.js", worker),
                ("/.ringback/clear.txt", cleared),
            ],
            rewrites: &[],
        })
    }

    /// Writes `_headers` and `_redirects` for the platform beside the pages.
    pub fn write(&self) -> Result<()> {
        let mut headers = String::new();
        for (path, list) in &self.headers {
            let _ = writeln!(headers, "{path}");
            for (name, value) in list {
                let _ = writeln!(headers, "  {name}: {value}");
            }
        }
        let mut redirects = String::new();
        for (from, to) in self.rewrites {
            let _ = writeln!(redirects, "{from} {to} 200");
        }
        fs::create_dir_all(&self.directory)
            .with_context(|| format!("creating {}", self.directory.display()))?;
        write(&self.directory.join("_headers"), &headers)?;
        write(&self.directory.join("_redirects"), &redirects)
    }
}

/// Writes a file if it says something else; a file that says nothing is none.
fn write(path: &Path, text: &str) -> Result<()> {
    if text.is_empty() {
        let _ = fs::remove_file(path);
        return Ok(());
    }
    if fs::read_to_string(path).is_ok_and(|there| there == text) {
        return Ok(());
    }
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

fn safe(policy: String) -> Vec<(&'static str, String)> {
    vec![
        ("Content-Security-Policy", policy),
        ("Cross-Origin-Resource-Policy", "same-origin".to_owned()),
        ("Referrer-Policy", "no-referrer".to_owned()),
        ("Strict-Transport-Security", "max-age=31536000".to_owned()),
        ("X-Content-Type-Options", "nosniff".to_owned()),
    ]
}

/// An origin as it stands in a policy: nothing in it may end the directive.
fn source(origin: &str) -> Result<&str> {
    let is_plain = |ch: char| ch.is_ascii_alphanumeric() || ".-:/*[]".contains(ch);
    let scheme = ["https://", "http://"]
        .iter()
        .find_map(|scheme| origin.strip_prefix(scheme));
    match scheme {
        _ if origin == "'none'" => Ok(origin),
        Some(host) if !host.is_empty() && !host.contains('/') && host.chars().all(is_plain) => {
            Ok(origin)
        }
        _ => bail!("{origin} is no origin such as https://lan.example.org"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_frames_its_lan_origin_only() {
        let of = |origin| {
            let pages = Pages::registry(Assets::default(), origin).unwrap();
            pages.headers[0].1[0].1.clone()
        };
        assert!(of(None).contains("frame-src 'none';"), "{}", of(None));
        let policy = of(Some("https://*.lan.example.org"));
        assert!(
            policy.contains("frame-src https://*.lan.example.org;"),
            "{policy}"
        );
        assert!(policy.contains("script-src 'self' 'wasm-unsafe-eval';"));
        assert!(!policy.contains("unsafe-inline") && !policy.contains("'unsafe-eval'"));
    }

    #[test]
    fn no_origin_writes_a_policy_of_its_own() {
        for origin in [
            "https://a; script-src *",
            "https://a b",
            "*",
            "https://",
            "javascript:x",
            "https://a/b",
            "https://a\nX: y",
        ] {
            Pages::registry(Assets::default(), Some(origin)).unwrap_err();
        }
        Pages::lan(Assets::default(), "http://127.0.0.1:* http://localhost:*").unwrap();
        Pages::lan(Assets::default(), "https://a 'unsafe-inline'").unwrap_err();
    }
}
