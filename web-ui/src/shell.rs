//! A shell on the device (PROTOCOL.md, section 20.2), attached to again whenever the link is new.

use std::collections::VecDeque;

use futures::{
    StreamExt,
    channel::mpsc,
    future::{Either, select},
};
use ringback_protocol::service::{
    FrameBuffer,
    shell::{
        CONFIRM_EACH, Exited, KEPT_INPUT, MAX_CHUNK, ShellError, Size, Start, ToCaller, ToDevice,
    },
};
use ringback_wasm::{Link, LinkState, Mode, Stream};

use crate::{browser, links::Links, sentence::Failure};

/// What happens at the terminal.
pub(crate) enum Event {
    Input(Vec<u8>),
    Resized,
    /// Bytes of output that are on the screen.
    Shown(usize),
}

/// The terminal as the shell needs it.
pub(crate) trait Screen {
    fn size(&self) -> (u16, u16);
    /// [`Event::Shown`] follows once it is seen.
    fn write(&self, bytes: &[u8]);
    /// A line of the page's own, apart from the device's.
    fn remark(&self, text: &str);
    /// Ready for another shell; what was shown stays.
    fn renew(&self);
}

/// How it ended.
pub(crate) enum End {
    Exited(Exited),
    Failed(Failure),
}

struct Shell {
    session: Option<[u8; 16]>,
    /// Bytes of output that came, and that were shown and confirmed, since the start of the session.
    came: u64,
    shown: u64,
    confirmed: u64,
    /// Bytes of input that the device has; behind them `unconfirmed`, of which `sent` went out.
    taken: u64,
    unconfirmed: VecDeque<u8>,
    sent: usize,
}

/// Runs a shell until it ends, over as many links as it takes.
pub(crate) async fn run(
    links: Links,
    service: &str,
    screen: &dyn Screen,
    mut events: mpsc::UnboundedReceiver<Event>,
) -> End {
    /// Streams that may break off one after the other on a link that stands.
    const BREAKS: u32 = 4;
    let mut shell = Shell {
        session: None,
        came: 0,
        shown: 0,
        confirmed: 0,
        taken: 0,
        unconfirmed: VecDeque::new(),
        sent: 0,
    };
    let mut lost = None;
    let mut breaks = 0;
    loop {
        let (number, link) = links.next(lost).await;
        let came = shell.came;
        match shell.attach(&link, service, screen, &mut events).await {
            Ok(end) => return end,
            Err(failure) if matches!(failure.code.as_str(), "link_closed" | "stream_reset") => {
                breaks = if shell.came > came { 0 } else { breaks + 1 };
                if breaks > BREAKS {
                    return End::Failed(failure);
                }
                if links.number() == number && link.state() != LinkState::Ended {
                    browser::sleep(250 << breaks).await;
                }
                let gone = links.number() != number || link.state() == LinkState::Ended;
                lost = gone.then_some(number);
            }
            Err(failure) => return End::Failed(failure),
        }
    }
}

impl Shell {
    /// One stream: from Start to its end.
    async fn attach(
        &mut self,
        link: &Link,
        service: &str,
        screen: &dyn Screen,
        events: &mut mpsc::UnboundedReceiver<Event>,
    ) -> Result<End, Failure> {
        let stream = link.open(service, Mode::Raw)?;
        let (cols, rows) = screen.size();
        let start = ToDevice::Start(Start {
            cols,
            rows,
            term: "xterm-256color".into(),
            session: self.session,
            received: self.came,
        });
        stream.write(&start.encode()).await?;
        let mut buffer = FrameBuffer::default();
        let mut reading = Box::pin(read(stream.clone()));
        let mut started = false;
        loop {
            match select(reading, events.next()).await {
                Either::Left((bytes, _)) => {
                    let Some(bytes) = bytes? else {
                        return Err(Failure::new("stream_reset", "the shell's stream ended"));
                    };
                    buffer.push(&bytes);
                    while let Some(frame) = buffer.next_frame().map_err(misbehaved)? {
                        match ToCaller::decode(&frame).map_err(misbehaved)? {
                            ToCaller::Started(it) => {
                                started = true;
                                self.started(it.session, it.resumed, it.from, it.input, screen);
                                self.send(&stream).await?;
                            }
                            ToCaller::Output(bytes) => {
                                self.came += bytes.len() as u64;
                                screen.write(&bytes);
                            }
                            ToCaller::Taken(bytes) => {
                                self.confirm_input(bytes);
                                self.send(&stream).await?;
                            }
                            ToCaller::Exited(exited) => return Ok(End::Exited(exited)),
                            ToCaller::Failed(failed) => {
                                return Ok(End::Failed(refused(&failed.code, &failed.detail)));
                            }
                            ToCaller::Unknown(_) => {}
                        }
                    }
                    reading = Box::pin(read(stream.clone()));
                }
                Either::Right((event, unread)) => {
                    reading = unread;
                    match event {
                        None => return Ok(End::Failed(Failure::new("stream_reset", ""))),
                        Some(Event::Input(bytes)) => {
                            self.unconfirmed.extend(bytes);
                            if started {
                                self.send(&stream).await?;
                            }
                        }
                        Some(Event::Resized) => {
                            let (cols, rows) = screen.size();
                            let resize = ToDevice::Resize(Size { cols, rows });
                            stream.write(&resize.encode()).await?;
                        }
                        Some(Event::Shown(bytes)) => {
                            self.shown += bytes as u64;
                            if started && self.shown - self.confirmed >= CONFIRM_EACH as u64 / 2 {
                                self.confirmed = self.shown;
                                let received = ToDevice::Received(self.shown);
                                stream.write(&received.encode()).await?;
                            }
                        }
                    }
                }
            }
        }
    }

    fn started(
        &mut self,
        session: [u8; 16],
        resumed: bool,
        from: u64,
        input: u64,
        screen: &dyn Screen,
    ) {
        if resumed {
            if from > self.came {
                screen.remark("some output was lost");
            }
            self.came = from;
            self.shown = from;
            self.confirmed = from;
            self.confirm_input(input);
        } else {
            if self.session.is_some() {
                screen.renew();
                screen.remark("the old shell is gone; this is a new one");
                // What was typed was meant for the old one.
                self.unconfirmed.clear();
            }
            self.came = 0;
            self.shown = 0;
            self.confirmed = 0;
            self.taken = input;
        }
        self.session = Some(session);
        self.sent = 0;
    }

    fn confirm_input(&mut self, taken: u64) {
        let more = taken
            .saturating_sub(self.taken)
            .min(self.unconfirmed.len() as u64) as usize;
        self.unconfirmed.drain(..more);
        self.sent = self.sent.saturating_sub(more);
        self.taken += more as u64;
    }

    /// Sends the input that the device may be sent.
    async fn send(&mut self, stream: &Stream) -> Result<(), Failure> {
        while self.sent < self.unconfirmed.len().min(KEPT_INPUT) {
            let until = self
                .unconfirmed
                .len()
                .min(KEPT_INPUT)
                .min(self.sent + MAX_CHUNK);
            let bytes = self.unconfirmed.range(self.sent..until).copied().collect();
            self.sent = until;
            stream.write(&ToDevice::Input(bytes).encode()).await?;
        }
        Ok(())
    }
}

async fn read(stream: Stream) -> Result<Option<Vec<u8>>, Failure> {
    Ok(stream.read().await?)
}

fn refused(code: &ShellError, detail: &str) -> Failure {
    let code = match code {
        ShellError::TooMany => "too_many_shells",
        other => other.as_str(),
    };
    Failure::new(code, detail)
}

fn misbehaved(error: impl std::fmt::Display) -> Failure {
    Failure::new("device_misbehaved", error.to_string())
}
