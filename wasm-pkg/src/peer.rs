//! The browser's `RTCPeerConnection`: the offer, its addresses, the answer, and what becomes of it.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::net::{SocketAddr, SocketAddrV4};
use std::rc::Rc;

use js_sys::{Array, Function, Object, Reflect};
use ringback_protocol::receipt::Nat;
use ringback_protocol::rtc::{self, CHANNEL_LABEL, Description};
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;
use web_sys::{
    RtcConfiguration, RtcDataChannel, RtcDataChannelType, RtcIceGatheringState, RtcPeerConnection,
    RtcPeerConnectionIceEvent, RtcPeerConnectionState, RtcSdpType, RtcSessionDescriptionInit,
};

use crate::CallError;
use crate::clock::{Signal, within};
use crate::error::UNSUPPORTED;
use crate::object::{member, message, text};
use crate::sdp;

/// How long a STUN server is waited for, in milliseconds. Without its answer the call can still
/// succeed: the device learns the browser's address from its checks.
const STUN_PATIENCE: f64 = 1_000.0;
/// After the first public address: others come from the same round trip.
const MORE_PATIENCE: f64 = 60.0;
/// How long the address at a TURN server is waited for, in milliseconds: it takes two round trips
/// (RFC 8656, 7.1), and an offer without it is of no use where it is needed.
const TURN_PATIENCE: f64 = 3_000.0;

/// An `RTCPeerConnection`; closed on drop.
pub(crate) struct Peer {
    connection: RtcPeerConnection,
    pub(crate) watch: Rc<Watch>,
    asks_stun: bool,
    /// The data channel that makes the offer one for data; the first stream uses it.
    first: Cell<Option<RtcDataChannel>>,
    on_change: Closure<dyn FnMut()>,
    _on_candidate: Closure<dyn FnMut(RtcPeerConnectionIceEvent)>,
}

/// What has happened to a connection. It outlives the connection.
pub(crate) struct Watch {
    pub(crate) changed: Signal,
    public_address: Cell<bool>,
    relayed_address: Cell<bool>,
    addresses: Cell<u32>,
    gathered: Cell<bool>,
    /// What STUN servers saw, each with its foundation (RFC 8445, 5.1.1.3): the same for the same
    /// own address.
    seen: RefCell<Vec<(String, SocketAddrV4)>>,
    state: Cell<RtcPeerConnectionState>,
}

/// What the browser found of its own addresses.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Gathered {
    pub(crate) addresses: u32,
    /// A STUN or TURN server has answered.
    pub(crate) public: bool,
}

impl Peer {
    pub(crate) fn new(ice_servers: &Array) -> Result<Self, CallError> {
        Self::with_certificate(ice_servers, None)
    }

    /// One of several that show the same certificate ([`certificate`]).
    pub(crate) fn with_certificate(
        ice_servers: &Array,
        certificate: Option<&JsValue>,
    ) -> Result<Self, CallError> {
        let configuration = RtcConfiguration::new();
        configuration.set_ice_servers(ice_servers);
        if let Some(certificate) = certificate {
            configuration.set_certificates(&Array::of1(certificate));
        }
        if member(&js_sys::global(), "RTCPeerConnection").is_undefined() {
            return Err(CallError::new(
                UNSUPPORTED,
                "this browser has no WebRTC, or it is switched off",
            ));
        }
        let connection = RtcPeerConnection::new_with_configuration(&configuration)
            .map_err(|error| failed("make a connection", &error))?;
        let watch = Rc::new(Watch {
            changed: Signal::default(),
            public_address: Cell::new(false),
            relayed_address: Cell::new(false),
            addresses: Cell::new(0),
            gathered: Cell::new(false),
            seen: RefCell::default(),
            state: Cell::new(RtcPeerConnectionState::New),
        });
        let (noted, of) = (Rc::clone(&watch), connection.clone());
        let on_change = Closure::<dyn FnMut()>::new(move || noted.look(&of));
        let noted = Rc::clone(&watch);
        let on_candidate = Closure::<dyn FnMut(_)>::new(move |event: RtcPeerConnectionIceEvent| {
            noted.candidate(&event);
        });
        let handler: &Function = on_change.as_ref().unchecked_ref();
        connection.set_onicegatheringstatechange(Some(handler));
        connection.set_onconnectionstatechange(Some(handler));
        connection.set_onicecandidate(Some(on_candidate.as_ref().unchecked_ref()));
        let first = connection.create_data_channel(CHANNEL_LABEL);
        first.set_binary_type(RtcDataChannelType::Arraybuffer);
        Ok(Self {
            connection,
            watch,
            asks_stun: ice_servers.length() > 0,
            first: Cell::new(Some(first)),
            on_change,
            _on_candidate: on_candidate,
        })
    }

    /// Makes the offer. From here on the browser looks for its addresses.
    pub(crate) async fn offer(&self) -> Result<(), CallError> {
        let offering = JsFuture::from(self.connection.create_offer());
        let offer = offering
            .await
            .map_err(|error| failed("make an offer", &error))?;
        let setting = self.connection.set_local_description(offer.unchecked_ref());
        let set = JsFuture::from(setting).await;
        set.map(drop)
            .map_err(|error| failed("take its own offer", &error))
    }

    /// Waits until the browser has found what addresses it can, or long enough.
    pub(crate) async fn gathered(&self) -> Gathered {
        let watch = &self.watch;
        let found = watch
            .changed
            .wait(|| (watch.gathered.get() || watch.public_address.get()).then_some(()));
        within(STUN_PATIENCE, found).await;
        let rest = watch.changed.wait(|| watch.gathered.get().then_some(()));
        if watch.public_address.get() {
            within(MORE_PATIENCE, rest).await;
        }
        Gathered {
            addresses: watch.addresses.get(),
            public: watch.public_address.get(),
        }
    }

    /// The same, with an address at a TURN server if one can be had.
    pub(crate) async fn gathered_with_turn(&self) -> Gathered {
        let watch = &self.watch;
        let found = watch
            .changed
            .wait(|| (watch.gathered.get() || watch.relayed_address.get()).then_some(()));
        within(TURN_PATIENCE, found).await;
        self.gathered().await
    }

    /// Does it find out where it is seen?
    pub(crate) fn asks_stun(&self) -> bool {
        self.asks_stun
    }

    /// What the STUN servers' answers so far say of the NAT: with another port for each server on one
    /// own address it is the kind that punching alone does not get through.
    pub(crate) fn nat(&self) -> Nat {
        let seen = self.watch.seen.borrow();
        let differs = |(at, (foundation, address)): (usize, &(String, SocketAddrV4))| {
            let mut before = seen[..at].iter();
            before.any(|(other, seen)| other == foundation && seen.port() != address.port())
        };
        match seen.len() {
            0 => Nat::Unknown,
            _ if seen.iter().enumerate().any(differs) => Nat::EndpointDependent,
            _ => Nat::EndpointIndependent,
        }
    }

    #[cfg(all(test, target_arch = "wasm32"))]
    pub(crate) fn offer_sdp(&self) -> String {
        self.connection.local_description().expect("an offer").sdp()
    }

    /// What the device needs to know, with the addresses found so far.
    pub(crate) fn description(&self) -> Result<Description, CallError> {
        let offer = self.connection.local_description();
        let sdp = offer.map(|offer| offer.sdp()).unwrap_or_default();
        sdp::read_offer(&sdp).map_err(|error| CallError::new(UNSUPPORTED, error.to_string()))
    }

    /// Takes the device's side. From here on the browser tries addresses.
    pub(crate) async fn answer(&self, device: &Description) -> Result<(), CallError> {
        let answer = RtcSessionDescriptionInit::new(RtcSdpType::Answer);
        answer.set_sdp(&sdp::write_answer(device));
        let set = JsFuture::from(self.connection.set_remote_description(&answer)).await;
        set.map_err(|error| failed("take the device's answer", &error))?;
        // Tells of a device that has closed the connection; the connection's own state does not.
        let sctp = member(&self.connection, "sctp");
        if sctp.is_object() {
            let handler = self.on_change.as_ref();
            let _ = Reflect::set(&sctp, &"onstatechange".into(), handler);
        }
        Ok(())
    }

    /// Waits until a path is found and the device has proven its certificate; false: it has failed.
    pub(crate) async fn connected(&self) -> bool {
        let watch = &self.watch;
        watch
            .changed
            .wait(|| match watch.state.get() {
                RtcPeerConnectionState::Connected => Some(true),
                RtcPeerConnectionState::Failed | RtcPeerConnectionState::Closed => Some(false),
                _ => None,
            })
            .await
    }

    /// A path was found, and who is at its end has another certificate than the device said.
    ///
    /// A connection fails when its ICE or its DTLS transport does. The state of the DTLS transport
    /// itself may reach the page later than the connection's.
    pub(crate) fn has_wrong_certificate(&self) -> bool {
        let ice = text(&self.connection, "iceConnectionState");
        self.watch.state.get() == RtcPeerConnectionState::Failed
            && matches!(ice.as_deref(), Some("connected" | "completed"))
    }

    /// A new data channel, or the offer's own if it is not in use.
    pub(crate) fn channel(&self) -> Option<RtcDataChannel> {
        if let Some(first) = self.first.take() {
            return Some(first);
        }
        let create = Reflect::get(&self.connection, &"createDataChannel".into()).ok()?;
        let create: Function = create.dyn_into().ok()?;
        // By hand, since it throws on a connection that is closed.
        let channel = create.call1(&self.connection, &CHANNEL_LABEL.into()).ok()?;
        let channel: RtcDataChannel = channel.unchecked_into();
        channel.set_binary_type(RtcDataChannelType::Arraybuffer);
        Some(channel)
    }

    pub(crate) async fn stats(&self) -> Option<web_sys::RtcStatsReport> {
        let report = JsFuture::from(self.connection.get_stats()).await.ok()?;
        Some(report.unchecked_into())
    }

    pub(crate) fn close(&self) {
        self.connection.close();
        self.watch.set(RtcPeerConnectionState::Closed);
    }
}

impl fmt::Display for Gathered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let public = if self.public {
            ""
        } else {
            ", none of them public"
        };
        write!(f, "{} addresses{public}", self.addresses)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.connection.set_onicegatheringstatechange(None);
        self.connection.set_onconnectionstatechange(None);
        self.connection.set_onicecandidate(None);
        let sctp = member(&self.connection, "sctp");
        if sctp.is_object() {
            let _ = Reflect::set(&sctp, &"onstatechange".into(), &JsValue::NULL);
        }
        self.close();
    }
}

impl Watch {
    pub(crate) fn state(&self) -> RtcPeerConnectionState {
        self.state.get()
    }

    fn look(&self, connection: &RtcPeerConnection) {
        if connection.ice_gathering_state() == RtcIceGatheringState::Complete {
            self.gathered.set(true);
        }
        let sctp = text(&member(connection, "sctp"), "state");
        // Before that it is the connection's own state that tells why.
        let was_connected = matches!(
            self.state.get(),
            RtcPeerConnectionState::Connected | RtcPeerConnectionState::Disconnected
        );
        if was_connected && sctp.as_deref() == Some("closed") {
            self.set(RtcPeerConnectionState::Closed);
        } else {
            self.set(connection.connection_state());
        }
    }

    fn set(&self, state: RtcPeerConnectionState) {
        // What is closed stays so, whatever a late event says.
        if self.state.get() != RtcPeerConnectionState::Closed {
            self.state.set(state);
        }
        self.changed.wake();
    }

    fn candidate(&self, event: &RtcPeerConnectionIceEvent) {
        let candidate = member(event, "candidate");
        let Some(line) = text(&candidate, "candidate").filter(|line| !line.is_empty()) else {
            return;
        };
        self.addresses.set(self.addresses.get() + 1);
        let kind = sdp::kind(&line);
        if matches!(kind, Some("srflx" | "relay")) {
            self.public_address.set(true);
        }
        if kind == Some("relay") {
            self.relayed_address.set(true);
        }
        if kind == Some("srflx")
            && let Some(SocketAddr::V4(address)) = rtc::read_candidate(&line).map(|c| c.address)
        {
            let foundation = line.split(' ').next().unwrap_or_default().to_owned();
            self.seen.borrow_mut().push((foundation, address));
        }
        self.changed.wake();
    }
}

/// A certificate for several connections.
pub(crate) async fn certificate() -> Result<JsValue, CallError> {
    let algorithm = Object::new();
    for (key, value) in [("name", "ECDSA"), ("namedCurve", "P-256")] {
        let _ = Reflect::set(&algorithm, &key.into(), &value.into());
    }
    let made = match RtcPeerConnection::generate_certificate_with_object(&algorithm) {
        Ok(making) => JsFuture::from(making).await,
        Err(error) => Err(error),
    };
    made.map_err(|error| failed("make a certificate", &error))
}

fn failed(what: &str, error: &JsValue) -> CallError {
    let message = format!("the browser could not {what}: {}", message(error));
    CallError::new(UNSUPPORTED, message)
}
