//! A call as a person asks for it: local ports or stdio onto a device's services, redialled when
//! the link is lost. Runs in the command's own process or in the agent, and tells what happens as
//! [`Event`]s.

use std::net::{Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use ringback_protocol::Code;
use ringback_protocol::candidate::Candidate;
use ringback_protocol::name;
use ringback_protocol::receipt::{PathInUse, Receipt};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::caller::{Caller, Completed, Dialled, Ring};
use crate::copy;
use crate::endpoint::InUse;
use crate::failure::{Exit, Failure};
use crate::fitting;
use crate::keepalive::keep_alive;
use crate::link::{Link, Opened, Use, close};

/// How long a local connection waits for a link that is being redialled.
const REDIAL_PATIENCE: Duration = Duration::from_secs(10);
/// Local connections of a call at a time: as many as a link has streams, and no more than leave this
/// process the files that it needs besides. So many more wait for so long, and are then closed.
const MAX_CONNECTIONS: usize = 1024;
const FILES_LEFT: usize = 128;
const MAX_WAITING: usize = 64;
const PLACE_PATIENCE: Duration = Duration::from_secs(10);
/// How long a service's first byte waits for the device's list of services.
const FIT_PATIENCE: Duration = Duration::from_secs(1);
/// How long a stream that is over waits for the rest of its call.
const RECEIPT_PATIENCE: Duration = Duration::from_secs(1);
/// How long a call is not told of, for its round trip to be measured; its streams do not wait.
const MEASURING: Duration = Duration::from_millis(800);
/// Without any path that answers for this long, the device is called anew. The link may still come
/// back until QUIC gives it up; but a device that was started again knows nothing of it.
const NO_PATH_PATIENCE: Duration = Duration::from_secs(8);
/// Pauses between attempts to call again; the last one repeats.
const REDIAL_PAUSES: [Duration; 6] = [
    Duration::from_millis(200),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(5),
    Duration::from_secs(15),
    Duration::from_secs(30),
];

/// `-L [BIND:]PORT:SERVICE`, as in ssh.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listen {
    pub bind: SocketAddr,
    pub service: String,
}

/// What happens in a call, for the terminal and for the control socket.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub(crate) enum Event {
    /// A local port is ready.
    Listening { bind: SocketAddr, service: String },
    /// What comes in on stdio is on its way to the service.
    Piping,
    /// The service has been reached: from here on, its bytes.
    Opened,
    /// The call is complete.
    Connected {
        receipt: Receipt,
        remembered: bool,
        candidates: Vec<Candidate>,
    },
    /// The link's datagrams go another way now.
    Path {
        #[serde(flatten)]
        path: PathInUse,
    },
    /// The link is lost; it is being called again.
    Lost { reason: String },
    /// A local connection could not be served.
    Refused { message: String },
    /// The end, and the exit code that says why.
    Failed {
        exit: u8,
        message: String,
        /// The other side's word for it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        code: Option<Code>,
    },
}

/// A link that may be replaced by a newer one.
type CurrentLink = watch::Receiver<Option<Link>>;

/// Calls, and keeps the local ports of `listens` forwarded until the call is refused for good.
pub(crate) async fn forward(
    caller: &Caller,
    ring: &Ring,
    listens: &[Listen],
    events: &mpsc::Sender<Event>,
) -> Result<()> {
    let mut listeners = Vec::new();
    for listen in listens {
        let listener = TcpListener::bind(listen.bind).await.map_err(|error| {
            Failure::new(
                Exit::Usage,
                format!(
                    "can not listen on {}: {error}; choose another port",
                    listen.bind
                ),
            )
        })?;
        listeners.push((listener, listen.service.clone()));
    }
    let (current, link) = watch::channel(None);
    let dialled = caller.call(ring).await?;
    let first = dialled.link.clone();
    let services: Vec<&str> = listens.iter().map(|listen| &*listen.service).collect();
    tokio::select! {
        result = keep_up(caller, ring, listeners, (current, link), dialled, events) => result,
        failure = fitting::misfit(&first, &services) => Err(failure.into()),
    }
}

/// Serves local ports by a link, and by its successors.
async fn keep_up(
    caller: &Caller,
    ring: &Ring,
    listeners: Vec<(TcpListener, String)>,
    (current, link): (watch::Sender<Option<Link>>, CurrentLink),
    mut dialled: Dialled,
    events: &mpsc::Sender<Event>,
) -> Result<()> {
    current.send_replace(Some(dialled.link.clone()));
    let places = Places::new(most_connections());
    let mut serving = JoinSet::new();
    for (listener, service) in listeners {
        let bind = listener.local_addr()?;
        serving.spawn(accept(
            listener,
            service.clone(),
            link.clone(),
            places.clone(),
            events.clone(),
        ));
        tell(events, Event::Listening { bind, service }).await;
    }
    let mut ring = ring.clone();
    loop {
        let Dialled { link, completed } = dialled;
        match completed.await.context("the call ended")? {
            Ok(mut completed) => {
                ring.hints.clone_from(&completed.candidates);
                completed.measure(&link, MEASURING).await;
                tell(events, connected(completed)).await;
            }
            // Before it was complete the link may be lost like later; a wrong key ends it.
            Err(error) if Failure::exit_code(&error) != Exit::Other as u8 => return Err(error),
            Err(error) => tracing::debug!("the call was not completed: {error:#}"),
        }
        let reason = watch_path(&link, events).await;
        current.send_replace(None);
        tell(events, Event::Lost { reason }).await;
        dialled = redial(caller, &ring).await?;
        current.send_replace(Some(dialled.link.clone()));
        // Programs that still wait on the old link learn that it is over.
        if !link.paths.is_verified() {
            link.connection.close(close::DONE.into(), b"called anew");
        }
    }
}

/// Tells of every change of the link's path, until the link ends or has had no path for too long;
/// gives the reason of that.
async fn watch_path(link: &Link, events: &mpsc::Sender<Event>) -> String {
    let mut in_use = link.paths.in_use();
    let mut told = link.paths.path();
    let mut give_up = None;
    let ended = link.ended();
    tokio::pin!(ended);
    loop {
        let patience = async {
            match give_up {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            reason = &mut ended => return reason,
            () = patience => return "the device does not answer any more".into(),
            Ok(()) = in_use.changed() => {
                let InUse { path: now, verified, .. } = *in_use.borrow_and_update();
                give_up = match verified {
                    Some(_) => None,
                    None => give_up.or_else(|| Some(Instant::now() + NO_PATH_PATIENCE)),
                };
                if let Some(path) = now.filter(|path| Some(*path) != told) {
                    told = Some(path);
                    tell(events, Event::Path { path }).await;
                }
            }
        }
    }
}

/// Calls, and connects `reader` and `writer` to the service; ends when the service or the reader
/// does. With `plain` the service has to be one that carries bytes as they are.
pub(crate) async fn pipe(
    caller: &Caller,
    ring: &Ring,
    plain: bool,
    reader: impl AsyncRead + Unpin,
    writer: impl AsyncWrite + Unpin,
    events: &mpsc::Sender<Event>,
) -> Result<()> {
    let Dialled { link, completed } = caller.call(ring).await?;
    let _use = Use(link.clone());
    let opened = link.open(&ring.service).await?;
    tell(events, Event::Piping).await;
    let receipt = async {
        match completed.await {
            Ok(Ok(mut completed)) => {
                completed.measure(&link, MEASURING).await;
                tell(events, connected(completed)).await;
            }
            Ok(Err(error)) if Failure::exit_code(&error) != Exit::Other as u8 => return Err(error),
            _ => {}
        }
        Ok(())
    };
    let (fits, fit) = oneshot::channel();
    let services = [&*ring.service];
    let misfit = async {
        let checked = match plain {
            true => fitting::check(&link, &services).await,
            false => Ok(()),
        };
        match checked {
            Err(failure) => failure,
            Ok(()) => {
                let _ = fits.send(());
                std::future::pending().await
            }
        }
    };
    // The device's list comes with its yes, mostly: what no pipe can carry is not passed on as if it
    // could.
    let confirmed = async {
        let _ = tokio::time::timeout(FIT_PATIENCE, fit).await;
        tell(events, Event::Opened).await;
    };
    let copying = copy::with_opening(reader, writer, opened, confirmed);
    tokio::pin!(receipt, copying, misfit);
    tokio::select! {
        failure = &mut misfit => return Err(failure.into()),
        result = &mut copying => {
            result?;
            // Over before the call was complete: what it shows of the device is still worth noting.
            let told = tokio::time::timeout(RECEIPT_PATIENCE, receipt).await;
            return told.unwrap_or(Ok(()));
        }
        told = &mut receipt => told?,
    }
    tokio::select! {
        copied = copying => copied.map(|_| ()),
        failure = misfit => Err(failure.into()),
    }
}

fn connected(completed: Completed) -> Event {
    Event::Connected {
        receipt: completed.receipt,
        remembered: completed.remembered,
        candidates: completed.candidates,
    }
}

/// Calls again until it works; gives up when the device or the registry says that it never will.
async fn redial(caller: &Caller, ring: &Ring) -> Result<Dialled> {
    let mut pauses = REDIAL_PAUSES.iter();
    let mut pause = REDIAL_PAUSES[0];
    loop {
        tokio::time::sleep(pause.mul_f64(rand::random_range(0.7..1.3))).await;
        match caller.call(ring).await {
            Ok(dialled) => return Ok(dialled),
            Err(error) => {
                let code = Failure::exit_code(&error);
                if [Exit::Refused, Exit::Trust, Exit::Usage]
                    .iter()
                    .any(|exit| *exit as u8 == code)
                {
                    return Err(error);
                }
                tracing::debug!("not yet: {error:#}");
            }
        }
        pause = *pauses
            .next()
            .unwrap_or(&REDIAL_PAUSES[REDIAL_PAUSES.len() - 1]);
    }
}

async fn accept(
    listener: TcpListener,
    service: String,
    link: CurrentLink,
    places: Places,
    events: mpsc::Sender<Event>,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((tcp, _)) => {
                    let (service, link, events) = (service.clone(), link.clone(), events.clone());
                    let place = places.clone().take();
                    connections.spawn(async move {
                        if let Err(error) = connect(tcp, &service, link, place).await {
                            tell(&events, Event::Refused { message: format!("{error:#}") }).await;
                        }
                    });
                }
                Err(error) => {
                    // Out of file descriptors, most likely: wait for some to come back.
                    tracing::warn!("can not accept: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Places for local connections. Cheap to clone.
#[derive(Clone)]
struct Places {
    most: usize,
    /// How long one is waited for.
    patience: Duration,
    free: Arc<Semaphore>,
    /// Of those that wait for one, too.
    guests: Arc<Semaphore>,
}

impl Places {
    fn new(most: usize) -> Self {
        Self {
            most,
            patience: PLACE_PATIENCE,
            free: Arc::new(Semaphore::new(most)),
            guests: Arc::new(Semaphore::new(most + MAX_WAITING)),
        }
    }

    /// Is asked for now, and waited for when this is polled. Whoever waited in vain is told so.
    fn take(
        self,
    ) -> impl Future<Output = Result<(OwnedSemaphorePermit, OwnedSemaphorePermit)>> + Send {
        let guest = self.guests.clone().try_acquire_owned();
        async move {
            let full = || {
                let most = self.most;
                format!("{most} connections are forwarded already; one more was closed")
            };
            let guest = guest.ok().with_context(full)?;
            let place = tokio::time::timeout(self.patience, self.free.acquire_owned());
            Ok((guest, place.await.with_context(full)??))
        }
    }
}

fn most_connections() -> usize {
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let files = files.map_or(usize::MAX, |files| files.try_into().unwrap_or(usize::MAX));
    files
        .saturating_sub(FILES_LEFT + MAX_WAITING)
        .clamp(16, MAX_CONNECTIONS)
}

async fn connect<P>(
    tcp: TcpStream,
    service: &str,
    link: CurrentLink,
    place: impl Future<Output = Result<P>>,
) -> Result<()> {
    tcp.set_nodelay(true)?;
    keep_alive(&tcp);
    let opened = async {
        let place = place.await?;
        anyhow::Ok((open(service, link).await?, place))
    };
    match opened.await {
        Ok((opened, _place)) => copy_both(tcp, opened).await,
        Err(error) => {
            // Not an end: nothing was said.
            copy::reset(&tcp);
            Err(error)
        }
    }
}

async fn open(service: &str, mut link: CurrentLink) -> Result<Opened> {
    let link = tokio::time::timeout(REDIAL_PATIENCE, link.wait_for(Option::is_some))
        .await
        .context("the device is not connected")??
        .clone()
        .context("the device is not connected")?;
    link.open(service).await
}

async fn copy_both(mut tcp: TcpStream, opened: Opened) -> Result<()> {
    let (reader, writer) = tcp.split();
    // Local data goes out before the device has answered: the stream's first round trip is used.
    let Err(error) = copy::with_opening(reader, writer, opened, async {}).await else {
        return Ok(());
    };
    copy::reset(&tcp);
    // A connection that was reset, here or there, is everyday life.
    if error.downcast_ref::<std::io::Error>().is_some() {
        tracing::debug!("a connection broke off: {error:#}");
        return Ok(());
    }
    Err(error)
}

async fn tell(events: &mpsc::Sender<Event>, event: Event) {
    // Whoever listened has gone; the call goes on or is dropped with them.
    let _ = events.send(event).await;
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad =
            || format!("'{text}' is not [BIND:]PORT:SERVICE, as in 8080:web or 0.0.0.0:8080:web");
        let (address, service) = text.rsplit_once(':').ok_or_else(bad)?;
        name::check(service).map_err(|error| format!("'{service}': {error}"))?;
        let bind = match address.parse::<u16>() {
            Ok(port) => (Ipv4Addr::LOCALHOST, port).into(),
            Err(_) => address
                .replace("localhost", "127.0.0.1")
                .parse()
                .map_err(|_| bad())?,
        };
        Ok(Self {
            bind,
            service: service.to_owned(),
        })
    }
}

/// What the control socket is asked for a call.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct CallRequest {
    pub(crate) ring: Ring,
    /// Empty: the rest of the control connection is the stream.
    pub(crate) listens: Vec<Listen>,
    /// The stream is a program's that knows nothing of the protocols of terminals and folders.
    #[serde(default)]
    pub(crate) plain: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_listens_as_ssh_does() {
        let listen: Listen = "8080:web".parse().unwrap();
        assert_eq!(
            (listen.bind.to_string().as_str(), listen.service.as_str()),
            ("127.0.0.1:8080", "web")
        );
        assert_eq!(
            "[::1]:80:web".parse::<Listen>().unwrap().bind.to_string(),
            "[::1]:80"
        );
        assert_eq!(
            "localhost:80:web"
                .parse::<Listen>()
                .unwrap()
                .bind
                .to_string(),
            "127.0.0.1:80"
        );
        for bad in ["", "web", "80", "80:", "99999:web", "x:80:web", "80:We b"] {
            assert!(bad.parse::<Listen>().is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn a_connection_that_finds_no_place_waits_and_is_then_closed_with_a_line() {
        let mut places = Places::new(1);
        let first = places.clone().take().await.unwrap();
        let second = tokio::spawn(places.clone().take());
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(!second.is_finished());
        drop(first);
        let second = second.await.unwrap().unwrap();
        // More than may wait.
        let waiting: Vec<_> = (0..MAX_WAITING).map(|_| places.clone().take()).collect();
        let error = places.clone().take().await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "1 connections are forwarded already; one more was closed"
        );
        drop(waiting);
        // And who has waited in vain.
        places.patience = Duration::from_millis(20);
        let vain = places.clone().take().await.unwrap_err();
        assert_eq!(vain.to_string(), error.to_string());
        drop(second);
        drop(places.take().await.unwrap());
    }
}
