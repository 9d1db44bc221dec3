//! A registry, a device that exposes what a test wants, and callers of it: commands, and a browser
//! whose streams a test speaks frame by frame.

use anyhow::{Context as _, Result, bail};
use ringback_protocol::channel::Channel;
use ringback_protocol::rtc::CHANNEL_LABEL;
use ringback_protocol::stream::{Mode, Open, Opening};
use serde_json::json;
use str0m::channel::{ChannelConfig, ChannelId};
use tempfile::TempDir;

use crate::loopback::{Device, Greeter, PASSWORD, Profile};
use crate::registry::{Registry, new_key};
use crate::rtc_caller::{Asking, Browser, accepted, take};

#[derive(Debug)]
pub struct Place {
    runtime: tokio::runtime::Runtime,
    pub registry: Registry,
    pub device: Device,
    _home: TempDir,
}

impl Place {
    /// A device `nas` that exposes these services, as `expose` takes them, and `hello`.
    pub fn new(exposed: &[&[&str]]) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let registry = runtime.block_on(async { quiet_registry() });
        let code = runtime.block_on(registry.code(json!({ "name": "nas" })));
        let profile = Profile::new();
        let greeter = Greeter::start("hello").address.to_string();
        profile.ok(["expose", "hello", &greeter]);
        // What a shell starts with is the test's, not what this host's user has.
        let home = TempDir::new()?;
        let origin = registry.origin();
        let mut up = profile.command(["up", "--json", "--registry", &origin, "--enroll", &code]);
        up.env("HOME", home.path());
        let device = Device::up(profile, &origin, up);
        for arguments in exposed {
            device
                .profile
                .ok(["expose"].iter().chain(*arguments).copied());
        }
        Ok(Self {
            runtime,
            registry,
            device,
            _home: home,
        })
    }

    /// One more device at the same registry.
    pub fn another(&self, name: &str) -> Device {
        let code = self
            .runtime
            .block_on(self.registry.code(json!({ "name": name })));
        Device::start(&self.registry.origin(), &code, "hello from afar")
    }

    /// A command of a caller, with registry and password.
    pub fn command(&self, caller: &Profile, arguments: &[&str]) -> std::process::Command {
        let mut command = caller.command(arguments.iter().copied());
        command
            .args(["--registry", &self.registry.origin()])
            .env("RINGBACK_PASSWORD", PASSWORD)
            .env("TERM", "xterm");
        command
    }

    /// A browser with a link.
    pub fn browser(&self) -> Result<Browser> {
        let mut browser = Browser::on_loopback()?;
        let key = new_key();
        let asking = Asking {
            key: &key,
            device: self.device.id.parse()?,
            password: Some(PASSWORD),
            service: "hello",
            remember: false,
        };
        let mut call = asking.seal(browser.offer()?)?;
        let envelope = call.envelope().to_vec();
        let outcome = self.runtime.block_on(async {
            let mut ring = self.registry.ring(&asking.device, envelope).await;
            while let Some(frame) = ring.next().await {
                if let Some(outcome) = take(&mut call, frame) {
                    return Ok(outcome);
                }
            }
            bail!("no outcome")
        })?;
        let reply = accepted(outcome)?;
        browser.answered(&reply.webrtc.context("a description")?)?;
        browser.until("a connection", |browser| browser.connected)?;
        Ok(browser)
    }
}

/// Everything stays on this host.
fn quiet_registry() -> Registry {
    Registry::with(|config| {
        let bindings = &mut config.bindings;
        bindings.insert("STUN_SERVERS".to_owned(), String::new());
    })
}

/// Opens a stream in a mode.
pub fn open(browser: &mut Browser, service: &str, mode: Mode) -> Result<ChannelId> {
    let open = Open {
        mode,
        ..Open::new(service)
    };
    let config = ChannelConfig {
        label: CHANNEL_LABEL.to_owned(),
        ..ChannelConfig::default()
    };
    let id = browser.open_with(Channel::caller(&open), config);
    match browser.opened(id)? {
        Opening::Opened => Ok(id),
        Opening::Refused(refused) => bail!("{}", refused.code),
    }
}

/// Says all this and the end on a stream.
pub fn say(browser: &mut Browser, id: ChannelId, bytes: &[u8]) -> Result<()> {
    let mut rest = bytes;
    browser.until("all to be said", |browser| {
        let taken = browser.stream(id).write(rest);
        rest = &rest[taken..];
        rest.is_empty() || browser.stream(id).was_reset().is_some()
    })?;
    browser.stream(id).finish();
    Ok(())
}

/// Cuts a frame off the front of what was read.
pub fn split_frame(bytes: &[u8]) -> Result<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_at_checked(2).context("no frame")?;
    let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
    rest.split_at_checked(length).context("half a frame")
}
