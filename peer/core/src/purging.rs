//! How a download ends for the worse, and what goes with it: of wrong bytes everything but what
//! SHA-256 has found right.

use flotilla_proto::{Digest, Failure, Layout, PieceSet, Root, Variant};

use crate::failure::{evicted, made_up, other_size, purged, wrong_bytes};
use crate::{Output, Report, Swarm};

impl Swarm {
    pub(crate) fn hashed(&mut self, digest: Digest, result: Result<(), Root>) {
        let Some(blob) = self.blobs.get_mut(&digest) else { return };
        blob.hashing = false;
        if blob.verified || !blob.held.is_full() {
            return;
        }
        if std::mem::take(&mut blob.hashes_former) {
            return self.hash(digest);
        }
        let Err(root) = result else { return self.verified(digest) };
        let variant = Variant { digest, root };
        let is_news = self.tombstones.insert(variant);
        self.tell(Report::WrongBytes { variant });
        self.end(digest, wrong_bytes(digest), is_news.then_some(root));
    }

    /// What SHA-256 has found right is not wrong because others say so. The scheduler that does
    /// has forgotten who holds it.
    pub(crate) fn task_failed(&mut self, digest: Digest, failure: Failure, root: Option<Root>) {
        let root = root.filter(|root| self.tombstones.insert(Variant { digest, root: *root }));
        match self.blobs.get(&digest) {
            Some(blob) if !blob.verified => self.end(digest, failure, root),
            known => {
                let is_right = known.is_some();
                self.outputs.extend(root.map(|root| Output::Entomb { variant: Variant { digest, root } }));
                if failure.voids_pieces() {
                    // Nothing from before is announced any more: the scheduler waits for that word.
                    self.tell(Report::Withdraw { digest });
                }
                if is_right && failure.voids_pieces() {
                    self.announce_all(digest);
                }
            }
        }
    }

    /// A part of the blob from before it was purged goes. Who heard of that before holds what
    /// came after.
    pub(crate) fn entombed(&mut self, variant: Variant) {
        let Variant { digest, root } = variant;
        if !self.tombstones.insert(variant) {
            return;
        }
        match self.blobs.get(&digest) {
            Some(blob) if !blob.verified && !blob.held.is_empty() => {
                self.end(digest, purged(digest), Some(root));
            }
            Some(_) | None => self.outputs.push_back(Output::Entomb { variant }),
        }
    }

    /// The download ends without its blob. What is held stays, unless it is wrong or cut for
    /// another size.
    pub(crate) fn give_up(&mut self, digest: Digest, failure: Failure) {
        self.end(digest, failure, None);
    }

    /// Whether the blob may be had with this layout. What was cut for another size, and not found right,
    /// goes: sizes are claims until then. What was found right knows its size.
    pub(crate) fn makes_way(&mut self, digest: Digest, layout: Layout) -> bool {
        match self.blobs.get(&digest) {
            Some(blob) if blob.layout == layout => true,
            Some(blob) if blob.verified => false,
            Some(_) => {
                self.give_up(digest, other_size(digest, layout.size()));
                true
            }
            None => true,
        }
    }

    /// `root` names what is purged, where that is news.
    fn end(&mut self, digest: Digest, failure: Failure, root: Option<Root>) {
        let Some(blob) = self.blobs.get_mut(&digest) else { return };
        blob.hashing = false;
        let (layout, was_wanted) = (blob.layout, blob.wish.is_some());
        let is_made_up = failure.is_poisoned() && !blob.hearsay.is_empty();
        if was_wanted && !failure.voids_pieces() {
            // Also to the scheduler that says so: it may have heard of a later wish, which ends here, too.
            self.tell(Report::Unwant { digest });
        }
        self.unwanted(digest);
        self.abort_all(digest);
        if failure.voids_pieces() {
            self.outputs.push_back(Output::Purge { digest, layout, root });
            self.discard(digest);
        }
        let failure = if is_made_up { made_up(digest) } else { failure };
        self.outputs.push_back(Output::Fail { digest, failure });
        self.forget_if_idle(digest);
    }

    pub(crate) fn evicted(&mut self, digest: Digest) {
        if let Some(blob) = self.blobs.get_mut(&digest) {
            blob.held = PieceSet::new(blob.layout.piece_count());
            blob.verified = false;
            self.discard(digest);
        }
    }

    /// Nothing is held any more: whatever is under way has lost its ground.
    fn discard(&mut self, digest: Digest) {
        self.abort_all(digest);
        self.stop_reading(digest);
        self.tell(Report::Withdraw { digest });
        self.uploads.forget(digest);
        let was_wanted = self.wanted.contains(&digest);
        self.unwanted(digest);
        self.blobs.remove(&digest);
        if was_wanted {
            self.outputs.push_back(Output::Fail { digest, failure: evicted(digest) });
        }
    }
}
