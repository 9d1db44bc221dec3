//! What the page knows, one enum for each screen that has states. All of it lives as long as the
//! page, so that a link and its transfers go on while another screen is shown.

use std::collections::BTreeMap;

use futures::future::AbortHandle;
use leptos::prelude::expect_context;
use ringback_wasm::{Contact, LinkState, Receipt, RegistryInfo, Service, Step};

use crate::{
    address::{Address, Entry},
    browse::Browse,
    browser::{self, Keep},
    links::{Links, Stage},
    live::{Kept, Live, Root},
    naming::{self, Names},
    notices::Notices,
    owner::Device,
    reading::Reading,
    route::{Place, Route},
    terminal::Terminal,
    transfer::Transfers,
};

/// Everything, copied freely: the values are in the reactive system's arena.
#[derive(Clone, Copy)]
pub(crate) struct App {
    pub(crate) address: Address,
    pub(crate) registry: Live<Reading<RegistryInfo>>,
    pub(crate) owner: Live<Owner>,
    pub(crate) devices: Live<Vec<Device>>,
    pub(crate) presence: Live<Presence>,
    pub(crate) contacts: Live<Vec<Contact>>,
    pub(crate) calls: Live<Vec<Call>>,
    pub(crate) notices: Notices,
    pub(crate) look: Live<Look>,
    /// The password of the link that the page was opened with, until it is used.
    pub(crate) link_password: Kept<Option<String>>,
    root: Root,
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
    /// The last readings of it.
    readings: Vec<f64>,
    pub(crate) bytes_up: f64,
    pub(crate) bytes_down: f64,
    /// The newest last, at most [`Gauge::SPAN`].
    pub(crate) samples: Vec<Sample>,
}

impl Gauge {
    pub(crate) const SPAN: usize = 60;
    /// Readings of the round trip of which the shortest is shown: what is over it was spent waiting
    /// for a processor, of which the first has most, since it is taken in the handshake.
    const READINGS: usize = 5;

    pub(crate) fn note_rtt(&mut self, reading: Option<f64>) {
        self.readings.extend(reading);
        let over = self.readings.len().saturating_sub(Self::READINGS);
        self.readings.drain(..over);
        self.rtt_ms = self.readings.iter().copied().reduce(f64::min);
    }
}

/// A service that is open in the tab.
#[derive(Clone, Copy)]
pub(crate) struct Opened {
    pub(crate) number: u32,
    /// Terminals of one service are numbered from 1; others are open once.
    pub(crate) nth: u32,
    pub(crate) service: Kept<Service>,
    pub(crate) session: Session,
}

/// What goes on for as long as a service is open, whether it is seen or not.
#[derive(Clone, Copy)]
pub(crate) enum Session {
    Terminal(Terminal),
    Files(Browse),
    /// All of it is in the view.
    View,
}

/// One device's call and link.
#[derive(Clone, Copy)]
pub(crate) struct Call {
    /// What was asked for: an ID or a name.
    pub(crate) target: Kept<String>,
    pub(crate) links: Links,
    /// The password as it was typed, until there is a link.
    pub(crate) password: Live<String>,
    pub(crate) steps: Live<Vec<Seen>>,
    pub(crate) link_state: Live<LinkState>,
    pub(crate) receipt: Live<Option<Receipt>>,
    pub(crate) gauge: Live<Gauge>,
    pub(crate) services: Live<Reading<Vec<Service>>>,
    pub(crate) opened: Live<Vec<Opened>>,
    /// The number of the opened service that is in front; `None`: the tiles.
    pub(crate) front: Live<Option<u32>>,
    /// What was seen of it last.
    pub(crate) place: Kept<Place>,
    pub(crate) transfers: Transfers,
    /// How many terminals of each service were opened on this page.
    shells: Kept<BTreeMap<String, u32>>,
    pub(crate) remember: Kept<bool>,
    pub(crate) abort: Kept<Option<AbortHandle>>,
}

impl App {
    pub(crate) fn new() -> Self {
        Self {
            address: Address::new(),
            registry: Live::new(Reading::Waiting),
            owner: Live::new(Owner::Out),
            devices: Live::new(Vec::new()),
            presence: Live::new(Presence::Connecting),
            contacts: Live::new(Vec::new()),
            calls: Live::new(Vec::new()),
            notices: Notices::new(),
            look: Live::new(Look::load()),
            link_password: Kept::new(None),
            root: Root::current(),
        }
    }

    pub(crate) fn current() -> Self {
        expect_context()
    }

    /// Another screen. A device that is linked shows what was seen of it last.
    pub(crate) fn go(self, route: Route) {
        let place = match &route {
            Route::Device(target) => self.call(target).place.get_value(),
            _ => Place::Services,
        };
        self.address.write(&route, &place, Entry::New);
        self.arrive(route, place);
        browser::window().scroll_to_with_x_and_y(0.0, 0.0);
        browser::focus("main");
    }

    /// Shows what an address names.
    pub(crate) fn arrive(self, route: Route, place: Place) {
        let route = match route {
            // A device that is called already is the same by whichever of its names.
            Route::Device(target) => Route::Device(self.call(&target).target.get_value()),
            other => other,
        };
        self.address.place.set(place);
        self.address.route.set(route);
    }

    /// The call that is on the screen.
    pub(crate) fn call_in_front(self) -> Option<Call> {
        let Route::Device(target) = self.address.route.get() else {
            return None;
        };
        Some(self.call(&target))
    }

    /// Whether something would be lost with the tab.
    pub(crate) fn is_busy(self) -> bool {
        self.calls
            .with_untracked(|calls| calls.iter().any(|call| call.is_busy()))
    }

    pub(crate) fn secret(self) -> Option<String> {
        match self.owner.get_untracked() {
            Owner::In { secret } => Some(secret),
            Owner::Out => None,
        }
    }

    /// The call of `target`, made if there is none.
    pub(crate) fn call(self, target: &str) -> Call {
        let id = self.id_of(target);
        let known = self.calls.with_untracked(|calls| {
            let is_same = |call: &&Call| {
                call.target.with_value(|known| known == target)
                    || id.is_some() && call.device_id() == id
            };
            calls.iter().find(is_same).copied()
        });
        if let Some(call) = known {
            return call;
        }
        let call = self.root.keep(|| Call::new(target, self.root));
        self.calls.update(|calls| calls.push(call));
        call
    }

    /// The device ID of `target`, as far as it is known here.
    fn id_of(self, target: &str) -> Option<String> {
        if target.starts_with("rb1") {
            return Some(target.to_owned());
        }
        let noted = self.contacts.with_untracked(|contacts| {
            let contact = contacts
                .iter()
                .find(|it| it.name.as_deref() == Some(target))?;
            Some(contact.id.to_string())
        });
        noted.or_else(|| {
            self.devices.with_untracked(|devices| {
                let device = devices
                    .iter()
                    .find(|it| it.name.as_deref() == Some(target))?;
                Some(device.id.clone())
            })
        })
    }

    /// What `target`, an ID or a name, is called by people here.
    pub(crate) fn title(self, target: &str) -> String {
        self.devices.with(|devices| {
            self.contacts.with(|contacts| {
                let device = devices.iter().find(|device| device.id == target);
                let contact = contacts.iter().find(|it| it.id.to_string() == target);
                let names = Names {
                    owned: device.and_then(|device| device.name.as_deref()),
                    noted: contact.and_then(|contact| contact.name.as_deref()),
                    told: contact.and_then(|contact| contact.told_name.as_deref()),
                };
                let is_taken = |name: &str| {
                    let is_other = |id: &str, other: Option<&str>| {
                        id != target && other.is_some_and(|other| other == name)
                    };
                    devices
                        .iter()
                        .any(|it| is_other(&it.id, it.name.as_deref()))
                        || contacts.iter().any(|it| {
                            let id = it.id.to_string();
                            is_other(&id, it.name.as_deref())
                                || is_other(&id, it.told_name.as_deref())
                        })
                };
                naming::title(target, &names, is_taken)
            })
        })
    }

    /// Whether a service of this kind is shown in the tab.
    pub(crate) fn shows(self, service: &Service) -> bool {
        match service.kind.as_str() {
            SHELL | "files" | "dial" => true,
            // Without an origin of its own a LAN's page could reach this one.
            "http" => self.registry.with_untracked(
                |registry| matches!(registry, Reading::Here(info) if info.lan_origin.is_some()),
            ),
            _ => false,
        }
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
    fn new(target: &str, root: Root) -> Self {
        let target = Kept::new(target.to_owned());
        let links = Links::new();
        Self {
            target,
            links,
            password: Live::new(String::new()),
            steps: Live::new(Vec::new()),
            link_state: Live::new(LinkState::Ended),
            receipt: Live::new(None),
            gauge: Live::new(Gauge::default()),
            services: Live::new(Reading::Waiting),
            opened: Live::new(Vec::new()),
            front: Live::new(None),
            place: Kept::new(Place::Services),
            transfers: Transfers::new(target, links, root),
            shells: Kept::new(BTreeMap::new()),
            remember: Kept::new(false),
            abort: Kept::new(None),
        }
    }

    pub(crate) fn is_same(self, other: Self) -> bool {
        self.target
            .with_value(|own| other.target.with_value(|it| it == own))
    }

    pub(crate) fn is_linked(self) -> bool {
        self.links
            .stage
            .with(|stage| matches!(stage, Stage::Linked | Stage::Recalling))
    }

    /// The key of the device that is linked.
    fn device_id(self) -> Option<String> {
        self.links
            .link
            .with_untracked(|link| link.as_ref().map(|link| link.device().to_string()))
    }

    /// A shell or a transfer would end with the tab.
    fn is_busy(self) -> bool {
        let linked = self
            .links
            .stage
            .with_untracked(|stage| matches!(stage, Stage::Linked | Stage::Recalling));
        let shells = || {
            self.opened.with_untracked(|opened| {
                let runs = |it: &Opened| matches!(it.session, Session::Terminal(shell) if shell.is_running());
                opened.iter().any(runs)
            })
        };
        let transfers = || {
            self.transfers
                .list
                .with_untracked(|list| list.iter().any(|it| it.goes_on()))
        };
        linked && (shells() || transfers())
    }

    /// Brings to the front what an address names, and opens it first if it has to be.
    pub(crate) fn arrive(self, app: App, place: &Place) {
        let Place::Service { name, below } = place else {
            self.place.set_value(Place::Services);
            return self.front.set(None);
        };
        let nth = below.parse().unwrap_or(1);
        let is_here = |it: &&Opened| {
            it.service.with_value(|service| {
                service.name == *name && (service.kind != SHELL || it.nth == nth)
            })
        };
        let known = self
            .opened
            .with_untracked(|opened| opened.iter().find(is_here).copied());
        let service = self.services.with_untracked(|services| match services {
            Reading::Here(list) => list.iter().find(|it| it.name == *name).cloned(),
            _ => None,
        });
        let opened = match (known, service) {
            (Some(opened), _) => opened,
            (None, Some(service)) if service.kind == SHELL && nth <= self.shells_of(name) => {
                // It was closed here; another one in its place would not be what was left.
                return app.address.go_instead(Place::Services);
            }
            (None, Some(service)) if app.shows(&service) => self.open(app, service, nth),
            (None, _) => {
                let name = crate::plain::plain(name, 40);
                app.notices
                    .say(format!("This device shows no “{name}” here."));
                return app.address.go_instead(Place::Services);
            }
        };
        self.place.set_value(place.clone());
        self.front.set(Some(opened.number));
        if let Session::Files(browse) = opened.session {
            browse.arrive(below);
        }
    }

    fn open(self, app: App, service: Service, nth: u32) -> Opened {
        let number = browser::fresh_number();
        let is_shell = service.kind == SHELL;
        if is_shell {
            let name = service.name.clone();
            self.shells.update_value(|shells| {
                let most = shells.entry(name).or_default();
                *most = nth.max(*most);
            });
        }
        let opened = app.root.keep(|| Opened {
            number,
            nth,
            session: match service.kind.as_str() {
                SHELL => {
                    let name = &service.name;
                    Session::Terminal(Terminal::new(self.links, self.front, number, name))
                }
                "files" => Session::Files(Browse::new(
                    app.address,
                    app.notices,
                    self.links,
                    self.transfers,
                    &service.name,
                )),
                _ => Session::View,
            },
            service: Kept::new(service),
        });
        self.opened.update(|list| list.push(opened));
        opened
    }

    /// How many terminals of a service were opened on this page.
    fn shells_of(self, name: &str) -> u32 {
        self.shells
            .with_value(|shells| shells.get(name).copied().unwrap_or(0))
    }

    /// Where a tile leads to: terminals open anew each time.
    pub(crate) fn place_of(self, service: &Service) -> Place {
        let open = self.opened.with_untracked(|opened| {
            opened
                .iter()
                .find(|it| it.service.with_value(|known| known.name == service.name))
                .copied()
        });
        match (service.kind.as_str(), open) {
            (SHELL, _) => terminal_place(&service.name, self.shells_of(&service.name) + 1),
            (_, Some(opened)) => opened.place(),
            (_, None) => Place::of(&service.name, ""),
        }
    }

    pub(crate) fn close_service(self, app: App, number: u32) {
        self.opened.update(|opened| {
            opened.retain(|it| {
                let stays = it.number != number;
                if !stays {
                    it.close();
                }
                stays
            });
        });
        if self.front.get_untracked() == Some(number) {
            app.address.go_instead(Place::Services);
        }
    }

    pub(crate) fn close_services(self) {
        for opened in self.opened.get_untracked() {
            opened.close();
        }
        self.opened.set(Vec::new());
        self.front.set(None);
        self.place.set_value(Place::Services);
    }
}

const SHELL: &str = "shell";

fn terminal_place(name: &str, nth: u32) -> Place {
    let below = if nth > 1 {
        nth.to_string()
    } else {
        String::new()
    };
    Place::of(name, &below)
}

impl Opened {
    /// Where it is, as it stands now.
    pub(crate) fn place(self) -> Place {
        let name = self.service.with_value(|service| service.name.clone());
        match self.session {
            Session::Terminal(_) => terminal_place(&name, self.nth),
            Session::Files(browse) => Place::of(&name, &browse.below()),
            Session::View => Place::of(&name, ""),
        }
    }

    fn close(self) {
        if let Session::Terminal(terminal) = self.session {
            terminal.close();
        }
    }
}
