//! Pages of other origins (§5.7): whom the owner lets call devices from a page of its own, by the
//! Fetch standard's CORS protocol. What the owner, devices and beacons ask is open to no other page.

use crate::routes::{self, Match, Operation};

/// Seconds for which a browser need not ask again.
const MAX_AGE: &str = "86400";

/// A page that may read the answer to its request.
#[derive(Debug, PartialEq, Eq)]
pub struct AllowedPage {
    origin: String,
}

impl AllowedPage {
    /// The page with this `Origin` header, if the variable `ALLOWED_ORIGINS` (origins separated by
    /// commas, or `*`) has it, and if the path and method are a caller's. For a preflight, `method`
    /// is the one that it announces.
    pub fn find(origin: Option<&str>, allowed: &str, method: &str, path: &str) -> Option<Self> {
        let origin = origin.filter(|origin| !origin.is_empty())?;
        let is_listed = allowed
            .split(',')
            .map(|listed| listed.trim().trim_end_matches('/'))
            .any(|listed| listed == "*" || listed.eq_ignore_ascii_case(origin));
        let Match::Route(route, _) = routes::find(method, path) else {
            return None;
        };
        (is_listed && is_callers(route.operation)).then(|| Self {
            origin: origin.to_owned(),
        })
    }

    /// What lets the page read the answer.
    pub fn headers(&self) -> [(&'static str, &str); 2] {
        [
            ("access-control-allow-origin", &self.origin),
            ("access-control-expose-headers", "retry-after"),
        ]
    }

    /// What lets the browser send the request itself after its preflight.
    pub fn preflight_headers(&self) -> [(&'static str, &str); 3] {
        [
            ("access-control-allow-methods", "GET, HEAD, POST"),
            ("access-control-allow-headers", "content-type"),
            ("access-control-max-age", MAX_AGE),
        ]
    }
}

fn is_callers(operation: Operation) -> bool {
    matches!(
        operation,
        Operation::Registry
            | Operation::OpenApi
            | Operation::Alias
            | Operation::Device
            | Operation::Request
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "https://app.example";

    #[test]
    fn listed_pages_may_do_what_callers_do() {
        for allowed in [
            "https://app.example",
            "https://other.example, HTTPS://App.example/",
            "*",
        ] {
            for (method, path) in [
                ("GET", "/v1/registry"),
                ("GET", "/v1/aliases/nas"),
                ("GET", "/v1/devices/rb1x"),
                ("POST", "/v1/devices/rb1x/requests"),
            ] {
                let page = AllowedPage::find(Some(PAGE), allowed, method, path).unwrap();
                assert_eq!(page.headers()[0].1, PAGE);
            }
        }
    }

    #[test]
    fn others_and_other_routes_are_not_opened() {
        fn find(origin: Option<&str>, allowed: &str, method: &str, path: &str) -> bool {
            AllowedPage::find(origin, allowed, method, path).is_some()
        }
        for (origin, allowed) in [
            (None, "*"),
            (Some(""), ","),
            (Some(PAGE), ""),
            (Some(PAGE), "https://app.example.evil"),
            (Some("https://app.example.evil"), "https://app.example"),
            (Some("http://app.example"), "https://app.example"),
            (Some("null"), "https://app.example"),
        ] {
            assert!(!find(origin, allowed, "GET", "/v1/registry"), "{origin:?}");
        }
        for route in routes::ROUTES {
            let path = route.path.replace("{id}", "x").replace("{name}", "x");
            let is_open = find(Some(PAGE), "*", route.method, &path);
            assert!(!(is_open && route.owner), "{}", route.path);
        }
        for (method, path) in [
            ("GET", "/v1/devices"),
            ("GET", "/v1/devices/rb1x/requests"),
            ("POST", "/v1/devices/rb1x/answers"),
            ("POST", "/v1/enrollments"),
            ("PUT", "/v1/policy"),
            ("GET", "/v1/nothing"),
        ] {
            assert!(!find(Some(PAGE), "*", method, path), "{method} {path}");
        }
    }
}
