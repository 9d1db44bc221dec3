//! Networks on the way that lose long packets and do not say so: a path that takes short datagrams only
//! is none, and one whose MTU falls is left.

use std::time::Duration;

use anyhow::{Result, ensure};
use ringback_tests::{
    download::{Download, fetch},
    lab::{Lab, cut::Cut, impairment::Impairment, kind::Kind, site::Site},
    profile::{Connect, Profile, Up, until},
    web_scene::WebScene,
};

const LOCAL: u16 = 8080;
/// As a tunnel in a tunnel has it: too small for QUIC (1,228 with IPv4 and UDP), and for a datagram of
/// its handshake (1,258).
const SMALL: u16 = 1124;
const USUAL: u16 = 1500;
const MIB: u64 = 1 << 20;
/// The longest pause that is allowed when a path has to be left, on a machine that may be busy.
const PAUSE: Duration = Duration::from_millis(3000);

struct Scene<'a> {
    web: WebScene<'a>,
    _up: Up,
    id: String,
}

impl<'a> Scene<'a> {
    fn set(lab: &'a Lab) -> Result<Self> {
        let web = WebScene::set(lab)?;
        let up = web.device.up(&web.registry, &["--no-port-mapping"])?;
        Ok(Self {
            id: up.id.clone(),
            _up: up,
            web,
        })
    }

    fn connect(&self) -> Result<Connect> {
        self.web.caller.connect(&self.id, &[(LOCAL, "web")])
    }
}

fn is_direct_udp(connect: &Connect) -> Result<bool> {
    Ok(connect.path()? == ("direct".into(), "udp".into()))
}

/// A call, 1 MiB each way, and the path that it took.
fn call_and_fetch(scene: &Scene<'_>, what: &str) -> Result<(String, String)> {
    let connect = scene.connect()?;
    let took = connect.start.elapsed();
    let done = fetch(scene.web.caller.namespace(), Profile::local(LOCAL), 5, MIB)?;
    let path = connect.path()?;
    println!(
        "{what}: {path:?}, connected in {took:?}, 1 MiB in {:?}",
        done.time
    );
    ensure!(
        took < Duration::from_secs(5),
        "{what}: connected after {took:?}"
    );
    ensure!(
        done.time < Duration::from_secs(5),
        "{what}: 1 MiB took {:?}",
        done.time
    );
    Ok(path)
}

fn a_call_goes_through(small: impl Fn(&Lab) -> &Site) -> Result<()> {
    let lab = Lab::builder().build()?;
    // First: TCP connections that stand would not learn of it.
    lab.set_mtu(small(&lab), SMALL)?;
    let scene = Scene::set(&lab)?;
    let path = call_and_fetch(&scene, "a small MTU")?;
    ensure!(path.1 != "udp", "by a path that takes no full datagram");
    // The smallest line that takes a datagram of the handshake is as good as any.
    lab.set_mtu(small(&lab), 1258)?;
    let path = call_and_fetch(&scene, "1258")?;
    ensure!(path == ("direct".into(), "udp".into()), "{path:?}");
    Ok(())
}

#[test]
fn a_call_goes_through_where_the_callers_line_has_a_small_mtu() -> Result<()> {
    a_call_goes_through(Lab::caller)
}

#[test]
fn a_call_goes_through_where_the_devices_line_has_a_small_mtu() -> Result<()> {
    a_call_goes_through(Lab::device)
}

/// Between the sites not even TCP has long packets: the relay is what is left.
#[test]
fn where_no_direct_path_takes_long_packets_the_relay_carries_the_call() -> Result<()> {
    let lab = Lab::builder().device(Kind::AddressOnly).build()?;
    let scene = Scene::set(&lab)?;
    lab.cut(Cut::Longer(SMALL))?;
    let path = call_and_fetch(&scene, "no long packets between the sites")?;
    ensure!(path.0 == "relay", "{path:?}");
    lab.cut(Cut::Nothing)?;
    call_and_fetch(&scene, "as usual")?;
    Ok(())
}

fn a_link_goes_on(small: impl Fn(&Lab) -> &Site) -> Result<()> {
    // Slow enough that the download outlasts what is done to it.
    let lab = Lab::builder()
        .impairment(Impairment {
            delay: Duration::from_millis(5),
            ..Impairment::default()
        })
        .build()?;
    let scene = Scene::set(&lab)?;
    let connect = scene.connect()?;
    connect.is_direct()?;
    let local = Profile::local(LOCAL);
    let rate = Some(4 << 20);
    let download = Download::start(scene.web.caller.namespace(), local, 6, 160 << 20, rate)?;
    download.await_bytes(8 << 20)?;
    let is_on = |is_enough: bool| {
        let (_, took) = until(Duration::from_secs(20), "the right path", || {
            Ok((is_direct_udp(&connect)? == is_enough).then_some(()))
        })?;
        Result::<Duration>::Ok(took)
    };
    for (mtu, is_enough) in [(SMALL, false), (USUAL, true), (SMALL, false)] {
        download.longest_pause();
        lab.set_mtu(small(&lab), mtu)?;
        let took = is_on(is_enough)?;
        download.await_bytes(download.arrived() + (6 << 20))?;
        let (path, pause) = (connect.path()?, download.longest_pause());
        println!("MTU {mtu}: {path:?} after {took:?}, longest pause {pause:?}");
        ensure!(pause < PAUSE, "MTU {mtu}: a pause of {pause:?}");
        is_on(is_enough)?;
    }
    drop(download);
    fetch(scene.web.caller.namespace(), local, 5, MIB)?;
    Ok(())
}

#[test]
fn a_link_goes_on_when_the_mtu_of_the_callers_line_falls() -> Result<()> {
    a_link_goes_on(Lab::caller)
}

#[test]
fn a_link_goes_on_when_the_mtu_of_the_devices_line_falls() -> Result<()> {
    a_link_goes_on(Lab::device)
}
