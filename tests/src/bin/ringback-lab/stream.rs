//! The two ends of plain TCP and of a bare quinn stream, as programs of their own.

use std::net::{SocketAddr, TcpListener};

use anyhow::{Context as _, Result};
use clap::Args;
use ringback_tests::{
    quinn_stream::{self, Tuning},
    transfer::{self, Transfer},
};

#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// Where to listen
    listen: SocketAddr,
}

#[derive(Debug, Args)]
pub(crate) struct TcpFetch {
    #[command(flatten)]
    what: What,
    /// How many connections share the bytes
    #[arg(long, default_value_t = 1)]
    streams: u64,
}

#[derive(Debug, Args)]
pub(crate) struct QuinnServe {
    #[command(flatten)]
    listen: Serve,
    #[command(flatten)]
    tuning: Tuning,
}

#[derive(Debug, Args)]
pub(crate) struct QuinnFetch {
    #[command(flatten)]
    what: What,
    #[command(flatten)]
    tuning: Tuning,
}

#[derive(Debug, Args)]
struct What {
    /// Where the server listens
    server: SocketAddr,
    /// How much to fetch
    #[arg(long, default_value_t = 1_000_000_000)]
    bytes: u64,
}

pub(crate) fn tcp_serve(arguments: &Serve) -> Result<()> {
    let listen = arguments.listen;
    let listener =
        TcpListener::bind(listen).with_context(|| format!("can not listen on {listen}"))?;
    println!("listening");
    Ok(transfer::serve(&listener)?)
}

pub(crate) fn tcp_fetch(arguments: &TcpFetch) -> Result<()> {
    let What { server, bytes } = arguments.what;
    let fetched = transfer::fetch(server, bytes, arguments.streams);
    print(fetched.with_context(|| format!("can not fetch from {server}"))?)
}

pub(crate) fn quinn_serve(arguments: &QuinnServe) -> Result<()> {
    runtime()?.block_on(async {
        let endpoint = quinn_stream::listen(arguments.listen.listen, &arguments.tuning)?;
        println!("listening");
        quinn_stream::serve(endpoint).await;
        Ok(())
    })
}

pub(crate) fn quinn_fetch(arguments: &QuinnFetch) -> Result<()> {
    let What { server, bytes } = arguments.what;
    print(runtime()?.block_on(quinn_stream::fetch(server, bytes, &arguments.tuning))?)
}

fn print(transfer: Transfer) -> Result<()> {
    println!("{}", serde_json::to_string(&transfer)?);
    Ok(())
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?)
}
