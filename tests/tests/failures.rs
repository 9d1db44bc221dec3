//! `kill -9` of everything, idle and in a call; a redeploy; what comes back by itself and how fast.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use ringback_tests::{
    agent::PATIENCE,
    download::{Download, fetch},
    lab::{Lab, namespace::Namespace},
    profile::{Ended, PASSWORD, Profile, Up, row, until},
    web_scene::WebScene,
};
use serde_json::json;

/// From the registry's return to the registration (issue: within 5 s).
const RECOVERY: Duration = Duration::from_secs(5);
/// After this a dead peer's link is given up: QUIC's idle timeout, which the first keep-alive without
/// an answer restarts (RFC 9000, 10.1), and a busy machine.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30 + 10 + 4);
/// QUIC's keep-alive interval of an idle link.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

const LOCAL: u16 = 8080;

/// Waits until the list says that a device is off line.
fn await_offline(scene: &WebScene<'_>, lab: &Lab, id: &str) -> Result<Duration> {
    let (_, took) = until(Duration::from_secs(40), "off line", || {
        Ok((row(lab, &scene.registry, id)?["online"] == false).then_some(()))
    })?;
    Ok(took)
}

fn call_and_fetch(scene: &WebScene<'_>, id: &str) -> Result<()> {
    let mut call = scene.caller.connect(id, &[(LOCAL, "web")])?;
    fetch(
        scene.caller.namespace(),
        Profile::local(LOCAL),
        1,
        1_000_000,
    )?;
    let status = call.process.interrupt(Duration::from_secs(5))?;
    assert_eq!(status.code(), Some(130));
    Ok(())
}

/// Waits until an agent has registered anew for the `nth` time (from 1), by its own account: the list
/// still says on line of a device whose socket died with the registry.
fn await_registered(up: &Up, nth: usize) -> Result<()> {
    let seen = Cell::new(0);
    up.process.stderr_line(Duration::from_secs(40), |line| {
        seen.set(seen.get() + usize::from(line.starts_with("registered as ")));
        seen.get() == nth
    })?;
    Ok(())
}

/// Established TCP connections of a host to a port of its own.
fn connections(namespace: &Namespace, port: u16) -> Result<usize> {
    let table = Ended::of(namespace.command("cat").arg("/proc/net/tcp"))?;
    let local = format!("0100007F:{port:04X}");
    let is = |line: &&str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        words.get(1) == Some(&local.as_str()) && words.get(3) == Some(&"01")
    };
    Ok(table.stdout.lines().filter(is).count())
}

#[test]
fn the_registry_dies_and_returns_while_devices_are_idle() -> Result<()> {
    let lab = Lab::builder().build()?;
    let mut scene = WebScene::set(&lab)?;
    let up = scene.device.up(&scene.registry, &[])?;
    let other = scene.caller.up(&scene.registry, &[])?;

    // Long enough for the longest pause between two attempts.
    scene.registry.workerd().kill9();
    for agent in [&up, &other] {
        agent
            .process
            .stderr_line(PATIENCE, |line| line.contains("the registry is away"))?;
    }
    let dead = Instant::now();
    let stranger = Profile::new(&lab, &scene.registry, lab.caller().host(), "stranger");
    let mut refused = stranger.calling(&up.id, &[(LOCAL, "web")], &["--password", PASSWORD])?;
    let ended = refused.ended(PATIENCE)?;
    ended.check(3, "can not reach the registry")?;
    println!("a call while the registry is dead: {}", ended.stderr);
    until(Duration::from_secs(20), "attempts fail", || {
        Ok((dead.elapsed() > Duration::from_secs(8)).then_some(()))
    })?;
    scene.registry.workerd().restart()?;
    let back = Instant::now();
    for agent in [&up, &other] {
        await_registered(agent, 1)?;
    }
    let took = back.elapsed();
    println!(
        "kill -9 of workerd for {:.1?}: both registered {took:.2?} after its return",
        back - dead
    );
    assert!(took <= RECOVERY, "{took:?}");

    // A redeploy: all sockets are dropped, the service is back at once.
    scene.registry.workerd().restart()?;
    let back = Instant::now();
    for agent in [&up, &other] {
        await_registered(agent, 2)?;
    }
    let took = back.elapsed();
    println!("redeploy: both registered {took:.2?} after it");
    assert!(took <= RECOVERY, "{took:?}");
    assert_eq!(row(&lab, &scene.registry, &up.id)?["online"], true);
    call_and_fetch(&scene, &up.id)
}

#[test]
fn a_link_survives_the_registrys_death() -> Result<()> {
    let lab = Lab::builder().build()?;
    let mut scene = WebScene::set(&lab)?;
    let up = scene.device.up(&scene.registry, &[])?;
    let call = scene.caller.connect(&up.id, &[(LOCAL, "web")])?;
    let (host, local) = (lab.caller().host(), Profile::local(LOCAL));
    let download = Download::start(host, local, 1, 60_000_000, Some(5_000_000))?;
    download.await_bytes(1_000_000)?;
    scene.registry.workerd().kill9();
    let dead = Instant::now();
    let done = download.finish()?;
    assert!(dead.elapsed() > KEEP_ALIVE, "{:?}", dead.elapsed());
    // Then idle for longer than the keep-alive interval, and used again.
    let idle = Instant::now();
    until(KEEP_ALIVE * 2, "idle", || {
        Ok((idle.elapsed() > KEEP_ALIVE + Duration::from_secs(2)).then_some(()))
    })?;
    fetch(host, local, 2, 5_000_000)?;
    println!(
        "the registry dead for {:.1?}: {} bytes went on and a new stream opened after {:.0?} idle",
        dead.elapsed(),
        done.bytes,
        idle.elapsed()
    );
    assert_eq!(call.process.stdout().matches("\"lost\"").count(), 0);
    scene.registry.workerd().restart()?;
    let back = Instant::now();
    await_registered(&up, 1)?;
    let took = back.elapsed();
    println!("registered {took:.2?} after its return");
    assert!(took <= RECOVERY, "{took:?}");
    assert_eq!(call.process.stdout().matches("\"lost\"").count(), 0);
    fetch(host, local, 3, 1_000_000)?;
    Ok(())
}

#[test]
fn the_device_agent_dies_while_idle() -> Result<()> {
    let lab = Lab::builder().build()?;
    let scene = WebScene::set(&lab)?;
    let mut up = scene.device.up(&scene.registry, &[])?;

    // Two agents of one profile would take each other's place.
    let twice = Ended::of(&mut scene.device.registry_command(&["up"])?)?;
    twice.check(2, "an agent of this profile runs already")?;
    println!("{}", twice.stderr);

    up.process.kill9()?;
    let took = await_offline(&scene, &lab, &up.id)?;
    println!("a killed agent is off line after {took:.2?}");
    let mut call = scene
        .caller
        .calling(&up.id, &[(LOCAL, "web")], &["--password", PASSWORD])?;
    let ended = call.ended(PATIENCE)?;
    ended.check(4, "offline, last seen")?;
    println!("{}, after {:.2?}", ended.stderr, ended.time);
    // What it has left behind does not hinder anybody.
    scene
        .device
        .run(&["status"])?
        .check(1, "no agent runs here")?;
    scene.device.expose(&[("other", "127.0.0.1:81")])?;
    let start = Instant::now();
    let again = scene.device.up_again()?;
    println!("started again and registered in {:.2?}", start.elapsed());
    assert_eq!(again.id, up.id);
    assert_eq!(scene.device.status()?["presence"]["state"], "registered");
    call_and_fetch(&scene, &up.id)
}

#[test]
fn the_device_agent_dies_in_a_call() -> Result<()> {
    let lab = Lab::builder().build()?;
    let scene = WebScene::set(&lab)?;
    let mut up = scene.device.up(&scene.registry, &[])?;
    let call = scene.caller.connect(&up.id, &[(LOCAL, "web")])?;
    let (host, local) = (lab.caller().host(), Profile::local(LOCAL));
    let download = Download::start(host, local, 1, 200_000_000, Some(2_000_000))?;
    download.await_bytes(1_000_000)?;
    up.process.kill9()?;
    let killed = Instant::now();
    let _again = scene.device.up_again()?;
    call.event_within(PATIENCE, "lost", 1)?;
    let noticed = killed.elapsed();
    ensure!(
        noticed < Duration::from_secs(15),
        "noticed after {noticed:.1?}"
    );
    // The local program learns that it has not got everything.
    let said = download.fail()?;
    call.event_within(PATIENCE, "connected", 2)?;
    println!(
        "device agent killed and restarted in a call: lost after {noticed:.1?}, called again after {:.1?}; curl: {said}",
        killed.elapsed()
    );
    fetch(host, local, 2, 5_000_000)?;
    Ok(())
}

#[test]
fn the_caller_dies_in_a_call() -> Result<()> {
    let lab = Lab::builder().build()?;
    let scene = WebScene::set(&lab)?;
    let up = scene.device.up(&scene.registry, &[])?;
    let mut call = scene.caller.connect(&up.id, &[(LOCAL, "web")])?;
    let (host, local) = (lab.caller().host(), Profile::local(LOCAL));
    let download = Download::start(host, local, 1, 200_000_000, Some(2_000_000))?;
    download.await_bytes(1_000_000)?;
    assert_eq!(
        scene.device.status()?["links"].as_array().map(Vec::len),
        Some(1)
    );
    assert_eq!(connections(lab.device().host(), 80)?, 1);
    call.process.kill9()?;
    let killed = Instant::now();
    download.fail()?;

    // Meanwhile the same caller calls anew, and the dead link is not in its way.
    call_and_fetch(&scene, &up.id)?;
    println!(
        "the killed caller called anew within {:.1?}",
        killed.elapsed()
    );
    until(IDLE_TIMEOUT, "the device frees the link", || {
        Ok((scene.device.status()?["links"] == json!([])).then_some(()))
    })?;
    let freed = killed.elapsed();
    until(
        Duration::from_secs(2),
        "the service's connection ends",
        || Ok((connections(lab.device().host(), 80)? == 0).then_some(())),
    )?;
    println!("the device freed the dead caller's link after {freed:.1?}");
    Ok(())
}

#[test]
fn the_callers_agent_dies_idle_and_in_a_call() -> Result<()> {
    let lab = Lab::builder().build()?;
    let scene = WebScene::set(&lab)?;
    let up = scene.device.up(&scene.registry, &[])?;
    let mut agent = scene.caller.up(&scene.registry, &[])?;
    agent.process.kill9()?;
    // Without an agent the command calls by itself, whatever socket file is left.
    call_and_fetch(&scene, &up.id)?;
    let mut agent = scene.caller.up_again()?;
    let mut call = scene.caller.connect(&up.id, &[(LOCAL, "web")])?;
    fetch(lab.caller().host(), Profile::local(LOCAL), 1, 1_000_000)?;
    agent.process.kill9()?;
    let ended = call.ended(Duration::from_secs(5))?;
    ended.check(1, "agent of this host has ended")?;
    call_and_fetch(&scene, &up.id)
}

/// A device whose registry can not be heard at all for a while, as when its route is gone.
#[test]
fn the_registry_falls_silent_and_returns() -> Result<()> {
    let lab = Lab::builder().build()?;
    let mut scene = WebScene::set(&lab)?;
    let up = scene.device.up(&scene.registry, &[])?;
    scene.registry.workerd().kill9();
    up.process
        .stderr_line(PATIENCE, |line| line.contains("the registry is away"))?;
    lab.black_hole(&["registry"])?;
    let silent = Instant::now();
    scene.registry.workerd().restart()?;
    // Through the waits of several attempts.
    until(Duration::from_secs(30), "silence", || {
        Ok((silent.elapsed() > Duration::from_secs(16)).then_some(()))
    })?;
    lab.black_hole(&[])?;
    let back = Instant::now();
    await_registered(&up, 1)?;
    let took = back.elapsed();
    println!(
        "registered {took:.2?} after {:.1?} of silence",
        back - silent
    );
    assert!(took <= RECOVERY, "{took:?}");
    Ok(())
}
