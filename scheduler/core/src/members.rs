//! Who has a part in which task, and the bookkeeping that follows from it.

use std::collections::BTreeSet;
use std::time::Instant;

use flotilla_proto::{Digest, Layout};

use crate::scheduler::{Deadline, Scheduler};
use crate::source::Source;
use crate::task::{Landing, Member, Task, Wish};
use crate::{Output, PeerKey, TaskFailure, partners};

impl Scheduler {
    /// The task of a blob, opened if nobody spoke of it before.
    pub(crate) fn open_task(&mut self, digest: Digest, size: u64) -> Result<(), TaskFailure> {
        if let Some(task) = self.tasks.get(&digest) {
            let known = task.layout.size();
            return if known == size { Ok(()) } else { Err(size_differs(digest, size, known)) };
        }
        if self.tasks.len() >= self.limits.tasks_max {
            return Err(too_many_tasks(self.limits.tasks_max));
        }
        let layout = Layout::of(size).ok_or_else(|| too_large(digest, size))?;
        self.tasks.insert(digest, Task::new(layout));
        Ok(())
    }

    pub(crate) fn task_mut(&mut self, digest: Digest) -> &mut Task {
        self.tasks.get_mut(&digest).expect("the caller holds a known task")
    }

    /// Makes a peer a member of a task. True if it was none.
    pub(crate) fn enter(&mut self, now: Instant, key: PeerKey, digest: Digest) -> bool {
        let peer = self.peers.get_mut(&key).expect("an attached peer enters");
        let task = self.tasks.get_mut(&digest).expect("an open task is entered");
        task.join(key, peer.facts.seed, now);
        if task.is_wanted() {
            peer.wanted_tasks.insert(digest);
        }
        peer.tasks.insert(digest)
    }

    /// Takes a peer out of a task's books. What it leaves behind is for [`Self::mend`], once it
    /// is out of all the tasks it leaves. Costs a pass over the task's members.
    pub(crate) fn detach(&mut self, now: Instant, key: PeerKey, digest: Digest) -> Option<Gap> {
        let task = self.tasks.get_mut(&digest)?;
        let was_wanted = task.is_wanted();
        let (member, orphans) = task.leave(key)?;
        let layout = task.layout;
        if let Source::Reading { seed, .. } = task.source
            && seed == key
        {
            let until = now + self.limits.read_lease;
            task.source = Source::Leased(until);
            self.deadlines.insert((until, Deadline::Source(digest)));
        }
        for (piece, parent) in member.in_flight() {
            self.settle(key, *parent, u64::from(layout.piece_size(*piece)));
        }
        for (child, piece) in &orphans {
            self.settle(*child, key, u64::from(layout.piece_size(*piece)));
        }
        let peer = self.peers.get_mut(&key).expect("a member is attached");
        peer.tasks.remove(&digest);
        peer.wanted_tasks.remove(&digest);
        if self.tasks[&digest].members.is_empty() {
            self.tasks.remove(&digest);
            return None;
        }
        self.mark_if_changed(digest, was_wanted);
        let parents = member.in_flight().values().copied().collect();
        let children = orphans.into_iter().map(|(child, _)| child).collect();
        Some(Gap { digest, partners: member.partners, parents, children })
    }

    /// What a peer that left was sending is planned anew, and what only it held is read again.
    pub(crate) fn mend(&mut self, now: Instant, gap: &Gap) {
        for &partner in &gap.partners {
            if self
                .tasks
                .get(&gap.digest)
                .is_some_and(|task| partners::is_lonely(task, partner, &self.limits))
            {
                self.draw_partners(partner, gap.digest);
                self.feed_child(now, partner, gap.digest);
            }
        }
        self.ensure_source(now, gap.digest);
        for &parent in &gap.parents {
            self.feed_parent(now, parent);
        }
        for &child in &gap.children {
            self.feed_child(now, child, gap.digest);
        }
    }

    /// A piece's way ends: the books of child and parent are settled. The parent.
    pub(crate) fn land(
        &mut self,
        child: PeerKey,
        digest: Digest,
        piece: u32,
        landing: Landing,
    ) -> Option<PeerKey> {
        let task = self.tasks.get_mut(&digest)?;
        let bytes = u64::from(task.layout.piece_size(piece));
        let parent = task.land(child, piece, landing)?;
        self.settle(child, parent, bytes);
        Some(parent)
    }

    fn settle(&mut self, child: PeerKey, parent: PeerKey, bytes: u64) {
        self.peers.get_mut(&child).expect("a child in flight is attached").awaited_bytes -= bytes;
        self.peers.get_mut(&parent).expect("a parent in flight is attached").owed_count -= 1;
    }

    /// States whether a member wants the blob.
    pub(crate) fn set_wish(&mut self, peer: PeerKey, digest: Digest, wish: Option<Wish>) {
        let task = self.task_mut(digest);
        let was_wanted = task.is_wanted();
        task.set_wish(peer, wish);
        self.mark_if_changed(digest, was_wanted);
    }

    /// Where a task became wanted, or is so no more, writes it into every member's books:
    /// parents look for work in the wanted ones only.
    fn mark_if_changed(&mut self, digest: Digest, was_wanted: bool) {
        let task = &self.tasks[&digest];
        if task.is_wanted() == was_wanted {
            return;
        }
        for key in task.members.keys() {
            let peer = self.peers.get_mut(key).expect("a member is attached");
            if task.is_wanted() {
                peer.wanted_tasks.insert(digest);
            } else {
                peer.wanted_tasks.remove(&digest);
            }
        }
    }

    pub(crate) fn draw_partners(&mut self, peer: PeerKey, digest: Digest) {
        let task = self.tasks.get_mut(&digest).expect("partners are drawn in a known task");
        partners::draw(task, peer, &self.limits, &mut self.rng);
    }

    /// Asks holders for hashes nobody told: a fresh scheduler knows who holds what, but not
    /// what it must hash to.
    pub(crate) fn ask_hashes(&mut self, digest: Digest) {
        let task = self.tasks.get_mut(&digest).expect("hashes are asked for in a known task");
        let lacking: Vec<PeerKey> = task
            .members
            .iter()
            .filter(|(_, member)| !member.asked_hashes && task.has_unknown(member))
            .map(|(key, _)| *key)
            .collect();
        for peer in lacking {
            self.task_mut(digest).members.get_mut(&peer).expect("listed above").asked_hashes = true;
            self.outputs.push_back(Output::AskHashes { peer, digest });
        }
    }

    /// Keeps a child from a parent that failed it, for a while.
    pub(crate) fn rest_pair(&mut self, child: PeerKey, parent: PeerKey, digest: Digest, until: Instant) {
        let member = self.task_mut(digest).members.get_mut(&child).expect("a resting child is a member");
        member.resting.insert(parent, until);
        self.deadlines.insert((until, Deadline::Feed(digest, child)));
    }

    /// Starts the clock of a download that was sent corrupt pieces, at its want or at the piece.
    pub(crate) fn watch_hope(&mut self, now: Instant, child: PeerKey, digest: Digest) {
        let due = now + self.limits.hopeless;
        let member = self.task_mut(digest).members.get_mut(&child).expect("a download is a member");
        member.progress_at = now;
        if !member.banned.is_empty() {
            self.deadlines.insert((due, Deadline::Hope(digest, child)));
        }
    }

    /// Fails a download that was sent corrupt pieces and gets nothing any more, because it is
    /// barred from every holder: a clear error is better than a client that waits for ever.
    pub(crate) fn fail_if_hopeless(&mut self, now: Instant, child: PeerKey, digest: Digest) {
        let Some(task) = self.tasks.get(&digest) else { return };
        let Some(member) = task.members.get(&child).filter(|member| member.wish.is_some()) else { return };
        let due = member.progress_at + self.limits.hopeless;
        let reader = |key: &PeerKey| matches!(&task.source, Source::Reading { seed, .. } if seed == key);
        let may_come = |key: &PeerKey| reader(key) && !member.banned.contains(key);
        if due > now || !member.in_flight().is_empty() || task.members.keys().any(may_come) {
            let again = due.max(now + self.limits.hopeless);
            self.deadlines.insert((again, Deadline::Hope(digest, child)));
            return;
        }
        self.outputs.push_back(Output::FailTask { peer: child, digest, failure: only_corrupt(digest) });
        self.set_wish(child, digest, None);
        self.ensure_source(now, digest);
        self.forget_if_unused(child, digest);
    }

    /// Forgets a member that neither wants nor holds anything, and a task without members.
    pub(crate) fn forget_if_unused(&mut self, key: PeerKey, digest: Digest) {
        let Some(task) = self.tasks.get_mut(&digest) else { return };
        let unused = |member: &Member| member.wish.is_none() && member.held.is_empty();
        let reads = matches!(task.source, Source::Reading { seed, .. } if seed == key);
        if !task.members.get(&key).is_some_and(unused) || reads {
            return;
        }
        task.leave(key);
        if task.members.is_empty() {
            self.tasks.remove(&digest);
        }
        let peer = self.peers.get_mut(&key).expect("a member is attached");
        peer.tasks.remove(&digest);
        peer.wanted_tasks.remove(&digest);
    }

    /// Whether one more idle holder of a blob is worth knowing.
    pub(crate) fn has_room_for_holder(&self, key: PeerKey, digest: Digest) -> bool {
        let Some(task) = self.tasks.get(&digest) else { return true };
        task.is_wanted() || task.members.contains_key(&key) || task.members.len() < self.limits.holders_max
    }
}

/// What a peer leaves behind in a task.
#[derive(Debug)]
pub(crate) struct Gap {
    digest: Digest,
    partners: Vec<PeerKey>,
    /// Those it was taking from: they have free slots.
    parents: BTreeSet<PeerKey>,
    /// Those it was sending to: they have free windows.
    children: BTreeSet<PeerKey>,
}

fn only_corrupt(digest: Digest) -> TaskFailure {
    TaskFailure {
        status: 502,
        code: "DIGEST_INVALID".into(),
        message: format!("every peer that holds {digest} sent corrupt pieces of it"),
        poisoned: false,
    }
}

fn size_differs(digest: Digest, size: u64, known: u64) -> TaskFailure {
    TaskFailure {
        status: 502,
        code: "SIZE_INVALID".into(),
        message: format!("{digest} has {known} bytes, not {size} as the manifest says"),
        poisoned: false,
    }
}

fn too_large(digest: Digest, size: u64) -> TaskFailure {
    TaskFailure {
        status: 502,
        code: "SIZE_INVALID".into(),
        message: format!(
            "{digest} with {size} bytes is larger than the {} bytes a blob may have",
            Layout::MAX_SIZE
        ),
        poisoned: false,
    }
}

fn too_many_tasks(max: usize) -> TaskFailure {
    TaskFailure {
        status: 503,
        code: "TOOMANYREQUESTS".into(),
        message: format!("the scheduler knows {max} blobs already, its limit"),
        poisoned: false,
    }
}
