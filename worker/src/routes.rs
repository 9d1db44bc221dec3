//! The routes of §5, in one table: the frontend dispatches by it and the OpenAPI document is
//! checked against it.

/// What a route does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Registry,
    OpenApi,
    Alias,
    Device,
    Enrol,
    Socket,
    OwnerSocket,
    Request,
    Fetch,
    Answers,
    Relay,
    NewTicket,
    NewCode,
    Devices,
    Rename,
    Revoke,
    Policy,
    SetPolicy,
    Usage,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Route {
    pub method: &'static str,
    /// At most one segment is a parameter, in braces.
    pub path: &'static str,
    pub operation: Operation,
    /// Asks for the owner secret.
    pub owner: bool,
}

const fn open(method: &'static str, path: &'static str, operation: Operation) -> Route {
    Route {
        method,
        path,
        operation,
        owner: false,
    }
}

const fn owner(method: &'static str, path: &'static str, operation: Operation) -> Route {
    Route {
        method,
        path,
        operation,
        owner: true,
    }
}

pub const ROUTES: &[Route] = &[
    open("GET", "/v1/registry", Operation::Registry),
    open("GET", "/v1/openapi.json", Operation::OpenApi),
    open("GET", "/v1/aliases/{name}", Operation::Alias),
    open("POST", "/v1/enrollments", Operation::Enrol),
    // The secret is the socket's first message: pages can not send headers with it. A ticket stands
    // in the subprotocols.
    open("GET", "/v1/devices/socket", Operation::OwnerSocket),
    open("GET", "/v1/devices/{id}", Operation::Device),
    open("GET", "/v1/devices/{id}/socket", Operation::Socket),
    open("POST", "/v1/devices/{id}/requests", Operation::Request),
    open("GET", "/v1/devices/{id}/requests", Operation::Fetch),
    open("POST", "/v1/devices/{id}/answers", Operation::Answers),
    open("GET", "/v1/relays/{room}", Operation::Relay),
    owner("POST", "/v1/tickets", Operation::NewTicket),
    owner("POST", "/v1/codes", Operation::NewCode),
    owner("GET", "/v1/devices", Operation::Devices),
    owner("PATCH", "/v1/devices/{id}", Operation::Rename),
    owner("DELETE", "/v1/devices/{id}", Operation::Revoke),
    owner("GET", "/v1/policy", Operation::Policy),
    owner("PUT", "/v1/policy", Operation::SetPolicy),
    owner("GET", "/v1/usage", Operation::Usage),
];

/// What a method and path lead to.
#[derive(Debug, PartialEq, Eq)]
pub enum Match {
    /// The route and its parameter, percent-decoded; empty if it has none.
    Route(&'static Route, String),
    /// The path exists, the method does not: the value of the `Allow` header.
    Methods(String),
    Nothing,
}

/// `HEAD` is taken as `GET`.
pub fn find(method: &str, path: &str) -> Match {
    let method = if method == "HEAD" { "GET" } else { method };
    let mut allowed = Vec::new();
    // A path that is written out is not a parameter of another.
    let is_literal = ROUTES.iter().any(|route| route.path == path);
    for route in ROUTES {
        if is_literal && route.path != path {
            continue;
        }
        let Some(parameter) = parameter(route.path, path) else {
            continue;
        };
        if route.method == method {
            return Match::Route(route, parameter);
        }
        allowed.push(route.method);
    }
    if allowed.is_empty() {
        return Match::Nothing;
    }
    if allowed.contains(&"GET") {
        allowed.push("HEAD");
    }
    allowed.push("OPTIONS");
    Match::Methods(allowed.join(", "))
}

fn parameter(pattern: &str, path: &str) -> Option<String> {
    let mut found = String::new();
    let (mut pattern, mut path) = (pattern.split('/'), path.split('/'));
    loop {
        match (pattern.next(), path.next()) {
            (None, None) => return Some(found),
            (Some(p), Some(segment)) if p.starts_with('{') && !segment.is_empty() => {
                found = percent_decoded(segment);
            }
            (Some(p), Some(segment)) if p == segment => {}
            _ => return None,
        }
    }
}

/// What is not UTF-8 after decoding is shown with replacement characters, which no ID or name has.
fn percent_decoded(segment: &str) -> String {
    let bytes = segment.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let hex = bytes
            .get(i + 1..i + 3)
            .and_then(|h| std::str::from_utf8(h).ok());
        match hex.filter(|h| bytes[i] == b'%' && h.bytes().all(|b| b.is_ascii_hexdigit())) {
            Some(hex) => {
                out.push(u8::from_str_radix(hex, 16).expect("two hexadecimal digits"));
                i += 3;
            }
            None => {
                out.push(bytes[i]);
                i += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn operation(method: &str, path: &str) -> Option<(Operation, String)> {
        match find(method, path) {
            Match::Route(route, parameter) => Some((route.operation, parameter)),
            _ => None,
        }
    }

    #[test]
    fn routes_are_found_with_their_parameter() {
        assert_eq!(
            operation("GET", "/v1/registry"),
            Some((Operation::Registry, String::new()))
        );
        assert_eq!(
            operation("HEAD", "/v1/devices"),
            Some((Operation::Devices, String::new()))
        );
        assert_eq!(
            operation("GET", "/v1/devices/socket"),
            Some((Operation::OwnerSocket, String::new()))
        );
        assert_eq!(
            find("DELETE", "/v1/devices/socket"),
            Match::Methods("GET, HEAD, OPTIONS".into())
        );
        assert_eq!(
            operation("GET", "/v1/devices/rb1x"),
            Some((Operation::Device, "rb1x".into()))
        );
        assert_eq!(
            operation("POST", "/v1/devices/rb1x/requests"),
            Some((Operation::Request, "rb1x".into()))
        );
        assert_eq!(
            operation("GET", "/v1/aliases/n%C3%A4s%2"),
            Some((Operation::Alias, "näs%2".into()))
        );
        assert_eq!(
            operation("GET", "/v1/aliases/%ff"),
            Some((Operation::Alias, "\u{fffd}".into()))
        );
    }

    #[test]
    fn other_paths_and_methods_are_told_apart() {
        for path in [
            "",
            "/",
            "/v1",
            "/v1/registry/",
            "//v1/registry",
            "/v1/aliases/",
            "/v1/devices/",
            "/v1/devices//socket",
            "/v2/registry",
        ] {
            assert_eq!(find("GET", path), Match::Nothing, "{path}");
        }
        assert_eq!(
            find("POST", "/v1/devices"),
            Match::Methods("GET, HEAD, OPTIONS".into())
        );
        assert_eq!(
            find("PUT", "/v1/devices/rb1x"),
            Match::Methods("GET, PATCH, DELETE, HEAD, OPTIONS".into())
        );
        assert_eq!(
            find("OPTIONS", "/v1/policy"),
            Match::Methods("GET, PUT, HEAD, OPTIONS".into())
        );
    }

    proptest! {
        #[test]
        fn no_path_panics(method in "[A-Z]{0,7}", path in "(/[^/]{0,6}|%|/v1|/devices){0,6}") {
            find(&method, &path);
        }
    }
}
