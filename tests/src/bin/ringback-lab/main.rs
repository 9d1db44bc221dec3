//! The lab by hand: see `ringback-lab --help`.

mod arguments;
mod bench;
mod forward;
mod nat;
mod stream;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Ringback's NAT lab: real kernel NAT in network namespaces. Needs root.
#[derive(Debug, Parser)]
#[command(name = "ringback-lab", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a call between two kinds of router, or between all pairs of kinds
    Nat(nat::Arguments),
    /// Measure Ringback beside plain TCP and a bare quinn stream, between the same namespaces
    Bench(bench::Arguments),
    /// Delay, lose and reorder what goes from one interface of this namespace to another
    Forward(forward::Arguments),
    /// Send bytes over plain TCP to whoever asks
    TcpServe(stream::Serve),
    /// Fetch bytes over plain TCP
    TcpFetch(stream::TcpFetch),
    /// Send bytes over a bare quinn stream to whoever asks
    QuinnServe(stream::QuinnServe),
    /// Fetch bytes over a bare quinn stream
    QuinnFetch(stream::QuinnFetch),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Nat(arguments) => nat::run(&arguments),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Forward(arguments) => forward::run(&arguments),
        Command::TcpServe(arguments) => stream::tcp_serve(&arguments),
        Command::TcpFetch(arguments) => stream::tcp_fetch(&arguments),
        Command::QuinnServe(arguments) => stream::quinn_serve(&arguments),
        Command::QuinnFetch(arguments) => stream::quinn_fetch(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ringback-lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}
