//! Feeding: giving free upload slots to children that can use them.
//!
//! Nothing scans the swarm. An event feeds the parent whose slot it freed, the child whose
//! window it freed, and the child as a new parent; each costs at most
//! [`Limits::candidates`](crate::Limits::candidates) looks per assignment.

use std::collections::BTreeSet;
use std::time::Instant;

use flotilla_proto::Digest;

use crate::explain::{Candidate, Obstacle};
use crate::rank::{ChildRank, ParentRank, PieceScore, tie};
use crate::scheduler::Scheduler;
use crate::task::{Member, Task};
use crate::{Output, PeerKey};

/// One piece about to be planned.
#[derive(Debug, Clone, Copy)]
struct Choice {
    digest: Digest,
    child: PeerKey,
    parent: PeerKey,
    piece: u32,
}

impl Scheduler {
    /// Gives a parent's free slots to its least served children.
    pub(crate) fn feed_parent(&mut self, now: Instant, parent: PeerKey) {
        while let Some(choice) = self.choose_child(now, parent) {
            self.assign(choice);
        }
    }

    /// Fills a child's free window from its best parents.
    pub(crate) fn feed_child(&mut self, now: Instant, child: PeerKey, digest: Digest) {
        while let Some(choice) = self.choose_parent(now, child, digest) {
            self.assign(choice);
        }
    }

    /// Whom first, then what: the least served child among some that `parent` can help, then
    /// the piece that serves it best.
    fn choose_child(&mut self, now: Instant, parent: PeerKey) -> Option<Choice> {
        let peer = self.peers.get(&parent)?;
        if !peer.has_upload_room(now) {
            return None;
        }
        let turn = self.rng.u32(..);
        let peer = self.peers.get(&parent)?;
        let mut best: Option<(ChildRank, Digest, PeerKey)> = None;
        let mut seen = 0;
        for digest in rotated(&peer.wanted_tasks, turn) {
            let task = &self.tasks[digest];
            let member = &task.members[&parent];
            for child in rotate(&member.partners, turn) {
                if seen == self.limits.candidates {
                    break;
                }
                if !self.is_eligible(now, task, parent, *child) {
                    continue;
                }
                seen += 1;
                let rank = self.child_rank(task, parent, *child);
                if best.is_none_or(|(other, ..)| rank < other) {
                    best = Some((rank, *digest, *child));
                }
            }
        }
        let (_, digest, child) = best?;
        let task = &self.tasks[&digest];
        let (_, piece) = best_piece(task, &task.members[&parent], &task.members[&child])?;
        Some(Choice { digest, child, parent, piece })
    }

    /// The parent, among some with a free slot, that offers `child` the best piece.
    fn choose_parent(&mut self, now: Instant, child: PeerKey, digest: Digest) -> Option<Choice> {
        let turn = self.rng.u32(..);
        let task = self.tasks.get(&digest)?;
        let member = task.members.get(&child)?;
        let mut best: Option<(ParentRank, PeerKey, u32)> = None;
        let mut seen = 0;
        for parent in rotate(&member.partners, turn) {
            if seen == self.limits.candidates {
                break;
            }
            let owner = &self.peers[parent];
            if !owner.has_upload_room(now) || !self.is_eligible(now, task, *parent, child) {
                continue;
            }
            seen += 1;
            let Some((score, piece)) = best_piece(task, &task.members[parent], member) else { continue };
            let rank = self.parent_rank(now, *parent, child, score);
            if best.is_none_or(|(other, ..)| rank < other) {
                best = Some((rank, *parent, piece));
            }
        }
        best.map(|(_, parent, piece)| Choice { digest, child, parent, piece })
    }

    /// Whether `child` may be sent a piece by `parent` at this moment, the parent's slots aside.
    pub(crate) fn is_eligible(&self, now: Instant, task: &Task, parent: PeerKey, child: PeerKey) -> bool {
        let member = &task.members[&child];
        let piece_bytes = u64::from(task.layout.piece_len().bytes());
        member.wish.is_some()
            && member.in_flight().len() < self.limits.window_max
            && self.peers[&child].has_download_room(piece_bytes, &self.limits)
            && member.accepts(parent, now)
            && task.can_help(&task.members[&parent], member)
    }

    fn parent_rank(&self, now: Instant, parent: PeerKey, child: PeerKey, score: PieceScore) -> ParentRank {
        let owner = &self.peers[&parent];
        ParentRank {
            blamed: owner.is_blamed(now),
            other_zone: owner.facts.zone != self.peers[&child].facts.zone,
            score,
            owed_count: owner.owed_count,
            tie: tie(self.seed, child, parent),
        }
    }

    /// A partner as a parent for one piece, for [`Self::explain`].
    pub(crate) fn candidate(
        &self,
        now: Instant,
        task: &Task,
        parent: PeerKey,
        child: PeerKey,
        piece: u32,
    ) -> Candidate {
        let (from, to) = (&task.members[&parent], &task.members[&child]);
        let obstacle = if !from.held.contains(piece) || task.hash(piece).is_none() {
            Some(Obstacle::NotHeld)
        } else if !to.accepts(parent, now) {
            Some(Obstacle::KeptApart)
        } else if to.in_flight().len() >= self.limits.window_max {
            Some(Obstacle::WindowFull)
        } else if !self.peers[&parent].has_upload_room(now) {
            Some(Obstacle::QueueFull)
        } else {
            None
        };
        let score = PieceScore::new(piece, task.copies_for(to, piece), to.reader(), from.seed);
        let rank = self.parent_rank(now, parent, child, score);
        Candidate { obstacle, rank, parent, first: best_piece(task, from, to) }
    }

    fn child_rank(&self, task: &Task, parent: PeerKey, child: PeerKey) -> ChildRank {
        let member = &task.members[&child];
        ChildRank {
            other_zone: self.peers[&child].facts.zone != self.peers[&parent].facts.zone,
            awaited_count: member.in_flight().len(),
            held_count: member.held.count(),
            tie: tie(self.seed, child, parent),
        }
    }

    fn assign(&mut self, choice: Choice) {
        let Choice { digest, child, parent, piece } = choice;
        let task = self.tasks.get_mut(&digest).expect("a choice names a task");
        let hash = task.hash(piece).expect("only pieces with a known hash help");
        task.launch(child, parent, piece);
        let bytes = task.layout.piece_size(piece);
        self.peers.get_mut(&parent).expect("a parent is attached").owed_count += 1;
        self.peers.get_mut(&child).expect("a child is attached").awaited_bytes += u64::from(bytes);
        self.outputs.push_back(Output::Assign { child, parent, digest, piece, hash });
    }
}

/// The best piece that `parent` can give `child`, with its score.
fn best_piece(task: &Task, parent: &Member, child: &Member) -> Option<(PieceScore, u32)> {
    let reader = child.reader();
    let score = |piece| PieceScore::new(piece, task.copies_for(child, piece), reader, parent.seed);
    task.helpful_pieces(parent, child).map(|piece| (score(piece), piece)).min()
}

/// The slice from a random place on, and around.
fn rotate<T>(items: &[T], turn: u32) -> impl Iterator<Item = &T> {
    let start = turn as usize % items.len().max(1);
    items[start..].iter().chain(&items[..start])
}

/// The same for a set. A peer has a part in few wanted tasks at a time.
fn rotated(items: &BTreeSet<Digest>, turn: u32) -> impl Iterator<Item = &Digest> {
    let start = turn as usize % items.len().max(1);
    items.iter().skip(start).chain(items.iter().take(start))
}
