//! Terminals for callers (PROTOCOL §20.2). A shell belongs to the caller that started it and
//! outlives its stream for a minute, so that a call that breaks does not take a person's work along.

mod login;
mod session;

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::{Result, bail};
use parking_lot::Mutex;
use ringback_protocol::PeerId;
use ringback_protocol::service::MAX_FRAME;
use ringback_protocol::service::shell::{
    Failed, MAX_SHELLS, MAX_SHELLS_EACH, ShellError, Start, Started, ToCaller, ToDevice,
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};

use super::Frames;
use session::{Attached, Next, Session};

/// The shells of this agent.
#[derive(Debug, Default)]
pub(crate) struct Shells(Arc<Mutex<HashMap<[u8; 16], Arc<Session>>>>);

impl Shells {
    /// Serves one stream: starts a shell or attaches to one.
    pub(crate) async fn serve<R, W>(&self, caller: PeerId, recv: R, mut send: W) -> Result<()>
    where
        R: AsyncRead + Unpin + Send,
        W: AsyncWrite + Unpin + Send,
    {
        let mut frames = Frames::new(recv, MAX_FRAME);
        let start = match frames.first().await? {
            Some(frame) => match ToDevice::decode(&frame) {
                Ok(ToDevice::Start(start)) => start,
                _ => return fail(&mut send, ShellError::BadFrame, "Start comes first").await,
            },
            None => return Ok(send.shutdown().await?),
        };
        let (session, resumed) = match self.find(caller, &start) {
            Some(session) => (session, true),
            None => match self.start(caller, &start) {
                Ok(session) => (session, false),
                Err((code, detail)) => return fail(&mut send, code, &detail).await,
            },
        };
        let attached = session.attach(if resumed { start.received } else { 0 });
        session.resize(start.cols, start.rows);
        let started = Started {
            session: session.id,
            resumed,
            from: attached.from,
            input: attached.input,
        };
        send.write_all(&ToCaller::Started(started).encode()).await?;
        tokio::select! {
            result = inward(&mut frames, &session, &attached) => result?,
            result = outward(&mut send, &attached) => {
                if result? == Over::Exited {
                    self.forget(&session.id);
                }
            }
        }
        Ok(send.shutdown().await?)
    }

    /// Ends the shells of a caller that may call no more.
    pub(crate) fn end(&self, caller: &PeerId) {
        self.0.lock().retain(|_, session| session.caller != *caller);
    }

    fn find(&self, caller: PeerId, start: &Start) -> Option<Arc<Session>> {
        let sessions = self.0.lock();
        let session = sessions.get(start.session.as_ref()?)?;
        (session.caller == caller).then(|| session.clone())
    }

    fn start(&self, caller: PeerId, start: &Start) -> Result<Arc<Session>, (ShellError, String)> {
        let mut sessions = self.0.lock();
        if sessions.len() >= MAX_SHELLS {
            return Err((ShellError::TooMany, format!("{MAX_SHELLS} are open")));
        }
        let theirs = sessions.values().filter(|session| session.caller == caller);
        if theirs.count() >= MAX_SHELLS_EACH {
            let told = format!("{MAX_SHELLS_EACH} of this caller are open");
            return Err((ShellError::TooMany, told));
        }
        let (session, ended) = Session::start(caller, start)
            .map_err(|error| (ShellError::CanNotStart, format!("{error:#}")))?;
        sessions.insert(session.id, session.clone());
        let (id, all) = (session.id, Arc::downgrade(&self.0));
        tokio::spawn(async move {
            // Nobody has attached for too long.
            if ended.await.is_ok()
                && let Some(all) = all.upgrade()
            {
                all.lock().remove(&id);
            }
        });
        Ok(session)
    }

    fn forget(&self, id: &[u8; 16]) {
        self.0.lock().remove(id);
    }
}

/// Takes what the caller says, until it says no more.
async fn inward<R: AsyncRead + Unpin>(
    frames: &mut Frames<R>,
    session: &Session,
    attached: &Attached,
) -> Result<()> {
    while let Some(frame) = frames.next().await? {
        match ToDevice::decode(&frame)? {
            ToDevice::Input(bytes) => {
                if !attached.take(session, bytes) {
                    bail!("more input waits than a device has to take");
                }
            }
            ToDevice::Resize(size) => session.resize(size.cols, size.rows),
            ToDevice::Received(bytes) => attached.received(bytes),
            ToDevice::Start(_) => bail!("Start comes once"),
            ToDevice::Unknown(_) => {}
        }
    }
    Ok(())
}

#[derive(PartialEq, Eq)]
enum Over {
    Exited,
    TakenOver,
}

/// Tells the caller what happens.
async fn outward(send: &mut (impl AsyncWrite + Unpin), attached: &Attached) -> Result<Over> {
    let mut confirmed = attached.input_taken;
    loop {
        match attached.next(confirmed).await {
            Next::Output(bytes) => send.write_all(&ToCaller::Output(bytes).encode()).await?,
            Next::Taken(taken) => {
                confirmed = taken;
                send.write_all(&ToCaller::Taken(taken).encode()).await?;
            }
            Next::Exited(exited) => {
                send.write_all(&ToCaller::Exited(exited).encode()).await?;
                return Ok(Over::Exited);
            }
            Next::TakenOver => {
                fail(send, ShellError::TakenOver, "").await?;
                return Ok(Over::TakenOver);
            }
        }
    }
}

async fn fail(send: &mut (impl AsyncWrite + Unpin), code: ShellError, detail: &str) -> Result<()> {
    let failed = Failed {
        code,
        detail: detail.to_owned(),
    };
    send.write_all(&ToCaller::Failed(failed).encode()).await?;
    Ok(send.shutdown().await?)
}

#[cfg(test)]
mod tests {
    use ringback_protocol::SecretKey;

    use super::*;

    #[tokio::test]
    async fn what_does_not_begin_with_start_is_told_so() {
        let shells = Shells::default();
        let caller = SecretKey::from_seed(&[1; 32]).id();
        let early = ToDevice::Input(b"exit\n".to_vec()).encode();
        for bytes in [&early[..], &[0, 2, 0x71, 0xff]] {
            let mut answer = Vec::new();
            shells.serve(caller, bytes, &mut answer).await.unwrap();
            let failed = match ToCaller::decode(&answer[2..]) {
                Ok(ToCaller::Failed(failed)) => failed,
                other => panic!("{other:?}"),
            };
            assert_eq!(failed.code, ShellError::BadFrame);
        }
        assert!(shells.0.lock().is_empty());
    }
}
