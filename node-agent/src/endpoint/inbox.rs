//! What waits for quinn beside the socket's own buffer.

use std::collections::VecDeque;
use std::io::IoSliceMut;
use std::net::SocketAddr;
use std::task::Waker;

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use quinn::udp::RecvMeta;

/// Bytes that wait for quinn beside the socket's own buffer, at most.
const INBOX: usize = 8 << 20;

/// Shared by whoever has something for quinn; quinn reads it before the socket.
#[derive(Default)]
pub(super) struct Inbox {
    waiting: Mutex<Waiting>,
    /// quinn waits for datagrams.
    reader: AtomicWaker,
}

/// Opened handshake datagrams for quinn and what came behind them, and what came by other sockets
/// and connections.
#[derive(Default)]
struct Waiting {
    batches: VecDeque<Batch>,
    bytes: usize,
}

/// Datagrams of one link: `segment` bytes each, the last may be shorter.
struct Batch {
    from: SocketAddr,
    contents: Vec<u8>,
    segment: usize,
}

impl Waiting {
    fn push(&mut self, from: SocketAddr, contents: Vec<u8>, segment: usize) {
        // What does not fit is lost, as in the socket's buffer.
        if !contents.is_empty() && self.bytes + contents.len() <= INBOX {
            self.bytes += contents.len();
            self.batches.push_back(Batch {
                from,
                contents,
                segment,
            });
        }
    }
}

impl Inbox {
    /// Datagrams of `segment` bytes for quinn, from the virtual address of their link.
    pub(super) fn push(&self, from: SocketAddr, contents: Vec<u8>, segment: usize) {
        self.waiting.lock().push(from, contents, segment);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.lock().batches.is_empty()
    }

    /// quinn is to be woken by this when there is something.
    pub(super) fn register(&self, reader: &Waker) {
        self.reader.register(reader);
    }

    pub(super) fn wake(&self) {
        self.reader.wake();
    }

    /// Hands what waits in the inbox to quinn.
    pub(super) fn drain(&self, bufs: &mut [IoSliceMut<'_>], meta: &mut [RecvMeta]) -> usize {
        let mut waiting = self.waiting.lock();
        let mut count = 0;
        for (buf, meta) in bufs.iter_mut().zip(meta) {
            let Some(mut batch) = waiting.batches.pop_front() else {
                break;
            };
            let fits = (buf.len() / batch.segment * batch.segment).min(batch.contents.len());
            if fits == 0 {
                // Larger than any datagram that quinn takes.
                waiting.bytes -= batch.contents.len();
                continue;
            }
            buf[..fits].copy_from_slice(&batch.contents[..fits]);
            *meta = RecvMeta {
                addr: batch.from,
                len: fits,
                stride: batch.segment.min(fits),
                ecn: None,
                dst_ip: None,
            };
            waiting.bytes -= fits;
            if fits < batch.contents.len() {
                batch.contents.drain(..fits);
                waiting.batches.push_front(batch);
            }
            count += 1;
        }
        count
    }
}
