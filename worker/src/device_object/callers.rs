//! Which callers the device has answered (§14): they do not share the limits of strangers.
//!
//! What the device answers and refuses goes through here, so the registry sees it without being
//! told. The set is in storage, since it has to outlive the device's sockets and the object's sleep;
//! it is read once each time the object wakes, and a row is written when it changes.

use minicbor::{Decode, Encode};
use ringback_protocol::refusal::Refusal;
use ringback_protocol::{Code, PeerId};
use serde_bytes::ByteBuf;

use super::shared::Shared;
use crate::calls::Event;
use crate::limits::AnsweredCallers;

const KEY: &str = "answered";

impl Shared {
    /// Has the device answered this caller before?
    pub(super) async fn is_answered(&self, caller: &PeerId) -> bool {
        if self.answered.borrow().is_none() {
            let stored: Option<AnsweredCallers> = self.stored(KEY).await;
            // Another event may have been quicker, and know more.
            self.answered
                .borrow_mut()
                .get_or_insert_with(|| stored.unwrap_or_default());
        }
        let answered = self.answered.borrow();
        answered
            .as_ref()
            .is_some_and(|known| known.contains(caller))
    }

    /// An event of a call, from the device.
    pub(super) async fn device_says(&self, session: u64, call: u64, event: Event) {
        let verdict = verdict(&event);
        let caller = self.calls.borrow().handle(session, call, event);
        let (Some(caller), Some(lets_in)) = (caller, verdict) else {
            return;
        };
        // Reads the set, if this is not the call that has.
        self.is_answered(&caller).await;
        let changed = {
            let mut answered = self.answered.borrow_mut();
            let Some(known) = answered.as_mut() else {
                return;
            };
            let is_news = if lets_in {
                known.answered(&caller)
            } else {
                known.refused(&caller)
            };
            is_news.then(|| known.clone())
        };
        if let Some(known) = changed {
            self.store(KEY, &known).await;
        }
    }

    pub(super) async fn stored<T: for<'b> Decode<'b, ()>>(&self, key: &str) -> Option<T> {
        match self.state.storage().get::<ByteBuf>(key).await {
            Ok(bytes) => minicbor::decode(&bytes?).ok(),
            Err(error) => {
                crate::log::fault("reading what was stored", &error);
                None
            }
        }
    }

    pub(super) async fn store(&self, key: &str, value: &impl Encode<()>) {
        let bytes = minicbor::to_vec(value).expect("writing to a Vec does not fail");
        if let Err(error) = self.state.storage().put(key, ByteBuf::from(bytes)).await {
            crate::log::fault("storing", &error);
        }
    }
}

/// Does this event show that the device lets the caller in, or that it does not? A refusal for a
/// wrong clock, or a service that is not there, says nothing of the caller.
fn verdict(event: &Event) -> Option<bool> {
    match event {
        Event::Answer(_) => Some(true),
        Event::Refuse(refusal) => match minicbor::decode::<Refusal>(refusal).ok()?.code {
            Code::UnknownCaller | Code::WrongPassword => Some(false),
            _ => None,
        },
        Event::Ack | Event::Gone | Event::Timeout => None,
    }
}

#[cfg(test)]
mod tests {
    use ringback_protocol::SecretKey;

    use super::*;

    #[test]
    fn an_answer_lets_in_and_two_refusals_keep_out() {
        let device = SecretKey::from_seed(&[1; 32]);
        let refusal =
            |code| Event::Refuse(Refusal::sign(&device, b"envelope", code, None, 0).encode());
        assert_eq!(verdict(&Event::Answer(vec![])), Some(true));
        assert_eq!(verdict(&refusal(Code::UnknownCaller)), Some(false));
        assert_eq!(verdict(&refusal(Code::WrongPassword)), Some(false));
        assert_eq!(verdict(&refusal(Code::Stale)), None);
        assert_eq!(verdict(&Event::Refuse(vec![2])), None, "not a refusal");
        assert_eq!(verdict(&Event::Ack), None);
    }
}
