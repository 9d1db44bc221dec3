//! Is the other end of a quiet TCP connection still there? The kernel asks: a host that was switched
//! off would otherwise hold its connection, and the stream behind it, for ever.

use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

/// A connection is quiet for this long before it is asked, and again so often, until so many
/// questions have no answer: two minutes in all, and nothing to speak of in bytes.
const QUIET: Duration = Duration::from_secs(60);
const AGAIN: Duration = Duration::from_secs(15);
const QUESTIONS: u32 = 4;

/// Has the kernel end this connection when the other end is gone.
pub(crate) fn keep_alive(stream: &TcpStream) {
    let keepalive = TcpKeepalive::new()
        .with_time(QUIET)
        .with_interval(AGAIN)
        .with_retries(QUESTIONS);
    // Without it the connection is as good as it was.
    if let Err(error) = SockRef::from(stream).set_tcp_keepalive(&keepalive) {
        tracing::debug!("no keepalive: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn a_quiet_connection_is_asked_after() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        keep_alive(&stream);
        let socket = SockRef::from(&stream);
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), QUIET);
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), AGAIN);
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), QUESTIONS);
    }
}
