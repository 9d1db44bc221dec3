//! The links of one call, one after the other: services wait for the next one when theirs is lost, and
//! go on where they were.

use futures::channel::oneshot;
use ringback_wasm::Link;

use crate::{
    live::{Kept, Live},
    sentence::Failure,
};

/// The states of a call, and of the screen that shows it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Stage {
    /// A password is asked for; after a failure it says why.
    Asking(Option<Failure>),
    Calling,
    Linked,
    /// The link was lost and is made anew.
    Recalling,
    /// The link has ended for good.
    Ended(Failure),
}

/// The link of a call, and whether there will be another.
#[derive(Clone, Copy)]
pub(crate) struct Links {
    pub(crate) stage: Live<Stage>,
    pub(crate) link: Live<Option<Link>>,
    numbered: Kept<u64>,
    waiting: Kept<Vec<oneshot::Sender<()>>>,
}

impl Links {
    pub(crate) fn new() -> Self {
        Self {
            stage: Live::new(Stage::Asking(None)),
            link: Live::new(None),
            numbered: Kept::new(0),
            waiting: Kept::new(Vec::new()),
        }
    }

    /// They are numbered from 1.
    pub(crate) fn number(self) -> u64 {
        self.numbered.get_value()
    }

    /// Another link is there.
    pub(crate) fn add(self, link: Link) {
        self.numbered.update_value(|number| *number += 1);
        self.link.set(Some(link));
        self.stage.set(Stage::Linked);
        self.wake();
    }

    /// There will be no other one.
    pub(crate) fn end(self, failure: Failure) {
        self.link.set(None);
        self.stage.set(Stage::Ended(failure));
        self.wake();
    }

    /// The link, once there is another than `old`; at once if there is. A call that has ended is waited
    /// for until it is made again.
    pub(crate) async fn next(self, old: Option<u64>) -> (u64, Link) {
        loop {
            if let Some(here) = self.other_than(old).await {
                return here;
            }
            self.changed().await;
        }
    }

    /// The link, once there is another than `old`; at once if there is. `None`: the call has ended.
    pub(crate) async fn other_than(self, old: Option<u64>) -> Option<(u64, Link)> {
        loop {
            let here = self.link.with_untracked(|link| {
                let link = link.as_ref()?;
                let number = self.number();
                (Some(number) != old).then(|| (number, link.clone()))
            });
            if here.is_some() {
                return here;
            }
            if !matches!(
                self.stage.get_untracked(),
                Stage::Linked | Stage::Recalling | Stage::Calling
            ) {
                return None;
            }
            self.changed().await;
        }
    }

    /// Another link, or the end of them.
    async fn changed(self) {
        let (sender, changed) = oneshot::channel();
        self.waiting.update_value(|waiting| waiting.push(sender));
        let _ = changed.await;
    }

    fn wake(self) {
        self.waiting.update_value(Vec::clear);
    }
}
