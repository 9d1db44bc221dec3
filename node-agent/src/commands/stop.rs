//! What ends a command from outside, and what the command then ends with.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::failure::Ended;

/// Waits for Ctrl-C, a request to terminate, or the end of the terminal (ssh ends its ProxyCommand
/// by the same signal), unless that is ignored, as by `nohup`; from the moment of this call on. Gives
/// the exit code that shells know the signal by (128 and its number). Make it once: what comes
/// between two of these is lost, as the first one has taken the signals' default effect away.
pub(super) fn stopped() -> impl Future<Output = Ended> {
    async fn received(signal: Option<Signal>) {
        match signal {
            Some(mut signal) => {
                signal.recv().await;
            }
            None => std::future::pending().await,
        }
    }
    let interrupt = signal(SignalKind::interrupt()).ok();
    let terminate = signal(SignalKind::terminate()).ok();
    let hung_up = (!is_hangup_ignored())
        .then(|| signal(SignalKind::hangup()).ok())
        .flatten();
    async move {
        tokio::select! {
            () = received(interrupt) => Ended(130),
            () = received(terminate) => Ended(143),
            () = received(hung_up) => Ended(129),
        }
    }
}

/// As Linux tells it; elsewhere a hang-up is never taken for ignored.
fn is_hangup_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    // One bit per signal; the hang-up is number 1.
    ignored.is_some_and(|mask| u64::from_str_radix(mask.trim(), 16).is_ok_and(|mask| mask & 1 == 1))
}
