//! A field for a secret.

use leptos::prelude::*;

use super::icon::{Icon, icon};
use crate::{browser, live::Live};

/// A field for a secret, with a button that shows it.
#[component]
pub(crate) fn SecretField(
    id: &'static str,
    label: &'static str,
    value: Live<String>,
    autocomplete: &'static str,
) -> impl IntoView {
    let seen = Live::new(false);
    view! {
        <div class="field">
            <label for=id>{label}</label>
            <div class="secret">
                <input
                    id=id
                    name=id
                    type=move || if seen.get() { "text" } else { "password" }
                    autocomplete=autocomplete
                    autocapitalize="none"
                    spellcheck="false"
                    prop:value=move || value.get()
                    on:input=move |event| value.set(browser::input_value(&event))
                />
                <button
                    type="button"
                    class="quiet square"
                    aria-label=move || if seen.get() { "Hide" } else { "Show" }
                    aria-pressed=move || seen.get().to_string()
                    on:click=move |_| seen.update(|seen| *seen = !*seen)
                >
                    {move || icon(if seen.get() { Icon::EyeOff } else { Icon::Eye })}
                </button>
            </div>
        </div>
    }
}
