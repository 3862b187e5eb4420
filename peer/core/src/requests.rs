//! The requests of one download to other peers: pieces that this peer or the scheduler chose,
//! and pieces that the parent chooses.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use flotilla_proto::{PeerId, PieceHash, PieceSet};

/// What is on its way. A piece is so at most once, as far as this peer knows.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    fetching: BTreeMap<u32, Fetching>,
    /// At most one from each parent.
    taking: BTreeMap<PeerId, Taking>,
    /// How many of both each parent was asked for; no zero.
    count_by_parent: BTreeMap<PeerId, u32>,
}

/// Whom to ask for a piece.
#[derive(Debug)]
pub(crate) struct Choice {
    pub(crate) parent: PeerId,
    /// What it must hash to.
    pub(crate) hash: PieceHash,
    /// Whether only peers say so.
    pub(crate) hearsay: bool,
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
    /// What it may still bring: what it was offered and did not come otherwise, then what the
    /// parent chose.
    may_bring: PieceSet,
}

impl Taking {
    /// What it brings, where that is certain.
    pub(crate) fn piece(&self) -> Option<u32> {
        let mut pieces = self.may_bring.iter();
        pieces.next().filter(|_| pieces.next().is_none())
    }
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

    /// A parent that is not asked already is asked for a piece of its choice among these.
    pub(crate) fn take(&mut self, parent: PeerId, begun_at: Instant, lacking: PieceSet) {
        self.count(&parent);
        let former = self.taking.insert(parent, Taking { begun_at, may_bring: lacking });
        assert!(former.is_none(), "one take from each parent at a time");
    }

    /// How long ago the parent was asked for a piece of its choice, if it was.
    pub(crate) fn age_of_take(&self, now: Instant, parent: &PeerId) -> Option<Duration> {
        Some(now.saturating_duration_since(self.taking.get(parent)?.begun_at))
    }

    /// A parent that was asked for a piece of its choice chose one. False if that does not help:
    /// it came meanwhile, or is on its way from another.
    pub(crate) fn chose(&mut self, parent: &PeerId, piece: u32) -> bool {
        let is_awaited = self.fetching.contains_key(&piece)
            || self.taking.iter().any(|(other, taking)| other != parent && taking.piece() == Some(piece));
        let taking = self.taking.get_mut(parent).expect("it was asked");
        if is_awaited || !taking.may_bring.contains(piece) {
            return false;
        }
        let mut chosen = PieceSet::new(taking.may_bring.len());
        chosen.insert(piece);
        taking.may_bring = chosen;
        true
    }

    /// A piece came. The parents that are asked for nothing else any more: their takes are over.
    pub(crate) fn came(&mut self, piece: u32) -> Vec<PeerId> {
        let useless = |(parent, taking): (&PeerId, &mut Taking)| {
            (taking.may_bring.remove(piece) && taking.may_bring.is_empty()).then(|| parent.clone())
        };
        let parents: Vec<PeerId> = self.taking.iter_mut().filter_map(useless).collect();
        for parent in &parents {
            self.end_take(parent);
        }
        parents
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
        self.fetching.contains_key(&piece) || self.taking.values().any(|taking| taking.piece() == Some(piece))
    }

    /// Takes what is known to be on its way out of a set.
    pub(crate) fn strike_awaited(&self, pieces: &mut PieceSet) {
        let chosen = self.taking.values().filter_map(Taking::piece);
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
