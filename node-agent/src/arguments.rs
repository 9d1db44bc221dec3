//! From the process's arguments to [`Cli`]: what is empty in the environment counts as not given,
//! and what is secret does not stay in the list of processes.

use std::ffi::OsString;
use std::io;
use std::ops::Range;

use clap::builder::Resettable;
use clap::{Command, CommandFactory as _, FromArgMatches as _};

use crate::cli::Cli;

/// Options whose value is a secret.
const SECRETS: [&[u8]; 2] = [b"--password", b"--enroll"];

/// Reads the command line. The error is what clap says, `--help` included.
pub fn read() -> Result<Cli, clap::Error> {
    let matches = without_empty_variables(Cli::command()).try_get_matches()?;
    if let Err(error) = hide_secrets() {
        use std::io::Write as _;
        let _ = writeln!(
            io::stderr(),
            "what --password and --enroll were given stays visible in the list of processes ({error}); use --password-file or RINGBACK_PASSWORD"
        );
    }
    Cli::from_arg_matches(&matches)
}

/// Whether errors are wanted as JSON, asked before the arguments are understood.
pub fn wants_json(mut arguments: impl Iterator<Item = OsString>) -> bool {
    arguments.any(|argument| argument == "--json")
}

/// A script sets `RINGBACK_PASSWORD=''` to mean that there is none.
fn without_empty_variables(command: Command) -> Command {
    command
        .mut_args(|argument| {
            let variable = argument.get_env().and_then(std::env::var_os);
            if variable.is_some_and(|value| value.is_empty()) {
                argument.env(Resettable::Reset)
            } else {
                argument
            }
        })
        .mut_subcommands(without_empty_variables)
}

/// Blanks secrets out of this process's own arguments, as `ps` shows them. They were visible for the
/// moment until now.
#[cfg(target_os = "linux")]
fn hide_secrets() -> io::Result<()> {
    use std::os::unix::fs::FileExt as _;
    let arguments = std::fs::read("/proc/self/cmdline")?;
    let secrets = secrets(&arguments);
    if secrets.is_empty() {
        return Ok(());
    }
    // The name in parentheses may hold anything; `arg_start` is field 48, and 3 is the first after it.
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let start: u64 = stat
        .rsplit_once(')')
        .and_then(|(_, fields)| fields.split_whitespace().nth(48 - 3)?.parse().ok())
        .filter(|start| *start != 0)
        .ok_or(io::ErrorKind::Unsupported)?;
    let memory = std::fs::File::options()
        .write(true)
        .open("/proc/self/mem")?;
    for secret in secrets {
        memory.write_all_at(&vec![b'*'; secret.len()], start + secret.start as u64)?;
    }
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn hide_secrets() -> io::Result<()> {
    use std::os::unix::ffi::OsStringExt as _;
    let arguments: Vec<u8> = std::env::args_os()
        .flat_map(|argument| [argument.into_vec(), vec![0]].concat())
        .collect();
    if secrets(&arguments).is_empty() {
        Ok(())
    } else {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Where secrets stand in arguments that end with a zero each.
fn secrets(arguments: &[u8]) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut at = 0;
    let mut is_next = false;
    for argument in arguments.split(|byte| *byte == 0) {
        let whole = at..at + argument.len();
        at = whole.end + 1;
        let inside = SECRETS.iter().find_map(|name| {
            let value = argument.strip_prefix(*name)?.strip_prefix(b"=")?;
            Some(whole.end - value.len()..whole.end)
        });
        if is_next {
            found.push(whole);
        } else if let Some(inside) = inside {
            found.push(inside);
        }
        is_next = !is_next && SECRETS.contains(&argument);
    }
    found.retain(|secret| !secret.is_empty());
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hidden(arguments: &[&str]) -> Vec<String> {
        let mut bytes = arguments.join("\0").into_bytes();
        bytes.push(0);
        for secret in secrets(&bytes) {
            bytes[secret].fill(b'*');
        }
        let text = String::from_utf8(bytes).unwrap();
        text.trim_end_matches('\0')
            .split('\0')
            .map(ToOwned::to_owned)
            .collect()
    }

    #[test]
    fn only_what_is_secret_is_hidden() {
        for (given, shown) in [
            (
                &["ringback", "up", "--password", "open", "--name", "nas"][..],
                &["ringback", "up", "--password", "****", "--name", "nas"][..],
            ),
            (
                &["ringback", "up", "--password=open", "--enroll=0123-4567"],
                &["ringback", "up", "--password=****", "--enroll=*********"],
            ),
            // A password that looks like an option.
            (
                &["ringback", "up", "--password", "--enroll", "--json"],
                &["ringback", "up", "--password", "********", "--json"],
            ),
            (
                &["ringback", "up", "--password-file", "/run/secret"],
                &["ringback", "up", "--password-file", "/run/secret"],
            ),
            (&["ringback", "--password="], &["ringback", "--password="]),
        ] {
            assert_eq!(hidden(given), shown);
        }
    }

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }
}
