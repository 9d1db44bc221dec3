//! `ringback-lab forward`: the lab's forwarder in whatever namespace this runs in.

use anyhow::{Context as _, Result};
use clap::Args;
use nix::sys::signal::{SigSet, Signal};
use ringback_tests::lab::forwarder::Forwarder;

use crate::arguments::Network;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// An interface; what comes in by it is delayed, and goes on as the routes say
    #[arg(long = "leg", required = true)]
    legs: Vec<String>,
    #[command(flatten)]
    network: Network,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGINT);
    signals.add(Signal::SIGTERM);
    signals.thread_block().context("can not block signals")?;
    let forwarder = Forwarder::start_here(&arguments.legs, arguments.network.impairment())?;
    eprintln!(
        "forwarding between {}; ^C ends it",
        arguments.legs.join(", ")
    );
    signals.wait().context("can not wait for a signal")?;
    eprintln!("{:?}", forwarder.tally());
    Ok(())
}
