//! Which piece first: rarity by doublings, then nearness to the reader. Both who plans for
//! others and who picks for itself choose by it.
//!
//! `64 · ⌊log2(copies + 1)⌋ + (index − reader)`, lower is first: pure rarity makes the client's
//! last byte late, pure order the whole swarm (`docs/design.md` §4d). How rare each piece is, is
//! kept so that the best of some is found in a few word operations.
//!
//! Pieces lie in one bitset per doubling of their copies: level `l` has those with
//! `2^l − 1 ≤ copies < 2^(l+1) − 1`. The best of a level is the first set bit from the
//! reader on, and a level is only worth a look while it can beat what was found before.

use crate::bits;

/// The copies of each piece among some peers, a zone's or a download's partners: one bit per level
/// and piece, six bytes a piece besides.
#[derive(Debug)]
pub struct Rarity {
    /// Peers other than seeds that hold or await the piece.
    copies: Vec<u32>,
    /// The same for seeds.
    seed_copies: Vec<u16>,
    /// Pieces with a copy at a seed.
    at_seeds: Vec<u64>,
    /// Level after level, `stride` words each.
    levels: Vec<u64>,
    /// Pieces of each level.
    counts: Vec<u32>,
    stride: usize,
}

impl Rarity {
    /// Of a blob of so many pieces, of which nobody has any.
    pub fn new(piece_count: u32) -> Self {
        let levels = bits::full(piece_count);
        let stride = levels.len();
        Self {
            copies: vec![0; piece_count as usize],
            seed_copies: vec![0; piece_count as usize],
            at_seeds: vec![0; stride],
            levels,
            counts: vec![piece_count],
            stride,
        }
    }

    /// One peer more holds or awaits the piece.
    pub fn add(&mut self, piece: u32, at_seed: bool) {
        if at_seed {
            self.seed_copies[piece as usize] += 1;
            bits::insert(&mut self.at_seeds, piece);
        } else {
            self.copies[piece as usize] += 1;
            let copies = self.copies[piece as usize];
            self.change(piece, level(copies - 1), level(copies));
        }
    }

    /// One less.
    ///
    /// # Panics
    /// If nobody did.
    pub fn remove(&mut self, piece: u32, at_seed: bool) {
        if at_seed {
            self.seed_copies[piece as usize] -= 1;
            if self.seed_copies[piece as usize] == 0 {
                bits::remove(&mut self.at_seeds, piece);
            }
        } else {
            self.copies[piece as usize] -= 1;
            let copies = self.copies[piece as usize];
            self.change(piece, level(copies + 1), level(copies));
        }
    }

    fn change(&mut self, piece: u32, from: usize, to: usize) {
        if from == to {
            return;
        }
        if to == self.counts.len() {
            self.counts.push(0);
            self.levels.resize(self.levels.len() + self.stride, 0);
        }
        bits::remove(&mut self.levels[from * self.stride..][..self.stride], piece);
        bits::insert(&mut self.levels[to * self.stride..][..self.stride], piece);
        self.counts[from] -= 1;
        self.counts[to] += 1;
    }

    /// Peers, seeds aside, that hold or await the piece.
    pub fn copies(&self, piece: u32) -> u32 {
        self.copies[piece as usize]
    }

    /// Whether nobody holds or awaits the piece.
    pub fn is_absent(&self, piece: u32) -> bool {
        self.copies[piece as usize] == 0 && self.seed_copies[piece as usize] == 0
    }

    /// Of the 64 pieces of a word, those that nobody holds or awaits.
    pub fn absent_word(&self, index: usize) -> u64 {
        self.levels[index] & !self.at_seeds[index]
    }

    /// The score of the best of the useful pieces, and the piece. They are given as a function from
    /// word index to word. Costs at most a look at each word per level that has pieces; mostly a few.
    pub fn best(&self, useful: impl Fn(usize) -> u64, reader: Reader) -> Option<(u32, u32)> {
        if self.stride > SCRATCH {
            return self.best_of(useful, reader);
        }
        let (mut words, mut any) = ([0; SCRATCH], 0);
        for (index, word) in words[..self.stride].iter_mut().enumerate() {
            *word = useful(index);
            any |= *word;
        }
        if any == 0 { None } else { self.best_of(|index| words[index], reader) }
    }

    fn best_of(&self, useful: impl Fn(usize) -> u64, reader: Reader) -> Option<(u32, u32)> {
        let mut best: Option<(u32, u32)> = None;
        for level in (0..self.counts.len()).filter(|level| self.counts[*level] > 0) {
            let floor = PER_DOUBLING * u32::try_from(level).expect("at most 32");
            let reach = match best {
                Some((value, _)) if value <= floor => break,
                Some((value, _)) => value - floor,
                None => u32::MAX,
            };
            let words = &self.levels[level * self.stride..][..self.stride];
            let Some(piece) = nearest(|index| words[index] & useful(index), reader, reach) else { continue };
            let value = floor + reader.distance_to(piece);
            if best.is_none_or(|(other, _)| value < other) {
                best = Some((value, piece));
            }
        }
        best
    }
}

/// Where a client reads: pieces before its position come last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reader {
    /// The next piece in order; where nobody reads, any, from which equals are looked at.
    pub piece: u32,
    /// How many pieces the blob has.
    pub piece_count: u32,
    /// Whether a client reads.
    pub reads: bool,
}

impl Reader {
    /// How far a piece is ahead of the reader; those behind it come last.
    fn distance_to(self, index: u32) -> u32 {
        match index.checked_sub(self.piece) {
            _ if !self.reads => 0,
            Some(ahead) => ahead,
            None => self.piece_count - self.piece + index,
        }
    }

    /// The score of a piece that so many peers other than seeds hold or await.
    pub fn score(self, index: u32, copies: u32) -> u32 {
        PER_DOUBLING * (copies + 1).ilog2() + self.distance_to(index)
    }
}

/// The first set bit from the reader on, then from the start; only as far as `reach` pieces.
fn nearest(word: impl Fn(usize) -> u64, reader: Reader, reach: u32) -> Option<u32> {
    let Reader { piece: from, piece_count, .. } = reader;
    let end = from.saturating_add(reach).min(piece_count);
    let found = first_set(&word, from, end);
    let wrapped = reach.saturating_sub(piece_count - from).min(from);
    found.or_else(|| first_set(&word, 0, wrapped))
}

fn first_set(word: impl Fn(usize) -> u64, from: u32, end: u32) -> Option<u32> {
    let mut index = from;
    while index < end {
        let bits = word(index as usize / 64) >> (index % 64);
        if bits != 0 {
            return Some(index + bits.trailing_zeros()).filter(|found| *found < end);
        }
        index = (index / 64 + 1) * 64;
    }
    None
}

/// 32 to 64 points a doubling are best, 8 or 128 are worse (`docs/design.md` §4d).
const PER_DOUBLING: u32 = 64;

/// Words that are worked out once for all levels: for up to 4096 pieces.
const SCRATCH: usize = 64;

fn level(copies: u32) -> usize {
    (copies + 1).ilog2() as usize
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const START: Reader = Reader { piece: 0, piece_count: 1024, reads: true };

    #[test]
    fn a_doubling_of_copies_weighs_as_much_as_64_pieces_of_distance() {
        assert!(START.score(63, 0) < START.score(0, 1));
        assert_eq!(START.score(64, 0), START.score(0, 1));
        assert!(START.score(65, 0) > START.score(0, 2));
    }

    #[test]
    fn pieces_behind_the_reader_come_last() {
        let reader = Reader { piece: 10, piece_count: 20, reads: true };
        let score = |index| reader.score(index, 0);
        assert!(score(10) < score(19) && score(19) < score(0));
    }

    proptest! {
        #[test]
        fn the_best_piece_is_the_least_by_score(
            copies in proptest::collection::vec(0_u32..40, 1..300),
            useful: u64,
            reader: u32,
            nobody_reads: bool,
        ) {
            let piece_count = u32::try_from(copies.len()).unwrap();
            let mut rarity = Rarity::new(piece_count);
            for (piece, copies) in (0..).zip(&copies) {
                for _ in 0..copies + 2 {
                    rarity.add(piece, false);
                }
                rarity.remove(piece, false);
                rarity.remove(piece, false);
            }
            let is_useful = |piece: u32| useful.rotate_left(piece / 64) >> (piece % 64) & 1 == 1;
            let word = |index: usize| {
                let pieces = (index * 64..copies.len().min(index * 64 + 64)).zip(0..);
                pieces.fold(0, |word, (piece, bit)| word | u64::from(is_useful(u32::try_from(piece).unwrap())) << bit)
            };
            let reader = Reader { piece: reader % piece_count, piece_count, reads: !nobody_reads };
            let score = |piece: u32| reader.score(piece, copies[piece as usize]);
            let least = (0..piece_count).filter(|piece| is_useful(*piece)).map(score).min();
            let best = rarity.best(word, reader);
            prop_assert_eq!(best.map(|(score, _)| score), least);
            if let Some((found, piece)) = best {
                prop_assert!(is_useful(piece));
                prop_assert_eq!(score(piece), found);
            }
        }
    }
}
