//! A terminal in the tab: xterm.js, loaded when the first one opens.

use leptos::{html, prelude::*};

use super::{
    failure::failure_note,
    icon::{Icon, icon},
};
use crate::{
    browser,
    state::{App, Call},
    terminal::{State, Terminal},
};

#[component]
pub(crate) fn TerminalView(call: Call, number: u32, terminal: Terminal) -> impl IntoView {
    let app = App::current();
    let place = NodeRef::<html::Div>::new();
    Effect::new(move || {
        if let Some(place) = place.get() {
            terminal.show_in(&place);
        }
    });
    // A terminal that comes to the front takes the keyboard.
    Effect::new(move || {
        let here = app
            .call_in_front()
            .is_some_and(|front| front.is_same(call) && front.front.get() == Some(number));
        if here {
            browser::after_render(move || terminal.focus());
        }
    });
    let again = move |_| terminal.start();
    let press = move |keys: &'static str| move |_: web_sys::MouseEvent| terminal.press(keys);
    view! {
        <div class="terminal-frame">
            <div class="terminal-place" node_ref=place></div>
            <div class="terminal-keys" role="group" aria-label="Keys">
                <button type="button" class="keycap" on:click=press("\x1b")>"Esc"</button>
                <button type="button" class="keycap" on:click=press("\t")>"Tab"</button>
                <button type="button" class="keycap" aria-pressed=move || terminal.control.get().to_string()
                    on:click=move |_| {
                        terminal.control.update(|on| *on = !*on);
                        terminal.focus();
                    }>"Ctrl"</button>
                <button type="button" class="keycap" aria-label="Up" on:click=press("\x1b[A")>"↑"</button>
                <button type="button" class="keycap" aria-label="Down" on:click=press("\x1b[B")>"↓"</button>
                <button type="button" class="keycap" aria-label="Left" on:click=press("\x1b[D")>"←"</button>
                <button type="button" class="keycap" aria-label="Right" on:click=press("\x1b[C")>"→"</button>
            </div>
            <div class="terminal-word" role="status">
                {move || match terminal.state.get() {
                    State::Loading => view! {
                        <p class="waiting"><span class="spinner" aria-hidden="true"></span>"Opening the terminal…"</p>
                    }.into_any(),
                    State::Open => ().into_any(),
                    State::Over(words) => view! {
                        <p class="bar-note">
                            <span>{words}</span>
                            <button type="button" class="button small" on:click=again>"New shell"</button>
                            <button type="button" class="button small" on:click=move |_| call.close_service(app, number)>"Close"</button>
                        </p>
                    }.into_any(),
                    State::Failed(failure) => view! {
                        {failure_note(&failure)}
                        <button type="button" class="button small" on:click=again>{icon(Icon::Reload)} <span>"Try again"</span></button>
                    }.into_any(),
                }}
            </div>
        </div>
    }
}
