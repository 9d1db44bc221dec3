//! A directory served to a browser on the loopback, with a strict policy.

use std::{
    io::{self, BufRead as _, BufReader, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Component, Path, PathBuf},
    thread,
};

/// An HTTP server on a free port of the loopback. It ends with the process.
#[derive(Debug)]
pub struct StaticSite {
    address: SocketAddr,
}

impl StaticSite {
    /// Serves the files in `dir`. `policy` is every answer's Content-Security-Policy.
    pub fn start(dir: impl Into<PathBuf>, policy: impl Into<String>) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let (dir, policy) = (dir.into(), policy.into());
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (dir, policy) = (dir.clone(), policy.clone());
                // An error is a client that went away.
                thread::spawn(move || answer(&stream, &dir, &policy));
            }
        });
        Ok(Self { address })
    }

    /// Its origin, which browsers take for a secure one.
    pub fn origin(&self) -> String {
        format!("http://localhost:{}", self.address.port())
    }
}

fn answer(stream: &TcpStream, dir: &Path, policy: &str) -> io::Result<()> {
    let mut input = BufReader::new(stream);
    let mut first = String::new();
    input.read_line(&mut first)?;
    let mut line = String::new();
    while input.read_line(&mut line)? > 2 {
        line.clear();
    }
    let path = first.split(' ').nth(1).unwrap_or_default();
    let path = path.split(['?', '#']).next().unwrap_or_default();
    let contents = file(dir, path).and_then(|file| Some((std::fs::read(&file).ok()?, file)));
    let (status, kind, body) = match contents {
        Some((body, file)) => ("200 OK", kind(&file), body),
        None => ("404 Not Found", "text/plain", b"no such file\n".to_vec()),
    };
    let mut out = stream;
    write!(
        out,
        "HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\
         content-security-policy: {policy}\r\nconnection: close\r\n\r\n",
        body.len()
    )?;
    out.write_all(&body)
}

fn file(dir: &Path, path: &str) -> Option<PathBuf> {
    let path = match path.trim_start_matches('/') {
        "" => "index.html",
        path => path,
    };
    let is_inside = Path::new(path)
        .components()
        .all(|part| matches!(part, Component::Normal(_)));
    is_inside.then(|| dir.join(path))
}

fn kind(file: &Path) -> &'static str {
    match file.extension().and_then(|extension| extension.to_str()) {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript",
        Some("wasm") => "application/wasm",
        Some("json") => "application/json",
        _ => "application/octet-stream",
    }
}
