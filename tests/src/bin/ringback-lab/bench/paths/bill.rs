//! What the registry costs on Workers: what was counted here, times the prices of `plan`.
//!
//! Counted are: what a registration and a beacon's word of a device take, by making some
//! ([`Counted`]); what idle devices ask of the registry, by watching them ([`Idle`]); what a relayed
//! byte takes, by `/v1/usage` of the throughput runs ([`Used`]). Processor time of the frontend is
//! left out: a request takes a few of the 30 million milliseconds that the paid plan's fee has in it.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use ringback_protocol::{
    SecretKey,
    frame::{Beacon, Frame, Seen},
};
use ringback_tests::registry::{Incident, Registry, Socket, new_key};
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    super::{ROUND_TRIP, report::Report},
    keepalive::Idle,
    plan::{MESSAGES_PER_REQUEST, MONTH_DAYS, OBJECT_GB, free, paid},
    throughput::{self, Used},
};

/// Devices of a bill.
const DEVICES: f64 = 1000.0;
/// How often a device registers in a day: restarts, other networks, deploys of the registry. The
/// one figure that is assumed.
const REGISTRATIONS_A_DAY: f64 = 2.0;
/// How often a beacon tells of a device (PROTOCOL §16.3), in a day.
const SEEN_A_DAY: f64 = 86_400.0 / 600.0;
/// How often the beacon's object asks the directory about a device of which it is told
/// (`worker/src/device_object/beacon.rs`): with 1,000 of them it is told of one every 0.6 s, so it
/// never sleeps and remembers an answer for an hour.
const ASKED_A_DAY: f64 = 24.0;
/// The end of a socket asks the directory, which `/v1/usage` does not count.
const REQUESTS_OF_AN_END: f64 = 1.0;
/// Registrations that are made to count what they take.
const SAMPLE: u32 = 32;

/// What the plans meter.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Metered {
    worker_requests: f64,
    /// Without messages.
    object_requests: f64,
    /// WebSocket messages that objects get.
    messages: f64,
    gb_s: f64,
    rows_written: f64,
}

/// What single things take.
#[derive(Debug, Serialize)]
pub(super) struct Counted {
    registration: Metered,
    /// A beacon's first word of a device on a new address.
    seen_first: Metered,
    /// The same again, within the time in which the answer is remembered.
    seen_again: Metered,
}

#[derive(Debug, Serialize)]
pub(super) struct Figures {
    /// While the devices were watched.
    idle: Idle,
    registrations_a_day: f64,
    lines: Vec<Line>,
}

/// One line of the table.
#[derive(Debug, Serialize)]
struct Line {
    what: &'static str,
    /// For 1,000 devices: a day. For the relay: a GB (10⁹ bytes).
    metered: Metered,
    /// Of a day of the free plan: how much of the scarcest allowance it takes.
    free_share: f64,
    free_scarcest: &'static str,
    /// Dollars on the paid plan beyond its allowance: 30 days of 1,000 devices, or one GB.
    paid: f64,
    /// Dollars of such a month when there is nothing else: the fee, and what is beyond the allowance.
    paid_month: Option<f64>,
}

impl Counted {
    /// Registers devices, and has a beacon tell of some, on a registry of its own.
    pub(super) fn registry() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let registry = Registry::start();
            let devices = enrolled(&registry).await;
            let registration = registrations(&registry, &devices).await?;
            let (seen_first, seen_again) = sightings(&registry, &devices).await?;
            Ok(Self {
                registration,
                seen_first,
                seen_again,
            })
        })
    }
}

async fn enrolled(registry: &Registry) -> Vec<SecretKey> {
    let mut devices = Vec::new();
    for number in 0..SAMPLE {
        devices.push(registry.enrolled(&format!("bill-{number}")).await);
    }
    devices
}

async fn registrations(registry: &Registry, devices: &[SecretKey]) -> Result<Metered> {
    let before = Usage::now(registry).await?;
    let mut awake = Duration::ZERO;
    for key in devices {
        let start = Instant::now();
        let mut socket = Socket::connect(registry, key).await;
        let public = "203.0.113.7:4000".parse()?;
        socket.register(key, &registry.origin(), Some(public)).await;
        socket.expect_registered().await;
        awake += start.elapsed();
        socket.close().await;
        registry.await_row(&key.id(), "online", json!(false)).await;
    }
    let after = Usage::now(registry).await?;
    let made = after.registrations - before.registrations;
    ensure!(
        made == f64::from(SAMPLE),
        "{made} registrations were counted"
    );
    // The device's object waits for the signature with a timer, which is a round trip that this
    // registry next door does not have; the directory is awake for a part of the time.
    let seconds = 2.0 * awake.as_secs_f64() / made + ROUND_TRIP.as_secs_f64();
    Ok(Metered {
        worker_requests: 1.0,
        object_requests: (after.requests - before.requests) / made + REQUESTS_OF_AN_END,
        // Register, and the closing frame, which is none.
        messages: 1.0,
        gb_s: seconds * OBJECT_GB,
        rows_written: (after.rows - before.rows) / made,
    })
}

async fn sightings(registry: &Registry, devices: &[SecretKey]) -> Result<(Metered, Metered)> {
    let code = registry
        .code(json!({ "name": "front", "role": "beacon" }))
        .await;
    let beacon = new_key();
    let reply = registry
        .post("/v1/enrollments", &registry.enrolment(&beacon, &code))
        .await;
    ensure!(reply.status == 201, "no beacon: {reply:?}");
    let mut socket = registry.registered(&beacon).await;
    socket
        .send(Beacon {
            udp: "beacon.example:3478".into(),
            tcp: None,
            relay: false,
        })
        .await;
    socket.expect_quiet().await;
    let first = Metered {
        object_requests: 1.0,
        ..tell(registry, &mut socket, devices).await?
    };
    Ok((first, tell(registry, &mut socket, devices).await?))
}

/// The beacon tells of all devices; what that takes for one, without requests to the directory.
async fn tell(registry: &Registry, socket: &mut Socket, devices: &[SecretKey]) -> Result<Metered> {
    let before = Usage::now(registry).await?;
    let start = Instant::now();
    for key in devices {
        let (device, public) = (key.id(), Some(([203, 0, 113, 7], 4000).into()));
        socket.send(Seen { device, public }).await;
        let heard = socket.next().await;
        let is_good =
            matches!(&heard, Incident::Frame(Frame::Known(known)) if known.code.is_none());
        ensure!(is_good, "not known: {heard:?}");
    }
    let awake = start.elapsed();
    let after = Usage::now(registry).await?;
    let told = devices.len() as f64;
    Ok(Metered {
        messages: 1.0,
        // Two objects, at most.
        gb_s: 2.0 * awake.as_secs_f64() / told * OBJECT_GB,
        rows_written: (after.rows - before.rows) / told,
        ..Metered::default()
    })
}

struct Usage {
    registrations: f64,
    requests: f64,
    rows: f64,
}

impl Usage {
    async fn now(registry: &Registry) -> Result<Self> {
        let usage = registry.owner("GET", "/v1/usage", Value::Null).await.body;
        let number = |of: &Value| of.as_f64().with_context(|| format!("{usage}"));
        let registrations = &usage["registrations"];
        Ok(Self {
            registrations: number(&registrations["count"])?,
            requests: number(&registrations["requests"]["used"])?,
            rows: number(&usage["rows_written"]["used"])?,
        })
    }
}

impl Figures {
    pub(super) fn of(counted: &Counted, idle: Idle, relay: &throughput::Figures) -> Self {
        let days = idle.seconds / 86_400.0;
        // An idle device wakes nothing and writes nothing; if one did, it would be on the bill.
        let device_days = days * idle.devices as f64;
        let watched = Metered {
            object_requests: idle.objects_loaded as f64 / device_days,
            rows_written: idle.rows as f64 / device_days,
            ..Metered::default()
        };
        let registering = counted.registration.times(REGISTRATIONS_A_DAY);
        let by_socket = registering.plus(watched).times(DEVICES);
        let pings = Metered {
            messages: idle.device_messages as f64 / days * DEVICES,
            ..Metered::default()
        };
        let by_beacon = counted
            .seen_first
            .times(REGISTRATIONS_A_DAY)
            .plus(counted.seen_again.times(SEEN_A_DAY))
            .plus(Metered {
                object_requests: ASKED_A_DAY,
                ..Metered::default()
            })
            .times(DEVICES);
        let mut lines = vec![
            Line::month("by WebSocket", by_socket),
            Line::month(
                "by WebSocket, if pings counted as messages",
                by_socket.plus(pings),
            ),
            Line::month("by beacon (--udp-only)", by_beacon),
        ];
        let raised = ("relayed, rate out of the way", relay.raised_usage);
        let default = ("relayed, default policy", relay.default_usage);
        for (what, used) in [raised, default] {
            lines.extend(used.map(|used| Line::gigabyte(what, used.into())));
        }
        Self {
            idle,
            registrations_a_day: REGISTRATIONS_A_DAY,
            lines,
        }
    }

    pub(super) fn report(&self, report: &mut Report) {
        for line in &self.lines {
            line.report(report);
        }
        let part = "seen at the registry while devices idled";
        let idle = &self.idle;
        report.add(part, "watched for", idle.seconds, "s");
        for (name, count) in [
            (
                "messages of a device by WebSocket (pings)",
                idle.device_messages,
            ),
            ("objects woken", idle.objects_loaded),
            ("registrations", idle.registrations),
            ("rows written", idle.rows),
        ] {
            report.add(part, name, count as f64, "");
        }
    }
}

impl From<Used> for Metered {
    /// Of one GB.
    fn from(used: Used) -> Self {
        let (sockets, leases) = (used.sockets as f64, used.leases as f64);
        Self {
            worker_requests: sockets,
            // To the room, and to the directory; a lease is one to the directory.
            object_requests: 2.0 * sockets + leases,
            messages: used.messages as f64,
            gb_s: used.gb_s,
            rows_written: used.rows as f64,
        }
        .times(1e9 / used.bytes as f64)
    }
}

impl Metered {
    fn times(self, factor: f64) -> Self {
        Self {
            worker_requests: self.worker_requests * factor,
            object_requests: self.object_requests * factor,
            messages: self.messages * factor,
            gb_s: self.gb_s * factor,
            rows_written: self.rows_written * factor,
        }
    }

    fn plus(self, other: Self) -> Self {
        Self {
            worker_requests: self.worker_requests + other.worker_requests,
            object_requests: self.object_requests + other.object_requests,
            messages: self.messages + other.messages,
            gb_s: self.gb_s + other.gb_s,
            rows_written: self.rows_written + other.rows_written,
        }
    }

    /// Requests to objects as they are billed.
    fn billed_requests(&self) -> f64 {
        self.object_requests + self.messages / MESSAGES_PER_REQUEST
    }

    /// The largest share of a free day's allowances, and of which.
    fn free_share(&self) -> (f64, &'static str) {
        let shares = [
            (self.worker_requests / free::WORKER_REQUESTS, "requests"),
            (
                self.billed_requests() / free::OBJECT_REQUESTS,
                "requests to objects",
            ),
            (self.gb_s / free::GB_S, "GB-s"),
            (self.rows_written / free::ROWS_WRITTEN, "rows written"),
        ];
        let largest = shares.into_iter().max_by(|a, b| a.0.total_cmp(&b.0));
        largest.expect("there are four")
    }

    /// Dollars, beyond what is included.
    fn price(&self, included: &Self) -> f64 {
        let beyond = |used: f64, included: f64, price: f64| (used - included).max(0.0) * price;
        beyond(
            self.worker_requests,
            included.worker_requests,
            paid::WORKER_REQUEST,
        ) + beyond(
            self.billed_requests(),
            included.object_requests,
            paid::OBJECT_REQUEST,
        ) + beyond(self.gb_s, included.gb_s, paid::GB_S)
            + beyond(self.rows_written, included.rows_written, paid::ROW_WRITTEN)
    }
}

impl Line {
    fn month(what: &'static str, day: Metered) -> Self {
        let month = day.times(MONTH_DAYS);
        let included = Metered {
            worker_requests: paid::WORKER_REQUESTS,
            object_requests: paid::OBJECT_REQUESTS,
            messages: 0.0,
            gb_s: paid::INCLUDED_GB_S,
            rows_written: paid::ROWS_WRITTEN,
        };
        let (free_share, free_scarcest) = day.free_share();
        Self {
            what,
            metered: day,
            free_share,
            free_scarcest,
            paid: month.price(&Metered::default()),
            paid_month: Some(paid::FEE + month.price(&included)),
        }
    }

    fn gigabyte(what: &'static str, metered: Metered) -> Self {
        let (free_share, free_scarcest) = metered.free_share();
        Self {
            what,
            metered,
            free_share,
            free_scarcest,
            paid: metered.price(&Metered::default()),
            paid_month: None,
        }
    }

    fn report(&self, report: &mut Report) {
        let (part, paid) = match self.paid_month {
            Some(_) => ("bill of 1,000 idle devices: a day", "  paid plan: 30 days"),
            None => ("bill of one relayed GB", "  paid plan: a GB"),
        };
        let Metered {
            worker_requests,
            gb_s,
            rows_written,
            ..
        } = self.metered;
        report.add(part, self.what, worker_requests, "requests");
        let billed = self.metered.billed_requests();
        report.add(part, "  requests to objects, as billed", billed, "requests");
        report.add(part, "  object-seconds of 128 MB", gb_s, "GB-s");
        report.add(part, "  rows written", rows_written, "rows");
        let free = format!("  free plan: of a day's {}", self.free_scarcest);
        report.add(part, free, self.free_share * 100.0, "%");
        report.add(part, paid, self.paid, "$");
        if let Some(month) = self.paid_month {
            report.add(part, "  the month's bill if this is all", month, "$");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bill_has_allowances_and_prices() {
        // A day of 1,000 devices.
        let day = Metered {
            worker_requests: 2_000.0,
            object_requests: 6_000.0,
            messages: 3_456_000.0,
            gb_s: 100.0,
            rows_written: 4_000.0,
        };
        assert_eq!(day.billed_requests(), 178_800.0);
        assert_eq!(day.free_share(), (1.788, "requests to objects"));
        let line = Line::month("test", day);
        // 60,000 × 0.30 $ + 5,364,000 × 0.15 $ + 3,000 × 12.50 $ + 120,000 × 1.00 $, by the million.
        let price = 0.018 + 0.8046 + 0.0375 + 0.12;
        assert!((line.paid - price).abs() < 1e-9, "{line:?}");
        let beyond = 4_364_000.0 * 0.15e-6;
        assert!((line.paid_month.unwrap() - 5.0 - beyond).abs() < 1e-9);
    }

    #[test]
    fn a_relayed_gigabyte_is_scaled_from_what_was_counted() {
        let used = Used {
            bytes: 500_000_000,
            sockets: 2,
            leases: 5,
            messages: 8_000,
            gb_s: 3.0,
            rows: 6,
        };
        let metered = Metered::from(used);
        assert_eq!(metered.billed_requests(), 2.0 * (2.0 * 2.0 + 5.0 + 400.0));
        assert_eq!((metered.gb_s, metered.rows_written), (6.0, 12.0));
    }
}
