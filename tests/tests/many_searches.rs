//! A caller that has the password asks a device for as many searches for a path as it can, all of them
//! to somebody else's address. What the device sends there, and what it opens for it, is one budget
//! however many ask (PROTOCOL §14).

use std::{
    fs,
    net::Ipv4Addr,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use ringback_protocol::{
    PeerId,
    call::Call,
    candidate::{Candidate, Kind as Address},
    envelope::{LIFETIME, Proof, Request},
    receipt::Nat,
    rtc::{Description, Leg, candidate_lines},
    secret::{PASSWORD_ID, Psk},
};
use ringback_tests::{
    agent::PATIENCE,
    lab::{Lab, coturn::Coturn, kind::Kind, registry::Registry},
    profile::{PASSWORD, Profile, until},
    registry::new_key,
};

const VICTIM: Ipv4Addr = Ipv4Addr::new(81, 2, 69, 142);
/// As many as a device has places for browsers' links, of several callers.
const CALLERS: usize = 8;
const REQUESTS_OF_EACH: usize = 4;
/// A search takes six seconds.
const WATCHED: Duration = Duration::from_secs(8);
/// Datagrams to addresses that nobody has answered from: at once, and a second.
const BURST: u64 = 3_500;
const RATE: u64 = 3_500;
/// Checks of the links themselves, which ICE and the dial-back pace: a few of each request.
const CHECKS: u64 = 40 * (CALLERS * REQUESTS_OF_EACH) as u64;
/// Sockets of all searches, and what else 32 calls may have open.
const DESCRIPTORS: usize = 1_024 + 200;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Asking {
    /// A search beside a browser's link (§19.3), the request of one leg.
    Browser,
    /// The search of a native caller (§10.2).
    Native,
}

fn request(asking: Asking, own: Nat) -> Request {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let now = now.map_or(0, |since| since.as_secs());
    let victim = [Candidate::udp(Address::ServerReflexive, (VICTIM, 9).into())];
    let lines = candidate_lines(&victim);
    let is_browser = asking == Asking::Browser;
    let leg = Leg {
        ufrag: "abcd".into(),
        pwd: "p".repeat(24),
        candidates: lines.clone(),
    };
    Request {
        id: rand::random(),
        issued_at: now,
        expires_at: now + LIFETIME,
        service: "*".into(),
        candidates: if is_browser {
            Vec::new()
        } else {
            victim.to_vec()
        },
        remember: false,
        webrtc: is_browser.then(|| Description {
            ufrag: "abcd".into(),
            pwd: "p".repeat(24),
            fingerprint: [1; 32],
            candidates: lines,
            legs: vec![leg],
        }),
        path: 0,
        // What the device's own is not, so that there is something to search for.
        nat: match own {
            Nat::EndpointDependent => Nat::EndpointIndependent,
            _ => Nat::EndpointDependent,
        },
    }
}

/// Datagrams that reached the victim, and descriptors that the device had open beyond those before.
fn attack(device: Kind, asking: Asking) -> Result<(u64, usize)> {
    let lab = Lab::builder()
        .device(device)
        .visitor("victim", VICTIM, Ipv4Addr::new(192, 168, 1, 99), Kind::Open)
        .build()?;
    let _coturn = Coturn::start(&lab)?;
    let registry = Registry::start(&lab)?;
    let profile = Profile::new(&lab, &registry, lab.device().host(), "nas");
    let up = profile.up(&registry, &["--no-port-mapping"])?;
    let (own, _) = until(PATIENCE, "the device knows its NAT", || {
        let nat = serde_json::from_value(profile.status()?["nat"].clone()).unwrap_or_default();
        Ok((nat != Nat::Unknown).then_some(nat))
    })?;
    let id: PeerId = up.id.parse()?;
    let psk = Psk::from_password(PASSWORD, &id)?;
    let descriptors =
        || -> Result<usize> { Ok(fs::read_dir(format!("/proc/{}/fd", up.process.pid()))?.count()) };
    let victim = lab.visitors()[0].host();
    let (before, heard) = (descriptors()?, victim.counter("eth0")?.rx_packets);

    let mut calls = Vec::new();
    for _ in 0..CALLERS {
        let key = new_key();
        for _ in 0..REQUESTS_OF_EACH {
            let proof = Proof::Secret {
                psk_id: PASSWORD_ID,
                psk: &psk,
            };
            let request = request(asking, own);
            let call = Call::seal(&request, &key, id, proof, &mut rand::rng())?;
            let path = lab.dir().join(format!("envelope-{}", calls.len()));
            fs::write(&path, call.envelope())?;
            let mut curl = lab.caller().host().command("curl");
            curl.args(["-sS", "--max-time", "20", "--cacert"])
                .arg(registry.ca())
                .args(["-H", "content-type: application/octet-stream"])
                .arg("--data-binary")
                .arg(format!("@{}", path.display()))
                .args(["-w", "%{http_code}", "-o", "/dev/null"])
                .arg(format!("{}/v1/devices/{}/requests", registry.url(), up.id));
            calls.push(curl.stdout(Stdio::piped()).spawn()?);
        }
    }
    let begun = Instant::now();
    let mut most = before;
    while begun.elapsed() < WATCHED {
        most = most.max(descriptors()?);
        std::thread::sleep(Duration::from_millis(20));
    }
    let sent = victim.counter("eth0")?.rx_packets - heard;
    let mut taken = 0;
    for call in calls {
        taken += usize::from(call.wait_with_output()?.stdout == b"200");
    }
    println!(
        "{asking:?}, behind {device}: {taken} requests, {sent} datagrams in {WATCHED:?}, {} descriptors more",
        most - before
    );
    ensure!(taken > REQUESTS_OF_EACH, "{taken} requests were taken");
    Ok((sent, most - before))
}

#[test]
fn a_stranger_gets_one_budget_of_datagrams_however_many_searches_are_asked_for() -> Result<()> {
    for (device, asking) in [
        (Kind::PortRestricted, Asking::Browser),
        (Kind::Symmetric, Asking::Browser),
        (Kind::PortRestricted, Asking::Native),
        (Kind::Symmetric, Asking::Native),
    ] {
        let (sent, descriptors) = attack(device, asking)?;
        let most = BURST + RATE * WATCHED.as_secs() + CHECKS;
        ensure!(sent < most, "{asking:?}: {sent} datagrams, {most} at most");
        ensure!(sent > 500, "{asking:?}: there was no search");
        ensure!(
            descriptors < DESCRIPTORS,
            "{asking:?}: {descriptors} descriptors"
        );
    }
    Ok(())
}
