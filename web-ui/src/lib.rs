//! Ringback's page: devices, calls and their services in a browser tab.
//!
//! What decides without a browser is compiled and tested natively, too; the rest is the page.

pub mod figures;
pub mod plain;
pub mod route;
pub mod sentence;

#[cfg(target_arch = "wasm32")]
mod browser;
#[cfg(target_arch = "wasm32")]
mod owner;
