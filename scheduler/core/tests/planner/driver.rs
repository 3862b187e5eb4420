//! A planner that is told things, and what it says to them.

use std::time::Instant;

use flotilla_proto::{FailureCause, Layout, PieceSet};
use flotilla_scheduler_core::{FailureReason, Input, Limits, Output, PeerFacts, PeerKey, Scheduler, Zone};

use super::{SIZE, digest, piece_hash};

/// The planner of a region with blob 0. What an input makes it assign comes as (child, parent, piece).
pub(crate) struct Planner {
    pub(crate) scheduler: Scheduler,
    pub(crate) now: Instant,
    /// Who was to read how many pieces from the registry.
    pub(crate) reads: Vec<(PeerKey, u32)>,
    /// Who was to have how many pieces of a holder in question.
    pub(crate) relays: Vec<(PeerKey, u32)>,
    pub(crate) assigned: Vec<(PeerKey, PeerKey, u32)>,
    pub(crate) failed: Vec<(PeerKey, FailureCause)>,
    /// Who was asked for hashes.
    pub(crate) asked: Vec<PeerKey>,
}

impl Planner {
    pub(crate) fn new(limits: Limits, seed: u64) -> Self {
        let scheduler = Scheduler::new(limits, seed);
        Self {
            scheduler,
            now: Instant::now(),
            reads: vec![],
            relays: vec![],
            assigned: vec![],
            failed: vec![],
            asked: vec![],
        }
    }

    pub(crate) fn join(&mut self, peer: PeerKey, seed: bool) {
        self.join_in(peer, seed, Zone(0));
    }

    pub(crate) fn join_in(&mut self, peer: PeerKey, seed: bool, zone: Zone) {
        let id = format!("p{}", peer.0).parse().unwrap();
        self.input(Input::PeerJoined { peer, facts: PeerFacts { id, seed, zone } });
    }

    /// Wants one piece.
    pub(crate) fn want_piece(&mut self, peer: PeerKey, piece: u32) -> Vec<(PeerKey, PeerKey, u32)> {
        let mut part = PieceSet::new(12);
        part.insert(piece);
        self.input(Input::Wanted { peer, digest: digest(0), size: SIZE, part: Some(part), reader: true })
    }

    pub(crate) fn want(&mut self, peer: PeerKey) -> Vec<(PeerKey, PeerKey, u32)> {
        self.input(Input::Wanted { peer, digest: digest(0), size: SIZE, part: None, reader: true })
    }

    pub(crate) fn announce(
        &mut self,
        peer: PeerKey,
        indices: std::ops::Range<u32>,
    ) -> Vec<(PeerKey, PeerKey, u32)> {
        let mut pieces = PieceSet::new(Layout::of(SIZE).unwrap().piece_count());
        let hashes = indices.clone().map(|piece| piece_hash(digest(0), piece)).collect();
        for piece in indices {
            pieces.insert(piece);
        }
        self.input(Input::Announced { peer, digest: digest(0), size: SIZE, pieces, hashes })
    }

    /// A peer has a piece that its parent sent it.
    pub(crate) fn announce_from(&mut self, peer: PeerKey, piece: u32) {
        let mut pieces = PieceSet::new(12);
        pieces.insert(piece);
        self.input(Input::Announced { peer, digest: digest(0), size: SIZE, pieces, hashes: vec![] });
    }

    pub(crate) fn input(&mut self, input: Input) -> Vec<(PeerKey, PeerKey, u32)> {
        self.scheduler.handle(self.now, input);
        self.drain()
    }

    /// Lets time pass until something is so.
    pub(crate) fn wait_for(&mut self, is_so: impl Fn(&Self) -> bool) {
        while !is_so(self) {
            self.now = self.scheduler.poll_timeout().expect("something is due");
            self.scheduler.handle_timeout(self.now);
            self.drain();
        }
    }

    /// What it makes it assign.
    pub(crate) fn drain(&mut self) -> Vec<(PeerKey, PeerKey, u32)> {
        let mut assigned = Vec::new();
        while let Some(output) = self.scheduler.poll_output() {
            match output {
                Output::Assign { child, parent, piece, .. } => assigned.push((child, parent, piece)),
                Output::ReadSource { seed, pieces, .. } => self.reads.push((seed, pieces.count())),
                Output::Relay { seed, pieces, .. } => self.relays.push((seed, pieces.count())),
                Output::FailTask { peer, failure, .. } => self.failed.push((peer, failure.cause)),
                Output::AskHashes { peer, .. } => self.asked.push(peer),
                _ => {}
            }
        }
        self.assigned.extend(&assigned);
        assigned
    }
}

/// A region with a seed, a holder that gives nothing, and clients.
pub(crate) fn beside_a_liar() -> (Planner, [PeerKey; 4]) {
    let mut planner = Planner::new(Limits::default(), 1);
    let all @ [seed, liar, one, other] = [0, 1, 2, 3].map(PeerKey);
    planner.join(seed, true);
    for peer in [liar, one, other] {
        planner.join(peer, false);
    }
    planner.announce(liar, 0..12);
    (planner, all)
}

pub(crate) fn failed(child: PeerKey, parent: PeerKey, piece: u32, reason: FailureReason) -> Input {
    Input::Failed { child, parent, digest: digest(0), piece, reason }
}
