//! The picture of a call: the request goes up to the registry and down to the device, and the
//! device rings back straight.

use leptos::prelude::*;
use ringback_wasm::Step;

use crate::{links::Stage, state::Seen};

/// How far the call in the picture is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Nothing happens; all ways are shown faintly.
    Still,
    /// To the registry.
    Up,
    /// From the registry to the device.
    Down,
    /// The device rings back.
    Back,
    Linked,
    /// It ended at the registry.
    FailedUp,
    /// It ended at the device.
    FailedDown,
    /// No path was found.
    FailedBack,
}

impl Phase {
    pub(crate) fn of(stage: &Stage, steps: &[Seen]) -> Self {
        let reached = steps.last().map(|seen| seen.step);
        let at = match reached {
            None | Some(Step::Registry | Step::Gathering | Step::Gathered) => Self::Up,
            Some(Step::Sealed | Step::ClockCorrected | Step::Delivered) => Self::Down,
            Some(Step::Accepted | Step::Checking) => Self::Back,
            Some(Step::Connected) => Self::Linked,
        };
        match stage {
            Stage::Linked => Self::Linked,
            Stage::Calling | Stage::Recalling => at,
            Stage::Asking(None) => Self::Still,
            Stage::Asking(Some(_)) | Stage::Ended(_) => match at {
                Self::Up => Self::FailedUp,
                Self::Down => Self::FailedDown,
                _ => Self::FailedBack,
            },
        }
    }

    fn class(self) -> &'static str {
        match self {
            Self::Still => "diagram still",
            Self::Up => "diagram up",
            Self::Down => "diagram up-done down",
            Self::Back => "diagram up-done down-done back",
            Self::Linked => "diagram up-done down-done back-done",
            Self::FailedUp => "diagram up-failed",
            Self::FailedDown => "diagram up-done down-failed",
            Self::FailedBack => "diagram up-done down-done back-failed",
        }
    }
}

#[component]
pub(crate) fn Diagram(
    #[prop(into)] phase: Signal<Phase>,
    #[prop(into)] device: Signal<String>,
    /// A word on the direct way, as its round trip.
    #[prop(into)]
    direct: Signal<String>,
) -> impl IntoView {
    view! {
        <svg
            class=move || phase.get().class()
            viewBox="0 0 600 272"
            role="img"
            aria-label="This browser asks the registry, the registry tells the device, and the device \
                        calls this browser back directly."
        >
            <path class="way way-up" pathLength="1" d="M92 176 C110 92 190 56 262 54" />
            <path class="way way-down" pathLength="1" d="M338 54 C410 56 490 92 508 176" />
            <path class="way way-back" pathLength="1" d="M474 214 C380 232 220 232 126 214" />
            <path class="run run-up" pathLength="1" d="M92 176 C110 92 190 56 262 54" />
            <path class="run run-down" pathLength="1" d="M338 54 C410 56 490 92 508 176" />
            <path class="run run-back" pathLength="1" d="M474 214 C380 232 220 232 126 214" />
            <path class="run flow-back" pathLength="1" d="M474 214 C380 232 220 232 126 214" />
            <g class="node node-browser">
                <circle cx="92" cy="208" r="34" />
                <path d="M76 196h32v25H76zM76 203h32M81 199.5h.01M85.5 199.5h.01" />
                <text x="92" y="264">"This browser"</text>
            </g>
            <g class="node node-registry">
                <circle cx="300" cy="54" r="34" />
                <path d="M300 38l14.5 8v16L300 70.5 285.5 62V46zM285.5 46l14.5 8 14.5-8M300 54v16.5" />
                <text x="300" y="112">"Registry"</text>
                <text class="faint" x="300" y="130">"carries the sealed request only"</text>
            </g>
            <g class="node node-device">
                <circle cx="508" cy="208" r="34" />
                <path d="M493 193h30v13.5h-30zM493 209.5h30V223h-30zM499 200h.01M499 216.5h.01M505 200h12M505 216.5h12" />
                <text x="508" y="264">{move || device.get()}</text>
            </g>
            <text class="direct" x="300" y="208">{move || direct.get()}</text>
        </svg>
    }
}
