//! Who reads a blob from the registry: one seed at a time, and only the pieces that nobody
//! in the region holds (DESIGN.md §2.1, §5.4).

use std::collections::BTreeSet;
use std::time::Instant;

use flotilla_proto::{Digest, PeerId, PieceSet, rendezvous_order};

use crate::scheduler::{Deadline, Scheduler};
use crate::task::Task;
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
    /// The planner is fresh: a seed that is not back yet may hold or read it.
    Settling,
}

impl Scheduler {
    /// Orders from the registry what is wanted and held by nobody. Costs a pass over the
    /// task's members.
    ///
    /// A read that is under way is never stopped for want of demand: bytes on their way would
    /// be read again for the client that comes back.
    pub(crate) fn ensure_source(&mut self, now: Instant, digest: Digest) {
        let unsettled_until = self.unsettled_until(now);
        let Some(task) = self.tasks.get_mut(&digest) else { return };
        if !task.is_wanted() {
            return;
        }
        let missing = task.held_by_nobody();
        if let (Source::Idle | Source::Settling, Some(until)) = (&task.source, unsettled_until)
            && !missing.is_empty()
        {
            task.source = Source::Settling;
            self.deadlines.insert((until, Deadline::Source(digest)));
            return;
        }
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
            Source::Idle | Source::Leased(_) | Source::Awaiting(_) | Source::Settling
                if missing.is_empty() =>
            {
                task.source = Source::Idle;
            }
            Source::Idle | Source::Leased(_) | Source::Awaiting(_) | Source::Settling => {
                self.order_source(now, digest, missing, BTreeSet::new());
            }
        }
    }

    /// A seed goes on with a read that this planner did not order. Where another was ordered
    /// meanwhile, both read: a partition costs one more read, and no less can be known.
    pub(crate) fn source_reading(
        &mut self,
        now: Instant,
        seed: PeerKey,
        digest: Digest,
        size: u64,
        pieces: PieceSet,
    ) {
        if !self.peers.contains_key(&seed) || self.open_task(digest, size).is_err() {
            return;
        }
        let layout = self.tasks[&digest].layout;
        self.enter(now, seed, digest);
        let task = self.task_mut(digest);
        if matches!(task.source, Source::Reading { .. }) || pieces.len() != layout.piece_count() {
            return;
        }
        task.source = Source::Reading { seed, ordered: pieces, failed: BTreeSet::new() };
        self.draw_partners(seed, digest);
        self.tell_seed_to_all(digest);
    }

    /// Looks again at what waits for seeds.
    pub(crate) fn seeds_changed(&mut self, now: Instant) {
        let waits = |task: &Task| matches!(task.source, Source::Awaiting(_) | Source::Settling);
        let waiting: Vec<Digest> =
            self.tasks.iter().filter(|(_, task)| waits(task)).map(|(digest, _)| *digest).collect();
        for digest in waiting {
            self.ensure_source(now, digest);
        }
    }

    /// Until when no source read is ordered; `None` once every configured seed has told what
    /// it holds and reads, or has had the time for it.
    fn unsettled_until(&self, now: Instant) -> Option<Instant> {
        let until = self.started_at? + self.limits.settle;
        let told =
            |seed: &PeerId| self.peers.values().any(|peer| peer.facts.id == *seed && peer.inventory_told);
        (now < until && !self.configured_seeds.iter().all(told)).then_some(until)
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
        self.outputs.push_back(Output::ReadSource { seed, digest, size, pieces: missing });
        self.tell_seed_to_all(digest);
    }

    fn tell_seed_to_all(&mut self, digest: Digest) {
        let members = self.tasks[&digest].members.iter();
        let wanting: Vec<PeerKey> =
            members.filter(|(_, member)| member.wish.is_some()).map(|(key, _)| *key).collect();
        for child in wanting {
            self.tell_seed(child, digest);
        }
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
