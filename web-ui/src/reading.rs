//! What is asked for, and may not be here yet.

use crate::sentence::Failure;

/// Something that is asked for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Reading<T> {
    Waiting,
    Here(T),
    Failed(Failure),
}
