//! One file per command: typed arguments → what is to be done → output. Human text goes to standard
//! error, data to standard output.

mod beacon;
mod callers;
mod connect;
mod contacts;
mod doctor;
mod line;
mod page;
mod services;
mod shell;
mod status;
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
        Command::Expose(expose) => services::expose(&profile, &expose).await,
        Command::Unexpose { name } => services::unexpose(&profile, &name).await,
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

/// Logs go to standard error: warnings always, more with `-v`, or as `RINGBACK_LOG` says.
fn log(global: &Global) {
    let default = match global.verbose {
        0 => "warn",
        1 => "ringback_agent=info,warn",
        _ => "ringback_agent=debug,quinn=info,warn",
    };
    let wanted = std::env::var("RINGBACK_LOG").ok();
    let filter: Targets = wanted
        .and_then(|wanted| wanted.parse().ok())
        .unwrap_or_else(|| default.parse().expect("checked by every start"));
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()));
    tracing_subscriber::registry()
        .with(lines.with_filter(filter))
        .init();
}
