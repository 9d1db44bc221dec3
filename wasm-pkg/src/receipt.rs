//! How a call went: the receipt that a person sees and copies, and figures of a running link.

use ringback_protocol::PeerId;
use ringback_protocol::receipt::Nat;
use serde::Serialize;
use wasm_bindgen::JsValue;
use web_sys::RtcStatsReport;

use crate::CallEvent;
use crate::object::{member, number, text};

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

pub(crate) fn receipt(
    report: &RtcStatsReport,
    device: PeerId,
    remembered: bool,
    device_nat: Nat,
    steps: Vec<CallEvent>,
) -> Receipt {
    let entries = entries(report);
    let winner = winner(&entries);
    let of_kind = |kind| entries.iter().filter(move |entry| is(entry, kind));
    let local: Vec<&JsValue> = of_kind("local-candidate").collect();
    let remote: Vec<&JsValue> = of_kind("remote-candidate").collect();
    let pairs = of_kind("candidate-pair").filter_map(|pair| {
        Some(Pair {
            local: index(&local, text(pair, "localCandidateId")?)?,
            remote: index(&remote, text(pair, "remoteCandidateId")?)?,
            won: winner.is_some_and(|winner| text(winner, "id") == text(pair, "id")),
            state: text(pair, "state").unwrap_or_default(),
            rtt_ms: rtt_ms(pair),
            requests_sent: number(pair, "requestsSent").unwrap_or(0.0) as u32,
            responses_received: number(pair, "responsesReceived").unwrap_or(0.0) as u32,
        })
    });
    Receipt {
        device,
        path: path(&entries, winner),
        rtt_ms: winner.and_then(rtt_ms),
        remembered,
        device_nat,
        steps,
        pairs: pairs.collect(),
        local: local.into_iter().map(candidate).collect(),
        remote: remote.into_iter().map(candidate).collect(),
    }
}

pub(crate) fn stats(report: &RtcStatsReport) -> Stats {
    let entries = entries(report);
    let winner = winner(&entries);
    let sum = |name: &str| {
        let pairs = entries.iter().filter(|entry| is(entry, "candidate-pair"));
        pairs.filter_map(|pair| number(pair, name)).sum()
    };
    Stats {
        path: path(&entries, winner),
        rtt_ms: winner.and_then(rtt_ms),
        bytes_up: sum("bytesSent"),
        bytes_down: sum("bytesReceived"),
    }
}

fn entries(report: &RtcStatsReport) -> Vec<JsValue> {
    report.values().into_iter().flatten().collect()
}

fn is(entry: &JsValue, kind: &str) -> bool {
    text(entry, "type").as_deref() == Some(kind)
}

/// The pair in use. The transport names it; where there is no transport in the report, the pair does.
fn winner(entries: &[JsValue]) -> Option<&JsValue> {
    let named = entries
        .iter()
        .filter(|entry| is(entry, "transport"))
        .find_map(|transport| text(transport, "selectedCandidatePairId"));
    entries.iter().find(|entry| match &named {
        Some(id) => text(entry, "id").as_ref() == Some(id),
        None => {
            is(entry, "candidate-pair")
                && (member(entry, "selected").is_truthy()
                    || (member(entry, "nominated").is_truthy()
                        && text(entry, "state").as_deref() == Some("succeeded")))
        }
    })
}

/// The device has no TURN server: only the browser's end can be on one.
fn path(entries: &[JsValue], winner: Option<&JsValue>) -> PathKind {
    let local = winner.and_then(|pair| text(pair, "localCandidateId"));
    let local = entries
        .iter()
        .find(|entry| local.is_some() && text(entry, "id") == local);
    match local.and_then(|candidate| text(candidate, "candidateType")) {
        Some(kind) if kind == "relay" => PathKind::Turn,
        _ => PathKind::Direct,
    }
}

fn index(candidates: &[&JsValue], id: String) -> Option<usize> {
    let id = Some(id);
    candidates
        .iter()
        .position(|candidate| text(candidate, "id") == id)
}

fn candidate(entry: &JsValue) -> Candidate {
    Candidate {
        kind: text(entry, "candidateType").unwrap_or_default(),
        address: text(entry, "address")
            .or_else(|| text(entry, "ip"))
            .unwrap_or_default(),
        port: number(entry, "port").unwrap_or(0.0) as u16,
        protocol: text(entry, "protocol").unwrap_or_default(),
    }
}

fn rtt_ms(pair: &JsValue) -> Option<f64> {
    number(pair, "currentRoundTripTime").map(|seconds| seconds * 1e3)
}
