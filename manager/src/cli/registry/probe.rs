//! What the seeds find right after a registry was set: a wrong CA is best heard of at once.

use std::time::Duration;

use flotilla_daemon::rpc::TopologyClient;
use flotilla_proto::RegistryHost;
use flotilla_proto::wire::manager as wire;
use tokio::time::Instant;
use tonic::transport::Channel;

use super::super::{CliError, ManagerArgs, request};
use super::view::HealthView;

/// What to add to "registry set": what each seed says of the endpoints, once all connected
/// seeds have said it, or after [`PATIENCE`].
///
/// What `is_same` as before is not asked about again: what was known holds.
pub(super) async fn endpoints(
    args: &ManagerArgs,
    mut manager: TopologyClient<Channel>,
    host: &RegistryHost,
    is_same: bool,
) -> Result<String, CliError> {
    let refused = |status| args.refused(&status);
    let daemons = manager.list_daemons(request(wire::Empty {})).await.map_err(refused)?.into_inner().daemons;
    let seeds = daemons.iter().filter(|daemon| daemon.role == "seed" && daemon.connected).count();
    if seeds == 0 {
        return Ok("; no seed is connected that could ask it".to_owned());
    }
    let give_up_at = Instant::now() + PATIENCE;
    // The first that is seen: it also grows by what no seed is told of.
    let mut revision = is_same.then_some(0);
    loop {
        let registries =
            manager.list_registries(request(wire::Empty {})).await.map_err(refused)?.into_inner();
        let revision = *revision.get_or_insert(registries.revision);
        let is_news = |health: &&wire::EndpointHealth| health.revision >= revision;
        let news: Vec<_> = registries.health.iter().filter(is_news).collect();
        let mut said: Vec<_> = news.iter().map(|health| &health.seed).collect();
        said.sort();
        said.dedup();
        if said.len() >= seeds || Instant::now() >= give_up_at {
            return Ok(sentences(host, &news, seeds));
        }
        // The manager has no stream of this, and a person waits once.
        tokio::time::sleep(BETWEEN_LOOKS).await;
    }
}

fn sentences(host: &RegistryHost, news: &[&wire::EndpointHealth], seeds: usize) -> String {
    let own: Vec<_> = news.iter().filter(|health| health.host == host.as_str()).collect();
    if own.is_empty() {
        return format!("; none of {seeds} seeds has asked it within {} s", PATIENCE.as_secs());
    }
    let line = |health: &&&wire::EndpointHealth| {
        format!("\n  {}  {}", health.url, HealthView::from(**health).sentence())
    };
    own.iter().map(line).collect()
}

/// A seed asks for 5 s at most.
const PATIENCE: Duration = Duration::from_secs(8);
const BETWEEN_LOOKS: Duration = Duration::from_millis(100);
