//! The `ringback` command: typed arguments → [`ringback_agent::run`] → exit code.

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;
use ringback_agent::{Ended, Failure, cli::Cli, run};

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if Failure::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) if error.is::<Ended>() => Failure::exit_code(&error).into(),
        Err(error) => {
            // Nobody may be reading any more.
            let _ = writeln!(std::io::stderr(), "ringback: {error:#}");
            Failure::exit_code(&error).into()
        }
    }
}
