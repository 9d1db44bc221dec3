//! One file per command: typed arguments → what is to be done → output. Human text goes to standard
//! error, data to standard output.

mod beacon;
mod callers;
mod connect;
mod contacts;
mod doctor;
mod line;
mod page;
mod preparation;
mod services;
mod shell;
mod status;
mod stop;
mod target;
mod terminal;
mod transfer;
pub(crate) mod up;

use anyhow::{Context as _, Result};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::prelude::*;

use crate::cli::{Cli, Command, Global};
use crate::profile::Profile;

/// Runs one command to its end.
pub fn run(cli: Cli) -> Result<()> {
    log(&cli.global);
    let profile = Profile::open(cli.global.dir.as_deref())?;
    // Two workers: the sockets of one link and the rest.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("can not start")?;
    let result = runtime.block_on(dispatch(cli, profile));
    // A thread that waits for standard input would never end.
    runtime.shutdown_background();
    result
}

async fn dispatch(cli: Cli, profile: Profile) -> Result<()> {
    let Cli { global, command } = cli;
    match command {
        Command::Up(up) => up::run(&global, profile, up).await,
        Command::Beacon(beacon) => beacon::run(&global, &profile, beacon).await,
        Command::Expose(expose) => services::expose(&global, &profile, &expose).await,
        Command::Unexpose { name } => services::unexpose(&global, &profile, &name).await,
        Command::Services => services::list(&global, &profile),
        Command::Connect(connect) => connect::forward(&global, &profile, connect).await,
        Command::Pipe(pipe) => connect::pipe(&global, &profile, pipe).await,
        Command::Shell(shell) => shell::run(&global, &profile, shell).await,
        Command::Get(get) => transfer::get(&global, &profile, get).await,
        Command::Send(send) => transfer::send(&global, &profile, send).await,
        Command::Doctor(doctor) => doctor::run(&global, &profile, doctor).await,
        Command::Status => status::run(&global, &profile).await,
        Command::Contacts { action } => contacts::run(&global, &profile, action),
        Command::Callers { action } => callers::run(&global, &profile, action).await,
        Command::Id => terminal::data(&global, &profile.key()?.id(), |id| format!("{id}\n")),
    }
}

/// Logs go to standard error: our warnings always, more and those of the libraries with `-v`, or as
/// `RINGBACK_LOG` says.
fn log(global: &Global) {
    let wanted = std::env::var("RINGBACK_LOG").ok();
    let filter: Targets = wanted
        .and_then(|wanted| wanted.parse().ok())
        .unwrap_or_else(|| usual(global.verbose));
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()));
    tracing_subscriber::registry()
        .with(lines.with_filter(filter))
        .init();
}

/// What is logged where nobody says otherwise.
fn usual(verbose: u8) -> Targets {
    let filter = match verbose {
        0 => "ringback_agent=warn,off",
        1 => "ringback_agent=info,warn",
        _ => "ringback_agent=debug,quinn=info,warn",
    };
    filter.parse().expect("checked by every start")
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn warnings_of_libraries_are_for_those_who_ask() {
        for (verbose, ours, theirs) in [
            (0, Level::WARN, None),
            (1, Level::INFO, Some(Level::WARN)),
            (2, Level::DEBUG, Some(Level::WARN)),
        ] {
            let filter = usual(verbose);
            assert!(filter.would_enable("ringback_agent::device", &ours));
            let errors = theirs.is_some();
            for target in ["quinn_udp", "mdns_sd", "log", "str0m::ice"] {
                assert_eq!(
                    filter.would_enable(target, &Level::ERROR),
                    errors,
                    "{target}"
                );
                assert_eq!(filter.would_enable(target, &Level::WARN), theirs.is_some());
            }
        }
    }
}
