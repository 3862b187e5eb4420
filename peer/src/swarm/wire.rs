//! Between the core's words and the scheduler's.

use std::net::SocketAddr;
use std::time::Duration;

use flotilla_peer_core::{Batch, FetchError, Input, Report};
use flotilla_proto::wire::scheduler as wire;
use flotilla_proto::wire::{join_hashes, pieces_from, root_from, runs_of, split_hashes, variant_from};
use flotilla_proto::{Digest, Layout, PeerId, PieceSet};

use crate::store::Store;

/// A batch as the scheduler reads it.
pub(super) fn message(batch: Batch, store: &Store) -> wire::FromPeer {
    let mut message = wire::FromPeer::default();
    for report in batch {
        add(&mut message, report, store);
    }
    message
}

fn add(message: &mut wire::FromPeer, report: Report, store: &Store) {
    match report {
        Report::Want { digest, size, pieces } => {
            let runs = if pieces.is_full() { Vec::new() } else { runs_of(&pieces) };
            message.wants.push(wire::Want { digest: digest.into(), size, reader: true, runs });
        }
        Report::Unwant { digest } => message.unwants.push(digest.into()),
        Report::Announce { digest, size, pieces, hashes } => message.announces.push(wire::Announce {
            digest: digest.into(),
            size,
            runs: runs_of(&pieces),
            hashes: join_hashes(&hashes),
        }),
        Report::Withdraw { digest } => message.withdrawals.push(digest.into()),
        Report::Hashes { digest, size } => message.hashes.extend(told_hashes(digest, size, store)),
        Report::FetchFailed { digest, piece, parent, error } => message.failures.push(wire::Failure {
            digest: digest.into(),
            piece,
            parent: parent.to_string(),
            reason: reason(error).into(),
        }),
        Report::Reader { digest, piece } => {
            message.readers.push(wire::Reader { digest: digest.into(), piece });
        }
        Report::Reading { digest, size, pieces } => {
            let runs = runs_of(&pieces);
            message.reading.push(wire::SourceOrder { digest: digest.into(), size, runs });
        }
        Report::WrongBytes { variant } => message.wrong_bytes.push(variant.into()),
        Report::Entombed { variant } => message.tombstones.push(variant.into()),
        Report::InventoryTold => message.inventory_told = true,
        Report::SourceFailed { digest, failure } => {
            message.source_failed.push(wire::SourceFailed::new(digest, failure));
        }
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
/// `is_known_seed` says so of peers that were introduced before.
pub(super) fn heard(
    message: wire::ToPeer,
    is_known_seed: impl Fn(&PeerId) -> bool,
) -> (Vec<Named>, Vec<Input>) {
    let named = message.peers.iter().filter_map(|peer| {
        Some(Named { id: peer.peer.parse().ok()?, address: peer.address.parse().ok()?, seed: peer.seed })
    });
    let named: Vec<Named> = named.collect();
    let is_seed = |id: &PeerId| match named.iter().find(|named| named.id == *id) {
        Some(named) => named.seed,
        None => is_known_seed(id),
    };
    let mut inputs = Vec::new();
    inputs.extend(message.report_pace.map(|pace| {
        let interval = Duration::from_micros(pace.interval_us.into());
        Input::ReportsPaced { interval }
    }));
    // What a batch says besides of such a blob was said after it failed.
    inputs.extend(message.tasks_failed.iter().filter_map(task_failed));
    inputs.extend(
        message
            .tombstones
            .iter()
            .filter_map(|purged| Some(Input::Entombed { variant: variant_from(purged)? })),
    );
    inputs.extend(message.cancels.iter().filter_map(|cancel| {
        Some(Input::Cancelled { digest: Digest::try_from(&cancel.digest).ok()?, piece: cancel.piece })
    }));
    inputs.extend(message.source_orders.iter().filter_map(read_ordered));
    inputs.extend(message.source_paces.iter().filter_map(|pace| {
        Some(Input::SourcePaced { digest: Digest::try_from(&pace.digest).ok()?, until: pace.until })
    }));
    inputs.extend(message.source_via.iter().filter_map(|via| {
        Some(Input::SeedNamed { digest: Digest::try_from(&via.digest).ok()?, seed: via.seed.parse().ok()? })
    }));
    inputs.extend(message.unpartners.iter().filter_map(|lost| {
        let digest = Digest::try_from(&lost.digest).ok()?;
        Some(Input::PartnerLost { digest, partner: lost.peer.parse().ok()? })
    }));
    inputs.extend(message.partners.iter().filter_map(|partner| partner_named(partner, is_seed)));
    inputs.extend(message.picking.iter().filter_map(|picking| {
        let digest = Digest::try_from(&picking.digest).ok()?;
        Some(Input::PickingOrdered { digest, picks: picking.picks })
    }));
    for assignment in &message.assignments {
        inputs.extend(assigned(assignment).unwrap_or_default());
    }
    for digest in message.hashes_wanted {
        inputs.extend(Digest::try_from(&digest).ok().map(|digest| Input::HashesWanted { digest }));
    }
    (named, inputs)
}

fn partner_named(partner: &wire::Partner, is_seed: impl Fn(&PeerId) -> bool) -> Option<Input> {
    let digest = Digest::try_from(&partner.digest).ok()?;
    let id: PeerId = partner.peer.parse().ok()?;
    let seed = is_seed(&id);
    Some(Input::PartnerNamed { digest, partner: id, seed, same_zone: partner.same_zone })
}

/// What a seed is to have of other peers, for those that wait for it.
pub(super) fn relays(message: &wire::ToPeer) -> Vec<(Digest, Layout, PieceSet)> {
    message.relays.iter().filter_map(ordered).collect()
}

fn read_ordered(order: &wire::SourceOrder) -> Option<Input> {
    let (digest, layout, pieces) = ordered(order)?;
    Some(Input::ReadOrdered { digest, layout, pieces })
}

fn ordered(order: &wire::SourceOrder) -> Option<(Digest, Layout, PieceSet)> {
    let digest = Digest::try_from(&order.digest).ok()?;
    let layout = Layout::of(order.size)?;
    let pieces = pieces_from(layout.piece_count(), &order.runs)?;
    Some((digest, layout, pieces))
}

fn assigned(assignment: &wire::Assignment) -> Option<Vec<Input>> {
    let digest = Digest::try_from(&assignment.digest).ok()?;
    let parent: PeerId = assignment.parent.parse().ok()?;
    let hashes = split_hashes(&assignment.hashes)?;
    let pieces = assignment.first..=u32::MAX;
    let hearsay = assignment.hearsay;
    let input = |(piece, hash)| Input::Assigned { digest, piece, parent: parent.clone(), hash, hearsay };
    Some(pieces.zip(hashes).map(input).collect())
}

fn task_failed(failed: &wire::TaskFailed) -> Option<Input> {
    let digest = Digest::try_from(&failed.digest).ok()?;
    let root = root_from(&failed.root);
    Some(Input::TaskFailed { digest, failure: failed.failure(), root })
}

#[cfg(test)]
mod tests {
    use flotilla_proto::PieceHash;

    use super::*;

    fn digest() -> Digest {
        Digest::of(b"blob")
    }

    fn hash(piece: u32) -> PieceHash {
        PieceHash::of(&piece.to_be_bytes())
    }

    #[test]
    fn what_a_scheduler_says_that_makes_no_sense_is_left_out_and_the_rest_counts() {
        let good: bytes::Bytes = digest().into();
        let short = good.slice(1..);
        let cancel = |digest: &bytes::Bytes| wire::Cancel { digest: digest.clone(), piece: 1 };
        let assignment = |first, hashes: bytes::Bytes| {
            let (digest, parent) = (good.clone(), "node-1".to_owned());
            wire::Assignment { digest, parent, first, hashes, hearsay: false }
        };
        let named = |peer: &str, address: &str| {
            let (peer, address) = (peer.to_owned(), address.to_owned());
            wire::PeerAddress { peer, address, seed: false }
        };
        let hashes = join_hashes(&[hash(0), hash(1)]);
        let message = wire::ToPeer {
            peers: vec![
                named("No Name", "10.0.0.1:1"),
                named("node-1", "nowhere"),
                named("node-2", "10.0.0.1:1"),
            ],
            cancels: vec![cancel(&short), cancel(&good)],
            assignments: vec![assignment(0, hashes.slice(1..)), assignment(u32::MAX, hashes)],
            ..Default::default()
        };
        let (peers, inputs) = heard(message, |_| false);
        assert_eq!(peers.iter().map(|peer| peer.id.as_str()).collect::<Vec<_>>(), ["node-2"]);
        // Of two pieces that begin at the last index, one is.
        let [Input::Cancelled { piece: 1, .. }, Input::Assigned { piece: u32::MAX, .. }] = inputs[..] else {
            panic!("{inputs:?}");
        };
    }

    #[test]
    fn a_blob_s_failure_is_heard_before_what_is_ordered_anew() {
        let failure = flotilla_proto::Failure::wrong_bytes(String::new());
        let order = wire::SourceOrder { digest: digest().into(), size: 1, runs: vec![] };
        let message = wire::ToPeer {
            source_orders: vec![order],
            tasks_failed: vec![wire::TaskFailed::new(digest(), failure, None)],
            ..Default::default()
        };
        let (_, inputs) = heard(message, |_| false);
        let [Input::TaskFailed { .. }, Input::ReadOrdered { .. }] = inputs[..] else { panic!("{inputs:?}") };
    }

    #[test]
    fn a_partner_is_a_seed_as_it_was_introduced_in_this_batch_or_before() {
        let partner =
            |peer: &str| wire::Partner { digest: digest().into(), peer: peer.into(), same_zone: true };
        let introduced =
            wire::PeerAddress { peer: "seed-1".into(), address: "10.0.0.1:1".into(), seed: true };
        let message = wire::ToPeer {
            peers: vec![introduced],
            partners: vec![partner("seed-0"), partner("seed-1"), partner("node-1"), partner("No Name")],
            ..Default::default()
        };
        let (_, inputs) = heard(message, |id| id.as_str() == "seed-0");
        let seeds: Vec<bool> = inputs
            .iter()
            .map(|input| matches!(input, Input::PartnerNamed { seed: true, same_zone: true, .. }))
            .collect();
        assert_eq!(seeds, [true, true, false]);
    }
}
