//! What a history came to: times, and what they are measured against.

use flotilla_proto::PieceLen;
use serde::Serialize;

use crate::event::{NodeIndex, Time};
use crate::network::bytes_f64;
use crate::node::Node;
use crate::scenario::Part;
use crate::world::World;

/// The figures of one history. Times are seconds since it began, ratios are to the lower bound;
/// those of peers that died are left out.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Report {
    /// Its scenario's name.
    pub scenario: &'static str,
    /// The seed of its randomness.
    pub seed: u64,
    /// Peers that wanted the blobs.
    pub peers: usize,
    /// What each of them wanted.
    pub bytes: u64,
    /// Of the largest blob.
    pub piece_len: u32,
    /// No scheme could be done sooner, see [`crate::lower_bound`].
    pub lower_bound_s: f64,
    /// When the last peer had everything, verified.
    pub last_s: f64,
    /// When the last client had read the last byte.
    pub client_last_s: f64,
    /// `client_last_s` ÷ `lower_bound_s`.
    pub ratio_client_last: f64,
    /// The longest that any client waited for its next byte.
    pub longest_silence_s: f64,
    /// When half of the peers had everything.
    pub p50_s: f64,
    /// When 99 of 100 had.
    pub p99_s: f64,
    /// When 999 of 1000 had.
    pub p999_s: f64,
    /// `last_s` ÷ `lower_bound_s`.
    pub ratio_last: f64,
    /// `p50_s` ÷ `lower_bound_s`.
    pub ratio_p50: f64,
    /// `p99_s` ÷ `lower_bound_s`.
    pub ratio_p99: f64,
    /// `p999_s` ÷ `lower_bound_s`.
    pub ratio_p999: f64,
    /// Each peer's time since it came ÷ the least it could have taken by itself: what 99 of 100
    /// peers with links of one class reach, in the class where that is worst.
    pub ratio_own_p99: f64,
    /// Bytes that came into a zone over narrow links ÷ `bytes`, in the zone where that is most.
    pub zone_copies: f64,
    /// Bytes read from the registry ÷ `bytes`.
    pub source_ratio: f64,
    /// Bytes that peers sent and nobody kept ÷ those that were kept.
    pub wasted_ratio: f64,
    /// Others that a peer swapped a piece with; half of the peers had no more.
    pub connections_per_peer: usize,
    /// Batches between scheduler and peers, both ways, ÷ pieces that reached a peer.
    pub control_messages_per_piece: f64,
    /// Time in the scheduler's core ÷ pieces that reached a peer. The one figure that differs
    /// between runs of one seed; zero where nobody measured.
    pub planner_us_per_piece: f64,
    /// What the scheduler's core held at most.
    pub planner_peak_bytes: u64,
    /// Downloads that ended without their blob, where the scenario has nodes that cannot store it.
    #[serde(skip)]
    pub failed_downloads: u64,
}

impl Report {
    /// The figures that follow from when each peer had everything, and when the last client had,
    /// in seconds, and from the bound; all others are zero.
    pub fn of_times(lower_bound_s: f64, mut done_s: Vec<f64>, client_last_s: f64) -> Self {
        done_s.sort_by(f64::total_cmp);
        let [p50_s, p99_s, p999_s, last_s] = [500, 990, 999, 1000].map(|share| percentile(&done_s, share));
        Self {
            lower_bound_s,
            last_s,
            client_last_s,
            ratio_client_last: client_last_s / lower_bound_s,
            p50_s,
            p99_s,
            p999_s,
            ratio_last: last_s / lower_bound_s,
            ratio_p50: p50_s / lower_bound_s,
            ratio_p99: p99_s / lower_bound_s,
            ratio_p999: p999_s / lower_bound_s,
            ..Self::default()
        }
    }

    pub(crate) fn of(world: &World<'_>, seed: u64) -> Self {
        let scenario = world.scenario;
        let done = done(world);
        let done_s = done.iter().map(|(_, at)| at.as_secs_f64()).collect();
        let living = || done.iter().map(|(index, _)| &world.nodes[index.place()]);
        let clients =
            || living().flat_map(|node| node.blobs.values()).filter_map(|blob| blob.client.as_ref());
        let client_last_s = clients().map(|client| client.free_at).max().unwrap_or_default().as_secs_f64();
        let silence = clients().map(|client| client.longest_wait).max().unwrap_or_default();
        let lower_bound_s = world.lower_bound.as_secs_f64();
        let largest = scenario.blobs.iter().copied().max().unwrap_or_default();
        let bytes = bytes_f64(scenario.bytes());
        let tally = &world.tally;
        let crossed = tally.crossed_bytes.values().copied().max().unwrap_or_default();
        let pieces = bytes_f64(tally.kept_pieces.max(1));
        Self {
            scenario: scenario.name,
            seed,
            peers: scenario.peers.iter().filter(|peer| peer.part == Part::Wants).count(),
            bytes: scenario.bytes(),
            piece_len: PieceLen::for_blob(largest).bytes(),
            longest_silence_s: silence.as_secs_f64(),
            ratio_own_p99: own_p99(world, &done),
            zone_copies: bytes_f64(crossed) / bytes,
            source_ratio: bytes_f64(tally.registry_bytes) / bytes,
            wasted_ratio: bytes_f64(tally.wasted_bytes) / bytes_f64(tally.kept_bytes.max(1)),
            connections_per_peer: connections(living()),
            control_messages_per_piece: bytes_f64(tally.control_messages) / pieces,
            planner_us_per_piece: world.thread.measured.as_secs_f64() * 1e6 / pieces,
            planner_peak_bytes: u64::try_from(world.thread.peak_bytes).unwrap_or_default(),
            failed_downloads: tally.failed_downloads,
            ..Self::of_times(lower_bound_s, done_s, client_last_s)
        }
    }
}

/// When each living peer that wanted something had it, sorted.
pub(crate) fn done_times(world: &World<'_>) -> Vec<Time> {
    let mut times: Vec<Time> = done(world).into_iter().map(|(_, at)| at).collect();
    times.sort_unstable();
    times
}

/// The living peers that wanted something and had it, and when they did.
fn done(world: &World<'_>) -> Vec<(NodeIndex, Time)> {
    let wanting =
        world.nodes.iter().enumerate().filter(|(_, node)| node.is_alive && node.spec.part == Part::Wants);
    let all_complete =
        |node: &Node| node.blobs.values().all(|blob| blob.client.is_none() || blob.complete_at.is_some());
    let at = |node: &Node| node.blobs.values().filter_map(|blob| blob.complete_at).max();
    wanting
        .filter(|(_, node)| all_complete(node))
        .filter_map(|(place, node)| Some((NodeIndex::at(place), at(node)?)))
        .collect()
}

/// The least value that `per_mille` of a thousand do not exceed.
fn percentile(sorted: &[f64], per_mille: usize) -> f64 {
    let place = (sorted.len() * per_mille).div_ceil(1000).max(1) - 1;
    sorted.get(place).copied().unwrap_or_default()
}

fn own_p99(world: &World<'_>, done: &[(NodeIndex, Time)]) -> f64 {
    let mut classes: Vec<((f64, f64), Vec<f64>)> = Vec::new();
    for (index, at) in done {
        let spec = world.nodes[index.place()].spec;
        let bound = world.region.own_bound(*index, world.scenario);
        let ratio = (*at - spec.arrives).as_secs_f64() / (bound - spec.arrives).as_secs_f64();
        let class = (spec.up, spec.down);
        match classes.iter_mut().find(|(other, _)| *other == class) {
            Some((_, ratios)) => ratios.push(ratio),
            None => classes.push((class, vec![ratio])),
        }
    }
    let worst_of_99 = |mut ratios: Vec<f64>| {
        ratios.sort_by(f64::total_cmp);
        percentile(&ratios, 990)
    };
    classes.into_iter().map(|(_, ratios)| worst_of_99(ratios)).fold(0.0, f64::max)
}

fn connections<'a>(living: impl Iterator<Item = &'a Node>) -> usize {
    let mut counts: Vec<usize> = living.map(|node| node.met.len()).collect();
    counts.sort_unstable();
    counts.get(counts.len() / 2).copied().unwrap_or_default()
}
