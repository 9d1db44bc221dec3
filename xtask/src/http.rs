//! One HTTP/1.1 request over plain TCP: all that the commands and tests need on the loopback.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

/// A response, read whole.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    /// The value of a header, by its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// The body as text, whatever it was.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Sends one request and reads its response to the length that it states: workerd keeps a
/// connection open for seconds after `Connection: close`, so its end is not waited for.
pub fn request(
    addr: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> io::Result<Response> {
    let mut stream = send(addr, method, path, headers, body)?;
    let mut body = Vec::new();
    let response = read(&mut stream, &mut body)?;
    Ok(Response { body, ..response })
}

/// Sends a GET and reads the response.
pub fn get(addr: SocketAddr, path: &str) -> io::Result<Response> {
    request(addr, "GET", path, &[], b"")
}

/// Sends a GET and writes the body to `sink` as it comes; the response has none then.
pub fn download(addr: SocketAddr, path: &str, sink: &mut impl Write) -> io::Result<Response> {
    let mut stream = send(addr, "GET", path, &[], b"")?;
    read(&mut stream, sink)
}

fn send(
    addr: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> io::Result<BufReader<TcpStream>> {
    let mut stream = TcpStream::connect_timeout(&addr, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)?;
    Ok(BufReader::with_capacity(1 << 18, stream))
}

fn read(stream: &mut impl BufRead, sink: &mut impl Write) -> io::Result<Response> {
    let status = line(stream)?
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .ok_or_else(|| io::Error::other("this is no HTTP response"))?;
    let mut response = Response {
        status,
        headers: Vec::new(),
        body: Vec::new(),
    };
    loop {
        let line = line(stream)?;
        if line.is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':') {
            response
                .headers
                .push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
    if response.header("transfer-encoding") == Some("chunked") {
        loop {
            let size = u64::from_str_radix(&line(stream)?, 16).map_err(io::Error::other)?;
            io::copy(&mut stream.take(size), sink)?;
            line(stream)?;
            if size == 0 {
                return Ok(response);
            }
        }
    }
    match response.header("content-length").map(str::parse::<u64>) {
        Some(Ok(length)) => {
            if io::copy(&mut stream.take(length), sink)? < length {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        _ => drop(io::copy(stream, sink)?),
    }
    Ok(response)
}

fn line(stream: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    if stream.read_line(&mut line)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(line.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_stated_length_and_no_more() {
        let mut text = &b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\nokREST"[..];
        let mut body = Vec::new();
        let response = read(&mut text, &mut body).unwrap();
        assert_eq!(
            (response.status, body, text),
            (201, b"ok".to_vec(), &b"REST"[..])
        );
    }

    #[test]
    fn reads_chunks() {
        let mut text =
            &b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\na\r\n0123456789\r\n0\r\n\r\n"[..];
        let mut body = Vec::new();
        read(&mut text, &mut body).unwrap();
        assert_eq!(body, b"abc0123456789");
    }

    #[test]
    fn a_short_body_is_an_error() {
        let mut text = &b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort"[..];
        assert_eq!(
            read(&mut text, &mut io::sink()).unwrap_err().kind(),
            io::ErrorKind::UnexpectedEof
        );
    }
}
