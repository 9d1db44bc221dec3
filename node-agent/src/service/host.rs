//! What services use of the agent that serves them.

use ringback_protocol::PeerId;

use crate::caller::Caller;
use crate::profile::Profile;
use crate::registry::Registry;

/// The agent, as far as its services know it.
pub(crate) trait Host: Send + Sync {
    fn id(&self) -> PeerId;

    /// What the registry calls this device while it is registered there.
    fn name(&self) -> Option<String>;

    fn profile(&self) -> &Profile;

    fn registry(&self) -> &Registry;

    /// What calls of its own are made with.
    fn caller(&self) -> Caller;
}
