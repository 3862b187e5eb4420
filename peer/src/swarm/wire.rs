//! Between the core's words and the scheduler's.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use flotilla_peer_core::{Failure, FetchError, Input, Report};
use flotilla_proto::wire::scheduler as wire;
use flotilla_proto::wire::{join_hashes, pieces_from, runs_of, split_hashes};
use flotilla_proto::{Digest, Layout, PeerId, PieceHash, PieceSet};

use crate::store::Store;

/// What is to be told at the next flush.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    message: wire::FromPeer,
    announced: BTreeMap<Digest, Announced>,
}

/// Everything announced of one blob since the last flush.
#[derive(Debug)]
struct Announced {
    size: u64,
    hash_by_piece: BTreeMap<u32, Option<PieceHash>>,
}

impl Outbox {
    /// Adds a report. The scheduler takes a batch in a fixed order (withdrawals,
    /// announcements, wants, unwants), so that a later word on a blob strikes an earlier
    /// one it would otherwise precede.
    pub(super) fn add(&mut self, report: Report, store: &Store) {
        let message = &mut self.message;
        match report {
            Report::Want { digest, size } => {
                message.unwants.retain(|unwanted| unwanted[..] != digest.as_bytes()[..]);
                message.wants.push(wire::Want { digest: digest.into(), size, reader: true });
            }
            Report::Unwant { digest } => message.unwants.push(digest.into()),
            Report::Announce { digest, size, pieces, hashes } => {
                self.announce(digest, size, &pieces, &hashes);
            }
            Report::Withdraw { digest } => {
                self.announced.remove(&digest);
                message.withdrawals.push(digest.into());
            }
            Report::Hashes { digest, size } => message.hashes.extend(told_hashes(digest, size, store)),
            Report::FetchFailed { digest, piece, parent, error } => {
                let reason = reason(error).into();
                let failure =
                    wire::Failure { digest: digest.into(), piece, parent: parent.to_string(), reason };
                message.failures.push(failure);
            }
            Report::Reader { digest, piece } => {
                message.readers.push(wire::Reader { digest: digest.into(), piece });
            }
            Report::Reading { digest, size, pieces } => {
                message.reading.push(wire::SourceOrder {
                    digest: digest.into(),
                    size,
                    runs: runs_of(&pieces),
                });
            }
            Report::InventoryTold => message.inventory_told = true,
            Report::SourceFailed { digest, failure } => message.source_failed.push(wire::SourceFailed {
                digest: digest.into(),
                status: failure.status.into(),
                code: failure.code,
                message: failure.message,
                poisoned: failure.poisoned,
            }),
        }
    }

    fn announce(&mut self, digest: Digest, size: u64, pieces: &PieceSet, hashes: &[PieceHash]) {
        let announced = self
            .announced
            .entry(digest)
            .or_insert_with(|| Announced { size, hash_by_piece: BTreeMap::new() });
        for (index, piece) in pieces.iter().enumerate() {
            announced.hash_by_piece.insert(piece, hashes.get(index).copied());
        }
    }

    /// The gathered message; `None` if there is nothing to say.
    pub(super) fn take(&mut self) -> Option<wire::FromPeer> {
        let mut message = std::mem::take(&mut self.message);
        for (digest, announced) in std::mem::take(&mut self.announced) {
            message.announces.extend(announced.messages(digest));
        }
        (message != wire::FromPeer::default()).then_some(message)
    }
}

impl Announced {
    /// Pieces with hashes and pieces without make two messages.
    fn messages(self, digest: Digest) -> impl Iterator<Item = wire::Announce> {
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
        let groups = [(told, hashes), (bare, Vec::new())];
        groups.into_iter().filter(|(pieces, _)| !pieces.is_empty()).map(move |(pieces, hashes)| {
            wire::Announce {
                digest: digest.into(),
                size: self.size,
                runs: runs_of(&pieces),
                hashes: join_hashes(&hashes),
            }
        })
    }
}

fn told_hashes(digest: Digest, size: u64, store: &Store) -> Option<wire::Hashes> {
    let held = store.hashes(digest)?;
    let mut pieces = PieceSet::new(Layout::of(size)?.piece_count());
    for (piece, _) in &held {
        pieces.insert(*piece);
    }
    let hashes = join_hashes(held.iter().map(|(_, hash)| hash));
    Some(wire::Hashes { digest: digest.into(), runs: runs_of(&pieces), hashes, size })
}

fn reason(error: FetchError) -> wire::failure::Reason {
    match error {
        FetchError::Stalled => wire::failure::Reason::TimedOut,
        FetchError::Unreachable => wire::failure::Reason::Unreachable,
        FetchError::NotHeld => wire::failure::Reason::NotHeld,
        FetchError::Busy => wire::failure::Reason::Busy,
        FetchError::Corrupt => wire::failure::Reason::Corrupt,
    }
}

/// A peer that the scheduler names.
pub(super) struct Named {
    pub(super) id: PeerId,
    pub(super) address: SocketAddr,
    pub(super) seed: bool,
}

/// The peers that a scheduler's message introduces, and what it says. Parts that make no
/// sense are left out: the scheduler is of another version, and the rest still counts.
pub(super) fn heard(message: wire::ToPeer) -> (Vec<Named>, Vec<Input>) {
    let named = message.peers.iter().filter_map(|peer| {
        Some(Named { id: peer.peer.parse().ok()?, address: peer.address.parse().ok()?, seed: peer.seed })
    });
    let named = named.collect();
    let mut inputs = Vec::new();
    inputs.extend(message.cancels.iter().filter_map(|cancel| {
        Some(Input::Cancelled { digest: Digest::try_from(&cancel.digest).ok()?, piece: cancel.piece })
    }));
    inputs.extend(message.source_orders.iter().filter_map(read_ordered));
    inputs.extend(message.source_via.iter().filter_map(|via| {
        Some(Input::SeedNamed { digest: Digest::try_from(&via.digest).ok()?, seed: via.seed.parse().ok()? })
    }));
    for assignment in &message.assignments {
        inputs.extend(assigned(assignment).unwrap_or_default());
    }
    inputs.extend(message.tasks_failed.into_iter().filter_map(task_failed));
    for digest in message.hashes_wanted {
        inputs.extend(Digest::try_from(&digest).ok().map(|digest| Input::HashesWanted { digest }));
    }
    (named, inputs)
}

fn read_ordered(order: &wire::SourceOrder) -> Option<Input> {
    let digest = Digest::try_from(&order.digest).ok()?;
    let layout = Layout::of(order.size)?;
    let pieces = pieces_from(layout.piece_count(), &order.runs)?;
    Some(Input::ReadOrdered { digest, layout, pieces })
}

fn assigned(assignment: &wire::Assignment) -> Option<Vec<Input>> {
    let digest = Digest::try_from(&assignment.digest).ok()?;
    let parent: PeerId = assignment.parent.parse().ok()?;
    let hashes = split_hashes(&assignment.hashes)?;
    let pieces = assignment.first..=u32::MAX;
    let input = |(piece, hash)| Input::Assigned { digest, piece, parent: parent.clone(), hash };
    Some(pieces.zip(hashes).map(input).collect())
}

fn task_failed(failed: wire::TaskFailed) -> Option<Input> {
    let digest = Digest::try_from(&failed.digest).ok()?;
    let failure = Failure {
        status: u16::try_from(failed.status).ok()?,
        code: failed.code,
        message: failed.message,
        poisoned: failed.poisoned,
    };
    Some(Input::TaskFailed { digest, failure })
}
