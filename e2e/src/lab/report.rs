//! What the lab came to, in the simulator's words and beside its prediction.

use anyhow::{Context as _, Result};
use bytesize::ByteSize;
use flotilla_e2e_sim::scenario::Part;
use flotilla_e2e_sim::{Report, Scenario, lower_bound};
use flotilla_proto::PieceLen;
use serde::Serialize;

use super::LabPlan;
use super::client::Pulled;
use super::network::Network;
use super::nodes::Fleet;
use crate::image::Image;
use crate::region::Metrics;

/// The figures of one pull, as `cargo sim -- run --json` has them.
///
/// What a client of each peer saw stands for the peer: it reads in order as fast as it can, and
/// gets the last byte once the blob is verified. The planner's figures are those of the
/// scheduler's whole process.
#[derive(Debug, Clone, Serialize)]
pub struct LabReport {
    #[serde(flatten)]
    report: Report,
    /// What the simulator says of this very case, if nobody is killed in it.
    predicted_last_s: Option<f64>,
    /// `client_last_s` ÷ `predicted_last_s`.
    last_to_predicted: Option<f64>,
}

impl LabReport {
    /// The figures, by the names that the simulator gives them.
    pub(crate) fn report(&self) -> &Report {
        &self.report
    }

    /// The last client's time ÷ what the simulator says, if nobody was killed.
    pub(crate) fn last_to_predicted(&self) -> Option<f64> {
        self.last_to_predicted
    }

    pub(super) fn of(
        plan: &LabPlan,
        image: &Image,
        pulled: &[Pulled],
        source_bytes: u64,
        fleet: &Fleet<'_>,
        network: &Network,
    ) -> Result<Self> {
        let bytes = image.layers[0].size();
        let scenario = scenario(plan, network.peers().len(), bytes);
        let predicted_last_s = match plan.kill {
            None => Some(flotilla_e2e_sim::run(&scenario, SEED).context("predict")?.report.client_last_s),
            Some(_) => None,
        };
        let report = figures(&scenario, pulled, source_bytes, fleet)?;
        let last_to_predicted = predicted_last_s.map(|predicted| report.client_last_s / predicted);
        Ok(Self { report, predicted_last_s, last_to_predicted })
    }
}

fn figures(scenario: &Scenario, pulled: &[Pulled], source_bytes: u64, fleet: &Fleet<'_>) -> Result<Report> {
    let bytes = scenario.bytes();
    let piece_len = PieceLen::for_blob(bytes).bytes();
    let lower_bound_s = lower_bound(scenario, SEED).as_secs_f64();
    let took: Vec<f64> = pulled.iter().map(|pulled| pulled.took.as_secs_f64()).collect();
    let last_s = took.iter().copied().fold(0.0, f64::max);
    let times = Report::of_times(lower_bound_s, took, last_s);
    let silence = pulled.iter().map(|pulled| pulled.longest_silence).max().context("someone pulled")?;
    let metrics = fleet.peer_metrics()?;
    let fetched: u64 = metrics.iter().map(Metrics::piece_bytes_fetched).sum();
    let needed = bytes * pulled.len() as u64;
    let mut connections: Vec<u64> =
        metrics.iter().map(|metrics| metrics.sum("flotilla_peer_connections", "")).collect();
    connections.sort_unstable();
    let pieces = as_f64(bytes.div_ceil(u64::from(piece_len))) * as_f64(pulled.len() as u64);
    let scheduler = fleet.scheduler_metrics()?;
    Ok(Report {
        scenario: scenario.name,
        seed: SEED,
        peers: pulled.len(),
        bytes,
        piece_len,
        longest_silence_s: silence.as_secs_f64(),
        ratio_own_p99: times.ratio_p99,
        source_ratio: as_f64(source_bytes) / as_f64(bytes),
        wasted_ratio: as_f64(fetched.saturating_sub(needed)) / as_f64(needed),
        connections_per_peer: usize::try_from(connections[connections.len() / 2])?,
        control_messages_per_piece: as_f64(scheduler.sum("flotilla_scheduler_batches_total", "")) / pieces,
        planner_us_per_piece: fleet.scheduler_cpu()?.as_secs_f64() * 1e6 / pieces,
        planner_peak_bytes: fleet.scheduler_peak_bytes()?,
        ..times
    })
}

/// The simulator's model of the lab.
fn scenario(plan: &LabPlan, peers: usize, bytes: u64) -> Scenario {
    let rate = plan.rate.bytes_per_s();
    let mut scenario = Scenario::even("lab", "the lab's own case", peers, rate, vec![bytes]);
    let within = |limit: Option<ByteSize>| limit.map_or(rate, |limit| rate.min(as_f64(limit.as_u64())));
    for peer in scenario.peers.iter_mut().chain(&mut scenario.seeds) {
        peer.up = within(plan.send_bandwidth);
        // What a seed reads from the registry are no pieces.
        peer.down = if peer.part == Part::Wants { within(plan.receive_bandwidth) } else { rate };
    }
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

/// Of the simulator's history.
const SEED: u64 = 1;
