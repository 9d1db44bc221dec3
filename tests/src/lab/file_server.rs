//! An HTTP server whose files are generated: any size, a known hash.

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    os::{fd::AsFd as _, unix::net::UnixStream},
};

use anyhow::Result;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{
    content::{Content, hash},
    namespace::Namespace,
};

/// What `GET /` answers.
pub const GREETING: &str = "hello from ringback-lab\n";

/// An HTTP/1.1 server in a namespace, until dropped.
///
/// | request | answer |
/// |---|---|
/// | `GET /` | [`GREETING`] |
/// | `GET /bytes/N` | the first N bytes of [`Content`] of seed 1 (`?seed=S`: of another); understands `Range: bytes=A-` |
/// | `PUT` or `POST` of anything | `{"bytes":N,"sha256":"…"}` of the body |
#[derive(Debug)]
pub struct FileServer {
    address: SocketAddr,
    _bell: UnixStream,
}

impl FileServer {
    /// Starts to serve on an address of a namespace.
    pub fn start(namespace: &Namespace, address: impl Into<SocketAddr>) -> Result<Self> {
        let listener = namespace.listen(address)?;
        let address = listener.local_addr()?;
        let (bell, rung) = UnixStream::pair()?;
        std::thread::Builder::new()
            .name("file-server".into())
            .spawn(move || accept(&listener, &rung))?;
        Ok(Self {
            address,
            _bell: bell,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Serves until the other end of the bell is closed.
fn accept(listener: &TcpListener, bell: &UnixStream) {
    loop {
        let mut events = [
            PollFd::new(listener.as_fd(), PollFlags::POLLIN),
            PollFd::new(bell.as_fd(), PollFlags::POLLIN),
        ];
        let _ = poll(&mut events, PollTimeout::NONE);
        if events[1].any() == Some(true) {
            return;
        }
        if let Ok((stream, _)) = listener.accept() {
            // An error is a client that went away.
            std::thread::spawn(move || converse(&stream));
        }
    }
}

/// Answers the requests of one connection.
fn converse(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut input = BufReader::with_capacity(256 * 1024, stream);
    while let Some(request) = Request::read(&mut input)? {
        request.answer(&mut input, stream)?;
    }
    Ok(())
}

struct Request {
    method: String,
    target: String,
    length: u64,
    expects_continue: bool,
    from: u64,
}

impl Request {
    fn read(input: &mut BufReader<&TcpStream>) -> io::Result<Option<Self>> {
        let mut line = String::new();
        if input.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let mut words = line.split_whitespace().map(str::to_owned);
        let (Some(method), Some(target)) = (words.next(), words.next()) else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        let mut request = Self {
            method,
            target,
            length: 0,
            expects_continue: false,
            from: 0,
        };
        loop {
            let mut header = String::new();
            input.read_line(&mut header)?;
            let Some((name, value)) = header.trim_end().split_once(':') else {
                break;
            };
            let value = value.trim();
            match name.to_ascii_lowercase().as_str() {
                "content-length" => request.length = value.parse().unwrap_or(0),
                "expect" => request.expects_continue = value == "100-continue",
                "range" => {
                    let from = value
                        .strip_prefix("bytes=")
                        .and_then(|v| v.strip_suffix('-'));
                    request.from = from.and_then(|from| from.parse().ok()).unwrap_or(0);
                }
                _ => {}
            }
        }
        Ok(Some(request))
    }

    fn answer(&self, input: &mut BufReader<&TcpStream>, mut output: &TcpStream) -> io::Result<()> {
        if self.method == "PUT" || self.method == "POST" {
            if self.expects_continue {
                output.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
            }
            let (sha256, bytes) = hash(input.take(self.length))?;
            let body = format!("{{\"bytes\":{bytes},\"sha256\":\"{sha256}\"}}\n");
            return write(output, "200 OK", &body);
        }
        if self.target == "/" {
            return write(output, "200 OK", GREETING);
        }
        let (path, query) = self.target.split_once('?').unwrap_or((&self.target, ""));
        let length = path
            .strip_prefix("/bytes/")
            .and_then(|length| length.parse().ok());
        let Some(length) = length else {
            return write(output, "404 Not Found", "no such file\n");
        };
        let seed = query
            .strip_prefix("seed=")
            .and_then(|seed| seed.parse().ok())
            .unwrap_or(1);
        let mut content = Content::new(seed, length);
        let (status, range) = match self.from {
            0 => ("200 OK", String::new()),
            from if from < length => (
                "206 Partial Content",
                format!("Content-Range: bytes {from}-{}/{length}\r\n", length - 1),
            ),
            _ => return write(output, "416 Range Not Satisfiable", ""),
        };
        content.skip_to(self.from);
        let left = length - self.from;
        output.write_all(
            format!("HTTP/1.1 {status}\r\nContent-Length: {left}\r\n{range}\r\n").as_bytes(),
        )?;
        if self.method == "HEAD" {
            return Ok(());
        }
        let mut buffer = vec![0; 256 * 1024];
        loop {
            match content.read(&mut buffer)? {
                0 => return Ok(()),
                length => output.write_all(&buffer[..length])?,
            }
        }
    }
}

fn write(mut output: &TcpStream, status: &str, body: &str) -> io::Result<()> {
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    output.write_all((head + body).as_bytes())
}
