//! Cuts a stream of bytes into the wanted pieces and hashes them.
//!
//! The cutter knows how far it is, so that any number of bodies, from any endpoint and any
//! offset, can be fed one after another: what it has or does not want it skips.

use std::collections::VecDeque;
use std::ops::Range;

use bytes::{Buf as _, Bytes, BytesMut};
use flotilla_proto::{Digest, Layout, Origins, PieceHash, PieceSet};
use sha2::{Digest as _, Sha256};
use tokio::task::JoinHandle;

use super::SourcePiece;

/// Gathers each wanted piece into one buffer, in index order.
pub(super) struct Cutter {
    layout: Layout,
    runs: VecDeque<Range<u32>>,
    gathered: BytesMut,
}

impl Cutter {
    pub(super) fn new(layout: Layout, wanted: &PieceSet) -> Self {
        let runs = wanted.runs().iter().map(flotilla_proto::Run::pieces).collect();
        Self { layout, runs, gathered: BytesMut::new() }
    }

    /// The bytes still to be read of the run at hand; `None` when every wanted piece was cut.
    pub(super) fn needed(&self) -> Option<Range<u64>> {
        let run = self.runs.front()?;
        let start = self.layout.piece_range(run.start).start + self.gathered.len() as u64;
        Some(start..self.layout.piece_range(run.end - 1).end)
    }

    /// Takes from the front of `bytes`, which lie at `offset` in the blob, up to the end of a piece.
    /// Returns the piece once it is whole. What is not wanted is dropped; `bytes` is empty in the
    /// end unless a piece was returned.
    ///
    /// # Panics
    /// If bytes are missing between what was gathered and `offset`.
    pub(super) fn take(&mut self, offset: &mut u64, bytes: &mut Bytes) -> Option<CutPiece> {
        let Some(needed) = self.needed() else {
            bytes.clear();
            return None;
        };
        assert!(*offset <= needed.start, "a gap before offset {offset}");
        skip(offset, bytes, needed.start - *offset);
        let index = self.runs[0].start;
        let size = self.layout.piece_size(index) as usize;
        if self.gathered.capacity() == 0 {
            self.gathered.reserve(size);
        }
        let taken = bytes.len().min(size - self.gathered.len());
        self.gathered.extend_from_slice(&bytes[..taken]);
        skip(offset, bytes, taken as u64);
        if self.gathered.len() < size {
            return None;
        }
        self.advance();
        Some(CutPiece { index, bytes: std::mem::take(&mut self.gathered).freeze() })
    }

    fn advance(&mut self) {
        let run = &mut self.runs[0];
        run.start += 1;
        if run.start == run.end {
            self.runs.pop_front();
        }
    }
}

fn skip(offset: &mut u64, bytes: &mut Bytes, count: u64) {
    let skipped = count.min(bytes.len() as u64);
    bytes.advance(usize::try_from(skipped).expect("at most the buffer's length"));
    *offset += skipped;
}

/// A whole piece, not hashed yet.
pub(super) struct CutPiece {
    index: u32,
    bytes: Bytes,
}

/// Hashes one piece at a time on a blocking thread, while the next one is gathered.
///
/// In a reading of the whole blob it computes the blob's SHA-256 too, and keeps the last piece back
/// until that is known.
pub(super) struct Hasher {
    expected: Digest,
    /// `None` in a partial reading, and while a thread has it.
    blob_hash: Option<Sha256>,
    is_whole: bool,
    last_piece: Option<u32>,
    hashing: Option<JoinHandle<Hashed>>,
}

struct Hashed {
    piece: SourcePiece,
    blob_hash: Option<Sha256>,
}

impl Hasher {
    pub(super) fn new(expected: Digest, layout: &Layout, wanted: &PieceSet) -> Self {
        let is_whole = wanted.is_full();
        let blob_hash = is_whole.then(Sha256::new);
        let last_piece = if is_whole { layout.last_piece() } else { None };
        Self { expected, blob_hash, is_whole, last_piece, hashing: None }
    }

    /// Starts on a piece. The one before must have been taken by [`Self::finished`].
    pub(super) fn start(&mut self, cut: CutPiece) {
        assert!(self.hashing.is_none(), "one piece at a time");
        let mut blob_hash = self.blob_hash.take();
        self.hashing = Some(tokio::task::spawn_blocking(move || {
            let CutPiece { index, bytes } = cut;
            if let Some(blob_hash) = &mut blob_hash {
                blob_hash.update(&bytes);
            }
            let (hash, origins) = (PieceHash::of(&bytes), Origins::default());
            let piece = SourcePiece { piece: index, hash, bytes, origins, whole: None };
            Hashed { piece, blob_hash }
        }));
    }

    /// The piece being hashed, once it is; `None` if there is none. Dropping the future loses nothing.
    pub(super) async fn finished(&mut self) -> Option<Finished> {
        let hashed = self.hashing.as_mut()?.await;
        self.hashing = None;
        // Hashing does not panic; only a runtime that shuts down drops its blocking tasks.
        let Ok(Hashed { piece, blob_hash }) = hashed else { return Some(Finished::Abandoned) };
        self.blob_hash = blob_hash;
        if self.last_piece != Some(piece.piece) || self.is_digest_right() {
            Some(Finished::Piece(piece))
        } else {
            Some(Finished::WrongDigest)
        }
    }

    /// Whether the blob's SHA-256 was computed. A blob without pieces has none to hold back.
    pub(super) fn is_verified(&self) -> bool {
        self.is_whole && self.is_digest_right()
    }

    fn is_digest_right(&self) -> bool {
        let computed = self.blob_hash.clone().map(|hash| Digest::from_bytes(hash.finalize().into()));
        computed == Some(self.expected)
    }
}

/// What became of a piece.
pub(super) enum Finished {
    /// It may go out.
    Piece(SourcePiece),
    /// It was the last one, and the blob is not what its digest says.
    WrongDigest,
    /// The runtime is shutting down.
    Abandoned,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Feeds `blob[from..to]` in frames of `frame_len` bytes.
    fn feed(cutter: &mut Cutter, blob: &Bytes, range: Range<usize>, frame_len: usize) -> Vec<(u32, Bytes)> {
        let mut cut = Vec::new();
        let mut offset = range.start as u64;
        for frame in blob.slice(range).chunks(frame_len) {
            let mut frame = Bytes::copy_from_slice(frame);
            while !frame.is_empty() {
                cut.extend(cutter.take(&mut offset, &mut frame).map(|piece| (piece.index, piece.bytes)));
            }
        }
        cut
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// However a blob is cut off and resumed, before or at the point reached, each wanted piece
        /// comes out once, whole and in order.
        #[test]
        fn every_wanted_piece_is_cut_once_and_in_order(
            size in 1_usize..900_000,
            wanted in proptest::collection::vec(any::<bool>(), 8),
            frame_len in 1000_usize..200_000,
            cuts in proptest::collection::vec((1_usize..400_000, any::<bool>()), 0..8),
        ) {
            let blob: Bytes = (0..size).map(|i| (i / 7) as u8).collect();
            let layout = Layout::of(size as u64).unwrap();
            let mut set = PieceSet::new(layout.piece_count());
            for (piece, _) in (0..).zip(&wanted).filter(|(_, wanted)| **wanted) {
                set.insert(piece);
            }
            let mut cutter = Cutter::new(layout, &set);
            let mut out = Vec::new();
            for (len, from_zero) in cuts.into_iter().chain([(size, true)]) {
                let Some(needed) = cutter.needed() else { break };
                let start = if from_zero { 0 } else { needed.start as usize };
                out.extend(feed(&mut cutter, &blob, start..(start + len).min(size), frame_len));
            }
            prop_assert_eq!(cutter.needed(), None);
            let expected: Vec<_> = set.iter().map(|piece| {
                let range = layout.piece_range(piece);
                (piece, blob.slice(range.start as usize..range.end as usize))
            }).collect();
            prop_assert_eq!(out, expected);
        }
    }
}
