//! The field for a device's link, ID or name.

use leptos::{prelude::*, task::spawn_local};

use crate::{
    browser,
    live::Live,
    plain::plain,
    route::{Pasted, Route},
    session,
    state::App,
    target,
};

#[component]
pub(crate) fn DeviceForm() -> impl IntoView {
    let app = App::current();
    let text = Live::new(String::new());
    let wrong = Live::new(None::<String>);
    let busy = Live::new(false);
    let submit = move |event: web_sys::SubmitEvent| {
        event.prevent_default();
        let given = text.get_untracked();
        let pasted = match meant(&given) {
            Ok(pasted) => pasted,
            Err(mistake) => {
                wrong.set(Some(mistake));
                browser::focus("device");
                return;
            }
        };
        if busy.get_untracked() {
            return;
        }
        busy.set(true);
        spawn_local(async move {
            let found = session::look_for(&pasted.target).await;
            let _ = busy.try_set(false);
            // It was left or typed into meanwhile.
            if text.try_get_untracked().as_ref() != Some(&given) {
                return;
            }
            match found {
                Err(failure) if failure.is_about_the_target() => {
                    let (title, advice) = failure.sentence(browser::unix_s());
                    wrong.set(Some(format!("{title} {advice}")));
                    browser::focus("device");
                }
                // What else is in the way is told with the call.
                _ => {
                    if pasted.password.is_some() {
                        app.link_password.set_value(pasted.password);
                    }
                    app.go(Route::Device(pasted.target));
                }
            }
        });
    };
    view! {
        <form class="device-form" on:submit=submit novalidate=true>
            <label for="device">"Device link, ID or name"</label>
            <div class="row">
                <input
                    id="device"
                    name="device"
                    type="text"
                    autocomplete="off"
                    autocapitalize="none"
                    spellcheck="false"
                    placeholder="rb1… or nas"
                    aria-describedby="device-wrong"
                    aria-invalid=move || wrong.get().map(|_| "true")
                    prop:value=move || text.get()
                    on:input=move |event| {
                        text.set(browser::input_value(&event));
                        wrong.set(None);
                    }
                />
                <button type="submit" class="button primary" aria-busy=move || busy.get().to_string()>
                    {move || if busy.get() { "Looking…" } else { "Continue" }}
                </button>
            </div>
            <p id="device-wrong" class="wrong" role="alert">{move || wrong.get()}</p>
        </form>
    }
}

/// What is given in the field, or what is wrong with it.
fn meant(text: &str) -> Result<Pasted, String> {
    let pasted = Pasted::parse(text)
        .ok_or("This is not a device’s link, ID or name. IDs begin with rb1.")?;
    if let Some(other) = pasted
        .origin
        .as_deref()
        .filter(|origin| *origin != browser::origin())
    {
        return Err(format!(
            "This link belongs to another registry. Open it at {}.",
            plain(other, 80)
        ));
    }
    target::check(&pasted.target)?;
    Ok(pasted)
}
