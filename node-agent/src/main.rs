//! The `ringback` command: typed arguments → [`ringback_agent::run`] → exit code.

use std::io::Write as _;
use std::process::ExitCode;

use ringback_agent::{Ended, Failure, arguments, run};

fn main() -> ExitCode {
    let cli = match arguments::read() {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() && arguments::wants_json(std::env::args_os()) => {
            let text = error.render().to_string();
            let first = text.lines().next().unwrap_or_default();
            let message = first.strip_prefix("error: ").unwrap_or(first);
            let failure = Failure::usage(message);
            let _ = writeln!(std::io::stderr(), "{}", Failure::json(&failure));
            return Failure::exit_code(&failure).into();
        }
        Err(error) => error.exit(),
    };
    let json = cli.global.json;
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if Failure::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) if error.is::<Ended>() => Failure::exit_code(&error).into(),
        Err(error) => {
            // Nobody may be reading any more.
            let _ = if json {
                writeln!(std::io::stderr(), "{}", Failure::json(&error))
            } else {
                writeln!(std::io::stderr(), "ringback: {error:#}")
            };
            Failure::exit_code(&error).into()
        }
    }
}
