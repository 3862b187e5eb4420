//! Telling the manager how this seed finds the registries' endpoints, for people to see.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use flotilla_daemon::identity::NodeIdentity;
use flotilla_daemon::rpc::{self, SettingsClient};
use flotilla_proto::wire::manager as wire;
use tokio::sync::watch::Receiver;
use tokio::time::timeout;

use crate::source::{EndpointHealth, EndpointsHealth, Source};

/// Asks the endpoints now and then, and reports what they are. Runs for ever.
pub(crate) async fn watch_endpoints(identity: NodeIdentity, source: Source) {
    let health = source.endpoints_health();
    tokio::join!(source.watch_endpoints(), report_endpoints(identity, health));
}

/// Reports what changed, and everything now and then: a manager that restarted knows nothing.
/// Never returns before the sender is gone.
async fn report_endpoints(identity: NodeIdentity, mut health: Receiver<Arc<EndpointsHealth>>) {
    let mut manager = SettingsClient::new(rpc::manager_channel(&identity));
    let (mut said, mut pause) = (None, SAY_AGAIN);
    loop {
        match timeout(pause, health.changed()).await {
            Ok(Err(_)) => return,
            Ok(Ok(())) => {}
            Err(_) => said = None,
        }
        let report = to_wire(&health.borrow_and_update());
        if said.as_ref() == Some(&report) {
            continue;
        }
        let mut request = tonic::Request::new(report.clone());
        request.set_timeout(rpc::CALL_TIMEOUT);
        pause = match manager.report_endpoints(request).await {
            Ok(_) => {
                said = Some(report);
                SAY_AGAIN
            }
            // That it is away, the settings' task says.
            Err(status) => {
                tracing::debug!(reason = rpc::reason(&status), "endpoints not reported");
                TRY_AGAIN
            }
        };
    }
}

fn to_wire(health: &EndpointsHealth) -> wire::EndpointReport {
    let endpoint = |endpoint: &EndpointHealth| wire::EndpointHealth {
        host: endpoint.host.to_string(),
        url: endpoint.url.clone(),
        up: endpoint.reason.is_none(),
        since: endpoint.since.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
        reason: endpoint.reason.clone().unwrap_or_default(),
        ..Default::default()
    };
    let mut endpoints: Vec<_> = health.endpoints.iter().map(endpoint).collect();
    endpoints.sort_by(|a, b| (&a.host, &a.url).cmp(&(&b.host, &b.url)));
    wire::EndpointReport { revision: health.revision, endpoints }
}

const SAY_AGAIN: Duration = Duration::from_secs(30);
const TRY_AGAIN: Duration = Duration::from_secs(2);
