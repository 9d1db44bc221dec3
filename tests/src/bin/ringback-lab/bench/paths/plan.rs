//! What Cloudflare asks for (US dollars, without taxes), as its documentation says:
//! developers.cloudflare.com/workers/platform/pricing and /durable-objects/platform/pricing, both
//! read in November 2026. Figures of a plan are a day's (free) or a month's (paid).

/// Days of a month, as the documentation's examples count.
pub(super) const MONTH_DAYS: f64 = 30.0;
/// Incoming WebSocket messages that are billed as one request to an object.
pub(super) const MESSAGES_PER_REQUEST: f64 = 20.0;
/// Memory that an object is billed for while it is active or can not hibernate.
pub(super) const OBJECT_GB: f64 = 0.128;

/// What the free plan grants in a day; there is nothing to buy beyond it.
pub(super) mod free {
    /// To Workers.
    pub(crate) const WORKER_REQUESTS: f64 = 100_000.0;
    /// To Durable Objects.
    pub(crate) const OBJECT_REQUESTS: f64 = 100_000.0;
    pub(crate) const GB_S: f64 = 13_000.0;
    /// In SQLite.
    pub(crate) const ROWS_WRITTEN: f64 = 100_000.0;
}

/// What the paid plan costs beyond the month's allowance that its fee has in it.
pub(super) mod paid {
    pub(crate) const FEE: f64 = 5.0;
    pub(crate) const WORKER_REQUEST: f64 = 0.30e-6;
    pub(crate) const OBJECT_REQUEST: f64 = 0.15e-6;
    pub(crate) const GB_S: f64 = 12.50e-6;
    pub(crate) const ROW_WRITTEN: f64 = 1.00e-6;
    /// In a month, for the fee.
    pub(crate) const WORKER_REQUESTS: f64 = 10e6;
    pub(crate) const OBJECT_REQUESTS: f64 = 1e6;
    pub(crate) const INCLUDED_GB_S: f64 = 400e3;
    pub(crate) const ROWS_WRITTEN: f64 = 50e6;
}
