//! A seed's reads from the registry: only what was ordered, as far as it was ordered, and only
//! while the scheduler can renew the order.

use flotilla_proto::{Digest, Failure, Layout, PieceHash, PieceSet};

use crate::download::Blob;
use crate::failure::other_size;
use crate::{Output, Report, Swarm};

impl Swarm {
    pub(crate) fn read_ordered(&mut self, digest: Digest, layout: Layout, pieces: &PieceSet) {
        if pieces.len() != layout.piece_count() {
            return;
        }
        if !self.makes_way(digest, layout) {
            let known = self.blobs[&digest].layout.size();
            return self.tell(Report::SourceFailed { digest, failure: other_size(digest, known) });
        }
        let now = self.now();
        let blob = self.blobs.entry(digest).or_insert_with(|| Blob::new(layout, now));
        let mut fresh = PieceSet::new(pieces.len());
        let mut held = Vec::new();
        for piece in pieces.iter() {
            // What only peers vouch for is read: the scheduler may doubt it, and have this seed decide.
            let is_heard = blob.hearsay.contains(piece);
            if blob.held.contains(piece) && !is_heard {
                held.push(piece);
            } else if blob.reading.insert(piece) {
                fresh.insert(piece);
            }
        }
        self.announce(digest, &held, Vec::new());
        if !fresh.is_empty() {
            self.outputs.push_back(Output::ReadSource { digest, layout, pieces: fresh });
        } else if self.blobs[&digest].held.is_full() {
            // It may be in doubt, and this seed is to decide.
            self.hash(digest);
        }
    }

    pub(crate) fn source_paced(&mut self, digest: Digest, until: u32) {
        if self.blobs.get(&digest).is_some_and(|blob| !blob.reading.is_empty()) {
            self.outputs.push_back(Output::PaceSource { digest, until });
        }
    }

    pub(crate) fn source_read(&mut self, digest: Digest, piece: u32, hash: PieceHash) {
        let Some(blob) = self.blobs.get_mut(&digest) else { return };
        blob.reading.remove(piece);
        self.hold(digest, piece, false, vec![hash]);
    }

    pub(crate) fn source_ended(&mut self, digest: Digest, result: Result<bool, Failure>) {
        let Some(blob) = self.blobs.get_mut(&digest) else { return };
        match result {
            Ok(true) if blob.held.is_full() => self.verified(digest),
            Ok(_) if blob.held.is_full() => self.hash(digest),
            Ok(_) => {}
            Err(failure) => {
                // Other reads of the blob may still run. They stop: the scheduler orders all that is missing again.
                blob.reading = PieceSet::new(blob.layout.piece_count());
                self.outputs.push_back(Output::StopSource { digest });
                let is_void = failure.voids_pieces();
                self.tell(Report::SourceFailed { digest, failure: failure.clone() });
                if is_void {
                    self.give_up(digest, failure);
                } else {
                    // What is read no more may be had of others.
                    self.feed(digest);
                    self.forget_if_idle(digest);
                }
            }
        }
    }

    pub(crate) fn stop_reading(&mut self, digest: Digest) {
        let Some(blob) = self.blobs.get_mut(&digest) else { return };
        if blob.reading.is_empty() {
            return;
        }
        blob.reading = PieceSet::new(blob.layout.piece_count());
        self.outputs.push_back(Output::StopSource { digest });
        self.forget_if_idle(digest);
    }

    pub(crate) fn end_reads(&mut self) {
        let digests: Vec<Digest> = self.blobs.keys().copied().collect();
        for digest in digests {
            self.stop_reading(digest);
            self.feed(digest);
        }
    }
}
