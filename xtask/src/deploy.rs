//! `cargo xtask deploy`: the registry on the user's own Workers account, with its owner secret.

use std::{
    io::{Read, Write},
    process::Stdio,
};

use anyhow::{Context, Result, bail};
use xtask::place;

use crate::{child, entropy, say, setup, worker};

const SECRET: &str = "OWNER_SECRET";

#[derive(clap::Args, Debug)]
pub(crate) struct Arguments {
    /// Do everything but change the account: build, check, and say what would be done
    #[arg(long)]
    dry_run: bool,
    /// Make a new owner secret even if there is one; the old one ends
    #[arg(long)]
    new_secret: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    setup::ensure(setup::WORKER)?;
    if arguments.dry_run {
        worker::build()?;
        let output = place::workspace().join("target/tmp/wrangler");
        child::run(
            worker::wrangler()?
                .args(["deploy", "--dry-run", "--outdir"])
                .arg(output),
        )?;
        say::note(&format!(
            "a real run would deploy this and set {SECRET} where it is not set"
        ));
        return Ok(());
    }
    check_login()?;
    worker::build()?;
    // The worker has to exist before it can have a secret; until it has, it lets nobody in.
    let url = deploy()?;
    if arguments.new_secret || !has_secret()? {
        let secret = entropy::hex(32)?;
        put_secret(&secret)?;
        say::heading("the owner secret: keep it, it is not shown again");
        println!("{secret}");
    } else {
        say::note("the owner secret stays as it is (`--new-secret` makes another)");
    }
    next_steps(&url);
    Ok(())
}

fn check_login() -> Result<()> {
    let mut whoami = worker::wrangler()?;
    let text = child::output(whoami.arg("whoami"))
        .context("asking who is logged in at the Workers platform")?;
    if text.contains("not authenticated") {
        bail!(
            "nobody is logged in at the Workers platform: run `{} login`, \
             or set CLOUDFLARE_API_TOKEN",
            place::npm_tool("wrangler")?.display()
        );
    }
    Ok(())
}

/// Deploys, with wrangler's own output shown, and returns the address it names.
fn deploy() -> Result<String> {
    let mut wrangler = worker::wrangler()?;
    let mut child = wrangler
        .arg("deploy")
        .stdout(Stdio::piped())
        .spawn()
        .context("starting wrangler")?;
    let mut text = String::new();
    if let Some(mut output) = child.stdout.take() {
        output.read_to_string(&mut text)?;
    }
    eprint!("{text}");
    if !child.wait()?.success() {
        bail!("wrangler deploy failed; what it said is above");
    }
    Ok(address(&text).unwrap_or("https://YOUR-REGISTRY").to_owned())
}

fn address(text: &str) -> Option<&str> {
    text.split_whitespace()
        .find(|word| word.starts_with("https://") && word.contains(".workers.dev"))
}

fn has_secret() -> Result<bool> {
    let text = child::output(worker::wrangler()?.args(["secret", "list", "--format", "json"]))?;
    Ok(text.contains(&format!("\"{SECRET}\"")))
}

/// By standard input: arguments can be read by every user of the machine.
fn put_secret(secret: &str) -> Result<()> {
    let mut child = worker::wrangler()?
        .args(["secret", "put", SECRET])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .context("starting wrangler")?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(secret.as_bytes())?;
    }
    if !child.wait()?.success() {
        bail!("wrangler could not set {SECRET}; run `cargo xtask deploy` again");
    }
    Ok(())
}

fn next_steps(url: &str) {
    say::heading("next");
    for line in [
        "an enrolment code for a device:",
        &format!("  curl -X POST {url}/v1/codes -H \"Authorization: Bearer $OWNER_SECRET\""),
        "on the device:",
        &format!("  ringback up --registry {url} --enroll CODE"),
        "  ringback expose web http://127.0.0.1:80",
        "from anywhere:",
        &format!("  ringback connect DEVICE --registry {url} -L 8080:web"),
    ] {
        say::note(line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_address_in_wranglers_output() {
        let text =
            "Deployed ringback triggers (1.2 sec)\n  https://ringback.me.workers.dev\nVersion";
        assert_eq!(address(text), Some("https://ringback.me.workers.dev"));
        assert_eq!(address("nothing"), None);
    }
}
