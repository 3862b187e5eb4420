//! The partners of one download, and what a peer that picks knows of them.

use std::collections::BTreeMap;
use std::time::Instant;

use flotilla_proto::{PeerId, PieceHash, PieceSet, Rarity};

/// One peer that a download may exchange pieces with.
#[derive(Debug)]
pub(crate) struct Partner {
    pub(crate) seed: bool,
    pub(crate) same_zone: bool,
    /// It was named by a scheduler that has been lost since.
    pub(crate) is_former: bool,
    pub(crate) follow: Follow,
    /// What it told while it was followed.
    pub(crate) held: PieceSet,
}

/// Whether a partner tells what it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Follow {
    No,
    Yes,
    /// It ended; followed again at that time.
    Ended {
        again_at: Instant,
    },
}

/// What is known of all partners together. It lives while the download picks.
#[derive(Debug)]
pub(crate) struct Picking {
    /// How many partners other than seeds hold each piece.
    pub(crate) copies: Rarity,
    hashes: Vec<Option<PieceHash>>,
    /// When a partner that rests may be asked again, where the window has room for it.
    pub(crate) again_at: Option<Instant>,
    /// Whether the window has room and nobody that is not asked already has anything to give.
    pub(crate) is_dry: bool,
    /// Partners whose follow ended, and that are to be followed again.
    pub(crate) ended_count: usize,
}

impl Partner {
    pub(crate) fn new(seed: bool, same_zone: bool, piece_count: u32) -> Self {
        let held = PieceSet::new(piece_count);
        Self { seed, same_zone, is_former: false, follow: Follow::No, held }
    }
}

impl Picking {
    pub(crate) fn new(piece_count: u32) -> Self {
        let hashes = vec![None; piece_count as usize];
        Self { copies: Rarity::new(piece_count), hashes, again_at: None, is_dry: false, ended_count: 0 }
    }

    /// Whether a piece of both sets is held by no partner but seeds.
    pub(crate) fn has_uncopied(&self, lacking: &PieceSet, held: &PieceSet) -> bool {
        let both = lacking.words().iter().zip(held.words()).map(|(one, other)| one & other);
        both.enumerate().any(|(index, word)| word & self.copies.absent_word(index) != 0)
    }

    /// Those of a set that no partner but seeds holds. A seed that could choose among the others
    /// too would, near the end, choose what is fetched by name meanwhile. Costs a pass over the set.
    pub(crate) fn uncopied(&self, lacking: &PieceSet) -> PieceSet {
        let mut uncopied = PieceSet::new(lacking.len());
        for piece in lacking.iter().filter(|piece| self.copies.is_absent(*piece)) {
            uncopied.insert(piece);
        }
        uncopied
    }

    pub(crate) fn hash(&self, piece: u32) -> Option<PieceHash> {
        self.hashes[piece as usize]
    }

    /// A partner told that it holds pieces. A hash is believed of whoever told it first, but a
    /// seed's word stands over others': whoever disagrees is not taken to hold the piece.
    pub(crate) fn holds(
        &mut self,
        partners: &mut BTreeMap<PeerId, Partner>,
        id: &PeerId,
        pieces: &PieceSet,
        hashes: &[PieceHash],
    ) {
        let Some(seed) = partners.get(id).map(|partner| partner.seed) else { return };
        for (piece, hash) in pieces.iter().zip(hashes) {
            let known = &mut self.hashes[piece as usize];
            match known {
                Some(known) if *known == *hash => {}
                Some(_) if !seed => continue,
                Some(known) => {
                    *known = *hash;
                    for other in partners.values_mut() {
                        if other.held.remove(piece) && !other.seed {
                            self.copies.remove(piece, false);
                        }
                    }
                }
                None => *known = Some(*hash),
            }
            let partner = partners.get_mut(id).expect("looked up above");
            if partner.held.insert(piece) && !seed {
                self.copies.add(piece, false);
            }
        }
    }

    /// A partner does not hold a piece after all.
    pub(crate) fn lacks(&mut self, partner: &mut Partner, piece: u32) {
        if partner.held.remove(piece) && !partner.seed {
            self.copies.remove(piece, false);
        }
    }

    /// Nothing is known of what a partner holds any more.
    pub(crate) fn forget(&mut self, partner: &mut Partner) {
        for piece in partner.held.iter().filter(|_| !partner.seed) {
            self.copies.remove(piece, false);
        }
        partner.held = PieceSet::new(partner.held.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str) -> PeerId {
        name.parse().unwrap()
    }

    fn one(piece: u32) -> PieceSet {
        let mut pieces = PieceSet::new(4);
        pieces.insert(piece);
        pieces
    }

    #[test]
    fn copies_are_counted_outside_the_seeds_and_discounted_with_their_holder() {
        let mut picking = Picking::new(4);
        let mut partners = BTreeMap::new();
        for (name, seed) in [("a", false), ("b", false), ("s", true)] {
            partners.insert(id(name), Partner::new(seed, true, 4));
            for _twice in 0..2 {
                picking.holds(&mut partners, &id(name), &one(2), &[PieceHash::of(b"2")]);
            }
        }
        assert_eq!((picking.copies.copies(2), picking.hash(2)), (2, Some(PieceHash::of(b"2"))));
        picking.lacks(partners.get_mut(&id("a")).unwrap(), 2);
        picking.forget(partners.get_mut(&id("b")).unwrap());
        picking.forget(partners.get_mut(&id("s")).unwrap());
        assert_eq!(picking.copies.copies(2), 0);
    }

    #[test]
    fn a_seed_s_hash_stands_over_others_and_the_first_over_the_second() {
        let mut picking = Picking::new(4);
        let mut partners = BTreeMap::new();
        for (name, seed) in [("liar", false), ("honest", false), ("seed", true)] {
            partners.insert(id(name), Partner::new(seed, true, 4));
        }
        picking.holds(&mut partners, &id("liar"), &one(1), &[PieceHash::of(b"lie")]);
        picking.holds(&mut partners, &id("honest"), &one(1), &[PieceHash::of(b"1")]);
        assert!(!partners[&id("honest")].held.contains(1));
        picking.holds(&mut partners, &id("seed"), &one(1), &[PieceHash::of(b"1")]);
        picking.holds(&mut partners, &id("honest"), &one(1), &[PieceHash::of(b"1")]);
        assert!(partners[&id("honest")].held.contains(1) && !partners[&id("liar")].held.contains(1));
        assert_eq!((picking.copies.copies(1), picking.hash(1)), (1, Some(PieceHash::of(b"1"))));
    }
}
