//! What is seen. Every text of others goes through [`crate::plain`] and is set as text.

pub mod call;
pub mod connect;
pub mod contacts;
pub mod devices;
pub mod diagram;
pub mod dialog;
pub mod enrol;
pub mod failure;
pub mod files;
pub mod graph;
pub mod icon;
pub mod lan_page;
pub mod link;
pub mod link_panel;
pub mod ports;
pub mod qr;
pub mod receipt;
pub mod settings;
pub mod shell;
pub mod sign_in;
pub mod terminal;
pub mod welcome;
