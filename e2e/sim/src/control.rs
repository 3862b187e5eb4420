//! Control messages: what each word means on the other side, and the order in which a peer
//! takes a batch: that of its daemon (`peer/src/swarm/wire.rs`).

use flotilla_peer_core::{FetchError, Input as PeerInput, Report};
use flotilla_proto::{Digest, Layout, PeerId};
use flotilla_scheduler_core::{FailureReason, Input as SchedulerInput, Output, PeerKey};

/// The order in which a peer takes a batch.
pub(crate) fn downward_rank(input: &PeerInput) -> u8 {
    match input {
        PeerInput::ReportsPaced { .. } => 0,
        PeerInput::TaskFailed { .. } => 1,
        PeerInput::Entombed { .. } => 2,
        PeerInput::Cancelled { .. } => 3,
        PeerInput::ReadOrdered { .. } => 4,
        PeerInput::SourcePaced { .. } => 5,
        PeerInput::SeedNamed { .. } => 6,
        PeerInput::PartnerLost { .. } => 7,
        PeerInput::PartnerNamed { .. } => 8,
        PeerInput::PickingOrdered { .. } => 9,
        PeerInput::Assigned { .. } => 10,
        PeerInput::HashesWanted { .. } => 11,
        _ => unreachable!("{input:?} is not the scheduler's to say"),
    }
}

/// Whether a blob's failure takes this out of the batch (`scheduler/src/translate.rs`).
pub(crate) fn is_struck_by_failure(input: &PeerInput, failed: Digest, voids_pieces: bool) -> bool {
    match input {
        PeerInput::ReadOrdered { digest, .. } | PeerInput::SourcePaced { digest, .. } => {
            voids_pieces && *digest == failed
        }
        PeerInput::Cancelled { digest, .. }
        | PeerInput::SeedNamed { digest, .. }
        | PeerInput::PartnerNamed { digest, .. }
        | PeerInput::PickingOrdered { digest, .. }
        | PeerInput::Assigned { digest, .. } => *digest == failed,
        _ => false,
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
        Report::Want { digest, size, pieces } => {
            let part = (!pieces.is_full()).then_some(pieces);
            SchedulerInput::Wanted { peer, digest, size, part, reader: true }
        }
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
        Report::WrongBytes { variant } => SchedulerInput::WrongBytes { peer, variant },
        Report::Entombed { variant } => SchedulerInput::Entombed { peer, variant },
        Report::InventoryTold => SchedulerInput::InventoryTold { peer },
        Report::SourceFailed { digest, failure } => {
            SchedulerInput::SourceFailed { seed: peer, digest, failure }
        }
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

/// Whom a decision of the scheduler is for, and what it means there.
pub(crate) fn to_peer(output: Output, id: impl Fn(PeerKey) -> PeerId) -> (PeerKey, PeerInput) {
    match output {
        Output::Assign { child, parent, digest, piece, hash, hearsay } => {
            (child, PeerInput::Assigned { digest, piece, parent: id(parent), hash, hearsay })
        }
        Output::Cancel { child, digest, piece } => (child, PeerInput::Cancelled { digest, piece }),
        Output::UseSeed { child, seed, digest } => (child, PeerInput::SeedNamed { digest, seed: id(seed) }),
        Output::ReadSource { seed, digest, size, pieces } => {
            let layout = Layout::of(size).expect("the planner opens no task that has no layout");
            (seed, PeerInput::ReadOrdered { digest, layout, pieces })
        }
        Output::Relay { seed, digest, size, pieces } => {
            let layout = Layout::of(size).expect("the planner opens no task that has no layout");
            (seed, PeerInput::Wanted { digest, layout, pieces })
        }
        Output::AskHashes { peer, digest } => (peer, PeerInput::HashesWanted { digest }),
        Output::FailTask { peer, digest, failure, root } => {
            (peer, PeerInput::TaskFailed { digest, failure, root })
        }
        Output::Entomb { peer, variant } => (peer, PeerInput::Entombed { variant }),
        Output::PaceSource { seed, digest, until } => (seed, PeerInput::SourcePaced { digest, until }),
        Output::Link { peer, partner, digest, seed, same_zone } => {
            (peer, PeerInput::PartnerNamed { digest, partner: id(partner), seed, same_zone })
        }
        Output::Unlink { peer, partner, digest } => {
            (peer, PeerInput::PartnerLost { digest, partner: id(partner) })
        }
        Output::Picking { peer, digest, picks } => (peer, PeerInput::PickingOrdered { digest, picks }),
        Output::PaceReports { peer, interval } => (peer, PeerInput::ReportsPaced { interval }),
    }
}
