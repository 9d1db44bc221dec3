//! The page: its frame, the screen in it, and what runs beside the screens.

use leptos::{prelude::*, task::spawn_local};
use ringback_wasm::LinkState;
use wasm_bindgen::{JsCast, JsValue};

use crate::{
    address::Entry,
    browser,
    components::{
        call::CallScreen,
        contacts::ContactsScreen,
        devices::DevicesScreen,
        icon::{Icon, icon, mark},
        page_link::go,
        settings::SettingsScreen,
        shown::rows,
        sign_in::SignInScreen,
        welcome::WelcomeScreen,
    },
    figures,
    links::Stage,
    notices::Notice,
    ownership,
    reading::Reading,
    route::{self, Place, Route},
    session,
    state::{App, Call, Owner},
};

#[component]
pub(crate) fn Page() -> impl IntoView {
    let app = App::new();
    provide_context(app);
    app.look.get_untracked().apply();
    read_address(app);
    let back = move |_| {
        if !app.address.has_moved_on() {
            read_address(app);
        }
    };
    browser::listen_forever(browser::window().as_ref(), "popstate", back);
    // Asked of the person only where something would be lost; what it asks is the browser's.
    let leaving = move |event: web_sys::Event| {
        if app.is_busy() {
            event.prevent_default();
            // What browsers of before 2023 go by.
            let _ = js_sys::Reflect::set(&event, &"returnValue".into(), &JsValue::TRUE);
        }
    };
    browser::listen_forever(browser::window().as_ref(), "beforeunload", leaving);
    spawn_local(async move {
        match session::registry().await {
            Ok(registry) => app.registry.set(Reading::Here(registry.info().clone())),
            Err(failure) => app.registry.set(Reading::Failed(failure)),
        }
    });
    spawn_local(session::load_contacts(app));
    ownership::restore(app);
    Effect::new(move || {
        if let Owner::In { secret } = app.owner.get() {
            spawn_local(ownership::follow_presence(app, secret));
        }
    });
    Effect::new(move || {
        let place = app.address.place.get();
        if let Some(call) = app.call_in_front()
            && call.is_linked()
            && call
                .services
                .with(|services| matches!(services, Reading::Here(_)))
        {
            call.arrive(app, &place);
        }
    });
    Effect::new(move || {
        let title = match app.address.route.get() {
            Route::Device(target) => {
                let words = app.address.place.with(Place::words);
                let place = if words.is_empty() {
                    words
                } else {
                    format!("{words} · ")
                };
                format!("{place}{} · Ringback", app.title(&target))
            }
            Route::SignIn => "Sign in · Ringback".into(),
            Route::Contacts => "Contacts · Ringback".into(),
            Route::Settings => "This browser · Ringback".into(),
            Route::Home | Route::Unknown => "Ringback".into(),
        };
        browser::document().set_title(&title);
    });
    view! {
        <a class="skip" href="#main" on:click=move |event| {
            event.prevent_default();
            browser::focus("main");
        }>"Skip to content"</a>
        <Bar />
        <main id="main" tabindex="-1">
            <Screen />
            <Devices />
        </main>
        <Notices />
    }
}

#[component]
fn Screen() -> impl IntoView {
    let app = App::current();
    let screen = move || match app.address.route.get() {
        Route::Home | Route::Unknown => match app.owner.get() {
            Owner::Out => view! { <WelcomeScreen /> }.into_any(),
            Owner::In { .. } => view! { <DevicesScreen /> }.into_any(),
        },
        Route::SignIn => view! { <SignInScreen /> }.into_any(),
        Route::Contacts => view! { <ContactsScreen /> }.into_any(),
        Route::Settings => view! { <SettingsScreen /> }.into_any(),
        Route::Device(_) => ().into_any(),
    };
    view! { {move || screen()} }
}

/// The device on the screen, and those that are linked: what is open on them stays as it is while
/// something else is seen.
#[component]
fn Devices() -> impl IntoView {
    let app = App::current();
    let in_front = move |call: Call| app.call_in_front().is_some_and(|it| it.is_same(call));
    let held = move || {
        let calls = app.calls.get();
        let is_held = |call: &Call| in_front(*call) || call.is_linked();
        calls.into_iter().filter(is_held).collect()
    };
    let screen = move |call: Call| {
        view! {
            <div class="held" hidden=move || !in_front(call)>
                <CallScreen call />
            </div>
        }
        .into_any()
    };
    rows(held, |call| call.target.get_value(), screen)
}

#[component]
fn Bar() -> impl IntoView {
    let app = App::current();
    let home = move || match app.owner.get() {
        Owner::Out => "Call",
        Owner::In { .. } => "Devices",
    };
    view! {
        <header class="bar">
            <div class="bar-in">
                <a class="wordmark" href="/" aria-label="Ringback, start" on:click=go(app, Route::Home)>
                    {mark()}
                    <span>"Ringback"</span>
                </a>
                <nav class="nav" aria-label="Main">
                    <NavLink to=Route::Home what=Icon::Device>{move || home()}</NavLink>
                    <NavLink to=Route::Contacts what=Icon::Person>"Contacts"</NavLink>
                    <NavLink to=Route::Settings what=Icon::Browser>"This browser"</NavLink>
                </nav>
                <Links />
            </div>
        </header>
    }
}

#[component]
fn NavLink(to: Route, what: Icon, children: Children) -> impl IntoView {
    let app = App::current();
    let path = to.path();
    let here = to.clone();
    view! {
        <a href=path aria-current=move || (app.address.route.get() == here).then_some("page") on:click=go(app, to)>
            {icon(what)}
            <span>{children()}</span>
        </a>
    }
}

/// Links that are open, wherever in the page one is.
#[component]
fn Links() -> impl IntoView {
    let app = App::current();
    let linked = move || {
        app.calls
            .get()
            .into_iter()
            .filter(|call| call.is_linked())
            .map(|call| {
                let target = call.target.get_value();
                let route = Route::Device(target.clone());
                let quiet = move || {
                    call.links.stage.get() != Stage::Linked
                        || call.link_state.get() != LinkState::Connected
                };
                let rtt = move || {
                    if quiet() {
                        return "calling again".to_owned();
                    }
                    let rtt = call.gauge.with(|gauge| gauge.rtt_ms);
                    rtt.map(figures::milliseconds).unwrap_or_default()
                };
                view! {
                    <a class="pill" class:quiet=quiet href=route.path() on:click=go(app, route)>
                        <span class="dot" aria-hidden="true"></span>
                        <span class="pill-name">{move || app.title(&target)}</span>
                        <span class="figures">{move || rtt()}</span>
                    </a>
                }
                .into_any()
            })
            .collect_view()
    };
    view! { <div class="links" aria-label="Open links" role="group">{move || linked()}</div> }
}

#[component]
fn Notices() -> impl IntoView {
    let app = App::current();
    let row = move |notice: Notice| {
        view! {
            <div class="notice" class:bad=notice.bad>
                <p>{notice.text}</p>
                <button
                    type="button"
                    class="quiet square"
                    aria-label="Dismiss"
                    on:click=move |_| app.notices.dismiss(notice.number)
                >
                    {icon(Icon::Close)}
                </button>
            </div>
        }
        .into_any()
    };
    view! {
        <div class="notices" role="status" aria-live="polite">
            {rows(move || app.notices.list.get(), |notice| notice.number.to_string(), row)}
        </div>
    }
}

/// Takes what to show from the address bar, and a secret out of it.
fn read_address(app: App) {
    let location = browser::window().location();
    let path = location.pathname().unwrap_or_default();
    let fragment = location.hash().unwrap_or_default();
    let mut route = Route::parse(&path);
    let place = Place::parse(&fragment);
    if !fragment.is_empty() && place.is_none() {
        // `/#rb1…` is the short form of a device's link.
        let short = route::Pasted::parse(&format!("/{fragment}"));
        if let (Route::Home, Some(pasted)) = (&route, short) {
            route = Route::Device(pasted.target);
        }
        if let Some(password) = route::secret(&fragment, "p") {
            app.link_password.set_value(Some(password));
        }
        app.address.write(&route, &Place::Services, Entry::Instead);
    }
    app.arrive(route, place.unwrap_or_default());
}

/// Puts the page into the document.
pub(crate) fn mount() {
    console_panics();
    if let Some(waiting) = browser::element::<web_sys::Element>("waiting") {
        waiting.remove();
    }
    leptos::mount::mount_to_body(Page);
}

/// A panic is a bug of ours; the page says so instead of standing still without a word.
fn console_panics() {
    std::panic::set_hook(Box::new(|info| {
        let text = info.to_string();
        let console = js_sys::Reflect::get(&browser::window(), &"console".into())
            .and_then(|console| js_sys::Reflect::get(&console, &"error".into()));
        if let Ok(error) = console
            && let Ok(error) = error.dyn_into::<js_sys::Function>()
        {
            let _ = error.call1(&JsValue::NULL, &text.into());
        }
        let document = browser::document();
        if let (Ok(note), Some(body)) = (document.create_element("p"), document.body()) {
            let _ = note.set_attribute("class", "crash");
            let _ = note.set_attribute("role", "alert");
            note.set_text_content(Some(
                "This page has run into a fault of its own. Reload it to go on.",
            ));
            let _ = body.append_child(&note);
        }
    }));
}
