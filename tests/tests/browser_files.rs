//! Large files through the page: down and up with the right hash, also when the tab is
//! killed or the device's agent starts anew in the middle.

use std::time::Duration;

use anyhow::{Result, ensure};
use ringback_tests::{
    browser::Browser,
    large_file::{HUGE, LARGE, PATIENCE, hash, noise, until_part},
    visit::Stage,
};

/// Memory that the browser's processes use together, in bytes.
fn memory(browser: &Browser) -> Result<u64> {
    let mut total = 0;
    for entry in std::fs::read_dir("/proc")? {
        let dir = entry?.path();
        let status = std::fs::read_to_string(dir.join("status")).unwrap_or_default();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse::<u64>().ok()
        };
        let is_ours = field("PPid:") == Some(browser.pid().into())
            || field("Pid:") == Some(browser.pid().into());
        if is_ours {
            total += field("RssAnon:").unwrap_or(0) * 1024;
        }
    }
    Ok(total)
}

#[test]
fn a_large_file_comes_down_whole_over_a_killed_tab_and_a_restarted_agent() -> Result<()> {
    let mut stage = Stage::set()?;
    let name = "large.bin";
    let expected = noise(&stage.files.path().join(name), LARGE)?;
    let browser = Browser::start()?;
    let visit = stage.linked(&browser)?;
    visit.service("docs")?;
    visit.page.click("button", &format!("Download {name}"))?;
    until_part(&visit, name, 0.2)?;
    visit.page.kill()?;

    let visit = stage.linked(&browser)?;
    visit.service("docs")?;
    visit.page.until_role("button", &format!("Resume {name}"))?;
    let kept = visit.transfer_part(name)?;
    ensure!(kept > 0.1, "only {kept} was kept");
    visit.page.click("button", &format!("Resume {name}"))?;
    until_part(&visit, name, 0.5)?;
    stage.restart_device()?;
    visit.until_transfer(name, "verified", PATIENCE)?;
    let saved = browser.download(PATIENCE)?;
    assert_eq!(saved.name, name);
    assert_eq!(hash(&saved.path)?, expected);
    Ok(())
}

#[test]
fn a_large_file_goes_up_whole_over_a_killed_tab_and_a_restarted_agent() -> Result<()> {
    let mut stage = Stage::set()?;
    let local = tempfile::TempDir::new()?;
    let name = "large.bin";
    let source = local.path().join(name);
    let expected = noise(&source, LARGE)?;
    let browser = Browser::start()?;
    let visit = stage.linked(&browser)?;
    visit.service("docs")?;
    visit.upload(&source)?;
    until_part(&visit, name, 0.2)?;
    visit.page.kill()?;
    let target = stage.files.path().join(name);
    ensure!(!target.exists(), "a part of a file stands under its name");

    // The same file, chosen again, goes on where it was.
    let visit = stage.linked(&browser)?;
    visit.service("docs")?;
    visit.upload(&source)?;
    until_part(&visit, name, 0.5)?;
    stage.restart_device()?;
    visit.until_transfer(name, "verified on the device", PATIENCE)?;
    assert_eq!(hash(&target)?, expected);
    Ok(())
}

#[test]
fn a_large_file_needs_no_memory_of_its_size() -> Result<()> {
    let stage = Stage::set()?;
    let name = "large.bin";
    let expected = noise(&stage.files.path().join(name), HUGE)?;
    let browser = Browser::start()?;
    let visit = stage.linked(&browser)?;
    visit.service("docs")?;
    let before = memory(&browser)?;
    visit.page.click("button", &format!("Download {name}"))?;
    let mut most = 0;
    while !visit.page.text()?.contains("verified") {
        most = most.max(memory(&browser)?);
        ensure!(visit.page.text()?.contains(name), "{}", visit.page.text()?);
        std::thread::sleep(Duration::from_millis(200));
    }
    let saved = browser.download(PATIENCE)?;
    assert_eq!(hash(&saved.path)?, expected);
    let used = most.saturating_sub(before);
    println!("memory for 1 GiB: {} MiB", used >> 20);
    ensure!(used < 400 << 20, "{} MiB more than before", used >> 20);
    Ok(())
}
