//! An input as a list of steps: what a state machine is told, one after the other.

use std::time::Duration;

use arbitrary::{Arbitrary, Unstructured};

/// The most steps of an input; more say nothing new and take long.
const MAX_STEPS: usize = 256;

/// Reads steps until the bytes end.
pub(crate) fn steps<'a, T: Arbitrary<'a>>(bytes: &'a [u8]) -> impl Iterator<Item = T> + 'a {
    let mut bytes = Unstructured::new(bytes);
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        T::arbitrary(&mut bytes).ok()
    })
    .take(MAX_STEPS)
}

/// Damage done to a datagram under way.
#[derive(Debug, Clone, Copy, Arbitrary)]
pub(crate) enum Damage {
    None,
    Lost,
    Twice,
    Flipped { at: u16, bits: u8 },
    Cut(u16),
    Longer(u8),
}

impl Damage {
    /// What arrives of `datagram`.
    pub(crate) fn done_to(self, datagram: &[u8]) -> Vec<Vec<u8>> {
        let mut damaged = datagram.to_vec();
        match self {
            Self::None => {}
            Self::Lost => return Vec::new(),
            Self::Twice => return vec![damaged.clone(), damaged],
            Self::Flipped { at, bits } => {
                let at = usize::from(at) % damaged.len().max(1);
                if let Some(byte) = damaged.get_mut(at) {
                    *byte ^= bits;
                }
            }
            Self::Cut(length) => damaged.truncate(usize::from(length)),
            Self::Longer(more) => damaged.resize(damaged.len() + usize::from(more), more),
        }
        vec![damaged]
    }
}

/// A pause: milliseconds for the most part, sometimes minutes.
#[derive(Debug, Clone, Copy, Arbitrary)]
pub(crate) enum Pause {
    Milliseconds(u16),
    Seconds(u16),
}

impl Pause {
    pub(crate) fn duration(self) -> Duration {
        match self {
            Self::Milliseconds(count) => Duration::from_millis(count.into()),
            Self::Seconds(count) => Duration::from_secs(count.into()),
        }
    }
}
