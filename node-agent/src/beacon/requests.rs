//! Requests without a socket (PROTOCOL §5.4): fetched over HTTPS when the beacon has notified, and
//! answered on the same connection, which then ends.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use hyper::Method;
use ringback_protocol::Code;
use ringback_protocol::frame::{Failed, Frame, FrameReader, length_prefixed};
use ringback_protocol::registration::{sign_answers, sign_fetch};
use tokio::sync::{Notify, mpsc};

use crate::clock::warn_of_clock;
use crate::device::Agent;
use crate::registry::Connection;
use crate::signalling::Placement;

/// How long the connection is kept for answers: the registry waits 15 s for one.
const KEEP: Duration = Duration::from_secs(16);
/// Without an answer for this long another attempt is made beside the first: the registry gives the
/// caller up after 5 s, and TCP waits for 1 s and more where a packet of its opening was lost.
const BESIDE: Duration = Duration::from_secs(1);
/// After an attempt that has failed at once.
const PAUSE: Duration = Duration::from_millis(250);
/// Attempts at one fetch.
const ATTEMPTS: usize = 4;

/// Fetches whenever `notified` says so, and posts `answers`, until the process ends.
pub(super) async fn serve(
    agent: Arc<Agent>,
    notified: Arc<Notify>,
    mut answers: mpsc::Receiver<Frame>,
) {
    let requests = Requests { agent };
    let mut connection: Option<Connection> = None;
    loop {
        let is_open = connection.is_some();
        tokio::select! {
            biased;
            // The caller waits for an answer that is here already.
            answer = answers.recv() => {
                let Some(answer) = answer else { return };
                let mut body = length_prefixed(&answer.encode());
                while let Ok(answer) = answers.try_recv() {
                    body.extend(length_prefixed(&answer.encode()));
                }
                match requests.answer(connection.take(), body).await {
                    Ok(used) => connection = Some(used),
                    Err(error) => tracing::warn!("the registry did not take an answer: {error:#}"),
                }
            }
            () = notified.notified() => {
                match requests.fetch(connection.take()).await {
                    Ok(used) => connection = Some(used),
                    Err(error) => tracing::warn!("can not fetch requests: {error:#}"),
                }
            }
            () = tokio::time::sleep(KEEP), if is_open => connection = None,
        }
    }
}

struct Requests {
    agent: Arc<Agent>,
}

impl Requests {
    /// The first attempt that has an answer counts; the others are dropped, so that no request is
    /// taken for a replay of itself.
    async fn fetch(&self, connection: Option<Connection>) -> Result<Connection> {
        let mut attempts = FuturesUnordered::new();
        attempts.push(self.fetch_once(connection));
        let mut left = ATTEMPTS - 1;
        let (connection, body) = loop {
            let pause = if attempts.is_empty() { PAUSE } else { BESIDE };
            tokio::select! {
                Some(ended) = attempts.next() => match ended {
                    Ok(fetched) => break fetched,
                    Err(error) if left == 0 && attempts.is_empty() => return Err(error),
                    Err(error) => tracing::debug!("an attempt to fetch failed: {error:#}"),
                },
                () = tokio::time::sleep(pause), if left > 0 => {
                    left -= 1;
                    attempts.push(self.fetch_once(None));
                }
            }
        };
        let mut reader = FrameReader::default();
        reader.push(&body);
        while let Some(frame) = reader.next_frame() {
            if let Frame::Deliver(deliver) = frame? {
                self.agent.deliver(&deliver);
            }
        }
        Ok(connection)
    }

    async fn fetch_once(&self, connection: Option<Connection>) -> Result<(Connection, Bytes)> {
        let agent = &self.agent;
        let path = format!("/v1/devices/{}/requests", agent.key.id());
        let sign = |time, _: &[u8]| sign_fetch(&agent.key, &agent.registry.origin(), time);
        self.call(connection, Method::GET, &path, Vec::new(), sign)
            .await
    }

    async fn answer(&self, connection: Option<Connection>, body: Vec<u8>) -> Result<Connection> {
        let agent = &self.agent;
        let path = format!("/v1/devices/{}/answers", agent.key.id());
        let sign =
            |time, body: &[u8]| sign_answers(&agent.key, &agent.registry.origin(), time, body);
        let mut spare = connection;
        // A connection that is kept may have ended meanwhile.
        if let Some(kept) = spare.take()
            && let Ok((used, _)) = self
                .call(Some(kept), Method::POST, &path, body.clone(), sign)
                .await
        {
            return Ok(used);
        }
        Ok(self.call(None, Method::POST, &path, body, sign).await?.0)
    }

    /// Once more, if this host's clock is off.
    async fn call(
        &self,
        connection: Option<Connection>,
        method: Method,
        path: &str,
        body: Vec<u8>,
        sign: impl Fn(u64, &[u8]) -> [u8; 64],
    ) -> Result<(Connection, Bytes)> {
        let mut connection = match connection {
            Some(connection) => connection,
            None => Connection::open_quickly(&self.agent.registry).await?,
        };
        for attempt in 0..2 {
            let time = self.agent.registry.now_ms();
            let signature = sign(time, &body);
            let answer = connection
                .signed(method.clone(), path, body.clone(), time, &signature)
                .await?;
            match answer {
                Ok(body) => return Ok((connection, body)),
                Err(problem) if problem.code == Code::Stale && attempt == 0 => {
                    let Some(theirs) = problem.time_ms else {
                        bail!(problem);
                    };
                    warn_of_clock(theirs);
                    self.agent.registry.set_clock(theirs);
                }
                Err(problem) => bail!(problem),
            }
        }
        bail!("the registry does not take this host's clock, nor its own")
    }
}

/// A call that a command of this host places, over a connection of its own: there is no socket.
pub(super) async fn place(agent: Arc<Agent>, placement: Placement) {
    let Placement {
        device,
        envelope,
        frames,
    } = placement;
    let call = async {
        let mut connection = Connection::open(&agent.registry).await?;
        match connection.request(&device, envelope).await? {
            Ok(mut answers) => {
                while let Some(frame) = answers.next().await? {
                    if frames.send(frame).await.is_err() {
                        return Ok(());
                    }
                }
            }
            Err(problem) => {
                let failed = Failed {
                    call: 0,
                    code: problem.code,
                    detail: problem.detail,
                    retry_after_s: problem.retry_after_s,
                    last_seen: problem.last_seen,
                };
                let _ = frames.send(failed.into()).await;
                return Ok(());
            }
        }
        anyhow::Ok(())
    };
    // The caller sees the end of its frames.
    if let Err(error) = call.await {
        tracing::info!("a call could not be placed: {error:#}");
    }
}
