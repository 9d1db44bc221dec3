//! A browser's side of a call without a browser: ICE, DTLS, SCTP and data channels by str0m on a
//! socket of the test, and PROTOCOL §19 on top of it, which it can also break.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail, ensure};
use ringback_protocol::call::{Call, Outcome, Progress};
use ringback_protocol::candidate::{Candidate, Kind};
use ringback_protocol::channel::Channel;
use ringback_protocol::envelope::{LIFETIME, Proof, Request};
use ringback_protocol::frame::{Frame, FrameReader};
use ringback_protocol::receipt::Nat;
use ringback_protocol::reply::Reply;
use ringback_protocol::rtc::{CHANNEL_LABEL, Description, candidate_lines};
use ringback_protocol::secret::{PASSWORD_ID, Psk};
use ringback_protocol::stream::{Open, Opening};
use ringback_protocol::{PeerId, SecretKey};
use str0m::channel::{ChannelConfig, ChannelId};
use str0m::config::Fingerprint;
use str0m::ice::IceCreds;
use str0m::net::{Protocol, Receive};
use str0m::{Candidate as IceCandidate, Event, IceConnectionState, Input, Output, Rtc};

/// How long anything may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes that wait in SCTP at most, as a page would watch `bufferedAmount`.
const BUFFERED: usize = 256 << 10;

/// One end of a WebRTC connection, driven by whoever waits for something.
pub struct Browser {
    rtc: Rtc,
    socket: UdpSocket,
    own: SocketAddr,
    candidates: Vec<String>,
    streams: HashMap<ChannelId, Stream>,
    pub connected: bool,
    pub ice: IceConnectionState,
    pub closed: bool,
    /// Datagrams that came by address.
    pub heard: HashMap<SocketAddr, u64>,
}

impl std::fmt::Debug for Browser {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Browser")
            .field("connected", &self.connected)
            .field("ice", &self.ice)
            .field("closed", &self.closed)
            .field("heard", &self.heard)
            .field("streams", &self.streams.len())
            .finish_non_exhaustive()
    }
}

struct Stream {
    channel: Channel,
    open: bool,
    closed: bool,
    /// A message that SCTP had no room for.
    held: Option<Vec<u8>>,
}

impl Browser {
    /// With these addresses of its own socket, of which the first is the host's.
    pub fn new(socket: UdpSocket, candidates: &[Candidate]) -> Result<Self> {
        let own = candidates.first().context("no candidate")?.address;
        let mut rtc = Rtc::builder()
            .set_crypto_provider(str0m::crypto::from_feature_flags().into())
            .clear_codecs()
            .set_mtu(1200..=1500)
            .set_sctp_max_buffered_amount(8 << 20)
            .set_sctp_max_message_size(4 << 20)
            .build(Instant::now());
        rtc.add_local_candidate(IceCandidate::host(own, "udp")?);
        rtc.direct_api().set_ice_controlling(true);
        let _ = socket2::SockRef::from(&socket).set_recv_buffer_size(4 << 20);
        Ok(Self {
            rtc,
            socket,
            own,
            candidates: candidate_lines(candidates),
            streams: HashMap::new(),
            connected: false,
            ice: IceConnectionState::New,
            closed: false,
            heard: HashMap::new(),
        })
    }

    /// On the loopback.
    pub fn on_loopback() -> Result<Self> {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        let own = Candidate::udp(Kind::Host, socket.local_addr()?);
        Self::new(socket, &[own])
    }

    /// What goes into the request.
    pub fn offer(&mut self) -> Result<Description> {
        let direct = self.rtc.direct_api();
        let IceCreds { ufrag, pass } = direct.local_ice_credentials();
        let fingerprint = direct.local_dtls_fingerprint().bytes.as_slice();
        Ok(Description {
            ufrag,
            pwd: pass,
            fingerprint: fingerprint.try_into()?,
            candidates: self.candidates.clone(),
            legs: Vec::new(),
        })
    }

    /// Takes the device's description; checks go out with the next [`Browser::until`].
    pub fn answered(&mut self, device: &Description) -> Result<()> {
        for candidate in device.addresses() {
            if candidate.address.is_ipv4() == self.own.is_ipv4() {
                let remote = IceCandidate::host(candidate.address, "udp")?;
                self.rtc.add_remote_candidate(remote);
            }
        }
        let mut direct = self.rtc.direct_api();
        direct.set_remote_ice_credentials(IceCreds {
            ufrag: device.ufrag.clone(),
            pass: device.pwd.clone(),
        });
        direct.set_remote_fingerprint(Fingerprint {
            hash_func: "sha-256".into(),
            bytes: device.fingerprint.to_vec(),
        });
        direct.start_dtls(false)?;
        direct.start_sctp(false);
        // Nothing happens by itself before the first tick.
        self.rtc.handle_input(Input::Timeout(Instant::now()))?;
        Ok(())
    }

    /// Opens a stream; `Open` leaves as soon as the channel is there.
    pub fn open(&mut self, service: &str) -> ChannelId {
        let channel = Channel::caller(&Open::new(service));
        self.open_with(
            channel,
            ChannelConfig {
                label: CHANNEL_LABEL.to_owned(),
                ..ChannelConfig::default()
            },
        )
    }

    /// Opens a channel that need not be one that §19.2 allows.
    pub fn open_with(&mut self, channel: Channel, config: ChannelConfig) -> ChannelId {
        let id = self.rtc.direct_api().create_data_channel(config);
        self.streams.insert(
            id,
            Stream {
                channel,
                open: false,
                closed: false,
                held: None,
            },
        );
        id
    }

    /// The stream's pure machine: to write to, and to read from.
    pub fn stream(&mut self, id: ChannelId) -> &mut Channel {
        &mut self.streams.get_mut(&id).expect("opened here").channel
    }

    /// Is the data channel there?
    pub fn is_open(&self, id: ChannelId) -> bool {
        self.streams[&id].open && !self.streams[&id].closed
    }

    /// Has the device closed the data channel?
    pub fn is_closed(&self, id: ChannelId) -> bool {
        self.streams[&id].closed
    }

    /// Sends a message as it is, past the stream's machine.
    pub fn send_raw(&mut self, id: ChannelId, binary: bool, message: &[u8]) -> Result<()> {
        let mut channel = self.rtc.channel(id).context("the channel is not open")?;
        ensure!(channel.write(binary, message)?, "no room");
        Ok(())
    }

    /// Closes the data channel.
    pub fn close(&mut self, id: ChannelId) {
        self.rtc.direct_api().close_data_channel(id);
    }

    /// Says goodbye.
    pub fn hang_up(&mut self) -> Result<()> {
        self.rtc.close()?;
        self.drain()?;
        Ok(())
    }

    /// Drives the connection until `done`, which is asked after everything that happens.
    pub fn until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) -> Result<()> {
        self.within(PATIENCE, &mut done).and_then(|done| {
            if done {
                Ok(())
            } else {
                bail!("{what} not within {PATIENCE:?}: {self:?}")
            }
        })
    }

    /// The same, for at most `patience`; says whether it came about.
    pub fn within(
        &mut self,
        patience: Duration,
        mut done: impl FnMut(&mut Self) -> bool,
    ) -> Result<bool> {
        let end = Instant::now() + patience;
        loop {
            self.turn()?;
            let done = done(self);
            // What was written meanwhile goes out, too.
            let timeout = self.turn()?;
            if done {
                return Ok(true);
            }
            let now = Instant::now();
            if now >= end {
                return Ok(false);
            }
            let wait = timeout.min(end).saturating_duration_since(now);
            self.receive(wait.max(Duration::from_millis(1)))?;
        }
    }

    fn turn(&mut self) -> Result<Instant> {
        let mut timeout = self.drain()?;
        if self.hand_over()? {
            timeout = self.drain()?;
        }
        if timeout <= Instant::now() && !self.closed {
            self.rtc.handle_input(Input::Timeout(Instant::now()))?;
            timeout = self.drain()?;
        }
        Ok(timeout)
    }

    fn hand_over(&mut self) -> Result<bool> {
        let mut any = false;
        for (id, stream) in &mut self.streams {
            if !stream.open || stream.closed {
                continue;
            }
            let Some(mut channel) = self.rtc.channel(*id) else {
                continue;
            };
            while channel.buffered_amount() < BUFFERED {
                let message = stream.held.take().or_else(|| stream.channel.poll_message());
                let Some(message) = message else { break };
                if !channel.write(true, &message)? {
                    stream.held = Some(message);
                    break;
                }
                any = true;
            }
        }
        Ok(any)
    }

    fn drain(&mut self) -> Result<Instant> {
        loop {
            match self.rtc.poll_output()? {
                Output::Timeout(at) => return Ok(at),
                Output::Transmit(transmit) => {
                    match self
                        .socket
                        .send_to(&transmit.contents, transmit.destination)
                    {
                        // Some addresses lead nowhere.
                        Ok(_) | Err(_) => {}
                    }
                }
                Output::Event(event) => self.handle_event(event),
            }
        }
    }

    fn handle_event(&mut self, event: Event) {
        match event {
            Event::Connected => self.connected = true,
            Event::IceConnectionStateChange(state) => self.ice = state,
            Event::ChannelOpen(id, _) => {
                if let Some(stream) = self.streams.get_mut(&id) {
                    stream.open = true;
                }
            }
            Event::ChannelData(data) => {
                if let Some(stream) = self.streams.get_mut(&data.id) {
                    let taken = stream.channel.handle_message(&data.data);
                    taken.expect("the device keeps to the protocol");
                }
            }
            Event::ChannelClose(id) => {
                if let Some(stream) = self.streams.get_mut(&id) {
                    stream.closed = true;
                }
            }
            Event::Closed => self.closed = true,
            _ => {}
        }
    }

    fn receive(&mut self, wait: Duration) -> Result<()> {
        let mut buffer = [0; 2048];
        self.socket.set_read_timeout(Some(wait))?;
        // A burst, then others have their turn.
        for _ in 0..64 {
            let (length, from) = match self.socket.recv_from(&mut buffer) {
                Ok(received) => received,
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
                {
                    break;
                }
                // What was sent to nobody comes back so.
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => continue,
                Err(error) => return Err(error.into()),
            };
            self.socket
                .set_read_timeout(Some(Duration::from_micros(1)))?;
            *self.heard.entry(from).or_default() += 1;
            let datagram = &buffer[..length];
            let Ok(received) = Receive::new(Protocol::Udp, from, self.own, datagram) else {
                continue;
            };
            let input = Input::Receive(Instant::now(), received);
            if self.rtc.accepts(&input) {
                self.rtc.handle_input(input)?;
                self.drain()?;
            }
        }
        Ok(())
    }
}

impl Browser {
    /// Waits until the stream's service has been opened.
    pub fn opened(&mut self, id: ChannelId) -> Result<Opening> {
        let mut opening = None;
        self.until("the stream's answer", |browser| {
            opening = browser.stream(id).opening();
            opening.is_some() || browser.is_closed(id)
        })?;
        Ok(opening.context("closed without an answer")??)
    }

    /// Reads to the end of the stream.
    pub fn read_to_end(&mut self, id: ChannelId) -> Result<Vec<u8>> {
        let mut all = Vec::new();
        self.until("the stream's end", |browser| {
            let stream = browser.stream(id);
            while let Some(data) = stream.read() {
                all.extend_from_slice(&data);
            }
            stream.received_end() || stream.was_reset().is_some()
        })?;
        let reset = self.stream(id).was_reset();
        ensure!(
            self.stream(id).received_end(),
            "{reset:?} after {} bytes",
            all.len()
        );
        Ok(all)
    }
}

/// How a browser asks.
#[derive(Debug, Clone)]
pub struct Asking<'a> {
    pub key: &'a SecretKey,
    pub device: PeerId,
    /// None: by its own key.
    pub password: Option<&'a str>,
    pub service: &'a str,
    pub remember: bool,
}

impl Asking<'_> {
    /// The sealed request with this description.
    pub fn seal(&self, offer: Description) -> Result<Call> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let request = Request {
            id: rand::random(),
            issued_at: now,
            expires_at: now + LIFETIME,
            service: self.service.to_owned(),
            candidates: Vec::new(),
            remember: self.remember,
            webrtc: Some(offer),
            path: 0,
            nat: Nat::Unknown,
        };
        let psk = self
            .password
            .map(|password| Psk::from_password(password, &self.device))
            .transpose()?;
        let proof = match &psk {
            Some(psk) => Proof::Secret {
                psk_id: PASSWORD_ID,
                psk,
            },
            None => Proof::Key,
        };
        Ok(Call::seal(
            &request,
            self.key,
            self.device,
            proof,
            &mut rand::rng(),
        )?)
    }
}

/// What came of a call, from the whole of the registry's answer.
pub fn outcome(call: &mut Call, answer: &[u8]) -> Result<Outcome> {
    let mut frames = FrameReader::default();
    frames.push(answer);
    while let Some(frame) = frames.next_frame() {
        if let Some(outcome) = take(call, frame?) {
            return Ok(outcome);
        }
    }
    bail!("no outcome in {} bytes", answer.len())
}

/// What a frame brings, if it ends the call.
pub fn take(call: &mut Call, frame: Frame) -> Option<Outcome> {
    match call.handle_frame(frame) {
        Some(Progress::Ended(outcome)) => Some(outcome),
        _ => None,
    }
}

/// The device's yes.
pub fn accepted(outcome: Outcome) -> Result<Reply> {
    match outcome {
        Outcome::Accepted(reply) => Ok(reply),
        other => bail!("not accepted: {other:?}"),
    }
}
