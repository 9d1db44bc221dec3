//! The command that a person gets: the login shell of the agent's user, at home, with an
//! environment that a login would have and nothing of the agent's own.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use nix::unistd::{Uid, User};
use ringback_protocol::PeerId;
use tokio::process::Command;

/// Where programs are, until the shell's own files say so.
const PATH_OF_ROOT: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const PATH: &str = "/usr/local/bin:/usr/bin:/bin:/usr/local/games:/usr/games";
/// What a session takes over from the agent: language and time zone of the host.
const KEPT: [&str; 5] = ["LANG", "LANGUAGE", "LC_ALL", "LC_CTYPE", "TZ"];

pub(super) fn command(caller: &PeerId, term: &str) -> Result<Command> {
    let uid = Uid::effective();
    let user = User::from_uid(uid)
        .context("can not read the user database")?
        .with_context(|| format!("the agent's user {uid} is not in the user database"))?;
    let shell = if is_program(&user.shell) {
        user.shell
    } else {
        PathBuf::from("/bin/sh")
    };
    let name = shell.file_name().unwrap_or_default().to_string_lossy();
    let mut command = Command::new(&shell);
    // A dash in front is how a shell knows that it is a login shell.
    command.arg0(format!("-{name}"));
    command.env_clear();
    for name in KEPT {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    // A shell that knows of no encoding garbles every letter that is not English.
    let says_otherwise =
        |name: &&str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    if !["LC_ALL", "LC_CTYPE", "LANG"].iter().any(says_otherwise) {
        command.env("LANG", "C.UTF-8");
    }
    // The agent's own HOME is one that its owner has chosen, if it is not the usual one.
    let homes = std::env::var_os("HOME").map(PathBuf::from).into_iter();
    let mut homes = homes.chain([user.dir]);
    let home = homes.find(|home| home.is_absolute() && home.is_dir());
    let home = home.unwrap_or_else(|| PathBuf::from("/"));
    command
        .env("HOME", &home)
        .env("USER", &user.name)
        .env("LOGNAME", &user.name)
        .env("SHELL", &shell)
        .env("PATH", if uid.is_root() { PATH_OF_ROOT } else { PATH })
        .env("TERM", if term.is_empty() { "dumb" } else { term })
        // Who is at the other end, as sshd tells it.
        .env("RINGBACK_CALLER", caller.to_string())
        .current_dir(&home);
    Ok(command)
}

fn is_program(path: &Path) -> bool {
    rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok() && path.is_file()
}
