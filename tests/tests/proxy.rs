//! Networks that let nothing out but what goes by a proxy: real ones (tinyproxy, microsocks) on a host
//! of the LAN, which is all that the agents have a route to.

use std::{net::Ipv4Addr, time::Duration};

use anyhow::{Context as _, Result, ensure};
use ringback_tests::{
    download::fetch,
    lab::{
        Lab, coturn::Coturn, file_server::FileServer, namespace::Namespace, process::Process,
        registry::Registry, site::Site,
    },
    profile::{Ended, PASSWORD, Profile, until},
};

const SOON: Duration = Duration::from_secs(10);
/// The host of each LAN that is let out.
const PROXY: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 9);
const HTTP: u16 = 8888;
const SOCKS: u16 = 1080;

/// HTTP CONNECT, to port 443 only and with a password, as offices have it.
fn http_proxy(lab: &Lab, site: &Site) -> Result<(Namespace, Process)> {
    let host = site.add_host("office", PROXY)?;
    let name = format!("tinyproxy-{:08x}", fastrand::u32(..));
    let config = lab.dir().join(&name);
    std::fs::write(
        &config,
        format!(
            "Port {HTTP}\nListen {PROXY}\nTimeout 600\nConnectPort 443\nBasicAuth me s_cret\nLogLevel Info\n"
        ),
    )?;
    let mut command = host.command("tinyproxy");
    command.arg("-d").arg("-c").arg(config);
    Ok((host, started(lab, site, &name, command, HTTP)?))
}

/// SOCKS 5 without a password.
fn socks_proxy(lab: &Lab, site: &Site) -> Result<(Namespace, Process)> {
    let host = site.add_host("hotel", PROXY)?;
    let name = format!("microsocks-{:08x}", fastrand::u32(..));
    let mut command = host.command("microsocks");
    command.args(["-i", &PROXY.to_string(), "-p", &SOCKS.to_string()]);
    Ok((host, started(lab, site, &name, command, SOCKS)?))
}

fn started(
    lab: &Lab,
    site: &Site,
    name: &str,
    command: std::process::Command,
    port: u16,
) -> Result<Process> {
    let process = lab.spawn(name, command)?;
    until(SOON, "the proxy listens", || {
        Ok(site.host().connect((PROXY, port)).ok())
    })?;
    Ok(process)
}

/// Leaves the host with its LAN alone.
fn cut_off(site: &Site) -> Result<()> {
    let mut route = site.host().command("ip");
    route.args(["route", "del", "default"]);
    ensure!(route.status()?.success(), "ip route");
    Ok(())
}

#[test]
fn a_device_and_a_caller_that_have_nothing_but_a_proxy_meet_at_the_relay() -> Result<()> {
    let lab = Lab::builder().build()?;
    let _coturn = Coturn::start(&lab)?;
    let registry = Registry::start(&lab)?;
    let _http = http_proxy(&lab, lab.device())?;
    let _socks = socks_proxy(&lab, lab.caller())?;
    cut_off(lab.device())?;
    cut_off(lab.caller())?;
    let _web = FileServer::start(lab.device().host(), (Ipv4Addr::LOCALHOST, 80))?;
    let device = Profile::new(&lab, &registry, lab.device().host(), "nas");
    let caller = Profile::new(&lab, &registry, lab.caller().host(), "laptop");
    device.expose(&[("web", "http://127.0.0.1")])?;

    // The device: HTTP CONNECT, with a password that a URL may write in another way.
    let code = registry.enrolment_code(&lab, "nas")?;
    let proxy = format!("http://me:s%5Fcret@{PROXY}:{HTTP}");
    let up = |https: Option<&str>, no: &str| -> Result<std::process::Command> {
        let mut command = device.registry_command(&["up", "--json", "--password", PASSWORD])?;
        if let Some(https) = https {
            command.env("HTTPS_PROXY", https);
        }
        command.env("NO_PROXY", no);
        Ok(command)
    };
    let refused = |https, no, words: &[&str]| -> Result<()> {
        let ended = Ended::of(up(https, no)?.args(["--enroll", &code]))?;
        ended.check(3, "can not reach the registry")?;
        for words in words {
            ended.check(3, words)?;
        }
        ensure!(!ended.stderr.contains("cret"), "no secret: {ended:?}");
        Ok(())
    };
    let shown = format!("by the proxy http://{PROXY}:{HTTP}");
    refused(None, "", &["check its address and the network"])?;
    refused(
        Some(&proxy),
        "registry.test",
        &["check its address and the network"],
    )?;
    let stranger = format!("http://{PROXY}:{HTTP}");
    refused(Some(&stranger), "", &[&shown, "authorization"])?;
    let closed = format!("http://{PROXY}:9");
    refused(Some(&closed), "", &["Connection refused", "HTTPS_PROXY"])?;
    let process = lab.spawn("nas-up", {
        let mut command = up(Some(&proxy), "")?;
        command.args(["--enroll", &code]);
        command
    })?;
    let line = process.stdout_line(SOON, |line| line.starts_with('{'))?;
    ensure!(line.contains("\"registered\":true"), "{line}");

    // The caller: SOCKS, whose proxy looks the registry's name up.
    let socks = format!("socks5h://{PROXY}:{SOCKS}");
    let mut command = caller.registry_command(&["connect", "nas", "-L", "8080:web", "--json"])?;
    command.args(["--password", PASSWORD]);
    command.env("ALL_PROXY", &socks);
    let call = lab.spawn("laptop-connect", command)?;
    let line = call.stdout_line(Duration::from_secs(30), |line| {
        line.contains("\"connected\"")
    })?;
    ensure!(line.contains("\"path\":\"relay\""), "{line}");
    fetch(lab.caller().host(), Profile::local(8080), 1, 100_000)?;

    // And the doctor says what is on the way.
    let mut doctor = device.registry_command(&["doctor", "--json"])?;
    let ended = Ended::of(doctor.env("HTTPS_PROXY", &proxy))?;
    let said: serde_json::Value =
        serde_json::from_str(&ended.stdout).with_context(|| format!("{ended:?}"))?;
    let address = format!("http://{PROXY}:{HTTP}");
    ensure!(said["found"]["registry"]["proxy"] == *address, "{said}");
    let checks = said["checks"].as_array().context("no checks")?;
    for check in ["registry", "websocket"] {
        let check = checks.iter().find(|found| found["check"] == check);
        ensure!(
            check.is_some_and(|check| check["level"] == "ok"),
            "{check:?}"
        );
    }
    ensure!(said.to_string().contains(&shown), "{said}");
    ensure!(!said.to_string().contains("cret"), "no secret: {said}");
    Ok(())
}
