//! Which endpoint gave which part of a blob: who is to blame for wrong bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use flotilla_proto::{Digest, Layout, PieceSet};

use super::endpoint::EndpointClient;

/// The parts in the order they came.
#[derive(Default)]
pub(super) struct Provenance(Vec<(Range<u64>, Arc<EndpointClient>)>);

impl Provenance {
    /// These bytes came from there.
    pub(super) fn note(&mut self, bytes: Range<u64>, endpoint: &Arc<EndpointClient>) {
        match self.0.last_mut() {
            Some((last, by)) if last.end == bytes.start && Arc::ptr_eq(by, endpoint) => last.end = bytes.end,
            _ => self.0.push((bytes, Arc::clone(endpoint))),
        }
    }

    /// Whether nothing came yet.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The endpoint that gave everything, if one did.
    pub(super) fn only(&self) -> Option<&EndpointClient> {
        let (_, first) = self.0.first()?;
        self.0.iter().all(|(_, by)| Arc::ptr_eq(by, first)).then_some(first)
    }

    /// The URLs of all that gave something, each once.
    pub(super) fn names(&self) -> Vec<String> {
        let names: BTreeSet<&str> = self.0.iter().map(|(_, by)| by.name()).collect();
        names.into_iter().map(str::to_owned).collect()
    }

    /// Some of it is wrong: all that gave a part are under suspicion, and tried last for a while.
    pub(super) fn blame(&self, blob: Digest, layout: &Layout) {
        for (_, endpoint) in &self.0 {
            endpoint.sent_wrong_bytes(blob);
        }
        for (endpoint, pieces) in self.pieces_by_endpoint(layout) {
            let pieces: Vec<String> = pieces.runs().iter().map(|run| format!("{:?}", run.pieces())).collect();
            tracing::warn!(%blob, endpoint, pieces = pieces.join(" "), "wrong bytes from the registry");
        }
    }

    fn pieces_by_endpoint(&self, layout: &Layout) -> BTreeMap<&str, PieceSet> {
        let mut pieces = BTreeMap::new();
        for (bytes, endpoint) in self.0.iter().filter(|(bytes, _)| !bytes.is_empty()) {
            let set = pieces.entry(endpoint.name()).or_insert_with(|| PieceSet::new(layout.piece_count()));
            for piece in layout.piece_at(bytes.start)..=layout.piece_at(bytes.end - 1) {
                set.insert(piece);
            }
        }
        pieces
    }
}
