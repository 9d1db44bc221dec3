//! The tab's address: what it names, and how it comes into the tab's history.

use crate::{
    browser,
    live::{Kept, Live},
    route::{Place, Route},
};

/// How an address gets into the tab's history.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entry {
    New,
    /// New, and the one before it is what it was opened over.
    Over,
    /// The one that is there is not one to come back to.
    Instead,
}

/// The mark of [`Entry::Over`] in the history.
const OVER: &str = "over";

/// What the address names.
#[derive(Clone, Copy)]
pub(crate) struct Address {
    pub(crate) route: Live<Route>,
    /// What of the device's screen.
    pub(crate) place: Live<Place>,
    /// A step back is under way: the browser makes it later.
    is_returning: Kept<bool>,
    /// What was gone to meanwhile. It comes into the history behind that step.
    later: Kept<Option<(Route, Place)>>,
}

impl Address {
    pub(crate) fn new() -> Self {
        Self {
            route: Live::new(Route::Home),
            place: Live::new(Place::Services),
            is_returning: Kept::new(false),
            later: Kept::new(None),
        }
    }

    /// Another place on the device's screen.
    pub(crate) fn go_to(self, place: Place) {
        self.go_by(place, Entry::New);
    }

    /// The same, for what is closed by going [`Self::back_from`] it.
    pub(crate) fn go_over(self, place: Place) {
        self.go_by(place, Entry::Over);
    }

    fn go_by(self, place: Place, entry: Entry) {
        if self.place.get_untracked() != place {
            self.write(&self.route.get_untracked(), &place, entry);
            self.place.set(place);
        }
    }

    /// Back to `place`, over which this was opened: one step, if it was opened from there.
    pub(crate) fn back_from(self, place: Place) {
        let history = browser::window().history();
        let is_over = |history: &web_sys::History| {
            history
                .state()
                .is_ok_and(|state| state.as_string().as_deref() == Some(OVER))
        };
        match history {
            Ok(history) if is_over(&history) => {
                self.is_returning.set_value(history.back().is_ok());
            }
            _ => self.go_instead(place),
        }
    }

    /// The same, where the address that was is not one to come back to.
    pub(crate) fn go_instead(self, place: Place) {
        self.write(&self.route.get_untracked(), &place, Entry::Instead);
        self.place.set(place);
    }

    /// The browser has made a step in the history. True: something else was gone to since that step was
    /// asked for, and is what the address names now.
    pub(crate) fn has_moved_on(self) -> bool {
        self.is_returning.set_value(false);
        let later = self.later.get_value();
        self.later.set_value(None);
        if let Some((route, place)) = &later {
            self.write(route, place, Entry::New);
        }
        later.is_some()
    }

    pub(crate) fn write(self, route: &Route, place: &Place, entry: Entry) {
        if self.is_returning.get_value() {
            self.later.set_value(Some((route.clone(), place.clone())));
            return;
        }
        let Ok(history) = browser::window().history() else {
            return;
        };
        let none = wasm_bindgen::JsValue::NULL;
        let url = format!("{}{}", route.path(), place.fragment());
        let _ = match entry {
            Entry::New => history.push_state_with_url(&none, "", Some(&url)),
            Entry::Over => history.push_state_with_url(&OVER.into(), "", Some(&url)),
            Entry::Instead => history.replace_state_with_url(&none, "", Some(&url)),
        };
    }
}
