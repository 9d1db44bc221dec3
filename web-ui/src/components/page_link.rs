//! Links within the page.

use crate::{route::Route, state::App};

/// A click on a link within the page; with a modifier key it stays the browser's.
pub(crate) fn go(app: App, route: Route) -> impl Fn(web_sys::MouseEvent) + 'static {
    move |event| {
        if event.ctrl_key() || event.meta_key() || event.shift_key() || event.alt_key() {
            return;
        }
        event.prevent_default();
        app.go(route.clone());
    }
}
