//! An agent notices changes of its host's network at once.

use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use ringback_tests::{
    agent,
    lab::{Lab, coturn::Coturn, namespace::Namespace, process::Process, registry::Registry},
    profile::Profile,
};

/// Every change is told within a second.
const AIM: Duration = Duration::from_secs(1);

fn ip(host: &Namespace, arguments: &str) -> Result<()> {
    agent::run(host.command("ip").args(arguments.split(' ')))?;
    Ok(())
}

/// How many changes the agent has told of.
fn told(agent: &Process) -> usize {
    let log = agent.stderr();
    log.lines()
        .filter(|line| line.contains("the network has changed"))
        .count()
}

#[test]
fn a_change_of_the_network_is_noticed_at_once() -> Result<()> {
    let lab = Lab::builder().build()?;
    let _coturn = Coturn::start(&lab)?;
    let registry = Registry::start(&lab)?;
    let other = lab
        .device()
        .add_host("other", Ipv4Addr::new(192, 168, 1, 9))?;
    let host = lab.device().host();
    let device = Profile::new(&lab, &registry, host, "nas");
    let up = device.up(&registry, &["-vv"])?;
    assert_eq!(told(&up.process), 0, "{}", up.process.stderr());

    for (what, change) in [
        ("address added", "addr add 192.168.1.77/24 dev eth0"),
        ("address removed", "addr del 192.168.1.77/24 dev eth0"),
        (
            "default route changed",
            "route replace default via 192.168.1.9 dev eth0",
        ),
        (
            "default route changed back",
            "route replace default via 192.168.1.1 dev eth0",
        ),
        ("interface down", "link set eth0 down"),
        ("interface up", "link set eth0 up"),
        (
            "default route added",
            "route add default via 192.168.1.1 dev eth0",
        ),
        ("interface added", "link add second type bridge"),
        ("address of it", "addr add 10.1.2.3/24 dev second"),
        ("interface removed", "link del second"),
    ] {
        // An interface without an address reaches nobody.
        let counts = what != "interface added";
        let before = told(&up.process);
        let start = Instant::now();
        ip(host, change)?;
        if !counts {
            continue;
        }
        while told(&up.process) == before {
            ensure!(start.elapsed() < AIM, "{what}: not noticed in {AIM:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
        println!("{what}: {:.0?}", start.elapsed());
    }
    drop(other);
    Ok(())
}
