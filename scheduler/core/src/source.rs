//! Who reads a blob from the registry: one seed at a time, and only the pieces that nobody
//! in the region holds (DESIGN.md §2.1, §5.4).

use std::collections::BTreeSet;
use std::time::Instant;

use flotilla_proto::{Digest, PieceSet, rendezvous_order};

use crate::scheduler::{Deadline, Scheduler};
use crate::{Output, PeerKey, TaskFailure};

/// How a task's blob comes from the registry.
#[derive(Debug)]
pub(crate) enum Source {
    /// It need not.
    Idle,
    /// A seed reads.
    Reading {
        /// Which.
        seed: PeerKey,
        /// What it was told to read and has not announced yet.
        ordered: PieceSet,
        /// Seeds that were told before, and could not.
        failed: BTreeSet<PeerKey>,
    },
    /// The seed that was reading vanished; until then it may still read under its lease.
    Leased(Instant),
    /// There is no seed. The download fails at that time.
    Awaiting(Instant),
}

impl Scheduler {
    /// Orders from the registry what is wanted and held by nobody. Costs a pass over the
    /// task's members.
    ///
    /// A read that is under way is never stopped for want of demand: bytes on their way would
    /// be read again for the client that comes back.
    pub(crate) fn ensure_source(&mut self, now: Instant, digest: Digest) {
        let Some(task) = self.tasks.get_mut(&digest) else { return };
        if !task.is_wanted() {
            return;
        }
        let missing = task.held_by_nobody();
        match &mut task.source {
            Source::Reading { seed, ordered, .. } => {
                let fresh = difference(&missing, ordered);
                ordered.union_with(&fresh);
                if !fresh.is_empty() {
                    let (seed, size) = (*seed, task.layout.size());
                    self.outputs.push_back(Output::ReadSource { seed, digest, size, pieces: fresh });
                }
            }
            Source::Leased(until) if now < *until => {}
            Source::Awaiting(until) if now >= *until => self.fail_task(digest, &no_seed()),
            Source::Idle | Source::Leased(_) | Source::Awaiting(_) if missing.is_empty() => {
                task.source = Source::Idle;
            }
            Source::Idle | Source::Leased(_) | Source::Awaiting(_) => {
                self.order_source(now, digest, missing, BTreeSet::new());
            }
        }
    }

    /// The seed could not read: another tries, until all have.
    pub(crate) fn source_failed(
        &mut self,
        now: Instant,
        seed: PeerKey,
        digest: Digest,
        failure: &TaskFailure,
    ) {
        let Some(task) = self.tasks.get_mut(&digest) else { return };
        let Source::Reading { seed: reading, failed, .. } = &mut task.source else { return };
        if *reading != seed {
            return;
        }
        let mut failed = std::mem::take(failed);
        failed.insert(seed);
        task.source = Source::Idle;
        if failure.poisoned || self.next_seed(digest, &failed).is_none() {
            return self.fail_task(digest, failure);
        }
        let missing = self.tasks[&digest].held_by_nobody();
        self.order_source(now, digest, missing, failed);
    }

    /// Tells a wanting peer which seed reads, if one does.
    pub(crate) fn tell_seed(&mut self, child: PeerKey, digest: Digest) {
        if let Some(Source::Reading { seed, .. }) = self.tasks.get(&digest).map(|task| &task.source) {
            self.outputs.push_back(Output::UseSeed { child, seed: *seed, digest });
        }
    }

    /// A seed announced pieces: they are ordered no more.
    pub(crate) fn source_delivered(&mut self, seed: PeerKey, digest: Digest, pieces: &PieceSet) {
        let Some(task) = self.tasks.get_mut(&digest) else { return };
        let Source::Reading { seed: reading, ordered, .. } = &mut task.source else { return };
        if *reading != seed {
            return;
        }
        *ordered = difference(ordered, pieces);
        if ordered.is_empty() {
            task.source = Source::Idle;
        }
    }

    fn order_source(&mut self, now: Instant, digest: Digest, missing: PieceSet, failed: BTreeSet<PeerKey>) {
        let Some(seed) = self.next_seed(digest, &failed) else {
            let until = now + self.limits.seed_wait;
            self.task_mut(digest).source = Source::Awaiting(until);
            self.deadlines.insert((until, Deadline::Source(digest)));
            return;
        };
        self.enter(now, seed, digest);
        self.draw_partners(seed, digest);
        let task = self.task_mut(digest);
        let size = task.layout.size();
        task.source = Source::Reading { seed, ordered: missing.clone(), failed };
        let wanting: Vec<PeerKey> =
            task.members.iter().filter(|(_, member)| member.wish.is_some()).map(|(key, _)| *key).collect();
        self.outputs.push_back(Output::ReadSource { seed, digest, size, pieces: missing });
        self.outputs.extend(wanting.into_iter().map(|child| Output::UseSeed { child, seed, digest }));
    }

    /// The attached seed that comes first for this digest and has not failed it. Over all
    /// configured seeds this is the home seed while it lives.
    fn next_seed(&self, digest: Digest, failed: &BTreeSet<PeerKey>) -> Option<PeerKey> {
        let seeds = self.peers.iter().filter(|(key, peer)| peer.facts.seed && !failed.contains(key));
        let named: Vec<(&str, PeerKey)> = seeds.map(|(key, peer)| (peer.facts.id.as_str(), *key)).collect();
        let first = *rendezvous_order(digest.as_bytes(), named.iter().map(|(name, _)| *name)).first()?;
        named.iter().find(|(name, _)| *name == first).map(|(_, key)| *key)
    }
}

fn difference(from: &PieceSet, without: &PieceSet) -> PieceSet {
    let mut rest = from.clone();
    for piece in without.iter() {
        rest.remove(piece);
    }
    rest
}

fn no_seed() -> TaskFailure {
    TaskFailure {
        status: 503,
        code: "UNAVAILABLE".into(),
        message: "no seed peer is connected in this region".into(),
        poisoned: false,
    }
}
