//! A QR code as one SVG path.

use std::fmt::Write;

use leptos::prelude::*;
use qrcode::{Color, EcLevel, QrCode};

/// The code of `text`, with the quiet zone of four modules; nothing if it is too long for one.
pub(crate) fn qr(text: &str, label: &'static str) -> Option<impl IntoView + use<>> {
    const QUIET: usize = 4;
    let code = QrCode::with_error_correction_level(text, EcLevel::M).ok()?;
    let width = code.width();
    let mut path = String::new();
    for (at, _) in code
        .to_colors()
        .into_iter()
        .enumerate()
        .filter(|(_, color)| *color == Color::Dark)
    {
        let (x, y) = (at % width + QUIET, at / width + QUIET);
        let _ = write!(path, "M{x} {y}h1v1h-1z");
    }
    let side = width + 2 * QUIET;
    Some(view! {
        <svg class="qr" role="img" aria-label=label viewBox=format!("0 0 {side} {side}") shape-rendering="crispEdges">
            <rect width=side.to_string() height=side.to_string() />
            <path d=path />
        </svg>
    })
}
