//! The connections to services that callers have, and how many there may be.

use std::time::Duration;

use ringback_protocol::{Code, PeerId};

use super::places::{Guest, Limits, Place, Places};

/// Connections to services at a time, at most; of one caller there wait so many more, for so long.
const MAX_CONNECTIONS: usize = 4096;
const MAX_WAITING: usize = 256;
const PLACE_PATIENCE: Duration = Duration::from_secs(10);

/// The connections that this agent has to services, shared out between its callers.
#[derive(Debug)]
pub(crate) struct Connections {
    places: Places,
    /// How long one is waited for.
    patience: Duration,
}

/// One of them; it is counted until this is dropped.
#[derive(Debug)]
pub(crate) struct Connected {
    _guest: Guest,
    _place: Place,
}

impl Default for Connections {
    /// Most of the files that this process may have open, and at most [`MAX_CONNECTIONS`].
    fn default() -> Self {
        let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let files = files.map_or(usize::MAX, |files| files.try_into().unwrap_or(usize::MAX));
        let all = (files / 4 * 3).clamp(16, MAX_CONNECTIONS);
        Self {
            places: Places::new(Limits {
                all,
                each: all - all / 4,
                waiting: MAX_WAITING,
                turn: Duration::MAX,
            }),
            patience: PLACE_PATIENCE,
        }
    }
}

impl Connections {
    pub(super) async fn take(&self, caller: PeerId) -> Result<Connected, (Code, String)> {
        let Limits {
            all, each, waiting, ..
        } = self.places.limits();
        let guest = self.places.enter(caller).map_err(|_| {
            let told = format!("{each} connections of this caller are open, and {waiting} wait");
            (Code::TooMany, told)
        })?;
        let place = guest.place_within(self.patience).await.ok_or_else(|| {
            let told = format!(
                "of {all} connections that this device has to its services at a time, {each} for one caller, none has ended in 10 s"
            );
            (Code::TooMany, told)
        })?;
        Ok(Connected {
            _guest: guest,
            _place: place,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_connection_beyond_a_callers_share_waits_and_is_then_told() {
        let connections = Connections {
            places: Places::new(Limits {
                all: 3,
                each: 2,
                waiting: 1,
                turn: Duration::MAX,
            }),
            patience: Duration::from_millis(20),
        };
        let caller = |number| ringback_protocol::SecretKey::from_seed(&[number; 32]).id();
        let taken = |number| {
            let taken = connections.take(caller(number));
            async {
                taken
                    .await
                    .map_err(|(code, told)| format!("{code}: {told}"))
            }
        };
        let first = taken(1).await.unwrap();
        let second = taken(1).await.unwrap();
        let vain = taken(1).await.unwrap_err();
        assert!(
            vain.starts_with("too_many: of 3 ")
                && vain.ends_with("2 for one caller, none has ended in 10 s"),
            "{vain}"
        );
        let waiting = taken(1);
        tokio::pin!(waiting);
        assert!(futures_util::poll!(&mut waiting).is_pending());
        // No more than may wait.
        assert_eq!(
            taken(1).await.unwrap_err(),
            "too_many: 2 connections of this caller are open, and 1 wait"
        );
        // Which keeps nobody else out, and whoever waits is next.
        let other = taken(2).await.unwrap();
        drop(first);
        let third = waiting.await.unwrap();
        let full = taken(2).await.unwrap_err();
        assert!(full.starts_with("too_many: of 3 "), "{full}");
        drop((second, third, other));
    }
}
