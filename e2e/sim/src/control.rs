//! Control messages: what a daemon gathers between two flushes, in the order in which the
//! other side takes it, and what each word means there.
//!
//! The order is that of the daemons (`peer/src/swarm/wire.rs`, `scheduler/src/translate.rs`).

use std::collections::BTreeMap;

use flotilla_peer_core::{Failure, FetchError, Input as PeerInput, Report};
use flotilla_proto::{Digest, Layout, PeerId, PieceHash, PieceSet};
use flotilla_scheduler_core::{FailureReason, Input as SchedulerInput, Output, PeerKey, TaskFailure};

/// What a peer is to tell at the next flush.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    reports: Vec<Report>,
    announced: BTreeMap<Digest, Announced>,
}

/// Everything announced of one blob since the last flush.
#[derive(Debug)]
struct Announced {
    size: u64,
    hash_by_piece: BTreeMap<u32, Option<PieceHash>>,
}

impl Outbox {
    /// Adds a report; a later word on a blob strikes an earlier one that it would precede.
    pub(crate) fn add(&mut self, report: Report) {
        match report {
            Report::Announce { digest, size, pieces, hashes } => {
                let fresh = || Announced { size, hash_by_piece: BTreeMap::new() };
                let announced = self.announced.entry(digest).or_insert_with(fresh);
                let hashes = hashes.into_iter().map(Some).chain(std::iter::repeat(None));
                announced.hash_by_piece.extend(pieces.iter().zip(hashes));
                return;
            }
            Report::Withdraw { digest } => drop(self.announced.remove(&digest)),
            Report::Want { digest, .. } => {
                self.reports.retain(|other| *other != Report::Unwant { digest });
            }
            _ => {}
        }
        self.reports.push(report);
    }

    /// The gathered batch; empty if there is nothing to say.
    pub(crate) fn take(&mut self) -> Vec<Report> {
        let mut batch = std::mem::take(&mut self.reports);
        for (digest, announced) in std::mem::take(&mut self.announced) {
            batch.extend(announced.reports(digest));
        }
        batch.sort_by_key(upward_rank);
        batch
    }
}

impl Announced {
    /// Pieces with hashes and pieces without make two messages.
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

/// The order in which the scheduler takes a batch: what a peer has before what it wants.
fn upward_rank(report: &Report) -> u8 {
    match report {
        Report::SourceFailed { .. } => 0,
        Report::Withdraw { .. } => 1,
        Report::Announce { .. } => 2,
        Report::Hashes { .. } => 3,
        Report::Reading { .. } => 4,
        Report::Want { .. } => 5,
        Report::Unwant { .. } => 6,
        Report::FetchFailed { .. } => 7,
        Report::Reader { .. } => 8,
        Report::InventoryTold => 9,
    }
}

/// The order in which a peer takes a batch.
pub(crate) fn downward_rank(input: &PeerInput) -> u8 {
    match input {
        PeerInput::Cancelled { .. } => 0,
        PeerInput::ReadOrdered { .. } => 1,
        PeerInput::SeedNamed { .. } => 2,
        PeerInput::Assigned { .. } => 3,
        PeerInput::TaskFailed { .. } => 4,
        PeerInput::HashesWanted { .. } => 5,
        _ => unreachable!("{input:?} is not the scheduler's to say"),
    }
}

/// What a report means to the scheduler; `None` for late news of a parent that is gone, and
/// for [`Report::Hashes`], which only the teller's store can answer.
pub(crate) fn to_scheduler(
    peer: PeerKey,
    report: Report,
    key: impl Fn(&PeerId) -> Option<PeerKey>,
) -> Option<SchedulerInput> {
    Some(match report {
        Report::Want { digest, size } => SchedulerInput::Wanted { peer, digest, size, reader: true },
        Report::Unwant { digest } => SchedulerInput::Unwanted { peer, digest },
        Report::Announce { digest, size, pieces, hashes } => {
            SchedulerInput::Announced { peer, digest, size, pieces, hashes }
        }
        Report::Withdraw { digest } => SchedulerInput::Withdrawn { peer, digest },
        Report::Hashes { .. } => return None,
        Report::FetchFailed { digest, piece, parent, error } => SchedulerInput::Failed {
            child: peer,
            parent: key(&parent)?,
            digest,
            piece,
            reason: failure_reason(error),
        },
        Report::Reader { digest, piece } => SchedulerInput::ReaderMoved { peer, digest, piece },
        Report::Reading { digest, size, pieces } => {
            SchedulerInput::SourceReading { seed: peer, digest, size, pieces }
        }
        Report::InventoryTold => SchedulerInput::InventoryTold { peer },
        Report::SourceFailed { digest, failure } => SchedulerInput::SourceFailed {
            seed: peer,
            digest,
            failure: TaskFailure {
                status: failure.status,
                code: failure.code,
                message: failure.message,
                poisoned: failure.poisoned,
            },
        },
    })
}

fn failure_reason(error: FetchError) -> FailureReason {
    match error {
        FetchError::Stalled => FailureReason::TimedOut,
        FetchError::Unreachable => FailureReason::Unreachable,
        FetchError::NotHeld => FailureReason::NotHeld,
        FetchError::Busy => FailureReason::Busy,
        FetchError::Corrupt => FailureReason::Corrupt,
    }
}

/// Whom a decision of the scheduler is for, and what it means there; `None` for what peers do
/// not heed yet.
pub(crate) fn to_peer(output: Output, id: impl Fn(PeerKey) -> PeerId) -> Option<(PeerKey, PeerInput)> {
    Some(match output {
        Output::Assign { child, parent, digest, piece, hash } => {
            (child, PeerInput::Assigned { digest, piece, parent: id(parent), hash })
        }
        Output::Cancel { child, digest, piece } => (child, PeerInput::Cancelled { digest, piece }),
        Output::UseSeed { child, seed, digest } => (child, PeerInput::SeedNamed { digest, seed: id(seed) }),
        Output::ReadSource { seed, digest, size, pieces } => {
            let layout = Layout::of(size).expect("the planner opens no task that has no layout");
            (seed, PeerInput::ReadOrdered { digest, layout, pieces })
        }
        Output::AskHashes { peer, digest } => (peer, PeerInput::HashesWanted { digest }),
        Output::FailTask { peer, digest, failure } => {
            let TaskFailure { status, code, message, poisoned } = failure;
            (peer, PeerInput::TaskFailed { digest, failure: Failure { status, code, message, poisoned } })
        }
        Output::PaceSource { .. }
        | Output::Link { .. }
        | Output::Unlink { .. }
        | Output::Picking { .. }
        | Output::PaceReports { .. } => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn announce(piece: u32, hashes: Vec<PieceHash>) -> Report {
        let mut pieces = PieceSet::new(8);
        pieces.insert(piece);
        Report::Announce { digest: Digest::of(b"x"), size: 1 << 20, pieces, hashes }
    }

    #[test]
    fn a_batch_says_what_a_peer_has_before_what_it_wants_and_each_blob_once() {
        let mut outbox = Outbox::default();
        outbox.add(Report::Want { digest: Digest::of(b"y"), size: 1 });
        outbox.add(announce(1, Vec::new()));
        outbox.add(announce(2, Vec::new()));
        outbox.add(announce(0, vec![PieceHash::of(b"0")]));
        let batch = outbox.take();
        assert!(
            matches!(&batch[..], [
                Report::Announce { pieces: told, hashes, .. },
                Report::Announce { pieces: bare, .. },
                Report::Want { .. },
            ] if told.count() == 1 && hashes.len() == 1 && bare.count() == 2),
            "{batch:?}"
        );
        assert_eq!(outbox.take(), []);
    }
}
