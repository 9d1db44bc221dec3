//! The device's socket to the registry, kept open whatever happens to the registry: requests come in
//! by it, answers and calls of this host's own go out.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::{Result, bail};
use ringback_protocol::frame::{Frame, Place};
use ringback_protocol::registration::{CloseReason, Output};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::clock::{unix_time, warn_of_clock};
use crate::device::{Agent, Inbound};
use crate::link;
use crate::presence::{Presence, Rejection, Rival, how_it_ended, rejection_in};
use crate::reconnect::{self, Ended, Reconnect};
use crate::registry::{RegistrySocket, connect_socket};
use crate::relay::OwnRelay;
use crate::signalling::Placement;

/// Keeps the device registered until the process ends, whatever happens to the registry.
pub(crate) async fn stay_registered(agent: Arc<Agent>, mut inbound: Inbound) {
    let mut reconnect = Reconnect::new(Instant::now());
    loop {
        let before = Instant::now();
        let mut registered = None;
        let Err(error) = session(&agent, &mut inbound, &mut registered).await;
        tracing::info!(after = ?before.elapsed(), "the registry's connection ended: {error:#}");
        let ended = how_it_ended(&error);
        let pause = reconnect::jittered(reconnect.pause(ended, registered, Instant::now()));
        agent.presence.send_replace(match rejection_in(&error) {
            Some(Rejection { code, detail }) => Presence::Rejected { code, detail },
            None if ended == Ended::Replaced => Presence::Offline {
                reason: format!("{error:#}; it is tried again in {} s", pause.as_secs()),
            },
            None => Presence::Offline {
                reason: format!("{error:#}"),
            },
        });
        tokio::time::sleep(pause).await;
    }
}

/// One socket to the registry, from the first byte to its end. `since`: when it was registered.
async fn session(
    agent: &Arc<Agent>,
    inbound: &mut Inbound,
    since: &mut Option<Instant>,
) -> Result<std::convert::Infallible> {
    let mut addresses = agent.endpoint.own_addresses().subscribe();
    let mut public = addresses.borrow_and_update().public;
    let mut socket = connect_socket(&agent.registry, &agent.key, public).await?;
    let mut placed: HashMap<u64, mpsc::Sender<Frame>> = HashMap::new();
    let mut next_call = 0;
    loop {
        while let Some(output) = socket.drain().await? {
            handle_output(agent, output, &mut placed)?;
        }
        let registered = matches!(*agent.presence.borrow(), Presence::Registered { .. });
        if registered {
            since.get_or_insert_with(Instant::now);
        }
        tokio::select! {
            ended = socket.wait() => ended?,
            Some(frame) = inbound.frames.recv() => socket.send(&frame).await?,
            Some(placement) = inbound.placements.recv(), if registered => {
                next_call += 1;
                placed.retain(|_, frames| !frames.is_closed());
                place(&mut socket, next_call, placement, &mut placed).await?;
            }
            Ok(()) = addresses.changed() => {
                let old = std::mem::replace(&mut public, addresses.borrow_and_update().public);
                if let (Some(old), Some(new)) = (old, public) && old.ip() != new.ip() {
                    // Nobody knows this connection any more, and many routers do not even say so.
                    bail!("the public address has changed");
                }
                if let Some(public) = public {
                    socket.set_public(public);
                }
                // A new mapping may mean that the old connection is dead.
                socket.check();
            }
        }
    }
}

async fn place(
    socket: &mut RegistrySocket,
    call: u64,
    placement: Placement,
    placed: &mut HashMap<u64, mpsc::Sender<Frame>>,
) -> Result<()> {
    let Placement {
        device,
        envelope,
        frames,
    } = placement;
    placed.insert(call, frames);
    socket
        .send(
            &Place {
                call,
                device,
                envelope,
            }
            .into(),
        )
        .await
}

fn handle_output(
    agent: &Arc<Agent>,
    output: Output,
    placed: &mut HashMap<u64, mpsc::Sender<Frame>>,
) -> Result<()> {
    match output {
        Output::Send(_) | Output::SendPing => unreachable!("sent by the socket"),
        Output::Time(time_ms) => warn_of_clock(time_ms),
        Output::Registered(registered) => {
            tracing::info!(name = registered.name, "registered");
            let relays = registered.beacons.iter().filter(|beacon| beacon.relay);
            let relays = relays.map(|beacon| OwnRelay {
                id: beacon.id,
                udp: Some(beacon.udp.clone()),
                tcp: beacon.tcp.clone(),
            });
            agent.endpoint.set_own_relays(relays.collect());
            let stun = agent.endpoint.own_addresses().stun_servers();
            stun.send_if_modified(|known| {
                let news = known.is_empty() && !registered.stun.is_empty();
                if news {
                    known.clone_from(&registered.stun);
                }
                news
            });
            agent.presence.send_replace(Presence::Registered {
                name: registered.name,
                since: unix_time(0),
                rival: registered.rival.map(|address| Rival::seen(&address)),
            });
        }
        Output::Deliver(deliver) => agent.deliver(&deliver),
        // For beacons; this is a device.
        Output::Beacon(_) => {}
        Output::Placed(frame) => {
            let (call, ended) = match &frame {
                Frame::Delivered(f) => (f.call, false),
                Frame::Answered(f) => (f.call, true),
                Frame::Refused(f) => (f.call, true),
                Frame::Failed(f) => (f.call, true),
                _ => return Ok(()),
            };
            if let Some(frames) = placed.get(&call) {
                // The call may have been given up.
                let _ = frames.try_send(frame);
            }
            if ended {
                placed.remove(&call);
            }
        }
        Output::Close(CloseReason::Rejected(rejected)) => {
            let detail = link::printable(&rejected.detail);
            bail!(Rejection {
                code: rejected.code,
                detail
            })
        }
        Output::Close(CloseReason::Dead) => bail!("the registry does not answer any more"),
        Output::Close(CloseReason::Misbehaved(what)) => {
            bail!("the registry does not keep to the protocol: {what}")
        }
    }
    Ok(())
}
