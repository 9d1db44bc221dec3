//! Addresses of the page. The path names the screen. Behind `#`, which browsers do not send, stands
//! what only the two ends of a link may know: a secret, which is taken out of the address bar as soon
//! as it is read, or the [`Place`] on a device's screen, with the names of its folders and files.

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

/// What of a device's screen is in front.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Place {
    /// All that the device exposes.
    #[default]
    Services,
    Service {
        name: String,
        /// What the service makes of it: `pictures/` is a folder and `pictures/sunset.png` a file in
        /// it; `2` is the second terminal.
        below: String,
    },
}

impl Place {
    pub fn of(name: &str, below: &str) -> Self {
        Self::Service {
            name: name.to_owned(),
            below: below.to_owned(),
        }
    }

    /// `None`: the fragment is none of a place.
    pub fn parse(fragment: &str) -> Option<Self> {
        let path = fragment.strip_prefix('#').unwrap_or(fragment);
        let path = path.strip_prefix('/')?;
        let (name, below) = path.split_once('/').unwrap_or((path, ""));
        if name.is_empty() {
            return Some(Self::Services);
        }
        Some(Self::Service {
            name: decode(name)?,
            below: decode(below)?,
        })
    }

    /// What stands behind the address of the device's screen.
    pub fn fragment(&self) -> String {
        match self {
            Self::Services => String::new(),
            Self::Service { name, below } if below.is_empty() => format!("#/{}", encode(name)),
            Self::Service { name, below } => format!("#/{}/{}", encode(name), encode(below)),
        }
    }

    /// What is in front, in a few words, for the title of the tab; empty for all of the device.
    pub fn words(&self) -> String {
        match self {
            Self::Services => String::new(),
            Self::Service { name, below } => {
                let last = below.trim_end_matches('/').rsplit('/').next();
                let last = last.filter(|last| !last.is_empty()).unwrap_or(name);
                crate::plain::plain(last, 64)
            }
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

/// Everything that is not a plain letter, digit or `/` as `%XX`.
fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'-' | b'.' | b'_' | b'~' | b'/' => encoded.push(byte.into()),
            byte if byte.is_ascii_alphanumeric() => encoded.push(byte.into()),
            byte => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
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
    fn places_go_both_ways() {
        for place in [
            Place::Services,
            Place::of("docs", ""),
            Place::of("docs", "pictures/"),
            Place::of("docs", "pictures/Grüße & 100 %/#1?.png"),
            Place::of("shell", "2"),
        ] {
            let fragment = place.fragment();
            let read = Place::parse(&fragment);
            // No place at all is the device's own.
            assert_eq!(read.unwrap_or_default(), place, "{fragment}");
        }
        assert_eq!(Place::parse("#/"), Some(Place::Services));
        assert_eq!(Place::parse("#p=secret"), None);
        assert_eq!(Place::parse("#/docs/%zz"), None);
        assert_eq!(Place::parse("#/docs/%ff"), None);
    }

    #[test]
    fn a_title_names_the_innermost() {
        assert_eq!(Place::Services.words(), "");
        assert_eq!(Place::of("docs", "").words(), "docs");
        assert_eq!(Place::of("docs", "a/b/").words(), "b");
        assert_eq!(Place::of("docs", "a/b.png").words(), "b.png");
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
