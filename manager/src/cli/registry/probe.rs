//! What the seeds find right after a registry was set: a wrong CA is best heard of at once.

use std::time::Duration;

use flotilla_proto::RegistryHost;
use flotilla_proto::wire::manager as wire;
use tokio::time::Instant;

use super::super::{CliError, ManagerArgs, request};
use super::view::HealthView;

/// What to add to "registry set": what each seed says of the endpoints, once all connected
/// seeds have said it, or after [`PATIENCE`].
pub(super) async fn endpoints(args: &ManagerArgs, host: &RegistryHost) -> Result<String, CliError> {
    let mut manager = args.connect().await?;
    let refused = |status| args.refused(&status);
    let daemons = manager.list_daemons(request(wire::Empty {})).await.map_err(refused)?.into_inner().daemons;
    let seeds = daemons.iter().filter(|daemon| daemon.role == "seed" && daemon.connected).count();
    if seeds == 0 {
        return Ok("; no seed is connected that could ask it".to_owned());
    }
    let give_up_at = Instant::now() + PATIENCE;
    loop {
        let registries =
            manager.list_registries(request(wire::Empty {})).await.map_err(refused)?.into_inner();
        let is_news = |health: &&wire::EndpointHealth| health.revision >= registries.revision;
        let news: Vec<_> = registries.health.iter().filter(is_news).collect();
        let mut said: Vec<_> = news.iter().map(|health| &health.seed).collect();
        said.sort();
        said.dedup();
        if said.len() >= seeds || Instant::now() >= give_up_at {
            return Ok(sentences(host, &news, seeds));
        }
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
