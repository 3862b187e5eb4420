//! The planner as seen from outside: a mirror of its books, kept from nothing but what it is
//! told and what it says, that checks each decision and looks for slots left idle.

use std::collections::{BTreeMap, BTreeSet};

use flotilla_proto::{Digest, Layout, PieceSet};
use flotilla_scheduler_core::{FailureReason, Input, Limits, Output, PeerKey};

use crate::violation::Violation;

/// What an observer knows of the planner's books.
#[derive(Debug)]
pub(crate) struct Audit {
    limits: Limits,
    peers: BTreeMap<PeerKey, PeerView>,
    tasks: BTreeMap<Digest, TaskView>,
}

#[derive(Debug)]
struct PeerView {
    owed_count: u32,
    /// Pieces it may owe.
    queue: u32,
    awaited_bytes: u64,
    /// It failed a child: the planner may trust it less than is seen here.
    is_suspect: bool,
}

#[derive(Debug)]
struct TaskView {
    layout: Layout,
    /// Pieces whose hash somebody told.
    known: PieceSet,
    members: BTreeMap<PeerKey, MemberView>,
    /// It had more members than a download draws partners: not all are partners of all.
    was_crowded: bool,
    /// Parent and child that were planned together once, and so are partners, either way.
    partners: BTreeSet<(PeerKey, PeerKey)>,
    /// Parent and child that failed each other.
    apart: BTreeSet<(PeerKey, PeerKey)>,
}

#[derive(Debug)]
struct MemberView {
    held: PieceSet,
    /// Held or in flight.
    taken: PieceSet,
    in_flight: BTreeMap<u32, PeerKey>,
    wants: bool,
}

impl Audit {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits, peers: BTreeMap::new(), tasks: BTreeMap::new() }
    }

    /// The planner is about to be told this.
    pub(crate) fn heard(&mut self, input: &Input) {
        match input {
            Input::PeerJoined { peer, .. } => {
                let queue = self.limits.queue_start;
                let view = PeerView { owed_count: 0, queue, awaited_bytes: 0, is_suspect: false };
                self.peers.insert(*peer, view);
            }
            Input::PeerLeft { peer } => {
                let digests: Vec<Digest> = self.tasks.keys().copied().collect();
                for digest in digests {
                    self.leave(*peer, digest);
                }
                self.peers.remove(peer);
            }
            Input::Wanted { peer, digest, size, .. } => {
                let partners_drawn = self.limits.partners_drawn;
                let task = self.task(*digest, *size);
                task.member(*peer).wants = true;
                task.was_crowded |= task.members.len() >= partners_drawn;
            }
            Input::Unwanted { peer, digest } => self.give_up(*peer, *digest),
            Input::Announced { peer, digest, size, pieces, hashes } => {
                let task = self.task(*digest, *size);
                for piece in pieces.iter().take(hashes.len()) {
                    task.known.insert(piece);
                }
                for piece in pieces.iter() {
                    self.landed(*peer, *digest, piece);
                }
            }
            Input::HashesTold { digest, pieces, .. } => {
                if let Some(task) = self.tasks.get_mut(digest) {
                    task.known.union_with(pieces);
                }
            }
            Input::Withdrawn { peer, digest } => self.leave(*peer, *digest),
            Input::Failed { child, parent, digest, piece, reason } => {
                self.failed(*child, *parent, *digest, *piece, *reason);
            }
            Input::ReaderMoved { .. }
            | Input::SourceFailed { .. }
            | Input::SeedsConfigured { .. }
            | Input::InventoryTold { .. }
            | Input::SourceReading { .. }
            | Input::RoundTripMeasured { .. }
            | Input::LoadMeasured { .. } => {}
        }
    }

    /// The planner says this.
    pub(crate) fn told(&mut self, output: &Output) -> Result<(), Violation> {
        match output {
            Output::Assign { child, parent, digest, piece, .. } => {
                self.assigned(*child, *parent, *digest, *piece)?;
            }
            Output::Cancel { child, digest, piece } => drop(self.lose(*child, *digest, *piece)),
            Output::ReadSource { digest, size, pieces, .. } => {
                let digest = *digest;
                let members = self.task(digest, *size).members.values();
                let held =
                    members.flat_map(|member| member.held.iter()).find(|piece| pieces.contains(*piece));
                if let Some(piece) = held {
                    return Err(Violation::ReadOrderedThoughAnnounced { digest, piece });
                }
            }
            Output::FailTask { peer, digest, .. } => self.give_up(*peer, *digest),
            Output::UseSeed { .. }
            | Output::AskHashes { .. }
            | Output::PaceSource { .. }
            | Output::Link { .. }
            | Output::Unlink { .. }
            | Output::Picking { .. }
            | Output::PaceReports { .. } => {}
        }
        Ok(())
    }

    /// Invariant 9 of DESIGN.md §2: looks for a parent with a free slot and a partner that
    /// lacks what it holds. Costs a pass over all partners.
    pub(crate) fn find_idle(&self) -> Result<(), Violation> {
        for (digest, task) in &self.tasks {
            let idle = task.pairs().find(|(parent, child)| self.could_send(task, *parent, *child));
            if let Some((parent, child)) = idle {
                return Err(Violation::Idle { parent, child, digest: *digest });
            }
        }
        Ok(())
    }

    fn could_send(&self, task: &TaskView, parent: PeerKey, child: PeerKey) -> bool {
        let (sender, receiver) = (&self.peers[&parent], &self.peers[&child]);
        let (from, to) = (&task.members[&parent], &task.members[&child]);
        let piece_bytes = u64::from(task.layout.piece_len().bytes());
        let has_room =
            receiver.awaited_bytes == 0 || receiver.awaited_bytes + piece_bytes <= self.limits.window_bytes;
        let words = from.held.words().iter().zip(task.known.words()).zip(to.taken.words());
        to.wants
            && has_room
            && to.in_flight.len() < self.limits.window_max
            && !sender.is_suspect
            && sender.owed_count < sender.queue
            && !task.apart.contains(&(parent, child))
            && words.into_iter().any(|((held, known), taken)| held & known & !taken != 0)
    }

    fn assigned(
        &mut self,
        child: PeerKey,
        parent: PeerKey,
        digest: Digest,
        piece: u32,
    ) -> Result<(), Violation> {
        let task = self.tasks.get_mut(&digest).expect("somebody spoke of the blob");
        if !task.members.get(&parent).is_some_and(|member| member.held.contains(piece)) {
            return Err(Violation::PlannedFromNobody { parent, digest, piece });
        }
        let member = task.member(child);
        if !member.taken.insert(piece) {
            return Err(Violation::PlannedTwice { child, digest, piece });
        }
        member.in_flight.insert(piece, parent);
        let over_window = member.in_flight.len() > self.limits.window_max;
        task.partners.extend([(parent, child), (child, parent)]);
        let bytes = u64::from(task.layout.piece_size(piece));
        self.peers.get_mut(&child).expect("a child is attached").awaited_bytes += bytes;
        let owner = self.peers.get_mut(&parent).expect("a parent is attached");
        owner.owed_count += 1;
        if over_window || owner.owed_count > self.limits.queue_max {
            return Err(Violation::OverLimit { parent, child });
        }
        Ok(())
    }

    fn landed(&mut self, peer: PeerKey, digest: Digest, piece: u32) {
        if let Some(parent) = self.lose(peer, digest, piece) {
            let owner = self.peers.get_mut(&parent).expect("whoever leaves is taken out of flight");
            owner.queue = (owner.queue + 1).min(self.limits.queue_max);
        }
        let member = self.tasks.get_mut(&digest).expect("announced").member(peer);
        member.held.insert(piece);
        member.taken.insert(piece);
        member.wants &= !member.held.is_full();
    }

    fn failed(&mut self, child: PeerKey, parent: PeerKey, digest: Digest, piece: u32, reason: FailureReason) {
        let member = self.tasks.get(&digest).and_then(|task| task.members.get(&child));
        if member.and_then(|member| member.in_flight.get(&piece)) != Some(&parent) {
            return;
        }
        self.lose(child, digest, piece);
        let task = self.tasks.get_mut(&digest).expect("found above");
        task.apart.insert((parent, child));
        if reason == FailureReason::NotHeld {
            task.member(parent).held.remove(piece);
        }
        self.peers.get_mut(&parent).expect("a parent in flight is attached").is_suspect = true;
    }

    /// A piece is on its way no more. From whom it was.
    fn lose(&mut self, child: PeerKey, digest: Digest, piece: u32) -> Option<PeerKey> {
        let task = self.tasks.get_mut(&digest)?;
        let member = task.members.get_mut(&child)?;
        let parent = member.in_flight.remove(&piece)?;
        member.taken.remove(piece);
        let bytes = u64::from(task.layout.piece_size(piece));
        self.peers.get_mut(&child).expect("a child in flight is attached").awaited_bytes -= bytes;
        self.peers.get_mut(&parent).expect("a parent in flight is attached").owed_count -= 1;
        Some(parent)
    }

    fn give_up(&mut self, peer: PeerKey, digest: Digest) {
        let Some(member) = self.tasks.get_mut(&digest).and_then(|task| task.members.get_mut(&peer)) else {
            return;
        };
        member.wants = false;
        let pieces: Vec<u32> = member.in_flight.keys().copied().collect();
        for piece in pieces {
            self.lose(peer, digest, piece);
        }
    }

    fn leave(&mut self, peer: PeerKey, digest: Digest) {
        self.give_up(peer, digest);
        let Some(task) = self.tasks.get_mut(&digest) else { return };
        task.members.remove(&peer);
        task.partners.retain(|(parent, child)| *parent != peer && *child != peer);
        let orphans: Vec<(PeerKey, u32)> = task
            .members
            .iter()
            .flat_map(|(child, member)| {
                member.in_flight.iter().map(move |(piece, parent)| (child, piece, parent))
            })
            .filter(|(_, _, parent)| **parent == peer)
            .map(|(child, piece, _)| (*child, *piece))
            .collect();
        for (child, piece) in orphans {
            self.lose(child, digest, piece);
        }
    }

    fn task(&mut self, digest: Digest, size: u64) -> &mut TaskView {
        let layout = Layout::of(size).expect("a scenario's blob is no larger than any may be");
        self.tasks.entry(digest).or_insert_with(|| TaskView::new(layout))
    }
}

impl TaskView {
    fn new(layout: Layout) -> Self {
        let known = PieceSet::new(layout.piece_count());
        let (members, partners, apart) = (BTreeMap::new(), BTreeSet::new(), BTreeSet::new());
        Self { layout, known, members, was_crowded: false, partners, apart }
    }

    /// Parent and child that are partners, as far as that is seen.
    fn pairs(&self) -> Box<dyn Iterator<Item = (PeerKey, PeerKey)> + '_> {
        if self.was_crowded {
            return Box::new(self.partners.iter().copied());
        }
        let others = |parent: PeerKey| self.members.keys().filter(move |child| **child != parent);
        Box::new(self.members.keys().flat_map(move |parent| others(*parent).map(|child| (*parent, *child))))
    }

    fn member(&mut self, peer: PeerKey) -> &mut MemberView {
        let nothing = || PieceSet::new(self.layout.piece_count());
        self.members.entry(peer).or_insert_with(|| MemberView {
            held: nothing(),
            taken: nothing(),
            in_flight: BTreeMap::new(),
            wants: false,
        })
    }
}

#[cfg(test)]
mod tests {
    use flotilla_proto::PieceHash;
    use flotilla_scheduler_core::{PeerFacts, Zone};

    use super::*;

    const SIZE: u64 = 4 * (128 << 10);
    const PARENT: PeerKey = PeerKey(0);
    const CHILD: PeerKey = PeerKey(1);

    #[test]
    fn a_free_slot_beside_a_partner_that_lacks_a_piece_is_seen() {
        let mut audit = holder_and_child();
        let idle = Violation::Idle { parent: PARENT, child: CHILD, digest: digest() };
        assert_eq!(audit.find_idle(), Err(idle));
        for piece in 0..4 {
            audit.told(&assign(PARENT, CHILD, piece)).unwrap();
        }
        assert_eq!(audit.find_idle(), Ok(()), "nothing is left to send");
    }

    #[test]
    fn a_plan_that_makes_no_sense_is_seen() {
        let mut audit = holder_and_child();
        audit.told(&assign(PARENT, CHILD, 1)).unwrap();
        let (digest, piece) = (digest(), 1);
        let twice = Violation::PlannedTwice { child: CHILD, digest, piece };
        assert_eq!(audit.told(&assign(PARENT, CHILD, piece)), Err(twice));
        let from_nobody = Violation::PlannedFromNobody { parent: CHILD, digest, piece };
        assert_eq!(audit.told(&assign(CHILD, PARENT, piece)), Err(from_nobody));
        let read = Output::ReadSource { seed: PARENT, digest, size: SIZE, pieces: PieceSet::full(4) };
        assert_eq!(audit.told(&read), Err(Violation::ReadOrderedThoughAnnounced { digest, piece: 0 }));
    }

    fn holder_and_child() -> Audit {
        let mut audit = Audit::new(Limits::default());
        for (peer, name) in [(PARENT, "parent"), (CHILD, "child")] {
            let facts = PeerFacts { id: name.parse().unwrap(), seed: false, zone: Zone::default() };
            audit.heard(&Input::PeerJoined { peer, facts });
        }
        let hashes = vec![hash(); 4];
        let (digest, size, pieces) = (digest(), SIZE, PieceSet::full(4));
        audit.heard(&Input::Announced { peer: PARENT, digest, size, pieces, hashes });
        audit.heard(&Input::Wanted { peer: CHILD, digest, size, reader: true });
        audit
    }

    fn assign(parent: PeerKey, child: PeerKey, piece: u32) -> Output {
        Output::Assign { child, parent, digest: digest(), piece, hash: hash() }
    }

    fn digest() -> Digest {
        Digest::of(b"")
    }

    fn hash() -> PieceHash {
        PieceHash::of(b"")
    }
}
