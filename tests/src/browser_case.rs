//! A case of the NAT matrix with a browser as the caller: what native callers reach by punching or by
//! a search, a browser has to reach, too.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    agent::Device,
    browser::{Browser, Page},
    case::{Case, REGISTRY_ALLOWANCE, Stage},
    lab::{
        content::Content,
        coturn::Coturn,
        counter::Counter,
        kind::Kind,
        reach::{Expected, Transport},
    },
    npm::{self, CLIENT},
    turn::TurnServer,
};

/// How long a call of a browser may take on a busy machine: a search takes seconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// Must a browser get through directly? Where native callers do by UDP from router to router.
pub fn is_direct(caller: Kind, device: Kind) -> bool {
    let has_udp = !matches!(caller, Kind::UdpBlocked | Kind::Only443);
    has_udp && caller.reach(device) == Expected::Direct(Transport::Udp)
}

/// A lab whose registry serves the npm package, with a TURN server.
#[derive(Debug)]
pub struct BrowserStage {
    pub stage: Stage,
    _turn: TurnServer,
}

/// A browser behind the caller's router, with the package loaded.
#[derive(Debug)]
pub struct Caller {
    page: Page,
    _browser: Browser,
}

/// What came of a call, and of a fetch through its link.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all(deserialize = "camelCase"))]
pub struct Fetched {
    /// `direct` or `turn`.
    pub path: String,
    /// From the opening of the registry to the link.
    pub connect_ms: f64,
    pub transfer_ms: f64,
    pub sha256: String,
    pub bytes: u64,
    /// The steps of the call, each with its time.
    pub steps: Value,
}

impl BrowserStage {
    pub fn set() -> Result<Self> {
        let stage = Stage::set_with(|config| {
            let mut config = npm::serve(config)?;
            config.bindings.extend(TurnServer::lab_bindings());
            // A page can not be told by options, as agents are, which family its host has.
            let stun = Coturn::servers().into_iter().chain(Coturn::servers6());
            let stun: Vec<String> = stun.map(|server| server.to_string()).collect();
            config
                .bindings
                .insert("STUN_SERVERS".into(), stun.join(","));
            Ok(config)
        })?;
        let turn = TurnServer::in_lab(stage.lab())?;
        Ok(Self { stage, _turn: turn })
    }

    /// A browser that has never called anybody.
    pub fn caller(&self) -> Result<Caller> {
        let registry = self.stage.registry();
        let browser = registry.browser(self.stage.lab().caller().host()).start()?;
        browser.permit(&registry.url(), "local-network-access")?;
        let page = browser.page()?;
        page.open(&format!("{}/", registry.url()))?;
        page.eval::<()>(&format!("{CLIENT}.then(() => null)"))?;
        Ok(Caller {
            page,
            _browser: browser,
        })
    }

    /// One case from the registration of the device to the last byte, and what the registry's
    /// interface carried in the meantime.
    pub fn run(&self, case: &Case) -> Result<(Fetched, Counter)> {
        self.stage.prepare(case)?;
        let device = self.stage.device()?;
        let caller = self.caller()?;
        let lab = self.stage.lab();
        let before = lab.registry_traffic()?;
        let fetched = caller
            .fetch(&device, case.bytes)
            .with_context(|| case.to_string())?;
        Ok((fetched, lab.registry_traffic()? - before))
    }
}

impl Caller {
    /// Calls, fetches, hangs up; everything by the package's own functions.
    pub fn fetch(&self, device: &Device, bytes: u64) -> Result<Fetched> {
        let options = serde_json::json!({
            "device": device.id, "password": device.password, "service": "web",
        });
        let script = format!(
            "(async () => {{
                const begun = performance.now();
                globalThis.steps = [];
                const registry = await client.Registry.open(location.origin);
                const link = await registry.call({{ ...{options}, onEvent: event => steps.push(event) }});
                const connectMs = performance.now() - begun;
                const stream = await link.open('web');
                const writer = stream.writable.getWriter();
                await writer.write(new TextEncoder().encode(
                    'GET /bytes/{bytes} HTTP/1.1\\r\\nHost: nas\\r\\n\\r\\n'));
                // The server keeps the connection for the next request; there is none.
                await writer.close();
                const asked = performance.now();
                const all = new Uint8Array(await new Response(stream.readable).arrayBuffer());
                const transferMs = performance.now() - asked;
                const text = new TextDecoder('latin1').decode(all.subarray(0, 4096));
                const body = all.subarray(text.indexOf('\\r\\n\\r\\n') + 4);
                const digest = new Uint8Array(await crypto.subtle.digest('SHA-256', body));
                const receipt = await link.receipt();
                link.close();
                return {{
                    path: receipt.path, connectMs, transferMs, bytes: body.length, steps,
                    sha256: [...digest].map(b => b.toString(16).padStart(2, '0')).join(''),
                }};
            }})()"
        );
        self.page.eval_within(PATIENCE, &script).with_context(|| {
            self.page
                .eval::<Value>("steps")
                .unwrap_or_default()
                .to_string()
        })
    }
}

impl Fetched {
    /// Whether it went that way, the file is whole, and the registry had no part in it.
    pub fn check(&self, case: &Case, wanted: &str, carried: Counter) -> Result<()> {
        ensure!(self.path == wanted, "{case}: not {wanted}: {self:?}");
        ensure!(
            (self.bytes, self.sha256.as_str())
                == (case.bytes, Content::sha256(1, case.bytes).as_str()),
            "{case}: the file is not what was served: {self:?}"
        );
        ensure!(
            carried.bytes() < REGISTRY_ALLOWANCE,
            "{case}: the registry carried {carried:?}"
        );
        Ok(())
    }

    /// Megabits per second of the transfer.
    pub fn megabits(&self) -> f64 {
        self.bytes as f64 * 8.0 / self.transfer_ms / 1000.0
    }
}
