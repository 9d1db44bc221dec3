//! The last minute of a link's throughput.

use leptos::prelude::*;

use crate::{
    figures::{self, tenths},
    live::Live,
    state::Gauge,
};

const WIDTH: f64 = 240.0;
const HEIGHT: f64 = 64.0;
/// An idle link shows a flat line, not the noise of its keepalives.
const LEAST: f64 = 32.0 * 1024.0;

#[component]
pub(crate) fn Graph(gauge: Live<Gauge>) -> impl IntoView {
    let top = Memo::new(move |_| {
        gauge.with(|gauge| {
            gauge
                .samples
                .iter()
                .map(|sample| sample.up.max(sample.down))
                .fold(LEAST, f64::max)
        })
    });
    let line = move |down: bool, area: bool| {
        gauge.with(|gauge| {
            let values: Vec<f64> = gauge
                .samples
                .iter()
                .map(|sample| if down { sample.down } else { sample.up })
                .collect();
            path(&values, top.get(), area)
        })
    };
    let words = move || {
        gauge.with(|gauge| {
            let now = gauge.samples.last().copied().unwrap_or_default();
            format!(
                "Throughput: {} down, {} up",
                figures::rate(now.down),
                figures::rate(now.up)
            )
        })
    };
    view! {
        <figure class="graph">
            <svg viewBox="0 0 240 64" preserveAspectRatio="none" role="img" aria-label=words>
                <path class="grid" d="M0 .5H240M0 32H240M0 63.5H240" />
                <path class="area" d=move || line(true, true) />
                <path class="line down" d=move || line(true, false) />
                <path class="line up" d=move || line(false, false) />
            </svg>
            <figcaption class="small faint">
                <span>"1 min"</span>
                <span class="figures">{move || figures::rate(top.get())}</span>
            </figcaption>
        </figure>
    }
}

/// The newest value is at the right edge.
fn path(values: &[f64], top: f64, area: bool) -> String {
    let step = WIDTH / (Gauge::SPAN - 1) as f64;
    let start = WIDTH - step * values.len().saturating_sub(1) as f64;
    let mut path = String::new();
    for (at, value) in values.iter().enumerate() {
        let x = tenths(start + step * at as f64);
        let y = tenths(HEIGHT - 1.0 - (value / top).min(1.0) * (HEIGHT - 4.0));
        path += &match at {
            0 if area => format!("M{x} 64L{x} {y}"),
            0 => format!("M{x} {y}"),
            _ => format!("L{x} {y}"),
        };
    }
    if area && !values.is_empty() {
        path += "L240 64Z";
    }
    path
}
