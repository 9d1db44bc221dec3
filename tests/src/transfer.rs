//! Plain TCP from one end to another, as the measure of what the network can carry: whatever goes
//! between sender and receiver is what a measurement is about.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

/// How much arrived, and how long it took.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Transfer {
    /// Bytes that arrived, over all streams.
    pub bytes: u64,
    /// From before the first connection to the last byte, in seconds.
    pub seconds: f64,
}

impl Transfer {
    /// Megabits per second.
    pub fn megabits(&self) -> f64 {
        self.bytes as f64 * 8.0 / self.seconds / 1e6
    }
}

const BUFFER: usize = 256 * 1024;

/// Sends to everybody who connects as many bytes as they ask for, until the process ends.
pub fn serve(listener: &TcpListener) -> io::Result<()> {
    loop {
        let (mut stream, _) = listener.accept()?;
        thread::spawn(move || -> io::Result<()> {
            let mut length = [0; 8];
            stream.read_exact(&mut length)?;
            let mut left = u64::from_be_bytes(length);
            let buffer = vec![0x5a; BUFFER];
            while left > 0 {
                let length = left.min(BUFFER as u64);
                stream.write_all(&buffer[..length as usize])?;
                left -= length;
            }
            Ok(())
        });
    }
}

/// Fetches `bytes` in all over so many connections at once.
pub fn fetch(server: SocketAddr, bytes: u64, streams: u64) -> io::Result<Transfer> {
    let start = Instant::now();
    let threads = (0..streams).map(|_| thread::spawn(move || receive(server, bytes / streams)));
    let threads = threads.collect::<Vec<_>>();
    let received = threads
        .into_iter()
        .map(|thread| thread.join().expect("no panic"));
    let received = received.sum::<io::Result<u64>>()?;
    if received != bytes / streams * streams {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(Transfer {
        bytes: received,
        seconds: start.elapsed().as_secs_f64(),
    })
}

/// Time from connecting to the first byte that the server sends.
pub fn first_byte(server: SocketAddr) -> io::Result<Duration> {
    let start = Instant::now();
    let mut stream = TcpStream::connect(server)?;
    stream.set_nodelay(true)?;
    stream.write_all(&1_u64.to_be_bytes())?;
    stream.read_exact(&mut [0])?;
    Ok(start.elapsed())
}

fn receive(server: SocketAddr, bytes: u64) -> io::Result<u64> {
    let mut stream = TcpStream::connect(server)?;
    stream.write_all(&bytes.to_be_bytes())?;
    let mut buffer = vec![0; BUFFER];
    let mut total = 0;
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(total),
            length => total += length as u64,
        }
    }
}
