//! How a request reaches the registry, and its answers this process: by an HTTPS request of its own,
//! or by the socket that this host's agent keeps open.

use anyhow::{Context as _, Result, bail};
use ringback_protocol::PeerId;
use ringback_protocol::call::Outcome;
use ringback_protocol::frame::{Failed, Frame};
use tokio::sync::mpsc;

use crate::explanation::explain;
use crate::failure::{Exit, Failure};
use crate::registry::{Connection, Frames, Registry};

/// How a request reaches the registry.
#[derive(Debug, Clone)]
pub(crate) enum Signalling {
    /// One HTTPS request of its own.
    Https(Registry),
    /// The socket that this agent keeps open.
    Agent(mpsc::Sender<Placement>),
}

/// A call to be placed over the agent's socket.
#[derive(Debug)]
pub(crate) struct Placement {
    pub(crate) device: PeerId,
    pub(crate) envelope: Vec<u8>,
    pub(crate) frames: mpsc::Sender<Frame>,
}

/// An open way to the registry.
pub(crate) enum Line {
    Https(Box<Connection>),
    Agent(mpsc::Sender<Placement>),
}

/// The frames that answer a request.
pub(crate) enum Answers {
    Https(Frames),
    Agent(mpsc::Receiver<Frame>),
}

impl Signalling {
    pub(crate) async fn open(&self) -> Result<Line> {
        Ok(match self {
            Self::Https(registry) => Line::Https(Box::new(Connection::open(registry).await?)),
            Self::Agent(placements) => Line::Agent(placements.clone()),
        })
    }
}

impl Line {
    pub(crate) async fn place(&mut self, device: &PeerId, envelope: Vec<u8>) -> Result<Answers> {
        match self {
            Self::Https(connection) => match connection.request(device, envelope).await? {
                Ok(frames) => Ok(Answers::Https(frames)),
                Err(problem) => Err(explain(Outcome::Failed(Failed {
                    call: 0,
                    code: problem.code,
                    detail: problem.detail,
                    retry_after_s: problem.retry_after_s,
                    last_seen: problem.last_seen,
                }))),
            },
            Self::Agent(placements) => {
                let (sender, frames) = mpsc::channel(8);
                let placement = Placement {
                    device: *device,
                    envelope,
                    frames: sender,
                };
                placements
                    .send(placement)
                    .await
                    .context("the agent is shutting down")?;
                Ok(Answers::Agent(frames))
            }
        }
    }
}

impl Answers {
    /// The next frame. The end before an outcome is an error: the registry has died.
    pub(crate) async fn next(&mut self) -> Result<Frame> {
        let frame = match self {
            Self::Https(frames) => frames.next().await?,
            Self::Agent(frames) => frames.recv().await,
        };
        match frame {
            Some(frame) => Ok(frame),
            None => bail!(Failure::new(
                Exit::Registry,
                "the registry broke off before the device had answered"
            )),
        }
    }
}
