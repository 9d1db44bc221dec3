//! How a call went: the receipt that a person sees and copies, and figures of a running link.

use ringback_protocol::PeerId;
use ringback_protocol::receipt::Nat;
use serde::Serialize;

use crate::CallEvent;

/// How a call went.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Receipt {
    pub device: PeerId,
    pub path: PathKind,
    /// Round trip on the path in use, as ICE measures it.
    pub rtt_ms: Option<f64>,
    /// The device will know this browser's key.
    pub remembered: bool,
    pub device_nat: Nat,
    pub steps: Vec<CallEvent>,
    /// The browser's addresses.
    pub local: Vec<Candidate>,
    /// The device's.
    pub remote: Vec<Candidate>,
    /// The pairs of them that were tried.
    pub pairs: Vec<Pair>,
}

/// Which way the link's datagrams go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PathKind {
    /// Between the browser and the device, through their routers at most.
    Direct,
    /// Through a TURN server.
    Turn,
}

/// An address of one end.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Candidate {
    /// `host`, `srflx`, `prflx` or `relay`.
    pub kind: String,
    /// Empty where the browser hides it.
    pub address: String,
    pub port: u16,
    pub protocol: String,
}

/// A pair of addresses that was tried.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Pair {
    /// Index in [`Receipt::local`].
    pub local: usize,
    /// Index in [`Receipt::remote`].
    pub remote: usize,
    pub won: bool,
    /// As ICE calls it: `waiting`, `in-progress`, `succeeded`, `failed`, `frozen`.
    pub state: String,
    pub rtt_ms: Option<f64>,
    pub requests_sent: u32,
    pub responses_received: u32,
}

/// Figures of a running link.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Stats {
    pub path: PathKind,
    pub rtt_ms: Option<f64>,
    pub bytes_up: f64,
    pub bytes_down: f64,
}
