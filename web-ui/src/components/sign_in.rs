//! Signing in as the registry's owner.

use leptos::{prelude::*, task::spawn_local};

use super::{failure::failure_note, secret_field::SecretField};
use crate::{browser, live::Live, owner, ownership, route::Route, sentence::Failure, state::App};

#[component]
pub(crate) fn SignInScreen() -> impl IntoView {
    let app = App::current();
    let secret = Live::new(String::new());
    let stay = Live::new(false);
    let busy = Live::new(false);
    let failure = Live::new(None::<Failure>);
    browser::focus("secret");
    let submit = move |event: web_sys::SubmitEvent| {
        event.prevent_default();
        let given = secret.get_untracked().trim().to_owned();
        if given.is_empty() || busy.get_untracked() {
            browser::focus("secret");
            return;
        }
        busy.set(true);
        failure.set(None);
        spawn_local(async move {
            let answer = owner::devices(&given).await;
            busy.set(false);
            match answer {
                Ok(devices) => {
                    app.devices.set(ownership::in_order(devices));
                    ownership::sign_in(app, given, stay.get_untracked());
                    app.go(Route::Home);
                }
                Err(reason) => {
                    failure.set(Some(reason));
                    browser::focus("secret");
                }
            }
        });
    };
    view! {
        <div class="narrow">
            <h1>"Sign in"</h1>
            <p class="lead">
                "With the owner secret of " <strong>{browser::host()}</strong>
                ". It opens the device list; it does not open any device."
            </p>
            <form class="card form" on:submit=submit>
                // Lets password managers file the secret under this registry.
                <input class="away" type="text" name="username" autocomplete="username" value="owner" tabindex="-1" aria-hidden="true" readonly=true />
                <SecretField id="secret" label="Owner secret" value=secret autocomplete="current-password" />
                <label class="check">
                    <input
                        type="checkbox"
                        prop:checked=move || stay.get()
                        on:change=move |event| stay.set(browser::input_checked(&event))
                    />
                    <span>"Stay signed in on this browser"</span>
                </label>
                {move || failure.get().as_ref().map(failure_note)}
                <button type="submit" class="button primary wide" aria-busy=move || busy.get().to_string()>
                    {move || if busy.get() { "Signing in…" } else { "Sign in" }}
                </button>
            </form>
        </div>
    }
}
