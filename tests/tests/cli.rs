//! The `ringback` command as people and scripts meet it: what it says when something is wrong (one
//! line: what, and what to do), the exit code that goes with it, and that no half-written file
//! stays behind. The output of the main commands is kept in `cli/*.txt`; `UPDATE_SNAPSHOTS=1`
//! writes it anew.

use std::{
    ffi::OsStr,
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, UdpSocket},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Stdio},
};

use nix::sys::signal::Signal;
use ringback_tests::{
    lab::certificate::Authority,
    loopback::{self, Device, Ended, Greeter, PASSWORD, PATIENCE, Profile, bare, run},
    registry::Registry,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::block_in_place;
use xtask::workerd::Keypair;

const EXIT_OTHER: i32 = 1;
const EXIT_USAGE: i32 = 2;
const EXIT_REGISTRY: i32 = 3;
const EXIT_OFFLINE: i32 = 4;
const EXIT_REFUSED: i32 = 5;

/// The IDs of the examples in PROTOCOL.md.
const DEVICE: &str = "rb1uukz3ln33carpt7ywsud5aua2zxjmt26ye06l660xalp64lmpxxqj3hstk";
const CALLER: &str = "rb1genz04f8w0yatndxer7j3633a3aefe524r2zu2knrf6aerfya5rsxxn6ew";

/// One line that has all these words, and nothing on standard output.
#[track_caller]
fn assert_says(ended: &Ended, code: i32, words: &[&str]) {
    assert_eq!((ended.code, &*ended.stdout), (code, ""), "{ended:?}");
    let line = ended.stderr.strip_suffix('\n').unwrap_or_default();
    assert!(
        line.starts_with("ringback: ") && !line.contains('\n'),
        "not one line: {ended:?}"
    );
    for word in words {
        assert!(line.contains(word), "no '{word}': {ended:?}");
    }
}

/// An address on which nobody listens.
fn closed_port() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").to_string()
}

fn registry() -> Registry {
    Registry::with(|config| {
        // Everything stays on this host.
        config
            .bindings
            .insert("STUN_SERVERS".to_owned(), String::new());
    })
}

async fn device(registry: &Registry, name: &str) -> Device {
    let code = registry.code(json!({ "name": name })).await;
    block_in_place(|| Device::start(&registry.origin(), &code, "hello"))
}

/// The first ping goes out into the handshake, whose work is no part of the path.
#[tokio::test(flavor = "multi_thread")]
async fn the_round_trip_that_is_told_is_the_paths_own() {
    let registry = registry();
    let nas = device(&registry, "nas").await;
    let mut all = Vec::new();
    for _ in 0..5 {
        let caller = Profile::new();
        let ended = block_in_place(|| loopback::call(&caller, &registry.origin(), &nas.id, &[]));
        assert_eq!(ended.code, 0, "{ended:?}");
        let told = ended.stderr.lines().find_map(|line| {
            let ms = line.strip_prefix("connected directly, ")?;
            ms.strip_suffix(" ms")?.parse::<f64>().ok()
        });
        all.push(told.unwrap_or_else(|| panic!("no round trip: {ended:?}")));
    }
    // One of them may wait for a processor that others use.
    all.sort_by(f64::total_cmp);
    assert!(all[2] < 10.0, "{all:?} ms");
}

// Arguments.

#[test]
fn wrong_arguments_are_named() {
    let profile = Profile::new();
    let table: &[(&[&str], &str)] = &[
        (&["fly"], "unrecognized subcommand 'fly'"),
        (&["connect"], "required arguments were not provided"),
        (&["connect", "nas"], "-L <[BIND:]PORT:SERVICE>"),
        (
            &["connect", "nas", "-L", "web"],
            "'web' is not [BIND:]PORT:SERVICE, as in 8080:web",
        ),
        (&["connect", "nas", "-L", "99999:web"], "99999:web"),
        (&["connect", "nas", "-L", "80:We b"], "'We b': a name has"),
        (&["up", "--port", "99999"], "99999 is not in 0..=65535"),
        (&["up", "--keepalive-s", "0"], "0 is not in 1..=120"),
        (&["up", "--password-file"], "a value is required"),
        (&["up", "--stun", "nowhere"], "'nowhere' is not HOST:PORT"),
        (&["id", "--jsn"], "unexpected argument '--jsn'"),
    ];
    for (arguments, words) in table {
        let ended = profile.run(arguments.iter().copied());
        assert_eq!((ended.code, &*ended.stdout), (EXIT_USAGE, ""), "{ended:?}");
        assert!(ended.stderr.starts_with("error: "), "{ended:?}");
        assert!(ended.stderr.contains(words), "no '{words}': {ended:?}");
    }
    assert_eq!(profile.files(), Vec::<String>::new());
}

#[test]
fn wrong_names_and_addresses_are_named() {
    let profile = Profile::new();
    let table: &[(&[&str], &str)] = &[
        (
            &["expose", "Web Site", "127.0.0.1:80"],
            "'Web Site': a name has",
        ),
        (
            &["expose", "web", "80"],
            "'80' is not a service; one looks like 127.0.0.1:22",
        ),
        (
            &["unexpose", "web"],
            "no service is named 'web'; see: ringback services",
        ),
        (
            &["contacts", "add", "nas", "rb1foo"],
            "not a device ID: it has 6 characters",
        ),
        (&["contacts", "add", "NAS", DEVICE], "'NAS': a name has"),
        (
            &["contacts", "remove", "nas"],
            "no contact is named 'nas'; see: ringback contacts",
        ),
        (
            &["callers", "revoke", CALLER],
            "is not remembered; see: ringback callers",
        ),
        (&["callers", "remember", "nas"], "not a device ID"),
    ];
    for (arguments, words) in table {
        assert_says(
            &profile.run(arguments.iter().copied()),
            EXIT_USAGE,
            &[words],
        );
    }
    assert_eq!(profile.files(), Vec::<String>::new());
    profile.ok(["contacts", "add", "nas", DEVICE]);
    assert_says(
        &profile.run(["contacts", "add", "nas", CALLER]),
        EXIT_USAGE,
        &["'nas' is", DEVICE, "remove that contact first"],
    );
}

#[test]
fn a_mistyped_id_is_caught() {
    let profile = Profile::new();
    let mistyped = DEVICE.replace("uukz", "uukx");
    let table = [
        (
            &*mistyped,
            "the checksum does not fit, a character is mistyped",
        ),
        (&DEVICE[..60], "it has 60 characters, an ID has 61"),
        ("Rb1", "'Rb1' is neither a device ID nor a name"),
    ];
    for (device, words) in table {
        let arguments = [
            "connect",
            device,
            "-L",
            "0:web",
            "--registry",
            "http://127.0.0.1:9",
        ];
        assert_says(&profile.run(arguments), EXIT_USAGE, &[words]);
    }
    let arguments = ["pipe", "nas", "--registry", "http://127.0.0.1:9"];
    assert_says(
        &profile.run(arguments),
        EXIT_USAGE,
        &["'nas' names no service; write DEVICE:SERVICE, as nas:ssh"],
    );
}

// The registry.

#[test]
fn a_registry_address_is_checked() {
    let profile = Profile::new();
    let long = format!("https://{}.example", "a".repeat(70));
    let table = [
        (
            "http://registry.example",
            "plain http is for loopback only; use https://registry.example",
        ),
        ("http://192.168.1.5:8080", "plain http is for loopback only"),
        ("ftp://registry.example", "starts with https://, not ftp://"),
        (
            "https://registry.example/ringback",
            "only a scheme and a host, as https://registry.example",
        ),
        ("https://user@registry.example", "only a scheme and a host"),
        ("https://", "is not a registry address"),
        ("https://a b", "is not a registry address"),
        (&*long, "can not reach the registry"),
    ];
    for (url, words) in table {
        let ended = profile.run(["connect", "nas", "-L", "0:web", "--registry", url]);
        let code = if words.contains("reach") {
            EXIT_REGISTRY
        } else {
            EXIT_USAGE
        };
        assert_says(&ended, code, &[words]);
        if code == EXIT_USAGE {
            let ended = profile.run(["up", "--registry", url]);
            assert_says(&ended, code, &[words]);
        }
    }
    for arguments in [&["up"][..], &["connect", "nas", "-L", "0:web"]] {
        let ended = profile.run(arguments.iter().copied());
        assert_says(&ended, EXIT_USAGE, &["which registry? Give --registry"]);
    }
    assert!(
        !profile.file("config.toml").exists(),
        "nothing wrong is remembered"
    );
}

#[test]
fn a_registry_that_is_not_there_is_named() {
    let profile = Profile::new();
    let url = format!("http://{}", closed_port());
    let words = [
        "can not reach the registry at",
        &url,
        "Connection refused",
        "check its address and the network",
    ];
    for device in ["nas", DEVICE] {
        let arguments = [
            "connect",
            device,
            "-L",
            "0:web",
            "--registry",
            &url,
            "--password",
            "x",
        ];
        assert_says(&profile.run(arguments), EXIT_REGISTRY, &words);
    }
    let ended = profile.run(["up", "--registry", &url, "--enroll", "0000-0000-0000-0000"]);
    assert_says(&ended, EXIT_REGISTRY, &words);

    // An enrolled device goes on trying, and says so.
    let mut up = profile.spawn(["up", "--registry", &url]);
    up.stderr_line(PATIENCE, |line| {
        line.starts_with(
            "This device can not be called yet, trying again: can not reach the registry",
        )
    })
    .expect("it says so");
    let status = profile.ok(["status"]);
    assert!(
        status.contains("not connected: can not reach the registry"),
        "{status}"
    );
    let status = up.interrupt(PATIENCE).expect("it ends");
    assert_eq!(status.code(), Some(130));
}

/// Answers every HTTP request with a page for people.
fn web_server() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut request = [0; 4096];
            let _ = stream.read(&mut request);
            let page = "<html><body>Not Found</body></html>";
            let _ = write!(
                stream,
                "HTTP/1.1 404 Not Found\r\ncontent-type: text/html\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{page}",
                page.len()
            );
        }
    });
    url
}

#[test]
fn a_server_that_is_no_registry_is_named() {
    let profile = Profile::new();
    let url = web_server();
    let words = ["this is not a Ringback registry", "404"];
    for device in ["nas", DEVICE] {
        let arguments = [
            "connect",
            device,
            "-L",
            "0:web",
            "--registry",
            &url,
            "--stun",
            "127.0.0.1:9",
            "--password",
            "x",
        ];
        assert_says(&profile.run(arguments), EXIT_REGISTRY, &words);
    }
    let ended = profile.run(["up", "--registry", &url, "--enroll", "0000-0000-0000-0000"]);
    assert_says(&ended, EXIT_REGISTRY, &words);
    let mut up = profile.spawn(["up", "--registry", &url]);
    up.stderr_line(PATIENCE, |line| {
        line.contains(words[0]) && line.contains(words[1])
    })
    .expect("it says so");
    let status = up.interrupt(PATIENCE).expect("it ends");
    assert_eq!(status.code(), Some(130));
}

#[test]
fn certificates_are_checked() {
    let dir = TempDir::new().expect("a directory");
    let authority = Authority::create(dir.path()).expect("an authority");
    let others = TempDir::new().expect("a directory");
    let other = Authority::create(others.path()).expect("another authority");
    let read = |path| fs::read_to_string(path).expect("PEM");
    let registry = Registry::with(|config| {
        config.tls = Some(Keypair {
            certificate_chain: read(&authority.certificate),
            private_key: read(&authority.key),
        });
    });
    let url = format!("https://localhost:{}", registry.server.addr().port());
    let garbage = dir.path().join("garbage.pem");
    fs::write(&garbage, "no certificate\n").expect("a file");
    let broken = dir.path().join("broken.pem");
    fs::write(
        &broken,
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    )
    .expect("a file");
    let table: &[(&Path, i32, &str)] = &[
        (
            Path::new("/nonexistent/ca.pem"),
            EXIT_USAGE,
            "can not read the CA file /nonexistent/ca.pem: No such file",
        ),
        (
            &garbage,
            EXIT_USAGE,
            "garbage.pem holds no certificate in PEM form",
        ),
        (
            &broken,
            EXIT_USAGE,
            "broken.pem holds an unusable certificate",
        ),
        (
            &other.ca,
            EXIT_REGISTRY,
            "is not signed by a CA that is trusted here; for a private CA give --registry-ca FILE",
        ),
        (
            &authority.ca,
            EXIT_REGISTRY,
            "is for another name; is the registry's address right?",
        ),
    ];
    let profile = Profile::new();
    for (ca, code, words) in table {
        let ca = ca.to_str().expect("UTF-8");
        let ended = profile.run([
            "connect",
            "nas",
            "-L",
            "0:web",
            "--registry",
            &url,
            "--registry-ca",
            ca,
        ]);
        assert_says(&ended, *code, &[words]);
    }
    // Without the file, by the system's CAs.
    let ended = profile.run(["connect", "nas", "-L", "0:web", "--registry", &url]);
    assert_says(
        &ended,
        EXIT_REGISTRY,
        &["for a private CA give --registry-ca FILE"],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn enrolment_is_refused_in_words() {
    let registry = registry();
    let url = registry.origin();
    let profile = Profile::new();
    let up = |profile: &Profile, more: &[&str]| {
        let arguments = [&["up", "--registry", &url][..], more].concat();
        block_in_place(|| profile.run(arguments))
    };
    let ended = up(&profile, &[]);
    assert_says(
        &ended,
        EXIT_REGISTRY,
        &[
            "the registry does not know this device",
            "ringback up --enroll CODE",
        ],
    );
    let bad_code =
        "the enrolment code is unknown, used or expired; ask the registry's owner for another";
    assert_says(
        &up(&profile, &["--enroll", "0000-0000-0000-0000"]),
        EXIT_REGISTRY,
        &[bad_code],
    );
    assert_says(
        &up(&profile, &["--enroll", "what?"]),
        EXIT_REGISTRY,
        &[bad_code],
    );

    let used = registry.code(json!({ "name": "nas" })).await;
    let nas = block_in_place(|| Device::start(&url, &used, "hello"));
    assert_says(
        &up(&profile, &["--enroll", &used]),
        EXIT_REGISTRY,
        &[bad_code],
    );
    let fresh = registry.code(json!({})).await;
    assert_says(
        &up(&profile, &["--enroll", &fresh, "--name", "nas"]),
        EXIT_REGISTRY,
        &["another device of this name; choose one with --name"],
    );
    assert_says(
        &up(&profile, &["--enroll", &fresh, "--name", "My NAS"]),
        EXIT_USAGE,
        &["'My NAS': a name has"],
    );
    assert_eq!(
        profile.files(),
        ["agent.lock", "config.toml", "key"],
        "neither a socket, nor a password that nobody has seen"
    );

    let reply = registry
        .owner("DELETE", &format!("/v1/devices/{}", nas.id), Value::Null)
        .await;
    assert_eq!(reply.status, 204, "{reply:?}");
    nas.process
        .stderr_line(PATIENCE, |line| {
            line.contains("the registry's owner has revoked this device")
        })
        .expect("it says so");
    let Device {
        profile: revoked,
        mut process,
        ..
    } = nas;
    block_in_place(|| process.interrupt(PATIENCE)).expect("it ends");
    assert_says(
        &up(&revoked, &[]),
        EXIT_REGISTRY,
        &["has revoked this device; a new code enrols it again"],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_can_not_be_called_is_explained() {
    let registry = registry();
    let url = registry.origin();
    let mut nas = device(&registry, "nas").await;
    let caller = Profile::new();
    let call = |device: &str, more: &[&str]| {
        block_in_place(|| loopback::call(&caller, &url, device, more))
    };
    assert_says(
        &call("nosuch", &[]),
        EXIT_OFFLINE,
        &["neither a contact nor a device of the registry is named 'nosuch'"],
    );
    assert_says(
        &call(DEVICE, &[]),
        EXIT_OFFLINE,
        &["the registry does not know this device"],
    );
    assert_says(
        &call(&nas.id, &["--password", "wrong"]),
        EXIT_REFUSED,
        &["wrong password"],
    );
    assert_says(
        &call(&nas.id, &["--password", ""]),
        EXIT_USAGE,
        &["a password has 1 to 256 bytes"],
    );
    let target = format!("{}:nosuch", nas.id);
    let mut pipe = caller.command(["pipe", &target, "--registry", &url, "--password", PASSWORD]);
    assert_says(
        &block_in_place(|| run(&mut pipe)),
        EXIT_REFUSED,
        &["the device exposes no service of this name; it has: hello"],
    );
    // Nobody is there to be asked.
    let target = format!("{}:hello", nas.id);
    let pipe = caller.command(["pipe", &target, "--registry", &url]);
    let ended = block_in_place(|| run(&mut loopback::without_terminal(&pipe)));
    assert_says(
        &ended,
        EXIT_USAGE,
        &[
            "no password, and no terminal to ask for it: give --password-file or set RINGBACK_PASSWORD",
        ],
    );

    // A service that is away: told by the caller itself, and through the agent of its host too.
    block_in_place(|| nas.profile.ok(["expose", "away", &closed_port()]));
    let office = device(&registry, "office").await;
    for caller in [&caller, &office.profile] {
        let target = format!("{}:away", nas.id);
        let mut pipe =
            caller.command(["pipe", &target, "--registry", &url, "--password", PASSWORD]);
        let mut ended = block_in_place(|| run(&mut pipe));
        // The link may be told of before.
        if let Some((first, rest)) = ended.stderr.split_once('\n')
            && first.starts_with("connected directly")
        {
            ended.stderr = rest.to_owned();
        }
        assert_says(
            &ended,
            EXIT_REFUSED,
            &["the device can not reach its service 'away': Connection refused"],
        );
    }

    block_in_place(|| nas.process.kill9()).expect("it ends");
    let id = nas.id.parse().expect("an ID");
    registry.await_row(&id, "online", Value::Bool(false)).await;
    assert_says(
        &call(&nas.id, &[]),
        EXIT_OFFLINE,
        &["the device is offline, last seen ", " ago"],
    );
}

// Files.

#[test]
fn a_damaged_configuration_is_named_by_line() {
    let profile = Profile::new();
    let table = [
        (
            "registry = \"https://registry.example\"\nport = x\n",
            "config.toml, line 2: ",
        ),
        (
            "# mine\n\ncolour = \"red\"\n",
            "config.toml, line 3: unknown field `colour`",
        ),
        ("port = 99999\n", "config.toml, line 1: "),
        (
            "keepalive_s = 500\n",
            "config.toml: keepalive_s is 1 to 120",
        ),
        (
            "[services]\nssh = \"22\"\n",
            "config.toml, line 2: '22' is not a service",
        ),
        (
            "[services]\n\"My Web\" = \"127.0.0.1:80\"\n",
            "config.toml: service 'My Web': a name has",
        ),
        (
            "[services]\nweb = \"127.0.0.1:80\"\nweb = \"127.0.0.1:81\"\n",
            "config.toml, line 3: duplicate key",
        ),
    ];
    for (text, words) in table {
        profile.write("config.toml", text);
        for arguments in [
            &["services"][..],
            &["expose", "ssh", "127.0.0.1:22"],
            &["unexpose", "ssh"],
            &["up"],
            &["connect", "nas", "-L", "0:web"],
        ] {
            let ended = profile.run(arguments.iter().copied());
            assert_says(&ended, EXIT_USAGE, &[words]);
        }
        let after = fs::read_to_string(profile.file("config.toml")).expect("a file");
        assert_eq!(after, text, "it is left alone");
    }
    profile.write("config.toml", b"\xff\xfe");
    assert_says(
        &profile.run(["services"]),
        EXIT_USAGE,
        &["can not read", "config.toml", "UTF-8"],
    );
}

#[test]
fn a_persons_configuration_is_kept() {
    let profile = Profile::new();
    let text = "# The office.\nport = 4000 # mapped by hand\n\n[services]\n# the printer\nprint = \"192.168.1.9:631\"\n";
    profile.write("config.toml", text);
    profile.ok(["expose", "ssh", "127.0.0.1:22"]);
    let after = fs::read_to_string(profile.file("config.toml")).expect("a file");
    assert_eq!(after, format!("{text}ssh = \"127.0.0.1:22\"\n"));
    profile.ok(["unexpose", "ssh"]);
    let after = fs::read_to_string(profile.file("config.toml")).expect("a file");
    assert_eq!(after, text);
}

#[test]
fn damaged_and_open_files_are_named() {
    let profile = Profile::new();
    for (file, command) in [("contacts.json", "contacts"), ("callers.json", "callers")] {
        profile.write(file, "{\"half\": ");
        let ended = profile.run([command]);
        assert_says(
            &ended,
            EXIT_USAGE,
            &[file, "is damaged", "repair or remove it"],
        );
        let after = fs::read_to_string(profile.file(file)).expect("a file");
        assert_eq!(after, "{\"half\": ", "it is left alone");
        fs::remove_file(profile.file(file)).expect("it was there");
    }

    let id = profile.id();
    let mode = |mode| {
        fs::set_permissions(profile.file("key"), fs::Permissions::from_mode(mode)).expect("ours");
    };
    mode(0o640);
    assert_says(
        &profile.run(["id"]),
        EXIT_USAGE,
        &["key can be read by others (mode 0640); run: chmod 600 "],
    );
    mode(0o600);
    assert_eq!(profile.id(), id, "the key is the same");
    for damaged in ["", "rb1", &"0".repeat(63), &"x".repeat(64)] {
        profile.write("key", damaged);
        assert_says(
            &profile.run(["id"]),
            EXIT_USAGE,
            &["key is damaged", "restore it from a backup"],
        );
    }
    fs::remove_file(profile.file("key")).expect("it was there");
    fs::create_dir(profile.file("key")).expect("a directory");
    mode(0o700);
    assert_says(
        &profile.run(["id"]),
        EXIT_USAGE,
        &["can not read", "/key: Is a directory"],
    );

    let ended = run(bare().args(["--dir", "/dev/null/ringback", "id"]));
    assert_says(
        &ended,
        EXIT_USAGE,
        &["can not make the directory /dev/null/ringback"],
    );
}

#[test]
fn files_of_an_agent_are_its_owners_alone() {
    let profile = Profile::new();
    profile.id();
    profile.ok(["expose", "ssh", "127.0.0.1:22"]);
    profile.ok(["contacts", "add", "nas", DEVICE]);
    let mode = |path: &Path| fs::metadata(path).expect("a file").permissions().mode() & 0o777;
    assert_eq!(mode(&profile.path()), 0o700);
    for file in profile.files() {
        assert_eq!(mode(&profile.file(&file)), 0o600, "{file}");
    }
    assert_eq!(profile.files(), ["config.toml", "contacts.json", "key"]);
}

/// Runs `ringback` with a directory that is a file system of its own, prepared by a shell script
/// that has it as `$D`. What is mounted goes with the process.
fn on_tmpfs(options: &str, prepare: &str, arguments: &[&str]) -> (Ended, Vec<String>) {
    let dir = TempDir::new().expect("a directory");
    let script = format!(
        "mount -t tmpfs -o {options} tmpfs \"$D\" && {prepare}; \"$@\"; code=$?; ls \"$D\" >\"$D.list\"; exit $code"
    );
    let target = dir.path().join("profile");
    fs::create_dir(&target).expect("a directory");
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "sh", "-c", &script, "sh"])
        .env("D", &target);
    command
        .arg(bare().get_program())
        .arg("--dir")
        .arg(&target)
        .args(arguments);
    let ended = run(&mut command);
    let list = fs::read_to_string(target.with_extension("list")).expect("a list");
    (ended, list.lines().map(str::to_owned).collect())
}

#[test]
fn a_full_disk_leaves_nothing_half_written() {
    // One page, and something in it.
    let full = "head -c 1000000 /dev/zero 2>/dev/null >\"$D/fill\" 2>/dev/null || true";
    for arguments in [
        &["id"][..],
        &["expose", "ssh", "127.0.0.1:22"],
        &["contacts", "add", "nas", DEVICE],
        &["callers", "remember", CALLER],
        &["up", "--registry", "http://127.0.0.1:9"],
    ] {
        let (ended, files) = on_tmpfs("size=4k,mode=700", full, arguments);
        assert_says(
            &ended,
            EXIT_USAGE,
            &["can not write", "No space left on device"],
        );
        let left: Vec<_> = files
            .iter()
            .filter(|file| !["fill", "agent.lock"].contains(&&***file))
            .collect();
        assert_eq!(left, Vec::<&String>::new(), "{arguments:?}");
    }
}

#[test]
fn a_read_only_directory_is_named() {
    let read_only = "mount -o remount,ro \"$D\"";
    for arguments in [
        &["id"][..],
        &["expose", "ssh", "127.0.0.1:22"],
        &["up", "--registry", "http://127.0.0.1:9"],
    ] {
        let (ended, files) = on_tmpfs("size=1m,mode=700", read_only, arguments);
        assert_says(
            &ended,
            EXIT_USAGE,
            &["can not write", "Read-only file system"],
        );
        assert_eq!(files, Vec::<String>::new(), "{arguments:?}");
    }
    // What needs nothing written works.
    let (ended, _) = on_tmpfs("size=1m,mode=700", read_only, &["services", "--json"]);
    assert_eq!((ended.code, &*ended.stdout), (0, "{}\n"), "{ended:?}");
}

// A code works once.

/// Runs `up` with a code, which has to fail on this host; the code is as good as before.
#[tokio::test(flavor = "multi_thread")]
async fn what_fails_on_this_host_fails_before_the_code_is_used() {
    let registry = registry();
    let url = registry.origin();
    let code = registry.code(json!({ "name": "nas" })).await;
    let taken = UdpSocket::bind("[::]:0").expect("a port");
    let port = taken.local_addr().expect("an address").port().to_string();
    let profile = Profile::new();
    let up = |more: &[&str]| {
        let arguments = [&["up", "--registry", &url, "--enroll", &code], more].concat();
        block_in_place(|| profile.run(arguments))
    };
    assert_says(
        &up(&["--port", &port]),
        EXIT_USAGE,
        &["can not use UDP port"],
    );
    assert_says(
        &up(&["--password-file", "/nonexistent"]),
        EXIT_USAGE,
        &["no password can be read from /nonexistent: No such file"],
    );
    profile.write("callers.json", "{");
    assert_says(&up(&[]), EXIT_USAGE, &["callers.json is damaged"]);
    fs::remove_file(profile.file("callers.json")).expect("it was there");
    // A folder where the control socket belongs.
    fs::create_dir(profile.file("agent.sock")).expect("a directory");
    assert_says(&up(&[]), EXIT_USAGE, &["can not make the control socket"]);
    fs::remove_dir(profile.file("agent.sock")).expect("it was there");
    let used = registry
        .code(json!({ "name": "beacon", "role": "beacon" }))
        .await;
    let beacon = Profile::new();
    let arguments = [
        "beacon",
        "--registry",
        &url,
        "--enroll",
        &used,
        "--port",
        &port,
    ];
    let ended = block_in_place(|| beacon.run(arguments));
    assert_says(&ended, EXIT_USAGE, &["can not use port", &port]);
    drop(taken);
    let arguments = [
        "beacon",
        "--json",
        "--registry",
        &url,
        "--enroll",
        &used,
        "--port",
        &port,
    ];
    let process = beacon.spawn(arguments);
    process
        .stdout_line(PATIENCE, |line| line.contains("\"registered\":true"))
        .expect("the beacon's code still works");

    // The same code, and a directory far longer than a socket's address.
    let dir = TempDir::new().expect("a directory");
    let long = dir.path().join("d".repeat(120));
    let greeter = Greeter::start("hello").address.to_string();
    let mut expose = bare();
    expose
        .arg("--dir")
        .arg(&long)
        .args(["expose", "hello", &greeter]);
    assert_eq!(run(&mut expose).code, 0);
    let mut up = bare();
    up.arg("--dir").arg(&long);
    up.args(["up", "--json", "--registry", &url, "--enroll", &code]);
    let _nas = block_in_place(|| Device::up(profile, &url, up));
    let mut status = bare();
    status.arg("--dir").arg(&long).args(["status", "--json"]);
    let ended = run(&mut status);
    assert!(ended.stdout.contains("\"registered\""), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_without_a_code_is_not_ignored_in_silence() {
    let registry = registry();
    let url = registry.origin();
    let mut nas = device(&registry, "nas").await;
    block_in_place(|| nas.process.kill9()).expect("it ends");
    for (name, is_said) in [("nas", false), ("attic", true)] {
        let mut up = nas
            .profile
            .spawn(["up", "--registry", &url, "--name", name]);
        up.stderr_line(PATIENCE, |line| line.starts_with("From elsewhere"))
            .expect("it is up");
        if is_said {
            up.stderr_line(PATIENCE, |line| {
                line.contains("--name attic changes nothing: this key is enrolled as nas")
            })
            .expect("it says so");
        }
        block_in_place(|| up.interrupt(PATIENCE)).expect("it ends");
        assert_eq!(up.stderr().contains("changes nothing"), is_said);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_port_can_carry_is_said_with_the_command_for_it() {
    let registry = registry();
    let url = registry.origin();
    let nas = device(&registry, "nas").await;
    let docs = format!("files:{}", nas.profile.path().display());
    for (name, service) in [("shell", "shell"), ("docs", &*docs), ("dial", "dial")] {
        block_in_place(|| nas.profile.ok(["expose", name, service]));
    }
    let office = device(&registry, "office").await;
    let caller = Profile::new();
    // By itself, and through the agent of its host.
    for caller in [&caller, &office.profile] {
        for (service, words) in [
            ("shell", "'shell' is a terminal"),
            ("docs", "'docs' is a folder"),
            ("dial", "'dial' has the device call others"),
        ] {
            let listen = format!("0:{service}");
            let arguments = [
                "connect",
                &nas.id,
                "-L",
                "0:hello",
                "-L",
                &listen,
                "--registry",
                &url,
                "--password",
                PASSWORD,
            ];
            let ended = block_in_place(|| caller.run(arguments));
            assert_eq!(ended.code, EXIT_USAGE, "{ended:?}");
            assert!(ended.stderr.contains(words), "{ended:?}");
        }
        let target = format!("{}:shell", nas.id);
        let arguments = ["pipe", &target, "--registry", &url, "--password", PASSWORD];
        let mut command = caller.command(arguments);
        // Something that still comes, as from a terminal.
        let (reader, _writer) = std::io::pipe().expect("a pipe");
        command
            .stdin(reader)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let output = block_in_place(|| command.output()).expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(EXIT_USAGE), "{said}");
        assert!(
            said.contains(&format!("use: ringback shell {}", nas.id)),
            "{said}"
        );
    }
}

// JSON.

#[test]
fn every_error_is_one_json_object_where_json_is_wanted() {
    let profile = Profile::new();
    let closed = format!("http://{}", closed_port());
    let table: &[(&[&str], i32, &str, &str)] = &[
        (&["status"], EXIT_OTHER, "other", "no agent runs here"),
        (&["fly"], EXIT_USAGE, "usage", "unrecognized subcommand"),
        (
            &["connect", "nas"],
            EXIT_USAGE,
            "usage",
            "required arguments",
        ),
        (&["up"], EXIT_USAGE, "usage", "which registry?"),
        (
            &["expose", "web", "80"],
            EXIT_USAGE,
            "usage",
            "is not a service",
        ),
        (
            &["unexpose", "web"],
            EXIT_USAGE,
            "usage",
            "no service is named",
        ),
        (
            &["contacts", "remove", "nas"],
            EXIT_USAGE,
            "usage",
            "no contact",
        ),
        (
            &["callers", "revoke", CALLER],
            EXIT_USAGE,
            "usage",
            "is not remembered",
        ),
        (
            &["get", "nas:docs/a", "--registry", &closed],
            EXIT_REGISTRY,
            "registry",
            "can not reach the registry",
        ),
        (
            &["shell", "nas", "--registry", &closed],
            EXIT_REGISTRY,
            "registry",
            "can not reach the registry",
        ),
    ];
    for (arguments, exit, code, words) in table {
        let ended = profile.run([&["--json"], *arguments].concat());
        assert_eq!((ended.code, &*ended.stdout), (*exit, ""), "{ended:?}");
        let told: Value = serde_json::from_str(&ended.stderr)
            .unwrap_or_else(|error| panic!("{arguments:?}: {error}: {ended:?}"));
        let error = &told["error"];
        assert_eq!(
            (&error["exit"], &error["code"]),
            (&json!(exit), &json!(code))
        );
        let message = error["message"].as_str().expect("a message");
        assert!(message.contains(words), "no '{words}': {ended:?}");
    }
    // And what succeeds tells what it has done.
    for (arguments, told) in [
        (
            &["expose", "ssh", "127.0.0.1:22"][..],
            json!({ "name": "ssh", "service": "127.0.0.1:22", "running": false }),
        ),
        (
            &["unexpose", "ssh"],
            json!({ "name": "ssh", "running": false }),
        ),
        (
            &["contacts", "add", "nas", DEVICE],
            json!({ "name": "nas", "id": DEVICE }),
        ),
        (
            &["contacts", "remove", "nas"],
            json!({ "name": "nas", "removed": true }),
        ),
        (
            &["callers", "remember", CALLER],
            json!({ "caller": CALLER, "remembered": true }),
        ),
        (
            &["callers", "revoke", CALLER],
            json!({ "caller": CALLER, "remembered": false }),
        ),
    ] {
        let ended = profile.run([&["--json"], arguments].concat());
        let said: Value = serde_json::from_str(&ended.stdout).expect("JSON");
        assert_eq!((said, &*ended.stderr), (told, ""), "{arguments:?}");
    }
}

#[test]
fn a_port_that_speaks_no_tls_is_named() {
    let plain = web_server().replace("http://", "https://");
    let profile = Profile::new();
    let ended = profile.run(["connect", "nas", "-L", "0:web", "--registry", &plain]);
    assert_says(
        &ended,
        EXIT_REGISTRY,
        &["does not speak TLS; is the port right", &plain],
    );
}

// Ports, networks, clocks.

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_is_named() {
    let registry = registry();
    let url = registry.origin();
    let taken = UdpSocket::bind("[::]:0").expect("a port");
    let port = taken.local_addr().expect("an address").port().to_string();
    let profile = Profile::new();
    let ended = block_in_place(|| profile.run(["up", "--registry", &url, "--port", &port]));
    assert_says(&ended, EXIT_USAGE, &["can not use UDP port", &port]);
    assert!(
        !profile.file("config.toml").exists(),
        "what does not work is not remembered"
    );

    let nas = device(&registry, "nas").await;
    let office = device(&registry, "office").await;
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let listen = format!("{address}:hello");
    // By itself, and through the agent of this host.
    for caller in [&profile, &office.profile] {
        let arguments = [
            "connect",
            &nas.id,
            "-L",
            &listen,
            "--registry",
            &url,
            "--password",
            PASSWORD,
        ];
        assert_says(
            &block_in_place(|| caller.run(arguments)),
            EXIT_USAGE,
            &[
                "can not listen on",
                &address,
                "Address already in use",
                "choose another port",
            ],
        );
    }
}

#[test]
fn without_a_network_it_says_so() {
    let profile = Profile::new();
    // A network namespace of its own, in which not even the loopback is up.
    let isolated = |arguments: &[&str]| {
        let command = profile.command(arguments.iter().copied());
        let mut isolated = Command::new("unshare");
        isolated
            .arg("--net")
            .arg(command.get_program())
            .args(command.get_args());
        run(&mut isolated)
    };
    for url in ["https://192.0.2.1", "https://registry.example"] {
        let ended = isolated(&["connect", "nas", "-L", "0:web", "--registry", url]);
        assert_says(
            &ended,
            EXIT_REGISTRY,
            &[
                "can not reach the registry at",
                url,
                "check its address and the network",
            ],
        );
    }
}

/// The same command with a clock that is off. The library is preloaded here: the `faketime` program
/// stays in front of the command, and would be killed in its place.
fn at(offset: &str, mut command: Command) -> Command {
    let library = Command::new("faketime")
        .args(["-f", "+0", "printenv", "LD_PRELOAD"])
        .output()
        .expect("faketime is installed: run `cargo xtask setup`");
    let library = String::from_utf8(library.stdout).expect("UTF-8");
    assert!(!library.trim().is_empty(), "faketime preloads a library");
    command
        .env("LD_PRELOAD", library.trim())
        .env("FAKETIME", offset)
        // Waits are not to be stretched or cut.
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn a_callers_clock_may_be_a_day_off() {
    let registry = registry();
    let url = registry.origin();
    let nas = device(&registry, "nas").await;
    for (offset, off) in [("-1d", "behind"), ("+1d", "ahead of")] {
        let caller = Profile::new();
        let target = format!("{}:hello", nas.id);
        let pipe = caller.command(["pipe", &target, "--registry", &url, "--password", PASSWORD]);
        let ended = block_in_place(|| run(&mut at(offset, pipe)));
        assert_eq!(
            (ended.code, &*ended.stdout),
            (0, "hello"),
            "{offset}: {ended:?}"
        );
        assert!(
            ended.stderr.contains(&format!("h {off} the device's")),
            "{offset}: {ended:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_devices_clock_may_be_a_day_off() {
    let registry = registry();
    let url = registry.origin();
    for (name, offset, off, other) in [
        ("early", "-1d", "behind", "ahead of"),
        ("late", "+1d", "ahead of", "behind"),
    ] {
        let profile = Profile::new();
        let greeter = Greeter::start("hello").address.to_string();
        profile.ok(["expose", "hello", &greeter]);
        let code = registry.code(json!({ "name": name })).await;
        let up = profile.command(["up", "--json", "--registry", &url, "--enroll", &code]);
        let device = block_in_place(|| Device::up(profile, &url, at(offset, up)));
        device
            .process
            .stderr_line(PATIENCE, |line| {
                line.contains(&format!("this host's clock is 24 h {off} the registry's"))
                    || line.contains(&format!("this host's clock is 23 h {off} the registry's"))
            })
            .expect("the device is told too");
        let caller = Profile::new();
        let ended = block_in_place(|| loopback::call(&caller, &url, &device.id, &[]));
        assert_eq!(
            (ended.code, &*ended.stdout),
            (0, "hello"),
            "{offset}: {ended:?}"
        );
        assert!(
            ended.stderr.contains(&format!("h {other} the device's")),
            "{offset}: {ended:?}"
        );
    }
}

// Beginning and end.

#[test]
fn a_reader_that_has_gone_is_no_error() {
    let profile = Profile::new();
    profile.ok(["expose", "ssh", "127.0.0.1:22"]);
    for arguments in [
        &["id"][..],
        &["services"],
        &["--help"],
        &["contacts", "--json"],
    ] {
        for closed in ["stdout", "both"] {
            let (reader, writer) = std::io::pipe().expect("a pipe");
            drop(reader);
            let mut command = profile.command(arguments.iter().copied());
            command
                .stdin(Stdio::null())
                .stdout(writer.try_clone().expect("a pipe"));
            if closed == "both" {
                command.stderr(writer);
            } else {
                command.stderr(Stdio::piped());
            }
            let output = command.output().expect("it runs");
            assert_eq!(
                output.status.code(),
                Some(0),
                "{arguments:?} {closed}: {output:?}"
            );
            assert_eq!(String::from_utf8_lossy(&output.stderr), "");
        }
    }
    // An error stays one.
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let mut command = profile.command(["status"]);
    let status = command
        .stdout(writer.try_clone().expect("a pipe"))
        .stderr(writer)
        .status();
    assert_eq!(status.expect("it runs").code(), Some(EXIT_OTHER));
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_end_it_cleanly() {
    let registry = registry();
    let url = registry.origin();
    for (signal, code) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
        let mut nas = device(&registry, &format!("nas-{}", signal as i32)).await;
        assert!(nas.profile.file("agent.sock").exists());
        let caller = Profile::new();
        let arguments = [
            "connect",
            &nas.id,
            "-L",
            "0:hello",
            "--registry",
            &url,
            "--json",
            "--password",
            PASSWORD,
        ];
        let mut connect = caller.spawn(arguments);
        connect
            .stdout_line(PATIENCE, |line| line.contains("\"connected\""))
            .expect("it connects");
        for process in [&mut connect, &mut nas.process] {
            process.signal(signal).expect("it is there");
            let status = block_in_place(|| process.wait(PATIENCE)).expect("it ends");
            assert_eq!(status.code(), Some(code), "{signal}");
        }
        assert!(
            !nas.profile.file("agent.sock").exists(),
            "{signal}: the socket is left"
        );
        let id = nas.id.parse().expect("an ID");
        registry.await_row(&id, "online", Value::Bool(false)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_profile_has_one_agent() {
    let registry = registry();
    let url = registry.origin();
    let nas = device(&registry, "nas").await;
    let ended = block_in_place(|| nas.profile.run(["up", "--registry", &url]));
    assert_says(
        &ended,
        EXIT_USAGE,
        &["an agent of this profile runs already; see: ringback status"],
    );
    assert_eq!(
        nas.profile.status()["presence"]["state"],
        "registered",
        "the first is unharmed"
    );
    // A socket that a killed agent left behind is no agent.
    let mut nas = nas;
    block_in_place(|| nas.process.kill9()).expect("it ends");
    assert!(nas.profile.file("agent.sock").exists());
    assert_says(
        &nas.profile.run(["status"]),
        EXIT_OTHER,
        &["no agent runs here; start it with: ringback up"],
    );
    let nas = block_in_place(|| nas.restart());
    assert_eq!(nas.profile.status()["presence"]["state"], "registered");
}

// What it says when all is well.

/// Compares with the file `cli/NAME.txt`, or writes it.
#[track_caller]
fn assert_snapshot(name: &str, said: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/cli")
        .join(name)
        .with_extension("txt");
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some_and(|value| value != OsStr::new("0")) {
        fs::write(&path, said).expect("it can be written");
        return;
    }
    let kept = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        said,
        kept,
        "{}; UPDATE_SNAPSHOTS=1 writes it anew",
        path.display()
    );
}

/// A command and all that it says, with what differs from run to run replaced.
fn transcript(profile: &Profile, commands: &[&[&str]]) -> String {
    let mut text = String::new();
    for arguments in commands {
        let mut command = profile.command(arguments.iter().copied());
        let ended = run(command.env("COLUMNS", "100"));
        text += &format!("$ ringback {}\n{}", arguments.join(" "), ended.stdout);
        for line in ended.stderr.lines() {
            text += format!("2> {line}").trim_end();
            text += "\n";
        }
        if ended.code != 0 {
            text += &format!("exit code {}\n", ended.code);
        }
        text += "\n";
    }
    text.replace(&profile.path().display().to_string(), "[DIR]")
}

#[test]
fn help() {
    let profile = Profile::new();
    let commands = [
        "up", "beacon", "expose", "unexpose", "services", "connect", "pipe", "shell", "get",
        "send", "status", "contacts", "callers", "id",
    ];
    let help: Vec<[&str; 2]> = commands
        .iter()
        .map(|command| [*command, "--help"])
        .collect();
    let mut all: Vec<&[&str]> = vec![&["--help"]];
    all.extend(help.iter().map(|arguments| &arguments[..]));
    assert_snapshot("help", &transcript(&profile, &all));
}

#[test]
fn commands_of_one_host() {
    let profile = Profile::new();
    let commands: &[&[&str]] = &[
        &["status"],
        &["services"],
        &["expose", "ssh", "127.0.0.1:22"],
        &["expose", "web", "http://192.168.1.5"],
        &["services"],
        &["services", "--json"],
        &["unexpose", "web"],
        &["contacts"],
        &["contacts", "add", "nas", DEVICE],
        &["contacts"],
        &["contacts", "--json"],
        &["contacts", "remove", "nas"],
        &["callers"],
    ];
    assert_snapshot("host", &transcript(&profile, commands));
}

#[test]
fn remembered_callers() {
    let profile = Profile::new();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let since = now.expect("after 1970").as_secs() - 3 * 86_400;
    let callers = json!({ CALLER: { "since": since, "last_call": since } });
    profile.write("callers.json", callers.to_string());
    let commands: &[&[&str]] = &[&["callers"], &["callers", "revoke", CALLER], &["callers"]];
    assert_snapshot("callers", &transcript(&profile, commands));
}

#[test]
fn an_id_is_one_line_of_its_own() {
    let profile = Profile::new();
    profile.write("key", format!("{}\n", "d0".repeat(32)));
    let commands: &[&[&str]] = &[&["id"], &["id", "--json"]];
    assert_snapshot("id", &transcript(&profile, commands));
}

/// A device's first start, and what the other commands then say.
#[tokio::test(flavor = "multi_thread")]
async fn a_device_and_a_call() {
    let registry = registry();
    let url = registry.origin();
    let code = registry.code(json!({ "name": "nas" })).await;
    let profile = Profile::new();
    let greeter = Greeter::start("hello").address.to_string();
    profile.ok(["expose", "hello", &greeter]);
    profile.write("key", format!("{}\n", "d0".repeat(32)));
    let up = profile.spawn(["up", "--registry", &url, "--enroll", &code]);
    up.stderr_line(PATIENCE, |line| line.starts_with("From elsewhere"))
        .expect("it is up");
    let said = up.stderr();
    let password = said
        .lines()
        .find_map(|line| line.trim().strip_prefix("Password  "))
        .and_then(|rest| rest.split_whitespace().next())
        .expect("a password is made");
    assert_eq!(password.len(), 14, "three groups of four: {password}");
    let caller = Profile::new();
    let pipe = [
        "pipe",
        "nas:hello",
        "--registry",
        &url,
        "--password",
        password,
        "--remember",
    ];
    let ended = block_in_place(|| caller.run(pipe));
    assert_eq!((ended.code, &*ended.stdout), (0, "hello"), "{ended:?}");
    let port = profile.status()["udp_port"].to_string();
    let shown = format!(
        "$ ringback up --registry https://registry.example --enroll CODE\n{said}\n\n$ ringback status\n{}\n$ ringback pipe nas:hello --remember\n{}\n",
        profile.ok(["status"]),
        ended.stderr,
    );
    // Links end after the command does, so they may be listed or not.
    let shown: String = shown
        .lines()
        .filter(|line| !line.starts_with("Link "))
        .map(|line| format!("{line}\n"))
        .collect();
    let shown = shown
        .replace(&url, "https://registry.example")
        .replace(&greeter, "127.0.0.1:[PORT]")
        .replace(&format!("port {port}"), "port [PORT]")
        .replace(password, "[PASSWORD]");
    let shown: String = shown
        .lines()
        .map(|line| match line.split_once("connected directly, ") {
            Some((before, _)) => format!("{before}connected directly, [RTT]\n"),
            None => format!("{line}\n"),
        })
        .collect();
    assert_snapshot("device", &shown);
    let remembered = caller.ok(["contacts"]);
    assert_eq!(
        remembered,
        format!("nas\t{DEVICE}\tremembers this caller\n")
    );
    let target = ["pipe", "nas:hello", "--registry", &url];
    let ended = block_in_place(|| caller.run(target));
    assert_eq!(
        (ended.code, &*ended.stdout),
        (0, "hello"),
        "no password is needed: {ended:?}"
    );
}
