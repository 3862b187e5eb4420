//! What the pieces of one blob must hash to, on whose word, and what of it is in doubt.
//!
//! A hash is believed of whoever told it first, until one tells another who ought to know: a seed
//! that has the piece from the registry, or holds the whole blob and so has checked its SHA-256. Of
//! a peer that would be one peer's word. Once somebody found the whole to be wrong, only the seed
//! that reads ought to know: it is the *judge*, nothing is planned but what it has told, and its
//! own SHA-256 decides.

use std::collections::HashMap;

use flotilla_proto::{PieceHash, PieceSet, Root, bits};

use crate::PeerKey;

/// The hashes of a task's pieces.
#[derive(Debug)]
pub(crate) struct Hashes {
    piece_count: u32,
    /// Empty until the first is told.
    by_piece: Vec<Option<PieceHash>>,
    /// Pieces whose hash is told and not in doubt. Only such pieces are planned.
    usable: Vec<u64>,
    /// Those that were told by who ought to know.
    checked: Vec<u64>,
    doubt: Option<Doubt>,
    /// Whether a judge has told all hashes: one peer's word raises no doubt any more.
    settled: bool,
    /// Who told a hash first, of those that nobody told who ought to know. Empty until somebody does.
    tellers: HashMap<u32, PeerKey>,
}

/// The whole was found to be wrong by one peer.
#[derive(Debug)]
struct Doubt {
    /// The seed that was ordered to read what it does not hold, once one was.
    judge: Option<PeerKey>,
    /// Pieces whose hash it has not told.
    open: PieceSet,
}

/// How much whoever tells a hash ought to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Word {
    /// It holds the piece, whatever it is.
    Hearsay,
    /// It is a seed that read the piece from the registry, or holds the whole blob.
    Checked,
    /// It decides what is in doubt.
    Judge,
}

/// What a word on a hash comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Learnt {
    /// It is what was known, or the first word.
    Agrees,
    /// Another hash stands: the teller does not hold the piece.
    Differs,
    /// It stands from here on: whoever held the piece does not.
    Overrules,
}

impl Hashes {
    pub(crate) fn new(piece_count: u32) -> Self {
        let words = bits::full(piece_count).len();
        Self {
            piece_count,
            by_piece: Vec::new(),
            usable: vec![0; words],
            checked: vec![0; words],
            doubt: None,
            settled: false,
            tellers: HashMap::new(),
        }
    }

    /// Learns from a member what a piece must hash to.
    pub(crate) fn learn(&mut self, teller: PeerKey, piece: u32, hash: PieceHash, word: Word) -> Learnt {
        if self.by_piece.is_empty() {
            self.by_piece = vec![None; self.piece_count as usize];
        }
        if word == Word::Hearsay && self.by_piece[piece as usize].is_none() {
            self.tellers.insert(piece, teller);
        }
        let known = self.by_piece[piece as usize].get_or_insert(hash);
        let agrees = *known == hash;
        if agrees && word > Word::Hearsay {
            self.tellers.remove(&piece);
        }
        let is_checked = bits::contains(&self.checked, piece);
        if !agrees && (word == Word::Hearsay || word == Word::Checked && (is_checked || self.doubt.is_some()))
        {
            return Learnt::Differs;
        }
        *known = hash;
        self.believe(piece, word);
        if agrees { Learnt::Agrees } else { Learnt::Overrules }
    }

    fn believe(&mut self, piece: u32, word: Word) {
        if let Some(doubt) = &mut self.doubt {
            if word < Word::Judge {
                return;
            }
            doubt.open.remove(piece);
            if doubt.open.is_empty() {
                (self.doubt, self.settled) = (None, true);
            }
        }
        bits::insert(&mut self.usable, piece);
        if word > Word::Hearsay {
            bits::insert(&mut self.checked, piece);
        }
    }

    /// What a piece that may be planned must hash to.
    pub(crate) fn usable(&self, piece: u32) -> Option<PieceHash> {
        let is_usable = bits::contains(&self.usable, piece);
        self.by_piece.get(piece as usize).copied().flatten().filter(|_| is_usable)
    }

    /// Pieces that may be planned.
    pub(crate) fn usable_words(&self) -> &[u64] {
        &self.usable
    }

    /// Whether all of these pieces may be planned.
    pub(crate) fn are_usable(&self, pieces: &PieceSet) -> bool {
        pieces.words().iter().zip(&self.usable).all(|(piece, usable)| piece & !usable == 0)
    }

    /// Pieces whose hash was told by who ought to know.
    pub(crate) fn checked_words(&self) -> &[u64] {
        &self.checked
    }

    /// Whether a hash is another than who ought to know has told.
    pub(crate) fn is_refuted(&self, piece: u32, hash: PieceHash) -> bool {
        bits::contains(&self.checked, piece) && self.by_piece[piece as usize] != Some(hash)
    }

    /// Whether one of these pieces' hashes, which turned out to be another, was told by that member.
    pub(crate) fn told_by(&self, teller: PeerKey, pieces: &PieceSet) -> bool {
        self.tellers.iter().any(|(piece, by)| *by == teller && pieces.contains(*piece))
    }

    /// Somebody who ought to know has told these pieces' hashes: who told others before does not matter any more.
    pub(crate) fn forget_tellers(&mut self, pieces: &PieceSet) {
        self.tellers.retain(|piece, _| !pieces.contains(*piece));
    }

    /// The root of the list, once it has no gaps. Costs a hash over it.
    pub(crate) fn root(&self) -> Option<Root> {
        let is_whole = !self.by_piece.is_empty() && self.by_piece.iter().all(Option::is_some);
        is_whole.then(|| self.root_so_far())
    }

    /// The root of what is known of the list. Costs a hash over it.
    pub(crate) fn root_so_far(&self) -> Root {
        Root::of(self.by_piece.iter().copied())
    }

    /// Somebody found the whole to be wrong. False if that changes nothing: it is in doubt already,
    /// or a judge has told what is right.
    pub(crate) fn raise_doubt(&mut self) -> bool {
        if self.settled || self.doubt.is_some() {
            return false;
        }
        self.doubt = Some(Doubt { judge: None, open: PieceSet::full(self.piece_count) });
        self.usable.fill(0);
        self.checked.fill(0);
        true
    }

    /// Nobody can decide: what was known is as good as before.
    pub(crate) fn drop_doubt(&mut self) {
        if self.doubt.take().is_some() {
            for (piece, _) in (0..).zip(&self.by_piece).filter(|(_, hash)| hash.is_some()) {
                bits::insert(&mut self.usable, piece);
            }
        }
    }

    /// What the judge has not told yet, while there is a doubt.
    pub(crate) fn in_doubt(&self) -> Option<&PieceSet> {
        self.doubt.as_ref().map(|doubt| &doubt.open)
    }

    pub(crate) fn judge(&self) -> Option<PeerKey> {
        self.doubt.as_ref()?.judge
    }

    /// A seed reads: if there is a doubt it decides, from the beginning. Whether it did not before.
    pub(crate) fn appoint(&mut self, seed: PeerKey) -> bool {
        let Some(doubt) = self.doubt.as_mut().filter(|doubt| doubt.judge != Some(seed)) else { return false };
        *doubt = Doubt { judge: Some(seed), open: PieceSet::full(self.piece_count) };
        self.usable.fill(0);
        true
    }

    /// A peer that may be the judge is gone.
    pub(crate) fn dismiss(&mut self, peer: PeerKey) {
        if let Some(doubt) = self.doubt.as_mut().filter(|doubt| doubt.judge == Some(peer)) {
            doubt.judge = None;
        }
        // Another peer may have its key.
        self.tellers.retain(|_, teller| *teller != peer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(byte: u8) -> PieceHash {
        PieceHash::from_bytes([byte; 32])
    }

    #[test]
    fn the_first_word_stands_until_one_who_ought_to_know_speaks() {
        let mut hashes = Hashes::new(2);
        assert_eq!(hashes.learn(PeerKey(0), 0, hash(1), Word::Hearsay), Learnt::Agrees);
        assert_eq!(hashes.learn(PeerKey(0), 0, hash(2), Word::Hearsay), Learnt::Differs);
        assert_eq!(hashes.learn(PeerKey(0), 0, hash(2), Word::Checked), Learnt::Overrules);
        assert_eq!(hashes.learn(PeerKey(0), 0, hash(3), Word::Checked), Learnt::Differs);
        assert!(hashes.is_refuted(0, hash(1)) && !hashes.is_refuted(0, hash(2)));
        assert_eq!((hashes.usable(0), hashes.root()), (Some(hash(2)), None));
        hashes.learn(PeerKey(0), 1, hash(4), Word::Hearsay);
        assert_eq!(hashes.root(), Some(Root::of([Some(hash(2)), Some(hash(4))])));
    }

    #[test]
    fn in_doubt_only_the_judge_is_heard_and_once_only() {
        let (mut hashes, judge) = (Hashes::new(2), PeerKey(7));
        for piece in 0..2 {
            hashes.learn(PeerKey(0), piece, hash(1), Word::Checked);
        }
        assert!(hashes.raise_doubt() && !hashes.raise_doubt());
        assert!(hashes.appoint(judge) && !hashes.appoint(judge));
        assert_eq!(hashes.learn(PeerKey(0), 0, hash(2), Word::Checked), Learnt::Differs);
        assert_eq!(hashes.learn(PeerKey(0), 0, hash(1), Word::Checked), Learnt::Agrees);
        assert_eq!(hashes.usable(0), None);
        assert_eq!(hashes.learn(PeerKey(0), 0, hash(2), Word::Judge), Learnt::Overrules);
        assert_eq!(hashes.learn(PeerKey(0), 1, hash(1), Word::Judge), Learnt::Agrees);
        assert_eq!((hashes.usable(0), hashes.usable(1)), (Some(hash(2)), Some(hash(1))));
        assert!(hashes.in_doubt().is_none() && !hashes.raise_doubt(), "it is settled");
    }

    #[test]
    fn a_doubt_that_nobody_can_decide_leaves_what_was_known() {
        let mut hashes = Hashes::new(2);
        hashes.learn(PeerKey(0), 1, hash(1), Word::Hearsay);
        hashes.raise_doubt();
        hashes.drop_doubt();
        assert_eq!((hashes.usable(0), hashes.usable(1)), (None, Some(hash(1))));
        assert!(hashes.raise_doubt(), "it may be raised again");
    }
}
