//! Files (PROTOCOL §20.3) by `ringback get` and `ringback send`, between real agents.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use ringback_tests::lab::content::{Content, hash};
use ringback_tests::loopback::{Device, Ended, PASSWORD, PATIENCE, Profile, run};
use ringback_tests::place::Place;
use serde_json::Value;
use tempfile::TempDir;

struct Stage {
    place: Place,
    /// What the device exposes as `docs`.
    docs: PathBuf,
    /// Where the caller's files are.
    here: PathBuf,
    caller: Profile,
    _dir: TempDir,
}

impl Stage {
    fn new(writable: bool) -> Result<Self> {
        let dir = TempDir::new()?;
        let (docs, here) = (dir.path().join("docs"), dir.path().join("here"));
        fs::create_dir(&docs)?;
        fs::create_dir(&here)?;
        let files = format!("files:{}", docs.display());
        let exposed: &[&str] = match writable {
            true => &["docs", &files, "--writable"],
            false => &["docs", &files],
        };
        Ok(Self {
            place: Place::new(&[exposed])?,
            docs,
            here,
            caller: Profile::new(),
            _dir: dir,
        })
    }

    /// A command where the caller's files are.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.place.command(&self.caller, arguments);
        command.current_dir(&self.here);
        command
    }

    fn run(&self, arguments: &[&str]) -> Ended {
        run(&mut self.command(arguments))
    }

    /// What is in a folder, hidden files too.
    fn names(folder: &Path) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for found in fs::read_dir(folder)? {
            names.push(found?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    }
}

fn fill(path: &Path, seed: u64, bytes: u64) -> Result<()> {
    io::copy(&mut Content::new(seed, bytes), &mut File::create(path)?)?;
    Ok(())
}

#[track_caller]
fn told(ended: &Ended) -> Value {
    assert_eq!(ended.code, 0, "{ended:?}");
    serde_json::from_str(&ended.stdout).expect("JSON")
}

fn until(what: &str, mut done: impl FnMut() -> bool) -> Result<()> {
    let started = Instant::now();
    while !done() {
        ensure!(started.elapsed() < PATIENCE, "waited for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

#[test]
fn files_go_there_and_back() -> Result<()> {
    const BYTES: u64 = 50_000_000;
    let stage = Stage::new(true)?;
    fill(&stage.here.join("up"), 1, BYTES)?;
    fs::create_dir(stage.docs.join("sub"))?;
    let sent = told(&stage.run(&["send", "up", "nas:docs/sub", "--json"]));
    assert_eq!(sent["path"], "nas:docs/sub/up");
    assert_eq!(sent["sha256"], Content::sha256(1, BYTES).as_str());
    let there = hash(File::open(stage.docs.join("sub/up"))?)?;
    assert_eq!(there, (Content::sha256(1, BYTES), BYTES));
    let back = told(&stage.run(&["get", "nas:docs/sub/up", "back", "--json"]));
    assert_eq!(
        (&back["bytes"], &back["path"]),
        (&BYTES.into(), &"back".into())
    );
    let back = hash(File::open(stage.here.join("back"))?)?;
    assert_eq!(back, (Content::sha256(1, BYTES), BYTES));
    let times = [stage.here.join("up"), stage.here.join("back")].map(|path| {
        let modified = fs::metadata(path).and_then(|metadata| metadata.modified());
        let since = modified
            .expect("a time")
            .duration_since(std::time::UNIX_EPOCH);
        since.expect("after 1970").as_millis()
    });
    assert_eq!(times[0], times[1]);

    // Empty, with a new name, in place of another, and not in its place.
    fs::write(stage.here.join("empty"), "")?;
    told(&stage.run(&["send", "empty", "nas:docs/nothing", "--json"]));
    assert_eq!(fs::read(stage.docs.join("nothing"))?, b"");
    told(&stage.run(&["get", "nas:docs/nothing", "--json"]));
    fs::write(stage.here.join("small"), "small")?;
    told(&stage.run(&["send", "small", "nas:docs/nothing", "--json"]));
    assert_eq!(fs::read(stage.docs.join("nothing"))?, b"small");
    let kept = stage.run(&["send", "empty", "nas:docs/nothing", "--keep"]);
    assert_eq!(kept.code, 5, "{kept:?}");
    assert!(
        kept.stderr.contains("file of this name already"),
        "{kept:?}"
    );
    assert_eq!(fs::read(stage.docs.join("nothing"))?, b"small");
    assert_eq!(Stage::names(&stage.docs)?, ["nothing", "sub"]);
    assert_eq!(
        Stage::names(&stage.here)?,
        ["back", "empty", "nothing", "small", "up"]
    );
    Ok(())
}

#[test]
fn what_can_not_be_is_told_in_one_line() -> Result<()> {
    let stage = Stage::new(false)?;
    fs::write(stage.docs.join("file"), "here")?;
    fs::write(stage.docs.with_file_name("secret"), "secret")?;
    std::os::unix::fs::symlink("../secret", stage.docs.join("link"))?;
    fs::write(stage.here.join("mine"), "mine")?;
    for (arguments, code, words) in [
        (["get", "nas:docs/nothing"], 5, "there is no such file"),
        (["get", "nas:docs/link"], 5, "the device may not"),
        (
            ["get", "nas:docs/../secret"],
            5,
            "not a path of these files",
        ),
        (["get", "nas:docs"], 2, "is a folder"),
        (["get", "nas:other/file"], 5, "exposes no service"),
        (["get", "nas"], 2, "is not DEVICE:PATH"),
        (["send", "nas:docs/mine"], 2, "No such file"),
    ] {
        let arguments: &[&str] = match arguments {
            ["send", to] => &["send", "missing", to],
            _ => &arguments,
        };
        let ended = stage.run(arguments);
        assert_eq!(ended.code, code, "{arguments:?} {ended:?}");
        let last = ended.stderr.lines().last().unwrap_or_default();
        assert!(
            last.starts_with("ringback: ") && last.contains(words),
            "{ended:?}"
        );
    }
    let ended = stage.run(&["send", "mine", "nas:docs/new"]);
    assert_eq!(ended.code, 5, "{ended:?}");
    assert!(ended.stderr.contains("may only be read"), "{ended:?}");
    assert_eq!(Stage::names(&stage.docs)?, ["file", "link"]);
    assert_eq!(Stage::names(&stage.here)?, ["mine"]);
    Ok(())
}

const LARGE: u64 = 256 << 20;

#[test]
fn a_send_goes_on_after_its_command_was_killed_and_after_the_agent_was() -> Result<()> {
    let stage = Stage::new(true)?;
    fill(&stage.here.join("large"), 3, LARGE)?;
    let arguments = ["send", "large", "nas:docs/large", "--json"];
    // The journal: 8 bytes and 16 for each range that is on the disk.
    let docs = stage.docs.clone();
    let noted = move || {
        let names = Stage::names(&docs).unwrap_or_default();
        let journal = names.iter().find(|name| name.ends_with(".ranges"));
        journal.map_or(0, |name| {
            fs::metadata(docs.join(name)).map_or(0, |m| m.len())
        })
    };
    let mut command = stage.caller.start(stage.command(&arguments));
    until("a range", || noted() >= 8 + 16)?;
    command.kill9()?;
    assert!(!stage.docs.join("large").exists());
    let mut again = stage.caller.start(stage.command(&arguments));
    let before = noted();
    until("more ranges", || noted() > before)?;
    // The agent dies, and comes back under the running command.
    let Stage {
        place,
        docs,
        here,
        caller,
        ..
    } = stage;
    let registry = place.registry;
    let device: Device = place.device.restart();
    let status = again.wait(4 * PATIENCE)?;
    assert!(status.success(), "{}", again.stderr());
    let told: Value = serde_json::from_str(&again.stdout())?;
    assert!(told["resumed_bytes"].as_u64() >= Some(16 << 20), "{told}");
    println!("256 MiB, of them {} there before", told["resumed_bytes"]);
    let there = hash(File::open(docs.join("large"))?)?;
    assert_eq!(there, (Content::sha256(3, LARGE), LARGE));
    assert_eq!(Stage::names(&docs)?, ["large"]);
    drop((registry, device, here, caller));
    Ok(())
}

#[test]
fn a_get_goes_on_after_its_command_was_killed() -> Result<()> {
    let stage = Stage::new(false)?;
    fill(&stage.docs.join("large"), 4, LARGE)?;
    let arguments = ["get", "nas:docs/large", "--json"];
    let journal = stage.here.join(".large.ringback-part.json");
    let mut command = stage.caller.start(stage.command(&arguments));
    until("a range", || journal.exists())?;
    command.kill9()?;
    assert!(!stage.here.join("large").exists());
    let mut again = stage.caller.start(stage.command(&arguments));
    let status = again.wait(4 * PATIENCE)?;
    assert!(status.success(), "{}", again.stderr());
    let told: Value = serde_json::from_str(&again.stdout())?;
    assert!(told["resumed_bytes"].as_u64() >= Some(1 << 20), "{told}");
    println!(
        "256 MiB, of them {} there before, {} s",
        told["resumed_bytes"], told["seconds"]
    );
    let back = hash(File::open(stage.here.join("large"))?)?;
    assert_eq!(back, (Content::sha256(4, LARGE), LARGE));
    assert_eq!(Stage::names(&stage.here)?, ["large"]);

    // What was left over of another version is not used.
    fs::remove_file(stage.here.join("large"))?;
    let mut command = stage.caller.start(stage.command(&arguments));
    until("a range", || journal.exists())?;
    command.kill9()?;
    fill(&stage.docs.join("large"), 5, 1_000_000)?;
    let anew: Value = serde_json::from_str(&stage.run(&arguments).stdout)?;
    assert_eq!(anew["resumed_bytes"], 0);
    let back = hash(File::open(stage.here.join("large"))?)?;
    assert_eq!(back, (Content::sha256(5, 1_000_000), 1_000_000));
    Ok(())
}

#[test]
fn a_full_disk_is_told_once_and_leaves_nothing() -> Result<()> {
    let stage = Stage::new(true)?;
    let small = Tmpfs::mount(&stage.docs.join("small"), "4m")?;
    fill(&stage.here.join("large"), 6, 8_000_000)?;
    fill(&stage.here.join("fits"), 7, 3_000_000)?;
    fs::write(small.0.join("old"), "old")?;
    for target in ["nas:docs/small/new", "nas:docs/small/old"] {
        let ended = stage.run(&["send", "large", target]);
        assert_eq!(ended.code, 5, "{ended:?}");
        let lines: Vec<&str> = ended
            .stderr
            .lines()
            .filter(|l| l.starts_with("ringback:"))
            .collect();
        let [line] = lines[..] else {
            panic!("{lines:?}")
        };
        let full = "ringback: the device's disk is full; nothing was changed there (8MB do not fit";
        assert!(line.starts_with(full), "{line}");
        assert_eq!(Stage::names(&small.0)?, ["old"]);
        assert_eq!(fs::read(small.0.join("old"))?, b"old");
    }
    told(&stage.run(&["send", "fits", "nas:docs/small/new", "--json"]));
    Ok(())
}

/// A small disk.
struct Tmpfs(PathBuf);

impl Tmpfs {
    fn mount(path: &Path, size: &str) -> Result<Self> {
        fs::create_dir(path)?;
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]);
        ensure!(mount.arg(path).status()?.success(), "mount needs root");
        Ok(Self(path.to_owned()))
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        // The test has its result; a mount that is left over goes with the machine.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn of_two_writers_one_whole_file_stays() -> Result<()> {
    const BYTES: u64 = 30_000_000;
    let stage = Stage::new(true)?;
    let other = Profile::new();
    for (name, seed) in [("one", 8), ("two", 9)] {
        fill(&stage.here.join(name), seed, BYTES)?;
    }
    let mut first = stage
        .caller
        .start(stage.command(&["send", "one", "nas:docs/both"]));
    let mut second = stage
        .place
        .command(&other, &["send", "two", "nas:docs/both"]);
    second.current_dir(&stage.here);
    let mut second = other.start(second);
    for writer in [&mut first, &mut second] {
        let status = writer.wait(2 * PATIENCE)?;
        assert!(status.success(), "{}", writer.stderr());
    }
    let (sha256, bytes) = hash(File::open(stage.docs.join("both"))?)?;
    let whole = [8, 9].map(|seed| Content::sha256(seed, BYTES));
    assert!(whole.contains(&sha256) && bytes == BYTES);
    assert_eq!(Stage::names(&stage.docs)?, ["both"]);
    Ok(())
}

#[test]
fn through_the_agent_of_the_callers_host() -> Result<()> {
    const BYTES: u64 = 20_000_000;
    let stage = Stage::new(true)?;
    let host = stage.place.another("laptop");
    fill(&stage.here.join("up"), 10, BYTES)?;
    let run_there = |arguments: &[&str]| {
        let mut command = stage.place.command(&host.profile, arguments);
        run(command
            .current_dir(&stage.here)
            .env("RINGBACK_PASSWORD", PASSWORD))
    };
    told(&run_there(&["send", "up", "nas:docs/up", "--json"]));
    let back = told(&run_there(&["get", "nas:docs/up", "back", "--json"]));
    assert_eq!(back["sha256"], Content::sha256(10, BYTES).as_str());
    // One link served all streams.
    assert_eq!(stage.place.device.callers(), [host.id.as_str()]);
    let ended = run_there(&["get", "nas:docs/nothing"]);
    assert_eq!(ended.code, 5, "{ended:?}");
    Ok(())
}

/// Both ways: who may not read the file here may not there, and what runs there runs here.
#[test]
fn a_copy_is_no_wider_than_the_file_and_runs_as_it_did() -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let stage = Stage::new(true)?;
    let mode =
        |path: &Path| -> Result<u32> { Ok(fs::metadata(path)?.permissions().mode() & 0o777) };
    for (name, given) in [("secret", 0o600), ("script", 0o755), ("plain", 0o644)] {
        for folder in [&stage.docs, &stage.here] {
            let path = folder.join(format!("{name}-from"));
            fs::write(&path, name)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(given))?;
        }
        let there = format!("nas:docs/{name}-from");
        let got = stage.run(&["get", &there, &format!("{name}-got")]);
        ensure!(got.code == 0, "{got:?}");
        assert_eq!(
            mode(&stage.here.join(format!("{name}-got")))?,
            given,
            "{name}"
        );
        let sent = stage.run(&[
            "send",
            &format!("{name}-from"),
            &format!("nas:docs/{name}-sent"),
        ]);
        ensure!(sent.code == 0, "{sent:?}");
        assert_eq!(
            mode(&stage.docs.join(format!("{name}-sent")))?,
            given,
            "{name}"
        );
    }
    // A set-user-ID bit does not travel.
    let path = stage.docs.join("suid");
    fs::write(&path, "suid")?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o4755))?;
    ensure!(stage.run(&["get", "nas:docs/suid"]).code == 0);
    let bits = fs::metadata(stage.here.join("suid"))?.permissions().mode() & 0o7777;
    assert_eq!(bits, 0o755);
    Ok(())
}

#[test]
fn nothing_of_the_users_is_replaced_unasked() -> Result<()> {
    let stage = Stage::new(false)?;
    fs::write(stage.docs.join("file"), "theirs")?;
    let mine = stage.here.join("file");
    for other in ["mine, longer", "mine!!"] {
        fs::write(&mine, other)?;
        let ended = stage.run(&["get", "nas:docs/file"]);
        assert_eq!(ended.code, 2, "{ended:?}");
        ensure!(
            ended.stderr.contains("--overwrite replaces it"),
            "{ended:?}"
        );
        assert_eq!(fs::read_to_string(&mine)?, other);
    }
    assert_eq!(
        Stage::names(&stage.here)?,
        ["file"],
        "nothing lies beside it"
    );
    let ended = stage.run(&["get", "nas:docs/file", "--overwrite"]);
    assert_eq!(
        (ended.code, fs::read_to_string(&mine)?.as_str()),
        (0, "theirs")
    );
    let ended = stage.run(&["get", "nas:docs/file"]);
    assert_eq!(ended.code, 0, "the same file is there already: {ended:?}");
    Ok(())
}

#[test]
fn what_is_no_file_of_its_own_is_written_into() -> Result<()> {
    let stage = Stage::new(false)?;
    let text = "word ".repeat(100_000);
    fs::write(stage.docs.join("file"), &text)?;
    for to in ["-", "/dev/stdout"] {
        let ended = stage.run(&["get", "nas:docs/file", to]);
        assert_eq!(ended.code, 0, "{to}: {}", ended.stderr);
        ensure!(ended.stdout.starts_with(&text), "{to}");
    }
    let fifo = stage.here.join("pipe");
    let made = Command::new("mkfifo").arg(&fifo).status()?;
    ensure!(made.success());
    let reading = {
        let fifo = fifo.clone();
        std::thread::spawn(move || fs::read_to_string(fifo))
    };
    let ended = stage.run(&["get", "nas:docs/file", "pipe"]);
    assert_eq!(ended.code, 0, "{ended:?}");
    ensure!(reading.join().expect("no panic")? == text);
    use std::os::unix::fs::FileTypeExt as _;
    ensure!(
        fs::symlink_metadata(&fifo)?.file_type().is_fifo(),
        "it is one still"
    );
    ensure!(
        fs::symlink_metadata("/dev/stdout")?
            .file_type()
            .is_symlink()
    );
    Ok(())
}

#[test]
fn the_longest_names_arrive_under_their_names() -> Result<()> {
    let stage = Stage::new(true)?;
    for length in [230, 231, 240, 255] {
        let name = "n".repeat(length);
        fs::write(stage.docs.join(&name), "there")?;
        let ended = stage.run(&["get", &format!("nas:docs/{name}")]);
        assert_eq!(ended.code, 0, "{length}: {ended:?}");
        assert_eq!(fs::read_to_string(stage.here.join(&name))?, "there");
        let name = "s".repeat(length);
        fs::write(stage.here.join(&name), "here")?;
        let ended = stage.run(&["send", &name, "nas:docs/"]);
        assert_eq!(ended.code, 0, "{length}: {ended:?}");
        assert_eq!(fs::read_to_string(stage.docs.join(&name))?, "here");
    }
    Ok(())
}

/// A log is fetched as far as it was when the transfer began.
#[test]
fn what_grows_is_fetched_as_far_as_it_was() -> Result<()> {
    use std::sync::atomic::{AtomicBool, Ordering};
    let stage = Stage::new(false)?;
    let path = stage.docs.join("log");
    fs::write(&path, vec![b'x'; 4 << 20])?;
    let over = AtomicBool::new(false);
    let ended = std::thread::scope(|scope| -> Result<Ended> {
        scope.spawn(|| -> io::Result<()> {
            use std::io::Write as _;
            let mut log = File::options().append(true).open(&path)?;
            while !over.load(Ordering::Relaxed) {
                log.write_all(b"one more line\n")?;
                std::thread::sleep(Duration::from_millis(1));
            }
            Ok(())
        });
        let ended = stage.run(&["get", "nas:docs/log", "--json"]);
        over.store(true, Ordering::Relaxed);
        Ok(ended)
    })?;
    assert_eq!(ended.code, 0, "{ended:?}");
    let (whole, got) = (fs::read(&path)?, fs::read(stage.here.join("log"))?);
    ensure!(got.len() >= 4 << 20 && whole.starts_with(&got));
    Ok(())
}

#[test]
fn holes_stay_holes_both_ways() -> Result<()> {
    use std::os::unix::fs::{FileExt as _, MetadataExt as _};
    let stage = Stage::new(true)?;
    let make = |path: &Path| -> Result<()> {
        let file = File::create(path)?;
        file.set_len(64 << 20)?;
        file.write_all_at(b"in the middle", 40 << 20)?;
        Ok(())
    };
    let taken = |path: &Path| -> Result<u64> { Ok(fs::metadata(path)?.blocks() * 512) };
    make(&stage.docs.join("image"))?;
    make(&stage.here.join("other"))?;
    ensure!(stage.run(&["get", "nas:docs/image"]).code == 0);
    ensure!(stage.run(&["send", "other", "nas:docs/"]).code == 0);
    for path in [stage.here.join("image"), stage.docs.join("other")] {
        let taken = taken(&path)?;
        ensure!(taken < 4 << 20, "{} takes {taken} bytes", path.display());
        ensure!(fs::metadata(&path)?.len() == 64 << 20);
    }
    Ok(())
}
