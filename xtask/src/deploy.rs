//! `cargo xtask deploy`: the registry on the user's own Workers account, with its owner secret.

use std::{
    io::{BufRead, IsTerminal as _, Read, Write},
    process::{Command, Stdio},
    str::FromStr,
};

use anyhow::{Context, Result, bail};
use xtask::place;

use crate::{child, entropy, say, setup, site, worker};

const SECRET: &str = "OWNER_SECRET";

#[derive(clap::Args, Debug)]
pub(crate) struct Arguments {
    /// Do everything but change the account: build, check, and say what would be done
    #[arg(long)]
    dry_run: bool,
    /// Make a new owner secret even if there is one; the old one ends
    #[arg(long)]
    new_secret: bool,
    /// The registry's address on a domain of your own, such as https://registry.example.org;
    /// otherwise it is on workers.dev
    #[arg(long, value_name = "URL", requires = "lan_origin")]
    origin: Option<String>,
    /// Where web pages of LANs are shown. Best on a domain of your own: https://*.lan.example.org
    /// gives each an origin to itself. `shared`: all on one of workers.dev, in turns, which needs no
    /// domain. `none`: they are not shown. Without this you are asked, or it is `shared`
    #[arg(long, value_name = "URL|shared|none")]
    lan_origin: Option<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    setup::ensure(setup::WORKER)?;
    if arguments.dry_run {
        worker::build()?;
        for (folder, place) in [
            (Folder::Registry, "wrangler"),
            (Folder::Lan, "wrangler-lan"),
        ] {
            let output = place::workspace().join("target/tmp").join(place);
            child::run(
                folder
                    .wrangler()?
                    .args(["deploy", "--dry-run", "--outdir"])
                    .arg(output),
            )?;
        }
        say::note(&format!(
            "a real run would deploy these two and set {SECRET} where it is not set"
        ));
        return Ok(());
    }
    let lan = match &arguments.lan_origin {
        Some(text) => text.parse()?,
        None => Lan::ask(&mut std::io::stdin().lock(), std::io::stdin().is_terminal())?,
    };
    if let Some(warning) = lan.warning() {
        say::warning(warning);
    }
    check_login()?;
    worker::build()?;
    let lan_origin = match lan {
        Lan::None => None,
        Lan::Own(lan_origin) => {
            let registry = arguments.origin.as_deref().unwrap_or("'none'");
            deploy_lan(registry, &["--route", &route(&lan_origin)?])?;
            Some(lan_origin)
        }
        Lan::Shared => Some(lan_on_workers_dev()?),
    };
    // The worker has to exist before it can have a secret; until it has, it lets nobody in.
    let url = deploy_registry(arguments.origin.as_deref(), lan_origin.as_deref())?;
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

/// Where web pages of LANs are shown.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Lan {
    /// On an origin of the owner's; a `*` in it is the site.
    Own(String),
    /// On one of workers.dev.
    Shared,
    None,
}

/// What the choice means, the better one first.
const CHOICES: &[&str] = &[
    "web pages of your devices' LANs run on an origin apart from the registry's. Choose it:",
    "  https://*.lan.example.org   on a domain of yours: each page has an origin to itself, with",
    "                              storage and cookies that no other page sees (recommended)",
    "  shared                      on workers.dev, without a domain: pages take turns on one origin.",
    "                              One is open at a time, without windows of its own, and before",
    "                              another one is opened, all that it has stored is cleared, with",
    "                              the cookies of all your workers.dev addresses in that browser",
    "  none                        they are not shown",
];

impl Lan {
    /// Asks, where somebody is there to answer; otherwise says what it takes.
    fn ask(input: &mut impl BufRead, is_terminal: bool) -> Result<Self> {
        for line in CHOICES {
            say::note(line);
        }
        if !is_terminal {
            say::note("`--lan-origin` was not given: shared");
            return Ok(Self::Shared);
        }
        say::note("which one? (Enter: shared)");
        let mut line = String::new();
        input.read_line(&mut line)?;
        match line.trim() {
            "" => Ok(Self::Shared),
            line => line.parse(),
        }
    }

    fn warning(&self) -> Option<&'static str> {
        match self {
            Self::Own(origin) if !origin.contains('*') => Some(
                "an origin without a `*` is shared by all pages: they take turns on it, and all \
                 cookies of its domain are cleared between them",
            ),
            _ => None,
        }
    }
}

impl FromStr for Lan {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "none" => Ok(Self::None),
            "shared" => Ok(Self::Shared),
            origin => {
                route(origin)?;
                Ok(Self::Own(origin.to_owned()))
            }
        }
    }
}

/// A folder with a `wrangler.toml`.
#[derive(Clone, Copy, Debug)]
enum Folder {
    Registry,
    Lan,
}

impl Folder {
    fn wrangler(self) -> Result<Command> {
        let mut wrangler = worker::wrangler()?;
        if matches!(self, Self::Lan) {
            wrangler.current_dir(place::workspace().join("worker/lan"));
        }
        Ok(wrangler)
    }
}

/// Deploys the LAN origin to workers.dev and returns its address.
///
/// Only the platform knows the name of the account in it, and its headers have to name the
/// registry's address, which has it, too. So it is deployed framed by nobody first.
fn lan_on_workers_dev() -> Result<String> {
    let lan = deploy_lan("'none'", &[])?.context("wrangler named no address on workers.dev")?;
    let registry = registry_beside(&lan)
        .with_context(|| format!("{lan} is not where the LAN origin is expected"))?;
    deploy_lan(&registry, &[])?;
    Ok(lan)
}

/// The registry's address in the account of the LAN origin's.
fn registry_beside(lan: &str) -> Option<String> {
    let account = lan.strip_prefix("https://ringback-lan.")?;
    Some(format!(
        "https://ringback.{}",
        account.trim_end_matches('/')
    ))
}

/// The route that catches every site of a LAN origin.
fn route(lan_origin: &str) -> Result<String> {
    let host = lan_origin
        .strip_prefix("https://")
        .filter(|host| !host.is_empty() && !host.contains('/'))
        .with_context(|| format!("{lan_origin} is no origin such as https://*.lan.example.org"))?;
    Ok(format!("{host}/*"))
}

fn deploy_lan(registry: &str, more: &[&str]) -> Result<Option<String>> {
    let mut wrangler = Folder::Lan.wrangler()?;
    wrangler
        .arg("deploy")
        .args(more)
        .env(site::REGISTRY_ORIGIN, registry);
    deploy(wrangler)
}

fn deploy_registry(origin: Option<&str>, lan_origin: Option<&str>) -> Result<String> {
    let mut wrangler = Folder::Registry.wrangler()?;
    wrangler.arg("deploy");
    if let Some(lan_origin) = lan_origin {
        wrangler
            .args(["--var", &format!("LAN_ORIGIN:{lan_origin}")])
            .env(site::LAN_ORIGIN, lan_origin);
    }
    if let Some(origin) = origin {
        let host = origin
            .strip_prefix("https://")
            .with_context(|| format!("{origin} does not begin with https://"))?;
        wrangler.args(["--domain", host]);
    }
    let told = deploy(wrangler)?;
    Ok(origin
        .map(str::to_owned)
        .or(told)
        .unwrap_or_else(|| "https://YOUR-REGISTRY".to_owned()))
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
fn deploy(mut wrangler: Command) -> Result<Option<String>> {
    let mut child = wrangler
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
    Ok(address(&text).map(str::to_owned))
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
        &format!("the page, where you sign in with the owner secret: {url}"),
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

    #[test]
    fn the_lan_origin_tells_where_the_registry_is() {
        let registry = registry_beside("https://ringback-lan.me.workers.dev");
        assert_eq!(registry.as_deref(), Some("https://ringback.me.workers.dev"));
        assert_eq!(registry_beside("https://other.me.workers.dev"), None);
    }

    #[test]
    fn every_site_of_a_lan_origin_has_one_route() {
        let route = |origin| route(origin).ok();
        assert_eq!(
            route("https://*.lan.example.org").as_deref(),
            Some("*.lan.example.org/*")
        );
        assert_eq!(route("lan.example.org"), None);
        assert_eq!(route("https://lan.example.org/x"), None);
    }

    #[test]
    fn an_origin_for_each_page_is_offered_first() {
        let asked = |line: &str, is_terminal| Lan::ask(&mut line.as_bytes(), is_terminal);
        let own = Lan::Own("https://*.lan.example.org".into());
        assert_eq!(asked("https://*.lan.example.org\n", true).unwrap(), own);
        assert_eq!(own.warning(), None);
        assert_eq!(asked("\n", true).unwrap(), Lan::Shared);
        assert_eq!(asked("none\n", true).unwrap(), Lan::None);
        asked("lan.example.org\n", true).unwrap_err();
        assert_eq!(asked("https://*.x.example\n", false).unwrap(), Lan::Shared);
        let one: Lan = "https://lan.example.org".parse().unwrap();
        assert!(one.warning().is_some_and(|text| text.contains("cookies")));
        let place = |choice| {
            CHOICES
                .iter()
                .position(|line| line.trim_start().starts_with(choice))
        };
        assert!(place("https://*.") < place("shared") && place("shared") < place("none"));
    }
}
