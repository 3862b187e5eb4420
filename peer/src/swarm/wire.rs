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
            let hash = announced.hash_by_piece.entry(piece).or_default();
            // Only the seed that read a piece says its hash, and only once.
            *hash = hashes.get(index).copied().or(*hash);
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

#[cfg(test)]
mod tests {
    use flotilla_proto::wire::scheduler::Run;

    use super::*;
    use crate::store::StoreConfig;

    /// Four pieces.
    const SIZE: u64 = 4 * 128 * 1024;

    /// The batch that these reports make.
    fn told(reports: impl IntoIterator<Item = Report>) -> Option<wire::FromPeer> {
        let dir = tempfile::tempdir().unwrap();
        let mut metrics = prometheus_client::registry::Registry::default();
        let (store, _evicted) = Store::open(dir.path(), &StoreConfig::default(), &mut metrics).unwrap();
        let mut outbox = Outbox::default();
        for report in reports {
            outbox.add(report, &store);
        }
        let message = outbox.take();
        assert_eq!(outbox.take(), None, "what is taken is gone");
        message
    }

    fn digest() -> Digest {
        Digest::of(b"blob")
    }

    fn hash(piece: u32) -> PieceHash {
        PieceHash::of(&piece.to_be_bytes())
    }

    fn announce(pieces: &[u32], hashes: &[PieceHash]) -> Report {
        let mut set = PieceSet::new(4);
        for piece in pieces {
            set.insert(*piece);
        }
        Report::Announce { digest: digest(), size: SIZE, pieces: set, hashes: hashes.to_vec() }
    }

    #[test]
    fn nothing_to_say_is_no_message() {
        assert_eq!(told([]), None);
    }

    #[test]
    fn pieces_announced_one_by_one_go_out_as_runs() {
        let message = told([announce(&[0], &[hash(0)]), announce(&[2], &[]), announce(&[1], &[hash(1)])]);
        let [hashed, bare] = &message.unwrap().announces[..] else { panic!("with hashes, and without") };
        assert_eq!(hashed.runs, [Run { first: 0, count: 2 }]);
        assert_eq!(hashed.hashes, join_hashes(&[hash(0), hash(1)]));
        assert_eq!((&bare.runs[..], bare.hashes.len()), (&[Run { first: 2, count: 1 }][..], 0));
    }

    #[test]
    fn a_hash_once_said_is_not_taken_back_by_a_bare_announcement() {
        let message = told([announce(&[3], &[hash(3)]), announce(&[2, 3], &[])]).unwrap();
        let hashed = message.announces.iter().find(|announce| !announce.hashes.is_empty()).unwrap();
        assert_eq!(
            (&hashed.runs[..], &hashed.hashes),
            (&[Run { first: 3, count: 1 }][..], &join_hashes(&[hash(3)]))
        );
    }

    #[test]
    fn a_withdrawal_strikes_what_was_announced_before_it_and_nothing_after() {
        let withdraw = || Report::Withdraw { digest: digest() };
        let message = told([announce(&[0, 1], &[]), withdraw()]).unwrap();
        assert_eq!((message.announces.len(), message.withdrawals.len()), (0, 1));
        let message = told([announce(&[0], &[]), withdraw(), announce(&[1], &[])]).unwrap();
        assert_eq!(message.announces[0].runs, [Run { first: 1, count: 1 }]);
    }

    #[test]
    fn a_want_strikes_an_unwant_before_it_and_no_other() {
        let (want, unwant) =
            (|| Report::Want { digest: digest(), size: SIZE }, || Report::Unwant { digest: digest() });
        let other = Report::Unwant { digest: Digest::of(b"other") };
        let message = told([unwant(), other, want()]).unwrap();
        assert_eq!(message.unwants, [bytes::Bytes::from(Digest::of(b"other"))]);
        let message = told([want(), unwant()]).unwrap();
        assert_eq!((message.wants.len(), message.unwants.len()), (1, 1));
    }

    #[test]
    fn what_a_scheduler_says_that_makes_no_sense_is_left_out_and_the_rest_counts() {
        let good: bytes::Bytes = digest().into();
        let short = good.slice(1..);
        let cancel = |digest: &bytes::Bytes| wire::Cancel { digest: digest.clone(), piece: 1 };
        let assignment = |first, hashes: bytes::Bytes| {
            let (digest, parent) = (good.clone(), "node-1".to_owned());
            wire::Assignment { digest, parent, first, hashes }
        };
        let named = |peer: &str, address: &str| {
            let (peer, address) = (peer.to_owned(), address.to_owned());
            wire::PeerAddress { peer, address, seed: false }
        };
        let hashes = join_hashes(&[hash(0), hash(1)]);
        let (peers, inputs) = heard(wire::ToPeer {
            peers: vec![
                named("No Name", "10.0.0.1:1"),
                named("node-1", "nowhere"),
                named("node-2", "10.0.0.1:1"),
            ],
            cancels: vec![cancel(&short), cancel(&good)],
            assignments: vec![assignment(0, hashes.slice(1..)), assignment(u32::MAX, hashes)],
            ..Default::default()
        });
        assert_eq!(peers.iter().map(|peer| peer.id.as_str()).collect::<Vec<_>>(), ["node-2"]);
        // Of two pieces that begin at the last index, one is.
        let [Input::Cancelled { piece: 1, .. }, Input::Assigned { piece: u32::MAX, .. }] = inputs[..] else {
            panic!("{inputs:?}");
        };
    }
}
