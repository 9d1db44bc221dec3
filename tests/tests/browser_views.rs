//! What the page shows, and how it stands on a phone: names, long lists, the state of a link.

use std::time::Duration;

use anyhow::{Context as _, Result};
use ringback_tests::{
    browser::{Browser, PATIENCE, Page, Size},
    loopback::PASSWORD,
    registry::{OWNER_SECRET, Registry, new_key},
    visit::{Stage, Visit},
};
use serde_json::{Value, json};

/// The names in a list of devices, as they are shown.
const SHOWN: &str = "[...document.querySelectorAll('.device .name')].map(it => it.textContent)";

#[test]
fn a_guest_sees_the_name_that_the_device_tells() -> Result<()> {
    let stage = Stage::set()?;
    let browser = Browser::start()?;
    let visit = stage.linked(&browser)?;
    let page = &visit.page;
    page.until("document.querySelector('h1').textContent === 'nas'")?;
    page.until("document.title === 'nas · Ringback'")?;
    page.until("document.querySelector('.pill-name').textContent === 'nas'")?;
    page.click("link", "Contacts")?;
    page.until(&format!("{SHOWN}.join() === 'nas'"))?;
    // It is shown, and leads nowhere: a name is the registry's to give, or the visitor's.
    page.until(
        "new Promise(done => { const open = indexedDB.open('ringback'); open.onsuccess = () => { \
         const all = open.result.transaction('contacts').objectStore('contacts').getAll(); \
         all.onsuccess = () => done(all.result.length === 1 && !all.result[0].name && \
         all.result[0].toldName === 'nas'); }; })",
    )?;
    // The visitor's own name comes before it, and is a way to the device.
    page.click("button", "Name nas")?;
    page.fill("Name", "rb1x")?;
    page.press("Enter")?;
    page.until_text("and do not begin with rb1")?;
    page.fill("Name", "attic")?;
    page.press("Enter")?;
    page.until(&format!("{SHOWN}.join() === 'attic'"))?;
    page.open(&format!("{}/d/attic", stage.registry.origin()))?;
    page.until_role("textbox", "Password of the device")?;
    page.until_text(&stage.device.id)?;
    page.open(&format!("{}/contacts", stage.registry.origin()))?;
    page.click("button", "Name attic")?;
    page.fill("Name", " ")?;
    page.press("Enter")?;
    page.until(&format!("{SHOWN}.join() === 'nas'"))?;
    // It stays when the link is over, and where the page is opened anew.
    page.open(&format!("{}/contacts", stage.registry.origin()))?;
    page.until(&format!("{SHOWN}.join() === 'nas'"))?;
    page.open(&format!(
        "{}/d/{}",
        stage.registry.origin(),
        stage.device.id
    ))?;
    page.until("document.querySelector('h1').textContent === 'nas'")
}

/// Devices that have never been online.
async fn enrol_many(registry: &Registry, names: impl Iterator<Item = String>) {
    for (number, name) in names.enumerate() {
        let code = registry.code(json!({ "name": name })).await;
        let body = registry.enrolment(&new_key(), &code).to_string();
        // No address enrols so many in a minute.
        let from = format!("192.0.2.{}", number % 100);
        let headers = [("cf-connecting-ip", from.as_str())];
        let reply = registry
            .reply("POST", "/v1/enrollments", &headers, body)
            .await;
        assert_eq!(reply.status, 201, "{reply:?}");
    }
}

#[test]
fn the_owner_finds_one_of_three_hundred_devices() -> Result<()> {
    let stage = Stage::set()?;
    let names = (1..300).map(|number| format!("sensor-{number}"));
    stage.runtime.block_on(enrol_many(&stage.registry, names));
    let browser = Browser::start()?;
    let visit = Visit::open(&browser, &format!("{}/sign-in", stage.registry.origin()))?;
    let page = &visit.page;
    page.fill("Owner secret", OWNER_SECRET)?;
    page.press("Enter")?;
    page.until_text("1 of 300 online")?;
    let first = |wanted: &str| {
        let wanted = Value::from(wanted);
        page.until(&format!("{SHOWN}.slice(0, 3).join() === {wanted}"))
            .with_context(|| page.eval::<Value>(SHOWN).unwrap_or_default().to_string())
    };
    // Who is online comes first, and numbers are numbers.
    first("nas,sensor-1,sensor-2")?;

    // By the keyboard alone.
    page.eval::<Value>("void document.querySelector('main').focus()")?;
    for _ in 0..3 {
        if page.eval::<bool>("document.activeElement.id === 'find-device'")? {
            break;
        }
        page.press("Tab")?;
    }
    page.type_text("SENSOR 217")?;
    page.until_text("1 of 300 found")?;
    first("sensor-217")?;
    page.press("Enter")?;
    page.until("document.querySelector('h1').textContent === 'sensor-217'")?;
    page.eval::<Value>("void history.back()")?;
    // What was looked for is there again.
    page.until_text("1 of 300 found")?;
    page.click("searchbox", "Search devices")?;
    page.press("Escape")?;
    page.until(&format!("{SHOWN}.length === 300"))?;
    page.type_text("nobody")?;
    page.until_text("No device has that")?;
    page.click("button", "Show all")?;
    page.until(&format!("{SHOWN}.length === 300"))?;

    let choose = |order: &str| {
        let order = Value::from(order);
        page.eval::<Value>(&format!(
            "void (() => {{ const list = document.querySelector('#order-devices'); \
             list.value = [...list.options].find(it => it.textContent === {order}).value; \
             list.dispatchEvent(new Event('change', {{ bubbles: true }})); }})()"
        ))
    };
    choose("Unseen for longest")?;
    first("sensor-1,sensor-2,sensor-3")?;
    choose("Last seen")?;
    first("nas,sensor-1,sensor-2")?;
    // It is kept.
    choose("Name")?;
    page.reload()?;
    first("nas,sensor-1,sensor-2")?;
    assert_eq!(
        page.eval::<String>(
            "document.querySelector('#order-devices').selectedOptions[0].textContent"
        )?,
        "Name"
    );
    for size in [Size::SmallPhone, Size::Phone] {
        page.set_size(size)?;
        stands_well(page, "devices", size)?;
    }
    page.click("searchbox", "Search devices")?;
    page.type_text("sensor-42")?;
    page.until_text("1 of 300 found")?;
    page.picture("devices-found-phone")?;
    Ok(())
}

#[test]
fn a_folder_of_three_thousand_files_is_there_at_once() -> Result<()> {
    const FILES: usize = 3_000;
    let stage = Stage::set()?;
    let dir = stage.files.path().join("many");
    std::fs::create_dir(&dir)?;
    for number in 0..FILES {
        std::fs::write(dir.join(format!("photo-{number:04}.jpg")), vec![7; number])?;
    }
    let browser = Browser::start()?;
    let visit = stage.linked(&browser)?;
    let page = &visit.page;
    visit.service("docs")?;
    page.until_role("button", "many")?;
    page.call("Performance.enable", &json!({}))?;
    let spent = |what: &str| -> Result<f64> {
        let metrics = page.call("Performance.getMetrics", &json!({}))?;
        let list = metrics["metrics"].as_array().context("no metrics")?;
        let one = list.iter().find(|it| it["name"] == what);
        one.and_then(|it| it["value"].as_f64()).context("no figure")
    };
    let kinds = [
        "TaskDuration",
        "ScriptDuration",
        "RecalcStyleDuration",
        "LayoutDuration",
    ];
    let before = kinds.map(|kind| spent(kind).unwrap_or_default());
    // From the click to the frame with the first rows, and to that with all of them.
    let (first, all): (f64, f64) = page.eval(&format!(
        "new Promise(done => {{ \
            const start = performance.now(); let first; \
            const look = () => {{ \
                const rows = document.querySelectorAll('.entries tbody tr').length; \
                if (rows > 1 && !first) first = performance.now() - start; \
                if (rows < {FILES}) return requestAnimationFrame(look); \
                requestAnimationFrame(() => setTimeout(() => done([first, performance.now() - start]))); \
            }}; \
            [...document.querySelectorAll('.entry')].find(it => it.textContent.includes('many')).click(); \
            look(); \
        }})"
    ))?;
    for (kind, before) in kinds.into_iter().zip(before) {
        println!("{kind} {:.0} ms", (spent(kind)? - before) * 1000.0);
    }
    let spent = (spent(kinds[0])? - before[0]) * 1000.0;
    println!("first rows {first:.0} ms, all {all:.0} ms, the page's own work {spent:.0} ms");
    // The rest is the wire's and the device's.
    anyhow::ensure!(spent < 2_000.0, "{spent} ms of work for {FILES} rows");

    // They are there for whoever looks for them, by whatever means, and can be used.
    page.until("document.querySelector('.entries').textContent.includes('photo-2999.jpg')")?;
    page.until_role("row", "photo-2999.jpg")?;
    page.until("window.find('photo-2998.jpg')")?;
    page.eval::<Value>(
        "void document.querySelector('.entries tbody:last-child tr:last-child').scrollIntoView()",
    )?;
    page.until_role("button", "Download photo-2999.jpg")?;
    page.click("button", "Delete photo-2998.jpg")?;
    page.click("button", "Delete")?;
    page.until(&format!(
        "document.querySelectorAll('.entries tbody tr').length === {}",
        FILES - 1
    ))?;
    // The folder was read again, and stands where it stood.
    assert!(page.eval::<bool>("scrollY > 10000")?);
    page.click("button", "Download photo-2999.jpg")?;
    visit.until_transfer("photo-2999.jpg", "verified", PATIENCE)
}

#[test]
fn the_status_shows_that_the_agent_has_ended() -> Result<()> {
    let mut stage = Stage::set()?;
    let browser = Browser::start()?;
    browser.allow("the server responded with a status of 4");
    let visit = stage.linked(&browser)?;
    let page = &visit.page;
    visit.service("shell")?;
    visit.until_prompt()?;
    page.until("document.querySelector('.linked-side .panel-path').innerText === 'Direct'")?;
    stage.device.process.interrupt(PATIENCE)?;
    // ICE notices after five seconds and more; the agent has said it before.
    page.until_within(
        Duration::from_secs(3),
        "[...document.querySelectorAll('.panel-path, .pill')]\
         .every(it => it.classList.contains('quiet'))",
    )?;
    let status = "document.querySelector('.linked-side .panel-path').innerText";
    assert!(!page.eval::<String>(status)?.contains("Direct"));
    stage.restart_device()?;
    page.until(&format!("{status} === 'Direct'"))
}

/// Nothing is wider than the screen, and no control that the page brings into view is under a bar.
fn stands_well(page: &Page, view: &str, size: Size) -> Result<()> {
    page.settle()?;
    page.picture(&format!("stands-{view}-{size:?}"))?;
    let wide: f64 = page.eval("document.documentElement.scrollWidth - innerWidth")?;
    anyhow::ensure!(wide <= 0.0, "{view}, {size:?}: {wide} px too wide");
    let covered: Vec<String> = page.eval(
        "(async () => { \
            const open = document.querySelector('dialog[open]') ?? document.querySelector('details[open] > .panel'); \
            const found = []; \
            const all = [...(open ?? document).querySelectorAll('button, a, input, select, summary')]; \
            const step = Math.ceil(all.length / 60); \
            for (const it of all.filter((_, at) => at % step === 0)) { \
                if (it.disabled || it.tabIndex < 0 || !it.checkVisibility({ visibilityProperty: true })) continue; \
                if (it.classList.contains('skip')) continue; \
                it.scrollIntoView({ block: 'nearest', inline: 'nearest', behavior: 'instant' }); \
                const box = it.getBoundingClientRect(); \
                const inset = Math.min(4, box.height / 4); \
                for (const y of [box.top + inset, box.bottom - inset]) { \
                    const hit = document.elementFromPoint(box.left + box.width / 2, y); \
                    const own = hit && (it.contains(hit) || hit.contains(it) || hit.closest('label')?.contains(it)); \
                    if (!own) found.push((it.innerText || it.getAttribute('aria-label') || it.id) + ' under ' + (hit?.className ?? 'nothing')); \
                } \
            } \
            scrollTo(0, 0); \
            return found; \
        })()",
    )?;
    anyhow::ensure!(covered.is_empty(), "{view}, {size:?}: {covered:#?}");
    Ok(())
}

/// Whether all of an element is between the bars as the page stands.
fn is_in_sight(page: &Page, selector: &str) -> Result<bool> {
    let selector = Value::from(selector);
    page.eval(&format!(
        "(() => {{ \
            const box = document.querySelector({selector}).getBoundingClientRect(); \
            const top = document.querySelector('.bar').getBoundingClientRect().bottom; \
            const nav = document.querySelector('.nav').getBoundingClientRect(); \
            const end = nav.top > innerHeight / 2 ? nav.top : innerHeight; \
            return box.top >= top && box.bottom <= end; \
        }})()"
    ))
}

#[test]
fn every_view_stands_on_a_phone() -> Result<()> {
    let stage = Stage::set()?;
    std::fs::write(stage.files.path().join("notes.txt"), "Buy ink.\n")?;
    std::fs::create_dir(stage.files.path().join("pictures"))?;
    let origin = stage.registry.origin();
    for size in [Size::SmallPhone, Size::Phone] {
        let browser = Browser::start()?;
        let page = browser.page()?;
        page.set_size(size)?;
        let visit = Visit { page };
        let page = &visit.page;
        let look = |view: &str| stands_well(page, view, size);
        page.open(&origin)?;
        page.until_role("heading", "Ring your device")?;
        assert!(is_in_sight(page, "#device")?, "{size:?}: the field");
        look("welcome")?;
        page.open(&format!("{origin}/sign-in"))?;
        page.until_role("textbox", "Owner secret")?;
        look("sign-in")?;
        page.open(&format!("{origin}/settings"))?;
        page.until_role("heading", "This browser")?;
        look("settings")?;
        page.open(&format!("{origin}/contacts"))?;
        page.until_text("Nobody yet")?;
        look("contacts-none")?;

        page.open(&format!("{origin}/d/{}", stage.device.id))?;
        page.until_role("textbox", "Password of the device")?;
        page.until("document.activeElement?.id === 'password'")?;
        page.settle()?;
        page.picture(&format!("stands-asking-{size:?}"))?;
        assert!(is_in_sight(page, "#password")?, "{size:?}: the password");
        assert!(is_in_sight(page, "#call")?, "{size:?}: the button");
        look("device")?;
        page.fill("Password of the device", "wrong")?;
        page.click("button", "Call")?;
        visit.failure()?;
        look("refused")?;
        visit.call_with(PASSWORD)?;
        page.until("document.querySelector('.linked')")?;
        page.until_role("button", "shell ")?;
        look("link")?;
        page.eval::<Value>("void document.querySelector('.panel-phone summary').click()")?;
        look("panel")?;
        page.click("button", "Receipt")?;
        page.until_text("in use")?;
        look("receipt")?;
        page.press("Escape")?;
        page.eval::<Value>("void document.querySelector('.panel-phone summary').click()")?;
        page.click("button", "shell ")?;
        visit.until_prompt()?;
        look("terminal")?;
        visit.service("docs")?;
        page.until_text("notes.txt")?;
        look("files")?;
        page.click("button", "notes.txt 9 B")?;
        page.until_text("Buy ink.")?;
        look("preview")?;
        page.press("Escape")?;
        page.until("!document.querySelector('dialog')")?;
        page.click("button", "Delete notes.txt")?;
        page.until_text("There is no bin")?;
        look("dialog")?;
        page.press("Escape")?;
        page.until("!document.querySelector('dialog')")?;
        visit.service("web")?;
        page.until("document.querySelector('.lan-frame, iframe')")?;
        look("lan")?;
        page.click("link", "Contacts")?;
        page.until(&format!("{SHOWN}.join() === 'nas'"))?;
        look("contacts")?;

        // Another tab: this one asks before it gives the shell up.
        let page = &browser.page()?;
        page.set_size(size)?;
        let look = |view: &str| stands_well(page, view, size);
        page.open(&format!("{origin}/sign-in"))?;
        page.fill("Owner secret", OWNER_SECRET)?;
        page.press("Enter")?;
        page.until_text("1 of 1 online")?;
        look("devices-one")?;
        page.click("button", "Add a device")?;
        page.until_role("button", "Close")?;
        look("enrol")?;
    }
    Ok(())
}

#[test]
fn the_round_trip_that_is_shown_is_the_paths() -> Result<()> {
    let stage = Stage::set()?;
    let browser = Browser::start()?;
    let visit = Visit::open(&browser, &stage.link())?;
    let page = &visit.page;
    page.until_role("button", "Call")?;
    page.eval::<Value>(
        "void (() => { globalThis.shown = []; setInterval(() => { \
         const text = document.querySelector('.linked-side dd.figures')?.innerText; \
         if (text && text !== '–' && shown.at(-1) !== text) shown.push(text); }, 20); })()",
    )?;
    visit.call()?;
    page.until("shown.length > 0")?;
    let shown: Vec<String> =
        page.eval("new Promise(done => setTimeout(() => done(shown), 2000))")?;
    println!("{shown:?}");
    for text in shown {
        let ms: f64 = match text.as_str() {
            "under 1 ms" => 0.5,
            text => text.trim_end_matches(" ms").parse()?,
        };
        assert!(ms < 10.0, "{text} on the loopback");
    }
    Ok(())
}
