//! A beacon's side of its socket (§6.3): it tells of devices, and is told which of them to notify.

use std::collections::HashMap;
use std::net::SocketAddr;

use ringback_protocol::frame::{Frame, Known, Notify};
use ringback_protocol::{Code, PeerId};
use worker::WebSocket;

use super::{Shared, now_ms, send};
use crate::attachment::{Attachment, Stage};
use crate::directory_object::{self as directory, Ask, EnrolledAs};
use crate::limits;

/// Bytes of the longest `host:port`.
const MAX_PLACE: usize = 260;
/// A device that is seen again where it was is not asked for in the directory for so long. If its
/// owner revokes it, the directory says so by itself.
const KNOWN_MS: u64 = 3_600_000;
/// Devices that are remembered so.
const MAX_KNOWN: usize = 10_000;

/// Enrolled devices on this beacon: the address, and when the directory was asked. In memory: to
/// lose it costs a question to the directory for each.
pub(super) type KnownDevices = HashMap<PeerId, (SocketAddr, u64)>;

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
                let is_place = |text: &String| {
                    text.len() <= MAX_PLACE && !text.chars().any(|c| c.is_control() || c == ' ')
                };
                if !is_place(&told.udp) || !told.tcp.iter().all(is_place) {
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
        public: SocketAddr,
    ) -> Option<Option<Code>> {
        let now_ms = now_ms();
        let known = self.known.borrow().get(&device).copied();
        if known.is_some_and(|(at, asked_ms)| {
            at == public && now_ms.saturating_sub(asked_ms) < KNOWN_MS
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
        if code.is_some() || known.len() >= MAX_KNOWN {
            known.remove(&device);
        } else {
            known.insert(device, (public, now_ms));
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
