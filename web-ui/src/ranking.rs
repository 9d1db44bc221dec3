//! The owner's list: which devices are shown, and in what order.

/// What comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Who is online.
    Presence,
    Name,
    /// Who was seen last.
    Seen,
    /// Who was not seen for the longest.
    Unseen,
}

/// What an order looks at.
#[derive(Clone, Copy, Debug)]
pub struct Ranked<'a> {
    pub title: &'a str,
    pub online: bool,
    /// Unix seconds; `None`: never.
    pub last_seen: Option<f64>,
}

/// The place in the list: the smallest comes first.
pub type Place = (bool, i64, String);

impl Order {
    pub const ALL: [Self; 4] = [Self::Presence, Self::Name, Self::Seen, Self::Unseen];

    /// As it is kept; another name than any of these is the usual order.
    pub fn named(name: &str) -> Self {
        let mut all = Self::ALL.into_iter();
        all.find(|order| order.name() == name)
            .unwrap_or(Self::Presence)
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Presence => "presence",
            Self::Name => "name",
            Self::Seen => "seen",
            Self::Unseen => "unseen",
        }
    }

    pub fn words(self) -> &'static str {
        match self {
            Self::Presence => "Online first",
            Self::Name => "Name",
            Self::Seen => "Last seen",
            Self::Unseen => "Unseen for longest",
        }
    }

    pub fn place(self, of: Ranked<'_>) -> Place {
        let title = natural(of.title);
        // Who is online is seen now; the list says so with a moment that changes all the time.
        let seen = match of.last_seen {
            _ if of.online => i64::MAX,
            Some(seen) => seen as i64,
            None => 0,
        };
        match self {
            Self::Presence => (!of.online, 0, title),
            Self::Name => (false, 0, title),
            Self::Seen => (seen == 0, -seen, title),
            Self::Unseen => (false, seen, title),
        }
    }
}

/// Is every word of `wanted` in one of `texts`? Case does not count, of the letters that names and IDs
/// have.
pub fn is_found(wanted: &str, texts: &[&str]) -> bool {
    let texts: Vec<String> = texts.iter().map(|text| text.to_ascii_lowercase()).collect();
    wanted
        .to_ascii_lowercase()
        .split_ascii_whitespace()
        .all(|word| texts.iter().any(|text| text.contains(word)))
}

/// Orders `disk-9` before `disk-10`: before each number stands how many digits it has.
fn natural(text: &str) -> String {
    let mut key = String::new();
    let mut rest = text;
    while let Some(letter) = rest.chars().next() {
        let digits = rest.len()
            - rest
                .trim_start_matches(|it: char| it.is_ascii_digit())
                .len();
        if digits == 0 {
            key.push(letter.to_ascii_lowercase());
            rest = &rest[letter.len_utf8()..];
        } else {
            let (number, behind) = rest.split_at(digits);
            let number = number.trim_start_matches('0');
            // Numbers stay before letters, as their digits are.
            key.push('0');
            key.push(char::from_u32(number.len() as u32).unwrap_or('0'));
            key.push_str(number);
            rest = behind;
        }
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::order::sorted;

    const DEVICES: [(&str, bool, Option<f64>); 5] = [
        ("disk-10", false, Some(50.0)),
        ("disk-9", true, Some(100.0)),
        ("Attic", false, None),
        ("nas", true, Some(99.0)),
        ("pi", false, Some(90.0)),
    ];

    fn by(order: Order) -> Vec<&'static str> {
        let sorted = sorted(DEVICES, |(title, online, last_seen)| {
            order.place(Ranked {
                title,
                online: *online,
                last_seen: *last_seen,
            })
        });
        sorted.into_iter().map(|(title, ..)| title).collect()
    }

    #[test]
    fn each_order_has_its_first() {
        assert_eq!(
            by(Order::Presence),
            ["disk-9", "nas", "Attic", "disk-10", "pi"]
        );
        assert_eq!(by(Order::Name), ["Attic", "disk-9", "disk-10", "nas", "pi"]);
        assert_eq!(by(Order::Seen), ["disk-9", "nas", "pi", "disk-10", "Attic"]);
        assert_eq!(
            by(Order::Unseen),
            ["Attic", "disk-10", "pi", "disk-9", "nas"]
        );
    }

    #[test]
    fn an_order_is_kept_by_its_name() {
        for order in Order::ALL {
            assert_eq!(Order::named(order.name()), order);
        }
        assert_eq!(Order::named("of a later version"), Order::Presence);
    }

    #[test]
    fn every_word_is_looked_for_anywhere() {
        let texts = ["living-room", "rb1uukz3ln33", "ringback/0.1.0"];
        for wanted in ["", "room", "ROOM 0.1", "uukz", "living room "] {
            assert!(is_found(wanted, &texts), "{wanted}");
        }
        for wanted in ["kitchen", "room kitchen"] {
            assert!(!is_found(wanted, &texts), "{wanted}");
        }
    }
}
