//! What the page knows, one enum for each screen that has states. All of it lives as long as the
//! page, so that a link and its transfers go on while another screen is shown.

use futures::{channel::oneshot, future::AbortHandle};
use leptos::prelude::{Owner as ReactiveOwner, *};
use ringback_wasm::{Contact, Link, LinkState, Receipt, RegistryInfo, Service, Step};

use crate::{
    browser::{self, Keep},
    live::{Kept, Live},
    owner::Device,
    route::Route,
    sentence::Failure,
};

/// Everything, copied freely: the values are in the reactive system's arena.
#[derive(Clone, Copy)]
pub(crate) struct App {
    pub(crate) route: Live<Route>,
    pub(crate) registry: Live<Reading<RegistryInfo>>,
    pub(crate) owner: Live<Owner>,
    pub(crate) devices: Live<Vec<Device>>,
    pub(crate) presence: Live<Presence>,
    pub(crate) contacts: Live<Vec<Contact>>,
    pub(crate) calls: Live<Vec<Call>>,
    pub(crate) notices: Live<Vec<Notice>>,
    pub(crate) look: Live<Look>,
    /// The password of the link that the page was opened with, until it is used.
    pub(crate) link_password: Kept<Option<String>>,
    /// Signals made here outlive the screens that make them.
    root: Kept<ReactiveOwner>,
}

/// Something that is asked for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Reading<T> {
    Waiting,
    Here(T),
    Failed(Failure),
}

/// Whether the registry's owner is signed in.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Owner {
    Out,
    In { secret: String },
}

/// The socket that tells of the devices' presence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Presence {
    Connecting,
    Live,
    /// Lost, and tried again.
    Lost,
}

/// The states of a call, and of the screen that shows it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Stage {
    /// A password is asked for; after a failure it says why.
    Asking(Option<Failure>),
    Calling,
    Linked,
    /// The link was lost and is made anew.
    Recalling,
    /// The link has ended for good.
    Ended(Failure),
}

/// A message that comes and goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Notice {
    pub(crate) number: u32,
    pub(crate) text: String,
    pub(crate) bad: bool,
}

/// Light, dark, or what the system says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    System,
    Light,
    Dark,
}

impl Look {
    const KEY: &str = "ringback.look";

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::Light => "light",
            Self::Dark => "dark",
        }
    }

    pub(crate) fn load() -> Self {
        match Keep::Browser.read(Self::KEY).as_deref() {
            Some("light") => Self::Light,
            Some("dark") => Self::Dark,
            _ => Self::System,
        }
    }

    pub(crate) fn apply(self) {
        Keep::Browser.write(Self::KEY, self.name());
        if let Some(root) = browser::document().document_element() {
            let _ = root.set_attribute("data-look", self.name());
        }
    }
}

/// One step of a call as it happened.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Seen {
    pub(crate) step: Step,
    pub(crate) at_ms: f64,
    pub(crate) detail: Option<String>,
}

/// Bytes per second in one span of about a second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Sample {
    pub(crate) up: f64,
    pub(crate) down: f64,
}

/// What a running link shows.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Gauge {
    pub(crate) rtt_ms: Option<f64>,
    pub(crate) bytes_up: f64,
    pub(crate) bytes_down: f64,
    /// The newest last, at most [`Gauge::SPAN`].
    pub(crate) samples: Vec<Sample>,
}

impl Gauge {
    pub(crate) const SPAN: usize = 60;
}

/// A service that is open in the tab.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Opened {
    pub(crate) number: u32,
    pub(crate) service: Service,
}

/// One device's call and link.
#[derive(Clone, Copy)]
pub(crate) struct Call {
    /// What was asked for: an ID or a name.
    pub(crate) target: Kept<String>,
    pub(crate) stage: Live<Stage>,
    /// The password as it was typed, until there is a link.
    pub(crate) password: Live<String>,
    pub(crate) steps: Live<Vec<Seen>>,
    pub(crate) link: Live<Option<Link>>,
    pub(crate) link_state: Live<LinkState>,
    pub(crate) receipt: Live<Option<Receipt>>,
    pub(crate) gauge: Live<Gauge>,
    pub(crate) services: Live<Reading<Vec<Service>>>,
    pub(crate) opened: Live<Vec<Opened>>,
    /// The number of the opened service that is in front; `None`: the tiles.
    pub(crate) front: Live<Option<u32>>,
    pub(crate) remember: Kept<bool>,
    pub(crate) numbered: Kept<u64>,
    pub(crate) abort: Kept<Option<AbortHandle>>,
    pub(crate) waiting: Kept<Vec<oneshot::Sender<()>>>,
}

impl App {
    pub(crate) fn new() -> Self {
        let root = ReactiveOwner::current().expect("the page runs in the reactive system");
        Self {
            route: Live::new(Route::Home),
            registry: Live::new(Reading::Waiting),
            owner: Live::new(Owner::Out),
            devices: Live::new(Vec::new()),
            presence: Live::new(Presence::Connecting),
            contacts: Live::new(Vec::new()),
            calls: Live::new(Vec::new()),
            notices: Live::new(Vec::new()),
            look: Live::new(Look::load()),
            link_password: Kept::new(None),
            root: Kept::new(root),
        }
    }

    pub(crate) fn current() -> Self {
        expect_context()
    }

    /// Runs `make` so that the signals it makes live as long as the page.
    pub(crate) fn keep<T>(self, make: impl FnOnce() -> T) -> T {
        self.root.with_value(|root| root.with(make))
    }

    pub(crate) fn go(self, route: Route) {
        let path = route.path();
        if let Ok(history) = browser::window().history() {
            let _ = history.push_state_with_url(&wasm_bindgen::JsValue::NULL, "", Some(&path));
        }
        self.route.set(route);
        browser::window().scroll_to_with_x_and_y(0.0, 0.0);
        browser::focus("main");
    }

    pub(crate) fn say(self, text: impl Into<String>) {
        self.notice(text.into(), false);
    }

    pub(crate) fn complain(self, failure: &Failure) {
        let (title, advice) = failure.sentence(browser::unix_s());
        self.notice(format!("{title} {advice}"), true);
    }

    fn notice(self, text: String, bad: bool) {
        const STAYS_MS: u32 = 6_000;
        let number = browser::fresh_number();
        self.notices
            .update(|notices| notices.push(Notice { number, text, bad }));
        leptos::task::spawn_local(async move {
            browser::sleep(STAYS_MS).await;
            self.dismiss(number);
        });
    }

    pub(crate) fn dismiss(self, number: u32) {
        self.notices
            .update(|notices| notices.retain(|notice| notice.number != number));
    }

    pub(crate) fn secret(self) -> Option<String> {
        match self.owner.get_untracked() {
            Owner::In { secret } => Some(secret),
            Owner::Out => None,
        }
    }

    /// The call of `target`, made if there is none.
    pub(crate) fn call(self, target: &str) -> Call {
        let known = self.calls.with_untracked(|calls| {
            calls
                .iter()
                .copied()
                .find(|call| call.target.with_value(|known| known == target))
        });
        if let Some(call) = known {
            return call;
        }
        let call = self.keep(|| Call::new(target));
        self.calls.update(|calls| calls.push(call));
        call
    }

    /// What `target`, an ID or a name, is called by people here.
    pub(crate) fn title(self, target: &str) -> String {
        let owned = self.devices.with(|devices| {
            let device = devices.iter().find(|device| device.id == target)?;
            device.name.clone()
        });
        let noted = || {
            self.contacts.with(|contacts| {
                let contact = contacts.iter().find(|it| it.id.to_string() == target)?;
                contact.name.clone()
            })
        };
        let title = owned.or_else(noted);
        crate::plain::plain(
            &title.unwrap_or_else(|| crate::figures::short_id(target)),
            64,
        )
    }

    pub(crate) fn contact(self, target: &str) -> Option<Contact> {
        self.contacts.with(|contacts| {
            contacts
                .iter()
                .find(|it| it.id.to_string() == target || it.name.as_deref() == Some(target))
                .cloned()
        })
    }
}

impl Call {
    fn new(target: &str) -> Self {
        Self {
            target: Kept::new(target.to_owned()),
            stage: Live::new(Stage::Asking(None)),
            password: Live::new(String::new()),
            steps: Live::new(Vec::new()),
            link: Live::new(None),
            link_state: Live::new(LinkState::Ended),
            receipt: Live::new(None),
            gauge: Live::new(Gauge::default()),
            services: Live::new(Reading::Waiting),
            opened: Live::new(Vec::new()),
            front: Live::new(None),
            remember: Kept::new(false),
            numbered: Kept::new(0),
            abort: Kept::new(None),
            waiting: Kept::new(Vec::new()),
        }
    }

    /// Links of this call are numbered from 1.
    pub(crate) fn link_number(self) -> u64 {
        self.numbered.get_value()
    }

    pub(crate) fn is_linked(self) -> bool {
        self.stage
            .with(|stage| matches!(stage, Stage::Linked | Stage::Recalling))
    }

    /// Opens a service in the tab, or brings it to the front; terminals open anew each time.
    pub(crate) fn show(self, service: &Service) {
        let open = self.opened.with_untracked(|opened| {
            opened
                .iter()
                .find(|it| it.service == *service && service.kind != "shell")
                .map(|it| it.number)
        });
        let number = open.unwrap_or_else(|| {
            let number = browser::fresh_number();
            self.opened.update(|opened| {
                opened.push(Opened {
                    number,
                    service: service.clone(),
                });
            });
            number
        });
        self.front.set(Some(number));
    }

    pub(crate) fn close_service(self, number: u32) {
        self.opened
            .update(|opened| opened.retain(|it| it.number != number));
        if self.front.get_untracked() == Some(number) {
            self.front.set(None);
        }
    }
}
