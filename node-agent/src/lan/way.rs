//! The caller's side: one request's way over the LAN.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use ringback_protocol::frame::{Frame, FrameReader};
use ringback_protocol::{PeerId, lan};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

use std::sync::Arc;

use super::search::Search;

/// For one address to connect.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);
/// From the request to the end of the answer: the device's own limit, and a little.
const ANSWER_LIMIT: Duration = Duration::from_secs(6);

/// A search for the device, and what comes of it. Nothing here is an error: the registry is the way
/// that counts, and this one is there or not. Ends when it is dropped.
pub(crate) struct Way {
    found: watch::Receiver<bool>,
    hurry: Arc<Notify>,
    envelope: watch::Sender<Option<Vec<u8>>>,
    frames: mpsc::Receiver<Frame>,
    task: Option<AbortOnDropHandle<()>>,
}

impl Way {
    /// Looks for `device` after `delay`, unless the way has been dropped by then.
    pub(crate) fn look_for(device: PeerId, delay: Duration) -> Self {
        let (found_sender, found) = watch::channel(false);
        let (envelope, envelopes) = watch::channel(None);
        let (frames_sender, frames) = mpsc::channel(4);
        let hurry = Arc::new(Notify::new());
        let hurried = hurry.clone();
        let task = tokio::spawn(async move {
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                () = hurried.notified() => {}
            }
            if let Err(error) = go(device, &found_sender, envelopes, frames_sender).await {
                tracing::debug!("no way over the LAN: {error:#}");
            }
        });
        Self {
            found,
            hurry,
            envelope,
            frames,
            task: Some(AbortOnDropHandle::new(task)),
        }
    }

    /// No way: the LAN is switched off.
    pub(crate) fn closed() -> Self {
        let (_, found) = watch::channel(false);
        let (envelope, _) = watch::channel(None);
        let (_, frames) = mpsc::channel(1);
        Self {
            found,
            hurry: Arc::default(),
            envelope,
            frames,
            task: None,
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.task.is_none()
    }

    /// Gives the search up.
    pub(crate) fn close(&mut self) {
        self.task = None;
    }

    /// There is no other way: looks at once.
    pub(crate) fn hurry(&self) {
        self.hurry.notify_one();
    }

    /// Waits until somebody who may be the device has been reached; for ever if nobody is.
    pub(crate) fn found(&self) -> impl Future<Output = ()> + use<> {
        let mut found = self.found.clone();
        async move {
            if found.wait_for(|found| *found).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// The envelope goes out as soon as the device is found.
    pub(crate) fn hand_over(&self, envelope: Vec<u8>) {
        self.envelope.send_replace(Some(envelope));
    }

    /// The next frame that came back. It may be anybody's: see [`Call::is_authentic`]. Waits for ever
    /// if none comes any more.
    ///
    /// [`Call::is_authentic`]: ringback_protocol::call::Call::is_authentic
    pub(crate) async fn next(&mut self) -> Frame {
        match self.frames.recv().await {
            Some(frame) => frame,
            None => std::future::pending().await,
        }
    }
}

async fn go(
    device: PeerId,
    found: &watch::Sender<bool>,
    mut envelopes: watch::Receiver<Option<Vec<u8>>>,
    frames: mpsc::Sender<Frame>,
) -> Result<()> {
    let mut search = Search::start(&device)?;
    loop {
        let addresses = search.next().await?;
        tracing::debug!(?addresses, "found on the LAN");
        let Some(stream) = connect(addresses).await else {
            continue;
        };
        found.send_replace(true);
        let envelope = envelopes.wait_for(Option::is_some).await?.clone();
        let envelope = envelope.context("waited for")?;
        let asking = tokio::time::timeout(ANSWER_LIMIT, ask(stream, &envelope, &frames));
        match asking.await {
            Ok(Ok(())) => return Ok(()),
            // Somebody else may say that it is the device, or the device itself once more.
            Ok(Err(error)) => tracing::debug!("a request on the LAN was not answered: {error:#}"),
            Err(_) => tracing::debug!("a request on the LAN was not answered in time"),
        }
    }
}

/// The first connection that is made.
async fn connect(addresses: Vec<SocketAddr>) -> Option<TcpStream> {
    let mut attempts: JoinSet<Option<TcpStream>> = addresses
        .into_iter()
        .map(|address| async move {
            let connecting = TcpStream::connect(address);
            tokio::time::timeout(CONNECT_LIMIT, connecting)
                .await
                .ok()?
                .ok()
        })
        .collect();
    while let Some(attempt) = attempts.join_next().await {
        if let Ok(Some(stream)) = attempt {
            return Some(stream);
        }
    }
    None
}

async fn ask(mut stream: TcpStream, envelope: &[u8], frames: &mpsc::Sender<Frame>) -> Result<()> {
    stream.set_nodelay(true)?;
    stream.write_all(&lan::encode_request(envelope)).await?;
    let mut reader = FrameReader::default();
    let mut buffer = [0; 4096];
    loop {
        while let Some(frame) = reader.next_frame() {
            let frame = frame?;
            let ends = matches!(frame, Frame::Answered(_) | Frame::Refused(_));
            frames.send(frame).await?;
            if ends {
                return Ok(());
            }
        }
        let read = stream.read(&mut buffer).await?;
        anyhow::ensure!(read > 0, "it broke off");
        reader.push(&buffer[..read]);
    }
}
