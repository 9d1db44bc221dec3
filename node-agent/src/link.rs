//! A link: an authenticated QUIC session between caller and device, and the streams on it
//! (PROTOCOL §12).

use std::ops::Deref;
use std::sync::{Arc, Weak};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use quinn::Connection;
use ringback_protocol::stream::{Open, Opening};
use ringback_protocol::{Code, PeerId};

use crate::endpoint::Paths;
use crate::failure::{Exit, Failure};
use crate::link_windows::LinkWindow;
use crate::stream::{Stream, StreamReader, StreamWriter};

/// Application close codes (PROTOCOL §11).
pub(crate) mod close {
    pub(crate) const DONE: u32 = 0;
    pub(crate) const SHUTTING_DOWN: u32 = 2;
    pub(crate) const REVOKED: u32 = 3;
}

/// How long a stream waits for another one to end, when the link carries as many as it may.
const OPEN_PATIENCE: Duration = Duration::from_secs(10);
/// How long the device may take to reach a service; it gives up sooner itself.
const CONFIRM_PATIENCE: Duration = Duration::from_secs(60);
/// How long a link stays open after a `pipe`.
const LINGER: Duration = Duration::from_secs(10);

/// One end of a link. Cheap to clone; the link closes when the last clone is dropped.
#[derive(Debug, Clone)]
pub(crate) struct Link(Arc<LinkEnd>);

#[derive(Debug)]
pub(crate) struct LinkEnd {
    pub(crate) peer: PeerId,
    pub(crate) connection: Connection,
    pub(crate) paths: Paths,
    _window: LinkWindow,
}

impl Deref for Link {
    type Target = LinkEnd;

    fn deref(&self) -> &LinkEnd {
        &self.0
    }
}

/// A use of a link after which another one is likely to follow soon: the link stays open for a
/// while, so that an `scp` after an `ssh` finds it there.
pub(crate) struct Use(pub(crate) Link);

impl Drop for Use {
    fn drop(&mut self) {
        let link = self.0.clone();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                tokio::select! {
                    () = tokio::time::sleep(LINGER) => {}
                    _ = link.connection.closed() => {}
                }
            });
        }
    }
}

/// A link that may have closed meanwhile.
#[derive(Debug)]
pub(crate) struct WeakLink(Weak<LinkEnd>);

impl WeakLink {
    /// The link, if it is still open.
    pub(crate) fn upgrade(&self) -> Option<Link> {
        let link = self.0.upgrade()?;
        link.connection
            .close_reason()
            .is_none()
            .then_some(Link(link))
    }
}

/// A stream whose `Open` has been sent; the answer is still to come.
pub(crate) struct Opened {
    send: StreamWriter,
    answer: Answer,
}

/// The receiving half of a stream that the device has still to confirm.
pub(crate) struct Answer {
    recv: StreamReader,
    service: String,
}

impl Link {
    /// A link that has been established.
    pub(crate) fn new(
        peer: PeerId,
        connection: Connection,
        paths: Paths,
        window: LinkWindow,
    ) -> Self {
        Self(Arc::new(LinkEnd {
            peer,
            connection,
            paths,
            _window: window,
        }))
    }

    pub(crate) fn downgrade(&self) -> WeakLink {
        WeakLink(Arc::downgrade(&self.0))
    }

    /// As the caller: opens a stream to a service without waiting for the device's answer, so
    /// that data can follow in the same flight.
    pub(crate) async fn open(&self, service: &str) -> Result<Opened> {
        let (mut send, recv) = open_within(&self.connection, OPEN_PATIENCE).await?;
        send.write_all(&Open::new(service).encode()).await?;
        let stream = Stream::quic((send, recv));
        Ok(Opened {
            send: stream.writer,
            answer: Answer {
                recv: stream.reader,
                service: service.to_owned(),
            },
        })
    }

    /// As the device: the next stream that the caller opens; `None` when the link has ended.
    pub(crate) async fn accept(&self) -> Option<Stream> {
        self.connection.accept_bi().await.ok().map(Stream::quic)
    }

    /// Why the link ended, for a person.
    pub(crate) async fn ended(&self) -> String {
        match self.connection.closed().await {
            quinn::ConnectionError::ApplicationClosed(closed) => {
                match u32::try_from(closed.error_code.into_inner()) {
                    Ok(close::DONE) => "the device ended the link".into(),
                    Ok(close::SHUTTING_DOWN) => "the device is shutting down".into(),
                    Ok(close::REVOKED) => "the device has revoked this caller".into(),
                    _ => format!("the device ended the link: {closed}"),
                }
            }
            quinn::ConnectionError::TimedOut => "the device does not answer any more".into(),
            quinn::ConnectionError::LocallyClosed => "the link was closed".into(),
            other => format!("the link broke: {other}"),
        }
    }
}

impl Opened {
    /// The two halves, to be used at the same time.
    pub(crate) fn split(self) -> (StreamWriter, Answer) {
        (self.send, self.answer)
    }
}

impl Answer {
    /// What follows the device's confirmation.
    pub(crate) fn stream(&mut self) -> &mut StreamReader {
        &mut self.recv
    }

    /// The same, for whoever goes on without this.
    pub(crate) fn into_stream(self) -> StreamReader {
        self.recv
    }

    /// Waits for the device's word. Must be called once, before the stream is read.
    pub(crate) async fn confirm(&mut self) -> Result<()> {
        let frame = tokio::time::timeout(CONFIRM_PATIENCE, self.recv.read_header());
        let frame = frame.await.map_err(|_| {
            let silent = format!(
                "the device has said nothing of '{}' for a minute",
                self.service
            );
            Failure::new(Exit::Other, silent)
        })??;
        match Opening::decode(&frame)? {
            Opening::Opened => Ok(()),
            Opening::Refused(refused) => {
                let service = &self.service;
                let message = match refused.code {
                    Code::UnknownService => {
                        let names = match printable(&refused.detail) {
                            names if names.is_empty() => names,
                            names => format!("; it has: {names}"),
                        };
                        format!("the device exposes no service '{service}'{names}")
                    }
                    Code::ServiceUnreachable => {
                        format!(
                            "the device can not reach its service '{service}': {}",
                            printable(&refused.detail)
                        )
                    }
                    code => {
                        let detail = match printable(&refused.detail) {
                            detail if detail.is_empty() => detail,
                            detail => format!(" ({detail})"),
                        };
                        format!("the device refuses '{service}': {}{detail}", code.title())
                    }
                };
                bail!(Failure::new(Exit::Refused, message))
            }
        }
    }
}

/// A stream of a link that may carry as many as it may already.
pub(crate) async fn open_within(
    connection: &Connection,
    patience: Duration,
) -> Result<(quinn::SendStream, quinn::RecvStream)> {
    let stream = tokio::time::timeout(patience, connection.open_bi()).await;
    let stream = stream.map_err(|_| {
        let full =
            "the link to the device carries as many streams as it may, and none has ended in 10 s";
        Failure::new(Exit::Limited, full)
    })?;
    stream.context("the link is gone")
}

/// Text of the peer, made safe for a terminal.
pub(crate) fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(200)
        .collect()
}
