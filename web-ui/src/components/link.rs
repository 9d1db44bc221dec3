//! A device that is linked: its services as tiles, and those that are open.

use leptos::prelude::*;
use ringback_wasm::Service;

use super::{
    connect::Connect,
    failure::failure_note,
    files::Files,
    icon::{Icon, icon},
    lan_page::LanPage,
    link_panel::{LinkPanel, condition},
    ports::PortDialog,
    receipt::ReceiptDialog,
    shown::rows,
    terminal::TerminalView,
};
use crate::{
    figures,
    links::Stage,
    live::Live,
    plain::plain,
    reading::Reading,
    route::Place,
    state::{App, Call, Opened, Session},
};

#[component]
pub(crate) fn LinkScreen(call: Call) -> impl IntoView {
    let app = App::current();
    let target = call.target.get_value();
    let title = move || app.title(&target);
    let front = call.front;
    let receipt = Live::new(false);
    let head_rtt = move || {
        call.gauge
            .with(|gauge| gauge.rtt_ms)
            .map(figures::milliseconds)
            .unwrap_or_default()
    };
    let number = |opened: &Opened| opened.number.to_string();
    let service = move |opened: Opened| {
        view! {
            <section
                class="service"
                aria-label=opened.service.with_value(|service| plain(&service.name, 64))
                hidden=move || front.get() != Some(opened.number)
            >
                {service_view(call, opened)}
            </section>
        }
        .into_any()
    };
    view! {
        <div class="linked" class:busy=move || front.get().is_some()>
            <header class="linked-head">
                <h1>{move || title()}</h1>
                <details class="panel-phone">
                    <summary>
                        <span class="dot" class:quiet=move || !condition(call).1 aria-hidden="true"></span>
                        <span>{move || condition(call).0}</span>
                        <span class="figures">{move || head_rtt()}</span>
                    </summary>
                    <LinkPanel call receipt />
                </details>
            </header>
            <Recalling call />
            <nav class="tabs" aria-label="Open services">
                <button type="button" class="tab" aria-pressed=move || (front.get().is_none()).to_string()
                    on:click=move |_| app.address.go_to(Place::Services)>
                    "Services"
                </button>
                {rows(move || call.opened.get(), number, move |opened| view! { <Tab call opened /> }.into_any())}
            </nav>
            <div class="linked-main">
                <div class="tiles-place" hidden=move || front.get().is_some()>
                    <Tiles call />
                </div>
                {rows(move || call.opened.get(), number, service)}
            </div>
            <aside class="linked-side">
                <LinkPanel call receipt />
            </aside>
        </div>
        // Not in a panel: one of the two is hidden, and all that is in it.
        {move || receipt.get().then(|| view! {
            <ReceiptDialog call on_close=move || receipt.set(false) />
        }.into_any())}
    }
}

fn service_view(call: Call, opened: Opened) -> AnyView {
    let number = opened.number;
    let service = opened.service.get_value();
    match (opened.session, service.kind.as_str()) {
        (Session::Terminal(terminal), _) => {
            view! { <TerminalView call number terminal /> }.into_any()
        }
        (Session::Files(browse), _) => view! { <Files browse /> }.into_any(),
        (Session::View, "http") => view! { <LanPage call service /> }.into_any(),
        (Session::View, "dial") => view! { <Connect call service /> }.into_any(),
        (Session::View, _) => ().into_any(),
    }
}

#[component]
fn Tab(call: Call, opened: Opened) -> impl IntoView {
    let app = App::current();
    let number = opened.number;
    let (name, kind) = opened
        .service
        .with_value(|service| (plain(&service.name, 32), service.kind.clone()));
    // The second terminal is told from the first.
    let name = match opened.nth {
        1 => name,
        nth => format!("{name} {nth}"),
    };
    let close = format!("Close {name}");
    view! {
        <span class="tab-pair">
            <button
                type="button"
                class="tab"
                aria-pressed=move || (call.front.get() == Some(number)).to_string()
                on:click=move |_| app.address.go_to(opened.place())
            >
                {icon(sign(&kind))}
                <span>{name}</span>
            </button>
            <button type="button" class="quiet square tab-close" aria-label=close
                on:click=move |_| call.close_service(app, number)>
                {icon(Icon::Close)}
            </button>
        </span>
    }
}

#[component]
fn Recalling(call: Call) -> impl IntoView {
    let recalling = move || call.links.stage.get() == Stage::Recalling;
    view! {
        <div role="status">
            {move || recalling().then(|| view! {
                <p class="note warn">
                    <span class="spinner" aria-hidden="true"></span>
                    <span>
                        <strong>"The link was lost."</strong>
                        " The device is called again; terminals and transfers go on where they were."
                    </span>
                </p>
            }.into_any())}
        </div>
    }
}

pub(crate) fn sign(kind: &str) -> Icon {
    match kind {
        "shell" => Icon::Terminal,
        "files" => Icon::Files,
        "http" => Icon::Page,
        "dial" => Icon::Bridge,
        _ => Icon::Port,
    }
}

#[component]
fn Tiles(call: Call) -> impl IntoView {
    let port = Live::new(None::<Service>);
    let tiles = move || {
        match call.services.get() {
        Reading::Waiting => view! {
            <ul class="tiles" aria-busy="true">
                {(0..3).map(|_| view! { <li class="tile ghost" aria-hidden="true"></li> }.into_any()).collect_view()}
            </ul>
        }
        .into_any(),
        Reading::Failed(failure) => view! {
            {failure_note(&failure)}
            <button type="button" class="button" on:click=move |_| {
                leptos::task::spawn_local(call.reload_services());
            }>{icon(Icon::Reload)} <span>"Ask again"</span></button>
        }
        .into_any(),
        Reading::Here(list) if list.is_empty() => view! {
            <div class="card empty">
                <span class="empty-sign">{icon(Icon::Port)}</span>
                <h2>"This device exposes nothing yet"</h2>
                <p>"On the device, name what callers may use:"</p>
                <p class="command"><code>"ringback expose shell"</code></p>
                <button type="button" class="button" on:click=move |_| {
                    leptos::task::spawn_local(call.reload_services());
                }>{icon(Icon::Reload)} <span>"Look again"</span></button>
            </div>
        }
        .into_any(),
        Reading::Here(list) => {
            let tiles = list
                .into_iter()
                .map(|service| view! { <Tile call service port /> }.into_any())
                .collect_view();
            view! { <ul class="tiles">{tiles}</ul> }.into_any()
        }
    }
    };
    view! {
        {move || tiles()}
        {move || port.get().map(|service| view! {
            <PortDialog call service on_close=move || port.set(None) />
        }.into_any())}
    }
}

#[component]
fn Tile(call: Call, service: Service, port: Live<Option<Service>>) -> impl IntoView {
    let app = App::current();
    let (title, text) = words(&service);
    let kind = service.kind.clone();
    let name = service.name.clone();
    let moving = move || {
        let all = call.transfers.of(&name);
        all.into_iter().filter(|it| it.goes_on()).count()
    };
    let open = move |_| {
        if app.shows(&service) {
            app.address.go_to(call.place_of(&service));
        } else {
            port.set(Some(service.clone()));
        }
    };
    view! {
        <li>
            <button type="button" class="tile" on:click=open>
                <span class="tile-sign">{icon(sign(&kind))}</span>
                <span class="tile-title">{title}</span>
                <span class="tile-text">{move || match moving() {
                    0 => text.clone(),
                    1 => "1 transfer going on".to_owned(),
                    some => format!("{some} transfers going on"),
                }}</span>
            </button>
        </li>
    }
}

fn words(service: &Service) -> (String, String) {
    let name = plain(&service.name, 40);
    let target = service.target.as_deref().map(|target| plain(target, 80));
    let text = match (service.kind.as_str(), target) {
        ("shell", _) => "A terminal on the device".to_owned(),
        ("files", _) if service.writable == Some(true) => "Files, to read and to write".to_owned(),
        ("files", _) => "Files, to read".to_owned(),
        ("dial", _) => "Let it call another of your devices".to_owned(),
        (_, Some(target)) => target,
        (kind, None) => plain(kind, 20),
    };
    (name, text)
}
