//! What a person or a script sees.

use std::io::{self, IsTerminal as _};
use std::pin::Pin;
use std::task::{Context, Poll};

use anyhow::Result;
use qrcode::QrCode;
use qrcode::render::unicode::Dense1x2;
use ringback_protocol::candidate::Kind;
use ringback_protocol::receipt::{Nat, PathInUse, PathKind, Receipt, Transport, TriedResult};
use serde::Serialize;
use tokio::io::AsyncWrite;

use crate::cli::Global;
use crate::failure::of_output;

/// A line for a person, on standard error. Nobody may be reading any more: that is no reason to end.
macro_rules! say {
    ($($argument:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($argument)*);
    }};
}
pub(super) use say;

/// Prints data on standard output: one JSON line with `--json`, `text` of it otherwise.
pub(super) fn data<T: Serialize>(
    global: &Global,
    value: &T,
    text: impl FnOnce(&T) -> String,
) -> Result<()> {
    bytes(global, value, |value| text(value).into_bytes())
}

/// The same of what may hold names of files, which are any bytes.
pub(super) fn bytes<T: Serialize>(
    global: &Global,
    value: &T,
    text: impl FnOnce(&T) -> Vec<u8>,
) -> Result<()> {
    let output = if global.json {
        (serde_json::to_string(value)? + "\n").into_bytes()
    } else {
        text(value)
    };
    use std::io::Write as _;
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(&output).and_then(|()| stdout.flush());
    Ok(written.map_err(of_output)?)
}

/// Standard output for a stream's bytes.
pub(super) fn stdout() -> Stdout {
    Stdout(tokio::io::stdout())
}

/// Tells a reader that has gone from a connection that has.
pub(super) struct Stdout(tokio::io::Stdout);

impl AsyncWrite for Stdout {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0)
            .poll_write(cx, bytes)
            .map_err(of_output)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx).map_err(of_output)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx).map_err(of_output)
    }
}

/// A QR code on standard error, where that is a terminal.
pub(super) fn qr(text: &str) {
    if !io::stderr().is_terminal() {
        return;
    }
    if let Ok(code) = QrCode::new(text) {
        // Dark modules light: terminals are mostly dark.
        let image = code
            .render::<Dense1x2>()
            .dark_color(Dense1x2::Light)
            .light_color(Dense1x2::Dark)
            .build();
        say!("{image}");
    }
}

/// Asks for a password, if there is somebody to ask. Standard input may be a pipe, as under ssh's
/// `ProxyCommand`, and standard error nothing, as where ssh keeps its connection (`ControlPersist`):
/// the question goes to the terminal itself, and the answer comes from there.
pub(super) fn ask_password(device: &str) -> Result<Option<String>> {
    let terminal = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/tty");
    if terminal.is_err() {
        return Ok(None);
    }
    let password = rpassword::prompt_password(format!("Password of {device}: "))?;
    Ok(Some(password))
}

/// The connection receipt as a person reads it.
pub(super) fn receipt(receipt: &Receipt) -> String {
    let mut out = String::new();
    let rtt = receipt
        .rtt_ms
        .map_or(String::new(), |rtt| format!(", round trip {rtt:.1} ms"));
    out += &format!("  path      {}{rtt}\n", path(&receipt.in_use()));
    out += &format!(
        "  NAT       here {}, at the device {}\n",
        nat(receipt.caller_nat),
        nat(receipt.device_nat)
    );
    for step in &receipt.steps {
        out += &format!("  {:>8.1} ms  {}\n", step.at_ms, step.step);
    }
    for tried in &receipt.paths {
        let result = match tried.result {
            TriedResult::Won => "in use",
            TriedResult::Works => "works, slower",
            TriedResult::HeardOnly => "heard, did not answer",
            TriedResult::ShortOnly => "takes short datagrams only",
            TriedResult::NoAnswer => "no answer",
        };
        let rtt = tried
            .rtt_ms
            .map_or(String::new(), |rtt| format!(", {rtt:.1} ms"));
        out += &format!(
            "  tried     {} {} ({}): {result}{rtt}\n",
            transport(tried.transport),
            tried.address,
            kind(tried.kind)
        );
    }
    out
}

/// The path in use, in a few words.
pub(super) fn path(path: &PathInUse) -> String {
    let PathInUse {
        path,
        transport: by,
        remote,
    } = path;
    let by = transport(*by);
    match path {
        PathKind::Direct => format!("direct, {by} to {remote}"),
        PathKind::Relay => format!("relayed, {by} to {remote}"),
    }
}

pub(super) fn transport(transport: Transport) -> &'static str {
    match transport {
        Transport::Udp => "UDP",
        Transport::Tcp => "TCP",
        Transport::WebSocket => "WebSocket",
    }
}

pub(super) fn nat(nat: Nat) -> &'static str {
    match nat {
        Nat::Unknown => "unknown",
        Nat::None => "none",
        Nat::EndpointIndependent => "endpoint-independent mapping",
        Nat::EndpointDependent => "endpoint-dependent mapping (symmetric)",
    }
}

pub(super) fn kind(kind: Kind) -> String {
    match kind {
        Kind::Host => "its own address".into(),
        Kind::ServerReflexive => "seen by STUN".into(),
        Kind::Mapped => "port mapping".into(),
        Kind::Static => "fixed port".into(),
        Kind::PeerReflexive => "seen on the way".into(),
        Kind::Relayed => "relay".into(),
        Kind::Unknown(number) => format!("kind {number}"),
    }
}
