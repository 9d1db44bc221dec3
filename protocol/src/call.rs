//! One connection request from the caller's side (§4, §5.3): what the registry's frames mean, and
//! which of them are not to be believed.

use crate::envelope::{CallKeys, Envelope, EnvelopeError, Proof, Request};
use crate::frame::{Failed, Frame};
use crate::refusal::Refusal;
use crate::reply::Reply;
use crate::{PeerId, SecretKey};
use hpke::rand_core::CryptoRng;

/// A request under way. Feed it the registry's frames until it has an [`Outcome`].
#[derive(Debug)]
pub struct Call {
    device: PeerId,
    request_id: [u8; 16],
    envelope: Vec<u8>,
    keys: CallKeys,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Sent,
    Delivered,
    Ended,
}

/// What a frame brought.
#[derive(Debug)]
pub enum Progress {
    /// The device has the request.
    Delivered,
    Ended(Outcome),
}

/// How a request ended.
#[derive(Debug)]
pub enum Outcome {
    /// The device admits the call and is dialling.
    Accepted(Reply),
    /// The device refuses, and proves that it is the device that does.
    Refused(Refusal),
    /// The registry could not do it. Unsigned: it is only the registry's word.
    Failed(Failed),
    /// The registry passed on something that the device did not say to this request.
    RegistryMisbehaved(String),
}

impl Call {
    /// Seals `request` for `device`.
    pub fn seal(
        request: &Request,
        caller: &SecretKey,
        device: PeerId,
        proof: Proof<'_>,
        rng: &mut impl CryptoRng,
    ) -> Result<Self, EnvelopeError> {
        let (envelope, keys) = Envelope::seal(request, caller, &device, proof, rng)?;
        Ok(Self {
            device,
            request_id: request.id,
            envelope: envelope.encode(),
            keys,
            state: State::Sent,
        })
    }

    /// The sealed request, to be handed to the registry.
    pub fn envelope(&self) -> &[u8] {
        &self.envelope
    }

    /// What caller and device share once the device has opened the envelope.
    pub fn keys(&self) -> &CallKeys {
        &self.keys
    }

    pub fn device(&self) -> PeerId {
        self.device
    }

    /// Does this frame say what only the device can say to this request, or nothing that ends it? What
    /// comes from the LAN is asked this first: anybody may answer there, and a lie must not end the
    /// call.
    pub fn is_authentic(&self, frame: &Frame) -> bool {
        match frame {
            Frame::Delivered(_) => true,
            Frame::Answered(answered) => self
                .keys
                .reply
                .open(&answered.reply, &self.request_id)
                .is_ok(),
            Frame::Refused(_) => self.refusal(frame).is_some(),
            _ => false,
        }
    }

    /// The device's refusal in this frame, if it is one and the device's.
    pub fn refusal(&self, frame: &Frame) -> Option<Refusal> {
        match frame {
            Frame::Refused(refused) => {
                Refusal::decode(&refused.refusal, &self.device, &self.envelope).ok()
            }
            _ => None,
        }
    }

    /// Takes the registry's next frame for this call; `None` for frames that say nothing new.
    pub fn handle_frame(&mut self, frame: Frame) -> Option<Progress> {
        if self.state == State::Ended {
            return None;
        }
        let outcome = match frame {
            Frame::Delivered(_) if self.state == State::Sent => {
                self.state = State::Delivered;
                return Some(Progress::Delivered);
            }
            Frame::Answered(answered) => {
                match self.keys.reply.open(&answered.reply, &self.request_id) {
                    Ok(reply) => Outcome::Accepted(reply),
                    Err(forged) => Outcome::RegistryMisbehaved(forged.to_string()),
                }
            }
            Frame::Refused(refused) => {
                match Refusal::decode(&refused.refusal, &self.device, &self.envelope) {
                    Ok(refusal) => Outcome::Refused(refusal),
                    Err(forged) => Outcome::RegistryMisbehaved(forged.to_string()),
                }
            }
            Frame::Failed(failed) => Outcome::Failed(failed),
            _ => return None,
        };
        self.state = State::Ended;
        Some(Progress::Ended(outcome))
    }
}
