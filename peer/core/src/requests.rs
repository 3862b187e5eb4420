//! The requests of one download to other peers: pieces that this peer or the scheduler chose,
//! and pieces that the parent chooses.

use std::collections::BTreeMap;
use std::time::Instant;

use flotilla_proto::{PeerId, PieceSet};

/// What is on its way. A piece is so at most once, as far as this peer knows.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    fetching: BTreeMap<u32, Fetching>,
    /// At most one from each parent.
    taking: BTreeMap<PeerId, Taking>,
    /// How many of both each parent was asked for; no zero.
    count_by_parent: BTreeMap<PeerId, u32>,
}

/// A piece on its way.
#[derive(Debug)]
pub(crate) struct Fetching {
    pub(crate) parent: PeerId,
    pub(crate) begun_at: Instant,
    /// Whether this peer chose it by itself.
    pub(crate) picked: bool,
}

/// A request whose piece the parent chooses.
#[derive(Debug)]
pub(crate) struct Taking {
    pub(crate) begun_at: Instant,
    /// What it chose, once that is known.
    pub(crate) piece: Option<u32>,
}

impl Requests {
    /// A piece is asked for that is not on its way.
    pub(crate) fn fetch(&mut self, piece: u32, fetching: Fetching) {
        self.count(&fetching.parent);
        let former = self.fetching.insert(piece, fetching);
        assert!(former.is_none(), "piece {piece} is on its way already");
    }

    pub(crate) fn fetching(&self, piece: u32) -> Option<&Fetching> {
        self.fetching.get(&piece)
    }

    /// A piece that was asked for is on its way no more.
    pub(crate) fn end_fetch(&mut self, piece: u32) -> Option<Fetching> {
        let fetching = self.fetching.remove(&piece)?;
        self.discount(&fetching.parent);
        Some(fetching)
    }

    /// A parent that is not asked already is asked for a piece of its choice.
    pub(crate) fn take(&mut self, parent: PeerId, begun_at: Instant) {
        self.count(&parent);
        let former = self.taking.insert(parent, Taking { begun_at, piece: None });
        assert!(former.is_none(), "one take from each parent at a time");
    }

    pub(crate) fn taking_mut(&mut self, parent: &PeerId) -> Option<&mut Taking> {
        self.taking.get_mut(parent)
    }

    /// The parent that chose a piece.
    pub(crate) fn parent_that_chose(&self, piece: u32) -> Option<&PeerId> {
        self.taking.iter().find(|(_, taking)| taking.piece == Some(piece)).map(|(parent, _)| parent)
    }

    /// A request whose piece the parent chooses is over.
    pub(crate) fn end_take(&mut self, parent: &PeerId) -> Option<Taking> {
        let taking = self.taking.remove(parent)?;
        self.discount(parent);
        Some(taking)
    }

    /// All is over. The pieces that were asked for, and the parents that were to choose one.
    pub(crate) fn end_all(&mut self) -> (Vec<u32>, Vec<PeerId>) {
        let Self { fetching, taking, .. } = std::mem::take(self);
        (fetching.into_keys().collect(), taking.into_keys().collect())
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.fetching.len() + self.taking.len()
    }

    /// Whether a request to the parent is under way.
    pub(crate) fn is_asked(&self, parent: &PeerId) -> bool {
        self.count_by_parent.contains_key(parent)
    }

    /// Whether the piece is known to be on its way.
    pub(crate) fn is_awaited(&self, piece: u32) -> bool {
        self.fetching.contains_key(&piece) || self.parent_that_chose(piece).is_some()
    }

    /// Takes what is known to be on its way out of a set.
    pub(crate) fn strike_awaited(&self, pieces: &mut PieceSet) {
        let chosen = self.taking.values().filter_map(|taking| taking.piece);
        for piece in self.fetching.keys().copied().chain(chosen) {
            pieces.remove(piece);
        }
    }

    fn count(&mut self, parent: &PeerId) {
        match self.count_by_parent.get_mut(parent) {
            Some(count) => *count += 1,
            None => drop(self.count_by_parent.insert(parent.clone(), 1)),
        }
    }

    fn discount(&mut self, parent: &PeerId) {
        let count = self.count_by_parent.get_mut(parent).expect("counted when it was asked");
        *count -= 1;
        if *count == 0 {
            self.count_by_parent.remove(parent);
        }
    }
}
