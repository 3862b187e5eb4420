//! What a daemon shows of itself: logs, metrics, health.

mod admin;
mod logs;
mod readiness;
mod serve;

pub use admin::{Admin, AdminServer};
pub use logs::{InitLogsError, init_logs};
pub use readiness::Readiness;

use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

/// The registry of a daemon's metrics. Modules register under full names, so that a name
/// on a dashboard is found in the code, but for the suffix `_total` of counters, which is
/// added when they are written out.
pub fn registry() -> Registry {
    let mut registry = Registry::default();
    let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
    registry.register("flotilla_build", "The program that runs", build);
    registry
}
