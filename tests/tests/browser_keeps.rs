//! The page keeps what a person does: leaving a view ends nothing, the address says what is seen,
//! and what would be lost with the tab is asked about.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::Permissions,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use ringback_tests::{
    browser::{Browser, PATIENCE},
    large_file::{self, LARGE, noise},
    loopback::PASSWORD,
    visit::{Stage, Visit},
};
use serde_json::Value;

/// Remembers the page's connections, so that what comes over the wire can be asked of the browser.
const COUNTED: &str = "globalThis.peers = []; \
    globalThis.RTCPeerConnection = class extends RTCPeerConnection { \
        constructor(...all) { super(...all); peers.push(this); } \
    };";

/// Bytes that the browser has received over all of the page's connections.
const RECEIVED: &str = "(async () => { let sum = 0; \
    for (const peer of peers) if (peer.connectionState !== 'closed') \
        for (const it of (await peer.getStats()).values()) \
            if (it.type === 'transport') sum += it.bytesReceived; \
    return sum; })()";

/// A tab whose traffic is counted, linked to the device.
fn counted(stage: &Stage, browser: &Browser) -> Result<Visit> {
    let page = browser.page()?;
    page.on_new_document(COUNTED)?;
    page.open(&stage.link())?;
    let visit = Visit { page };
    visit.call()?;
    Ok(visit)
}

/// Waits until what is stopped is stopped on the wire, too: no more than a link's own datagrams come.
fn until_quiet(visit: &Visit) -> Result<()> {
    let quiet = format!(
        "(async () => {{ const before = await {RECEIVED}; \
         await new Promise(then => setTimeout(then, 1000)); \
         return await {RECEIVED} - before < 20_000; }})()"
    );
    // Less than the rest of the file takes.
    visit.page.until_within(Duration::from_secs(4), &quiet)
}

fn shown(visit: &Visit, name: &str) -> Result<String> {
    visit.page.eval(&format!(
        "[...document.querySelectorAll('.transfer')].filter(it => it.checkVisibility() && \
         it.querySelector('.name').textContent === '{name}').map(it => it.innerText).join('|')"
    ))
}

#[test]
fn who_leaves_a_device_and_returns_finds_the_same_shell_and_transfers() -> Result<()> {
    let stage = Stage::set()?;
    let name = "large.bin";
    let expected = noise(&stage.files.path().join(name), LARGE)?;
    let browser = Browser::start()?;
    let visit = counted(&stage, &browser)?;
    let page = &visit.page;
    visit.service("shell")?;
    visit.until_prompt()?;
    visit.type_line("stays=here; echo first-line $((40+2))")?;
    visit.until_terminal("first-line 42")?;
    visit.service("docs")?;
    page.click("button", &format!("Download {name}"))?;
    large_file::until_part(&visit, name, 0.1)?;

    page.click("link", "Contacts")?;
    page.until("!document.querySelector('.linked')?.checkVisibility()")?;
    page.click("link", "Called just now")?;
    page.until_role("button", "Hang up")?;
    page.click("button", "docs")?;
    page.until_text(name)?;
    let row = shown(&visit, name)?;
    ensure!(!row.is_empty(), "the download is not shown any more");
    ensure!(
        !row.contains("paused"),
        "it says that it stands still: {row}"
    );
    let part = visit.transfer_part(name)?;
    large_file::until_part(&visit, name, part + 0.02)?;

    page.click("button", "shell")?;
    visit.until_terminal("first-line 42")?;
    visit.type_line("echo second-line $stays $((50+4))")?;
    visit.until_terminal("second-line here 54")?;

    // What says that it stands still does.
    page.click("button", "docs")?;
    page.click("button", &format!("Pause {name}"))?;
    until_quiet(&visit)?;
    ensure!(shown(&visit, name)?.contains("paused"));
    page.click("button", &format!("Resume {name}"))?;
    visit.until_transfer(name, "verified", large_file::PATIENCE)?;
    let saved = browser.download(PATIENCE)?;
    assert_eq!(large_file::hash(&saved.path)?, expected);
    Ok(())
}

#[test]
fn a_folder_that_is_closed_leaves_its_transfers_going_and_in_sight() -> Result<()> {
    let stage = Stage::set()?;
    let name = "large.bin";
    let expected = noise(&stage.files.path().join(name), LARGE)?;
    let browser = Browser::start()?;
    let visit = counted(&stage, &browser)?;
    let page = &visit.page;
    visit.service("docs")?;
    page.click("button", &format!("Download {name}"))?;
    large_file::until_part(&visit, name, 0.05)?;
    page.click("button", "Close docs")?;
    page.until_text("1 transfer going on")?;
    visit.service("docs")?;
    page.until_text(name)?;
    let row = shown(&visit, name)?;
    ensure!(
        !row.is_empty() && !row.contains("paused"),
        "it shows {row:?}"
    );
    // A link that is hung up carries nothing; what it carried can be gone on with.
    page.click("button", "Hang up")?;
    page.until_role("button", "Call")?;
    visit.call_with(PASSWORD)?;
    visit.until_linked()?;
    visit.service("docs")?;
    page.until_role("button", &format!("Resume {name}"))?;
    until_quiet(&visit)?;
    page.click("button", &format!("Resume {name}"))?;
    visit.until_transfer(name, "verified", large_file::PATIENCE)?;
    let saved = browser.download(PATIENCE)?;
    assert_eq!(large_file::hash(&saved.path)?, expected);
    Ok(())
}

/// Whether the page shows a folder, by the last of its crumbs.
fn until_folder(visit: &Visit, name: &str) -> Result<()> {
    visit.page.until(&format!(
        "[...document.querySelectorAll('.crumb')].filter(it => it.checkVisibility()).at(-1)\
         ?.innerText.trim() === '{name}'"
    ))
}

#[test]
fn back_and_forward_move_between_folders_previews_and_tabs() -> Result<()> {
    let stage = Stage::set()?;
    std::fs::create_dir_all(stage.files.path().join("Grüße & 100 %/deep"))?;
    let note = stage.files.path().join("Grüße & 100 %/deep/note #1?.txt");
    std::fs::write(note, "Buy ink.\n")?;
    let browser = Browser::start()?;
    let visit = stage.linked(&browser)?;
    let page = &visit.page;
    visit.service("docs")?;
    page.click("button", "Grüße & 100 %")?;
    page.click("button", "deep")?;
    page.click("button", "note #1?.txt")?;
    page.until_text("Buy ink.")?;
    let preview: String = page.eval("location.href")?;
    page.step(-1)?;
    page.until("!document.querySelector('dialog')")?;
    until_folder(&visit, "deep")?;
    page.step(-1)?;
    until_folder(&visit, "Grüße & 100 %")?;
    page.step(-1)?;
    until_folder(&visit, "docs")?;
    page.step(2)?;
    until_folder(&visit, "deep")?;
    page.step(1)?;
    page.until_text("Buy ink.")?;
    // Closed by hand, it is behind: forward leads to it, and back to where the folder was opened.
    page.press("Escape")?;
    page.until("!document.querySelector('dialog')")?;
    page.step(1)?;
    page.until_text("Buy ink.")?;
    page.press("Escape")?;
    page.until("!document.querySelector('dialog')")?;
    page.step(-1)?;
    until_folder(&visit, "Grüße & 100 %")?;

    visit.service("shell")?;
    visit.until_prompt()?;
    visit.type_line("stays=here")?;
    page.click("link", "Contacts")?;
    page.step(-1)?;
    visit.type_line("echo it $stays")?;
    visit.until_terminal("it here")?;
    page.step(-1)?;
    page.until_role("button", "shell ")?;
    page.step(-1)?;
    until_folder(&visit, "Grüße & 100 %")?;
    page.step(2)?;
    visit.type_line("echo still $stays")?;
    visit.until_terminal("still here")?;
    // A terminal that was closed is not opened by the way back.
    page.click("button", "Close shell")?;
    page.until_role("button", "shell ")?;
    page.click("link", "Contacts")?;
    page.step(-1)?;
    page.until_role("button", "shell ")?;
    assert!(!page.has("button", "Close shell"));

    // The registry is told no names of files; and who opens the address again sees the same.
    let sent = preview.split_once('#').expect("a fragment").0;
    assert_eq!(sent, stage.link().split_once('#').expect("a fragment").0);
    let visit = Visit::open(&browser, &preview)?;
    visit.call_with(PASSWORD)?;
    visit.page.until_text("Buy ink.")?;
    visit.page.press("Escape")?;
    until_folder(&visit, "deep")?;
    Ok(())
}

#[test]
fn a_reload_shows_the_same_and_is_asked_about_only_while_something_runs() -> Result<()> {
    let stage = Stage::set()?;
    let name = "large.bin";
    noise(&stage.files.path().join(name), LARGE)?;
    std::fs::create_dir(stage.files.path().join("pictures"))?;
    let browser = Browser::start()?;
    let visit = stage.linked(&browser)?;
    let page = &visit.page;
    visit.service("docs")?;
    page.click("button", "pictures")?;
    until_folder(&visit, "pictures")?;
    // Nothing would be lost: nothing is asked.
    page.reload()?;
    visit.call_with(PASSWORD)?;
    until_folder(&visit, "pictures")?;

    page.eval::<()>("void document.querySelector('.crumb').click()")?;
    page.click("button", &format!("Download {name}"))?;
    large_file::until_part(&visit, name, 0.05)?;
    page.begin_reload()?;
    assert_eq!(page.answer_dialog(false)?, "beforeunload");
    let part = visit.transfer_part(name)?;
    large_file::until_part(&visit, name, part + 0.02)?;
    page.click("button", &format!("Pause {name}"))?;
    page.reload()?;
    assert!(!page.has_dialog());

    visit.call_with(PASSWORD)?;
    visit.service("shell")?;
    visit.until_prompt()?;
    page.begin_reload()?;
    assert_eq!(page.answer_dialog(true)?, "beforeunload");
    page.until_reloaded()?;
    visit.call_with(PASSWORD)?;
    visit.until_prompt()?;
    page.begin_close()?;
    assert_eq!(page.answer_dialog(false)?, "beforeunload");
    visit.type_line("exit")?;
    page.until_text("The shell has ended.")?;
    page.begin_close()?;
    let deadline = Instant::now() + PATIENCE;
    while !page.is_gone() {
        ensure!(!page.has_dialog(), "the browser asks");
        ensure!(Instant::now() < deadline, "the tab stays");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

const MANY: usize = 300;

/// Small files, each with something of its own.
fn small_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let file = |number: usize| {
        let path = dir.join(format!("file-{number:03}.txt"));
        std::fs::write(&path, content(number))?;
        Ok(path)
    };
    (0..MANY).map(file).collect()
}

fn content(number: usize) -> String {
    format!("This is file {number}.\n").repeat(100)
}

/// Which files of [`small_files`] are not whole in a folder.
fn missing(dir: &Path) -> Vec<usize> {
    let is_whole = |number: &usize| {
        let path = dir.join(format!("file-{number:03}.txt"));
        std::fs::read_to_string(path).is_ok_and(|text| text == content(*number))
    };
    (0..MANY).filter(|number| !is_whole(number)).collect()
}

/// Waits until all files have come and nothing is on its way any more.
fn until_all(visit: &Visit) -> Result<()> {
    visit.page.until_within(
        large_file::PATIENCE,
        "document.querySelector('.transfers-sum')?.innerText.includes('300 of 300 done') || \
         document.querySelector('.transfer [role=alert]')",
    )?;
    let failed: usize = visit
        .page
        .eval("document.querySelectorAll('.transfer [role=alert]').length")?;
    ensure!(failed == 0, "{failed} of {MANY} have failed");
    Ok(())
}

#[test]
fn three_hundred_files_go_up_a_few_at_a_time() -> Result<()> {
    let stage = Stage::set()?;
    let local = tempfile::TempDir::new()?;
    let files = small_files(local.path())?;
    let browser = Browser::start()?;
    let visit = stage.linked(&browser)?;
    visit.service("docs")?;
    let files: Vec<_> = files.iter().map(PathBuf::as_path).collect();
    let start = Instant::now();
    visit.upload_all(&files)?;
    let arrived = until_all(&visit);
    println!("{MANY} files up: {:?}", start.elapsed());
    let missing = missing(stage.files.path());
    ensure!(
        missing.is_empty() && arrived.is_ok(),
        "{} of {MANY} have not arrived; {arrived:?}",
        missing.len()
    );
    Ok(())
}

#[test]
fn three_hundred_files_come_down_a_few_at_a_time() -> Result<()> {
    let stage = Stage::set()?;
    small_files(stage.files.path())?;
    let browser = Browser::start()?;
    let visit = stage.linked(&browser)?;
    visit.service("docs")?;
    visit
        .page
        .until("document.querySelectorAll('[aria-label^=\"Download file-\"]').length === 300")?;
    let start = Instant::now();
    visit.page.eval::<()>(
        "void document.querySelectorAll('[aria-label^=\"Download file-\"]').forEach(it => it.click())",
    )?;
    let came = until_all(&visit);
    println!("{MANY} files down: {:?}", start.elapsed());
    let mut saved = BTreeSet::new();
    while saved.len() < MANY
        && let Ok(file) = browser.download(Duration::from_secs(5))
    {
        let number = file.name.trim_start_matches("file-");
        let number: usize = number.trim_end_matches(".txt").parse()?;
        assert_eq!(std::fs::read_to_string(&file.path)?, content(number));
        ensure!(saved.insert(number), "{} was saved twice", file.name);
    }
    ensure!(
        saved.len() == MANY && came.is_ok(),
        "{} of {MANY} were saved; {came:?}",
        saved.len()
    );
    Ok(())
}

/// The person's choice of a folder, which no test can click: it is the browser's own storage, which
/// pages reach by the same handles.
const CHOSEN: &str = "globalThis.chosenFolder = async () => \
        (await navigator.storage.getDirectory()).getDirectoryHandle('chosen', { create: true }); \
    globalThis.showDirectoryPicker = chosenFolder;";

/// Names and contents of the folder that was chosen.
const KEPT: &str = "(async () => { const kept = {}; \
    for await (const [name, file] of (await chosenFolder()).entries()) \
        kept[name] = await (await file.getFile()).text(); \
    return kept; })()";

#[test]
fn what_is_chosen_comes_into_a_folder_and_replaces_nothing_in_it() -> Result<()> {
    let stage = Stage::set()?;
    small_files(stage.files.path())?;
    let private = stage.files.path().join("file-007.txt");
    std::fs::set_permissions(&private, Permissions::from_mode(0o600))?;
    let browser = Browser::start()?;
    let page = browser.page()?;
    page.on_new_document(CHOSEN)?;
    page.open(&stage.link())?;
    let visit = Visit { page };
    visit.call()?;
    let page = &visit.page;
    // One file of that name is another one, and one is the same.
    page.eval::<()>(&format!(
        "(async () => {{ const folder = await chosenFolder(); \
         for (const [name, text] of [['file-001.txt', 'mine'], ['file-002.txt', {}]]) {{ \
             const file = await (await folder.getFileHandle(name, {{ create: true }})).createWritable(); \
             await file.write(text); await file.close(); }} }})()",
        Value::from(content(2))
    ))?;
    visit.service("docs")?;
    page.click("button", "Select")?;
    page.click("checkbox", "Choose file-003.txt")?;
    page.until_text("1 file, ")?;
    page.pictures("files-chosen")?;
    page.click("button", "All files")?;
    page.until_text("300 files, ")?;
    let start = Instant::now();
    page.click("button", "Download chosen")?;
    page.until_text("waiting for its turn")?;
    page.pictures("files-many")?;
    until_all(&visit)?;
    println!("{MANY} files into a folder: {:?}", start.elapsed());
    let kept: BTreeMap<String, String> = page.eval(KEPT)?;
    let mut expected: BTreeMap<String, String> = (0..MANY)
        .map(|number| (format!("file-{number:03}.txt"), content(number)))
        .collect();
    expected.insert("file-001.txt".into(), "mine".into());
    expected.insert("file-001 (2).txt".into(), content(1));
    ensure!(kept == expected, "{:?}", kept.keys().collect::<Vec<_>>());
    // What a browser can not keep is said.
    page.click("button", "Show ")?;
    visit.until_transfer(
        "file-007.txt",
        "on the device it is for some only",
        PATIENCE,
    )?;
    // Nothing is left of them in the page's own storage.
    page.until(
        "(async () => { const root = await navigator.storage.getDirectory(); \
         const own = await root.getDirectoryHandle('transfers', { create: true }); \
         for await (const name of own.keys()) return false; return true; })()",
    )?;
    Ok(())
}

#[test]
fn a_download_of_one_tab_is_not_another_ones() -> Result<()> {
    let stage = Stage::set()?;
    let name = "large.bin";
    noise(&stage.files.path().join(name), LARGE)?;
    let browser = Browser::start()?;
    let first = stage.linked(&browser)?;
    first.service("docs")?;
    first.page.click("button", &format!("Download {name}"))?;
    large_file::until_part(&first, name, 0.02)?;
    let second = stage.linked(&browser)?;
    second.service("docs")?;
    second
        .page
        .until_role("button", &format!("Download {name}"))?;
    let row = shown(&second, name)?;
    ensure!(row.is_empty(), "the other tab's is shown as {row:?}");
    second.page.click("button", &format!("Download {name}"))?;
    second.page.until_text("Another tab of this browser")?;
    // Once the first has let go of it, the second goes on where it was.
    first.page.to_front()?;
    first.page.click("button", &format!("Pause {name}"))?;
    let part = first.transfer_part(name)?;
    second.page.to_front()?;
    second.page.click("button", &format!("Resume {name}"))?;
    large_file::until_part(&second, name, part)?;
    Ok(())
}
