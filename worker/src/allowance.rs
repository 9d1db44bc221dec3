//! What one source address may ask of the frontend in a minute (§5.8, §14), counted without an
//! object: in this isolate's memory, and by the platform's own limiter where the deployment binds
//! one (`[[ratelimits]]` in `wrangler.toml`), which all isolates of one place share.
//!
//! It keeps strangers from waking objects, which is what costs. A deployment's own numbers are
//! those of `wrangler.toml`; the ones here hold everywhere.

use std::cell::RefCell;
use std::collections::HashMap;

use worker::{Date, Env};

use crate::limits::{Count, Exceeded, Source};
use crate::problem::Problem;

/// Sources that are remembered of one class. When there are more, all are forgotten.
const MAX_SOURCES: usize = 10_000;

/// What is asked, by what it costs and who can be behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Everything.
    Any,
    /// What is signed by a key that this registry does not know, and which need not be known:
    /// enrolments, and callers at relay rooms.
    Signed,
    /// What leads to an object without a proof, or with that of a key which is not enrolled here
    /// where it would have to be.
    Unproven,
}

impl Class {
    pub const fn per_minute(self) -> u32 {
        match self {
            Self::Any => 1_200,
            Self::Signed => 180,
            Self::Unproven => 30,
        }
    }

    const fn binding(self) -> &'static str {
        match self {
            Self::Any => "ANY_LIMIT",
            Self::Signed => "SIGNED_LIMIT",
            Self::Unproven => "UNPROVEN_LIMIT",
        }
    }
}

thread_local! {
    static COUNTS: RefCell<[Sources; 3]> = RefCell::default();
}

/// Counts one request of this class.
pub async fn admit(env: &Env, class: Class, source: Option<Source>) -> Result<(), Problem> {
    let Some(source) = source else {
        return Ok(());
    };
    let now_ms = Date::now().as_millis();
    let limited =
        |exceeded| Problem::rate_limited("too many requests come from your address", exceeded);
    COUNTS
        .with_borrow_mut(|counts| counts[class as usize].admit(source, class.per_minute(), now_ms))
        .map_err(limited)?;
    let Ok(limiter) = env.rate_limiter(class.binding()) else {
        return Ok(());
    };
    match limiter.limit(source.to_string()).await {
        Ok(outcome) if !outcome.success => Err(limited(Exceeded { retry_after_s: 60 })),
        Ok(_) => Ok(()),
        Err(error) => {
            crate::log::fault("asking the platform's limiter", &error);
            Ok(())
        }
    }
}

#[derive(Debug, Default)]
struct Sources(HashMap<Source, Count>);

impl Sources {
    fn admit(&mut self, source: Source, max: u32, now_ms: u64) -> Result<(), Exceeded> {
        if self.0.len() >= MAX_SOURCES && !self.0.contains_key(&source) {
            self.0.clear();
        }
        self.0.entry(source).or_default().admit(max, now_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: u64 = 1_800_000_000_000;

    fn source(n: u32) -> Source {
        Source::parse(&std::net::Ipv4Addr::from(n).to_string()).unwrap()
    }

    #[test]
    fn each_source_has_its_own_minute() {
        let mut sources = Sources::default();
        for _ in 0..30 {
            assert_eq!(sources.admit(source(1), 30, T), Ok(()));
        }
        let exceeded = Exceeded { retry_after_s: 50 };
        assert_eq!(sources.admit(source(1), 30, T + 10_000), Err(exceeded));
        assert_eq!(sources.admit(source(2), 30, T), Ok(()));
        assert_eq!(sources.admit(source(1), 30, T + 60_000), Ok(()));
    }

    #[test]
    fn memory_is_bounded() {
        let mut sources = Sources::default();
        for n in 0..30_000 {
            sources.admit(source(n), 1, T).unwrap();
            assert!(sources.0.len() <= MAX_SOURCES);
        }
    }

    #[test]
    fn the_deployments_numbers_are_these() {
        let text = include_str!("../wrangler.toml");
        for class in [Class::Any, Class::Signed, Class::Unproven] {
            let at = text
                .find(&format!("name = \"{}\"", class.binding()))
                .unwrap();
            let limit = format!("limit = {}, period = 60", class.per_minute());
            assert!(text[at..].lines().take(3).any(|line| line.contains(&limit)));
        }
    }
}
