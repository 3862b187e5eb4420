//! Bitsets as slices of words, lowest bit first: what sets of pieces are made of.
//!
//! # Panics
//! Each function that takes an index panics if the slice has no word for it.

/// Whether a bit is set.
pub fn contains(words: &[u64], index: u32) -> bool {
    words[index as usize / 64] >> (index % 64) & 1 == 1
}

/// Sets a bit. True if it was not set.
pub fn insert(words: &mut [u64], index: u32) -> bool {
    let word = &mut words[index as usize / 64];
    let before = *word;
    *word |= 1 << (index % 64);
    *word != before
}

/// Clears a bit. True if it was set.
pub fn remove(words: &mut [u64], index: u32) -> bool {
    let word = &mut words[index as usize / 64];
    let before = *word;
    *word &= !(1 << (index % 64));
    *word != before
}

/// The set bits, in order.
pub fn ones(words: &[u64]) -> impl Iterator<Item = u32> + '_ {
    (0..).step_by(64).zip(words).flat_map(|(base, word)| {
        let mut rest = *word;
        std::iter::from_fn(move || {
            let bit = rest.trailing_zeros();
            (rest != 0).then(|| {
                rest &= rest - 1;
                base + bit
            })
        })
    })
}

/// The first bit at or after `from` that is not set; `len` if there is none below it.
pub fn first_missing(words: &[u64], from: u32, len: u32) -> u32 {
    let mut index = from;
    while index < len {
        let open = !words[index as usize / 64] >> (index % 64);
        if open != 0 {
            return (index + open.trailing_zeros()).min(len);
        }
        index = (index / 64 + 1) * 64;
    }
    len
}

/// Of the word at that place in a slice, the bits below `end`.
pub fn below(end: u32, word: usize) -> u64 {
    let bits = (end as usize).saturating_sub(word * 64);
    if bits >= 64 { u64::MAX } else { (1 << bits) - 1 }
}

/// As many bits set, from the lowest.
pub fn full(len: u32) -> Vec<u64> {
    let mut words = vec![u64::MAX; len.div_ceil(64) as usize];
    if !len.is_multiple_of(64) {
        let last = words.last_mut().expect("len is not zero");
        *last = (1 << (len % 64)) - 1;
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_below_an_end_is_a_full_set_of_that_length() {
        for end in 1..200_u32 {
            let words: Vec<u64> = (0..end.div_ceil(64) as usize).map(|word| below(end, word)).collect();
            assert_eq!((words, below(end, 4)), (full(end), 0));
        }
    }
}
