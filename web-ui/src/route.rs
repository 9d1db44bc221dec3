//! Addresses of the page. Secrets stand behind `#` only, which browsers do not send; they are
//! taken out of the address bar as soon as they are read.

/// What the address names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    Home,
    SignIn,
    Contacts,
    Settings,
    /// A device by ID or name.
    Device(String),
    Unknown,
}

impl Route {
    pub fn parse(path: &str) -> Self {
        match path.trim_end_matches('/') {
            "" => Self::Home,
            "/sign-in" => Self::SignIn,
            "/contacts" => Self::Contacts,
            "/settings" => Self::Settings,
            other => match other.strip_prefix("/d/") {
                Some(target) if is_target(target) => Self::Device(target.to_ascii_lowercase()),
                _ => Self::Unknown,
            },
        }
    }

    pub fn path(&self) -> String {
        match self {
            Self::Home | Self::Unknown => "/".into(),
            Self::SignIn => "/sign-in".into(),
            Self::Contacts => "/contacts".into(),
            Self::Settings => "/settings".into(),
            Self::Device(target) => format!("/d/{target}"),
        }
    }
}

/// What a person pasted into the field for a device: a link, an ID, or a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pasted {
    /// The registry's origin, if a link names one.
    pub origin: Option<String>,
    pub target: String,
    pub password: Option<String>,
}

impl Pasted {
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let (address, fragment) = text.split_once('#').unwrap_or((text, ""));
        let (origin, path) = match address.find("://") {
            Some(scheme) => {
                let host = &address[scheme + 3..];
                let end = host.find('/').map_or(address.len(), |at| scheme + 3 + at);
                (Some(address[..end].to_owned()), &address[end..])
            }
            None => (None, address),
        };
        let target = path.strip_prefix("/d/").unwrap_or(path);
        let target = target.trim_matches('/').to_ascii_lowercase();
        // `https://registry/#rb1…` is the short form of a link.
        let target = if target.is_empty() && fragment.starts_with("rb1") {
            fragment.split('&').next().unwrap_or("").to_owned()
        } else {
            target
        };
        is_target(&target).then(|| Self {
            origin,
            target,
            password: secret(fragment, "p"),
        })
    }
}

/// The value of `key` in a fragment of the form `p=…&x=…`, percent-decoded.
pub fn secret(fragment: &str, key: &str) -> Option<String> {
    let fragment = fragment.strip_prefix('#').unwrap_or(fragment);
    let value = fragment.split('&').find_map(|part| {
        let (name, value) = part.split_once('=')?;
        (name == key).then_some(value)
    })?;
    decode(value).filter(|text| !text.is_empty())
}

fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        if byte == b'%' {
            let digits = std::str::from_utf8(after.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &after[2..];
        } else {
            bytes.push(byte);
            rest = after;
        }
    }
    String::from_utf8(bytes).ok()
}

/// An ID or a name (PROTOCOL.md, sections 2 and 5.2): letters, digits and dashes.
fn is_target(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "rb1uukz3ln33carpt7ywsud5aua2zxjmt26ye06l660xalp64lmpxxqj3hstk";

    #[test]
    fn routes_go_both_ways() {
        for route in [
            Route::Home,
            Route::SignIn,
            Route::Contacts,
            Route::Settings,
            Route::Device(ID.into()),
            Route::Device("nas".into()),
        ] {
            assert_eq!(Route::parse(&route.path()), route);
        }
        assert_eq!(Route::parse("/d/<script>"), Route::Unknown);
        assert_eq!(Route::parse("/d/"), Route::Unknown);
        assert_eq!(Route::parse("/elsewhere"), Route::Unknown);
    }

    #[test]
    fn takes_links_ids_and_names() {
        let link = format!("https://registry.example/d/{ID}#p=correct%20horse");
        let pasted = Pasted::parse(&link).unwrap();
        assert_eq!(pasted.origin.as_deref(), Some("https://registry.example"));
        assert_eq!(pasted.target, ID);
        assert_eq!(pasted.password.as_deref(), Some("correct horse"));

        let short = Pasted::parse(&format!("https://registry.example/#{ID}")).unwrap();
        assert_eq!(short.target, ID);

        assert_eq!(Pasted::parse(&ID.to_uppercase()).unwrap().target, ID);
        assert_eq!(Pasted::parse(" nas ").unwrap().target, "nas");
        assert_eq!(Pasted::parse("javascript:alert(1)"), None);
        assert_eq!(Pasted::parse(""), None);
    }

    #[test]
    fn a_broken_escape_is_no_password() {
        assert_eq!(secret("#p=%zz", "p"), None);
        assert_eq!(secret("#p=", "p"), None);
        assert_eq!(secret("#a=1&p=x%2By", "p").as_deref(), Some("x+y"));
    }
}
