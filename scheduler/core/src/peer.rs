//! One peer as the planner sees it, over all tasks.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use flotilla_proto::Digest;

use crate::{Limits, PeerFacts, PeerKey};

/// A peer's load and standing. Owned by the scheduler for the life of the peer's stream.
#[derive(Debug)]
pub(crate) struct Peer {
    /// What it is.
    pub(crate) facts: PeerFacts,
    /// Whether it has told what it held and read when it attached.
    pub(crate) inventory_told: bool,
    /// Tasks in which it has any part.
    pub(crate) tasks: BTreeSet<Digest>,
    /// Those of them that anyone wants.
    pub(crate) wanted_tasks: BTreeSet<Digest>,
    /// Pieces it owes its children.
    pub(crate) owed_count: u32,
    /// Pieces it may owe; grows with what it delivers, halves with what it does not.
    queue: u32,
    /// Bytes it awaits from its parents.
    pub(crate) awaited_bytes: u64,
    /// Children it lately failed, and when.
    failed_children: BTreeMap<PeerKey, Instant>,
    /// Until when it comes last, and serves one child at a time.
    blamed_until: Option<Instant>,
}

impl Peer {
    pub(crate) fn new(facts: PeerFacts, limits: &Limits) -> Self {
        Self {
            facts,
            inventory_told: false,
            tasks: BTreeSet::new(),
            wanted_tasks: BTreeSet::new(),
            owed_count: 0,
            queue: limits.queue_start,
            awaited_bytes: 0,
            failed_children: BTreeMap::new(),
            blamed_until: None,
        }
    }

    /// Whether it may owe one more piece.
    pub(crate) fn has_upload_room(&self, now: Instant) -> bool {
        self.owed_count < if self.is_blamed(now) { 1 } else { self.queue }
    }

    /// Whether it may await that many bytes more.
    pub(crate) fn has_download_room(&self, piece_bytes: u64, limits: &Limits) -> bool {
        self.awaited_bytes == 0 || self.awaited_bytes + piece_bytes <= limits.window_bytes
    }

    pub(crate) fn is_blamed(&self, now: Instant) -> bool {
        self.blamed_until.is_some_and(|until| now < until)
    }

    /// It delivered a piece.
    pub(crate) fn delivered(&mut self, limits: &Limits) {
        self.queue = (self.queue + 1).min(limits.queue_max);
    }

    /// It did not deliver to `child` in time. True if that makes it blamed.
    pub(crate) fn timed_out(&mut self, child: PeerKey, now: Instant, limits: &Limits) -> bool {
        self.queue = (self.queue / 2).max(1);
        self.failed_children.retain(|_, at| now.duration_since(*at) < limits.blame);
        self.failed_children.insert(child, now);
        let blamed = self.failed_children.len() >= limits.timeouts_to_blame;
        if blamed {
            self.blame(now, limits);
        }
        blamed
    }

    /// It comes last until the blame has worn off: never excluded, since it may be the only holder.
    pub(crate) fn blame(&mut self, now: Instant, limits: &Limits) {
        self.failed_children.clear();
        self.queue = 1;
        self.blamed_until = Some(now + limits.blame);
    }
}
