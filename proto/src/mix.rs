//! A hash for breaking ties and for seeded maps: the same in every run with the same seed.

/// The finaliser of SplitMix64 (Steele, Lea & Flood 2014): each bit of the input bears on each
/// of the output.
pub fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
