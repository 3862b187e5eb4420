//! The planner as seen from outside: a mirror of its books, kept from nothing but what it is
//! told and what it says, that checks each decision.

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

#[derive(Debug, Default)]
struct PeerView {
    seed: bool,
    owed_count: u32,
    awaited_bytes: u64,
}

#[derive(Debug)]
struct TaskView {
    layout: Layout,
    members: BTreeMap<PeerKey, MemberView>,
    /// Pieces whose hash somebody told.
    known: PieceSet,
    /// Pairs of one zone that may exchange, parent and child.
    pairs: BTreeSet<(PeerKey, PeerKey)>,
    /// Pairs of which one failed the other, ever.
    parted: BTreeSet<(PeerKey, PeerKey)>,
    /// Seeds that were told to read, or said that they do.
    readers: BTreeSet<PeerKey>,
    /// Peers that choose by themselves, or did.
    pickers: BTreeSet<PeerKey>,
}

#[derive(Debug)]
struct MemberView {
    held: PieceSet,
    /// Held or in flight.
    taken: PieceSet,
    in_flight: BTreeMap<u32, PeerKey>,
    wanted: PieceSet,
}

impl Audit {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits, peers: BTreeMap::new(), tasks: BTreeMap::new() }
    }

    /// The planner is about to be told this.
    pub(crate) fn heard(&mut self, input: &Input) {
        match input {
            Input::PeerJoined { peer, facts } => {
                self.peers.insert(*peer, PeerView { seed: facts.seed, ..PeerView::default() });
            }
            Input::PeerLeft { peer } => {
                let digests: Vec<Digest> = self.tasks.keys().copied().collect();
                for digest in digests {
                    self.leave(*peer, digest);
                }
                self.peers.remove(peer);
            }
            Input::Wanted { peer, digest, size, part, .. } => {
                let task = self.task(*digest, *size);
                let all = || PieceSet::full(task.layout.piece_count());
                task.member(*peer).wanted = part.clone().unwrap_or_else(all);
            }
            Input::Unwanted { peer, digest } => self.give_up(*peer, *digest),
            Input::Announced { peer, digest, size, pieces, hashes } => {
                let task = self.task(*digest, *size);
                if !hashes.is_empty() {
                    task.known.union_with(pieces);
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
            Input::SourceReading { seed, digest, size, .. } => {
                self.task(*digest, *size).readers.insert(*seed);
            }
            Input::Withdrawn { peer, digest } => self.leave(*peer, *digest),
            Input::Failed { child, parent, digest, piece, reason } => {
                self.failed(*child, *parent, *digest, *piece, *reason);
            }
            Input::ReaderMoved { .. }
            | Input::SourceFailed { .. }
            | Input::SeedsConfigured { .. }
            | Input::InventoryTold { .. }
            | Input::RoundTripMeasured { .. }
            | Input::LinkLimited { .. }
            | Input::LoadMeasured { .. }
            | Input::WrongBytes { .. }
            | Input::Entombed { .. } => {}
        }
    }

    /// The planner says this.
    pub(crate) fn told(&mut self, output: &Output) -> Result<(), Violation> {
        match output {
            Output::Assign { child, parent, digest, piece, .. } => {
                self.assigned(*child, *parent, *digest, *piece)?;
            }
            Output::Cancel { child, digest, piece } => {
                if let Some(parent) = self.lose(*child, *digest, *piece)
                    && let Some(task) = self.tasks.get_mut(digest)
                {
                    task.parted.insert((parent, *child));
                }
            }
            Output::ReadSource { seed, digest, size, pieces } => {
                let digest = *digest;
                self.task(digest, *size).readers.insert(*seed);
                let members = self.tasks[&digest].members.iter();
                let believed = members.filter(|(peer, _)| !self.has_failed_a_peer_and_a_seed(**peer));
                let mut held = believed.flat_map(|(_, member)| member.held.iter());
                if let Some(piece) = held.find(|piece| pieces.contains(*piece)) {
                    return Err(Violation::ReadOrderedThoughAnnounced { digest, piece });
                }
            }
            Output::FailTask { peer, digest, .. } => self.give_up(*peer, *digest),
            Output::Link { peer, partner, digest, same_zone, .. } => {
                if let Some(task) = self.tasks.get_mut(digest).filter(|_| *same_zone) {
                    task.pairs.insert((*partner, *peer));
                }
            }
            Output::Unlink { peer, partner, digest } => {
                if let Some(task) = self.tasks.get_mut(digest) {
                    task.pairs.remove(&(*partner, *peer));
                    task.pairs.remove(&(*peer, *partner));
                }
            }
            Output::Picking { peer, digest, .. } => {
                if let Some(task) = self.tasks.get_mut(digest) {
                    task.pickers.insert(*peer);
                }
            }
            Output::UseSeed { .. }
            | Output::AskHashes { .. }
            | Output::Relay { .. }
            | Output::Entomb { .. }
            | Output::PaceSource { .. }
            | Output::PaceReports { .. } => {}
        }
        Ok(())
    }

    /// Whether what it says that it holds need not be believed.
    fn has_failed_a_peer_and_a_seed(&self, parent: PeerKey) -> bool {
        let is_seed = |child: &PeerKey| self.peers.get(child).is_some_and(|peer| peer.seed);
        let failed = || self.tasks.values().flat_map(|task| &task.parted);
        let children = || failed().filter(|(other, _)| *other == parent).map(|(_, child)| child);
        children().any(is_seed) && children().any(|child| !is_seed(child))
    }

    /// Two partners of one zone of which neither has anything to do, though one holds what the
    /// other wants. How much the planner lets a peer have is its own affair, that it is
    /// something is not (docs/design.md §1.9). Costs a look at every pair.
    pub(crate) fn find_idle(&self) -> Result<(), Violation> {
        for (digest, task) in &self.tasks {
            let mut idle = task.pairs.iter().filter(|(parent, child)| self.is_idle(task, *parent, *child));
            if let Some((parent, child)) = idle.next() {
                return Err(Violation::Idle { parent: *parent, child: *child, digest: *digest });
            }
        }
        Ok(())
    }

    fn is_idle(&self, task: &TaskView, parent: PeerKey, child: PeerKey) -> bool {
        let (Some(from), Some(to)) = (task.members.get(&parent), task.members.get(&child)) else {
            return false;
        };
        let (Some(owner), Some(taker)) = (self.peers.get(&parent), self.peers.get(&child)) else {
            return false;
        };
        let may_not = task.parted.contains(&(parent, child)) || task.pickers.contains(&child);
        if to.wanted.is_empty() || owner.owed_count > 0 || taker.awaited_bytes > 0 || may_not {
            return false;
        }
        let gives_once = task.readers.contains(&parent);
        let given = |piece: u32| {
            let others =
                task.members.iter().filter(|(key, _)| !self.peers.get(key).is_some_and(|peer| peer.seed));
            gives_once && others.map(|(_, other)| other).any(|other| other.taken.contains(piece))
        };
        let lacks = |piece: &u32| {
            task.known.contains(*piece) && to.wanted.contains(*piece) && !to.taken.contains(*piece)
        };
        from.held.iter().filter(lacks).any(|piece| !given(piece))
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
        let over_window = member.in_flight.len() > self.limits.window_max as usize;
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
        self.lose(peer, digest, piece);
        let member = self.tasks.get_mut(&digest).expect("announced").member(peer);
        member.held.insert(piece);
        member.taken.insert(piece);
    }

    fn failed(&mut self, child: PeerKey, parent: PeerKey, digest: Digest, piece: u32, reason: FailureReason) {
        let member = self.tasks.get(&digest).and_then(|task| task.members.get(&child));
        if member.and_then(|member| member.in_flight.get(&piece)) != Some(&parent) {
            return;
        }
        self.lose(child, digest, piece);
        let task = self.tasks.get_mut(&digest).expect("found above");
        task.parted.insert((parent, child));
        if reason == FailureReason::NotHeld {
            task.member(parent).held.remove(piece);
        }
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
        member.wanted = PieceSet::default();
        let pieces: Vec<u32> = member.in_flight.keys().copied().collect();
        for piece in pieces {
            self.lose(peer, digest, piece);
        }
    }

    fn leave(&mut self, peer: PeerKey, digest: Digest) {
        self.give_up(peer, digest);
        let Some(task) = self.tasks.get_mut(&digest) else { return };
        task.members.remove(&peer);
        task.pairs.retain(|(parent, child)| *parent != peer && *child != peer);
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
        Self {
            layout,
            members: BTreeMap::new(),
            known: PieceSet::new(layout.piece_count()),
            pairs: BTreeSet::new(),
            parted: BTreeSet::new(),
            readers: BTreeSet::new(),
            pickers: BTreeSet::new(),
        }
    }

    fn member(&mut self, peer: PeerKey) -> &mut MemberView {
        let nothing = || PieceSet::new(self.layout.piece_count());
        self.members.entry(peer).or_insert_with(|| MemberView {
            held: nothing(),
            taken: nothing(),
            in_flight: BTreeMap::new(),
            wanted: PieceSet::default(),
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
    fn a_holder_beside_a_partner_that_gets_nothing_is_seen_until_something_is_planned() {
        let mut audit = holder_and_child();
        assert_eq!(audit.find_idle(), Ok(()), "they are no partners");
        let digest = digest();
        for (peer, partner) in [(PARENT, CHILD), (CHILD, PARENT)] {
            audit.told(&Output::Link { peer, partner, digest, seed: false, same_zone: true }).unwrap();
        }
        assert_eq!(audit.find_idle(), Err(Violation::Idle { parent: PARENT, child: CHILD, digest }));
        audit.told(&assign(PARENT, CHILD, 1)).unwrap();
        assert_eq!(audit.find_idle(), Ok(()));
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
        audit.heard(&Input::Wanted { peer: CHILD, digest, size, part: None, reader: true });
        audit
    }

    fn assign(parent: PeerKey, child: PeerKey, piece: u32) -> Output {
        Output::Assign { child, parent, digest: digest(), piece, hash: hash(), hearsay: false }
    }

    fn digest() -> Digest {
        Digest::of(b"")
    }

    fn hash() -> PieceHash {
        PieceHash::of(b"")
    }
}
