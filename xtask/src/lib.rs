//! What the commands of `cargo xtask` and the end-to-end tests share: where things are, and the
//! registry on a local workerd.

pub mod http;
pub mod pages;
pub mod place;
pub mod workerd;
pub mod wrangler;
