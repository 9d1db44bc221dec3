//! The NAT matrix with a browser as the caller: where native callers get through by punching or by a
//! search, a browser does, directly; 100 MB arrive whole, and the registry carries none of them.
//! Where nothing gets through it is carried by TURN.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use ringback_tests::{
    agent::Device,
    browser::Page,
    case::{Case, REGISTRY_ALLOWANCE, Stage, milliseconds},
    lab::{
        Topology,
        content::Content,
        coturn::Coturn,
        kind::Kind,
        reach::{Expected, Transport},
    },
    npm::{self, CLIENT},
    turn::TurnServer,
};
use serde::Deserialize;

const BYTES: u64 = 100_000_000;
/// How long a call of a browser may take on a busy machine: a search takes seconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// Must a browser get through directly? Where native callers do by UDP from router to router.
fn is_direct(caller: Kind, device: Kind) -> bool {
    let has_udp = !matches!(caller, Kind::UdpBlocked | Kind::Only443);
    has_udp && caller.reach(device) == Expected::Direct(Transport::Udp)
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Fetched {
    path: String,
    connect_ms: f64,
    transfer_ms: f64,
    sha256: String,
    bytes: u64,
}

/// Calls, fetches, hangs up; everything by the package's own functions.
fn fetch(page: &Page, device: &Device, bytes: u64) -> Result<Fetched> {
    let options = serde_json::json!({
        "device": device.id, "password": device.password, "service": "web",
    });
    page.eval_within(
        PATIENCE,
        &format!(
            "(async () => {{
                const begun = performance.now();
                globalThis.steps = [];
                const registry = await client.Registry.open(location.origin);
                const link = await registry.call({{ ...{options}, onEvent: event => steps.push(event) }});
                const connectMs = performance.now() - begun;
                steps.push('linked');
                const stream = await link.open('web');
                const writer = stream.writable.getWriter();
                await writer.write(new TextEncoder().encode(
                    'GET /bytes/{bytes} HTTP/1.1\\r\\nHost: nas\\r\\n\\r\\n'));
                // The server keeps the connection for the next request; there is none.
                await writer.close();
                const asked = performance.now();
                steps.push('asked');
                const all = new Uint8Array(await new Response(stream.readable).arrayBuffer());
                const transferMs = performance.now() - asked;
                const text = new TextDecoder('latin1').decode(all.subarray(0, 4096));
                const body = all.subarray(text.indexOf('\\r\\n\\r\\n') + 4);
                const digest = new Uint8Array(await crypto.subtle.digest('SHA-256', body));
                const receipt = await link.receipt();
                link.close();
                return {{
                    path: receipt.path, connectMs, transferMs, bytes: body.length,
                    sha256: [...digest].map(b => b.toString(16).padStart(2, '0')).join(''),
                }};
            }})()"
        ),
    )
}

fn run(stage: &Stage, case: &Case, wanted: &str) -> Result<()> {
    stage.prepare(case)?;
    let device = stage.device()?;
    // A browser of its own, as its host's network was made anew.
    let host = stage.lab().caller().host();
    let browser = stage.registry().browser(host).start()?;
    browser.permit(&stage.registry().url(), "local-network-access")?;
    let page = browser.page()?;
    page.open(&format!("{}/", stage.registry().url()))?;
    page.eval::<()>(&format!("{CLIENT}.then(() => null)"))?;
    let lab = stage.lab();
    let before = lab.registry_traffic()?;
    let start = Instant::now();
    let fetched = fetch(&page, &device, case.bytes).with_context(|| {
        let steps = page.eval::<serde_json::Value>("steps").unwrap_or_default();
        format!("{case}: {steps}")
    })?;
    let carried = lab.registry_traffic()? - before;
    println!(
        "{case}: {} after {:.0} ms, {:.1} MB/s ({:.0} ms in all)",
        fetched.path,
        fetched.connect_ms,
        case.bytes as f64 / 1e3 / fetched.transfer_ms,
        milliseconds(start.elapsed()),
    );
    ensure!(fetched.path == wanted, "{case}: not {wanted}: {fetched:?}");
    ensure!(
        (fetched.bytes, fetched.sha256.as_str())
            == (case.bytes, Content::sha256(1, case.bytes).as_str()),
        "{case}: the file is not what was served: {fetched:?}"
    );
    ensure!(
        carried.bytes() < REGISTRY_ALLOWANCE,
        "{case}: the registry carried {carried:?}"
    );
    Ok(())
}

fn stage() -> Result<(Stage, TurnServer)> {
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
    Ok((stage, turn))
}

/// All devices' kinds for one kind of the browser's router, one after the other on one stage.
fn row(caller: Kind) -> Result<()> {
    let (stage, _turn) = stage()?;
    let mut failed = Vec::new();
    for device in Kind::ALL {
        if !is_direct(caller, device) {
            continue;
        }
        let case = Case::new(caller, device, BYTES);
        let mut done = run(&stage, &case, "direct");
        if done.is_err() && (caller == Kind::Symmetric || device == Kind::Symmetric) {
            // A search goes by chance, and finds nothing once in a hundred times.
            println!("{case}: once more");
            done = run(&stage, &case, "direct");
        }
        if let Err(error) = done {
            println!("{error:#}");
            failed.push(format!("{error:#}"));
        }
    }
    ensure!(failed.is_empty(), "{}", failed.join("\n"));
    Ok(())
}

macro_rules! rows {
    ($($name:ident: $caller:ident;)*) => {$(
        #[test]
        fn $name() -> Result<()> {
            row(Kind::$caller)
        }
    )*};
}

rows! {
    open_reaches_every_device: Open;
    full_cone_reaches_every_device: FullCone;
    port_restricted_reaches_every_device: PortRestricted;
    address_only_reaches_every_device: AddressOnly;
    symmetric_reaches_every_device: Symmetric;
    carrier_nat_reaches_every_device: CarrierNat;
    ipv6_only_reaches_every_device: Ipv6Only;
}

#[test]
fn on_one_lan_it_is_the_lan_itself() -> Result<()> {
    let (stage, _turn) = stage()?;
    let case = Case {
        topology: Topology::SameRouter,
        ..Case::new(Kind::PortRestricted, Kind::PortRestricted, BYTES)
    };
    run(&stage, &case, "direct")
}

#[test]
fn between_two_symmetric_routers_it_is_carried_by_turn() -> Result<()> {
    let (stage, _turn) = stage()?;
    // What is carried by a server is not what is to be shown; a tenth will do.
    let case = Case::new(Kind::Symmetric, Kind::Symmetric, BYTES / 10);
    run(&stage, &case, "turn")
}
