//! What members want of one blob, all of them together.

use flotilla_proto::PieceSet;

/// How many want the blob, and which pieces of it.
#[derive(Debug)]
pub(crate) struct Demand {
    count: usize,
    /// Of those, the ones that want all of it.
    whole_count: usize,
    /// Per piece: those that want it as a part. Empty until somebody wants a part.
    counts: Vec<u32>,
    /// Pieces that are wanted as parts.
    parts: PieceSet,
}

impl Demand {
    pub(crate) fn new(piece_count: u32) -> Self {
        Self { count: 0, whole_count: 0, counts: Vec::new(), parts: PieceSet::new(piece_count) }
    }

    /// Members that want anything.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// One more wants that part; `None`: the whole.
    pub(crate) fn add(&mut self, part: Option<&PieceSet>) {
        self.count += 1;
        let Some(part) = part else {
            self.whole_count += 1;
            return;
        };
        if self.counts.is_empty() {
            self.counts = vec![0; part.len() as usize];
        }
        for piece in part.iter() {
            self.counts[piece as usize] += 1;
            self.parts.insert(piece);
        }
    }

    /// One that wanted that part, or the whole, wants it no more.
    pub(crate) fn remove(&mut self, part: Option<&PieceSet>) {
        self.count -= 1;
        let Some(part) = part else {
            self.whole_count -= 1;
            return;
        };
        for piece in part.iter() {
            self.counts[piece as usize] -= 1;
            if self.counts[piece as usize] == 0 {
                self.parts.remove(piece);
            }
        }
    }

    /// Of the 64 pieces of a word, those that somebody wants.
    pub(crate) fn word(&self, index: usize) -> u64 {
        if self.whole_count > 0 { u64::MAX } else { self.parts.words()[index] }
    }

    /// Those of some pieces that somebody wants.
    pub(crate) fn of(&self, pieces: PieceSet) -> PieceSet {
        if self.whole_count > 0 { pieces } else { pieces.intersection(&self.parts) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(pieces: impl IntoIterator<Item = u32>) -> PieceSet {
        pieces.into_iter().fold(PieceSet::new(70), |mut set, piece| {
            set.insert(piece);
            set
        })
    }

    #[test]
    fn a_piece_is_wanted_until_the_last_that_wants_it_goes() {
        let mut demand = Demand::new(70);
        demand.add(Some(&part([1, 69])));
        demand.add(Some(&part([69])));
        assert_eq!(demand.of(part([0, 1, 69])), part([1, 69]));
        demand.remove(Some(&part([1, 69])));
        assert_eq!((demand.count(), demand.of(part([0, 1, 69]))), (1, part([69])));
        demand.add(None);
        assert_eq!((demand.word(0), demand.of(part([0, 1]))), (u64::MAX, part([0, 1])));
        demand.remove(None);
        demand.remove(Some(&part([69])));
        assert_eq!((demand.count(), demand.word(1)), (0, 0));
    }
}
