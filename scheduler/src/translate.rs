//! From the wire's words to the planner's, and back.
//!
//! Everything a peer says is checked here, once: a batch that does not make sense ends
//! its stream with a reason, and changes nothing.

use bytes::Bytes;
use flotilla_proto::wire::scheduler as wire;
use flotilla_proto::wire::{pieces_from, runs_of, split_hashes, variant_from};
use flotilla_proto::{Digest, Layout, PeerId, Variant};
use flotilla_scheduler_core::{FailureReason, Input, PeerKey};

/// Who is attached under which name, as far as translating needs it.
pub(crate) trait Names {
    /// The key of an attached peer.
    fn key(&self, id: &PeerId) -> Option<PeerKey>;
}

/// The inputs that a peer's batch amounts to, in the order in which they hold: what it has
/// comes before what it wants, and before why it can read no more. But that the bytes were
/// wrong comes first: whoever says so withdraws them in the same breath, and is heard only while
/// it is known to hold or read them. What was purged comes before what is held.
pub(crate) fn inputs(
    peer: PeerKey,
    batch: wire::FromPeer,
    names: &impl Names,
) -> Result<Vec<Input>, Malformed> {
    let mut inputs = Vec::new();
    // A seed that read wrong bytes withdraws them too: why it does comes first.
    let (void, failed_reads): (Vec<_>, Vec<_>) =
        batch.source_failed.into_iter().partition(|failed| failed.failure().voids_pieces());
    for failed in void {
        inputs.push(source_failed(peer, &failed)?);
    }
    for found in &batch.wrong_bytes {
        inputs.push(Input::WrongBytes { peer, variant: parse_variant(found)? });
    }
    for purged in &batch.tombstones {
        inputs.push(Input::Entombed { peer, variant: parse_variant(purged)? });
    }
    for digest in &batch.withdrawals {
        inputs.push(Input::Withdrawn { peer, digest: parse_digest(digest)? });
    }
    for announce in batch.announces {
        inputs.push(announced(peer, &announce)?);
    }
    for told in batch.hashes {
        inputs.push(hashes_told(peer, &told)?);
    }
    for reading in &batch.reading {
        inputs.push(source_reading(peer, reading)?);
    }
    for digest in &batch.unwants {
        inputs.push(Input::Unwanted { peer, digest: parse_digest(digest)? });
    }
    for want in batch.wants {
        inputs.push(wanted(peer, &want)?);
    }
    for failure in batch.failures {
        inputs.extend(failed(peer, &failure, names)?);
    }
    for reader in batch.readers {
        inputs.push(Input::ReaderMoved { peer, digest: parse_digest(&reader.digest)?, piece: reader.piece });
    }
    for failed in failed_reads {
        inputs.push(source_failed(peer, &failed)?);
    }
    if batch.inventory_told {
        inputs.push(Input::InventoryTold { peer });
    }
    Ok(inputs)
}

fn source_reading(seed: PeerKey, reading: &wire::SourceOrder) -> Result<Input, Malformed> {
    let digest = parse_digest(&reading.digest)?;
    let layout = Layout::of(reading.size).ok_or(Malformed::Size(reading.size))?;
    let pieces = pieces_from(layout.piece_count(), &reading.runs).ok_or(Malformed::Runs)?;
    Ok(Input::SourceReading { seed, digest, size: reading.size, pieces })
}

fn wanted(peer: PeerKey, want: &wire::Want) -> Result<Input, Malformed> {
    let wire::Want { digest, size, reader, runs } = want;
    let digest = parse_digest(digest)?;
    let part = if runs.is_empty() {
        None
    } else {
        let layout = Layout::of(*size).ok_or(Malformed::Size(*size))?;
        Some(pieces_from(layout.piece_count(), runs).ok_or(Malformed::Runs)?)
    };
    Ok(Input::Wanted { peer, digest, size: *size, part, reader: *reader })
}

fn announced(peer: PeerKey, announce: &wire::Announce) -> Result<Input, Malformed> {
    let digest = parse_digest(&announce.digest)?;
    let layout = Layout::of(announce.size).ok_or(Malformed::Size(announce.size))?;
    let pieces = pieces_from(layout.piece_count(), &announce.runs).ok_or(Malformed::Runs)?;
    let hashes = split_hashes(&announce.hashes).ok_or(Malformed::Hashes)?;
    if !hashes.is_empty() && hashes.len() != pieces.count() as usize {
        return Err(Malformed::Hashes);
    }
    Ok(Input::Announced { peer, digest, size: announce.size, pieces, hashes })
}

fn hashes_told(peer: PeerKey, told: &wire::Hashes) -> Result<Input, Malformed> {
    let digest = parse_digest(&told.digest)?;
    let layout = Layout::of(told.size).ok_or(Malformed::Size(told.size))?;
    let pieces = pieces_from(layout.piece_count(), &told.runs).ok_or(Malformed::Runs)?;
    let hashes = split_hashes(&told.hashes).ok_or(Malformed::Hashes)?;
    if hashes.len() != pieces.count() as usize {
        return Err(Malformed::Hashes);
    }
    Ok(Input::HashesTold { peer, digest, pieces, hashes })
}

/// `None` if the parent is gone: late news.
fn failed(child: PeerKey, failure: &wire::Failure, names: &impl Names) -> Result<Option<Input>, Malformed> {
    use wire::failure::Reason;
    let digest = parse_digest(&failure.digest)?;
    let parent: PeerId = failure.parent.parse().map_err(|_| Malformed::Peer)?;
    let reason = match failure.reason() {
        Reason::Unknown | Reason::TimedOut => FailureReason::TimedOut,
        Reason::Unreachable => FailureReason::Unreachable,
        Reason::NotHeld => FailureReason::NotHeld,
        Reason::Busy => FailureReason::Busy,
        Reason::Corrupt => FailureReason::Corrupt,
    };
    let piece = failure.piece;
    Ok(names.key(&parent).map(|parent| Input::Failed { child, parent, digest, piece, reason }))
}

fn source_failed(seed: PeerKey, failed: &wire::SourceFailed) -> Result<Input, Malformed> {
    let digest = parse_digest(&failed.digest)?;
    Ok(Input::SourceFailed { seed, digest, failure: failed.failure() })
}

/// An order to read, as a seed is told.
pub(crate) fn source_order(
    digest: Digest,
    size: u64,
    pieces: &flotilla_proto::PieceSet,
) -> wire::SourceOrder {
    wire::SourceOrder { digest: digest.into(), size, runs: runs_of(pieces) }
}

/// Takes out of a batch what was to be told of a blob that has failed since: a peer hears of failures first. A read goes
/// on that a failure does not make void.
pub(crate) fn strike(batch: &mut wire::ToPeer, digest: Digest, voids_pieces: bool) {
    let digest = Bytes::from(digest);
    batch.assignments.retain(|told| told.digest != digest);
    batch.source_via.retain(|told| told.digest != digest);
    if voids_pieces {
        batch.source_orders.retain(|told| told.digest != digest);
        batch.source_paces.retain(|told| told.digest != digest);
    }
    batch.relays.retain(|told| told.digest != digest);
    batch.cancels.retain(|told| told.digest != digest);
    batch.partners.retain(|told| told.digest != digest);
    batch.picking.retain(|told| told.digest != digest);
}

fn parse_variant(variant: &wire::Variant) -> Result<Variant, Malformed> {
    variant_from(variant).ok_or(Malformed::Variant)
}

fn parse_digest(bytes: &Bytes) -> Result<Digest, Malformed> {
    Digest::try_from(bytes).map_err(|_| Malformed::Digest)
}

/// Why a peer's batch makes no sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("a digest has 32 bytes")]
    Digest,
    #[error("a variant has a digest and a root of 32 bytes each")]
    Variant,
    #[error("a blob of {0} bytes is larger than any may be")]
    Size(u64),
    #[error("a run of pieces leaves its blob")]
    Runs,
    #[error("there is one hash of 32 bytes to each piece")]
    Hashes,
    #[error("a peer's name is a DNS label")]
    Peer,
}

#[cfg(test)]
mod tests {
    use flotilla_proto::Root;

    use super::*;

    struct Nobody;

    impl Names for Nobody {
        fn key(&self, _id: &PeerId) -> Option<PeerKey> {
            None
        }
    }

    fn announce(runs: Vec<wire::Run>, hashes: &'static [u8]) -> wire::FromPeer {
        let announce = wire::Announce {
            digest: Digest::of(b"x").into(),
            size: 1 << 20,
            runs,
            hashes: Bytes::from_static(hashes),
        };
        wire::FromPeer { announces: vec![announce], ..Default::default() }
    }

    #[test]
    fn a_failure_strikes_what_was_to_be_told_of_its_blob_and_of_no_other() {
        let [failed, other] = [b"x", b"y"].map(|blob| Digest::of(blob));
        let order = |digest| source_order(digest, 1, &flotilla_proto::PieceSet::full(1));
        let cancel = |digest: Digest| wire::Cancel { digest: digest.into(), piece: 0 };
        let mut batch = wire::ToPeer {
            source_orders: vec![order(failed), order(other)],
            cancels: vec![cancel(failed), cancel(other)],
            ..Default::default()
        };
        strike(&mut batch, failed, false);
        assert_eq!((batch.source_orders.len(), &batch.cancels), (2, &vec![cancel(other)]), "a read goes on");
        strike(&mut batch, failed, true);
        assert_eq!(batch.source_orders, [order(other)]);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let refused = |batch| inputs(PeerKey(1), batch, &Nobody).unwrap_err();
        let run = |first, count| vec![wire::Run { first, count }];
        assert_eq!(refused(announce(run(7, 2), &[])), Malformed::Runs);
        assert_eq!(refused(announce(run(0, 1), &[0; 31])), Malformed::Hashes);
        assert_eq!(refused(announce(run(0, 1), &[0; 64])), Malformed::Hashes);
        let digest = Bytes::from_static(&[0; 31]);
        assert_eq!(
            refused(wire::FromPeer { unwants: vec![digest.clone()], ..Default::default() }),
            Malformed::Digest
        );
        let variant = wire::Variant { digest: Digest::of(b"x").into(), root: digest };
        assert_eq!(
            refused(wire::FromPeer { wrong_bytes: vec![variant], ..Default::default() }),
            Malformed::Variant
        );
    }

    #[test]
    fn wrong_bytes_are_heard_of_before_they_are_withdrawn_and_other_failures_last() {
        let failed =
            |poisoned| wire::SourceFailed { digest: Digest::of(b"x").into(), poisoned, ..Default::default() };
        let mut batch = announce(vec![wire::Run { first: 0, count: 8 }], &[]);
        batch.withdrawals.push(Digest::of(b"x").into());
        batch.source_failed = vec![failed(false), failed(true)];
        let variant = Variant { digest: Digest::of(b"x"), root: Root::from_bytes([7; 32]) };
        batch.wrong_bytes = vec![variant.into()];
        batch.tombstones = vec![variant.into()];
        let inputs = inputs(PeerKey(1), batch, &Nobody).unwrap();
        let [Input::SourceFailed { failure: first, .. }, .., Input::SourceFailed { failure: last, .. }] =
            &inputs[..]
        else {
            panic!("{inputs:?}");
        };
        assert!(first.is_poisoned() && !last.is_poisoned());
        assert_eq!(
            inputs[1..3],
            [Input::WrongBytes { peer: PeerKey(1), variant }, Input::Entombed { peer: PeerKey(1), variant }]
        );
        assert!(matches!(inputs[3..5], [Input::Withdrawn { .. }, Input::Announced { .. }]));
    }

    #[test]
    fn what_a_peer_holds_comes_before_what_it_wants() {
        let mut batch = announce(vec![wire::Run { first: 0, count: 8 }], &[]);
        batch.wants.push(want(1, vec![]));
        let inputs = inputs(PeerKey(1), batch, &Nobody).unwrap();
        assert!(matches!(inputs[..], [Input::Announced { .. }, Input::Wanted { part: None, .. }]));
    }

    #[test]
    fn who_wants_some_pieces_names_pieces_that_the_blob_has() {
        let wants = |runs| wire::FromPeer { wants: vec![want(8 << 17, runs)], ..Default::default() };
        let some = inputs(PeerKey(1), wants(vec![wire::Run { first: 6, count: 2 }]), &Nobody).unwrap();
        let [Input::Wanted { part: Some(part), .. }] = &some[..] else { panic!("{some:?}") };
        assert_eq!((part.len(), part.iter().collect::<Vec<_>>()), (8, vec![6, 7]));
        let none = inputs(PeerKey(1), wants(vec![wire::Run { first: 6, count: 3 }]), &Nobody);
        assert_eq!(none.unwrap_err(), Malformed::Runs);
    }

    fn want(size: u64, runs: Vec<wire::Run>) -> wire::Want {
        wire::Want { digest: Digest::of(b"y").into(), size, reader: true, runs }
    }
}
