//! Whether there is a scheduler, and what a peer does while there is none: it ends its reads
//! from the registry with their lease, picks by itself, and gives up what nobody can help.

use std::time::Instant;

use flotilla_proto::Digest;

use crate::download::Blob;
use crate::failure::no_scheduler;
use crate::outbox::Outbox;
use crate::{Output, Report, Swarm};

/// Whether a scheduler is there, and since when not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scheduler {
    Up,
    Down {
        /// `None` until the first input.
        since: Option<Instant>,
        /// When source reads end, if any run.
        reads_end_at: Option<Instant>,
        /// Whether this peer picks by itself already.
        alone: bool,
    },
}

impl Swarm {
    /// What the former scheduler said of picking and of the pace of reads is void; its partners
    /// stay until others are named.
    pub(crate) fn scheduler_up(&mut self) {
        self.scheduler = Scheduler::Up;
        self.outbox = Outbox::default();
        for variant in self.tombstones.by_age().collect::<Vec<_>>() {
            self.tell(Report::Entombed { variant });
        }
        let digests: Vec<Digest> = self.blobs.keys().copied().collect();
        for digest in digests {
            self.announce_all(digest);
            let blob = self.blobs.get_mut(&digest).expect("listed above");
            let size = blob.layout.size();
            blob.picks_ordered = false;
            blob.set_aside.clear();
            blob.partners.values_mut().for_each(|partner| partner.is_former = true);
            if !blob.reading.is_empty() {
                let pieces = blob.reading.clone();
                self.outputs.push_back(Output::PaceSource { digest, until: u32::MAX });
                self.tell(Report::Reading { digest, size, pieces });
            }
            if self.wanted.contains(&digest) {
                self.tell_wish(digest);
                self.start_or_stop_picking(digest);
            }
        }
        self.tell(Report::InventoryTold);
    }

    pub(crate) fn scheduler_down(&mut self) {
        let now = self.now();
        let reads = self.blobs.values().any(|blob| !blob.reading.is_empty());
        let reads_end_at = reads.then(|| now + self.limits.read_lease);
        self.scheduler = Scheduler::Down { since: Some(now), reads_end_at, alone: false };
        self.outbox = Outbox::default();
    }

    /// Does what is due for want of a scheduler.
    pub(crate) fn do_without_scheduler(&mut self) {
        let (now, is_alone_at) = (self.now(), self.is_alone_at());
        let Scheduler::Down { reads_end_at, alone, .. } = &mut self.scheduler else { return };
        let reads_end = reads_end_at.take_if(|at| *at <= now).is_some();
        let becomes_alone = !*alone && is_alone_at.is_some_and(|at| at <= now);
        *alone |= becomes_alone;
        if reads_end {
            self.end_reads();
        }
        if becomes_alone {
            self.for_each_wanted(Self::start_or_stop_picking);
        }
        self.fail_stranded();
    }

    /// When reads end or picking begins for want of a scheduler.
    pub(crate) fn scheduler_is_missed_at(&self) -> Option<Instant> {
        let Scheduler::Down { reads_end_at, alone, .. } = self.scheduler else { return None };
        let is_alone_at = self.is_alone_at().filter(|_| !alone && !self.wanted.is_empty());
        reads_end_at.into_iter().chain(is_alone_at).min()
    }

    /// Whether this peer picks for want of a scheduler.
    pub(crate) fn is_alone(&self) -> bool {
        matches!(self.scheduler, Scheduler::Down { alone: true, .. })
    }

    fn is_alone_at(&self) -> Option<Instant> {
        match self.scheduler {
            Scheduler::Up => None,
            Scheduler::Down { since, .. } => Some(since? + self.limits.scheduler_grace),
        }
    }

    /// When a download that a client waits for fails for want of a scheduler, unless a piece
    /// comes before.
    pub(crate) fn stranded_at(&self, blob: &Blob) -> Option<Instant> {
        let Scheduler::Down { since: Some(since), .. } = self.scheduler else { return None };
        if blob.held.is_full() {
            // Only its hash is waited for.
            return None;
        }
        let idle_since = since.max(blob.progress_at);
        let wait = if blob.is_under_way() { self.limits.hopeless } else { self.limits.scheduler_wait };
        Some(idle_since + wait)
    }

    fn fail_stranded(&mut self) {
        let now = self.now();
        self.for_each_wanted(|swarm, digest| {
            let is_due = |blob: &Blob| swarm.stranded_at(blob).is_some_and(|at| at <= now);
            if swarm.blobs.get(&digest).is_some_and(is_due) {
                swarm.give_up(digest, no_scheduler());
            }
        });
    }
}
