//! Two small services on the device's host: one that speaks first, and one that waits for a word.

use std::{
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
};

use anyhow::Result;
use ringback_tests::lab::{file_server::FileServer, namespace::Namespace};
use serde::Serialize;

/// Who has the first word on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Talk {
    /// A banner, as of ssh.
    ServerFirst,
    /// An HTTP GET.
    ClientFirst,
}

impl Talk {
    pub(crate) const ALL: [Self; 2] = [Self::ServerFirst, Self::ClientFirst];

    /// What the device exposes it as.
    pub(crate) fn service(self) -> &'static str {
        match self {
            Self::ServerFirst => "banner",
            Self::ClientFirst => "web",
        }
    }

    /// Where it listens on the device's host.
    pub(crate) fn port(self) -> u16 {
        match self {
            Self::ServerFirst => 7002,
            Self::ClientFirst => 7003,
        }
    }

    /// Name and target, as the device exposes it.
    pub(crate) fn exposed(self) -> (&'static str, String) {
        (self.service(), format!("127.0.0.1:{}", self.port()))
    }

    /// How a table calls it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::ServerFirst => "server first",
            Self::ClientFirst => "client first",
        }
    }

    /// Connects and waits for the first byte of the service.
    pub(crate) fn first_byte(self, server: SocketAddr) -> io::Result<()> {
        let mut stream = TcpStream::connect(server)?;
        stream.set_nodelay(true)?;
        if self == Self::ClientFirst {
            stream.write_all(b"GET / HTTP/1.1\r\nHost: lab\r\n\r\n")?;
        }
        stream.read_exact(&mut [0])
    }
}

/// Starts both; they end with the process (the banner) and with the value (HTTP).
pub(crate) fn start(device: &Namespace) -> Result<FileServer> {
    let any = Ipv4Addr::UNSPECIFIED;
    let banner = device.listen((any, Talk::ServerFirst.port()))?;
    std::thread::spawn(move || greet(&banner));
    FileServer::start(device, (any, Talk::ClientFirst.port()))
}

fn greet(listener: &TcpListener) {
    while let Ok((mut stream, _)) = listener.accept() {
        // A reader that has gone needs no greeting.
        let _ = stream.write_all(b"SSH-2.0-lab\r\n");
    }
}
