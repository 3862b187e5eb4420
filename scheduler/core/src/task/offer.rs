//! What one member can give another, word by word of their bitsets.

use flotilla_proto::{PieceSet, bits};

use super::{Seat, Task};
use crate::rank::PieceScore;

impl Task {
    /// Word by word what a member wants and neither holds nor awaits.
    pub(crate) fn open(&self, seat: Seat) -> Vec<u64> {
        let member = self.member(seat);
        let taken = self.rows.taken(member.row);
        let all = bits::full(self.piece_count());
        let wanted = member.part().map_or(&all[..], PieceSet::words);
        wanted.iter().zip(taken).map(|(wanted, taken)| wanted & !taken).collect()
    }

    /// Takes out of `open` what `parent` holds and `child` may get of it.
    pub(crate) fn strike_given(&self, open: &mut [u64], parent: Seat, child: Seat) {
        let given = self.passing(parent, child);
        for (index, word) in open.iter_mut().enumerate() {
            *word &= !given(index);
        }
    }

    /// Whether `parent` holds any of these pieces and `child` may get it.
    pub(crate) fn gives_any(&self, parent: Seat, child: Seat, open: &[u64]) -> bool {
        let given = self.passing(parent, child);
        open.iter().enumerate().any(|(index, word)| word & given(index) != 0)
    }

    /// Whether nobody holds some of these pieces.
    pub(crate) fn is_unheld_in(&self, open: &[u64]) -> bool {
        open.iter().zip(&self.unheld).any(|(word, unheld)| word & unheld != 0)
    }

    /// Whether `parent` holds a piece that may be planned to `child`. Costs a word operation
    /// per 64 pieces at most.
    pub(crate) fn can_help(&self, parent: Seat, child: Seat) -> bool {
        let useful = self.useful(parent, child);
        (0..self.unheld.len()).any(|index| useful(index) != 0)
    }

    /// The best piece that `parent` can give `child`, with its score. From a seed, one that no
    /// other peer of the region has or awaits, if there is any.
    pub(crate) fn best_piece(&self, parent: Seat, child: Seat) -> Option<(PieceScore, u32)> {
        let (from, to) = (self.member(parent), self.member(child));
        let reader = to.reader(self.piece_count());
        let rarity = &self.zones[to.zone as usize].rarity;
        let useful = self.useful(parent, child);
        let scored = |second_copy_from_seed: bool| {
            move |(value, piece)| (PieceScore { second_copy_from_seed, value }, piece)
        };
        if !from.seed {
            return rarity.best(useful, reader).map(scored(false));
        }
        let first = rarity.best(|index| useful(index) & !self.shared[index], reader).map(scored(false));
        first.or_else(|| rarity.best(useful, reader).map(scored(true)))
    }

    /// The score of one piece for a pair.
    pub(crate) fn score(&self, parent: Seat, child: Seat, piece: u32) -> PieceScore {
        let (from, to) = (self.member(parent), self.member(child));
        let copies = self.zones[to.zone as usize].rarity.copies(piece);
        let second = from.seed && bits::contains(&self.shared, piece);
        PieceScore::new(piece, copies, to.reader(self.piece_count()), second)
    }

    /// Whether a member gives `child` no piece that another peer has or awaits. A child that wants a part gets it
    /// from the seed all the same: the peers that have it need not be its partners.
    fn gives_once(&self, parent: Seat, child: Seat) -> bool {
        self.is_reader(parent) && self.member(child).part().is_none()
    }

    /// Whether a member is the seed that reads.
    fn is_reader(&self, parent: Seat) -> bool {
        self.source.reader() == Some(self.member(parent).peer)
    }

    /// Whether a parent keeps a piece back because it gives nothing twice.
    pub(crate) fn keeps_back(&self, parent: Seat, child: Seat, piece: u32) -> bool {
        self.gives_once(parent, child) && bits::contains(&self.shared, piece)
    }

    /// Word by word the pieces that `parent` can give `child`: those it holds whose hash is
    /// known and that the child lacks and wants; across zones only what nobody in the child's
    /// zone holds or awaits.
    ///
    /// A seed gives nothing twice while it reads. Where the registry is a little slower than the
    /// seed's uplink, there is always a free slot for a second copy, each makes the first copies
    /// beside it later, the seed is held back until those have arrived, and so it has still less
    /// to give: measured with 12 nodes at 200 Mbit/s, the seed sent every peer three quarters of
    /// the blob and the last was done after 8.6 times the bound.
    fn useful(&self, parent: Seat, child: Seat) -> impl Fn(usize) -> u64 {
        let to = self.member(child);
        let taken = self.rows.taken(to.row);
        let gives_once = self.gives_once(parent, child);
        let known = self.hashes.usable_words();
        let part = to.part().map(PieceSet::words);
        // What it is about to read from the registry it need not have twice.
        let ordered = to.seed.then(|| self.source.ordered_of(to.peer)).flatten();
        let is_read = move |index: usize| {
            ordered.map_or(0, |(ordered, until)| ordered.words()[index] & bits::below(until, index))
        };
        let passing = self.passing(parent, child);
        move |index| {
            let shared = if gives_once { self.shared[index] } else { 0 };
            let wanted = part.map_or(u64::MAX, |part| part[index]);
            passing(index) & known[index] & wanted & !taken[index] & !shared & !is_read(index)
        }
    }

    /// Word by word what `parent` holds that may pass to `child` as far as zones go.
    fn passing(&self, parent: Seat, child: Seat) -> impl Fn(usize) -> u64 {
        let (from, to) = (self.member(parent), self.member(child));
        let held = self.rows.held(from.row);
        let rarity = (from.zone != to.zone).then(|| &self.zones[to.zone as usize].rarity);
        move |index| rarity.map_or(held[index], |rarity| held[index] & rarity.absent_word(index))
    }

    pub(crate) fn crosses(&self, parent: Seat, child: Seat) -> bool {
        self.member(parent).zone != self.member(child).zone
    }

    /// Whether a member that wants the blob wants this piece of it.
    pub(crate) fn wants(&self, seat: Seat, piece: u32) -> bool {
        self.member(seat).part().is_none_or(|part| part.contains(piece))
    }
}
