//! A browser's connection end to end: ICE, DTLS, SCTP and data channels of two connections, with
//! datagrams damaged, dropped and made up on the way, as the agent's socket would hand them over.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use arbitrary::Arbitrary;
use str0m::channel::ChannelConfig;
use str0m::config::Fingerprint;
use str0m::ice::IceCreds;
use str0m::net::{Protocol, Receive};
use str0m::{Candidate, Event, Input, Output, Rtc};

use crate::steps::{Damage, steps};

#[derive(Debug, Arbitrary)]
enum Step {
    /// Both ends say what they have to say.
    Talk {
        there: Damage,
        back: Damage,
    },
    Raw {
        to_device: bool,
        bytes: Vec<u8>,
    },
    Write {
        text: bool,
        bytes: Vec<u8>,
    },
    Later(u16),
}

struct End {
    rtc: Rtc,
    at: SocketAddr,
    sent: Vec<Vec<u8>>,
    channel: Option<str0m::channel::ChannelId>,
}

pub fn webrtc(bytes: &[u8]) {
    let mut now = Instant::now();
    let mut ends = [4000, 5000].map(|port| end(port, now));
    introduce(&mut ends);
    // Undisturbed at first: what is behind the handshake is to be reached, too.
    for _ in 0..40 {
        exchange(&mut ends, Damage::None, Damage::None, now);
        now += Duration::from_millis(5);
    }
    for step in steps::<Step>(bytes).take(64) {
        match step {
            Step::Talk { there, back } => exchange(&mut ends, there, back, now),
            Step::Raw { to_device, bytes } => {
                let from = ends[usize::from(to_device)].at;
                receive(&mut ends[usize::from(!to_device)], from, &bytes, now);
            }
            Step::Write { text, bytes } => {
                if let Some(id) = ends[1].channel
                    && let Some(mut channel) = ends[1].rtc.channel(id)
                {
                    let _ = channel.write(!text, &bytes);
                }
            }
            Step::Later(ms) => now += Duration::from_millis(ms.into()),
        }
        exchange(&mut ends, Damage::None, Damage::None, now);
    }
}

fn end(port: u16, now: Instant) -> End {
    let at = SocketAddr::from(([127, 0, 0, 1], port));
    let mut rtc = Rtc::builder()
        .set_crypto_provider(str0m::crypto::from_feature_flags().into())
        .clear_codecs()
        .build(now);
    let candidate = Candidate::host(at, "udp").expect("an address");
    rtc.add_local_candidate(candidate);
    End {
        rtc,
        at,
        sent: Vec::new(),
        channel: None,
    }
}

/// Each end knows the other's description; the first is the device, and DTLS's client.
fn introduce(ends: &mut [End; 2]) {
    let described = ends.each_mut().map(|end| {
        let direct = end.rtc.direct_api();
        let creds = direct.local_ice_credentials();
        (end.at, creds, direct.local_dtls_fingerprint().clone())
    });
    for (at, end) in ends.iter_mut().enumerate() {
        let (address, IceCreds { ufrag, pass }, Fingerprint { hash_func, bytes }) =
            described[1 - at].clone();
        let remote = Candidate::host(address, "udp").expect("an address");
        end.rtc.add_remote_candidate(remote);
        let mut direct = end.rtc.direct_api();
        direct.set_ice_controlling(at == 1);
        direct.set_remote_ice_credentials(IceCreds { ufrag, pass });
        direct.set_remote_fingerprint(Fingerprint { hash_func, bytes });
        direct.start_dtls(at == 0).expect("DTLS starts");
        direct.start_sctp(at == 0);
    }
    let config = ChannelConfig {
        label: ringback_protocol::rtc::CHANNEL_LABEL.to_owned(),
        ..ChannelConfig::default()
    };
    ends[1].channel = Some(ends[1].rtc.direct_api().create_data_channel(config));
}

fn exchange(ends: &mut [End; 2], there: Damage, back: Damage, now: Instant) {
    for end in ends.iter_mut() {
        if end.rtc.is_alive() {
            let _ = end.rtc.handle_input(Input::Timeout(now));
        }
        drain(end);
    }
    for (from, damage) in [(1, there), (0, back)] {
        let address = ends[from].at;
        for datagram in std::mem::take(&mut ends[from].sent) {
            for datagram in damage.done_to(&datagram) {
                receive(&mut ends[1 - from], address, &datagram, now);
            }
        }
    }
}

fn receive(end: &mut End, from: SocketAddr, datagram: &[u8], now: Instant) {
    let Ok(contents) = datagram.try_into() else {
        return;
    };
    let receive = Receive {
        proto: Protocol::Udp,
        source: from,
        destination: end.at,
        contents,
    };
    if end.rtc.is_alive() && end.rtc.handle_input(Input::Receive(now, receive)).is_err() {
        end.rtc.disconnect();
    }
    drain(end);
}

fn drain(end: &mut End) {
    // An end that has failed is asked no more, as in the agent.
    for _ in 0..10_000 {
        if !end.rtc.is_alive() {
            return;
        }
        match end.rtc.poll_output() {
            Ok(Output::Transmit(transmit)) => end.sent.push(transmit.contents.into()),
            Ok(Output::Event(Event::ChannelData(_)) | Output::Event(_)) => {}
            Ok(Output::Timeout(_)) => return,
            Err(_) => end.rtc.disconnect(),
        }
    }
    panic!("it does not come to an end");
}
