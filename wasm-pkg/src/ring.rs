//! The request of a call: sealed, handed to the registry, and its answers followed (PROTOCOL §4). A
//! call may make several: for another clock, another form of the password, another way.

use std::cell::RefCell;

use hpke::rand_core::UnwrapErr;
use ringback_protocol::call::{Call, Outcome, Progress};
use ringback_protocol::envelope::{LIFETIME, Proof as Right, Request};
use ringback_protocol::frame::Frame;
use ringback_protocol::receipt::Nat;
use ringback_protocol::reply::Reply;
use ringback_protocol::rtc::Description;
use ringback_protocol::{Code, PeerId, UnixTime};

use crate::clock::{unix_time, within};
use crate::error::{REGISTRY_UNREACHABLE, UNSUPPORTED};
use crate::explanation::{explain_failed, explain_refusal, registry_lies};
use crate::peer::Peer;
use crate::proof::{DerivedProof, derive};
use crate::step::{Log, Step};
use crate::{CallError, Identity, Registry};

/// The registry's own limits are 5 s and 15 s; then it is the registry that is silent.
const ANSWER_PATIENCE: f64 = 25_000.0;

/// One call, with everything that its attempts share.
pub(crate) struct Ring<'a> {
    pub(crate) registry: &'a Registry,
    pub(crate) identity: Identity,
    pub(crate) device: PeerId,
    pub(crate) proof: RefCell<Option<DerivedProof>>,
    /// The password as it was given, where that is not what `proof` is derived from.
    pub(crate) as_given: RefCell<Option<String>>,
    pub(crate) service: String,
    pub(crate) remember: bool,
    pub(crate) log: Log,
}

/// The device's yes.
pub(crate) struct Accepted {
    pub(crate) reply: Reply,
    pub(crate) description: Description,
    /// TURN servers for this call, as JSON.
    pub(crate) turn: Option<String>,
}

impl Ring<'_> {
    /// Sends the request. A device whose key was made before passwords were prepared (PROTOCOL §3.1)
    /// is asked once more with the password as it was given.
    pub(crate) async fn ask(
        &self,
        peer: &Peer,
        description: Description,
    ) -> Result<Accepted, CallError> {
        let error = match self.ask_once(peer, &description).await {
            Ok(accepted) => return Ok(accepted),
            Err(error) => error,
        };
        if error.code != Code::WrongPassword.as_str() {
            return Err(error);
        }
        let Some(as_given) = self.as_given.take() else {
            return Err(error);
        };
        let Ok(earlier) = derive(&as_given, self.device) else {
            return Err(error);
        };
        let prepared = self.proof.replace(Some(earlier));
        let again = self.ask_once(peer, &description).await;
        again.map_err(|_| {
            self.proof.replace(prepared);
            error
        })
    }

    /// Sends the request, and once more if the device's clock is another.
    async fn ask_once(
        &self,
        peer: &Peer,
        description: &Description,
    ) -> Result<Accepted, CallError> {
        let mut clock_offset = 0;
        for attempt in 0..2 {
            match self.attempt(description, peer.nat(), clock_offset).await? {
                Ok(accepted) => return Ok(accepted),
                Err(device_time) if attempt == 0 => {
                    clock_offset = device_time.cast_signed() - unix_time(0).cast_signed();
                    let direction = if clock_offset > 0 { "ahead" } else { "behind" };
                    let off = clock_offset.unsigned_abs();
                    let detail = format!("the device's clock is {off} s {direction}");
                    self.log.note(Step::ClockCorrected, Some(detail));
                }
                Err(_) => break,
            }
        }
        Err(CallError::new(
            Code::Stale.as_str().to_owned(),
            "the device takes the request for an old one: it may have just started, or its clock jumps; try again",
        ))
    }

    /// One request; the device's time, if it takes it for stale.
    async fn attempt(
        &self,
        description: &Description,
        nat: Nat,
        clock_offset: i64,
    ) -> Result<Result<Accepted, UnixTime>, CallError> {
        let mut rng = UnwrapErr(getrandom::SysRng);
        let issued_at = unix_time(clock_offset);
        let mut id = [0; 16];
        getrandom::fill(&mut id)
            .map_err(|_| CallError::new(UNSUPPORTED, "this browser gives no random numbers"))?;
        let request = Request {
            id,
            issued_at,
            expires_at: issued_at + LIFETIME,
            service: self.service.clone(),
            candidates: Vec::new(),
            remember: self.remember,
            webrtc: Some(description.clone()),
            path: 0,
            nat,
        };
        let proof = self.proof.borrow().clone();
        let right = match &proof {
            Some(DerivedProof { psk_id, psk, .. }) => Right::Secret { psk_id, psk },
            None => Right::Key,
        };
        let key = self.identity.key();
        let mut call = Call::seal(&request, key, self.device, right, &mut rng)
            .map_err(|error| CallError::new(UNSUPPORTED, error.to_string()))?;
        self.log.note(Step::Sealed, None);
        let exchange = async {
            let mut answers = match self.registry.place(&self.device, call.envelope()).await? {
                Ok(answers) => answers,
                Err(failed) => return Err(explain_failed(&failed)),
            };
            loop {
                let frame = answers.next().await?;
                let turn = turn_of(&frame);
                match call.handle_frame(frame) {
                    None => {}
                    Some(Progress::Delivered) => self.log.note(Step::Delivered, None),
                    Some(Progress::Ended(Outcome::Accepted(reply))) => {
                        self.log.note(Step::Accepted, None);
                        return accepted(reply, turn).map(Ok);
                    }
                    Some(Progress::Ended(Outcome::Refused(refusal)))
                        if refusal.code == Code::Stale =>
                    {
                        return Ok(Err(refusal.time));
                    }
                    Some(Progress::Ended(Outcome::Refused(refusal))) => {
                        return Err(explain_refusal(&refusal));
                    }
                    Some(Progress::Ended(Outcome::Failed(failed))) => {
                        return Err(explain_failed(&failed));
                    }
                    Some(Progress::Ended(Outcome::RegistryMisbehaved(what))) => {
                        return Err(registry_lies(&what));
                    }
                }
            }
        };
        within(ANSWER_PATIENCE, exchange).await.unwrap_or_else(|| {
            Err(CallError::new(
                REGISTRY_UNREACHABLE,
                "the registry did not answer in 25 s",
            ))
        })
    }
}

fn accepted(mut reply: Reply, turn: Option<String>) -> Result<Accepted, CallError> {
    let Some(description) = reply.webrtc.take() else {
        return Err(CallError::new(
            UNSUPPORTED,
            "the device's agent can not be reached from a browser: it has to be updated",
        ));
    };
    Ok(Accepted {
        reply,
        description,
        turn,
    })
}

fn turn_of(frame: &Frame) -> Option<String> {
    match frame {
        Frame::Answered(answered) => answered.ice.clone(),
        _ => None,
    }
}
