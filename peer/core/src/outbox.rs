//! What is to be told to the scheduler, gathered and put in order.
//!
//! A flush takes everything that waits; the next comes no sooner than the interval that the
//! scheduler asked for, which it stretches as the region grows (`docs/design.md` §4h).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use flotilla_proto::{Digest, Layout, PieceHash, PieceSet};

use crate::Report;

/// Reports in the order in which the scheduler takes them: what a peer has before what it
/// wants, each piece of a blob once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch(Vec<Report>);

impl Batch {
    /// The reports.
    pub fn reports(&self) -> &[Report] {
        &self.0
    }
}

impl IntoIterator for Batch {
    type Item = Report;
    type IntoIter = std::vec::IntoIter<Report>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

/// The reports that wait for the next flush.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    reports: Vec<Report>,
    announced_by_digest: BTreeMap<Digest, Announced>,
    interval: Duration,
    flushed_at: Option<Instant>,
}

/// Everything announced of one blob since the last flush.
#[derive(Debug)]
struct Announced {
    size: u64,
    hash_by_piece: BTreeMap<u32, Option<PieceHash>>,
}

impl Outbox {
    /// Sets the time between two flushes, at most [`MAX_INTERVAL`].
    pub(crate) fn pace(&mut self, interval: Duration) {
        self.interval = interval.min(MAX_INTERVAL);
    }

    /// Adds a report. Since a batch is taken in a fixed order, a later word on a blob strikes
    /// an earlier one that it would otherwise precede.
    pub(crate) fn add(&mut self, report: Report) {
        match report {
            Report::Announce { digest, size, pieces, hashes } => {
                return self.announce(digest, size, &pieces, &hashes);
            }
            Report::Withdraw { digest } => drop(self.announced_by_digest.remove(&digest)),
            // One that comes after does not: what was assigned in between is lost.
            Report::Unwant { digest: unwanted } => {
                let is_before =
                    |other: &Report| matches!(other, Report::Want { digest, .. } if *digest == unwanted);
                self.reports.retain(|other| !is_before(other));
            }
            Report::Reader { digest: moved, .. } => {
                let is_older =
                    |other: &Report| matches!(other, Report::Reader { digest, .. } if *digest == moved);
                self.reports.retain(|other| !is_older(other));
            }
            _ => {}
        }
        self.reports.push(report);
    }

    fn announce(&mut self, digest: Digest, size: u64, pieces: &PieceSet, hashes: &[PieceHash]) {
        let fresh = || Announced { size, hash_by_piece: BTreeMap::new() };
        let announced = self.announced_by_digest.entry(digest).or_insert_with(fresh);
        for (index, piece) in pieces.iter().enumerate() {
            let hash = announced.hash_by_piece.entry(piece).or_default();
            // Only the seed that read a piece says its hash, and only once.
            *hash = hashes.get(index).copied().or(*hash);
        }
    }

    /// When what waits is to be flushed; `None` if nothing waits.
    pub(crate) fn due(&self, now: Instant) -> Option<Instant> {
        let is_empty = self.reports.is_empty() && self.announced_by_digest.is_empty();
        (!is_empty).then(|| self.flushed_at.map_or(now, |at| (at + self.interval).max(now)))
    }

    /// What waits, if it is due.
    pub(crate) fn flush(&mut self, now: Instant) -> Option<Batch> {
        self.due(now).filter(|due| *due <= now)?;
        self.flushed_at = Some(now);
        let mut batch = std::mem::take(&mut self.reports);
        for (digest, announced) in std::mem::take(&mut self.announced_by_digest) {
            batch.extend(announced.reports(digest));
        }
        batch.sort_by_key(rank);
        Some(Batch(batch))
    }
}

impl Announced {
    /// Pieces with hashes and pieces without make two reports.
    fn reports(self, digest: Digest) -> impl Iterator<Item = Report> {
        let len = Layout::of(self.size).map_or(0, |layout| layout.piece_count());
        let (mut told, mut bare, mut hashes) = (PieceSet::new(len), PieceSet::new(len), Vec::new());
        for (piece, hash) in self.hash_by_piece {
            match hash {
                Some(hash) => {
                    told.insert(piece);
                    hashes.push(hash);
                }
                None => drop(bare.insert(piece)),
            }
        }
        let groups =
            [(told, hashes), (bare, Vec::new())].into_iter().filter(|(pieces, _)| !pieces.is_empty());
        groups.map(move |(pieces, hashes)| Report::Announce { digest, size: self.size, pieces, hashes })
    }
}

/// The order in which the scheduler takes a batch. That pieces are void comes first: who
/// says so withdraws them in the same breath, and is heard only while it is known to hold or read
/// them. What was purged comes before what is held.
fn rank(report: &Report) -> u8 {
    match report {
        Report::SourceFailed { failure, .. } if failure.voids_pieces() => 0,
        Report::WrongBytes { .. } => 1,
        Report::Entombed { .. } => 2,
        Report::Withdraw { .. } => 3,
        Report::Announce { .. } => 4,
        Report::Hashes { .. } => 5,
        Report::Reading { .. } => 6,
        Report::Unwant { .. } => 7,
        Report::Want { .. } => 8,
        Report::FetchFailed { .. } => 9,
        Report::Reader { .. } => 10,
        Report::SourceFailed { .. } => 11,
        Report::InventoryTold => 12,
    }
}

/// A scheduler that asks for more gets this.
const MAX_INTERVAL: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods)] // a test may read the clock

    use super::*;

    /// Four pieces.
    const SIZE: u64 = 4 * 128 * 1024;

    fn digest() -> Digest {
        Digest::of(b"blob")
    }

    fn hash(piece: u32) -> PieceHash {
        PieceHash::of(&piece.to_be_bytes())
    }

    fn announce(pieces: &[u32], hashes: &[u32]) -> Report {
        let mut set = PieceSet::new(4);
        for piece in pieces {
            set.insert(*piece);
        }
        let hashes = hashes.iter().map(|piece| hash(*piece)).collect();
        Report::Announce { digest: digest(), size: SIZE, pieces: set, hashes }
    }

    /// The batch that these reports make.
    fn told(reports: impl IntoIterator<Item = Report>) -> Vec<Report> {
        let mut outbox = Outbox::default();
        for report in reports {
            outbox.add(report);
        }
        let batch = outbox.flush(Instant::now());
        assert_eq!(outbox.flush(Instant::now()), None, "what is taken is gone");
        batch.map(|batch| batch.0).unwrap_or_default()
    }

    #[test]
    fn nothing_to_say_is_no_batch() {
        assert_eq!(told([]), []);
    }

    #[test]
    fn pieces_announced_one_by_one_go_out_together() {
        assert_eq!(
            told([announce(&[0], &[0]), announce(&[2], &[]), announce(&[1], &[1])]),
            [announce(&[0, 1], &[0, 1]), announce(&[2], &[])]
        );
    }

    #[test]
    fn a_hash_once_said_is_not_taken_back_by_a_bare_announcement() {
        assert_eq!(
            told([announce(&[3], &[3]), announce(&[2, 3], &[])]),
            [announce(&[3], &[3]), announce(&[2], &[])]
        );
    }

    #[test]
    fn a_withdrawal_strikes_what_was_announced_before_it_and_nothing_after() {
        let withdraw = || Report::Withdraw { digest: digest() };
        assert_eq!(told([announce(&[0, 1], &[]), withdraw()]), [withdraw()]);
        assert_eq!(
            told([announce(&[0], &[]), withdraw(), announce(&[1], &[])]),
            [withdraw(), announce(&[1], &[])]
        );
    }

    #[test]
    fn an_unwant_strikes_a_want_before_it_and_none_that_follows() {
        let want = || Report::Want { digest: digest(), size: SIZE, pieces: PieceSet::full(4) };
        let unwant = |blob: &[u8]| Report::Unwant { digest: Digest::of(blob) };
        assert_eq!(told([want(), unwant(b"blob")]), [unwant(b"blob")]);
        assert_eq!(told([unwant(b"blob"), want()]), [unwant(b"blob"), want()]);
        assert_eq!(told([want(), unwant(b"other")]), [unwant(b"other"), want()]);
    }

    #[test]
    fn what_a_peer_has_comes_before_what_it_wants() {
        let want = || Report::Want { digest: Digest::of(b"other"), size: 1, pieces: PieceSet::full(1) };
        assert_eq!(
            told([Report::InventoryTold, want(), announce(&[1], &[])]),
            [announce(&[1], &[]), want(), Report::InventoryTold]
        );
    }

    #[test]
    fn flushes_keep_the_interval_that_was_asked_for() {
        let (mut outbox, now) = (Outbox::default(), Instant::now());
        outbox.pace(Duration::from_millis(20));
        outbox.add(announce(&[0], &[]));
        assert!(outbox.flush(now).is_some(), "after a silence it goes at once");
        outbox.add(announce(&[1], &[]));
        assert_eq!(outbox.due(now), Some(now + Duration::from_millis(20)));
        assert_eq!(outbox.flush(now + Duration::from_millis(19)), None);
        assert!(outbox.flush(now + Duration::from_millis(20)).is_some());
    }
}
