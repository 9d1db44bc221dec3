//! The task that drives one browser's connection: str0m between the inlet, the socket and the
//! streams.
//!
//! Each turn takes everything that has come in, hands over what streams have to say as far as there
//! is room, sends all of it in as few calls as it can, and sleeps until something happens.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ringback_protocol::PeerId;
use ringback_protocol::candidate::canonical;
use ringback_protocol::channel::reset;
use ringback_protocol::rtc::{CHANNEL_LABEL, MAX_CHANNELS, MAX_WAITING_CHANNELS};
use str0m::channel::{ChannelConfig, ChannelId, Reliability};
use str0m::net::{Protocol, Receive};
use str0m::{Event, IceConnectionState, Input, Output, Rtc, RtcError};
use tokio::sync::mpsc;

use super::connection::{BASE_V4, BASE_V6, PATIENCE, SEND_WINDOW};
use super::inlet::{Batch, Inlet};
use super::link::{BrowserLink, Ending, LinkShared};
use super::pacing::{Pacing, RoundTrips, Smoother, TICK};
use super::stream::{Shared, Work};
use super::transmit::{Outlet, Way};
use crate::endpoint::PathSocket;
use crate::stream::Stream;

/// How long a link that ICE has lost may take to come back.
const LOST: Duration = Duration::from_secs(10);
/// How long the last words of a link may take to be acknowledged.
const FAREWELL: Duration = Duration::from_millis(300);

/// Batches of datagrams that are taken before something is sent.
const TURN: usize = 32;
/// What str0m is given before it is asked what comes of it, as datagrams of data, each of which
/// counts as much as [`SMALL_ONES`] others. A browser's SCTP sends no more than four packets for an
/// acknowledgement (RFC 9260, 6.1, D), and expects one for every second packet (6.2): one for a whole
/// burst would make it slower with every millisecond of the round trip. Of acknowledgements more are
/// taken together: each question costs as much as there is data under way. DTLS keeps no more than 30.
const UNDRAINED: usize = 2 * SMALL_ONES;
const SMALL_ONES: usize = 8;
/// Bytes of a datagram that has data in it, about.
const LARGE: usize = 500;

pub(super) struct Driver {
    caller: PeerId,
    rtc: Rtc,
    socket: Arc<PathSocket>,
    inlet: Arc<Inlet>,
    outlet: Outlet,
    link: Arc<LinkShared>,
    accepted: mpsc::Sender<Stream>,
    work: Arc<Work>,
    channels: HashMap<ChannelId, OpenChannel>,
    /// Channels that have something to send, in the order of their turns.
    waiting: VecDeque<ChannelId>,
    pacing: Pacing,
    smoother: Smoother,
    round_trips: RoundTrips,
    /// What str0m was given and has not been asked about, in small datagrams.
    undrained: usize,
    written: u64,
    /// str0m wants to be called then.
    timeout: Instant,
    /// When the link is given up, unless it is (again) connected.
    deadline: Option<Instant>,
    own: [SocketAddr; 2],
    /// Why the link has ended.
    reason: String,
}

struct OpenChannel {
    shared: Arc<Shared>,
    waiting: bool,
}

/// Why the driver ends.
enum End {
    /// The browser has closed the connection, or it has broken.
    Gone(String),
    /// This end closes it.
    Closing(Ending),
}

impl Driver {
    /// Drives `rtc` in a task of its own until the link ends.
    pub(super) fn start(
        socket: Arc<PathSocket>,
        caller: PeerId,
        rtc: Rtc,
        inlet: Arc<Inlet>,
        way: Way,
    ) -> BrowserLink {
        let now = Instant::now();
        // Channels over the limit are closed before they get here.
        let (accepted, streams) = mpsc::channel(MAX_CHANNELS + MAX_WAITING_CHANNELS);
        let link = Arc::new(LinkShared::default());
        let own = [BASE_V4, BASE_V6].map(|base| base.parse().expect("an address"));
        let driver = Self {
            caller,
            rtc,
            outlet: Outlet::new(way),
            socket,
            inlet,
            link: link.clone(),
            accepted,
            work: Arc::default(),
            channels: HashMap::new(),
            waiting: VecDeque::new(),
            pacing: Pacing::new(SEND_WINDOW, now),
            smoother: Smoother::new(now),
            round_trips: RoundTrips::default(),
            undrained: 0,
            written: 0,
            timeout: now,
            deadline: Some(now + PATIENCE),
            own,
            reason: "an internal fault".into(),
        };
        tokio::spawn(driver.run());
        BrowserLink::new(caller, link, streams)
    }

    async fn run(mut self) {
        let end = self.drive().await;
        self.reason = match end {
            End::Gone(reason) => reason,
            End::Closing(ending) => {
                self.say_farewell(ending).await;
                ending.to_string()
            }
        };
    }

    async fn drive(&mut self) -> End {
        loop {
            match self.turn().await {
                Err(end) => return end,
                Ok(true) => {
                    tokio::task::yield_now().await;
                    continue;
                }
                Ok(false) => {}
            }
            let mut wake = self
                .deadline
                .map_or(self.timeout, |at| at.min(self.timeout));
            if self.smoother.is_waiting() {
                wake = wake.min(Instant::now() + TICK);
            }
            tokio::select! {
                () = self.inlet.arrived() => {}
                () = self.work.appeared.notified() => {}
                ending = self.link.closing() => return End::Closing(ending),
                () = tokio::time::sleep_until(wake.into()) => {}
            }
        }
    }

    /// What can be done now. True if more has come than one turn takes.
    async fn turn(&mut self) -> Result<bool, End> {
        let now = Instant::now();
        if self.deadline.is_some_and(|at| at <= now) {
            return Err(End::Gone("the browser does not answer any more".into()));
        }
        let mut more = true;
        for _ in 0..TURN {
            let Some(batch) = self.inlet.pop() else {
                more = false;
                break;
            };
            self.take(&batch).await?;
        }
        if self.timeout <= now {
            self.rtc
                .handle_input(Input::Timeout(now))
                .map_err(|error| broken(&error))?;
        }
        self.drain().await?;
        self.note_work();
        if self.hand_over()? {
            self.drain().await?;
        }
        let rate = self.pacing.rate(self.round_trips.least());
        while let Some((to, datagram)) = self.smoother.pop(rate, Instant::now()) {
            self.outlet.push(to, &datagram).await;
        }
        self.outlet.flush().await;
        self.link.note_bytes(self.outlet.bytes);
        Ok(more)
    }

    /// Takes datagrams. Whether they are the browser's ICE and DTLS say.
    async fn take(&mut self, batch: &Batch) -> Result<(), End> {
        let from = batch.from;
        let to = self.own[usize::from(from.is_ipv6())];
        self.link.received(batch.contents.len());
        for datagram in batch.contents.chunks(batch.stride) {
            let Ok(received) = Receive::new(Protocol::Udp, from, to, datagram) else {
                continue;
            };
            let now = Instant::now();
            let input = Input::Receive(now, received);
            if !self.rtc.accepts(&input) {
                continue;
            }
            // Only the browser can have made it. That it may come from anywhere must not make this
            // device send to everywhere.
            if !self.inlet.knows(from) && !self.socket.browsers().add(&self.inlet, from) {
                continue;
            }
            self.round_trips.received(datagram, now);
            // Who can forge the browser's address can send garbage, and must not end the link by
            // it. What is true is seen at the next poll, or by ICE.
            if let Err(error) = self.rtc.handle_input(input) {
                tracing::debug!(%error, "a datagram of a browser's link is not taken");
            }
            self.undrained += if datagram.len() < LARGE {
                1
            } else {
                SMALL_ONES
            };
            if self.undrained >= UNDRAINED {
                self.drain().await?;
            }
        }
        Ok(())
    }

    /// Takes all that str0m has to give.
    async fn drain(&mut self) -> Result<(), End> {
        self.undrained = 0;
        loop {
            match self.rtc.poll_output().map_err(|error| broken(&error))? {
                Output::Timeout(at) => {
                    self.timeout = at;
                    return Ok(());
                }
                Output::Transmit(transmit) => {
                    let to = canonical(transmit.destination);
                    let (datagram, now) = (&*transmit.contents, Instant::now());
                    if self.round_trips.sent(datagram, now) {
                        self.outlet.push(to, datagram).await;
                        continue;
                    }
                    // Only the path that ICE has chosen carries anything but its checks.
                    let rtt = self.round_trips.least();
                    self.link.note_path(to, rtt);
                    let rate = self.pacing.rate(rtt);
                    if self.smoother.allows(datagram.len(), rate, now) {
                        self.outlet.push(to, datagram).await;
                    } else {
                        self.smoother.push(to, datagram.to_vec());
                    }
                }
                Output::Event(event) => self.handle_event(event)?,
            }
        }
    }

    fn handle_event(&mut self, event: Event) -> Result<(), End> {
        match event {
            Event::Connected => {
                self.deadline = None;
                self.link.connected();
            }
            Event::IceConnectionStateChange(IceConnectionState::Disconnected) => {
                let lost = Instant::now() + LOST;
                self.deadline = Some(self.deadline.map_or(lost, |at| at.min(lost)));
            }
            Event::IceConnectionStateChange(
                IceConnectionState::Connected | IceConnectionState::Completed,
            ) if self.link.is_connected() => self.deadline = None,
            Event::ChannelOpen(id, label) => self.open(id, &label),
            Event::ChannelData(data) => {
                if let Some(channel) = self.channels.get(&data.id) {
                    // Text is no kind of message (§19.2).
                    if !data.binary {
                        channel.shared.reset(reset::VIOLATION);
                        self.wait(data.id);
                    } else if channel.shared.handle_message(&data.data) {
                        self.wait(data.id);
                    }
                    self.close_if_over(data.id);
                }
            }
            Event::ChannelClose(id) => {
                if let Some(channel) = self.channels.remove(&id) {
                    channel.shared.close();
                }
            }
            Event::Closed => return Err(End::Gone("the browser ended the link".into())),
            _ => {}
        }
        Ok(())
    }

    /// The browser has opened a channel.
    fn open(&mut self, id: ChannelId, label: &str) {
        let channel = self.rtc.channel(id);
        let config = channel.as_ref().and_then(|channel| channel.config());
        let fits = config.is_some_and(is_for_a_stream) && label == CHANNEL_LABEL;
        if !fits || self.channels.len() >= MAX_CHANNELS + MAX_WAITING_CHANNELS {
            tracing::info!(
                open = self.channels.len(),
                "closed a channel that a browser may not open"
            );
            self.rtc.direct_api().close_data_channel(id);
            return;
        }
        let account = (self.caller, self.socket.browsers().unread());
        let shared = Shared::new(id, self.work.clone(), account);
        let stream = Stream::channel(shared.halves());
        self.channels.insert(
            id,
            OpenChannel {
                shared,
                waiting: false,
            },
        );
        // Full or closed: the link is ending, and dropping the stream resets it.
        let _ = self.accepted.try_send(stream);
    }

    fn note_work(&mut self) {
        for id in self.work.take() {
            self.wait(id);
        }
    }

    fn wait(&mut self, id: ChannelId) {
        if let Some(channel) = self.channels.get_mut(&id)
            && !channel.waiting
        {
            channel.waiting = true;
            self.waiting.push_back(id);
        }
    }

    /// Hands over what the streams have to say, a message of each in turn, as far as there is room.
    /// True if there was anything.
    fn hand_over(&mut self) -> Result<bool, End> {
        if self.waiting.is_empty() {
            return Ok(false);
        }
        let mut under_way = self.under_way();
        // What opens a channel is under way, too, and was not counted.
        let delivered = self.written.saturating_sub(under_way as u64);
        let limit = self
            .pacing
            .limit(delivered, self.round_trips.least(), Instant::now());
        let mut any = false;
        while under_way < limit
            && let Some(id) = self.waiting.pop_front()
        {
            let Some(channel) = self.channels.get_mut(&id) else {
                continue;
            };
            let Some(message) = channel.shared.poll_message() else {
                channel.waiting = false;
                self.close_if_over(id);
                continue;
            };
            self.waiting.push_back(id);
            let Some(mut data_channel) = self.rtc.channel(id) else {
                continue;
            };
            let taken = data_channel.write(true, &message);
            if !taken.map_err(|error| broken(&error))? {
                // Its own limit is twice this one: what it has not taken would be missing.
                return Err(End::Gone(
                    "the browser acknowledges nothing any more".into(),
                ));
            }
            any = true;
            under_way += message.len();
            self.written += message.len() as u64;
        }
        if self.waiting.is_empty() {
            self.pacing.idle();
        }
        Ok(any)
    }

    /// Bytes that were handed over and are not acknowledged yet.
    fn under_way(&mut self) -> usize {
        let rtc = &mut self.rtc;
        self.channels
            .keys()
            .filter_map(|id| Some(rtc.channel(*id)?.buffered_amount()))
            .sum()
    }

    fn close_if_over(&mut self, id: ChannelId) {
        let over = |channel: &OpenChannel| !channel.waiting && channel.shared.is_over();
        if self.channels.get(&id).is_some_and(over) {
            // What was handed over before still arrives.
            self.rtc.direct_api().close_data_channel(id);
        }
    }

    /// Resets what is open, and closes.
    async fn say_farewell(&mut self, ending: Ending) {
        let ids: Vec<ChannelId> = self.channels.keys().copied().collect();
        for id in ids {
            self.channels[&id].shared.reset(ending.reset_code());
            self.wait(id);
        }
        let until = Instant::now() + FAREWELL;
        loop {
            if self.turn().await.is_err() || (self.waiting.is_empty() && self.under_way() == 0) {
                break;
            }
            let now = Instant::now();
            if now >= until {
                break;
            }
            // Acknowledgements may be there already.
            tokio::select! {
                () = self.inlet.arrived() => {}
                () = tokio::time::sleep_until(self.timeout.min(until).min(now + 5 * TICK).into()) => {}
            }
        }
        if self.rtc.close().is_ok() {
            // Whatever it still gives: the link is over.
            let _ = self.drain().await;
            for (to, datagram) in self.smoother.rest() {
                self.outlet.push(to, &datagram).await;
            }
            self.outlet.flush().await;
        }
    }
}

/// However it ends: nobody must wait for a link that is gone.
impl Drop for Driver {
    fn drop(&mut self) {
        self.socket.browsers().remove(&self.inlet);
        for channel in self.channels.values() {
            channel.shared.close();
        }
        self.link.ended(std::mem::take(&mut self.reason));
    }
}

fn broken(error: &RtcError) -> End {
    End::Gone(format!("the browser's connection broke: {error}"))
}

fn is_for_a_stream(config: &ChannelConfig) -> bool {
    config.ordered && config.reliability == Reliability::Reliable && config.negotiated.is_none()
}
