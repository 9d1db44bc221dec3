//! Calls and links: the only caller of the browser's client (`wasm-pkg`).
//!
//! A link that is lost is made anew with what it was proven with; services wait for it by
//! [`Links::next`](crate::links::Links::next) and go on where they were.

use std::cell::RefCell;

use futures::{
    FutureExt,
    channel::oneshot,
    future::{AbortHandle, Abortable, Either, select},
};
use leptos::task::spawn_local;
use ringback_protocol::PeerId;
use ringback_wasm::{
    CallError, CallEvent, CallOptions, Contact, Contacts, Identity, Link, LinkEnd, LinkState,
    Proof, Registry,
};

use crate::{
    browser,
    links::Stage,
    order::sorted,
    reading::Reading,
    route::Place,
    sentence::Failure,
    state::{App, Call, Gauge, Sample, Seen},
};

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        Self {
            code: error.code.into_owned(),
            detail: error.message,
            retry_after_s: error.retry_after_s.map(f64::from),
            last_seen: error.last_seen.map(|seen| seen as f64),
            new_device: error.new_device.map(|id| id.to_string()),
        }
    }
}

thread_local! {
    static REGISTRY: RefCell<Option<Registry>> = const { RefCell::new(None) };
}

/// The registry that this page comes from. It is asked once.
pub(crate) async fn registry() -> Result<Registry, Failure> {
    if let Some(known) = REGISTRY.with_borrow(Clone::clone) {
        return Ok(known);
    }
    let registry = Registry::open(&browser::origin()).await?;
    REGISTRY.with_borrow_mut(|known| *known = Some(registry.clone()));
    Ok(registry)
}

/// The ID of the device that `target` means, or why it can not be called: what is known before a
/// password is asked for.
pub(crate) async fn look_for(target: &str) -> Result<String, Failure> {
    let device = registry().await?.look_for(target).await?;
    Ok(device.to_string())
}

/// This browser's ID, and whether it is kept.
pub(crate) async fn identity() -> Result<(String, bool), Failure> {
    let identity = Identity::load().await?;
    Ok((identity.id().to_string(), identity.is_persistent()))
}

pub(crate) async fn forget_identity() -> Result<(), Failure> {
    Ok(Identity::forget().await?)
}

pub(crate) async fn load_contacts(app: App) {
    if let Ok(list) = Contacts::list().await {
        app.contacts.set(list);
    }
}

pub(crate) async fn forget_contact(app: App, id: &str) -> Result<(), Failure> {
    let known = app.contacts.with_untracked(|contacts| {
        contacts
            .iter()
            .find(|contact| contact.id.to_string() == id)
            .map(|contact| contact.id)
    });
    if let Some(id) = known {
        Contacts::remove(&id).await?;
    }
    load_contacts(app).await;
    Ok(())
}

/// Gives a contact the name by which it is called from here; `None`: none any more.
pub(crate) async fn name_contact(app: App, id: &str, name: Option<String>) -> Result<(), Failure> {
    let known = app.contacts.with_untracked(|contacts| {
        contacts
            .iter()
            .find(|contact| contact.id.to_string() == id)
            .cloned()
    });
    if let Some(contact) = known {
        Contacts::put(&Contact { name, ..contact }).await?;
    }
    load_contacts(app).await;
    Ok(())
}

/// A device has said that it no longer remembers this browser.
async fn forgotten_by(app: App, device: PeerId) {
    if let Ok(Some(contact)) = Contacts::by_id(&device).await {
        let forgotten = Contact {
            remembered: false,
            ..contact
        };
        let _ = Contacts::put(&forgotten).await;
    }
    load_contacts(app).await;
}

/// How a call is to be made.
#[derive(Clone)]
pub(crate) struct Ask {
    /// `None`: this browser's key is enough, as the device remembers it.
    pub(crate) password: Option<String>,
    pub(crate) remember: bool,
    pub(crate) accept_new_key: bool,
}

impl Call {
    /// Calls. What was under way for this device is given up.
    pub(crate) fn start(self, app: App, ask: Ask) {
        self.give_up();
        self.remember.set_value(ask.remember);
        self.steps.set(Vec::new());
        self.links.stage.set(Stage::Calling);
        let options = CallOptions {
            device: self.target.get_value(),
            proof: match ask.password {
                Some(password) => Proof::Password(password),
                None => Proof::Remembered,
            },
            service: "*".into(),
            remember: ask.remember,
            accept_new_key: ask.accept_new_key,
        };
        self.under_abort(async move {
            let calling = async {
                let registry = registry().await?;
                let link = registry
                    .call(options, move |event| self.saw(event))
                    .await
                    .map_err(Failure::from)?;
                Ok::<_, Failure>(link)
            };
            match calling.await {
                Ok(link) => self.attach(app, link),
                Err(failure) => self.links.stage.set(Stage::Asking(Some(failure))),
            }
        });
    }

    /// Cancels a call that is under way.
    pub(crate) fn cancel(self) {
        self.give_up();
        self.links.stage.set(Stage::Asking(None));
    }

    /// Hangs up: everything that is open over the link ends.
    pub(crate) fn hang_up(self, app: App) {
        self.give_up();
        if let Some(link) = self.links.link.get_untracked() {
            link.close();
        }
        self.links.link.set(None);
        self.transfers.pause();
        self.close_services();
        self.links.stage.set(Stage::Asking(None));
        app.address.go_instead(Place::Services);
    }

    pub(crate) async fn reload_services(self) {
        let Some(link) = self.links.link.get_untracked() else {
            return;
        };
        match link.services().await {
            Ok(list) => {
                // What can be used in the tab comes first.
                let kinds = ["shell", "files", "http", "dial"];
                let place = |kind: &str| kinds.iter().position(|it| *it == kind).unwrap_or(9);
                let list = sorted(list, |service| place(&service.kind));
                self.services.set(Reading::Here(list));
            }
            // Agents of before this list do not have it.
            Err(error) if error.code == "unknown_service" => {
                self.services
                    .set(Reading::Failed(Failure::new("no_listing", error.message)));
            }
            Err(error) => self.services.set(Reading::Failed(error.into())),
        }
    }

    fn saw(self, event: CallEvent) {
        self.steps.update(|steps| {
            steps.push(Seen {
                step: event.step,
                at_ms: event.at_ms,
                detail: event.detail,
            });
        });
    }

    fn attach(self, app: App, link: Link) {
        self.link_state.set(link.state());
        self.links.add(link.clone());
        self.password.set(String::new());
        self.watch(app, &link);
        let first = link.clone();
        spawn_local(async move {
            self.reload_services().await;
            if let Ok(receipt) = first.receipt().await {
                self.receipt.set(Some(receipt));
            }
            load_contacts(app).await;
        });
        spawn_local(self.measure(link.clone()));
        let number = self.links.number();
        spawn_local(async move {
            let end = link.closed().await;
            // A link that has been replaced is closed, too, and that is not the end of the call.
            if self.links.number() == number {
                self.ended(app, link, end);
            }
        });
    }

    /// A link that falls silent is made anew beside the old one, unless that comes back first.
    fn watch(self, app: App, link: &Link) {
        const PATIENCE_MS: u32 = 3_000;
        let number = self.links.number();
        let known = link.clone();
        link.on_state(move |state| {
            if self.links.number() != number {
                return;
            }
            self.link_state.set(state);
            match state {
                LinkState::Interrupted => {
                    let link = known.clone();
                    spawn_local(async move {
                        browser::sleep(PATIENCE_MS).await;
                        let silent = link.state() == LinkState::Interrupted
                            && self.links.number() == number
                            && self.links.stage.get_untracked() == Stage::Linked;
                        if silent {
                            self.links.stage.set(Stage::Recalling);
                            self.under_abort(self.recall(app, link, Failure::new("lost", "")));
                        }
                    });
                }
                LinkState::Connected if self.links.stage.get_untracked() == Stage::Recalling => {
                    self.give_up();
                    self.links.stage.set(Stage::Linked);
                }
                LinkState::Connected | LinkState::Ended => {}
            }
        });
    }

    /// Reads the link's figures each second while it is the call's link.
    async fn measure(self, link: Link) {
        const EVERY_MS: u32 = 1_000;
        let number = self.links.number();
        let mut before: Option<(f64, f64, f64)> = None;
        // Counters of a new link begin at 0; what is shown counts on.
        let base = self
            .gauge
            .with_untracked(|gauge| (gauge.bytes_up, gauge.bytes_down));
        while self.links.number() == number && link.state() != LinkState::Ended {
            if let Ok(stats) = link.stats().await {
                let now = browser::clock_ms();
                let sample = before.map(|(then, up, down)| {
                    let seconds = ((now - then) / 1000.0).max(0.001);
                    Sample {
                        up: ((stats.bytes_up - up) / seconds).max(0.0),
                        down: ((stats.bytes_down - down) / seconds).max(0.0),
                    }
                });
                before = Some((now, stats.bytes_up, stats.bytes_down));
                self.gauge.update(|gauge| {
                    gauge.note_rtt(stats.rtt_ms);
                    gauge.bytes_up = base.0 + stats.bytes_up;
                    gauge.bytes_down = base.1 + stats.bytes_down;
                    if let Some(sample) = sample {
                        gauge.samples.push(sample);
                        let over = gauge.samples.len().saturating_sub(Gauge::SPAN);
                        gauge.samples.drain(..over);
                    }
                });
            }
            browser::sleep(EVERY_MS).await;
        }
    }

    fn ended(self, app: App, link: Link, end: LinkEnd) {
        // It was hung up, or is being made anew already.
        if self.links.stage.get_untracked() != Stage::Linked {
            return;
        }
        let failure = match end.code.as_str() {
            "closed" => return self.links.stage.set(Stage::Asking(None)),
            "revoked" => Failure::new("link_revoked", end.message),
            other => Failure::new(other, end.message),
        };
        if failure.is("link_revoked") {
            spawn_local(forgotten_by(app, link.device()));
            return self.links.end(failure);
        }
        self.links.stage.set(Stage::Recalling);
        self.under_abort(self.recall(app, link, failure));
    }

    /// Calls again until there is a link, for some minutes; the network's return is an occasion.
    async fn recall(self, app: App, link: Link, lost: Failure) {
        const PAUSES_S: [u32; 12] = [0, 1, 2, 4, 8, 15, 15, 15, 30, 30, 30, 30];
        let mut failure = lost;
        for pause in PAUSES_S {
            if pause > 0 {
                back_online_or(pause * 1000).await;
            }
            self.steps.set(Vec::new());
            match link.restart(move |event| self.saw(event)).await {
                Ok(link) => return self.attach(app, link),
                Err(error) => {
                    let error = Failure::from(error);
                    if is_final(&error) {
                        failure = error;
                        break;
                    }
                    failure = error;
                }
            }
        }
        self.links.end(failure);
    }

    fn under_abort(self, work: impl Future<Output = ()> + 'static) {
        let (handle, registration) = AbortHandle::new_pair();
        self.abort.set_value(Some(handle));
        spawn_local(Abortable::new(work, registration).map(drop));
    }

    fn give_up(self) {
        if let Some(handle) = self.abort.try_update_value(Option::take).flatten() {
            handle.abort();
        }
    }
}

/// Failures that calling again does not mend.
fn is_final(failure: &Failure) -> bool {
    matches!(
        failure.code.as_str(),
        "wrong_password"
            | "unknown_caller"
            | "revoked"
            | "key_changed"
            | "registry_lies"
            | "unknown_device"
            | "local_network_denied"
    )
}

/// Waits for the browser to say that it is online again, at most `ms`.
async fn back_online_or(ms: u32) {
    let (sender, online) = oneshot::channel::<()>();
    let mut sender = Some(sender);
    let listener = wasm_bindgen::closure::Closure::<dyn FnMut()>::new(move || {
        if let Some(sender) = sender.take() {
            let _ = sender.send(());
        }
    });
    let window = browser::window();
    let function: &js_sys::Function = wasm_bindgen::JsCast::unchecked_ref(listener.as_ref());
    let _ = window.add_event_listener_with_callback("online", function);
    let pause = Box::pin(browser::sleep(ms));
    match select(pause, online).await {
        Either::Left(_) | Either::Right(_) => {}
    }
    let _ = window.remove_event_listener_with_callback("online", function);
}
