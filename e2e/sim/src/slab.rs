//! Things with numbers that are never used again, found without a search.

/// Things by number. Slots are used again, numbers are not: each carries how often its slot was.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    slots: Vec<(u32, Option<T>)>,
    free: Vec<u32>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { slots: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slab<T> {
    pub(crate) fn insert(&mut self, thing: T) -> u64 {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push((0, None));
            u32::try_from(self.slots.len() - 1).expect("fewer things than 2^32")
        });
        let (generation, place) = &mut self.slots[slot as usize];
        *place = Some(thing);
        u64::from(*generation) << 32 | u64::from(slot)
    }

    pub(crate) fn get(&self, number: u64) -> Option<&T> {
        let (slot, generation) = parts(number);
        let (current, thing) = self.slots.get(slot)?;
        thing.as_ref().filter(|_| *current == generation)
    }

    pub(crate) fn get_mut(&mut self, number: u64) -> Option<&mut T> {
        let (slot, generation) = parts(number);
        let (current, thing) = self.slots.get_mut(slot)?;
        thing.as_mut().filter(|_| *current == generation)
    }

    pub(crate) fn remove(&mut self, number: u64) -> Option<T> {
        self.get(number)?;
        let (slot, _) = parts(number);
        let (generation, thing) = &mut self.slots[slot];
        *generation += 1;
        self.free.push(u32::try_from(slot).expect("made from 32 bits"));
        thing.take()
    }

    /// All of them, by slot.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, &T)> {
        (0_u64..).zip(&self.slots).filter_map(|(slot, (generation, thing))| {
            Some((u64::from(*generation) << 32 | slot, thing.as_ref()?))
        })
    }
}

fn parts(number: u64) -> (usize, u32) {
    let slot = usize::try_from(number & u64::from(u32::MAX)).expect("32 bits");
    (slot, u32::try_from(number >> 32).expect("32 bits"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_names_nothing_once_its_thing_is_gone_though_the_slot_is_used_again() {
        let mut slab = Slab::default();
        let first = slab.insert("first");
        assert_eq!(slab.remove(first), Some("first"));
        let second = slab.insert("second");
        assert_eq!(slab.get(first), None);
        assert_eq!(slab.remove(first), None);
        assert_eq!(slab.get(second), Some(&"second"));
        assert_eq!(slab.iter().collect::<Vec<_>>(), [(second, &"second")]);
    }
}
