//! A beacon's side of its socket (§6.3): it tells of devices, and is told which of them to notify.

use std::net::SocketAddr;

use ringback_protocol::frame::{Frame, Known, Notify};
use ringback_protocol::{Code, PeerId};
use worker::WebSocket;

use super::shared::{Shared, send};
use crate::attachment::{Attachment, Stage};
use crate::clock::now_ms;
use crate::directory::{self, Ask};
use crate::limits;
use crate::role::EnrolledAs;

/// Bytes of the longest `host:port`.
const MAX_PLACE: usize = 260;
/// A device that is seen again where it was is not asked for in the directory for so long. If its
/// owner revokes it, the directory says so by itself.
const KNOWN_MS: u64 = 3_600_000;
/// Devices that are remembered so.
const MAX_KNOWN: usize = 10_000;

impl Shared {
    /// Only for a socket that is registered in the role of a beacon.
    pub(super) async fn beacon_tells(
        &self,
        socket: WebSocket,
        mut attachment: Attachment,
        frame: Frame,
    ) {
        let beacon = attachment.device;
        match frame {
            Frame::Beacon(told) => {
                // On a new socket: while there was none, the directory may have given its devices up.
                self.known.borrow_mut().clear();
                if !is_place(&told.udp) || !told.tcp.iter().all(|tcp| is_place(tcp)) {
                    crate::log::event("bad frame", &beacon, "Beacon");
                    return;
                }
                let ask = Ask::Beacon {
                    beacon,
                    udp: told.udp,
                    tcp: told.tcp,
                    relay: told.relay,
                };
                // Failures are logged where they are made; the beacon says it again when it
                // connects the next time.
                directory::ask::<()>(&self.env, &ask).await.ok();
            }
            Frame::Seen(seen) => {
                let Stage::Registered(registration) = &mut attachment.stage else {
                    return;
                };
                if registration.seen.admit(limits::SEEN, now_ms()).is_err() {
                    return;
                }
                attachment.store(&socket).ok();
                let device = seen.device;
                if let Some(code) = self.look_up(&beacon, device, seen.public).await {
                    send(&socket, Known { device, code }).ok();
                }
            }
            Frame::Gone(gone) => {
                self.known.borrow_mut().remove(&gone.device);
                let device = gone.device;
                directory::ask::<()>(&self.env, &Ask::Gone { beacon, device })
                    .await
                    .ok();
            }
            _ => {}
        }
    }

    /// What the beacon is to be told of the device; `None` if the directory has failed.
    async fn look_up(
        &self,
        beacon: &PeerId,
        device: PeerId,
        public: Option<SocketAddr>,
    ) -> Option<Option<Code>> {
        let now_ms = now_ms();
        let known = self.known.borrow().get(&device).copied();
        if known.is_some_and(|(at, asked_ms)| {
            public.is_none_or(|public| at == public) && now_ms.saturating_sub(asked_ms) < KNOWN_MS
        }) {
            return Some(None);
        }
        let ask = Ask::Seen {
            beacon: *beacon,
            device,
            public,
        };
        let code = directory::ask::<Option<Code>>(&self.env, &ask).await.ok()?;
        let mut known = self.known.borrow_mut();
        match public {
            _ if code.is_some() => {
                known.remove(&device);
            }
            Some(public) if known.len() < MAX_KNOWN => {
                known.insert(device, (public, now_ms));
            }
            Some(_) => {
                known.remove(&device);
            }
            // It is not on this beacon.
            None => {}
        }
        Some(code)
    }

    /// Asks this beacon to notify a device; false if it has no socket.
    pub(super) fn notify(&self, device: PeerId) -> bool {
        self.tell_as_beacon(Notify { device })
    }

    /// A device of this beacon was revoked.
    pub(super) fn disown(&self, device: PeerId) {
        self.known.borrow_mut().remove(&device);
        self.tell_as_beacon(Known {
            device,
            code: Some(Code::Revoked),
        });
    }

    fn tell_as_beacon(&self, frame: impl Into<Frame>) -> bool {
        self.live().is_some_and(|(socket, registration)| {
            registration.role == EnrolledAs::Beacon && send(&socket, frame).is_ok()
        })
    }
}

/// Is this `host:port`, as every device is told it?
fn is_place(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else {
        return false;
    };
    let is_host = |c: char| c.is_ascii_alphanumeric() || "-._[]:".contains(c);
    text.len() <= MAX_PLACE
        && !host.is_empty()
        && host.chars().all(is_host)
        && host.contains(':') == (host.starts_with('[') && host.ends_with(']'))
        && port.parse::<u16>().is_ok_and(|port| port > 0)
}

#[cfg(test)]
mod tests {
    use super::is_place;

    #[test]
    fn a_place_is_a_host_and_a_port() {
        for good in [
            "beacon.example:3478",
            "203.0.113.5:443",
            "[2001:db8::5]:3478",
        ] {
            assert!(is_place(good), "{good}");
        }
        for bad in [
            "",
            ":3478",
            "beacon.example",
            "beacon.example:0",
            "beacon.example:65536",
            "2001:db8::5:3478",
            "a b:1",
            "a\n:1",
            &format!("{}:1", "a".repeat(260)),
        ] {
            assert!(!is_place(bad), "{bad}");
        }
    }
}
