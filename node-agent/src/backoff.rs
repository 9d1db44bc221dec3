//! Pauses between attempts that fail.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(250);
const MAX: Duration = Duration::from_secs(15);

/// Doubles from 250 ms to 15 s, with jitter: a relay that restarts loses everybody at once.
#[derive(Debug)]
pub(crate) struct Backoff(Duration);

impl Default for Backoff {
    fn default() -> Self {
        Self(FIRST)
    }
}

impl Backoff {
    pub(crate) fn reset(&mut self) {
        self.0 = FIRST;
    }

    pub(crate) async fn wait(&mut self) {
        let pause = self.0.mul_f64(rand::random_range(0.5..1.0));
        self.0 = (self.0 * 2).min(MAX);
        tokio::time::sleep(pause).await;
    }
}
