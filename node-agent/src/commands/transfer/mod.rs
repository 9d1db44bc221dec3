//! `get` and `send`: one file, in pieces over several streams at a time. What has arrived is noted,
//! so that the same command goes on where an interrupted one was; at the end both sides' SHA-256 are
//! compared.

mod get;
mod local_file;
mod operation;
mod outcome;
mod pieces;
mod progress;
mod remote;
mod send;
mod sink;

use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use anyhow::{Result, bail};

use super::line::Line;
use super::stop::stopped;
use super::terminal::{self, say};
use crate::cli::{Get, Global, Send};
use crate::failure::{Exit, Failure};
use crate::profile::Profile;
use outcome::Done;
use remote::Remote;

pub(super) async fn get(global: &Global, profile: &Profile, get: Get) -> Result<()> {
    let remote = Remote::parse(&get.from)?;
    let line = Line::new(
        global,
        profile,
        &get.target,
        &remote.device,
        &remote.service,
    )
    .await?;
    let (to, overwrite) = (get.to.as_deref(), get.overwrite);
    let result = interruptible(get::run(&line, &remote, to, overwrite)).await;
    line.close().await;
    report(global, &result?)
}

pub(super) async fn send(global: &Global, profile: &Profile, send: Send) -> Result<()> {
    let remote = Remote::parse(&send.to)?;
    let line = Line::new(
        global,
        profile,
        &send.target,
        &remote.device,
        &remote.service,
    )
    .await?;
    if send.from == Path::new("-") && send.target.password_file.as_deref() == Some(&send.from) {
        let what =
            "standard input can not be the file and the password: give --password-file a file";
        bail!(Failure::new(Exit::Usage, what));
    }
    let result = interruptible(send::run(&line, &remote, &send.from, send.overwrite)).await;
    line.close().await;
    report(global, &result?)
}

async fn interruptible(work: impl Future<Output = Result<Done>>) -> Result<Done> {
    tokio::select! {
        done = work => done,
        ended = stopped() => {
            say!("interrupted; the same command goes on from here");
            bail!(ended)
        }
    }
}

fn report(global: &Global, done: &Done) -> Result<()> {
    if done.in_output {
        say!("{}  {}", done.sha256, done.path.display());
        return Ok(());
    }
    terminal::bytes(global, done, |done| {
        let sha256 = done.sha256.as_bytes();
        [sha256, b"  ", done.path.as_bytes(), b"\n"].concat()
    })
}
