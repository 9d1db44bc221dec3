//! A browser as the caller: from the click to the first byte, how fast data channels are beside the
//! native link of the same run, and what opening the page costs.
//!
//! Round trips are counted as for native calls: by what the time grows when every leg has one of
//! [`ROUND_TRIP`]. Both browser and agent share the cores of one machine with all between them.

use std::{
    collections::BTreeSet,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use ringback_tests::{
    agent::{Device, LOCAL},
    browser::{Browser, Page},
    case::{Stage, fetch, milliseconds},
    lab::{impairment::Impairment, kind::Kind},
    npm,
    visit::device_link,
};
use serde::Serialize;

use super::{
    ROUND_TRIP,
    figure::Figure,
    report::{Aim, Report},
};

/// Bytes of a transfer.
const BYTES: u64 = 100_000_000;
/// What the page may transfer until a terminal is opened, in KiB, compressed.
const PAGE_KIB: f64 = 350.0;
const PATIENCE: Duration = Duration::from_secs(180);
/// Channels that share a transfer, as the page uses for large files.
const CHANNELS: u32 = 4;

/// Each without delay, and with [`ROUND_TRIP`].
#[derive(Debug, Default, Serialize)]
pub(crate) struct Figures {
    /// From the click on "Call" to the services on the screen.
    click_to_services_ms: [Figure; 2],
    click_to_services_round_trips: f64,
    /// From opening the address to the first picture, and to a page that takes input.
    first_paint_ms: [Figure; 2],
    usable_ms: [Figure; 2],
    /// Requests for it, and bytes as they are and compressed.
    page_requests: usize,
    page_bytes: u64,
    page_gzip_bytes: u64,
    throughput: [Throughput; 2],
}

/// In Mb/s.
#[derive(Debug, Default, Serialize)]
struct Throughput {
    browser_down: Figure,
    browser_down_channels: Figure,
    browser_up: Figure,
    native_down: Figure,
    native_up: Figure,
}

pub(super) fn measure(runs: u32) -> Result<Figures> {
    let stage = Stage::set_with(npm::serve_beside_page)?;
    for site in [stage.lab().caller(), stage.lab().device()] {
        site.set_kind(Kind::Open)?;
    }
    let device = stage.device()?;
    let mut figures = Figures::default();
    for run in 1..=runs {
        for (at, delay) in [Duration::ZERO, ROUND_TRIP / 2].into_iter().enumerate() {
            stage.lab().impair(Impairment {
                delay,
                ..Impairment::default()
            })?;
            figures.open(&stage, at)?;
            figures.call(&stage, &device, at)?;
            figures.transfer(&stage, &device, at)?;
        }
        eprintln!("browser, run {run} of {runs}");
    }
    stage.lab().impair(Impairment::default())?;
    let [near, far] = &figures.click_to_services_ms;
    figures.click_to_services_round_trips = (far.median - near.median) / milliseconds(ROUND_TRIP);
    Ok(figures)
}

/// Notes when there is something to type into, and when services are shown.
const WATCH: &str = "globalThis.seen = {};\
    const note = (name, selector) => { if (!(name in seen) && document.querySelector(selector)) \
      requestAnimationFrame(() => { seen[name] ??= performance.now(); }); };\
    new MutationObserver(() => { note('usable', 'input'); note('services', '.tile:not(.ghost)'); })\
      .observe(document, { subtree: true, childList: true, attributes: true });\
    addEventListener('click', event => { if (event.target.closest('#call')) seen.click = performance.now(); }, true);";

impl Figures {
    /// Opens the page in a browser that has never seen it.
    fn open(&mut self, stage: &Stage, at: usize) -> Result<()> {
        let browser = start(stage)?;
        let page = browser.page()?;
        page.on_new_document(WATCH)?;
        page.open(&stage.registry().url())?;
        page.until("seen.usable")?;
        self.usable_ms[at].add(page.eval("seen.usable")?);
        page.until("performance.getEntriesByName('first-contentful-paint').length > 0")?;
        let paint = "performance.getEntriesByName('first-contentful-paint')[0].startTime";
        self.first_paint_ms[at].add(page.eval(paint)?);
        self.weigh(&page)
    }

    /// What was loaded: compressed as the platform does it at its best, which workerd alone does not.
    fn weigh(&mut self, page: &Page) -> Result<()> {
        let paths: BTreeSet<String> = page.eval(
            "[location.pathname, ...performance.getEntriesByType('resource')\
             .map(entry => new URL(entry.name).pathname)]",
        )?;
        let dist = xtask::place::page();
        (self.page_requests, self.page_bytes, self.page_gzip_bytes) = (paths.len(), 0, 0);
        for path in paths.iter().filter(|path| !path.starts_with("/v1/")) {
            let name = if path == "/" {
                "index.html"
            } else {
                &path[1..]
            };
            let file = dist.join(name);
            let length = std::fs::metadata(&file)
                .with_context(|| format!("{path}: no such file of the page"))?
                .len();
            self.page_bytes += length;
            let gzip = std::process::Command::new("gzip")
                .args(["-9", "-c"])
                .arg(&file)
                .output()?;
            ensure!(gzip.status.success(), "gzip {name}");
            self.page_gzip_bytes += gzip.stdout.len() as u64;
        }
        Ok(())
    }

    /// Calls by the page, for the first time.
    fn call(&mut self, stage: &Stage, device: &Device, at: usize) -> Result<()> {
        let browser = start(stage)?;
        let page = browser.page()?;
        page.on_new_document(WATCH)?;
        let link = device_link(&stage.registry().url(), &device.id, &device.password);
        page.open(&link)?;
        page.click("button", "Call")?;
        page.until("seen.services")?;
        self.click_to_services_ms[at].add(page.eval("seen.services - seen.click")?);
        Ok(())
    }

    /// The same bytes by a data channel, by several, and by the native link.
    fn transfer(&mut self, stage: &Stage, device: &Device, at: usize) -> Result<()> {
        let browser = start(stage)?;
        let page = browser.page()?;
        page.open(&stage.registry().url())?;
        page.eval::<()>(&format!("{}.then(() => null)", npm::CLIENT))?;
        let options = serde_json::json!({ "device": device.id, "password": device.password });
        page.eval::<()>(&format!(
            "client.Registry.open(location.origin).then(r => r.call({options}))\
             .then(link => {{ globalThis.link = link; return null; }})"
        ))?;
        page.eval::<()>(TRANSFER)?;
        let rate = |bytes: u64, ms: f64| bytes as f64 * 8.0 / 1e3 / ms;
        let down = |channels: u32| -> Result<f64> {
            let each = BYTES / u64::from(channels);
            let ms = page.eval_within(PATIENCE, &format!("down({each}, {channels})"))?;
            Ok(rate(each * u64::from(channels), ms))
        };
        let throughput = &mut self.throughput[at];
        throughput.browser_down.add(down(1)?);
        throughput.browser_down_channels.add(down(CHANNELS)?);
        let ms = page.eval_within(PATIENCE, &format!("up({BYTES})"))?;
        throughput.browser_up.add(rate(BYTES, ms));
        drop(browser);

        let link = stage.call(device, "web")?.connected()?;
        let host = stage.lab().caller().host();
        let start = Instant::now();
        fetch(host, BYTES)?;
        let ms = milliseconds(start.elapsed());
        self.throughput[at].native_down.add(rate(BYTES, ms));
        let zeros = stage.lab().dir().join("zeros");
        std::fs::File::create(&zeros)?.set_len(BYTES)?;
        let mut curl = host.command("curl");
        curl.args(["-sS", "--fail", "-H", "Expect:", "-T"])
            .arg(&zeros)
            .arg(format!("http://{LOCAL}/zeros"))
            .stdout(Stdio::null());
        let start = Instant::now();
        ensure!(curl.status()?.success(), "curl -T");
        let ms = milliseconds(start.elapsed());
        self.throughput[at].native_up.add(rate(BYTES, ms));
        drop(link);
        Ok(())
    }

    pub(super) fn report(&self, report: &mut Report) {
        let part = "browser";
        let name = "from the click to the services";
        report.add(part, name, self.click_to_services_ms[0].median, "ms");
        report.add(
            part,
            "  at 40 ms",
            self.click_to_services_ms[1].median,
            "ms",
        );
        let trips = self.click_to_services_round_trips;
        report.add(part, "  which is", trips, "round trips");
        let kib = self.page_gzip_bytes as f64 / 1024.0;
        report.aim(
            part,
            "opening the page, compressed",
            kib,
            "KiB",
            Aim::AtMost(PAGE_KIB),
        );
        report.add(part, "  requests", self.page_requests as f64, "");
        for (name, figures) in [
            ("  first paint", &self.first_paint_ms),
            ("  takes input", &self.usable_ms),
        ] {
            report.add(part, name, figures[0].median, "ms");
            report.add(part, "    at 40 ms", figures[1].median, "ms");
        }
        for (throughput, at) in self.throughput.iter().zip(["", ", 40 ms"]) {
            for (name, figure) in [
                ("down, 1 channel", &throughput.browser_down),
                ("down, 4 channels", &throughput.browser_down_channels),
                ("up, 1 channel", &throughput.browser_up),
                ("native link, down", &throughput.native_down),
                ("native link, up", &throughput.native_up),
            ] {
                report.add(part, format!("{name}{at}"), figure.median, "Mb/s");
            }
        }
    }
}

fn start(stage: &Stage) -> Result<Browser> {
    let host = stage.lab().caller().host();
    let browser = stage.registry().browser(host).start()?;
    browser.permit(&stage.registry().url(), "local-network-access")?;
    Ok(browser)
}

/// `down` and `up` give the milliseconds from asking to the last byte.
const TRANSFER: &str = r#"(() => {
    const request = async head => {
        const stream = link.open('web');
        const writer = stream.writable.getWriter();
        await writer.write(new TextEncoder().encode(head + 'Host: nas\r\n\r\n'));
        return [stream, writer];
    };
    const count = async stream => {
        let bytes = 0;
        for await (const chunk of stream.readable) bytes += chunk.length;
        return bytes;
    };
    globalThis.down = async (bytes, channels) => {
        const begun = performance.now();
        const all = await Promise.all(Array.from({ length: channels }, async () => {
            const [stream, writer] = await request(`GET /bytes/${bytes} HTTP/1.1\r\n`);
            await writer.close();
            return count(stream);
        }));
        if (all.some(got => got < bytes)) throw new Error(`only ${all} of ${bytes}`);
        return performance.now() - begun;
    };
    globalThis.up = async bytes => {
        const begun = performance.now();
        const [stream, writer] = await request(`PUT /x HTTP/1.1\r\nContent-Length: ${bytes}\r\n`);
        const chunk = new Uint8Array(65536);
        for (let left = bytes; left > 0; left -= chunk.length)
            await writer.write(left < chunk.length ? chunk.subarray(0, left) : chunk);
        await writer.close();
        let answer = '';
        try {
            for await (const chunk of stream.readable) answer += new TextDecoder().decode(chunk);
        } catch (error) {
            throw new Error(`${error.code}: ${error.message}`);
        }
        if (!answer.includes(`"bytes":${bytes}`)) throw new Error(answer);
        return performance.now() - begun;
    };
    return null;
})()"#;
