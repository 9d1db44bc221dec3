//! Services that a browser can not carry to other programs: the command that does.

use leptos::prelude::*;
use ringback_wasm::Service;

use super::dialog::{CopyButton, Dialog};
use crate::{browser, plain::plain, state::Call};

#[component]
pub(crate) fn PortDialog(
    call: Call,
    service: Service,
    #[prop(into)] on_close: Callback<()>,
) -> impl IntoView {
    let name = plain(&service.name, 63);
    let flag = if service.kind == "udp" { "-U" } else { "-L" };
    let port = local_port(service.target.as_deref());
    let command = format!(
        "ringback connect {} {flag} {port}:{name} --registry {}",
        call.target.get_value(),
        browser::origin(),
    );
    let http = service.kind == "http";
    let shown = command.clone();
    view! {
        <Dialog title=name.clone() on_close>
            <div class="form">
                <p>
                    {if http {
                        "This registry has no separate origin for pages of a device’s network, and on its own \
                         they could reach your keys. Run this on your computer, then open the local address:"
                    } else {
                        "Other programs can not reach into a browser tab. Run this on your computer, \
                         and the service is at a local port:"
                    }}
                </p>
                <div class="command">
                    <code>{shown}</code>
                    <CopyButton text=Signal::stored(command) label="Copy the command" square=true />
                </div>
                {http.then(|| view! {
                    <p class="small">"Then: " <code>{format!("http://localhost:{port}/")}</code></p>
                }.into_any())}
            </div>
        </Dialog>
    }
}

/// A port that needs no special right, and resembles the service's own.
fn local_port(target: Option<&str>) -> u32 {
    let port: u32 = target
        .and_then(|target| target.trim_end_matches('/').rsplit(':').next())
        .and_then(|port| port.parse().ok())
        .unwrap_or(8000);
    match port {
        22 => 2222,
        80 => 8080,
        443 => 8443,
        low if low < 1024 => low + 10_000,
        port => port.min(65_535),
    }
}
