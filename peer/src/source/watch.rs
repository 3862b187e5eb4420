//! Whether endpoints are well, asked of them now and then: so that an outage, and its end, is known
//! before a client meets it.

use std::sync::Arc;
use std::time::Duration;

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
    loop {
        turn.tick().await;
        renew_certificates(&shared).await;
        let routes = shared.routes.load_full();
        join_all(routes.endpoints().map(|(host, endpoint)| ask(&shared, host, endpoint))).await;
    }
}

async fn renew_certificates(shared: &Arc<Shared>) {
    let shared = Arc::clone(shared);
    // A runtime that shuts down drops its blocking tasks.
    let _ = tokio::task::spawn_blocking(move || shared.dialling.client_certificates.renew()).await;
}

async fn ask(shared: &Shared, upstream: &RegistryHost, endpoint: &EndpointClient) {
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
    match reason {
        Some(reason) if !was_down => tracing::warn!(%upstream, endpoint, reason, "an endpoint is down"),
        None if was_down => tracing::info!(%upstream, endpoint, "an endpoint is well again"),
        _ => {}
    }
}

/// As a client's first question may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Registries are not to be asked in a circle.
const LEAST_INTERVAL: Duration = Duration::from_millis(100);
