//! What a daemon shows of itself: logs, metrics, health.

pub mod admin;
mod logs;
mod readiness;

pub use logs::{InitLogsError, init_logs};
pub use readiness::Readiness;

use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

/// The registry of a daemon's metrics. Modules register without the prefix `flotilla_`
/// and, for counters, without the suffix `_total`: both are added here.
pub fn registry() -> Registry {
    let mut registry = Registry::with_prefix("flotilla");
    let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
    registry.register("build", "The program that runs", build);
    registry
}
