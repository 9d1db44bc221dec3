//! What a person does with the page, in a browser that has never seen it: real Chromium, real
//! workerd, a real agent.

use anyhow::{Context as _, Result};
use ringback_tests::{
    browser::{Browser, PATIENCE, Page, Scheme, Size},
    registry::OWNER_SECRET,
    visit::{Stage, Visit},
};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use xtask::place;

const NOTES: &str = "Buy ink.\nCall the attic.\n";

/// Something of every kind in the device's files.
fn fill(stage: &Stage) -> Result<()> {
    let dir = stage.files.path();
    std::fs::write(dir.join("notes.txt"), NOTES)?;
    std::fs::create_dir(dir.join("pictures"))?;
    std::fs::write(dir.join("pictures/sunset.png"), png())?;
    std::fs::write(dir.join("backup.tar"), vec![7; 3 << 20])?;
    Ok(())
}

/// 2 × 2 pixels.
fn png() -> Vec<u8> {
    use base64::{Engine as _, prelude::BASE64_STANDARD};
    let text = "iVBORw0KGgoAAAANSUhEUgAAAAIAAAACCAIAAAD91JpzAAAAFklEQVR42mP8z8BQz0AEYBxVSF+FABJADveWkH6oAAAAAElFTkSuQmCC";
    BASE64_STANDARD.decode(text).expect("base64")
}

#[test]
fn a_visitor_with_a_link_uses_terminal_files_and_lan_page() -> Result<()> {
    let stage = Stage::set()?;
    fill(&stage)?;
    let browser = Browser::start()?;
    let visit = Visit::open(&browser, &stage.link())?;
    let page = &visit.page;
    page.until_role("button", "Call")?;
    // The password is used and gone from the address bar.
    assert!(!page.eval::<String>("location.href")?.contains('#'));
    page.pictures("device")?;
    visit.call()?;
    page.until_text("Direct")?;
    page.until_role("button", "shell ")?;
    page.pictures("link")?;
    terminal(&visit)?;
    files(&stage, &browser, &visit)?;
    lan_page(&stage, &browser, &visit)?;
    receipt(&visit)?;
    page.click("button", "Hang up")?;
    page.until("!document.querySelector('.linked')")?;
    Ok(())
}

const TERMINAL: &str = "[...document.querySelectorAll('.terminal')].find(t => t.terminal)";

fn terminal(visit: &Visit) -> Result<()> {
    let page = &visit.page;
    visit.service("shell")?;
    visit.until_prompt()?;
    visit.type_line("echo $((6*7)) \"$TERM\"")?;
    visit.until_terminal("42 xterm-256color")?;
    // The shell knows the size of the window, also when that changes.
    page.set_size(Size::Phone)?;
    page.until(&format!("{TERMINAL}.terminal.cols < 60"))?;
    let columns: u32 = page.eval(&format!("{TERMINAL}.terminal.cols"))?;
    visit.type_line("clear; stty size; printf '\\033[32mgreen\\033[0m\\n'")?;
    visit.until_terminal(&format!(" {columns}\ngreen"))?;
    page.pictures("terminal")?;
    page.set_size(Size::Desktop)
}

fn files(stage: &Stage, browser: &Browser, visit: &Visit) -> Result<()> {
    let page = &visit.page;
    visit.service("docs")?;
    page.click("button", "notes.txt")?;
    page.until_text("Call the attic.")?;
    page.pictures("preview-text")?;
    page.press("Escape")?;
    page.click("button", "pictures")?;
    page.click("button", "sunset.png")?;
    page.until("document.querySelector('img.preview-picture')?.naturalWidth === 2")?;
    page.press("Escape")?;
    page.eval::<Value>("void document.querySelector('.crumb').click()")?;

    page.click("button", "Download backup.tar")?;
    visit.until_transfer("backup.tar", "verified", PATIENCE)?;
    let saved = browser.download(PATIENCE)?;
    assert_eq!(saved.name, "backup.tar");
    assert_eq!(hash(&std::fs::read(&saved.path)?), hash(&vec![7; 3 << 20]));

    let local = tempfile::TempDir::new()?;
    let photo = local.path().join("photo.raw");
    let content: Vec<u8> = (0..5_000_000u32)
        .map(|n| (n.wrapping_mul(n) >> 7) as u8)
        .collect();
    std::fs::write(&photo, &content)?;
    visit.upload(&photo)?;
    visit.until_transfer("photo.raw", "verified on the device", PATIENCE)?;
    let there = std::fs::read(stage.files.path().join("photo.raw"))?;
    assert_eq!(hash(&there), hash(&content));
    page.until_text("photo.raw")?;
    page.pictures("files")?;
    Ok(())
}

fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn lan_page(stage: &Stage, browser: &Browser, visit: &Visit) -> Result<()> {
    visit.service("web")?;
    let host = stage.lan_origin.replace("http://*.", "");
    // The boot page; the site is a frame in it, of the same origin.
    let frame = visit.page.frame(|url| url.contains(&host))?;
    let inner = "document.querySelector('iframe')?.contentDocument";
    frame.until(&format!(
        "{inner}?.querySelector('#said')?.textContent === 'Ink: 73 %'"
    ))?;
    frame.until(&format!("{inner}.querySelector('img').naturalWidth > 0"))?;
    visit.page.pictures("lan-page")?;
    // A link, a redirect, a form: all answered by the device's LAN.
    let click = |of: &str, what: &str| -> Result<()> {
        let title = Value::from(of);
        frame.until(&format!(
            "{inner}?.readyState === 'complete' && {inner}.title === {title} && \
             {inner}.querySelector({})",
            Value::from(what)
        ))?;
        let what = Value::from(what);
        frame.eval::<Value>(&format!("void {inner}.querySelector({what}).click()"))?;
        Ok(())
    };
    click("Printer", "a[href='/old']")?;
    click("Queue", "a")?;
    click("Printer", "form button")?;
    frame.until(&format!("{inner}?.body?.textContent === 'page=7'"))?;
    let asked = stage.site.asked();
    let post = asked.iter().find(|asked| asked.method == "POST");
    let post = post.context("no form was sent")?;
    assert_eq!(post.header("cookie"), Some("seen=yes"));
    let address = stage.site.address().to_string();
    assert!(
        asked
            .iter()
            .all(|asked| asked.header("host") == Some(&address))
    );
    assert!(browser.incidents().is_empty(), "{:?}", browser.incidents());
    Ok(())
}

fn receipt(visit: &Visit) -> Result<()> {
    let page = &visit.page;
    page.click("button", "Receipt")?;
    page.until_text("The data flows directly between this browser and the device.")?;
    page.until_text("in use")?;
    page.pictures("receipt")?;
    page.press("Escape")
}

#[test]
fn the_owner_signs_in_enrols_renames_and_sees_presence() -> Result<()> {
    let mut stage = Stage::set()?;
    let browser = Browser::start()?;
    let origin = stage.registry.origin();
    let visit = Visit::open(&browser, &origin)?;
    let page = &visit.page;
    page.until_role("heading", "Ring your device")?;
    page.pictures("welcome")?;
    page.click("link", "Sign in as its owner")?;
    browser.allow("the server responded with a status of 401");
    page.fill("Owner secret", "a guess")?;
    page.press("Enter")?;
    assert!(
        visit
            .failure()?
            .contains("This is not the registry's owner secret.")
    );
    page.fill("Owner secret", OWNER_SECRET)?;
    page.press("Enter")?;
    page.until_text("nas")?;
    page.until_text("1 of 1 online")?;
    page.pictures("devices")?;

    stage.device.process.kill9()?;
    page.until_text("0 of 1 online")?;
    stage.restart_device()?;
    page.until_text("1 of 1 online")?;

    let path = format!("/v1/devices/{}", stage.device.id);
    let renamed = stage.runtime.block_on(stage.registry.owner(
        "PATCH",
        &path,
        json!({ "name": "attic" }),
    ));
    assert_eq!(renamed.status, 200);
    page.until_text("attic")
}

/// A screen, and whether axe-core finds anything on it that keeps people out.
fn is_accessible(page: &Page, name: &str) -> Result<()> {
    let axe = place::npm_tools()?.join("node_modules/axe-core/axe.min.js");
    let axe = std::fs::read_to_string(&axe)
        .with_context(|| format!("{}: run `cargo xtask setup`", axe.display()))?;
    for size in [Size::Phone, Size::Desktop] {
        page.set_size(size)?;
        for scheme in [Scheme::Light, Scheme::Dark] {
            page.set_scheme(scheme)?;
            page.settle()?;
            page.eval::<Value>(&format!(
                "void (() => {{ if (!globalThis.axe) {{ {axe} }} }})()"
            ))?;
            let found: Vec<Value> = page.eval(
                "axe.run(document, { iframes: false, resultTypes: ['violations'] }).then(result => \
                 result.violations.filter(v => ['serious', 'critical'].includes(v.impact))\
                 .map(v => ({ id: v.id, help: v.help, nodes: v.nodes.map(n => n.html + ' ' + n.failureSummary) })))",
            )?;
            assert!(found.is_empty(), "{name}, {size:?}, {scheme:?}: {found:#?}");
        }
    }
    page.set_size(Size::Desktop)
}

#[test]
fn axe_finds_nothing_serious_on_any_screen() -> Result<()> {
    let stage = Stage::set()?;
    fill(&stage)?;
    let browser = Browser::start()?;
    let origin = stage.registry.origin();
    let visit = Visit::open(&browser, &origin)?;
    let page = &visit.page;
    page.until_role("heading", "Ring your device")?;
    is_accessible(page, "welcome")?;
    page.click("link", "Sign in as its owner")?;
    page.until_role("textbox", "Owner secret")?;
    is_accessible(page, "sign in")?;
    page.fill("Owner secret", OWNER_SECRET)?;
    page.press("Enter")?;
    page.until_text("nas")?;
    is_accessible(page, "devices")?;

    page.open(&stage.link())?;
    page.until_role("button", "Call")?;
    is_accessible(page, "device")?;
    page.fill("Password of the device", "wrong")?;
    page.click("button", "Call")?;
    visit.failure()?;
    is_accessible(page, "refused")?;
    visit.call_with(ringback_tests::loopback::PASSWORD)?;
    visit.until_linked()?;
    page.until_role("button", "shell ")?;
    is_accessible(page, "link")?;
    visit.service("shell")?;
    visit.until_prompt()?;
    is_accessible(page, "terminal")?;
    visit.service("docs")?;
    page.until_text("notes.txt")?;
    is_accessible(page, "files")?;
    page.click("button", "notes.txt")?;
    page.until_text("Buy ink.")?;
    is_accessible(page, "preview")
}

#[test]
fn everything_is_reached_by_the_keyboard() -> Result<()> {
    let stage = Stage::set()?;
    let browser = Browser::start()?;
    let visit = Visit::open(&browser, &stage.link())?;
    let page = &visit.page;
    page.until_role("button", "Call")?;
    page.until("document.activeElement?.id === 'call'")?;
    page.press("Enter")?;
    visit.until_linked()?;
    page.until_role("button", "shell ")?;
    let mut reached = Vec::new();
    for _ in 0..40 {
        page.press("Tab")?;
        let name: String = page.eval("document.activeElement?.innerText ?? ''")?;
        if name.starts_with("shell") {
            page.press("Enter")?;
            return visit.until_prompt();
        }
        reached.push(name);
    }
    anyhow::bail!("the tile is not reached by Tab: {reached:?}")
}
