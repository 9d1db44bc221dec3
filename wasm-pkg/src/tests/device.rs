//! A device in the page: a second `RTCPeerConnection`, and the device's side of the streams.

use std::cell::RefCell;
use std::rc::Rc;

use js_sys::Uint8Array;
use ringback_protocol::channel::{Channel, reset};
use ringback_protocol::receipt::Nat;
use ringback_protocol::rtc::Description;
use ringback_protocol::stream::{Open, Opening, StreamRefused};
use ringback_protocol::{Code, SecretKey};
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;
use web_sys::{
    MessageEvent, RtcDataChannel, RtcDataChannelType, RtcIceGatheringState, RtcPeerConnection,
    RtcSdpType, RtcSessionDescriptionInit,
};

use crate::clock::{sleep, within};
use crate::link::Made;
use crate::object::member;
use crate::peer::Peer;
use crate::{Link, Registry, sdp};

/// The other end of a link. It serves
/// - `echo`: sends back what it gets, and ends when the caller does;
/// - `count`: sends bytes until the caller's credit is used up, and goes on as it gets more;
/// - `deaf`: reads nothing;
/// - `broken`: resets the stream when the first data comes;
/// - `revoked`: resets it with the code of a revoked caller;
/// - `leaving`: resets it with that of an agent that stops.
pub(super) struct Device {
    connection: RtcPeerConnection,
    pub(super) channels: Rc<RefCell<Vec<Rc<Served>>>>,
    _accept: Closure<dyn FnMut(JsValue)>,
}

pub(super) struct Served {
    data_channel: RtcDataChannel,
    channel: RefCell<Channel>,
    service: RefCell<String>,
    /// Bytes of data that have come, and that were sent.
    pub(super) received: RefCell<u64>,
    pub(super) sent: RefCell<u64>,
    on_event: RefCell<Vec<OnMessage>>,
}

type OnMessage = Closure<dyn FnMut(MessageEvent)>;

/// A link to a device in this page, made as a call makes it.
pub(super) async fn link() -> (Link, Device) {
    let (peer, description, device) = answer().await;
    peer.answer(&description).await.unwrap();
    assert_eq!(within(10_000.0, peer.connected()).await, Some(true));
    let made = Made {
        registry: Registry::for_tests(),
        device: SecretKey::from_seed(&[1; 32]).id(),
        service: "*".to_owned(),
        proof: None,
        remembered: false,
        device_nat: Nat::Unknown,
        steps: Vec::new(),
    };
    (Link::new(peer, made), device)
}

/// A caller's connection with its offer made, and the description with which a device answers it.
pub(super) async fn answer() -> (Peer, Description, Device) {
    let peer = Peer::new(&js_sys::Array::new()).unwrap();
    peer.offer().await.unwrap();
    peer.gathered().await;
    let device = RtcPeerConnection::new().unwrap();
    let channels = Rc::<RefCell<Vec<Rc<Served>>>>::default();
    let accepted = Rc::clone(&channels);
    let accept = Closure::<dyn FnMut(_)>::new(move |event: JsValue| {
        let channel = member(&event, "channel").unchecked_into();
        accepted.borrow_mut().push(Served::start(channel));
    });
    device.set_ondatachannel(Some(accept.as_ref().unchecked_ref()));
    let offer = RtcSessionDescriptionInit::new(RtcSdpType::Offer);
    offer.set_sdp(&peer.offer_sdp());
    JsFuture::from(device.set_remote_description(&offer))
        .await
        .unwrap();
    let answer = JsFuture::from(device.create_answer()).await.unwrap();
    JsFuture::from(device.set_local_description(answer.unchecked_ref()))
        .await
        .unwrap();
    for _ in 0..500 {
        if device.ice_gathering_state() == RtcIceGatheringState::Complete {
            break;
        }
        sleep(10.0).await;
    }
    let written = device.local_description().unwrap().sdp();
    let description = sdp::read_offer(&written).unwrap();
    let device = Device {
        connection: device,
        channels,
        _accept: accept,
    };
    (peer, description, device)
}

impl Device {
    /// As an agent that ends.
    pub(super) fn close(&self) {
        self.connection.close();
    }
}

impl Served {
    fn start(data_channel: RtcDataChannel) -> Rc<Self> {
        data_channel.set_binary_type(RtcDataChannelType::Arraybuffer);
        let served = Rc::new(Self {
            data_channel,
            channel: RefCell::new(Channel::device()),
            service: RefCell::default(),
            received: RefCell::default(),
            sent: RefCell::default(),
            on_event: RefCell::default(),
        });
        let weak = Rc::downgrade(&served);
        let on_message = Closure::<dyn FnMut(_)>::new(move |event: MessageEvent| {
            if let Some(served) = weak.upgrade() {
                served.take(&Uint8Array::new(&event.data()).to_vec());
            }
        });
        let handler = on_message.as_ref().unchecked_ref();
        served.data_channel.set_onmessage(Some(handler));
        served.on_event.borrow_mut().push(on_message);
        served
    }

    fn take(&self, message: &[u8]) {
        let mut channel = self.channel.borrow_mut();
        channel.handle_message(message).unwrap();
        if let Some(header) = channel.header() {
            let open = Open::decode(&header).unwrap();
            match open.service.as_str() {
                "echo" | "count" | "deaf" | "broken" => channel.answer(&Opening::Opened),
                "revoked" => channel.reset(reset::REVOKED),
                "leaving" => channel.reset(reset::SHUTTING_DOWN),
                _ => {
                    channel.answer(&Opening::Refused(StreamRefused {
                        code: Code::UnknownService,
                        detail: String::new(),
                    }));
                    channel.finish();
                }
            }
            self.service.replace(open.service);
        }
        let service = self.service.borrow();
        match service.as_str() {
            "echo" => {
                while channel.writable() >= channel.readable().min(1)
                    && let Some(data) = channel.read()
                {
                    *self.received.borrow_mut() += data.len() as u64;
                    assert_eq!(channel.write(&data), data.len(), "room for an echo");
                }
                if channel.received_end() {
                    channel.finish();
                }
            }
            "count" => loop {
                let sent = *self.sent.borrow();
                let room = channel.writable().min(16 * 1024);
                let data: Vec<u8> = (sent..sent + room as u64).map(|at| at as u8).collect();
                let taken = channel.write(&data);
                *self.sent.borrow_mut() += taken as u64;
                while let Some(message) = channel.poll_message() {
                    self.data_channel.send_with_u8_array(&message).unwrap();
                }
                if taken == 0 {
                    break;
                }
            },
            "broken" if channel.readable() > 0 => channel.reset(reset::ABORTED),
            _ => {}
        }
        while let Some(message) = channel.poll_message() {
            self.data_channel.send_with_u8_array(&message).unwrap();
        }
        if channel.is_over() {
            self.data_channel.close();
        }
    }
}
