//! Every command that a person or CI runs on this repository: `cargo xtask help`.

mod child;
mod demo;
mod deploy;
mod entropy;
mod fuzz;
mod lab;
mod map;
mod program;
mod say;
mod setup;
mod site;
mod test;
mod wasm;
mod wasm_pkg;
mod web;
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
    /// Build the browser's client as an npm package into wasm-pkg/pkg, and pack it
    WasmPkg(wasm_pkg::Arguments),
    /// Build the registry's page into web-ui/dist and state its size
    Web(web::Arguments),
    /// Put the pages that are deployed beside the worker in place, with their headers
    Pages,
    /// Make a whole call on this machine: registry, device, caller, and a file through the link
    Demo(demo::Arguments),
    /// Run the tests: all of them, or the parts that are named
    Test(test::Arguments),
    /// Make calls in the NAT lab: one case, or without arguments the matrix
    #[command(disable_help_flag = true)]
    Nat(lab::Arguments),
    /// Measure, in the NAT lab
    #[command(disable_help_flag = true)]
    Bench(lab::Arguments),
    /// Show what each module of a crate uses, as floors; fail if modules use each other
    Map(map::Arguments),
    /// Give every decoder and state machine that strangers reach made-up inputs, each for a minute
    Fuzz(fuzz::Arguments),
    /// Deploy the registry to your own Workers account
    Deploy(deploy::Arguments),
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
        Command::WasmPkg(arguments) => wasm_pkg::run(&arguments)?,
        Command::Web(arguments) => web::run(&arguments)?,
        Command::Pages => site::run()?,
        Command::Demo(arguments) => demo::run(&arguments)?,
        Command::Nat(arguments) => lab::run("nat", &arguments)?,
        Command::Bench(arguments) => lab::run("bench", &arguments)?,
        Command::Map(arguments) => map::run(&arguments)?,
        Command::Fuzz(arguments) => fuzz::run(&arguments)?,
        Command::Deploy(arguments) => deploy::run(&arguments)?,
        Command::Test(arguments) => return test::run(&arguments),
    }
    Ok(ExitCode::SUCCESS)
}
