//! Browsers' links (PROTOCOL §19): WebRTC on the agent's one UDP socket.
//!
//! [`answer`] makes the device's side of a connection from the browser's sealed description, and
//! hands it to a [`driver`] task. Datagrams get there through an [`Inlet`] each; streams come out of
//! [`BrowserLink::accept`] and are served like any other.

mod connection;
mod driver;
mod inlet;
mod link;
mod pacing;
mod search;
mod stream;
mod transmit;
mod unread;

use std::sync::Arc;

use anyhow::{Context as _, Result};
use ringback_protocol::PeerId;
use ringback_protocol::candidate;
use ringback_protocol::receipt::Nat;
use ringback_protocol::rtc::{self, Description, MAX_LEGS};
use str0m::ice::IceCreds;
use tokio::sync::mpsc;

use crate::endpoint::{Addresses, PathSocket};
use connection::{Pinned, certificate, connection, credentials};
use driver::Driver;
pub(crate) use inlet::Inlets;
#[cfg(fuzzing)]
pub(crate) use inlet::check_name;
pub(crate) use link::{BrowserLink, Ending};
use search::Part;
pub(crate) use stream::{ChannelReader, ChannelWriter};
use transmit::Way;

/// Links of browsers at a time, those under way included.
pub(crate) const MAX_LINKS: usize = 32;
/// The device's side of what a browser offers, which is of that NAT, and the links of which one may
/// come about. Checks go out at once: that is the dial-back.
pub(crate) fn answer(
    socket: &Arc<PathSocket>,
    caller: PeerId,
    (offer, nat): (&Description, Nat),
    own: &Addresses,
    loopback: bool,
) -> Result<(Description, mpsc::Receiver<BrowserLink>)> {
    let credentials = credentials();
    let named = candidate::rank(&offer.addresses(), loopback);
    let pinned = Pinned {
        fingerprint: offer.fingerprint,
        certificate: certificate()?,
    };
    let theirs = IceCreds {
        ufrag: offer.ufrag.clone(),
        pass: offer.pwd.clone(),
    };
    let rtc = connection(&pinned, &credentials, theirs, &named)?;
    let fingerprint = pinned.own_fingerprint();
    let addresses: Vec<_> = named.iter().map(|candidate| candidate.address).collect();
    let inlet = socket.browsers().open(&credentials.ufrag, &addresses);
    let link = Driver::start(
        socket.clone(),
        caller,
        rtc,
        inlet,
        Way::Main(socket.clone()),
    );
    let (links, established) = mpsc::channel(MAX_LEGS + 1);
    links.try_send(link.clone()).context("an empty queue")?;
    let legs = Part::of(own.nat, nat, offer, loopback).map_or_else(Vec::new, |part| {
        search::begin(socket, caller, offer, part, pinned, link, links)
    });
    let description = Description {
        fingerprint,
        candidates: rtc::candidate_lines(&candidate::rank(&own.candidates, loopback)),
        ufrag: credentials.ufrag,
        pwd: credentials.pass,
        legs,
    };
    Ok((description, established))
}
