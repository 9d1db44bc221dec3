//! A UDP socket as quinn sees one: it sends and receives datagrams in batches, with the kernel's offload.

use std::sync::Arc;

use quinn::AsyncUdpSocket;

/// Anything that quinn can send through.
pub(super) type Io = Arc<dyn AsyncUdpSocket>;
