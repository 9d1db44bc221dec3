//! A STUN server that is there and wrong.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::Result;

use super::{
    Lab, STUN_ADDRESSES, STUN_PORT,
    stun::{
        BINDING_REQUEST, BINDING_SUCCESS, HEADER, MAGIC, XOR_MAPPED_ADDRESS, address_attribute,
        message,
    },
};

/// How it is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    /// It answers as it should, with this address.
    Address(SocketAddr),
    /// What comes back is no answer: by turns noise, a message cut off in an attribute, an answer
    /// to another request, an answer without an address, and an error without a reason.
    Garbage,
    /// It never answers, and connections to it stay silent.
    Silence,
}

/// In the place of coturn, on all its addresses, by UDP and TCP.
#[derive(Debug)]
pub struct LyingStun {
    end: Arc<AtomicBool>,
    asked: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

/// How soon a thread notices that it shall end.
const TICK: Duration = Duration::from_millis(20);

impl LyingStun {
    /// Starts it. (For a server that is gone, start none: datagrams are refused then.)
    pub fn start(lab: &Lab, lie: Lie) -> Result<Self> {
        let end = Arc::new(AtomicBool::new(false));
        let asked = Arc::new(AtomicU64::new(0));
        let mut threads = Vec::new();
        for address in STUN_ADDRESSES {
            let socket = lab.stun().udp((address, STUN_PORT))?;
            socket.set_read_timeout(Some(TICK))?;
            let listener = lab.stun().listen((address, STUN_PORT))?;
            listener.set_nonblocking(true)?;
            let (ends, count) = (Arc::clone(&end), Arc::clone(&asked));
            threads.push(std::thread::spawn(move || {
                datagrams(&socket, lie, &ends, &count);
            }));
            let (ends, count) = (Arc::clone(&end), Arc::clone(&asked));
            threads.push(std::thread::spawn(move || {
                connections(&listener, lie, &ends, &count);
            }));
        }
        Ok(Self {
            end,
            asked,
            threads,
        })
    }

    /// How many binding requests have come.
    pub fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }
}

impl Drop for LyingStun {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn datagrams(socket: &UdpSocket, lie: Lie, end: &AtomicBool, asked: &AtomicU64) {
    let mut buffer = [0; 1500];
    while !end.load(Ordering::Relaxed) {
        if let Ok((length, from)) = socket.recv_from(&mut buffer)
            && let Some(answer) = answer(&buffer[..length], lie, asked)
        {
            let _ = socket.send_to(&answer, from);
        }
    }
}

fn connections(listener: &TcpListener, lie: Lie, end: &AtomicBool, asked: &AtomicU64) {
    let mut open: Vec<TcpStream> = Vec::new();
    while !end.load(Ordering::Relaxed) {
        if let Ok((stream, _)) = listener.accept() {
            let _ = stream.set_nonblocking(true);
            open.push(stream);
        }
        open.retain_mut(|stream| {
            let mut request = [0; 1500];
            match stream.read(&mut request) {
                Ok(0) => false,
                Ok(length) => answer(&request[..length], lie, asked)
                    .is_none_or(|answer| stream.write_all(&answer).is_ok()),
                Err(error) => error.kind() == ErrorKind::WouldBlock,
            }
        });
        std::thread::sleep(TICK);
    }
}

fn answer(request: &[u8], lie: Lie, asked: &AtomicU64) -> Option<Vec<u8>> {
    let (head, transaction) = request.get(..HEADER)?.split_at(8);
    let transaction: [u8; 12] = transaction.try_into().ok()?;
    if head[..2] != BINDING_REQUEST.to_be_bytes() || head[4..] != MAGIC.to_be_bytes() {
        return None;
    }
    let number = asked.fetch_add(1, Ordering::Relaxed);
    let mask = [&head[4..], &transaction].concat();
    let here = ([127, 0, 0, 1], 9).into();
    let right = |transaction, address| {
        let attribute = address_attribute(XOR_MAPPED_ADDRESS, address, &mask);
        message(BINDING_SUCCESS, transaction, &attribute)
    };
    match lie {
        Lie::Silence => None,
        Lie::Address(address) => Some(right(&transaction, address)),
        Lie::Garbage => Some(match number % 5 {
            0 => std::iter::repeat_with(|| fastrand::u8(..))
                .take(64)
                .collect(),
            1 => {
                let mut cut = right(&transaction, here);
                cut.truncate(HEADER + 6);
                cut
            }
            2 => right(&std::array::from_fn(|_| fastrand::u8(..)), here),
            3 => message(BINDING_SUCCESS, &transaction, &[]),
            _ => message(0x0111, &transaction, &[]),
        }),
    }
}
