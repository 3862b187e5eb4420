//! `/status`: what this peer is and does, for people and scripts.

use axum::{Json, Router, routing::get};
use flotilla_daemon::settings::Receiver;
use flotilla_proto::Identity;
use serde::Serialize;

use crate::swarm::Swarm;
use crate::transport::Transport;

/// What a status is made from.
#[derive(Clone)]
pub(crate) struct StatusParts {
    pub(crate) identity: Identity,
    pub(crate) door: String,
    pub(crate) address: String,
    pub(crate) swarm: Swarm,
    pub(crate) transport: Transport,
    pub(crate) settings: Receiver,
    pub(crate) readiness: flotilla_daemon::telemetry::Readiness,
}

#[derive(Serialize)]
struct Status {
    name: String,
    role: &'static str,
    region: String,
    version: &'static str,
    pid: u32,
    door: String,
    address: String,
    registries: Vec<String>,
    scheduler: bool,
    connections: usize,
    blobs: usize,
    complete_blobs: usize,
}

/// The page.
pub(crate) fn routes(parts: StatusParts) -> Router {
    Router::new().route("/status", get(async move || Json(parts.status())))
}

impl StatusParts {
    fn status(&self) -> Status {
        let (blobs, complete_blobs) = self.swarm.counts();
        let settings = self.settings.borrow().clone();
        Status {
            name: self.identity.id.to_string(),
            role: self.identity.role.as_str(),
            region: self.identity.region.as_ref().map(ToString::to_string).unwrap_or_default(),
            version: env!("CARGO_PKG_VERSION"),
            pid: std::process::id(),
            door: self.door.clone(),
            address: self.address.clone(),
            registries: settings.registries.iter().map(|upstream| upstream.host.to_string()).collect(),
            scheduler: !self.readiness.unmet().contains_key("scheduler"),
            connections: self.transport.connected_count(),
            blobs,
            complete_blobs,
        }
    }
}
