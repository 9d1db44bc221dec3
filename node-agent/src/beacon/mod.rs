//! The beacon: the UDP front that an owner runs, and the device that lives on one.
