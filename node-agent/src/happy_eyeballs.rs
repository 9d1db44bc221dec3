//! Which of a host's addresses answers: one after the other, families in turn, each a little later
//! than the one before and without waiting for it (RFC 8305). An address that leads nowhere costs a
//! quarter of a second, not the time that a connection takes to be given up.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::net::TcpStream;

/// RFC 8305, 5: the Connection Attempt Delay that it recommends.
pub(crate) const DELAY: Duration = Duration::from_millis(250);

/// Connects to the first of these that answers. There is no limit in time but the kernel's.
pub(crate) async fn connect(
    addresses: impl IntoIterator<Item = SocketAddr>,
) -> io::Result<TcpStream> {
    let none = || io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    let connected = first(addresses, TcpStream::connect).await;
    connected.map_err(|failure| failure.unwrap_or_else(none))
}

/// The same with attempts of another kind. The error is that of the last one; none if there was no
/// address.
pub(crate) async fn first<T, E, F: Future<Output = Result<T, E>>>(
    addresses: impl IntoIterator<Item = SocketAddr>,
    attempt: impl Fn(SocketAddr) -> F,
) -> Result<T, Option<E>> {
    let mut later = in_turn(addresses);
    let mut attempts = FuturesUnordered::new();
    let mut failure = None;
    loop {
        match later.pop_front() {
            Some(address) => attempts.push(attempt(address)),
            None if attempts.is_empty() => return Err(failure),
            None => {}
        }
        let delay = async {
            match later.is_empty() {
                true => std::future::pending().await,
                false => tokio::time::sleep(DELAY).await,
            }
        };
        tokio::select! {
            Some(result) = attempts.next() => match result {
                Ok(connected) => return Ok(connected),
                Err(error) => failure = Some(error),
            },
            () = delay => {}
        }
    }
}

/// The families in turn, from that of the first on; otherwise in the order of the name service.
fn in_turn(addresses: impl IntoIterator<Item = SocketAddr>) -> VecDeque<SocketAddr> {
    let addresses: Vec<SocketAddr> = addresses.into_iter().collect();
    let first = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (mut ours, mut others): (VecDeque<_>, VecDeque<_>) = addresses
        .into_iter()
        .partition(|address| address.is_ipv6() == first);
    let mut all = VecDeque::new();
    while !ours.is_empty() || !others.is_empty() {
        all.extend(ours.pop_front());
        all.extend(others.pop_front());
    }
    all
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::time::Instant;
    use tokio::net::{TcpListener, TcpSocket};

    #[test]
    fn families_take_turns() {
        let all = ["[::1]:1", "[::2]:1", "[::3]:1", "1.1.1.1:1", "1.1.1.2:1"];
        let all = in_turn(all.map(|address| address.parse().unwrap()));
        let all: Vec<String> = all.iter().map(ToString::to_string).collect();
        let turns = ["[::1]:1", "1.1.1.1:1", "[::2]:1", "1.1.1.2:1", "[::3]:1"];
        assert_eq!(all, turns);
        assert!(in_turn([]).is_empty());
    }

    /// An address where a SYN gets no answer: its listener's queue is full.
    pub(crate) async fn dead(host: &str) -> (SocketAddr, Vec<TcpStream>, TcpListener) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(format!("{host}:0").parse().unwrap()).unwrap();
        let listener = socket.listen(0).unwrap();
        let address = listener.local_addr().unwrap();
        let mut held = Vec::new();
        loop {
            let connecting = TcpStream::connect(address);
            match tokio::time::timeout(Duration::from_millis(300), connecting).await {
                Ok(stream) => held.push(stream.unwrap()),
                Err(_) => return (address, held, listener),
            }
        }
    }

    #[tokio::test]
    async fn dead_addresses_of_the_same_family_cost_a_moment_each() {
        let (one, two) = (dead("127.0.0.2").await, dead("127.0.0.3").await);
        let alive = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let alive = alive.local_addr().unwrap();
        let started = Instant::now();
        let stream = connect([one.0, two.0, alive]).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), alive);
        assert!(started.elapsed() < Duration::from_secs(1));
    }

    #[tokio::test]
    async fn what_refuses_is_passed_over_at_once_and_told_at_the_end() {
        let closed = |host: &str| {
            let listener = std::net::TcpListener::bind(format!("{host}:0")).unwrap();
            listener.local_addr().unwrap()
        };
        let started = Instant::now();
        let error = connect(["127.0.0.2", "127.0.0.3", "127.0.0.4"].map(closed))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        assert!(started.elapsed() < DELAY);
        let error = connect([]).await.unwrap_err();
        assert_eq!(error.to_string(), "the name has no address");
    }
}
