//! A link that a caller has to this device: QUIC from an agent, WebRTC from a browser. Whoever
//! serves it need not know which.

use ringback_protocol::PeerId;
use ringback_protocol::receipt::PathInUse;
use serde::{Deserialize, Serialize};

use crate::link::{Link, close};
use crate::rtc::{BrowserLink, Ending};
use crate::stream::Stream;

/// A link of either kind. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) enum ServedLink {
    Agent(Link),
    Browser(BrowserLink),
}

/// What a caller was admitted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum AdmittedBy {
    Password,
    Key,
}

/// One line of `ringback status`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct LinkStatus {
    pub(crate) caller: PeerId,
    #[serde(default)]
    pub(crate) browser: bool,
    /// `None`: told by an agent that does not tell.
    #[serde(default)]
    pub(crate) by: Option<AdmittedBy>,
    pub(crate) since: u64,
    /// None: the path is lost.
    pub(crate) path: Option<PathInUse>,
    pub(crate) rtt_ms: Option<f64>,
    pub(crate) bytes_sent: u64,
    pub(crate) bytes_received: u64,
}

impl ServedLink {
    pub(crate) fn peer(&self) -> PeerId {
        match self {
            Self::Agent(link) => link.peer,
            Self::Browser(link) => link.peer,
        }
    }

    /// The next stream that the caller opens; `None` when the link has ended.
    pub(crate) async fn accept(&self) -> Option<Stream> {
        match self {
            Self::Agent(link) => link.accept().await,
            Self::Browser(link) => link.accept().await,
        }
    }

    /// The caller's right to call was taken away.
    pub(crate) fn revoke(&self) {
        match self {
            Self::Agent(link) => link.connection.close(close::REVOKED.into(), b"revoked"),
            Self::Browser(link) => link.close(Ending::Revoked),
        }
    }

    pub(crate) fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Agent(one), Self::Agent(other)) => {
                one.connection.stable_id() == other.connection.stable_id()
            }
            (Self::Browser(one), Self::Browser(other)) => one.is(other),
            _ => false,
        }
    }

    /// How the link is doing; it was established `since`, in Unix seconds.
    pub(crate) fn status(&self, since: u64, by: AdmittedBy) -> LinkStatus {
        let (path, rtt, (bytes_sent, bytes_received)) = match self {
            Self::Agent(link) => {
                let stats = link.connection.stats();
                let bytes = (stats.udp_tx.bytes, stats.udp_rx.bytes);
                (link.paths.path(), link.paths.rtt(), bytes)
            }
            Self::Browser(link) => (link.path(), link.rtt(), link.bytes()),
        };
        LinkStatus {
            caller: self.peer(),
            browser: matches!(self, Self::Browser(_)),
            by: Some(by),
            since,
            path,
            rtt_ms: rtt.map(|rtt| rtt.as_secs_f64() * 1e3),
            bytes_sent,
            bytes_received,
        }
    }

    /// What the log is told at the end.
    pub(crate) fn log_statistics(&self) {
        match self {
            Self::Agent(link) => {
                let quic = link.connection.stats().path;
                tracing::debug!(
                    rtt = ?quic.rtt,
                    window = quic.cwnd,
                    mtu = quic.current_mtu,
                    sent = quic.sent_packets,
                    lost = quic.lost_packets,
                    congestions = quic.congestion_events,
                    "link statistics"
                );
            }
            Self::Browser(link) => {
                let (sent, received) = link.bytes();
                tracing::debug!(rtt = ?link.rtt(), sent, received, "link statistics");
            }
        }
    }
}
