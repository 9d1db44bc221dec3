//! Ringback's page: devices, calls and their services in a browser tab.
//!
//! `app` is the frame, `state` what the page knows (one enum per screen), of which `address`, `notices`
//! and a call's `links` are known below it, too; `session` is the only caller of the browser's client,
//! `ownership` the registry's owner signed in, `components` what is seen. Services speak on streams of
//! a link: `shell`, `folder` and `transfer`, `bridge`; `terminal` and `browse` are what goes on of them
//! unseen. What decides without a browser is compiled and tested natively, too: [`figures`],
//! [`naming`], [`order`], [`pieces`], [`plain`], [`queue`], [`ranking`], [`route`], [`sentence`],
//! [`cookies`], [`site`], [`target`].

#![allow(
    clippy::needless_pass_by_value,
    reason = "Leptos hands properties to components by value"
)]
// Leptos makes a public type of each component's parameters.
#![cfg_attr(target_arch = "wasm32", allow(unreachable_pub))]

pub mod cookies;
pub mod figures;
pub mod naming;
pub mod order;
pub mod pieces;
pub mod plain;
pub mod queue;
pub mod ranking;
pub mod route;
pub mod sentence;
pub mod site;
pub mod target;

#[cfg(target_arch = "wasm32")]
mod address;
#[cfg(target_arch = "wasm32")]
mod app;
#[cfg(target_arch = "wasm32")]
mod bridge;
#[cfg(target_arch = "wasm32")]
mod browse;
#[cfg(target_arch = "wasm32")]
mod browser;
#[cfg(target_arch = "wasm32")]
mod components;
#[cfg(target_arch = "wasm32")]
mod folder;
#[cfg(target_arch = "wasm32")]
mod json;
#[cfg(target_arch = "wasm32")]
mod links;
#[cfg(target_arch = "wasm32")]
mod live;
#[cfg(target_arch = "wasm32")]
mod notices;
#[cfg(target_arch = "wasm32")]
mod owner;
#[cfg(target_arch = "wasm32")]
mod ownership;
#[cfg(target_arch = "wasm32")]
mod reading;
#[cfg(target_arch = "wasm32")]
mod session;
#[cfg(target_arch = "wasm32")]
mod shell;
#[cfg(target_arch = "wasm32")]
mod state;
#[cfg(target_arch = "wasm32")]
mod terminal;
#[cfg(target_arch = "wasm32")]
mod transfer;

/// Called by the page's first module once the program is loaded.
#[cfg(target_arch = "wasm32")]
#[wasm_bindgen::prelude::wasm_bindgen(start)]
pub fn start() {
    app::mount();
}
