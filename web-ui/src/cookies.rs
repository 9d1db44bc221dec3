//! The cookies of one page of a device's network (RFC 6265, and its SameSite of 6265bis). A service
//! worker can neither set nor send cookies, so they are kept here, in memory, for as long as the page
//! is open.

use std::cmp::Reverse;

use crate::order::sorted;

/// A site's cookies.
#[derive(Clone, Debug, Default)]
pub struct Cookies {
    list: Vec<Cookie>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Cookie {
    name: String,
    value: String,
    path: String,
    same_site: SameSite,
}

/// Whose requests a cookie goes with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SameSite {
    /// The site's own.
    Strict,
    /// And where another site leads to it. Also what says nothing, or `None`: requests that another
    /// site makes otherwise are never carried.
    Lax,
}

/// Who makes a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asker {
    /// The site itself, or the person.
    Site,
    /// Another site, which leads a frame to it.
    Other,
}

impl Cookies {
    /// Bytes of one cookie, and cookies of one site, that are kept at most.
    const LARGEST: usize = 4096;
    const MOST: usize = 180;

    /// Takes the value of a `Set-Cookie` header in an answer to a request for `path`.
    pub fn set(&mut self, header: &str, path: &str) {
        if header.len() > Self::LARGEST {
            return;
        }
        let mut parts = header.split(';');
        let Some((name, value)) = parts.next().and_then(|pair| pair.split_once('=')) else {
            return;
        };
        let mut cookie = Cookie {
            name: name.trim().to_owned(),
            value: value.trim().to_owned(),
            path: folder(path).to_owned(),
            same_site: SameSite::Lax,
        };
        if cookie.name.is_empty() {
            return;
        }
        let mut gone = false;
        for attribute in parts {
            let (key, value) = attribute.split_once('=').unwrap_or((attribute, ""));
            let value = value.trim();
            match key.trim().to_ascii_lowercase().as_str() {
                "path" if value.starts_with('/') => cookie.path = value.to_owned(),
                "samesite" if value.eq_ignore_ascii_case("strict") => {
                    cookie.same_site = SameSite::Strict;
                }
                "samesite" => cookie.same_site = SameSite::Lax,
                "max-age" => gone = value.parse::<i64>().is_ok_and(|seconds| seconds <= 0),
                // Sites delete cookies by a date long past; other dates outlive the page anyway.
                "expires" => gone |= value.contains("1970") || value.contains("-70 "),
                _ => {}
            }
        }
        self.list
            .retain(|known| known.name != cookie.name || known.path != cookie.path);
        if !gone && self.list.len() < Self::MOST {
            self.list.push(cookie);
        }
    }

    /// The `Cookie` header of a request for `path`, longer paths first.
    pub fn header(&self, path: &str, asker: Asker) -> Option<String> {
        let path = path.split(['?', '#']).next().unwrap_or(path);
        let fitting = self
            .list
            .iter()
            .filter(|cookie| matches(path, &cookie.path))
            .filter(|cookie| asker == Asker::Site || cookie.same_site == SameSite::Lax);
        let pairs: Vec<String> = sorted(fitting, |cookie| Reverse(cookie.path.len()))
            .iter()
            .map(|cookie| format!("{}={}", cookie.name, cookie.value))
            .collect();
        (!pairs.is_empty()).then(|| pairs.join("; "))
    }
}

/// RFC 6265, 5.1.4.
fn folder(path: &str) -> &str {
    let path = path.split(['?', '#']).next().unwrap_or(path);
    match path.rfind('/') {
        Some(0) | None => "/",
        Some(at) => &path[..at],
    }
}

fn matches(path: &str, of: &str) -> bool {
    path == of
        || path
            .strip_prefix(of)
            .is_some_and(|rest| of.ends_with('/') || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookies_come_back_by_path() {
        let mut cookies = Cookies::default();
        cookies.set("session=abc; Path=/; HttpOnly; Secure", "/login");
        cookies.set("view=list; SameSite=Lax", "/files/home");
        cookies.set("deep=1; Path=/files/home", "/");
        assert_eq!(
            cookies.header("/", Asker::Site).as_deref(),
            Some("session=abc")
        );
        assert_eq!(
            cookies.header("/files/home?x=1", Asker::Site).as_deref(),
            Some("deep=1; view=list; session=abc")
        );
        assert_eq!(
            cookies.header("/filesystem", Asker::Site).as_deref(),
            Some("session=abc")
        );
    }

    #[test]
    fn cookies_are_replaced_and_deleted() {
        let mut cookies = Cookies::default();
        cookies.set("a=1; Path=/", "/");
        cookies.set("a=2; Path=/", "/");
        assert_eq!(cookies.header("/", Asker::Site).as_deref(), Some("a=2"));
        cookies.set("a=; Path=/; Max-Age=0", "/");
        assert_eq!(cookies.header("/", Asker::Site), None);
        cookies.set("b=1; Path=/", "/");
        cookies.set("b=; Path=/; Expires=Thu, 01 Jan 1970 00:00:00 GMT", "/");
        assert_eq!(cookies.header("/", Asker::Site), None);
        cookies.set("nonsense", "/");
        cookies.set("=x", "/");
        assert_eq!(cookies.header("/", Asker::Site), None);
    }

    #[test]
    fn another_site_does_not_use_strict_cookies() {
        let mut cookies = Cookies::default();
        cookies.set("said=nothing; Path=/", "/");
        cookies.set("lax=1; Path=/; SameSite=Lax", "/");
        cookies.set("none=1; Path=/; SameSite=None; Secure", "/");
        cookies.set("odd=1; Path=/; SameSite=whatever", "/");
        cookies.set("strict=1; Path=/; samesite= STRICT", "/");
        assert!(
            cookies
                .header("/", Asker::Site)
                .unwrap()
                .contains("strict=1")
        );
        assert_eq!(header_of(&cookies), "said=nothing; lax=1; none=1; odd=1");
        // The last one counts, as in browsers.
        cookies.set("strict=2; Path=/; SameSite=Strict; SameSite=Lax", "/");
        assert!(header_of(&cookies).contains("strict=2"));
    }

    fn header_of(cookies: &Cookies) -> String {
        cookies.header("/", Asker::Other).unwrap_or_default()
    }
}
