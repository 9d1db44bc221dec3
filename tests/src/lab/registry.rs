//! The registry in a lab: the worker on workerd, with TLS, and its API by curl.

use std::{
    net::{Ipv6Addr, SocketAddr},
    path::Path,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use xtask::workerd::{Config, Keypair, Workerd};

use super::{
    Lab, REGISTRY, REGISTRY_NAME, certificate::Authority, coturn::Coturn, namespace::Namespace,
};
use crate::browser::Options;

/// The worker at `https://registry.test` (`130.74.23.6:443` and `[2001:db8:23::6]:443`) in the registry's namespace.
#[derive(Debug)]
pub struct Registry {
    authority: Authority,
    owner_secret: String,
    workerd: Workerd,
    _lan: Option<Workerd>,
}

/// The port of the LAN origin: the registry has the other one of its address.
const LAN_PORT: u16 = 8443;

impl Registry {
    /// Starts it with a certificate authority and an owner secret of its own.
    pub fn start(lab: &Lab) -> Result<Self> {
        Self::start_with(lab, Ok)
    }

    /// The same with the page and a LAN origin, [`Registry::lan_origin`], as they are built.
    pub fn start_with_page(
        lab: &Lab,
        change: impl FnOnce(Config) -> Result<Config>,
    ) -> Result<Self> {
        let mut registry = Self::start_with(lab, |config| {
            change(config.with_page(Some(&Self::lan_origin()))?)
        })?;
        let mut config = Config::lan(lab.dir().join("lan"), &registry.url())?;
        std::fs::create_dir_all(&config.dir)?;
        place(&mut config, lab, &registry.authority, LAN_PORT)?;
        registry._lan = Some(Workerd::start(config)?);
        Ok(registry)
    }

    /// With changes to its configuration.
    pub fn start_with(lab: &Lab, change: impl FnOnce(Config) -> Result<Config>) -> Result<Self> {
        let dir = lab.dir().join("registry");
        std::fs::create_dir_all(&dir)?;
        let authority = Authority::create(&dir)?;
        let owner_secret = format!("owner-{:016x}", fastrand::u64(..));
        let mut config = Config::registry(&dir, &owner_secret)?;
        place(&mut config, lab, &authority, 443)?;
        let stun = Coturn::servers().map(|server| server.to_string()).join(",");
        config.bindings.insert("STUN_SERVERS".into(), stun);
        let config = change(config)?;
        let workerd = Workerd::start(config)?;
        Ok(Self {
            authority,
            owner_secret,
            workerd,
            _lan: None,
        })
    }

    /// The LAN origin of a registry with a page. A browser has to be told where its names lead:
    /// [`Registry::browser`].
    pub fn lan_origin() -> String {
        format!("https://*.lan.{REGISTRY_NAME}:{LAN_PORT}")
    }

    /// How a browser in a namespace of the lab is started so that it trusts this registry.
    pub fn browser(&self, namespace: &Namespace) -> Options {
        Options::default()
            .inside(namespace)
            .trust(&self.authority.spki_sha256)
            .argument(format!(
                "--host-resolver-rules=MAP *.lan.{REGISTRY_NAME} {REGISTRY}"
            ))
    }

    /// What agents are given as `--registry`.
    pub fn url(&self) -> String {
        format!("https://{REGISTRY_NAME}")
    }

    /// What agents are given as `--registry-ca`.
    pub fn ca(&self) -> &Path {
        &self.authority.ca
    }

    /// What a browser is told to trust.
    pub fn spki_sha256(&self) -> &str {
        &self.authority.spki_sha256
    }

    /// The owner's bearer token.
    pub fn owner_secret(&self) -> &str {
        &self.owner_secret
    }

    /// The process: to kill it, to restart it, to read its log.
    pub fn workerd(&mut self) -> &mut Workerd {
        &mut self.workerd
    }

    /// The process ID of workerd.
    pub fn pid(&self) -> u32 {
        self.workerd.pid()
    }

    /// Calls the API as the owner, from a namespace, with curl. Gives the status and the body
    /// (`null` if there is none).
    pub fn call(
        &self,
        from: &Namespace,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(u16, Value)> {
        let mut curl = from.command("curl");
        curl.args([
            "-sS",
            "--max-time",
            "20",
            "-w",
            "\n%{http_code}",
            "-X",
            method,
        ]);
        curl.arg("--cacert").arg(self.ca());
        curl.args([
            "-H",
            &format!("Authorization: Bearer {}", self.owner_secret),
        ]);
        if let Some(body) = body {
            curl.args([
                "-H",
                "Content-Type: application/json",
                "-d",
                &body.to_string(),
            ]);
        }
        let output = curl.arg(format!("{}{path}", self.url())).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "curl {method} {path}: {}: {said}",
            output.status
        );
        let text = String::from_utf8(output.stdout)?;
        let (body, status) = text.rsplit_once('\n').context("curl wrote no status")?;
        let body = if body.is_empty() {
            Value::Null
        } else {
            serde_json::from_str(body).with_context(|| format!("{method} {path}: {body}"))?
        };
        Ok((status.parse()?, body))
    }

    /// A single-use enrolment code for a device of that name.
    pub fn enrolment_code(&self, lab: &Lab, name: &str) -> Result<String> {
        let body = json!({ "name": name });
        let (status, answer) = self.call(lab.registry(), "POST", "/v1/codes", Some(&body))?;
        ensure!(
            (200..300).contains(&status),
            "no enrolment code: {status} {answer}"
        );
        let code = answer["code"].as_str();
        Ok(code
            .with_context(|| format!("no code in {answer}"))?
            .to_owned())
    }
}

/// In the registry's namespace, on both families, as the kernel hands IPv4 to an IPv6 listener too.
fn place(config: &mut Config, lab: &Lab, authority: &Authority, port: u16) -> Result<()> {
    config.listen = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    let prefix = lab.registry().prefix();
    config.prefix = prefix.into_iter().map(Into::into).collect();
    config.tls = Some(Keypair {
        certificate_chain: std::fs::read_to_string(&authority.certificate)?,
        private_key: std::fs::read_to_string(&authority.key)?,
    });
    Ok(())
}
