//! One router, asked by each protocol: PCP and NAT-PMP at once, since they cost a datagram each, and
//! a search for UPnP beside them, whose mappings are made only where the others failed.

use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::num::NonZeroU16;
use std::time::{Duration, Instant};

use crab_nat::{
    InternetProtocol, PortMapping, PortMappingOptions, PortMappingType, TimeoutConfig, natpmp, pcp,
};

use super::journal::{Entry, Journal, expiry};
use super::mapping::{Mapping, Method, Place, Settings, Transport, is_public};
use super::ssdp::Search;
use super::upnp::Igd;

/// A router answers in a few milliseconds: 250 ms, and 500 ms after one repetition.
const TIMING: TimeoutConfig = TimeoutConfig {
    initial_timeout: Duration::from_millis(250),
    max_retries: 1,
    max_retry_timeout: None,
};
/// The search for UPnP, from the beginning of the attempt. Routers answer at once, as a rule.
const UPNP_SEARCH: Duration = Duration::from_millis(1300);
/// The search when nobody waits: they may think for 3 s (`MX` of the search).
const PATIENT_UPNP_SEARCH: Duration = Duration::from_secs(4);
/// The search for what has a mapping of an earlier run, within what a deletion may take.
const DELETION_SEARCH: Duration = Duration::from_millis(800);
/// For the steps of a mapping by UPnP after that.
const UPNP_LIMIT: Duration = Duration::from_secs(3);

/// What is known of the router.
#[derive(Debug, Default)]
pub(super) struct Asked {
    pub(super) found: Vec<Method>,
    pub(super) igd: Option<Igd>,
}

/// A mapping that exists.
#[derive(Debug, Clone)]
pub(super) struct Held {
    pub(super) entry: Entry,
    pub(super) mapping: Mapping,
    until: Option<Instant>,
}

impl Held {
    fn new(entry: Entry, external: SocketAddrV4, lease_s: u32) -> Self {
        let until = (lease_s > 0).then(|| Instant::now() + Duration::from_secs(u64::from(lease_s)));
        let mapping = Mapping {
            external,
            method: entry.method,
            lease_s,
        };
        Self {
            entry,
            mapping,
            until,
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.until.is_some_and(|until| until <= Instant::now())
    }
}

/// Why there is no mapping.
#[derive(Debug)]
pub(super) enum Refusal {
    Silent,
    /// The router has no public address that it could map a port of.
    NoAddress,
    Refused(String),
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Deletion {
    /// The mapping is not there (any more), or is somebody else's.
    Gone,
    /// Not known: the router does not answer.
    Unanswered,
}

/// Maps all ports of `settings` by the first protocol that does it. All or nothing for UDP: a TCP
/// port that can not be mapped is left out. Takes at most about 1.5 s where nobody answers, and 4 s
/// if it is `patient`.
pub(super) async fn map(
    asked: &mut Asked,
    place: Place,
    settings: &Settings,
    journal: &mut Journal,
    patient: bool,
) -> Result<Vec<Held>, Refusal> {
    *asked = Asked::default();
    let limit = if patient {
        PATIENT_UPNP_SEARCH
    } else {
        UPNP_SEARCH
    };
    let search = Search::start(place, limit);
    let (by_pcp, external) = tokio::join!(
        map_each(Method::Pcp, place, settings, journal, None),
        natpmp::external_address(place.router.into(), Some(TIMING))
    );
    let mut reason = match by_pcp {
        Ok(held) => {
            asked.found.push(Method::Pcp);
            return Ok(held);
        }
        Err(failure) => failure.into_refusal_by(Method::Pcp),
    };
    if reason.is_some() {
        asked.found.push(Method::Pcp);
    }
    match external {
        Ok(external) => {
            asked.found.push(Method::NatPmp);
            match map_each(Method::NatPmp, place, settings, journal, Some(external)).await {
                Ok(held) => return Ok(held),
                Err(failure) => reason = failure.into_refusal_by(Method::NatPmp).or(reason),
            }
        }
        Err(error) => {
            if let Some(refusal) = Failure::from(error).into_refusal_by(Method::NatPmp) {
                asked.found.push(Method::NatPmp);
                reason.get_or_insert(refusal);
            }
        }
    }
    match map_by_any(search, asked, place, settings, journal).await {
        Ok(held) => Ok(held),
        Err(refusal) => Err(refusal.or(reason).unwrap_or(Refusal::Silent)),
    }
}

/// The first control point that maps on a public address; where none does, one that maps.
async fn map_by_any(
    mut search: Search,
    asked: &mut Asked,
    place: Place,
    settings: &Settings,
    journal: &mut Journal,
) -> Result<Vec<Held>, Option<Refusal>> {
    let mut refusal = None;
    let mut behind_nat = Vec::new();
    loop {
        let (igd, anywhere) = match search.next().await {
            Some(igd) => (igd, false),
            None => match behind_nat.pop() {
                Some(igd) => (igd, true),
                None => return Err(refusal),
            },
        };
        if !asked.found.contains(&Method::Upnp) {
            asked.found.push(Method::Upnp);
        }
        let making = map_by_upnp(&igd, place, settings, journal, anywhere);
        let made = tokio::time::timeout(UPNP_LIMIT, making).await;
        match made {
            Ok(Ok(Some(held))) => {
                asked.igd = Some(igd);
                return Ok(held);
            }
            // The first of them is asked last of all, and first of these.
            Ok(Ok(None)) => behind_nat.insert(0, igd),
            Ok(Err(failure)) => refusal = failure.into_refusal_by(Method::Upnp).or(refusal),
            Err(_) => refusal = Some(Refusal::Refused("UPnP: it takes too long".into())),
        }
    }
}

/// Asks for a mapping that exists once more.
pub(super) async fn renew(
    asked: &Asked,
    held: &Held,
    settings: &Settings,
    journal: &mut Journal,
) -> Result<Held, Refusal> {
    let lease_s = settings.lease(held.entry.method);
    let noted = |journal: &mut Journal, entry: &Entry| {
        journal
            .note_making(entry)
            .map_err(|error| Refusal::Refused(error.to_string()))
    };
    match held.entry.method {
        Method::Pcp | Method::NatPmp => {
            let mut entry = held.entry.clone();
            entry.expires_at = expiry(lease_s);
            noted(journal, &entry)?;
            let known = *held.mapping.external.ip();
            let external = match entry.method {
                // The router may have another address by now.
                Method::NatPmp => natpmp::external_address(entry.place.router.into(), Some(TIMING))
                    .await
                    .map_err(|error| Failure::from(error).into_refusal())?,
                _ => known,
            };
            let wish = NonZeroU16::new(held.mapping.external.port());
            ask(entry, wish, lease_s, external)
                .await
                .map_err(Failure::into_refusal)
        }
        Method::Upnp => {
            let Some(igd) = &asked.igd else {
                return Err(Refusal::Silent);
            };
            let lease_s = if held.mapping.lease_s == 0 {
                0
            } else {
                lease_s
            };
            let mut entry = held.entry.clone();
            entry.expires_at = expiry(lease_s);
            noted(journal, &entry)?;
            let renewed = tokio::time::timeout(UPNP_LIMIT, async {
                igd.renew(&entry, lease_s).await?;
                igd.external_address().await
            });
            match renewed.await {
                Ok(Ok(None)) => Err(Refusal::NoAddress),
                Ok(Ok(Some(external))) => {
                    let external = SocketAddrV4::new(external, entry.external_port);
                    Ok(Held::new(entry, external, lease_s))
                }
                Ok(Err(why)) => Err(Refusal::Refused(why)),
                Err(_) => Err(Refusal::Silent),
            }
        }
    }
}

/// Deletes a mapping of this host.
pub(super) async fn delete(asked: &Asked, entry: &Entry) -> Deletion {
    let Some(port) = NonZeroU16::new(entry.port) else {
        return Deletion::Gone;
    };
    let router = entry.place.router.into();
    let protocol = protocol(entry.transport);
    let deleted = match entry.method {
        Method::Pcp => {
            let range = pcp::DropMappingRange::Single {
                internal_port: port,
                protocol,
            };
            let local = entry.place.local.into();
            pcp::try_drop_mapping(router, local, entry.nonce, range, Some(TIMING))
                .await
                .map_err(Failure::from)
        }
        Method::NatPmp => natpmp::try_drop_mapping(router, protocol, Some(port), Some(TIMING))
            .await
            .map_err(Failure::from),
        Method::Upnp => match &asked.igd {
            Some(igd) => igd.delete(entry).await.map(drop).map_err(Failure::Refused),
            None => delete_by_any(entry).await,
        },
    };
    tracing::debug!(?deleted, method = ?entry.method, "deleting a mapping");
    match deleted {
        // A router that says no will not say anything else later.
        Ok(()) | Err(Failure::Refused(_) | Failure::NoAddress) => Deletion::Gone,
        Err(Failure::Silent) => Deletion::Unanswered,
    }
}

/// Whichever control point has the mapping deletes it.
async fn delete_by_any(entry: &Entry) -> Result<(), Failure> {
    let mut search = Search::start(entry.place, DELETION_SEARCH);
    let mut deleted = Err(Failure::Silent);
    while let Some(igd) = search.next().await {
        match igd.delete(entry).await {
            Ok(true) => return Ok(()),
            Ok(false) => deleted = Ok(()),
            Err(why) if deleted.is_err() => deleted = Err(Failure::Refused(why)),
            Err(_) => {}
        }
    }
    deleted
}

/// PCP or NAT-PMP for all ports.
async fn map_each(
    method: Method,
    place: Place,
    settings: &Settings,
    journal: &mut Journal,
    external: Option<Ipv4Addr>,
) -> Result<Vec<Held>, Failure> {
    let lease_s = settings.lease(method);
    let mut held = Vec::new();
    for (transport, port) in settings.ports() {
        let entry = Entry {
            method,
            place,
            transport,
            port: port.get(),
            external_port: 0,
            nonce: match method {
                Method::Pcp => journal.nonce,
                _ => [0; 3],
            },
            expires_at: expiry(lease_s),
        };
        journal
            .note_making(&entry)
            .map_err(|error| Failure::Refused(error.to_string()))?;
        let external = external.unwrap_or(Ipv4Addr::UNSPECIFIED);
        // The local port is as good as any, and no two agents of a host wish for the same.
        match ask(entry.clone(), Some(port), lease_s, external).await {
            Ok(mapping) => held.push(mapping),
            Err(failure) => {
                journal.note_gone(&entry);
                if held.is_empty() {
                    return Err(failure);
                }
            }
        }
    }
    if held.is_empty() {
        return Err(Failure::Refused("there is no port to map".into()));
    }
    Ok(held)
}

/// One request for a mapping by PCP or NAT-PMP. `external` is what NAT-PMP knows already.
async fn ask(
    entry: Entry,
    wish: Option<NonZeroU16>,
    lease_s: u32,
    external: Ipv4Addr,
) -> Result<Held, Failure> {
    let router = entry.place.router.into();
    let port = NonZeroU16::new(entry.port).expect("checked when noted");
    let options = PortMappingOptions {
        external_port: wish,
        lifetime_seconds: Some(lease_s),
        timeout_config: Some(TIMING),
    };
    let protocol = protocol(entry.transport);
    let mapping: PortMapping = match entry.method {
        Method::Pcp => {
            let request =
                pcp::BaseMapRequest::new(router, entry.place.local.into(), protocol, port);
            pcp::port_mapping(request, Some(entry.nonce), None, options).await?
        }
        _ => natpmp::port_mapping(router, protocol, port, options).await?,
    };
    let external = match mapping.mapping_type() {
        PortMappingType::Pcp {
            external_ip: IpAddr::V4(external),
            ..
        } => external,
        PortMappingType::Pcp { .. } => {
            return Err(Failure::Refused("its external address is not IPv4".into()));
        }
        PortMappingType::NatPmp => external,
    };
    let external = SocketAddrV4::new(external, mapping.external_port().get());
    Ok(Held::new(entry, external, mapping.lifetime()))
}

/// `None`: the router's address there is not public, and it need not be `anywhere`.
async fn map_by_upnp(
    igd: &Igd,
    place: Place,
    settings: &Settings,
    journal: &mut Journal,
    anywhere: bool,
) -> Result<Option<Vec<Held>>, Failure> {
    let external = igd.external_address().await.map_err(Failure::Refused)?;
    // Without a line a service says 0.0.0.0.
    let external = external.filter(|external| !external.is_unspecified());
    let external = external.ok_or(Failure::NoAddress)?;
    if !anywhere && !is_public(external) {
        return Ok(None);
    }
    let taken = igd.table().await.unwrap_or_default();
    let mut held = Vec::new();
    for (transport, port) in settings.ports() {
        let made = igd
            .map(place, transport, port.get(), settings, &taken, journal)
            .await;
        match made {
            Ok((entry, lease_s)) => {
                let external = SocketAddrV4::new(external, entry.external_port);
                held.push(Held::new(entry, external, lease_s));
            }
            Err(why) if held.is_empty() => return Err(Failure::Refused(why)),
            Err(why) => tracing::debug!(why, "no TCP port by UPnP"),
        }
    }
    Ok(Some(held))
}

fn protocol(transport: Transport) -> InternetProtocol {
    match transport {
        Transport::Udp => InternetProtocol::Udp,
        Transport::Tcp => InternetProtocol::Tcp,
    }
}

/// Nobody there, or somebody who says no.
#[derive(Debug)]
enum Failure {
    Silent,
    NoAddress,
    Refused(String),
}

impl Failure {
    /// `None`: nobody has spoken.
    fn into_refusal_by(self, method: Method) -> Option<Refusal> {
        match self {
            Self::Silent => None,
            Self::NoAddress => Some(Refusal::NoAddress),
            Self::Refused(why) => Some(Refusal::Refused(format!("{method}: {why}"))),
        }
    }

    fn into_refusal(self) -> Refusal {
        match self {
            Self::Silent => Refusal::Silent,
            Self::NoAddress => Refusal::NoAddress,
            Self::Refused(why) => Refusal::Refused(why),
        }
    }
}

impl From<pcp::Failure> for Failure {
    fn from(failure: pcp::Failure) -> Self {
        match failure {
            // A closed port is no answer; nor is that only the older protocol is spoken.
            pcp::Failure::Socket(_)
            | pcp::Failure::Timeout
            | pcp::Failure::UnsupportedVersion(_) => Self::Silent,
            pcp::Failure::NetworkFailure(_) => Self::NoAddress,
            failure => Self::Refused(failure.to_string()),
        }
    }
}

impl From<natpmp::Failure> for Failure {
    fn from(failure: natpmp::Failure) -> Self {
        match failure {
            natpmp::Failure::Socket(_)
            | natpmp::Failure::Timeout
            | natpmp::Failure::UnsupportedVersion(_) => Self::Silent,
            natpmp::Failure::NetworkFailure => Self::NoAddress,
            failure => Self::Refused(failure.to_string()),
        }
    }
}
