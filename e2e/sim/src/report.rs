//! What a history came to: times, and what they are measured against.

use std::time::Duration;

use flotilla_proto::PieceLen;
use serde::Serialize;

use crate::event::Time;
use crate::network::bytes_f64;
use crate::node::Node;
use crate::scenario::{Crash, NodeSpec, Scenario, Victim};
use crate::world::World;

/// The figures of one history. Times are seconds since it began, ratios are to the lower bound;
/// those of peers that died are left out.
#[derive(Debug, Clone, PartialEq, Serialize)]
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
    /// [`lower_bound`].
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
    /// `last_s` ÷ `lower_bound_s`.
    pub ratio_last: f64,
    /// `p50_s` ÷ `lower_bound_s`.
    pub ratio_p50: f64,
    /// `p99_s` ÷ `lower_bound_s`.
    pub ratio_p99: f64,
    /// Bytes read from the registry ÷ `bytes`.
    pub source_ratio: f64,
    /// Bytes that peers sent and nobody kept ÷ those that were kept.
    pub wasted_ratio: f64,
    /// Batches between scheduler and peers, both ways, ÷ pieces that reached a peer.
    pub control_messages_per_piece: f64,
}

impl Report {
    pub(crate) fn of(world: &World<'_>, seed: u64) -> Self {
        let scenario = world.scenario;
        let living: Vec<&Node> = world.nodes.iter().filter(|node| node.is_alive && !node.is_seed).collect();
        let mut done_s: Vec<f64> = living.iter().map(|node| completed_at(node).as_secs_f64()).collect();
        done_s.sort_by(f64::total_cmp);
        let clients =
            || living.iter().flat_map(|node| node.blobs.values()).filter_map(|blob| blob.client.as_ref());
        let client_last = clients().map(|client| client.free_at).max().unwrap_or_default();
        let silence = clients().map(|client| client.longest_wait).max().unwrap_or_default();
        let lower_bound_s = lower_bound(scenario).as_secs_f64();
        let percentile = |percent: usize| done_s[(done_s.len() * percent).div_ceil(100).max(1) - 1];
        let (p50_s, p99_s, last_s) = (percentile(50), percentile(99), percentile(100));
        let largest = scenario.blobs.iter().copied().max().unwrap_or_default();
        let piece_count: u32 = world.blobs.iter().map(|blob| blob.layout.piece_count()).sum();
        let pieces = bytes_f64(u64::from(piece_count)) * bytes_f64(living.len() as u64);
        let tally = &world.tally;
        Self {
            scenario: scenario.name,
            seed,
            peers: scenario.peers.len(),
            bytes: scenario.bytes(),
            piece_len: PieceLen::for_blob(largest).bytes(),
            lower_bound_s,
            last_s,
            client_last_s: client_last.as_secs_f64(),
            ratio_client_last: client_last.as_secs_f64() / lower_bound_s,
            longest_silence_s: silence.as_secs_f64(),
            p50_s,
            p99_s,
            ratio_last: last_s / lower_bound_s,
            ratio_p50: p50_s / lower_bound_s,
            ratio_p99: p99_s / lower_bound_s,
            source_ratio: bytes_f64(tally.registry_bytes) / bytes_f64(scenario.bytes()),
            wasted_ratio: bytes_f64(tally.wasted_bytes) / bytes_f64(tally.kept_bytes),
            control_messages_per_piece: bytes_f64(tally.control_messages) / pieces,
        }
    }
}

fn completed_at(node: &Node) -> Time {
    node.blobs.values().filter_map(|blob| blob.complete_at).max().unwrap_or_default()
}

/// No scheme can give the last of the living peers its last byte sooner (Kumar & Ross 2006):
/// `max(F/R, F/u_seed, F/d_seed, arrival + F/d, N·F/(u_seed + Σu))`, where `F` is what each peer
/// wants, and the registry sends a blob at `R` at most.
///
/// Uplinks of nodes that die count as if they lived, so that it stays a bound.
pub fn lower_bound(scenario: &Scenario) -> Duration {
    let image = bytes_f64(scenario.bytes());
    let largest = bytes_f64(scenario.blobs.iter().copied().max().unwrap_or_default());
    let sum = |nodes: &[NodeSpec], rate: fn(&NodeSpec) -> f64| nodes.iter().map(rate).sum::<f64>();
    let seeds_up = sum(&scenario.seeds, |node| node.up);
    let seeds_down = sum(&scenario.seeds, |node| node.down);
    let dies = |place: usize| {
        let is_victim = |crash: &Crash| matches!(crash.victim, Victim::Peer(peer) if peer == place);
        scenario.crashes.iter().any(is_victim)
    };
    let living = scenario.peers.iter().enumerate().filter(|(place, _)| !dies(*place)).map(|(_, peer)| peer);
    let slowest =
        living.clone().map(|peer| peer.arrives.as_secs_f64() + image / peer.down).fold(0.0, f64::max);
    let all = bytes_f64(living.count() as u64) * image / (seeds_up + sum(&scenario.peers, |node| node.up));
    let bounds =
        [largest / scenario.registry.bytes_per_s, image / seeds_up, image / seeds_down, slowest, all];
    Duration::from_secs_f64(bounds.into_iter().fold(0.0, f64::max))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::MBIT;

    #[test]
    fn the_bound_is_the_narrowest_of_all_ways() {
        let mut scenario = Scenario::even("", "", 3, 8.0 * MBIT, vec![6_000_000]);
        let bound = |scenario: &Scenario| lower_bound(scenario).as_secs_f64();
        assert_eq!(bound(&scenario), 6.0);
        scenario.peers[1].down = 2.0 * MBIT;
        assert_eq!(bound(&scenario), 24.0);
        scenario.peers[1].arrives = Duration::from_secs(1);
        assert_eq!(bound(&scenario), 25.0);
        for peer in &mut scenario.peers {
            peer.up = 0.0;
        }
        scenario.registry.bytes_per_s = 1.2e6 / 8.0;
        assert_eq!(bound(&scenario), 40.0);
    }
}
