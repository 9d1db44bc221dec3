//! Links and streams over a real WebRTC connection.

use futures_util::io::{AsyncReadExt, AsyncWriteExt as _};
use ringback_protocol::channel::WINDOW;
use ringback_protocol::stream::Mode;
use wasm_bindgen_test::wasm_bindgen_test;

use super::device::{answer, link};
use crate::clock::{sleep, within};
use crate::error::{LINK_CLOSED, STREAM_RESET};
use crate::{LinkState, PathKind};

/// Milliseconds that anything may take on a busy machine.
const PATIENCE: f64 = 10_000.0;

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 7 + at / 251) as u8).collect()
}

#[wasm_bindgen_test]
async fn a_stream_carries_bytes_both_ways_to_both_ends() {
    let (link, _device) = link().await;
    let stream = link.open("echo", Mode::Raw).unwrap();
    let sent = pattern(3 << 20);
    let writing = async {
        stream.write(&sent).await.unwrap();
        stream.finish();
    };
    let reading = async {
        let mut got = Vec::new();
        while let Some(data) = stream.read().await.unwrap() {
            got.extend_from_slice(&data);
        }
        got
    };
    let ((), got) = futures_util::future::join(writing, reading).await;
    assert!(got == sent, "{} of {} bytes", got.len(), sent.len());
    stream.opened().await.unwrap();
    assert_eq!(stream.read().await.unwrap(), None, "the end stays the end");
}

#[wasm_bindgen_test]
async fn many_streams_at_a_time_and_one_after_the_other() {
    let (link, _device) = link().await;
    // Over the limit of 64 in all, but not at a time.
    for round in 0..3 {
        let streams: Vec<_> = (0..40)
            .map(|_| link.open("echo", Mode::Raw).unwrap())
            .collect();
        for (number, stream) in streams.iter().enumerate() {
            stream.write(&[round, number as u8]).await.unwrap();
            stream.finish();
        }
        for (number, stream) in streams.iter().enumerate() {
            let got = stream.read().await.unwrap();
            assert_eq!(got, Some(vec![round, number as u8]));
            assert_eq!(stream.read().await.unwrap(), None);
        }
        let gone = within(PATIENCE, async {
            while link.stream_count() > 0 {
                sleep(5.0).await;
            }
        });
        assert!(gone.await.is_some(), "channels are closed at their ends");
    }
    let _held: Vec<_> = (0..64)
        .map(|_| link.open("deaf", Mode::Raw).unwrap())
        .collect();
    let over = link.open("echo", Mode::Raw).unwrap_err();
    assert_eq!(over.code, "too_many_streams");
}

#[wasm_bindgen_test]
async fn what_is_not_read_stops_the_device() {
    let (link, device) = link().await;
    let stream = link.open("count", Mode::Raw).unwrap();
    stream.opened().await.unwrap();
    let sent = || *device.channels.borrow()[0].sent.borrow();
    while sent() < WINDOW {
        sleep(5.0).await;
    }
    sleep(100.0).await;
    assert_eq!(sent(), WINDOW, "no more than the credit");
    let mut got = 0_u64;
    while got < 4 * WINDOW {
        let data = stream.read().await.unwrap().unwrap();
        for (at, byte) in data.iter().enumerate() {
            assert_eq!(*byte, (got + at as u64) as u8);
        }
        got += data.len() as u64;
    }
    assert!(sent() <= got + WINDOW, "{} sent, {got} read", sent());
}

#[wasm_bindgen_test]
async fn a_device_that_does_not_read_stops_the_writer() {
    let (link, _device) = link().await;
    let stream = link.open("deaf", Mode::Raw).unwrap();
    let data = vec![1; 4 << 20];
    let written = within(500.0, stream.write(&data)).await;
    assert_eq!(written, None, "4 MiB were taken at once");
    stream.reset();
    let error = stream.write(&[1]).await.unwrap_err();
    assert_eq!(error.code, STREAM_RESET);
}

#[wasm_bindgen_test]
async fn refusals_and_resets_are_told_apart() {
    let (link, _device) = link().await;
    let stream = link.open("nothing", Mode::Raw).unwrap();
    for error in [
        stream.opened().await.unwrap_err(),
        stream.read().await.unwrap_err(),
        stream.write(b"x").await.unwrap_err(),
    ] {
        assert_eq!(error.code, "unknown_service");
    }
    let stream = link.open("broken", Mode::Raw).unwrap();
    stream.opened().await.unwrap();
    stream.write(b"x").await.unwrap();
    assert_eq!(stream.read().await.unwrap_err().code, STREAM_RESET);
}

#[wasm_bindgen_test]
async fn streams_are_readers_and_writers_of_futures() {
    let (link, _device) = link().await;
    let mut stream = link.open("echo", Mode::Raw).unwrap();
    let sent = pattern(300_000);
    let mut writer = stream.clone();
    let writing = async {
        writer.write_all(&sent).await.unwrap();
        writer.close().await.unwrap();
    };
    let mut got = Vec::new();
    let reading = async {
        let mut small = [0; 1000];
        loop {
            match AsyncReadExt::read(&mut stream, &mut small).await.unwrap() {
                0 => break,
                len => got.extend_from_slice(&small[..len]),
            }
        }
    };
    futures_util::future::join(writing, reading).await;
    assert!(got == sent, "{} of {} bytes", got.len(), sent.len());
}

#[wasm_bindgen_test]
async fn the_end_of_a_link_ends_its_streams() {
    let (link, device) = link().await;
    let stream = link.open("echo", Mode::Raw).unwrap();
    stream.opened().await.unwrap();
    device.close();
    let end = within(PATIENCE, link.closed())
        .await
        .expect("it is noticed");
    assert_eq!(end.code, "closed_by_device");
    assert_eq!(link.state(), LinkState::Ended);
    let error = stream.read().await.unwrap_err();
    assert!([LINK_CLOSED, STREAM_RESET].contains(&&*error.code));
    assert_eq!(link.open("echo", Mode::Raw).unwrap_err().code, LINK_CLOSED);
}

#[wasm_bindgen_test]
async fn a_revoked_caller_is_told_so() {
    let (link, _device) = link().await;
    let stream = link.open("revoked", Mode::Raw).unwrap();
    assert_eq!(stream.read().await.unwrap_err().code, "revoked");
    let end = within(PATIENCE, link.closed()).await.expect("it ends");
    assert_eq!(end.code, "revoked");
}

#[wasm_bindgen_test]
async fn a_device_that_stops_has_ended_the_link_with_its_word() {
    let (link, _device) = link().await;
    let stream = link.open("leaving", Mode::Raw).unwrap();
    assert_eq!(stream.read().await.unwrap_err().code, "shutting_down");
    // Not with what the connection does later, if ever.
    assert_eq!(link.state(), LinkState::Ended);
    assert_eq!(link.closed().await.code, "shutting_down");
}

#[wasm_bindgen_test]
async fn a_link_that_nobody_holds_ends() {
    let (link, _device) = link().await;
    let stream = link.open("echo", Mode::Raw).unwrap();
    let closed = link.closed();
    drop(link);
    stream.write(b"still there").await.unwrap();
    assert_eq!(
        stream.read().await.unwrap().as_deref(),
        Some(b"still there".as_slice())
    );
    drop(stream);
    assert_eq!(closed.await.code, "closed");
}

#[wasm_bindgen_test]
async fn the_receipt_names_the_pair_that_won() {
    let (link, _device) = link().await;
    let stream = link.open("echo", Mode::Raw).unwrap();
    stream.write(&pattern(10_000)).await.unwrap();
    stream.read().await.unwrap();
    let receipt = link.receipt().await.unwrap();
    assert_eq!(receipt.path, PathKind::Direct);
    let won: Vec<_> = receipt.pairs.iter().filter(|pair| pair.won).collect();
    assert_eq!(won.len(), 1, "{:?}", receipt.pairs);
    assert_eq!(won[0].state, "succeeded");
    assert!(won[0].local < receipt.local.len() && won[0].remote < receipt.remote.len());
    assert!(receipt.rtt_ms.is_some_and(|ms| ms < 5_000.0));
    let stats = link.stats().await.unwrap();
    assert!(stats.bytes_up > 10_000.0, "{stats:?}");
}

#[wasm_bindgen_test]
async fn another_certificate_is_not_taken() {
    let (peer, mut description, _device) = answer().await;
    description.fingerprint[31] ^= 1;
    peer.answer(&description).await.unwrap();
    let connected = within(PATIENCE, peer.connected()).await;
    assert_eq!(connected, Some(false));
    assert!(peer.has_wrong_certificate());
}
