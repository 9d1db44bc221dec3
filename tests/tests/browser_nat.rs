//! The NAT matrix with a browser as the caller: wherever native callers get through by punching, a
//! browser does, directly; 100 MB arrive whole, and the registry carries none of them.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use ringback_tests::{
    agent::Device,
    browser::{Browser, Page},
    case::{Case, REGISTRY_ALLOWANCE, Stage, milliseconds},
    lab::{
        Topology,
        content::Content,
        kind::Kind,
        reach::{Expected, Transport},
    },
    npm::CLIENT,
};
use serde::Deserialize;

const BYTES: u64 = 100_000_000;
/// How long a call of a browser may take on a busy machine: a search takes seconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// The pairs that native callers reach by UDP from router to router. A browser has one socket and
/// no port mapping, so of these it can reach those where one side lets strangers in, or both ports
/// can be told, or the device has the one that can.
fn pairs() -> impl Iterator<Item = (Kind, Kind)> {
    let all = Kind::ALL.into_iter();
    all.flat_map(|caller| Kind::ALL.into_iter().map(move |device| (caller, device)))
        .filter(|(caller, device)| caller.reach(*device) == Expected::Direct(Transport::Udp))
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
                const registry = await client.Registry.open(location.origin);
                const link = await registry.call({options});
                const connectMs = performance.now() - begun;
                const stream = await link.open('web');
                const writer = stream.writable.getWriter();
                await writer.write(new TextEncoder().encode(
                    'GET /bytes/{bytes} HTTP/1.1\\r\\nHost: nas\\r\\nConnection: close\\r\\n\\r\\n'));
                const asked = performance.now();
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

fn run(stage: &Stage, browser: &Browser, case: &Case) -> Result<Fetched> {
    stage.prepare(case)?;
    let device = stage.device()?;
    let page = browser.page()?;
    page.open(&format!("{}/", stage.registry().url()))?;
    page.eval::<()>(&format!("{CLIENT}.then(() => null)"))?;
    let lab = stage.lab();
    let before = lab.registry_traffic()?;
    let start = Instant::now();
    let fetched = fetch(&page, &device, case.bytes).with_context(|| case.to_string())?;
    let carried = lab.registry_traffic()? - before;
    println!(
        "{case}: {} after {:.0} ms, {:.1} MB/s ({:.0} ms in all)",
        fetched.path,
        fetched.connect_ms,
        case.bytes as f64 / 1e3 / fetched.transfer_ms,
        milliseconds(start.elapsed()),
    );
    ensure!(fetched.path == "direct", "{case}: {fetched:?}");
    ensure!(
        (fetched.bytes, fetched.sha256.as_str())
            == (case.bytes, Content::sha256(1, case.bytes).as_str()),
        "{case}: the file is not what was served: {fetched:?}"
    );
    ensure!(
        carried.bytes() < REGISTRY_ALLOWANCE,
        "{case}: the registry carried {carried:?}"
    );
    page.close().map(|()| fetched)
}

/// Every pair, one after the other on one stage.
#[test]
fn every_pair_that_punching_reaches_is_direct() -> Result<()> {
    let stage = Stage::set_with(ringback_tests::npm::serve)?;
    let mut failed = Vec::new();
    let mut count = 0;
    for (caller, device) in pairs() {
        let case = Case::new(caller, device, BYTES);
        // A browser of its own, as its host's network was made anew.
        stage.prepare(&case)?;
        let browser = stage
            .registry()
            .browser(stage.lab().caller().host())
            .start()?;
        browser.permit(&stage.registry().url(), "local-network-access")?;
        count += 1;
        if let Err(error) = run(&stage, &browser, &case) {
            println!("{error:#}");
            failed.push(format!("{case}: {error:#}"));
        }
    }
    ensure!(
        failed.is_empty(),
        "{} of {count}:\n{}",
        failed.len(),
        failed.join("\n")
    );
    Ok(())
}

#[test]
fn on_one_lan_it_is_the_lan_itself() -> Result<()> {
    let stage = Stage::set_with(ringback_tests::npm::serve)?;
    let case = Case {
        topology: Topology::SameRouter,
        ..Case::new(Kind::PortRestricted, Kind::PortRestricted, BYTES)
    };
    stage.prepare(&case)?;
    let browser = stage
        .registry()
        .browser(stage.lab().caller().host())
        .start()?;
    browser.permit(&stage.registry().url(), "local-network-access")?;
    run(&stage, &browser, &case).map(drop)
}
