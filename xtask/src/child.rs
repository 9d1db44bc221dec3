//! Child processes: one clear error when they fail, and progress while they take long.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{self, BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::say;

/// A command in the environment it would have had from the user's shell: what `cargo run` adds
/// for this program would mislead another compiler.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.env_remove("LD_LIBRARY_PATH");
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_")
            || ["CARGO_MANIFEST_DIR", "CARGO_MANIFEST_PATH", "CARGO"].contains(&text.as_ref())
        {
            command.env_remove(&name);
        }
    }
    command
}

/// Runs a command with its output shown.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let shown = line(command);
    // What children print is for people, and standard output is for data.
    let status = command
        .stdout(io::stderr())
        .status()
        .with_context(|| format!("starting `{shown}`"))?;
    if !status.success() {
        bail!("`{shown}` failed ({status})");
    }
    Ok(())
}

/// The output of a command, trimmed; its error output is part of the error when it fails.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let shown = line(command);
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("starting `{shown}`"))?;
    if !output.status.success() {
        bail!(
            "`{shown}` failed: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Runs a command that takes long: its output goes to the file `log`, a terminal shows the last
/// line, other places one line now and then, and a failure shows the end of the log.
pub(crate) fn run_logged(command: &mut Command, what: &str, log: &Path) -> Result<()> {
    const NEWS_EVERY: Duration = Duration::from_secs(20);
    let shown = line(command);
    if let Some(dir) = log.parent() {
        fs::create_dir_all(dir)?;
    }
    let mut file = File::create(log).with_context(|| format!("writing {}", log.display()))?;
    let (reader, writer) = io::pipe()?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer)
        .spawn()
        .with_context(|| format!("starting `{shown}`"))?;
    // The command holds copies of the pipe's writing end; without this it would never end.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let start = Instant::now();
    let what = what.to_owned();
    let drawing = thread::spawn(move || -> io::Result<()> {
        let mut news = Instant::now();
        for line in BufReader::new(reader).lines() {
            let line = line?;
            writeln!(file, "{line}")?;
            let elapsed = say::duration(start.elapsed());
            let last: String = line.trim().chars().take(60).collect();
            say::progress(&format!("{what} … {elapsed}: {last}"));
            if !io::IsTerminal::is_terminal(&io::stderr()) && news.elapsed() > NEWS_EVERY {
                news = Instant::now();
                say::note(&format!("{what} … {elapsed}: {last}"));
            }
        }
        Ok(())
    });
    let status = child.wait()?;
    let _ = drawing.join();
    say::progress_done();
    if !status.success() {
        let text = fs::read_to_string(log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        for line in &lines[lines.len().saturating_sub(15)..] {
            eprintln!("   | {line}");
        }
        bail!(
            "`{shown}` failed ({status}); its whole output is in {}",
            log.display()
        );
    }
    Ok(())
}

/// The command as one would type it.
fn line(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(
        command
            .get_args()
            .map(|word| word.to_string_lossy().into_owned()),
    );
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_the_command_and_what_it_said() {
        let error =
            output(command("sh").args(["-c", "echo no such thing >&2; exit 3"])).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("sh -c") && text.contains("no such thing"),
            "{text}"
        );
    }
}
