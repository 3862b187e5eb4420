//! How much one peer may say: beyond, its stream is read no further for a while, so that it waits and nobody else does.
//!
//! What it says costs the planner time, whether it is true or not. A peer that tells all it holds when it attaches, or
//! whose clients begin to pull ten images, is far below these rates.

use std::collections::HashMap;
use std::num::NonZeroU64;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use flotilla_proto::wire::scheduler::{Announce, FromPeer};
use flotilla_proto::{PeerId, TokenBucket};

/// What each peer has said of late. A peer that attaches again is the same one.
#[derive(Debug, Default)]
pub(crate) struct Tolls {
    /// Held for one operation.
    by_peer: Mutex<HashMap<PeerId, Toll>>,
}

/// One peer's: its wishes and complaints apart from what it holds.
#[derive(Debug)]
struct Toll {
    asks: TokenBucket,
    tells: TokenBucket,
}

impl Tolls {
    /// When a peer that attaches may be heard: one that owes for what it said is not the better by a new stream.
    pub(crate) fn opens_at(&self, now: Instant, peer: &PeerId) -> Instant {
        let by_peer = self.by_peer.lock().unwrap_or_else(PoisonError::into_inner);
        by_peer.get(peer).map_or(now, |toll| toll.opens_at(now))
    }

    /// Takes note of a batch. When the next one may be read.
    pub(crate) fn pay(&self, now: Instant, peer: &PeerId, batch: &FromPeer) -> Instant {
        let mut by_peer = self.by_peer.lock().unwrap_or_else(PoisonError::into_inner);
        if by_peer.len() >= MOST && !by_peer.contains_key(peer) {
            by_peer.retain(|_, toll| !(toll.asks.is_open(now) && toll.tells.is_open(now)));
        }
        let toll = by_peer.entry(peer.clone()).or_insert_with(Toll::new);
        toll.asks.take(now, asked(batch));
        toll.tells.take(now, told(batch));
        toll.opens_at(now)
    }
}

impl Toll {
    fn opens_at(&self, now: Instant) -> Instant {
        [self.asks.opens_at(), self.tells.opens_at()].into_iter().flatten().fold(now, Instant::max)
    }

    fn new() -> Self {
        Self {
            asks: TokenBucket::new(ASKS_PER_S, ASKS_AHEAD),
            tells: TokenBucket::new(TELLS_PER_S, TELLS_AHEAD),
        }
    }
}

/// What is wanted, no longer wanted or held, and went wrong.
fn asked(batch: &FromPeer) -> u32 {
    let FromPeer { wants, unwants, withdrawals, failures, readers, source_failed, wrong_bytes, .. } = batch;
    let count = wants.len() + unwants.len() + withdrawals.len() + failures.len();
    count_of(count + readers.len() + source_failed.len() + wrong_bytes.len())
}

/// What is held and known.
fn told(batch: &FromPeer) -> u32 {
    let FromPeer { announces, hashes, reading, tombstones, .. } = batch;
    // Each piece is a step, and each run a look at some words.
    let pieces = |announce: &Announce| announce.runs.iter().map(|run| u64::from(run.count)).sum::<u64>();
    let steps = |announce: &Announce| usize::try_from(pieces(announce) / 128).unwrap_or(usize::MAX);
    let cost = |announce: &Announce| (1 + announce.runs.len() / 8).saturating_add(steps(announce));
    let runs = announces.iter().map(cost).fold(0, usize::saturating_add);
    count_of(runs.saturating_add(hashes.len() + reading.len() + tombstones.len()))
}

/// A batch that makes no sense, and so ends its stream, must not keep its peer away for hours.
fn count_of(entries: usize) -> u32 {
    u32::try_from(entries).unwrap_or(u32::MAX).min(MOST_PER_BATCH)
}

/// Each costs the planner some 35 µs: 7 % of a core.
const ASKS_PER_S: NonZeroU64 = NonZeroU64::new(2_000).expect("not 0");
/// As many wants as a peer may have, at once.
const ASKS_AHEAD: Duration = Duration::from_secs(2);
const TELLS_PER_S: NonZeroU64 = NonZeroU64::new(10_000).expect("not 0");
/// All that a peer may hold, at once, though it be in many runs.
const TELLS_AHEAD: Duration = Duration::from_secs(20);

/// One batch is paid for as if it said so much, at most: as what a peer may hold costs, twice.
const MOST_PER_BATCH: u32 = 400_000;

/// Peers whose toll is known; beyond, those that owe nothing are forgotten.
const MOST: usize = 4096;

#[cfg(test)]
mod tests {
    use flotilla_proto::wire::scheduler::{Run, Want};

    use super::*;

    fn wants(count: usize) -> FromPeer {
        FromPeer { wants: vec![Want::default(); count], ..Default::default() }
    }

    #[test]
    fn who_asks_for_ten_thousand_a_second_is_heard_two_thousand_times() {
        let (tolls, start, peer) = (Tolls::default(), Instant::now(), "liar".parse().unwrap());
        let (mut now, mut heard) = (start, 0);
        while now < start + Duration::from_secs(20) {
            now = tolls.pay(now, &peer, &wants(200)).max(now + Duration::from_millis(20));
            heard += 200;
        }
        assert!((40_000..=44_400).contains(&heard), "{heard}");
        // The others are not the worse for it, nor is the same one better by attaching again.
        assert_eq!(tolls.pay(now, &"other".parse().unwrap(), &wants(200)), now);
        assert!(tolls.pay(now, &peer, &wants(200)) > now);
    }

    #[test]
    fn a_batch_that_makes_no_sense_keeps_its_peer_away_for_seconds() {
        let (tolls, now, peer) = (Tolls::default(), Instant::now(), "node".parse().unwrap());
        let announces =
            vec![Announce { runs: vec![Run { first: 0, count: u32::MAX }; 9], ..Default::default() }];
        tolls.pay(now, &peer, &FromPeer { announces, ..Default::default() });
        assert_eq!(tolls.opens_at(now, &peer), now + Duration::from_secs(20));
    }

    #[test]
    fn who_tells_all_it_holds_waits_for_nothing() {
        let (tolls, now, peer) = (Tolls::default(), Instant::now(), "node".parse().unwrap());
        let announces = vec![Announce::default(); 65_536];
        assert_eq!(tolls.pay(now, &peer, &FromPeer { announces, ..Default::default() }), now);
        assert_eq!(tolls.pay(now, &peer, &wants(4000)), now);
    }
}
