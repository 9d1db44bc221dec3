//! Two agents with one key, as after a disk was cloned: each knows, neither drives the other out a
//! hundred times a minute, and the owner sees it.

use std::time::{Duration, Instant};

use ringback_tests::loopback::{Device, PATIENCE, Profile};
use ringback_tests::registry::Registry;
use serde_json::{Value, json};
use tokio::task::block_in_place;

fn copy_of(original: &Profile) -> Profile {
    let copy = Profile::new();
    for name in ["key", "password", "config.toml"] {
        copy.write(name, std::fs::read(original.file(name)).expect("a file"));
    }
    copy
}

#[tokio::test(flavor = "multi_thread")]
async fn two_agents_with_one_key_know_of_each_other_and_take_turns_seldom() {
    let registry = Registry::start();
    let origin = registry.origin();
    let code = registry.code(json!({ "name": "nas" })).await;
    let start = Instant::now();
    let original = block_in_place(|| Device::start(&origin, &code, "hello"));
    let copy = copy_of(&original.profile);
    let up = copy.command(["up", "--json", "--registry", &origin]);
    let copy = block_in_place(|| Device::up(copy, &origin, up));
    assert_eq!(copy.id, original.id);

    // The first one waits before it comes back; then both know.
    block_in_place(|| {
        original.process.stderr_line(PATIENCE, |line| {
            line.contains("another agent has registered with this device's key")
        })
    })
    .expect("the one that was replaced says by whom");
    let told = block_in_place(|| {
        copy.process.stderr_line(PATIENCE, |line| {
            line.contains("with this device's key from 127.0.0.1")
        })
    })
    .expect("the one that is replaced then is told by the registry");
    assert!(told.contains("remove the file `key`"), "{told}");
    block_in_place(|| {
        original.process.stderr_line(PATIENCE, |line| {
            line.contains("another agent with this device's key was registered from 127.0.0.1")
        })
    })
    .expect("and the one that has come back, too");

    let (status, doctor) = block_in_place(|| {
        let doctor = original
            .profile
            .run(["doctor", "--json", "--registry", &origin]);
        (original.profile.ok(["status"]), doctor.stdout)
    });
    assert!(
        status.contains("another agent with this device's key"),
        "{status}"
    );
    let doctor: Value = serde_json::from_str(&doctor).expect("JSON");
    let checks = doctor["checks"].as_array().expect("a list");
    let agent = checks.iter().find(|check| check["check"] == "agent");
    let agent = agent.expect("a line on the agent");
    assert_eq!(agent["level"], "problem", "{agent}");
    assert!(
        agent["found"]
            .as_str()
            .unwrap()
            .contains("this device's key"),
        "{agent}"
    );
    let theirs = block_in_place(|| copy.profile.ok(["status"]));
    assert!(theirs.contains("another agent has registered"), "{theirs}");
    let row = registry.row(&original.id.parse().unwrap()).await;
    assert_eq!(row["clone"]["addresses"], json!(["127.0.0.1"]), "{row}");

    // Before, by now a registration each 0.2 s.
    let usage = registry.owner("GET", "/v1/usage", Value::Null).await.body;
    let count = usage["registrations"]["count"].as_u64().unwrap();
    assert_eq!(count, 3, "in {:?}", start.elapsed());
    assert!(start.elapsed() > Duration::from_secs(7));
}
