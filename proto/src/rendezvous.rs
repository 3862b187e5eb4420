//! Who owns a key, agreed on by everyone who knows the same names.

/// The names in the order in which they own `key`: highest random weight first (Thaler &
/// Ravishankar, 1998). Taking a name out moves only the keys it owned.
pub fn rendezvous_order<'a, N: AsRef<str> + ?Sized>(
    key: &[u8],
    names: impl IntoIterator<Item = &'a N>,
) -> Vec<&'a N> {
    let mut weighted: Vec<([u8; 8], &N)> =
        names.into_iter().map(|name| (hash(key, name.as_ref()), name)).collect();
    weighted.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.as_ref().cmp(b.1.as_ref())));
    weighted.into_iter().map(|(_, name)| name).collect()
}

/// How much `name` wants `key`; the highest score owns it, and names own keys in proportion to their
/// `weight` (Schindelhauer & Schomaker, 2005: `-weight / ln(u)` of a hash `u`). A weight of 0 owns nothing.
pub fn weighted_score(key: &[u8], name: &str, weight: u32) -> u64 {
    let hash = u64::from_be_bytes(hash(key, name));
    // In (0, 1), so that the logarithm is finite and not zero.
    let unit = ((hash >> 12) as f64 + 0.5) / (1_u64 << 52) as f64;
    (f64::from(weight) / -unit.ln()).to_bits()
}

fn hash(key: &[u8], name: &str) -> [u8; 8] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(key);
    hasher.update(&[0]);
    hasher.update(name.as_bytes());
    let mut hash = [0; 8];
    hasher.finalize_xof().fill(&mut hash);
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEEDS: [&str; 5] = ["seed-0", "seed-1", "seed-2", "seed-3", "seed-4"];

    #[test]
    fn a_name_that_leaves_moves_only_its_own_keys() {
        for key in 0_u32..200 {
            let key = key.to_be_bytes();
            let before = rendezvous_order(&key, SEEDS);
            let after = rendezvous_order(&key, SEEDS.into_iter().filter(|name| *name != before[2]));
            let expected: Vec<&str> = before.iter().copied().filter(|name| *name != before[2]).collect();
            assert_eq!(after, expected);
        }
    }

    #[test]
    fn keys_spread_in_proportion_to_the_weights() {
        let weights = [("a", 1), ("b", 3), ("c", 0)];
        let mut owned = [0; 3];
        for key in 0_u32..4000 {
            let score = |index: usize| weighted_score(&key.to_be_bytes(), weights[index].0, weights[index].1);
            let owner = (0..3).max_by_key(|index| score(*index)).unwrap();
            owned[owner] += 1;
        }
        assert!((900..1100).contains(&owned[0]) && owned[2] == 0, "{owned:?}");
    }

    #[test]
    fn keys_spread_over_the_names() {
        let mut owned = [0; SEEDS.len()];
        for key in 0_u32..5000 {
            let owner = rendezvous_order(&key.to_be_bytes(), SEEDS)[0];
            owned[SEEDS.iter().position(|name| *name == owner).unwrap()] += 1;
        }
        assert!(owned.iter().all(|count| (850..1150).contains(count)), "{owned:?}");
    }
}
