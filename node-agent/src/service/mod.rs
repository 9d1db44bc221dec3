//! Services: what a device exposes by name (PROTOCOL §20). Nothing else is reachable through it.
//!
//! A stream is served in two steps, so that what can not be served is refused in the stream's
//! header: [`Services::prepare`] finds the service and reaches it, and [`Services::run`] speaks its
//! protocol on the stream.

mod address;
mod connections;
mod dial;
mod exposed;
mod files;
mod host;
mod http;
mod places;
mod shell;
mod size;
mod stream;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use parking_lot::RwLock;
use ringback_protocol::rtc::{CHANNEL_PATIENCE_S, MAX_CHANNELS};
use ringback_protocol::service::listing::{DeviceInfo, LISTING, Listing};
use ringback_protocol::stream::{Mode, Open, Opening, StreamRefused};
use ringback_protocol::{Code, PeerId};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::copy;
use crate::stream::{Stream, StreamReader};
use connections::{Connected, Connections};
use dial::Dials;
pub(crate) use exposed::{Folder, Service};
use files::Uploads;
pub(crate) use host::Host;
use shell::Shells;
pub(crate) use size::Size;
pub(crate) use stream::{Frames, Sending};

/// Between two looks for uploads that were left behind.
const SWEEP_EACH: Duration = Duration::from_secs(6 * 3600);

/// The services of a device, and what callers have open of them.
#[derive(Default)]
pub(crate) struct Services {
    exposed: RwLock<BTreeMap<String, Service>>,
    shells: Shells,
    uploads: Arc<Uploads>,
    dials: Dials,
    connections: Connections,
}

/// A service that a stream can be connected to.
enum Ready {
    Tcp(TcpStream, Connected),
    Http(http::Host, Connected),
    Listing(Vec<u8>),
    Shell,
    Files(Folder),
    Dial,
}

impl Services {
    /// From now on these are exposed; what is open of others stays.
    pub(crate) fn expose(&self, services: BTreeMap<String, Service>) {
        *self.exposed.write() = services;
    }

    /// What is exposed now, by its names.
    pub(crate) fn exposed(&self) -> BTreeMap<String, Service> {
        self.exposed.read().clone()
    }

    fn named(&self, name: &str) -> Option<Service> {
        self.exposed.read().get(name).cloned()
    }

    /// Ends the shells of a caller.
    pub(crate) fn end_shells(&self, caller: &PeerId) {
        self.shells.end(caller);
    }

    /// Serves a stream of a link of either kind. `channels`: those that a browser's link carries at a
    /// time.
    pub(crate) async fn serve(
        &self,
        host: &dyn Host,
        caller: PeerId,
        channels: Option<Arc<Semaphore>>,
        mut stream: Stream,
    ) -> Result<()> {
        let open = stream.read_open().await?;
        let _channel = match channel(channels).await {
            Ok(channel) => channel,
            Err(refused) => return refuse(stream, refused).await,
        };
        match self.prepare(host, caller, &open).await {
            Ok(ready) => self.run(ready, host, caller, stream).await,
            Err((code, detail)) => refuse(stream, StreamRefused { code, detail }).await,
        }
    }

    /// Finds what a stream is for and reaches it; the error goes into the stream's header.
    async fn prepare(
        &self,
        host: &dyn Host,
        caller: PeerId,
        open: &Open,
    ) -> Result<Ready, (Code, String)> {
        let unreachable = |error: std::io::Error| (Code::ServiceUnreachable, error.to_string());
        if open.service == LISTING && open.mode == Mode::Raw {
            return Ok(Ready::Listing(self.listing(host).to_json()));
        }
        let service = self.named(&open.service);
        let service = service.ok_or_else(|| (Code::UnknownService, self.names()))?;
        match (service, open.mode) {
            (
                Service::Tcp(address) | Service::Http(address) | Service::Https(address),
                Mode::Raw,
            ) => {
                let connected = self.connections.take(caller).await?;
                let tcp = address.connect().await.map_err(unreachable)?;
                Ok(Ready::Tcp(tcp, connected))
            }
            (Service::Http(address), Mode::Http) => {
                let connected = self.connections.take(caller).await?;
                let host = http::Host::plain(&address).await;
                Ok(Ready::Http(host.map_err(unreachable)?, connected))
            }
            (Service::Https(address), Mode::Http) => {
                let connected = self.connections.take(caller).await?;
                let host = http::Host::tls(&address).await;
                Ok(Ready::Http(host.map_err(unreachable)?, connected))
            }
            (Service::Shell, Mode::Raw) => Ok(Ready::Shell),
            (Service::Files(folder), Mode::Raw) => Ok(Ready::Files(folder)),
            (Service::Dial, Mode::Raw) => Ok(Ready::Dial),
            _ => Err((Code::BadMode, String::new())),
        }
    }

    /// Says yes in the stream's header, and serves what is behind it.
    async fn run(
        &self,
        ready: Ready,
        host: &dyn Host,
        caller: PeerId,
        mut stream: Stream,
    ) -> Result<()> {
        match ready {
            Ready::Tcp(mut tcp, _connected) => {
                let copied = async {
                    stream.answer(&Opening::Opened).await?;
                    copy::both_ways(tcp.split(), stream).await
                };
                if let Err(error) = copied.await {
                    copy::reset(&tcp);
                    return Err(error.into());
                }
                Ok(())
            }
            Ready::Listing(json) => {
                let (_recv, mut send) = opened(stream).await?;
                send.write_all(&json).await?;
                Ok(send.shutdown().await?)
            }
            Ready::Http(host, _connected) => {
                let (recv, send) = opened(stream).await?;
                host.exchange(recv, send).await
            }
            Ready::Shell => {
                let (recv, send) = opened(stream).await?;
                self.shells.serve(caller, recv, send).await
            }
            Ready::Files(folder) => {
                let (recv, send) = opened(stream).await?;
                files::serve(&self.uploads, caller, &folder, recv, send).await
            }
            Ready::Dial => {
                let (recv, send) = opened(stream).await?;
                dial::serve(host, &self.dials, caller, recv, send).await
            }
        }
    }

    /// The names of all services, as far as they fit into a header.
    fn names(&self) -> String {
        let mut names = String::new();
        for name in self.exposed().keys() {
            if names.len() + name.len() > 1024 {
                names.push_str(", …");
                break;
            }
            if !names.is_empty() {
                names.push_str(", ");
            }
            names.push_str(name);
        }
        names
    }

    fn listing(&self, host: &dyn Host) -> Listing {
        Listing {
            device: DeviceInfo {
                id: host.id(),
                agent: concat!("ringback/", env!("CARGO_PKG_VERSION")).into(),
                name: host.name(),
            },
            services: self
                .exposed()
                .iter()
                .map(|(name, service)| service.info(name))
                .collect(),
        }
    }

    /// Removes what is left of uploads that nobody went on with, now and every few hours.
    pub(crate) async fn sweep_uploads(self: Arc<Self>) {
        loop {
            let folders = self
                .exposed()
                .into_values()
                .filter_map(|service| match service {
                    Service::Files(folder) if folder.writable => Some(folder),
                    _ => None,
                });
            let folders: Vec<Folder> = folders.collect();
            // Not a thread of the runtime's, whose end would wait for this one.
            std::thread::spawn(move || {
                for folder in folders {
                    if let Err(error) = files::sweep(&folder) {
                        tracing::warn!("can not look through {}: {error}", folder.path.display());
                    }
                }
            });
            tokio::time::sleep(SWEEP_EACH).await;
        }
    }
}

/// One of the channels that a browser's link carries at a time; a little later, if need be.
async fn channel(
    channels: Option<Arc<Semaphore>>,
) -> Result<Option<OwnedSemaphorePermit>, StreamRefused> {
    let Some(channels) = channels else {
        return Ok(None);
    };
    let patience = Duration::from_secs(CHANNEL_PATIENCE_S);
    match tokio::time::timeout(patience, channels.acquire_owned()).await {
        Ok(channel) => Ok(channel.ok()),
        Err(_) => Err(StreamRefused {
            code: Code::TooMany,
            detail: format!(
                "a link carries {MAX_CHANNELS} streams at a time, and none has ended in 10 s"
            ),
        }),
    }
}

/// Says no in the stream's header.
async fn refuse(mut stream: Stream, refused: StreamRefused) -> Result<()> {
    stream.answer(&Opening::Refused(refused)).await?;
    stream.writer.finish();
    Ok(())
}

/// Says yes in the stream's header. What is behind it is reset if it is dropped before its end.
async fn opened(mut stream: Stream) -> Result<(StreamReader, Sending)> {
    stream.answer(&Opening::Opened).await?;
    let Stream { reader, writer } = stream;
    Ok((reader, Sending::new(writer)))
}
