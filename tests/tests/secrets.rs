//! Passwords and codes as people and scripts give them, where they show, and who is told of a wrong
//! one; and that the agent's socket is its user's alone.

use std::{
    fs,
    io::{Read, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Stdio},
};

use ringback_protocol::{PeerId, secret::Psk};
use ringback_tests::{
    loopback::{self, Device, Ended, Greeter, PASSWORD, PATIENCE, Profile, run},
    registry::Registry,
};
use serde_json::{Value, json};
use tokio::task::block_in_place;

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

/// A device whose password is given by the environment.
async fn device_with(registry: &Registry, name: &str, password: &str) -> Device {
    let code = registry.code(json!({ "name": name })).await;
    let profile = Profile::new();
    let greeter = Greeter::start("hello").address.to_string();
    profile.ok(["expose", "hello", &greeter]);
    let mut up = profile.command([
        "up",
        "--json",
        "--registry",
        &registry.origin(),
        "--enroll",
        &code,
    ]);
    up.env("RINGBACK_PASSWORD", password);
    block_in_place(|| Device::up_as_is(profile, &registry.origin(), up))
}

fn call(caller: &Profile, registry: &str, device: &str, password: &str) -> Ended {
    let target = format!("{device}:hello");
    let mut pipe = caller.command(["pipe", &target, "--registry", registry]);
    block_in_place(|| run(pipe.env("RINGBACK_PASSWORD", password)))
}

#[track_caller]
fn assert_admitted(ended: &Ended) {
    assert_eq!((ended.code, &*ended.stdout), (0, "hello"), "{ended:?}");
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

const COMPOSED: &str = "caf\u{e9} au lait";
const DECOMPOSED: &str = "cafe\u{301} au lait";

#[tokio::test(flavor = "multi_thread")]
async fn the_same_letters_let_in_however_they_are_encoded() {
    let registry = registry();
    let url = registry.origin();
    let caller = Profile::new();
    let nas = device_with(&registry, "nas", DECOMPOSED).await;
    for given in [
        COMPOSED,
        DECOMPOSED,
        "caf\u{e9}\u{a0}au lait",
        "caf\u{e9} au lait\r",
    ] {
        assert_admitted(&call(&caller, &url, &nas.id, given));
    }
    assert_eq!(call(&caller, &url, &nas.id, "cafe au lait").code, 5);
    let attic = device_with(&registry, "attic", "with a CR\r").await;
    assert_admitted(&call(&caller, &url, &attic.id, "with a CR"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_that_an_earlier_version_kept_still_lets_in() {
    let registry = registry();
    let url = registry.origin();
    let caller = Profile::new();
    let mut nas = device(&registry, "nas").await;
    block_in_place(|| nas.process.kill9()).expect("it ends");
    for (kept, given, admitted) in [
        (DECOMPOSED, DECOMPOSED, true),
        ("with a CR\r", "with a CR\r", true),
        (COMPOSED, DECOMPOSED, true),
        (DECOMPOSED, "something else", false),
    ] {
        let id: PeerId = nas.id.parse().expect("an ID");
        let psk = Psk::from_password(kept, &id).expect("a password");
        nas.profile.write("password", hex(psk.as_bytes()));
        let up = nas.profile.command(["up", "--json", "--registry", &url]);
        nas = block_in_place(|| Device::up_as_is(nas.profile, &url, up));
        let ended = call(&caller, &url, &nas.id, given);
        if admitted {
            assert_admitted(&ended);
        } else {
            assert_eq!(ended.code, 5, "{ended:?}");
            assert!(ended.stderr.contains("wrong password"), "{ended:?}");
        }
        block_in_place(|| nas.process.kill9()).expect("it ends");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_variable_is_none() {
    let registry = registry();
    let url = registry.origin();
    let nas = device(&registry, "nas").await;
    let caller = Profile::new();
    let ended = block_in_place(|| loopback::call(&caller, &url, &nas.id, &["--remember"]));
    assert_admitted(&ended);
    let target = format!("{}:hello", nas.id);
    let mut pipe = caller.command(["pipe", &target, "--registry", &url]);
    for variable in ["PASSWORD", "REGISTRY_CA", "STUN", "DIR", "PORT", "REGISTRY"] {
        pipe.env(format!("RINGBACK_{variable}"), "");
    }
    assert_admitted(&block_in_place(|| run(&mut pipe)));
    let mut id = caller.command(["id"]);
    assert_eq!(run(id.env("RINGBACK_DIR", "")).code, 0);
}

/// What every user of the host can read of a process.
fn arguments(pid: u32) -> String {
    let read = fs::read(format!("/proc/{pid}/cmdline")).expect("it runs");
    String::from_utf8(read).expect("UTF-8").replace('\0', " ")
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_seen_in_the_list_of_processes() {
    let registry = registry();
    let url = registry.origin();
    let code = registry.code(json!({ "name": "nas" })).await;
    let nas = block_in_place(|| Device::start(&url, &code, "hello"));
    let shown = arguments(nas.process.pid());
    assert!(
        !shown.contains(PASSWORD) && !shown.contains(&code),
        "{shown}"
    );
    assert!(
        shown.contains("--password ***") && shown.contains(&url),
        "{shown}"
    );
    let caller = Profile::new();
    let given = format!("--password={PASSWORD}");
    let connect = caller.spawn([
        "connect",
        &nas.id,
        "-L",
        "0:hello",
        "--json",
        "--registry",
        &url,
        &given,
    ]);
    connect
        .stdout_line(PATIENCE, |line| line.contains("\"connected\""))
        .expect("it connects");
    let shown = arguments(connect.pid());
    assert!(!shown.contains(PASSWORD), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_comes_from_a_file_or_a_line_of_standard_input() {
    let registry = registry();
    let url = registry.origin();
    let nas = device(&registry, "nas").await;
    let caller = Profile::new();
    caller.write("secret", format!("{PASSWORD}\r\n"));
    let file = caller.file("secret");
    let target = format!("{}:hello", nas.id);
    let pipe =
        |file: &str| caller.command(["pipe", &target, "--registry", &url, "--password-file", file]);
    let ended = block_in_place(|| run(&mut pipe(file.to_str().expect("UTF-8"))));
    assert_admitted(&ended);
    let ended = block_in_place(|| {
        let mut child = pipe("-")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut input = child.stdin.take().expect("a pipe");
        writeln!(input, "{PASSWORD}").expect("it reads");
        drop(input);
        let output = child.wait_with_output().expect("it ends");
        Ended::from(output)
    });
    assert_admitted(&ended);
}

/// Reads on until `words` have come.
fn read_until(reader: &mut impl Read, words: &str) {
    let mut seen = Vec::new();
    let mut byte = [0];
    while !String::from_utf8_lossy(&seen).contains(words) {
        let read = reader.read(&mut byte).expect("it can be read");
        let so_far = String::from_utf8_lossy(&seen);
        assert_eq!(read, 1, "no '{words}' before the end: {so_far}");
        seen.push(byte[0]);
    }
}

/// As ssh runs its `ProxyCommand` with `ControlPersist`: standard error leads nowhere, standard input
/// is the connection's, and there is a terminal all the same.
#[tokio::test(flavor = "multi_thread")]
async fn the_terminal_is_asked_wherever_standard_error_leads() {
    let registry = registry();
    let url = registry.origin();
    let nas = device(&registry, "nas").await;
    let caller = Profile::new();
    let pipe = caller.command(["pipe"]);
    let command = format!(
        "{} --dir {} pipe {}:hello --registry {url} 2>/dev/null </dev/null",
        pipe.get_program().display(),
        caller.path().display(),
        nas.id
    );
    let mut script = Command::new("timeout");
    script
        .args(["--foreground", "30", "script", "--quiet", "--return"])
        .args(["--command", &command, "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    for (name, _) in pipe.get_envs() {
        script.env_remove(name);
    }
    block_in_place(|| {
        let mut child = script.spawn().expect("it starts");
        let mut input = child.stdin.take().expect("a pipe");
        let mut output = child.stdout.take().expect("a pipe");
        read_until(&mut output, "Password of ");
        writeln!(input, "{PASSWORD}").expect("it is read");
        read_until(&mut output, "hello");
        assert_eq!(child.wait().expect("it ends").code(), Some(0));
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn the_device_says_whom_it_refuses_and_why() {
    let registry = registry();
    let url = registry.origin();
    let nas = device(&registry, "nas").await;
    let caller = Profile::new();
    let id = caller.id();
    for _ in 0..3 {
        assert_eq!(call(&caller, &url, &nas.id, "wrong").code, 5);
    }
    let line = nas
        .process
        .stderr_line(PATIENCE, |line| line.contains("refused"))
        .expect("it says so");
    assert!(
        line.contains(&id[..9]) && line.contains("password"),
        "{line}"
    );
    let said = nas.process.stderr();
    assert_eq!(said.matches("refused").count(), 1, "once a minute: {said}");
}

/// The folder and its files may be open to all; the agent is not.
#[tokio::test(flavor = "multi_thread")]
async fn the_agents_socket_is_its_users_alone() {
    let registry = registry();
    let url = registry.origin();
    let code = registry.code(json!({ "name": "nas" })).await;
    let profile = Profile::new();
    profile.id();
    fs::set_permissions(profile.path(), fs::Permissions::from_mode(0o777)).expect("ours");
    let above = profile.path().parent().expect("a directory").to_owned();
    fs::set_permissions(above, fs::Permissions::from_mode(0o777)).expect("ours");
    let up = profile.command(["up", "--json", "--registry", &url, "--enroll", &code]);
    let mut open = Command::new("sh");
    open.args(["-c", "umask 000; exec \"$@\"", "sh"]);
    open.arg(up.get_program()).args(up.get_args());
    for (name, value) in up.get_envs() {
        assert!(value.is_none(), "bare");
        open.env_remove(name);
    }
    let nas = block_in_place(|| Device::up(profile, &url, open));
    let mode = |path: &Path| fs::metadata(path).expect("a file").permissions().mode() & 0o777;
    for file in nas.profile.files() {
        assert_eq!(mode(&nas.profile.file(&file)), 0o600, "{file}");
    }
    let socket = nas.profile.file("agent.sock");
    let ask = || {
        let mut nobody = Command::new("setpriv");
        nobody.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
        nobody.args(["perl", "-e", ASK]).arg(&socket);
        run(&mut nobody)
    };
    let ended = ask();
    assert!(ended.stderr.contains("Permission denied"), "{ended:?}");
    // Even where the socket's mode would let others in.
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o666)).expect("ours");
    let ended = ask();
    assert_eq!((ended.code, &*ended.stdout), (0, "got: \n"), "{ended:?}");
    nas.process
        .stderr_line(PATIENCE, |line| {
            line.contains("another user") && line.contains("65534")
        })
        .expect("it says so");
    let status: Value = nas.profile.status();
    assert_eq!(
        status["presence"]["state"], "registered",
        "the owner is served"
    );
}

/// Asks for the status as any program can, and shows what came back.
const ASK: &str = r#"
use Socket;
$SIG{PIPE} = "IGNORE";
socket(my $s, AF_UNIX, SOCK_STREAM, 0) or die $!;
connect($s, sockaddr_un($ARGV[0])) or die "connect: $!";
syswrite($s, "{\"ask\":\"status\"}\n");
sysread($s, my $answer, 65536);
print "got: $answer\n";
"#;
