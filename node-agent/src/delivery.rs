//! One request on its way to the device: by the registry, and beside it over the LAN (PROTOCOL §17),
//! whichever is there first.

use std::time::Duration;

use anyhow::Result;
use ringback_protocol::call::Call;
use ringback_protocol::frame::Frame;
use ringback_protocol::{Code, PeerId};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::failure::{Exit, Failure};
use crate::lan::Way;
use crate::signalling::Signalling;

/// The registry is given this long before the LAN is searched.
const LAN_DELAY: Duration = Duration::from_millis(300);
/// How long the LAN is searched once the registry can not be reached: mDNS answers within 200 ms, but
/// not twice in a second, and the question is repeated after one.
const LAN_PATIENCE: Duration = Duration::from_millis(1500);
/// The same if the registry says that the device is offline, which is true as a rule.
const LAN_PATIENCE_OFFLINE: Duration = Duration::from_millis(500);

/// Dropping it gives up both ways.
pub(crate) struct Delivery {
    lan: Way,
    /// The registry's line is open, or has failed.
    reached: watch::Receiver<bool>,
    envelope: watch::Sender<Option<Vec<u8>>>,
    frames: mpsc::Receiver<Result<Frame>>,
    _task: AbortOnDropHandle<()>,
    /// What the registry's way ended with, and until when the LAN's is waited for.
    failed: Option<(Failed, Instant)>,
}

enum Failed {
    Error(anyhow::Error),
    /// The registry's word that the device is not to be had.
    Frame(Frame),
}

impl Delivery {
    /// Starts both ways; the LAN's only if it is allowed.
    pub(crate) fn start(signalling: Signalling, device: PeerId, lan: bool) -> Self {
        let lan = if lan {
            Way::look_for(device, LAN_DELAY)
        } else {
            Way::closed()
        };
        let (reached_sender, reached) = watch::channel(false);
        let (envelope, envelopes) = watch::channel(None);
        let (frames_sender, frames) = mpsc::channel(4);
        let task = tokio::spawn(async move {
            let going = by_registry(
                &signalling,
                device,
                &reached_sender,
                envelopes,
                &frames_sender,
            );
            if let Err(error) = going.await {
                reached_sender.send_replace(true);
                // The call may be over.
                let _ = frames_sender.send(Err(error)).await;
            }
        });
        Self {
            lan,
            reached,
            envelope,
            frames,
            _task: AbortOnDropHandle::new(task),
            failed: None,
        }
    }

    /// Waits until the device has been found on the LAN; for ever if it is not.
    pub(crate) fn found_on_lan(&self) -> impl Future<Output = ()> + use<> {
        self.lan.found()
    }

    /// Waits until the request can be sent; true: over the LAN.
    pub(crate) async fn ready(&mut self) -> Result<bool> {
        let mut reached = self.reached.clone();
        let found = self.lan.found();
        tokio::select! {
            biased;
            // An error means that the task has ended, which is told below.
            _ = reached.wait_for(|reached| *reached) => {}
            () = found => return Ok(true),
        }
        match self.frames.try_recv() {
            Ok(Err(error)) => self.note_failure(Failed::Error(error))?,
            // The registry says nothing before it is asked.
            Ok(Ok(_)) | Err(_) => return Ok(false),
        }
        let deadline = self.failed.as_ref().map(|(_, until)| *until);
        let found = self.lan.found();
        tokio::select! {
            () = found => Ok(true),
            () = sleep_until(deadline) => match self.failed.take() {
                Some((Failed::Error(error), _)) => Err(error),
                _ => Ok(false),
            },
        }
    }

    /// Sends the request, both ways if there are two.
    pub(crate) fn hand_over(&self, envelope: &[u8]) {
        self.envelope.send_replace(Some(envelope.to_vec()));
        self.lan.hand_over(envelope.to_vec());
    }

    /// The next frame that answers `call`. An error is the end: no way leads to the device.
    pub(crate) async fn next(&mut self, call: &Call) -> Result<Frame> {
        loop {
            let deadline = self.failed.as_ref().map(|(_, until)| *until);
            tokio::select! {
                frame = self.lan.next() => {
                    if call.is_authentic(&frame) && !is_echo(call, &frame) {
                        return Ok(frame);
                    }
                    tracing::debug!("somebody on the LAN answers who is not the device");
                }
                frame = self.frames.recv(), if self.failed.is_none() => match frame {
                    Some(Ok(frame)) if is_absence(&frame) => {
                        if self.lan.is_closed() {
                            return Ok(frame);
                        }
                        self.note_failure(Failed::Frame(frame))?;
                    }
                    // The device has the request by both ways, and has answered the other one.
                    Some(Ok(frame)) if !self.lan.is_closed() && is_echo(call, &frame) => {
                        self.note_failure(Failed::Frame(frame))?;
                    }
                    Some(Ok(frame)) => {
                        self.lan.close();
                        return Ok(frame);
                    }
                    Some(Err(error)) => self.note_failure(Failed::Error(error))?,
                    None => self.note_failure(Failed::Error(anyhow::anyhow!("the agent is shutting down")))?,
                },
                () = sleep_until(deadline) => {
                    return match self.failed.take() {
                        Some((Failed::Frame(frame), _)) => Ok(frame),
                        Some((Failed::Error(error), _)) => Err(error),
                        None => std::future::pending().await,
                    };
                }
            }
        }
    }

    /// The registry's way is over. That is an error at once where it was the only one.
    fn note_failure(&mut self, failed: Failed) -> Result<()> {
        match failed {
            // What the device or the registry refuses, nobody on the LAN will change.
            Failed::Error(error) if self.lan.is_closed() || !is_away(&error) => Err(error),
            failed => {
                self.lan.hurry();
                let patience = match &failed {
                    Failed::Error(error) if Failure::exit_code(error) == Exit::Registry as u8 => {
                        LAN_PATIENCE
                    }
                    _ => LAN_PATIENCE_OFFLINE,
                };
                self.failed = Some((failed, Instant::now() + patience));
                Ok(())
            }
        }
    }
}

async fn by_registry(
    signalling: &Signalling,
    device: PeerId,
    reached: &watch::Sender<bool>,
    mut envelopes: watch::Receiver<Option<Vec<u8>>>,
    frames: &mpsc::Sender<Result<Frame>>,
) -> Result<()> {
    let mut line = signalling.open().await?;
    reached.send_replace(true);
    let Ok(envelope) = envelopes
        .wait_for(Option::is_some)
        .await
        .map(|envelope| envelope.clone().unwrap_or_default())
    else {
        return Ok(());
    };
    let mut answers = line.place(&device, envelope).await?;
    while !frames.is_closed() {
        let frame = answers.next().await?;
        let ends = matches!(
            frame,
            Frame::Answered(_) | Frame::Refused(_) | Frame::Failed(_)
        );
        if frames.send(Ok(frame)).await.is_err() || ends {
            break;
        }
    }
    // Nobody closes the channel: its end would be the agent's.
    frames.closed().await;
    Ok(())
}

/// The registry does not reach the device, which says nothing about the LAN.
fn is_absence(frame: &Frame) -> bool {
    match frame {
        Frame::Failed(failed) => matches!(
            failed.code,
            Code::DeviceOffline | Code::UnknownDevice | Code::NoAnswer
        ),
        _ => false,
    }
}

/// The registry is not there, or says that the device is not.
fn is_away(error: &anyhow::Error) -> bool {
    let exit = Failure::exit_code(error);
    [Exit::Registry, Exit::Offline, Exit::Other]
        .map(|exit| exit as u8)
        .contains(&exit)
}

/// The refusal of a request that the device has already.
fn is_echo(call: &Call, frame: &Frame) -> bool {
    call.refusal(frame)
        .is_some_and(|refusal| refusal.code == Code::Replayed)
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
