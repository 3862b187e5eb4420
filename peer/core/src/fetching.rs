//! Pieces on their way from other peers, whoever chose them.
//!
//! A piece is on its way at most once, as far as this peer knows: what the scheduler assigns
//! while this peer fetches it by its own choice is set aside for the case that this fails.

use std::time::Duration;

use flotilla_proto::{Digest, PeerId};

use crate::requests::{Choice, Fetching};
use crate::{FetchError, Output, Report, Swarm};

impl Swarm {
    pub(crate) fn assigned(&mut self, digest: Digest, piece: u32, choice: Choice) {
        let Some(blob) = self.blobs.get_mut(&digest) else { return };
        if piece >= blob.layout.piece_count() {
            return;
        }
        if blob.held.contains(piece) {
            return self.announce(digest, &[piece], Vec::new());
        }
        if blob.barred.contains(&choice.parent) {
            let parent = choice.parent;
            return self.tell(Report::FetchFailed { digest, piece, parent, error: FetchError::Corrupt });
        }
        let is_planned = blob.requests.fetching(piece).map(|fetching| !fetching.picked);
        match is_planned {
            Some(true) => {
                blob.requests.end_fetch(piece);
                self.outputs.push_back(Output::AbortFetch { digest, piece });
            }
            Some(false) => return drop(blob.set_aside.insert(piece, choice)),
            None if blob.requests.is_awaited(piece) => {
                return drop(blob.set_aside.insert(piece, choice));
            }
            None => {}
        }
        self.fetch(digest, piece, choice, false);
    }

    pub(crate) fn fetch(&mut self, digest: Digest, piece: u32, choice: Choice, picked: bool) {
        let Choice { parent, hash, hearsay } = choice;
        let (begun_at, patience) = (self.now(), self.patience(&parent));
        let blob = self.blobs.get_mut(&digest).expect("the caller found it");
        let layout = blob.layout;
        blob.requests.fetch(piece, Fetching { parent: parent.clone(), begun_at, picked });
        let fetch = Output::Fetch { digest, layout, piece, parent, hash, hearsay, patience, picked };
        self.outputs.push_back(fetch);
    }

    pub(crate) fn cancelled(&mut self, digest: Digest, piece: u32) {
        let Some(blob) = self.blobs.get_mut(&digest) else { return };
        if blob.set_aside.remove(&piece).is_none()
            && blob.requests.fetching(piece).is_some_and(|fetching| !fetching.picked)
        {
            blob.requests.end_fetch(piece);
            self.outputs.push_back(Output::AbortFetch { digest, piece });
            self.feed(digest);
        }
    }

    /// The piece is on disk, even where its fetch was given up in the same moment.
    pub(crate) fn fetched(&mut self, digest: Digest, piece: u32, hearsay: bool, first_byte: Duration) {
        let Some(blob) = self.blobs.get_mut(&digest) else { return };
        if piece >= blob.layout.piece_count() {
            return;
        }
        let bytes = blob.layout.piece_size(piece);
        let fetching = blob.requests.end_fetch(piece);
        if let Some(Fetching { parent, begun_at, .. }) = &fetching {
            self.delivered(parent, *begun_at, first_byte, bytes);
        }
        self.hold(digest, piece, hearsay, Vec::new());
        self.feed_after(digest, fetching.as_ref().map(|fetching| &fetching.parent));
    }

    pub(crate) fn fetch_failed(&mut self, digest: Digest, piece: u32, error: FetchError) {
        let Some(blob) = self.blobs.get_mut(&digest) else { return };
        let Some(Fetching { parent, picked, .. }) = blob.requests.end_fetch(piece) else { return };
        if picked && let FetchError::NotHeld = error {
            self.piece_is_not_there(digest, &parent, piece);
        }
        self.failed(digest, Some(piece), parent, picked, error);
    }

    /// What a failure means for the parent, for the scheduler and for the piece, if one was
    /// chosen already.
    pub(crate) fn failed(
        &mut self,
        digest: Digest,
        piece: Option<u32>,
        parent: PeerId,
        picked: bool,
        error: FetchError,
    ) {
        let (now, spread) = (self.now(), self.rng.f64());
        match error {
            FetchError::Stalled | FetchError::Unreachable => self.health(&parent).failed(now),
            FetchError::Busy if picked => self.health(&parent).was_busy(now, spread),
            FetchError::Busy | FetchError::NotHeld => {}
            FetchError::Corrupt => {
                let blob = self.blobs.get_mut(&digest).expect("the caller found it");
                blob.barred.insert(parent.clone());
            }
        }
        // Who picks by itself turns elsewhere by itself; what bears on others is told.
        let is_its_own = picked && matches!(error, FetchError::Busy | FetchError::NotHeld);
        if let Some(piece) = piece {
            if !is_its_own {
                self.tell(Report::FetchFailed { digest, piece, parent, error });
            }
            self.resume(digest, piece);
        }
        self.feed(digest);
    }

    /// Turns to what the scheduler assigned while the piece was on its way.
    fn resume(&mut self, digest: Digest, piece: u32) {
        let Some(blob) = self.blobs.get_mut(&digest) else { return };
        if let Some(choice) = blob.set_aside.remove(&piece) {
            self.assigned(digest, piece, choice);
        }
    }

    /// A piece came by one way: it is not wanted by any other.
    pub(crate) fn abort_others(&mut self, digest: Digest, piece: u32) {
        let Some(blob) = self.blobs.get_mut(&digest) else { return };
        blob.set_aside.remove(&piece);
        let is_fetched = blob.requests.end_fetch(piece).is_some();
        if is_fetched {
            self.outputs.push_back(Output::AbortFetch { digest, piece });
        }
        let parents = blob.requests.came(piece);
        if let Some(picking) = blob.picking.as_mut().filter(|_| is_fetched || !parents.is_empty()) {
            // Whoever was to send it may be asked again.
            picking.is_dry = false;
        }
        for parent in parents {
            self.outputs.push_back(Output::AbortTake { digest, parent });
        }
    }

    pub(crate) fn abort_all(&mut self, digest: Digest) {
        let Some(blob) = self.blobs.get_mut(&digest) else { return };
        blob.set_aside.clear();
        let (pieces, parents) = blob.requests.end_all();
        for piece in pieces {
            self.outputs.push_back(Output::AbortFetch { digest, piece });
        }
        for parent in parents {
            self.outputs.push_back(Output::AbortTake { digest, parent });
        }
    }
}
