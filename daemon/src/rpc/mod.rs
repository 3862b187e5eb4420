//! gRPC between daemons, over mutual TLS.
//!
//! The stubs are generated here, over the messages of `flotilla-proto`. Servers and
//! channels are made by [`serve`] and [`channel`] and by nothing else: they resolve the
//! certificate at each handshake, tell a service who calls it ([`caller`], [`require`]), and
//! close connections whose other end's key was revoked.

mod caller;
mod channel;
mod guarded;
mod serve;

use std::time::Duration;

pub use caller::{Caller, caller, caller_key, require};
pub use channel::{channel, channel_over, manager_channel, reason};
pub use serve::serve;

pub use manager::enrolment_client::EnrolmentClient;
pub use manager::enrolment_server::{Enrolment, EnrolmentServer};
pub use manager::settings_client::SettingsClient;
pub use manager::settings_server::{Settings, SettingsServer};
pub use manager::topology_client::TopologyClient;
pub use manager::topology_server::{Topology, TopologyServer};
pub use scheduler::scheduler_client::SchedulerClient;
pub use scheduler::scheduler_server::{Scheduler, SchedulerServer};

#[allow(missing_docs, clippy::all, clippy::pedantic, unreachable_pub, unused_qualifications)]
mod manager {
    include!(concat!(env!("OUT_DIR"), "/flotilla.manager.v1.rs"));
}

#[allow(missing_docs, clippy::all, clippy::pedantic, unreachable_pub, unused_qualifications)]
mod scheduler {
    include!(concat!(env!("OUT_DIR"), "/flotilla.scheduler.v1.rs"));
}

/// The ALPN of HTTP/2, which gRPC is spoken over.
pub const ALPN_GRPC: &[u8] = b"h2";

/// How long a call that has one answer may take once connected; with the 5 s to connect,
/// no caller waits more than 10 s.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// How often an idle connection is probed, and how long the probe may take: a peer that
/// died without a word is noticed within twice this.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
