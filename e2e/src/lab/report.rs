//! What the lab came to, in the simulator's words and beside its prediction.

use std::time::Duration;

use anyhow::{Context as _, Result};
use flotilla_e2e_sim::{Scenario, lower_bound};
use flotilla_proto::PieceLen;
use serde::Serialize;

use super::LabPlan;
use super::client::Pulled;
use super::network::Network;
use super::nodes::Fleet;
use crate::image::Image;

/// The figures of one pull. Names and units are those of `cargo sim -- run --json`; times are
/// those of the clients, each of which reads in order as fast as it can.
#[derive(Debug, Clone, Serialize)]
pub struct LabReport {
    scenario: &'static str,
    peers: usize,
    bytes: u64,
    piece_len: u32,
    lower_bound_s: f64,
    last_s: f64,
    longest_silence_s: f64,
    p50_s: f64,
    ratio_last: f64,
    ratio_p50: f64,
    source_ratio: f64,
    wasted_ratio: f64,
    connections_per_peer: f64,
    planner_us_per_piece: f64,
    /// What the simulator says of this very case, if nobody is killed in it.
    predicted_last_s: Option<f64>,
    /// `last_s` ÷ `predicted_last_s`.
    last_to_predicted: Option<f64>,
}

impl LabReport {
    pub(super) fn of(
        plan: &LabPlan,
        image: &Image,
        pulled: &[Pulled],
        source_bytes: u64,
        fleet: &Fleet<'_>,
        network: &Network,
    ) -> Result<Self> {
        let layer = &image.layers[0];
        let bytes = layer.size();
        let scenario = scenario(plan, network.peers().len(), bytes);
        let lower_bound_s = lower_bound(&scenario).as_secs_f64();
        let predicted_last_s = match plan.kill {
            None => Some(flotilla_e2e_sim::run(&scenario, 1).context("predict")?.report.client_last_s),
            Some(_) => None,
        };
        let mut took: Vec<Duration> = pulled.iter().map(|pulled| pulled.took).collect();
        took.sort();
        let last_s = took.last().context("someone pulled")?.as_secs_f64();
        let p50_s = took[(took.len() - 1) / 2].as_secs_f64();
        let silence = pulled.iter().map(|pulled| pulled.longest_silence).max().unwrap_or_default();
        let metrics = fleet.peer_metrics()?;
        let fetched: u64 = metrics.iter().map(crate::region::Metrics::piece_bytes_fetched).sum();
        let needed = bytes * pulled.len() as u64;
        let mut connections: Vec<u64> =
            metrics.iter().map(|metrics| metrics.sum("flotilla_peer_connections", "")).collect();
        connections.sort_unstable();
        let piece_len = PieceLen::for_blob(bytes).bytes();
        let pieces = as_f64(bytes.div_ceil(u64::from(piece_len))) * as_f64(pulled.len() as u64);
        Ok(Self {
            scenario: "lab",
            peers: pulled.len(),
            bytes,
            piece_len,
            lower_bound_s,
            last_s,
            longest_silence_s: silence.as_secs_f64(),
            p50_s,
            ratio_last: last_s / lower_bound_s,
            ratio_p50: p50_s / lower_bound_s,
            source_ratio: as_f64(source_bytes) / as_f64(bytes),
            wasted_ratio: as_f64(fetched.saturating_sub(needed)) / as_f64(needed),
            connections_per_peer: as_f64(connections[connections.len() / 2]),
            planner_us_per_piece: fleet.scheduler_cpu()?.as_secs_f64() * 1e6 / pieces,
            predicted_last_s,
            last_to_predicted: predicted_last_s.map(|predicted| last_s / predicted),
        })
    }
}

/// The simulator's model of the lab.
fn scenario(plan: &LabPlan, peers: usize, bytes: u64) -> Scenario {
    let rate = plan.rate.bytes_per_s();
    let mut scenario = Scenario::even("lab", "the lab's own case", peers, rate, vec![bytes]);
    scenario.seeds = vec![scenario.seeds[0]; usize::from(plan.seeds)];
    if let Some(registry) = plan.registry_rate {
        scenario.registry.bytes_per_s = registry.bytes_per_s();
    }
    scenario
}

#[expect(clippy::cast_precision_loss, reason = "counts of bytes and pieces are far below 2^53")]
fn as_f64(count: u64) -> f64 {
    count as f64
}
