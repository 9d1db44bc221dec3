//! Messages that come and go.

use crate::{browser, live::Live, sentence::Failure};

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Notice {
    pub(crate) number: u32,
    pub(crate) text: String,
    pub(crate) bad: bool,
}

/// Those that are seen.
#[derive(Clone, Copy)]
pub(crate) struct Notices {
    pub(crate) list: Live<Vec<Notice>>,
}

impl Notices {
    pub(crate) fn new() -> Self {
        Self {
            list: Live::new(Vec::new()),
        }
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
        self.list
            .update(|notices| notices.push(Notice { number, text, bad }));
        leptos::task::spawn_local(async move {
            browser::sleep(STAYS_MS).await;
            self.dismiss(number);
        });
    }

    pub(crate) fn dismiss(self, number: u32) {
        self.list
            .update(|notices| notices.retain(|notice| notice.number != number));
    }
}
