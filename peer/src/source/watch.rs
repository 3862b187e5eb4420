//! Whether endpoints are well, asked of them now and then: so that an outage, and its end, is known
//! before a client meets it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use flotilla_proto::RegistryHost;
use futures_util::future::join_all;
use tokio::time::{interval, timeout};

use super::Shared;
use super::endpoint::EndpointClient;
use super::token_service::learn;

/// Asks every endpoint, each [`probe_interval`](super::SourceConfig::probe_interval), for ever.
pub(super) async fn watch(shared: Arc<Shared>) {
    let mut turn = interval(shared.config.probe_interval.max(LEAST_INTERVAL));
    // The first passes at once, when nobody can have asked for anything yet.
    turn.tick().await;
    let mut asked_for = shared.settings_revision.subscribe();
    if *asked_for.borrow() > 0 {
        // Settings that were there first are news here all the same.
        asked_for.mark_changed();
    }
    let mut known = HashMap::new();
    loop {
        tokio::select! {
            _ = turn.tick() => {}
            // The sender lives as long as `shared`.
            _ = asked_for.changed() => {}
        }
        renew_certificates(&shared).await;
        let revision = *asked_for.borrow_and_update();
        let routes = shared.routes.load_full();
        let found = join_all(routes.endpoints().map(|(host, endpoint)| ask(&shared, host, endpoint))).await;
        known = found.into_iter().map(|found| found.since(&known)).collect();
        let endpoints = known.values().cloned().collect();
        shared.health.send_replace(Arc::new(EndpointsHealth { revision, endpoints }));
    }
}

async fn renew_certificates(shared: &Arc<Shared>) {
    let shared = Arc::clone(shared);
    // A runtime that shuts down drops its blocking tasks.
    let _ = tokio::task::spawn_blocking(move || shared.dialling.client_certificates.renew()).await;
}

async fn ask(shared: &Shared, upstream: &RegistryHost, endpoint: &EndpointClient) -> Found {
    let answer = timeout(PATIENCE, learn(endpoint, &shared.metrics)).await;
    let reason = match answer {
        Ok(Ok(_)) => None,
        Ok(Err(failure)) => Some(failure.to_string()),
        Err(_) => Some(format!("no answer within {PATIENCE:?}")),
    };
    let was_down = endpoint.is_down();
    match &reason {
        None => endpoint.seems_well(),
        Some(_) => endpoint.seems_down(),
    }
    shared.metrics.set_endpoint_up(upstream, endpoint.name(), reason.is_none());
    let endpoint = endpoint.name();
    match &reason {
        Some(reason) if !was_down => tracing::warn!(%upstream, endpoint, reason, "an endpoint is down"),
        None if was_down => tracing::info!(%upstream, endpoint, "an endpoint is well again"),
        _ => {}
    }
    Found { place: (upstream.clone(), endpoint.to_owned()), reason }
}

/// What every endpoint of some settings was found to be.
#[derive(Debug, Clone, Default)]
pub struct EndpointsHealth {
    /// Of the settings.
    pub revision: u64,
    /// Each endpoint.
    pub endpoints: Vec<EndpointHealth>,
}

/// What one endpoint was found to be.
#[derive(Debug, Clone)]
pub struct EndpointHealth {
    /// The registry.
    pub host: RegistryHost,
    /// The endpoint's URL.
    pub url: String,
    /// Why it is down; `None`: it is up.
    pub reason: Option<String>,
    /// Since when it is up, or down.
    pub since: SystemTime,
}

type Place = (RegistryHost, String);

/// The outcome of one question.
struct Found {
    place: Place,
    reason: Option<String>,
}

impl Found {
    fn since(self, known: &HashMap<Place, EndpointHealth>) -> (Place, EndpointHealth) {
        let Self { place, reason } = self;
        let before = known.get(&place).filter(|before| before.reason.is_some() == reason.is_some());
        let since = before.map_or_else(SystemTime::now, |before| before.since);
        let (host, url) = place.clone();
        (place, EndpointHealth { host, url, reason, since })
    }
}

/// As a client's first question may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Registries are not to be asked in a circle.
const LEAST_INTERVAL: Duration = Duration::from_millis(100);
