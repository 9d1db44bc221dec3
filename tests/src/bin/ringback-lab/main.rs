//! The lab by hand: see `ringback-lab --help`.

fn main() {}
