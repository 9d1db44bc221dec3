//! Every refusal has its own sentence on the page, and no data flows.

use anyhow::{Context as _, Result};
use ringback_protocol::frame::{Answered, Frame};
use ringback_tests::{
    browser::Browser,
    liar::Liar,
    loopback::PASSWORD,
    visit::{Plan, Stage, Visit, device_link},
};
use serde_json::{Value, json};

/// Nothing has come through to the device's LAN or files, and no link is shown.
fn nothing_flowed(stage: &Stage, visit: &Visit) -> Result<()> {
    assert!(stage.site.asked().is_empty());
    assert!(!visit.page.has("button", "Hang up"));
    assert_eq!(stage.device.callers(), [] as [String; 0]);
    Ok(())
}

/// What the page's log shows of answers that were refused over HTTP.
fn allow_refusals(browser: &Browser) {
    browser.allow("the server responded with a status of 4");
}

#[test]
fn a_wrong_password_has_its_sentence() -> Result<()> {
    let stage = Stage::set()?;
    let browser = Browser::start()?;
    let link = device_link(&stage.registry.origin(), &stage.device.id, "not-it");
    let visit = Visit::open(&browser, &link)?;
    visit.page.click("button", "Call")?;
    let told = visit.failure()?;
    assert!(told.contains("The device refused this password."), "{told}");
    visit.page.pictures("refused-password")?;
    nothing_flowed(&stage, &visit)?;
    // The right one is taken on the same screen.
    visit.call_with(PASSWORD)?;
    visit.until_linked()
}

#[test]
fn an_offline_device_has_its_sentence() -> Result<()> {
    let mut stage = Stage::set()?;
    let browser = Browser::start()?;
    allow_refusals(&browser);
    let visit = Visit::open(&browser, &stage.link())?;
    visit.page.until_role("button", "Call")?;
    stage.device.process.kill9()?;
    visit.page.click("button", "Call")?;
    let told = visit.failure()?;
    assert!(
        told.contains("The device is offline. It was last seen"),
        "{told}"
    );
    visit.page.pictures("refused-offline")?;
    assert!(!visit.page.has("button", "Hang up"));
    Ok(())
}

#[test]
fn an_unknown_device_has_its_sentence() -> Result<()> {
    let stage = Stage::set()?;
    let browser = Browser::start()?;
    allow_refusals(&browser);
    let nobody = ringback_tests::registry::new_key().id().to_string();
    // Its password is asked for neither with a link nor by the field.
    let link = device_link(&stage.registry.origin(), &nobody, "x");
    let visit = Visit::open(&browser, &link)?;
    let page = &visit.page;
    let told = visit.failure()?;
    assert!(told.contains("This registry has no such device."), "{told}");
    assert!(!page.has("textbox", "Password of the device"));
    assert!(!page.has("button", "Call"));
    page.click("link", "Another device")?;
    for (given, wanted) in [
        (nobody.as_str(), "This registry has no such device."),
        ("attic", "No device of this registry has that name."),
    ] {
        page.fill("Device link, ID or name", given)?;
        page.click("button", "Continue")?;
        page.until_text(wanted)?;
        assert!(!page.has("textbox", "Password of the device"));
    }
    // What it has is found, by ID and by name, and the name's ID is shown before the password.
    page.fill("Device link, ID or name", "nas")?;
    page.press("Enter")?;
    page.until_role("textbox", "Password of the device")?;
    page.until_text(&stage.device.id)?;
    nothing_flowed(&stage, &visit)
}

#[test]
fn a_mistyped_id_is_told_at_the_field_and_nothing_is_asked() -> Result<()> {
    let stage = Stage::set()?;
    let browser = Browser::start()?;
    let origin = stage.registry.origin();
    let visit = Visit::open(&browser, &origin)?;
    let page = &visit.page;
    let id = &stage.device.id;
    let other = if &id[20..21] == "q" { "p" } else { "q" };
    let mistyped = format!("{}{other}{}", &id[..20], &id[21..]);
    for (given, wanted) in [
        (mistyped.clone(), "a character of it is another one"),
        (id[..60].to_owned(), "it has 60 of 61 characters"),
        (format!("{}o{}", &id[..20], &id[21..]), "“o” at place 21"),
    ] {
        page.fill("Device link, ID or name", &given)?;
        page.click("button", "Continue")?;
        page.until_text(wanted)?;
        page.until("document.activeElement?.id === 'device'")?;
        assert_eq!(page.eval::<String>("location.pathname")?, "/");
    }
    // An address with such an ID says the same.
    page.open(&format!("{origin}/d/{mistyped}"))?;
    page.until_text("a character of it is another one")?;
    assert!(!page.has("textbox", "Password of the device"));
    assert_eq!(stage.device.callers(), [] as [String; 0]);
    Ok(())
}

#[test]
fn a_remembered_browser_calls_without_password_until_it_is_revoked() -> Result<()> {
    let stage = Stage::set()?;
    let mut browser = Browser::start()?;
    let visit = Visit::open(&browser, &stage.link())?;
    visit.page.until_role("button", "Call")?;
    visit.page.click("checkbox", "Remember this browser")?;
    visit.call()?;
    let callers: Value = serde_json::from_str(&stage.device.profile.ok(["callers", "--json"]))?;
    let text = callers.to_string();
    let at = text.find("rb1").context("the device remembers nobody")?;
    let caller = &text[at..at + 61];

    // The key outlives the browser, and needs no password any more.
    browser.restart()?;
    let address = format!("{}/d/{}", stage.registry.origin(), stage.device.id);
    let visit = Visit::open(&browser, &address)?;
    visit.page.until_text("no password is needed")?;
    visit.call()?;

    stage.device.profile.ok(["callers", "revoke", caller]);
    let told = visit.failure()?;
    // The link says so where something is open on it; without, the call that is made anew does.
    assert!(
        told.contains("The device has revoked this browser.")
            || told.contains("The device no longer remembers this browser."),
        "{told}"
    );
    visit.page.pictures("refused-revoked")?;
    // The page has learned it, too: it asks for the password again, which still opens.
    visit.page.open(&address)?;
    visit.page.until_role("textbox", "Password of the device")?;
    visit.call_with(PASSWORD)?;
    visit.until_linked()?;
    Ok(())
}

/// The registry gives another answer in the place of the device's.
#[test]
fn a_registry_that_swaps_the_answer_has_its_sentence() -> Result<()> {
    let stage = Stage::set()?;
    let liar = stage.runtime.block_on(Liar::start(&stage.registry));
    liar.lie(|frame| match frame {
        Frame::Answered(answered) => {
            let mut reply = answered.reply.clone();
            let last = reply.len() - 1;
            reply[last] ^= 1;
            vec![Answered { reply, ..answered }.into()]
        }
        other => vec![other],
    });
    let browser = Browser::start()?;
    let link = device_link(&liar.url(), &stage.device.id, PASSWORD);
    let visit = Visit::open(&browser, &link)?;
    visit.page.click("button", "Call")?;
    let told = visit.failure()?;
    assert!(told.contains("The registry"), "{told}");
    visit.page.pictures("refused-swapped")?;
    nothing_flowed(&stage, &visit)
}

/// A name that was called before leads to another key.
#[test]
fn a_name_with_another_key_has_its_sentence() -> Result<()> {
    let stage = Stage::set()?;
    let other = Stage::with(Plan {
        name: Some("other"),
        ..Plan::default()
    })?;
    let liar = stage.runtime.block_on(Liar::start(&stage.registry));
    let browser = Browser::start()?;
    allow_refusals(&browser);
    let link = device_link(&liar.url(), "nas", PASSWORD);
    let visit = Visit::open(&browser, &link)?;
    visit.call()?;
    visit.page.click("button", "Hang up")?;

    liar.say_alias("nas", other.device.id.parse()?);
    let path = format!("/v1/devices/{}", stage.device.id);
    let revoked = stage
        .runtime
        .block_on(stage.registry.owner("DELETE", &path, json!(null)));
    assert_eq!(revoked.status, 204);
    visit.page.open("about:blank")?;
    visit.page.open(&link)?;
    visit.page.click("button", "Call")?;
    let told = visit.failure()?;
    assert!(
        told.contains("This name now belongs to another key."),
        "{told}"
    );
    assert!(told.contains(&other.device.id), "{told}");
    visit.page.pictures("refused-key")?;
    assert!(!visit.page.has("button", "Hang up"));
    assert_eq!(other.device.callers(), [] as [String; 0]);
    Ok(())
}
