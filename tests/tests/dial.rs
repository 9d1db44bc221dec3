//! A browser connects two agents (PROTOCOL §20.5).

use std::io::Read as _;
use std::net::TcpStream;

use anyhow::{Context as _, Result};
use ringback_protocol::service::FrameBuffer;
use ringback_protocol::service::dial::{Dial, DialEvent, DialKind, MAX_DIALS_EACH};
use ringback_protocol::stream::Mode;
use ringback_tests::loopback::PASSWORD;
use ringback_tests::place::{Place, open, say};
use ringback_tests::rtc_caller::Browser;
use str0m::channel::ChannelId;

fn dial(device: &str, password: Option<&str>) -> Dial {
    Dial {
        device: device.into(),
        service: "hello".into(),
        listen: "127.0.0.1:0".into(),
        password: password.map(Into::into),
        remember: false,
    }
}

fn start(browser: &mut Browser, dial: &Dial) -> Result<ChannelId> {
    let id = open(browser, "dial", Mode::Raw)?;
    let bytes = dial.encode();
    anyhow::ensure!(browser.stream(id).write(&bytes) == bytes.len());
    Ok(id)
}

/// The next event of this kind.
fn event(
    browser: &mut Browser,
    id: ChannelId,
    frames: &mut FrameBuffer,
    kind: &DialKind,
) -> Result<DialEvent> {
    let mut found = None;
    browser.until("an event", |browser| {
        while let Some(data) = browser.stream(id).read() {
            frames.push(&data);
        }
        while let Ok(Some(frame)) = frames.next_frame() {
            let event = DialEvent::decode(&frame).expect("an event");
            if event.kind == *kind {
                found = Some(event);
                break;
            }
        }
        found.is_some() || browser.stream(id).received_end()
    })?;
    found.with_context(|| format!("no event '{kind}'"))
}

#[test]
fn a_port_of_one_agent_leads_to_the_other_as_long_as_the_stream_lasts() -> Result<()> {
    let place = Place::new(&[&["dial"]])?;
    let far = place.another("far");
    let mut browser = place.browser()?;
    for device in ["far", far.id.as_str()] {
        let id = start(&mut browser, &dial(device, Some(PASSWORD)))?;
        let mut frames = FrameBuffer::default();
        let listening = event(&mut browser, id, &mut frames, &DialKind::Listening)?;
        let address = listening.listen.context("an address")?;
        let mut said = String::new();
        TcpStream::connect(&address)?.read_to_string(&mut said)?;
        assert_eq!(said, "hello from afar");
        let connected = event(&mut browser, id, &mut frames, &DialKind::Connected)?;
        assert_eq!(connected.path.as_deref(), Some("direct"));
        assert_eq!(far.callers(), [place.device.id.as_str()]);
        // The end of what is said is the end of the port.
        say(&mut browser, id, b"")?;
        browser.read_to_end(id)?;
        TcpStream::connect(&address).unwrap_err();
    }
    Ok(())
}

#[test]
fn what_can_not_be_dialled_is_told_in_a_word() -> Result<()> {
    let place = Place::new(&[&["dial"]])?;
    let far = place.another("far");
    let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
    let mut browser = place.browser()?;
    let right = dial("far", Some(PASSWORD));
    for (dial, code) in [
        (dial("far", Some("wrong")), "wrong_password"),
        (dial("far", None), "no_password"),
        (dial("nobody", Some(PASSWORD)), "unknown_alias"),
        (dial("No Name", Some(PASSWORD)), "unknown_alias"),
        (
            Dial {
                listen: "0.0.0.0:0".into(),
                ..right.clone()
            },
            "bad_listen",
        ),
        (
            Dial {
                listen: taken.local_addr()?.to_string(),
                ..right.clone()
            },
            "listen_in_use",
        ),
        (
            Dial {
                service: "nothing".into(),
                ..right.clone()
            },
            "unknown_service",
        ),
    ] {
        let id = start(&mut browser, &dial)?;
        let mut frames = FrameBuffer::default();
        let failed = event(&mut browser, id, &mut frames, &DialKind::Failed)?;
        assert_eq!(failed.code.as_deref(), Some(code), "{failed:?}");
        browser.read_to_end(id)?;
    }
    // Remembered by the far device: no password is needed the next time.
    let remembered = Dial {
        remember: true,
        ..right
    };
    for dial in [remembered, dial("far", None)] {
        let id = start(&mut browser, &dial)?;
        let mut frames = FrameBuffer::default();
        event(&mut browser, id, &mut frames, &DialKind::Connected)?;
        say(&mut browser, id, b"")?;
        browser.read_to_end(id)?;
    }
    drop(far);

    // Only where the owner exposes it.
    place.device.profile.ok(["unexpose", "dial"]);
    let error = open(&mut browser, "dial", Mode::Raw).unwrap_err();
    assert_eq!(error.to_string(), "unknown_service");
    Ok(())
}

/// The first answer to a request that has just been made.
fn answer(browser: &mut Browser, id: ChannelId, kind: &DialKind) -> Result<DialEvent> {
    event(browser, id, &mut FrameBuffer::default(), kind)
}

#[test]
fn one_caller_has_only_so_many_calls_made() -> Result<()> {
    let place = Place::new(&[&["dial"]])?;
    let _far = place.another("far");
    let mut browser = place.browser()?;
    let right = dial("far", Some(PASSWORD));
    let mut calls = Vec::new();
    for _ in 0..MAX_DIALS_EACH {
        let id = start(&mut browser, &right)?;
        answer(&mut browser, id, &DialKind::Listening)?;
        calls.push(id);
    }
    let id = start(&mut browser, &right)?;
    let failed = answer(&mut browser, id, &DialKind::Failed)?;
    assert_eq!(failed.code.as_deref(), Some("too_many"), "{failed:?}");
    browser.read_to_end(id)?;
    // One that has ended makes room.
    let first = calls[0];
    say(&mut browser, first, b"")?;
    browser.read_to_end(first)?;
    let id = start(&mut browser, &right)?;
    answer(&mut browser, id, &DialKind::Listening)?;
    Ok(())
}
