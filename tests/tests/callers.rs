//! Who may call a device without a password, who is connected to it, and how that ends.

use std::time::Instant;

use ringback_tests::{
    agent::PATIENCE,
    loopback::{self, Device, Ended, Greeter, PASSWORD, Profile},
    registry::Registry,
};
use serde_json::{Value, json};
use tokio::task::block_in_place;

const EXIT_USAGE: i32 = 2;
const EXIT_REFUSED: i32 = 5;
const OTHER: &str = "sesame, close again";

fn registry() -> Registry {
    Registry::with(|config| {
        // Everything stays on this host.
        config
            .bindings
            .insert("STUN_SERVERS".to_owned(), String::new());
    })
}

async fn device(registry: &Registry) -> Device {
    let code = registry.code(json!({ "name": "nas" })).await;
    block_in_place(|| Device::start(&registry.origin(), &code, "hello"))
}

/// Ends the device's agent, and starts it again with more arguments.
fn again(mut device: Device, registry: &Registry, more: &[&str]) -> Device {
    let url = registry.origin();
    block_in_place(|| {
        device.process.kill9().expect("it ends");
        let mut up = device.profile.command(["up", "--json", "--registry", &url]);
        up.args(more);
        Device::up_as_is(device.profile, &url, up)
    })
}

fn call(caller: &Profile, registry: &Registry, device: &Device, more: &[&str]) -> Ended {
    block_in_place(|| loopback::call(caller, &registry.origin(), &device.id, more))
}

/// Calls without a password.
fn call_by_key(caller: &Profile, registry: &Registry, device: &Device) -> Ended {
    let target = format!("{}:hello", device.id);
    let pipe = ["pipe", &target, "--registry", &registry.origin()];
    block_in_place(|| loopback::run(&mut caller.command(pipe)))
}

#[track_caller]
fn assert_admitted(ended: &Ended) {
    assert_eq!((ended.code, &*ended.stdout), (0, "hello"), "{ended:?}");
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !block_in_place(&mut is_so) {
        assert!(start.elapsed() < PATIENCE, "not in time: {what}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

fn callers(device: &Device) -> Value {
    let callers = block_in_place(|| device.profile.ok(["callers", "--json"]));
    serde_json::from_str(&callers).expect("JSON")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_password_ends_what_the_old_one_gave_and_says_so() {
    let registry = registry();
    let device = device(&registry).await;
    let [friend, by_hand] = [Profile::new(), Profile::new()];
    assert_admitted(&call(&friend, &registry, &device, &["--remember"]));
    let (friend_id, by_hand_id) = block_in_place(|| (friend.id(), by_hand.id()));
    block_in_place(|| device.profile.ok(["callers", "remember", &by_hand_id]));

    // The same password changes nothing.
    let device = again(device, &registry, &["--password", PASSWORD]);
    assert_admitted(&call_by_key(&friend, &registry, &device));

    // To be kept has to be asked for.
    let keep = ["--password", OTHER, "--keep-callers"];
    let device = again(device, &registry, &keep);
    assert!(!device.process.stderr().contains(&friend_id));
    assert_admitted(&call_by_key(&friend, &registry, &device));

    let device = again(device, &registry, &["--password", PASSWORD]);
    device
        .process
        .stderr_line(PATIENCE, |line| {
            line.contains("the password has changed") && line.contains(&friend_id)
        })
        .expect("it says whom it concerns");
    assert!(!device.process.stderr().contains(&by_hand_id));
    let refused = call_by_key(&friend, &registry, &device);
    assert_eq!(refused.code, EXIT_REFUSED, "{refused:?}");
    assert_admitted(&call(&friend, &registry, &device, &[]));
    let left = callers(&device);
    assert!(
        left.get(&friend_id)
            .is_none_or(|row| row["since"].is_null()),
        "{left}"
    );
    assert_eq!(left[&by_hand_id]["by"], "owner", "{left}");
}

/// The file is another one, by whatever way: what the old password gave ends with the next look.
#[tokio::test(flavor = "multi_thread")]
async fn a_password_that_is_changed_while_the_agent_runs_ends_links() {
    let registry = registry();
    let device = device(&registry).await;
    let url = registry.origin();
    let [friend, guest] = [Profile::new(), Profile::new()];
    assert_admitted(&call(&friend, &registry, &device, &["--remember"]));
    let connect = ["connect", &device.id, "-L", "0:hello", "--registry", &url];
    let mut links = Vec::new();
    for (caller, password) in [(&friend, None), (&guest, Some(PASSWORD))] {
        let mut connect = caller.command(connect);
        if let Some(password) = password {
            connect.env("RINGBACK_PASSWORD", password);
        }
        links.push(block_in_place(|| caller.start(connect)));
    }
    until("two links", || device.callers().len() == 2);
    let rows = callers(&device);
    let (friend_id, guest_id) = block_in_place(|| (friend.id(), guest.id()));
    assert_eq!(rows[&friend_id]["links"][0]["by"], "key", "{rows}");
    assert_eq!(rows[&guest_id]["links"][0]["by"], "password", "{rows}");
    assert!(rows[&guest_id]["since"].is_null(), "{rows}");

    device.profile.write("password", "7".repeat(64));
    let other = Greeter::start("other").address.to_string();
    block_in_place(|| device.profile.ok(["expose", "other", &other]));
    until("no links", || device.callers().is_empty());
    device
        .process
        .stderr_line(PATIENCE, |line| line.contains(&friend_id))
        .expect("it says whom it concerns");
    for caller in [&friend, &guest] {
        let refused = call(caller, &registry, &device, &[]);
        assert_eq!(refused.code, EXIT_REFUSED, "{refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_came_by_password_can_be_disconnected() {
    let registry = registry();
    let device = device(&registry).await;
    let url = registry.origin();
    let guest = Profile::new();
    let guest_id = block_in_place(|| guest.id());
    let nobody = ["callers", "disconnect", &guest_id];
    let ended = block_in_place(|| device.profile.run(nobody));
    assert_eq!(ended.code, EXIT_USAGE, "{ended:?}");
    assert!(ended.stderr.contains("is not connected"), "{ended:?}");
    block_in_place(|| device.profile.ok(["contacts", "add", "guest", &guest_id]));
    for name in ["guest", &guest_id, &guest_id[..12]] {
        let mut connect =
            guest.command(["connect", &device.id, "-L", "0:hello", "--registry", &url]);
        connect.env("RINGBACK_PASSWORD", PASSWORD);
        let mut link = block_in_place(|| guest.start(connect));
        until("a link", || !device.callers().is_empty());
        let told = block_in_place(|| device.profile.ok(["callers"]));
        assert!(
            told.contains(&guest_id) && told.contains("by password"),
            "{told}"
        );
        block_in_place(|| device.profile.ok(["callers", "disconnect", name]));
        until("no link", || device.callers().is_empty());
        block_in_place(|| link.kill9()).expect("it ends");
    }
    assert_admitted(&call(&guest, &registry, &device, &[]));
}

#[tokio::test(flavor = "multi_thread")]
async fn when_a_remembered_caller_has_called_is_noted() {
    let registry = registry();
    let device = device(&registry).await;
    let friend = Profile::new();
    let id = block_in_place(|| friend.id());
    assert_admitted(&call(&friend, &registry, &device, &["--remember"]));
    let mut file: Value = {
        let file = std::fs::read(device.profile.file("callers.json")).expect("a file");
        serde_json::from_slice(&file).expect("JSON")
    };
    for field in ["since", "last_call"] {
        file[&id][field] = 1_700_000_000.into();
    }
    device.profile.write("callers.json", file.to_string());
    assert_admitted(&call_by_key(&friend, &registry, &device));
    until("the time of its last call", || {
        let row = callers(&device)[&id].clone();
        assert_eq!(row["since"], 1_700_000_000, "{row}");
        row["last_call"]
            .as_u64()
            .is_some_and(|time| time > 1_700_000_000)
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_that_can_be_guessed_is_not_taken_without_a_word() {
    let registry = registry();
    let mut device = device(&registry).await;
    block_in_place(|| device.process.kill9()).expect("it ends");
    let url = registry.origin();
    for weak in ["x", "12345678", "password1"] {
        let up = ["up", "--json", "--registry", &url, "--password", weak];
        let ended = block_in_place(|| device.profile.run(up));
        assert_eq!(ended.code, EXIT_USAGE, "{ended:?}");
        assert!(ended.stderr.contains("--weak-password"), "{ended:?}");
    }
    let device = again(device, &registry, &["--password", "x", "--weak-password"]);
    device
        .process
        .stderr_line(PATIENCE, |line| line.contains("strangers may guess it"))
        .expect("it is said");
    // What the device has, it keeps.
    let _device = again(device, &registry, &["--password", "x"]);
}
