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
    told(&stage.run(&["send", "small", "nas:docs/nothing", "--overwrite", "--json"]));
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
        let ended = stage.run(&["send", "large", target, "--overwrite"]);
        assert_eq!(ended.code, 5, "{ended:?}");
        let lines: Vec<&str> = ended
            .stderr
            .lines()
            .filter(|l| l.starts_with("ringback:"))
            .collect();
        let [line] = lines[..] else {
            panic!("{lines:?}")
        };
        let full =
            "ringback: the device's disk is full; nothing was changed there (7.6 MiB do not fit";
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
    let both = |to: &str, more: &[&str]| -> Result<Vec<Ended>> {
        std::thread::scope(|scope| {
            let writers = [(&stage.caller, "one"), (&other, "two")].map(|(caller, name)| {
                let arguments = [&["send", name, to], more].concat();
                let mut command = stage.place.command(caller, &arguments);
                command.current_dir(&stage.here);
                scope.spawn(move || run(&mut command))
            });
            let ended = writers.map(|writer| writer.join().expect("no panic"));
            Ok(ended.into())
        })
    };
    let whole = [8, 9].map(|seed| Content::sha256(seed, BYTES));
    for ended in both("nas:docs/replaced", &["--overwrite"])? {
        assert_eq!(ended.code, 0, "{ended:?}");
    }
    let (sha256, bytes) = hash(File::open(stage.docs.join("replaced"))?)?;
    assert!(whole.contains(&sha256) && bytes == BYTES);

    // Without, the first one to be whole stays, and the other one is told.
    let ended = both("nas:docs/kept", &[])?;
    let codes: Vec<i32> = ended.iter().map(|ended| ended.code).collect();
    ensure!(
        [[0, 2], [2, 0]].contains(&[codes[0], codes[1]]),
        "{ended:?}"
    );
    let stays = usize::from(codes[0] != 0);
    let told = &ended[1 - stays].stderr;
    ensure!(told.contains("nas:docs/kept is there already"), "{told}");
    let (sha256, bytes) = hash(File::open(stage.docs.join("kept"))?)?;
    assert_eq!((sha256, bytes), (whole[stays].clone(), BYTES));
    assert_eq!(Stage::names(&stage.docs)?, ["kept", "replaced"]);
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
fn nothing_at_the_device_is_replaced_unasked() -> Result<()> {
    let stage = Stage::new(true)?;
    fs::write(stage.here.join("file"), "mine")?;
    let theirs = stage.docs.join("file");
    for other in ["theirs, longer", "ours"] {
        fs::write(&theirs, other)?;
        // `--keep` was what asked for this before it was so by itself.
        for arguments in [
            &["send", "file", "nas:docs/file"][..],
            &["send", "file", "nas:docs"],
            &["send", "file", "nas:docs", "--keep"],
        ] {
            let ended = stage.run(arguments);
            assert_eq!(ended.code, 2, "{ended:?}");
            let told =
                "nas:docs/file is there already and is another file; --overwrite replaces it";
            ensure!(ended.stderr.contains(told), "{ended:?}");
            assert_eq!(fs::read_to_string(&theirs)?, other);
        }
    }
    assert_eq!(
        Stage::names(&stage.docs)?,
        ["file"],
        "nothing lies beside it"
    );
    let before = fs::metadata(&theirs)?.modified()?;
    told(&stage.run(&["send", "file", "nas:docs/", "--overwrite", "--json"]));
    assert_eq!(fs::read_to_string(&theirs)?, "mine");
    ensure!(fs::metadata(&theirs)?.modified()? != before);
    let again = told(&stage.run(&["send", "file", "nas:docs/", "--json"]));
    assert_eq!(again["resumed_bytes"], 4, "the same file is there already");

    // A folder, and a link that leads nowhere, are the device's, too.
    fs::create_dir(stage.docs.join("folder"))?;
    fs::write(stage.here.join("folder"), "mine")?;
    std::os::unix::fs::symlink("nowhere", stage.docs.join("link"))?;
    for (from, to, told) in [
        ("folder", "nas:docs", "nas:docs/folder is a folder"),
        ("file", "nas:docs/link", "is there already"),
        ("file", "nas:docs/file/", "nas:docs/file is a file"),
    ] {
        let ended = stage.run(&["send", from, to]);
        assert_eq!(ended.code, 2, "{ended:?}");
        ensure!(ended.stderr.contains(told), "{ended:?}");
    }
    assert_eq!(Stage::names(&stage.docs)?, ["file", "folder", "link"]);
    ensure!(fs::read_link(stage.docs.join("link"))? == Path::new("nowhere"));
    Ok(())
}

/// With bytes on standard input.
fn run_with(command: &mut Command, bytes: &[u8]) -> Result<Ended> {
    use std::io::Write as _;
    use std::process::Stdio;
    command.stdin(Stdio::piped());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let mut stdin = child.stdin.take().expect("a pipe");
    let output = std::thread::scope(|scope| {
        // Who is refused does not read it.
        scope.spawn(move || drop(stdin.write_all(bytes)));
        child.wait_with_output()
    })?;
    Ok(Ended {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

#[test]
fn standard_input_is_sent_under_the_name_that_is_given() -> Result<()> {
    let stage = Stage::new(true)?;
    let mut text = Vec::new();
    io::copy(&mut Content::new(11, 20_000_000), &mut text)?;
    let send = |arguments: &[&str], bytes: &[u8]| run_with(&mut stage.command(arguments), bytes);
    let sent = told(&send(&["send", "-", "nas:docs/stream", "--json"], &text)?);
    assert_eq!(sent["path"], "nas:docs/stream");
    assert_eq!(sent["bytes"], 20_000_000);
    ensure!(fs::read(stage.docs.join("stream"))? == text);
    told(&send(&["send", "-", "nas:docs/nothing", "--json"], b"")?);
    assert_eq!(fs::read(stage.docs.join("nothing"))?, b"");
    // The rules are those of files.
    let ended = send(&["send", "-", "nas:docs/stream"], b"other")?;
    assert_eq!(ended.code, 2, "{ended:?}");
    let same = told(&send(&["send", "-", "nas:docs/stream", "--json"], &text)?);
    assert_eq!(same["resumed_bytes"], 20_000_000);
    let ended = send(&["send", "-", "nas:docs/"], b"nameless")?;
    assert_eq!(ended.code, 2, "{ended:?}");
    ensure!(
        ended.stderr.contains("write one behind nas:docs/"),
        "{ended:?}"
    );
    // A pipe by its name is another such source, and the password may come first.
    let mut command = Command::new("sh");
    let one = format!(
        "{:?}",
        stage.command(&["send", "/dev/stdin", "nas:docs/piped"])
    );
    command
        .arg("-c")
        .arg(format!("printf piped | {{ {one}; }}"));
    let ended = run(&mut command);
    assert_eq!(ended.code, 0, "{ended:?}");
    assert_eq!(fs::read(stage.docs.join("piped"))?, b"piped");
    let twice = ["send", "-", "nas:docs/x", "--password-file", "-"];
    let ended = send(&twice, b"words\nmore")?;
    assert_eq!(ended.code, 2, "{ended:?}");
    assert_eq!(Stage::names(&stage.docs)?, ["nothing", "piped", "stream"]);
    assert_eq!(Stage::names(&stage.here)?, [""; 0]);
    Ok(())
}

/// What was written to the same place before stays, and what is written after follows.
#[test]
fn output_goes_behind_what_is_there() -> Result<()> {
    let stage = Stage::new(false)?;
    let text = "word ".repeat(100_000);
    fs::write(stage.docs.join("file"), &text)?;
    let get = |to: &str| format!("{:?}", stage.command(&["get", "nas:docs/file", to]));
    for (to, redirect) in [
        ("-", "> out"),
        ("-", ">> out"),
        ("/dev/stdout", "> out"),
        ("/proc/self/fd/1", "> out"),
        ("/dev/fd/3", "3> out"),
        ("/dev/fd/3", "3>> out"),
    ] {
        let before = match redirect.contains(">>") {
            true => "older\n",
            false => "",
        };
        let out = stage.here.join("out");
        fs::write(&out, before)?;
        let descriptor = if redirect.starts_with('3') { 3 } else { 1 };
        let mut command = Command::new("sh");
        let script = format!(
            "{{ echo head >&{descriptor} && {{ {}; }} && echo tail >&{descriptor}; }} {redirect}",
            get(to)
        );
        let ended = run(command.arg("-c").arg(&script).current_dir(&stage.here));
        assert_eq!(ended.code, 0, "{to} {redirect}: {ended:?}");
        let expected = format!("{before}head\n{text}tail\n");
        let got = fs::read_to_string(&out)?;
        ensure!(
            got == expected,
            "{to} {redirect}: {} bytes of {}, {:?}",
            got.len(),
            expected.len(),
            &got[..got.len().min(20)]
        );
        ensure!(
            ended.stderr.contains("nas:docs/file") || descriptor == 3,
            "{ended:?}"
        );
    }
    // What is in memory only is a file as others are.
    let shared = TempDir::new_in("/dev/shm")?;
    let path = shared.path().join("file");
    fs::write(&path, "mine")?;
    let to = path.to_str().expect("UTF-8");
    let ended = stage.run(&["get", "nas:docs/file", to]);
    assert_eq!(ended.code, 2, "{ended:?}");
    ensure!(
        ended.stderr.contains("--overwrite replaces it"),
        "{ended:?}"
    );
    told(&stage.run(&["get", "nas:docs/file", to, "--overwrite", "--json"]));
    ensure!(fs::read_to_string(&path)? == text);
    Ok(())
}

#[test]
fn a_reader_that_closes_early_is_no_error() -> Result<()> {
    let stage = Stage::new(false)?;
    fill(&stage.docs.join("file"), 12, 20_000_000)?;
    let fifo = stage.here.join("pipe");
    ensure!(Command::new("mkfifo").arg(&fifo).status()?.success());
    for (to, reader) in [
        ("-", "| head -c 10"),
        ("pipe", "& head -c 10 pipe; wait $!"),
    ] {
        let one = format!("{:?}", stage.command(&["get", "nas:docs/file", to]));
        let mut command = Command::new("bash");
        let script = format!("set -o pipefail; {{ {one}; }} {reader}");
        let ended = run(command.arg("-c").arg(script).current_dir(&stage.here));
        assert_eq!(ended.code, 0, "{to}: {}", ended.stderr);
        ensure!(
            !ended.stderr.contains("ringback:"),
            "{to}: {}",
            ended.stderr
        );
    }
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
        ensure!(ended.stdout == text, "{to}");
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

/// What to a file system are different names are different files, also where they look the same.
#[test]
fn every_name_arrives_as_it_is() -> Result<()> {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;
    let stage = Stage::new(true)?;
    let names: [&[u8]; 7] = [
        "caf\u{e9}".as_bytes(),
        "cafe\u{301}".as_bytes(),
        b"caf\xe9",
        b"caf\xe8",
        b"Caf\xe9",
        b"-",
        b"two\nlines",
    ];
    let names = names.map(OsStr::from_bytes);
    for (folder, from) in [("up", &stage.here), ("down", &stage.docs)] {
        for name in names {
            fs::write(from.join(name), format!("{folder} {name:?}"))?;
        }
    }
    for folder in [&b"sent"[..], b"s\xe9nt"].map(OsStr::from_bytes) {
        fs::create_dir(stage.docs.join(folder))?;
        // One caller has twenty requests a minute.
        let caller = Profile::new();
        for name in names {
            let to = [b"nas:docs/", folder.as_bytes(), b"/"].concat();
            let mut command = stage.place.command(&caller, &["send"]);
            command.current_dir(&stage.here);
            let from = Path::new(".").join(name);
            let ended = run_with(command.arg(from).arg(OsStr::from_bytes(&to)), b"")?;
            assert_eq!(ended.code, 0, "{name:?}: {ended:?}");
        }
        for name in names {
            let there = fs::read_to_string(stage.docs.join(folder).join(name))?;
            assert_eq!(there, format!("up {name:?}"));
        }
        assert_eq!(fs::read_dir(stage.docs.join(folder))?.count(), names.len());
    }
    let got = stage.here.join("got");
    fs::create_dir(&got)?;
    for name in names {
        let from = [b"nas:docs/", name.as_bytes()].concat();
        let mut command = stage.command(&["get"]);
        command.arg(OsStr::from_bytes(&from)).current_dir(&got);
        let ended = run_with(&mut command, b"")?;
        assert_eq!(ended.code, 0, "{name:?}: {ended:?}");
        assert_eq!(
            fs::read_to_string(got.join(name))?,
            format!("down {name:?}")
        );
    }
    assert_eq!(fs::read_dir(&got)?.count(), names.len());
    Ok(())
}

/// exFAT, as USB disks have it: upper and lower case are one name, and not every name is taken.
struct Exfat {
    device: String,
    path: PathBuf,
    image: PathBuf,
}

impl Exfat {
    fn mount(path: &Path) -> Result<Self> {
        let image = path.with_extension("image");
        File::create(&image)?.set_len(64 << 20)?;
        let mut make = Command::new("mkfs.exfat");
        ensure!(make.arg(&image).output()?.status.success());
        let mut losetup = Command::new("losetup");
        let device = losetup.args(["--find", "--show"]).arg(&image).output()?;
        ensure!(device.status.success(), "losetup needs root: {device:?}");
        let device = String::from_utf8(device.stdout)?.trim().to_owned();
        fs::create_dir(path)?;
        let disk = Self {
            device,
            path: path.to_owned(),
            image,
        };
        let mut mount = Command::new("mount.exfat-fuse");
        let mounted = mount.arg(&disk.device).arg(path).output()?;
        ensure!(mounted.status.success(), "{mounted:?}");
        Ok(disk)
    }
}

impl Drop for Exfat {
    fn drop(&mut self) {
        // The test has its result; what is left over goes with the machine.
        let _ = Command::new("umount").arg("-l").arg(&self.path).status();
        let _ = Command::new("losetup").arg("-d").arg(&self.device).status();
        let _ = fs::remove_file(&self.image);
    }
}

/// Where a file system takes two names for one, the second is refused, with and without `--overwrite`,
/// and also where the bytes are the same: nobody would find it under its name.
#[test]
fn two_names_that_are_one_there_are_never_two_files_under_one() -> Result<()> {
    let stage = Stage::new(true)?;
    let theirs = Exfat::mount(&stage.docs.join("disk"))?;
    let mine = Exfat::mount(&stage.here.join("disk"))?;
    fs::write(stage.here.join("Report"), "one")?;
    fs::write(stage.here.join("REPORT"), "two")?;
    fs::write(stage.here.join("report"), "one")?;
    fs::write(stage.here.join("a:b"), "not a name there")?;
    for name in ["Report", "REPORT", "report", "a:b"] {
        fs::copy(stage.here.join(name), stage.docs.join(name))?;
    }
    told(&stage.run(&["send", "Report", "nas:docs/disk/", "--json"]));
    told(&stage.run(&["get", "nas:docs/Report", "disk/", "--json"]));
    for (name, more) in [
        ("REPORT", &[][..]),
        ("REPORT", &["--overwrite"]),
        ("report", &[]),
        ("report", &["--overwrite"]),
        ("a:b", &[]),
    ] {
        let sent = stage.run(&[&["send", name, "nas:docs/disk/"], more].concat());
        let from = format!("nas:docs/{name}");
        let got = stage.run(&[&["get", &from, "disk/"], more].concat());
        for ended in [&sent, &got] {
            ensure!([2, 5].contains(&ended.code), "{name} {more:?}: {ended:?}");
            let last = ended.stderr.lines().last().unwrap_or_default();
            ensure!(last.contains(name), "{name} {more:?}: {last}");
            println!("{name} {more:?}: {} {last}", ended.code);
        }
        for disk in [&theirs, &mine] {
            assert_eq!(Stage::names(&disk.path)?, ["Report"], "{name} {more:?}");
            assert_eq!(fs::read_to_string(disk.path.join("Report"))?, "one");
        }
    }
    // The name itself is as good as ever.
    fs::write(stage.here.join("Report"), "new")?;
    fs::write(stage.docs.join("Report"), "new")?;
    told(&stage.run(&["send", "Report", "nas:docs/disk/", "--overwrite", "--json"]));
    told(&stage.run(&["get", "nas:docs/Report", "disk/", "--overwrite", "--json"]));
    for disk in [&theirs, &mine] {
        assert_eq!(Stage::names(&disk.path)?, ["Report"]);
        assert_eq!(fs::read_to_string(disk.path.join("Report"))?, "new");
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
