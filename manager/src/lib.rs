//! Flotilla's manager: the topology, the cluster's CA, and what daemons are told.
//!
//! It holds no data of pulls. Daemons start and work without it, from what it told them
//! last; only joining, renewing and changes need it.

mod api;
pub mod cli;
mod config;
mod endpoints;
pub mod identity;
mod server;
mod store;
mod topology;
mod watch;

pub use config::{Config, InvalidConfigError};
pub use server::{Manager, run};
