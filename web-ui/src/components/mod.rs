//! What is seen. Every text of others goes through [`crate::plain`] and is set as text.

pub(crate) mod call;
pub(crate) mod connect;
pub(crate) mod contacts;
pub(crate) mod device_form;
pub(crate) mod devices;
pub(crate) mod diagram;
pub(crate) mod dialog;
pub(crate) mod enrol;
pub(crate) mod failure;
pub(crate) mod files;
pub(crate) mod graph;
pub(crate) mod icon;
pub(crate) mod lan_page;
pub(crate) mod link;
pub(crate) mod link_panel;
pub(crate) mod page_link;
pub(crate) mod ports;
pub(crate) mod qr;
pub(crate) mod receipt;
pub(crate) mod secret_field;
pub(crate) mod settings;
pub(crate) mod shown;
pub(crate) mod sign_in;
pub(crate) mod steps;
pub(crate) mod terminal;
pub(crate) mod welcome;
