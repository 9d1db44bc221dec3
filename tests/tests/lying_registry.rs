//! A registry that lies, between real agents (SECURITY.md): whatever it does,
//! neither side connects to the wrong peer, the caller is told who is not to be trusted, and the
//! device goes on working.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ringback_protocol::{
    Code, PeerId,
    admission::MAX_AHEAD,
    envelope::{Envelope, LIFETIME, Proof, Request},
    frame::{Answered, Deliver, Frame, Refused},
    receipt::Nat,
    refusal::Refusal,
    secret::{PASSWORD_ID, Psk},
};
use ringback_tests::{
    liar::Liar,
    loopback::{Device, Ended, PASSWORD, Profile, call, run},
    registry::{Registry, new_key},
};
use serde_json::{Value, json};
use tokio::task::block_in_place;

const EXIT_REGISTRY: i32 = 3;
const EXIT_OFFLINE: i32 = 4;
const EXIT_REFUSED: i32 = 5;
const EXIT_TRUST: i32 = 8;

/// A device and a caller, who have nothing but a liar between them.
struct Scene {
    registry: Registry,
    liar: Liar,
    device: Device,
    caller: Profile,
}

impl Scene {
    async fn set() -> Self {
        let registry = registry();
        let liar = Liar::start(&registry).await;
        let device = enrol(&registry, &liar, "nas", "hello from nas").await;
        Self {
            registry,
            liar,
            device,
            caller: Profile::new(),
        }
    }

    async fn enrol(&self, name: &str, word: &'static str) -> Device {
        enrol(&self.registry, &self.liar, name, word).await
    }

    /// The same after the agent of the device was killed and has started again.
    fn with_device_restarted(self) -> Self {
        Self {
            device: block_in_place(|| self.device.restart()),
            ..self
        }
    }

    fn id(&self) -> PeerId {
        self.device.id.parse().expect("an ID")
    }

    /// A call for one word of the service.
    fn call(&self, device: &str, more: &[&str]) -> Ended {
        block_in_place(|| call(&self.caller, &self.liar.url(), device, more))
    }

    /// A call that would go on if it were not for the lie.
    fn connect(&self) -> Ended {
        connect(&self.caller, &self.liar.url(), &self.device.id)
    }

    /// The caller has found out, nobody but the caller has a link to the device, and both work on.
    #[track_caller]
    fn assert_caught(&self, ended: &Ended, why: &str) {
        assert_caught(ended, why);
        self.assert_unharmed();
    }

    #[track_caller]
    fn assert_unharmed(&self) {
        let own = block_in_place(|| self.caller.id());
        let others = block_in_place(|| self.device.callers())
            .into_iter()
            .filter(|caller| *caller != own);
        assert_eq!(others.count(), 0, "links of strangers");
        self.liar.be_honest();
        let clean = self.call(&self.device.id, &[]);
        assert_eq!(clean.stdout, "hello from nas", "{clean:?}");
        assert_eq!(clean.code, 0, "{clean:?}");
    }

    /// The refusal with which the device answers the request that the liar made up as `call`.
    async fn refusal_of(&self, call: u64, envelope: &[u8]) -> Refusal {
        let bytes = self.liar.heard(|frame| match frame {
            Frame::Refuse(refuse) if refuse.call == call => Some(refuse.refusal.clone()),
            Frame::Answer(answer) if answer.call == call => panic!("the device has taken it"),
            _ => None,
        });
        Refusal::decode(&bytes.await, &self.id(), envelope).expect("signed by the device")
    }

    /// The last request that was delivered to a device.
    fn delivered(&self, device: &PeerId) -> usize {
        self.liar.count(|frame| match frame {
            Frame::Deliver(deliver) => {
                Envelope::decode(&deliver.envelope).is_ok_and(|e| e.device == *device)
            }
            _ => false,
        })
    }
}

fn registry() -> Registry {
    Registry::with(|config| {
        // Everything stays on this host.
        config
            .bindings
            .insert("STUN_SERVERS".to_owned(), String::new());
    })
}

async fn enrol(registry: &Registry, liar: &Liar, name: &str, word: &'static str) -> Device {
    let code = registry.code(json!({ "name": name })).await;
    block_in_place(|| Device::start(&liar.url(), &code, word))
}

fn connect(caller: &Profile, registry: &str, device: &str) -> Ended {
    let arguments = ["connect", device, "-L", "0:hello", "--registry", registry];
    let mut command = caller.command(arguments);
    block_in_place(|| run(command.env("RINGBACK_PASSWORD", PASSWORD)))
}

#[track_caller]
fn assert_caught(ended: &Ended, why: &str) {
    let last = ended.stderr.lines().last().unwrap_or_default();
    let expected = format!("ringback: the registry is not to be trusted: {why}");
    assert_eq!((ended.code, last), (EXIT_TRUST, &*expected), "{ended:?}");
    assert_eq!(ended.stdout, "");
}

const NOT_THE_ANSWER: &str = "the answer is not the device's to this request";
const NOT_THE_REFUSAL: &str = "the refusal is not signed by the device for this request";

type Alteration = fn(&[u8]) -> Vec<u8>;

/// One bit in the middle is another.
fn flipped(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    bytes
}

/// Every answer to a caller, of whatever kind, becomes this one.
fn instead(frame: Frame, lie: impl FnOnce(u64) -> Frame) -> Vec<Frame> {
    match frame {
        Frame::Answered(Answered { call, .. }) | Frame::Refused(Refused { call, .. }) => {
            vec![lie(call)]
        }
        other => vec![other],
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_honest_liar_changes_nothing() {
    let scene = Scene::set().await;
    scene.assert_unharmed();
    let wrong = scene.call(&scene.device.id, &["--password", "wrong"]);
    assert_eq!(
        (wrong.code, &*wrong.stderr),
        (EXIT_REFUSED, "ringback: wrong password\n")
    );
    assert_eq!(wrong.stdout, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_contact_is_never_another_key() {
    let scene = Scene::set().await;
    let mallory = scene.enrol("mallory", "hello from mallory").await;
    let mallory_id: PeerId = mallory.id.parse().expect("an ID");
    scene
        .caller
        .ok(["contacts", "add", "nas", &scene.device.id]);
    scene.liar.say_alias("nas", mallory_id);

    // The contact is on line: the registry's word is not even asked for.
    let ended = scene.call("nas", &[]);
    assert_eq!(ended.stdout, "hello from nas", "{ended:?}");

    // It is not: the user is told that the name has got another key, and nothing is sent there.
    let Scene {
        liar,
        mut device,
        caller,
        registry,
    } = scene;
    block_in_place(|| device.process.kill9()).expect("it ends");
    registry
        .await_row(
            &device.id.parse().expect("an ID"),
            "online",
            Value::Bool(false),
        )
        .await;
    let by_name = |more: &[&str]| block_in_place(|| call(&caller, &liar.url(), "nas", more));
    let ended = by_name(&[]);
    assert_eq!((ended.code, &*ended.stdout), (EXIT_TRUST, ""), "{ended:?}");
    for words in [
        "another key for 'nas'",
        &mallory.id,
        &device.id,
        "--accept-new-key",
    ] {
        assert!(ended.stderr.contains(words), "{words}: {ended:?}");
    }
    let delivered = |id: PeerId| {
        liar.count(|frame| {
            matches!(frame, Frame::Deliver(deliver)
                if Envelope::decode(&deliver.envelope).is_ok_and(|e| e.device == id))
        })
    };
    assert_eq!(delivered(mallory_id), 0, "nothing is sent to another key");
    assert_eq!(mallory.callers(), Vec::<String>::new());

    // An honest registry, and the device is just away.
    liar.be_honest();
    let ended = by_name(&[]);
    assert_eq!(ended.code, EXIT_OFFLINE, "{ended:?}");
    assert!(
        ended
            .stderr
            .starts_with("ringback: the device is offline, last seen "),
        "{ended:?}"
    );

    // The user accepts: from then on that key is the contact's, whatever the registry says next.
    liar.say_alias("nas", mallory_id);
    let ended = by_name(&["--accept-new-key"]);
    assert_eq!(ended.stdout, "hello from mallory", "{ended:?}");
    assert!(
        ended.stderr.contains(&format!("'nas' is now {mallory_id}")),
        "{ended:?}"
    );
    liar.be_honest();
    assert_eq!(
        caller.ok(["contacts"]),
        format!("nas\t{mallory_id}\n"),
        "the contact is the accepted key"
    );
    assert_eq!(by_name(&[]).stdout, "hello from mallory");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_called_for_the_first_time_shows_its_key() {
    let scene = Scene::set().await;
    let mallory = scene.enrol("mallory", "hello from mallory").await;
    let shown = |id: &str| {
        format!("'nas' is {id} at the registry; compare that with what the device shows\n")
    };
    let honest = scene.call("nas", &[]);
    assert_eq!(honest.stdout, "hello from nas", "{honest:?}");
    assert!(
        honest.stderr.starts_with(&shown(&scene.device.id)),
        "{honest:?}"
    );
    assert_eq!(
        scene.caller.ok(["contacts"]),
        format!("nas\t{}\n", scene.device.id)
    );

    // The lie is in plain sight before anything is sent, and that device is called by its own key.
    scene
        .liar
        .say_alias("nas", mallory.id.parse().expect("an ID"));
    let newcomer = Profile::new();
    let lied_to = block_in_place(|| {
        call(
            &newcomer,
            &scene.liar.url(),
            "nas",
            &["--password", "wrong"],
        )
    });
    assert!(
        lied_to.stderr.starts_with(&shown(&mallory.id)),
        "{lied_to:?}"
    );
    assert_eq!(lied_to.code, EXIT_REFUSED);
    assert_eq!(
        newcomer.ok(["contacts"]),
        "",
        "nothing is noted of a call that failed"
    );
    // By its ID a device can not be mistaken.
    let by_id = block_in_place(|| call(&newcomer, &scene.liar.url(), &scene.device.id, &[]));
    assert_eq!(by_id.stdout, "hello from nas", "{by_id:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_altered_request_is_refused() {
    let scene = Scene::set().await;
    let alterations: [Alteration; 4] = [
        flipped,
        |envelope| envelope[..envelope.len() - 1].to_vec(),
        |_| Vec::new(),
        |envelope| [envelope, b"more"].concat(),
    ];
    for alter in alterations {
        scene.liar.lie(move |frame| match frame {
            Frame::Deliver(Deliver { call, envelope }) => vec![
                Deliver {
                    call,
                    envelope: alter(&envelope),
                }
                .into(),
            ],
            other => vec![other],
        });
        // The device has refused something that the caller has never sent.
        scene.assert_caught(&scene.connect(), NOT_THE_REFUSAL);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_for_another_device_is_refused() {
    let scene = Scene::set().await;
    let other = scene.enrol("other", "hello from the other").await;
    let diverted = other.id.clone();
    let (liar, here) = (scene.liar.clone(), scene.id());
    scene.liar.lie(move |frame| match frame {
        Frame::Deliver(deliver)
            if Envelope::decode(&deliver.envelope).is_ok_and(|e| e.device == here) =>
        {
            liar.send(
                &diverted,
                Deliver {
                    call: 7000,
                    ..deliver.clone()
                },
            );
            // The registry must not notice: an envelope that the device refuses takes its place.
            vec![
                Deliver {
                    envelope: Vec::new(),
                    ..deliver
                }
                .into(),
            ]
        }
        other => vec![other],
    });
    let ended = scene.connect();
    let refusal = scene.liar.heard(|frame| match frame {
        Frame::Refuse(refuse) if refuse.call == 7000 => Some(refuse.refusal.clone()),
        _ => None,
    });
    let refusal = refusal.await;
    let envelope = scene.liar.heard(|frame| match frame {
        Frame::Deliver(deliver) => Some(deliver.envelope.clone()),
        _ => None,
    });
    let refusal = Refusal::decode(&refusal, &other.id.parse().expect("an ID"), &envelope.await);
    assert_eq!(
        refusal.expect("signed by the other").code,
        Code::BadEnvelope
    );
    assert_eq!(other.callers(), Vec::<String>::new());
    scene.assert_caught(&ended, NOT_THE_REFUSAL);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_altered_reply_ends_the_call() {
    let scene = Scene::set().await;
    let lie = |frame| match frame {
        Frame::Answered(Answered { call, reply, .. }) => vec![
            Answered {
                call,
                reply: flipped(&reply),
                ice: None,
            }
            .into(),
        ],
        other => vec![other],
    };
    scene.liar.lie(lie);
    scene.assert_caught(&scene.connect(), NOT_THE_ANSWER);

    // The same when the agent of the caller's host makes the call.
    let office = scene.enrol("office", "hello from the office").await;
    scene.liar.lie(lie);
    let ended = connect(&office.profile, &scene.liar.url(), &scene.device.id);
    assert_caught(&ended, NOT_THE_ANSWER);
    scene.liar.be_honest();
    let clean = block_in_place(|| call(&office.profile, &scene.liar.url(), &scene.device.id, &[]));
    assert_eq!(clean.stdout, "hello from nas", "{clean:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reply_to_somebody_else_ends_the_call() {
    let scene = Scene::set().await;
    let other = Profile::new();
    let first = block_in_place(|| call(&other, &scene.liar.url(), &scene.device.id, &[]));
    assert_eq!(first.stdout, "hello from nas", "{first:?}");
    let reply = scene.liar.heard(|frame| match frame {
        Frame::Answered(answered) => Some(answered.reply.clone()),
        _ => None,
    });
    let reply = reply.await;
    scene.liar.lie(move |frame| {
        instead(frame, |call| {
            Answered {
                call,
                reply: reply.clone(),
                ice: None,
            }
            .into()
        })
    });
    scene.assert_caught(&scene.connect(), NOT_THE_ANSWER);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_taken_once() {
    let scene = Scene::set().await;
    // At once: the device gets every request twice.
    scene.liar.lie(|frame| match frame {
        Frame::Deliver(deliver) => vec![
            deliver.clone().into(),
            Deliver {
                call: deliver.call + 1000,
                ..deliver
            }
            .into(),
        ],
        other => vec![other],
    });
    let ended = scene.call(&scene.device.id, &[]);
    assert_eq!(ended.stdout, "hello from nas", "{ended:?}");
    let deliver = scene.liar.heard(|frame| match frame {
        Frame::Deliver(deliver) => Some(deliver.clone()),
        _ => None,
    });
    let Deliver { call, envelope } = deliver.await;
    let second = scene.refusal_of(call + 1000, &envelope).await;
    assert_eq!(second.code, Code::Replayed);

    // Later, when that call is long over.
    scene.liar.be_honest();
    let replay = |call| Deliver {
        call,
        envelope: envelope.clone(),
    };
    scene.liar.send(&scene.device.id, replay(5000));
    let later = scene.refusal_of(5000, &envelope).await;
    assert_eq!(later.code, Code::Replayed);

    // And when the agent was killed and has started again.
    let scene = scene.with_device_restarted();
    scene.liar.send(&scene.device.id, replay(6000));
    let restarted = scene.refusal_of(6000, &envelope).await;
    // Older than the agent's start, if that took more than a second.
    assert!(
        matches!(restarted.code, Code::Replayed | Code::Stale),
        "{restarted:?}"
    );
    assert_eq!(
        scene.device.callers(),
        Vec::<String>::new(),
        "no link was made"
    );
    assert_eq!(scene.delivered(&scene.id()), 1, "all of it was one request");
    scene.assert_unharmed();
}

/// The caller's clock is as far ahead as is taken, and the agent is killed and started again before its
/// own clock gets there: the request that it has answered is not answered again.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_taken_once_over_a_restart() {
    let scene = Scene::set().await;
    let device: PeerId = scene.id();
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970");
    let issued_at = now.as_secs() + MAX_AHEAD;
    let request = Request {
        id: [0x77; 16],
        issued_at,
        expires_at: issued_at + LIFETIME,
        service: "hello".into(),
        candidates: Vec::new(),
        remember: false,
        webrtc: None,
        path: 0,
        nat: Nat::Unknown,
    };
    let psk = Psk::from_password(PASSWORD, &device).expect("a password");
    let proof = Proof::Secret {
        psk_id: PASSWORD_ID,
        psk: &psk,
    };
    let mut rng = rand::rng();
    let sealed = Envelope::seal(&request, &new_key(), &device, proof, &mut rng);
    let envelope = sealed.expect("it is sealed").0.encode();
    let deliver = |call| Deliver {
        call,
        envelope: envelope.clone(),
    };
    let answered = scene.liar.heard(|frame| match frame {
        Frame::Answer(answer) => Some(answer.call),
        _ => None,
    });
    scene.liar.send(&scene.device.id, deliver(7000));
    assert_eq!(answered.await, 7000);
    let scene = scene.with_device_restarted();
    scene.liar.send(&scene.device.id, deliver(7001));
    let refusal = scene.refusal_of(7001, &envelope).await;
    assert_eq!(refusal.code, Code::Replayed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_counts_only_for_its_own_request() {
    let scene = Scene::set().await;
    // The device's own refusal, of a request before.
    let wrong = scene.call(&scene.device.id, &["--password", "wrong"]);
    assert_eq!(wrong.code, EXIT_REFUSED, "{wrong:?}");
    let refusal = scene.liar.heard(|frame| match frame {
        Frame::Refused(refused) => Some(refused.refusal.clone()),
        _ => None,
    });
    let refusal = refusal.await;
    scene.liar.lie(move |frame| {
        instead(frame, |call| {
            Refused {
                call,
                refusal: refusal.clone(),
            }
            .into()
        })
    });
    scene.assert_caught(&scene.connect(), NOT_THE_REFUSAL);

    // One that the registry has made up and signed itself.
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = now.expect("after 1970").as_secs();
    scene.liar.lie(move |frame| {
        instead(frame, |call| {
            let forged = Refusal::sign(&new_key(), b"", Code::WrongPassword, None, now);
            Refused {
                call,
                refusal: forged.encode(),
            }
            .into()
        })
    });
    scene.assert_caught(&scene.connect(), NOT_THE_REFUSAL);

    // And one that would make the caller ask again by a clock of the registry's choice.
    scene.liar.lie(move |frame| {
        instead(frame, |call| {
            let forged = Refusal::sign(&new_key(), b"", Code::Stale, None, now + 1_000_000);
            Refused {
                call,
                refusal: forged.encode(),
            }
            .into()
        })
    });
    scene.assert_caught(&scene.connect(), NOT_THE_REFUSAL);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_challenge_can_not_be_passed_on() {
    let victim = registry();
    let direct = victim.origin();
    let code = victim.code(json!({ "name": "nas" })).await;
    let mut device = block_in_place(|| Device::start(&direct, &code, "hello from nas"));
    let id: PeerId = device.id.parse().expect("an ID");
    block_in_place(|| device.process.interrupt(Duration::from_secs(10))).expect("it ends");
    victim.await_row(&id, "online", Value::Bool(false)).await;

    // The device is told of another registry, which wants to stand in for it at the first.
    let liar = Liar::passing_on_to(&victim).await;
    let url = liar.url();
    let ended = block_in_place(|| device.profile.run(["up", "--registry", &url]));
    assert_eq!(ended.code, EXIT_REGISTRY, "{ended:?}");
    assert!(
        ended
            .stderr
            .contains("the registry does not take this device's signature"),
        "{ended:?}"
    );
    liar.heard(|frame| matches!(frame, Frame::Register(_)).then_some(()))
        .await;
    assert_eq!(victim.row(&id).await["online"], false);

    // Nor can an enrolment: the code stays good.
    let code = victim.code(json!({ "name": "other" })).await;
    let other = Profile::new();
    let ended = block_in_place(|| other.run(["up", "--registry", &url, "--enroll", &code]));
    assert_eq!(ended.code, EXIT_REGISTRY, "{ended:?}");
    let ours = block_in_place(|| Device::start(&direct, &code, "hello from the other"));

    // Where it belongs the device is as welcome as before.
    let up = device
        .profile
        .command(["up", "--json", "--registry", &direct]);
    let device = block_in_place(|| Device::up(device.profile, &direct, up));
    let clean = block_in_place(|| call(&ours.profile, &direct, &device.id, &[]));
    assert_eq!(clean.stdout, "hello from nas", "{clean:?}");
}
