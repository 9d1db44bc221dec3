//! Every command that a person or CI runs on this repository: `cargo xtask help`.

mod child;
mod say;
mod setup;
mod test;
mod wasm;
mod worker;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    about,
    disable_help_subcommand = false
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Install what building and testing need and this machine lacks
    Setup(setup::Arguments),
    /// Build the registry into worker/build and state its size
    Worker(worker::Arguments),
    /// Run the tests: all of them, or the parts that are named
    Test(test::Arguments),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(arguments.command) {
        Ok(code) => code,
        Err(error) => {
            say::failure(&error);
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Setup(arguments) => setup::run(&arguments)?,
        Command::Worker(arguments) => worker::run(&arguments)?,
        Command::Test(arguments) => return test::run(&arguments),
    }
    Ok(ExitCode::SUCCESS)
}
