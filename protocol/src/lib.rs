//! Ringback core.
