//! Which registries gave a blob's bytes.

use std::fmt;

use crate::RegistryHost;

/// A registry as pieces carry it from peer to peer: 64 bits of a hash of its name. Names are the operator's, so that
/// nobody makes two meet.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RegistryMark(u64);

impl RegistryMark {
    /// Some registry, nobody knows which.
    pub const UNKNOWN: Self = Self(0);

    /// The mark of one registry.
    pub fn of(host: &RegistryHost) -> Self {
        let hash = blake3::derive_key("flotilla registry mark 1", host.as_str().as_bytes());
        let mark = u64::from_be_bytes(hash[..8].try_into().expect("a hash has 32 bytes"));
        // One name in 2^64 has no mark of its own.
        Self(mark.max(1))
    }

    /// As it travels.
    pub fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// As it travels.
    pub fn bits(self) -> u64 {
        self.0
    }
}

impl fmt::Debug for RegistryMark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::UNKNOWN { f.write_str("unknown") } else { write!(f, "{:016x}", self.0) }
    }
}

/// The registries that gave parts of a blob, in no order. Empty: nothing came yet.
///
/// Bounded: beyond [`Origins::MAX`] it is only known that there are others.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Origins(Vec<RegistryMark>);

impl Origins {
    /// Marks kept, that for the unknown among them.
    pub const MAX: usize = 8;

    /// Bytes of which nobody knows where they came from.
    pub fn unknown() -> Self {
        Self(vec![RegistryMark::UNKNOWN])
    }

    /// Bytes that one registry gave.
    pub fn one(host: &RegistryHost) -> Self {
        Self(vec![RegistryMark::of(host)])
    }

    /// What another peer says of bytes that it sends. One that says nothing does not know.
    pub fn told(bits: &[u64]) -> Self {
        let mut origins = Self::default();
        bits.iter().take(Self::MAX + 1).for_each(|bits| origins.insert(RegistryMark::from_bits(*bits)));
        if origins.is_empty() { Self::unknown() } else { origins }
    }

    /// Another one gave a part.
    pub fn insert(&mut self, mark: RegistryMark) {
        if self.0.contains(&mark) {
            return;
        }
        if self.0.len() + 1 < Self::MAX || mark == RegistryMark::UNKNOWN {
            self.0.push(mark);
        } else {
            self.insert(RegistryMark::UNKNOWN);
        }
    }

    /// What gave the other's bytes gave these, too.
    pub fn extend(&mut self, other: &Self) {
        other.0.iter().for_each(|mark| self.insert(*mark));
    }

    /// Whether nothing came yet.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Each of them.
    pub fn marks(&self) -> &[RegistryMark] {
        &self.0
    }

    /// The registry that gave everything, if it was one alone and is known.
    pub fn only(&self) -> Option<RegistryMark> {
        match self.0[..] {
            [mark] if mark != RegistryMark::UNKNOWN => Some(mark),
            _ => None,
        }
    }

    /// As they travel.
    pub fn bits(&self) -> Vec<u64> {
        self.0.iter().map(|mark| mark.bits()).collect()
    }
}

impl FromIterator<RegistryMark> for Origins {
    fn from_iter<I: IntoIterator<Item = RegistryMark>>(marks: I) -> Self {
        let mut origins = Self::default();
        marks.into_iter().for_each(|mark| origins.insert(mark));
        origins
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(number: u64) -> RegistryMark {
        RegistryMark::from_bits(number)
    }

    #[test]
    fn a_registry_has_a_mark_of_its_own_and_never_the_unknown_one() {
        let [reg, hub] = ["reg.test", "hub.test"].map(|host| RegistryMark::of(&host.parse().unwrap()));
        assert_ne!(reg, hub);
        assert_ne!(reg, RegistryMark::UNKNOWN);
        assert_eq!(reg, RegistryMark::of(&"reg.test:443".parse().unwrap()), "one registry by two names");
    }

    #[test]
    fn who_says_nothing_does_not_know() {
        assert_eq!(Origins::told(&[]), Origins::unknown());
        assert_eq!(Origins::told(&[7, 7]).only(), Some(mark(7)));
        assert_eq!(Origins::told(&[7, 0]).only(), None);
        assert_eq!(Origins::unknown().only(), None);
    }

    #[test]
    fn beyond_the_bound_there_are_others() {
        let many: Origins = (1..=100).map(mark).collect();
        assert_eq!(many.marks().len(), Origins::MAX);
        assert!(many.marks().contains(&RegistryMark::UNKNOWN));
        let told = Origins::told(&(1..=100).collect::<Vec<u64>>());
        assert!(told.marks().contains(&RegistryMark::UNKNOWN) && told.marks().len() <= Origins::MAX);
    }

    #[test]
    fn what_gave_a_part_gave_a_part_of_the_whole() {
        let (mut whole, part) = (Origins::told(&[1, 2]), Origins::told(&[2, 3]));
        whole.extend(&part);
        assert_eq!(whole.bits(), [1, 2, 3]);
    }
}
