//! Who has connections here that it dialled, and how many.
//!
//! An honest peer has one, or two when both dial at the same moment. Each costs memory and timers,
//! so that one identity must not have as many as it likes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use flotilla_proto::PeerId;

/// The guests of one endpoint; a clone counts the same.
#[derive(Debug, Clone, Default)]
pub(super) struct Guests {
    /// Held for one operation. Holds those alone that have connections.
    counts: Arc<Mutex<HashMap<PeerId, usize>>>,
}

/// A connection's place; dropped, there is room for another.
#[derive(Debug)]
pub(super) struct Place {
    guests: Guests,
    id: PeerId,
}

impl Guests {
    /// A place for one more connection of `id`; `None` if it has [`MOST`]. The newest is refused, and not
    /// the oldest closed: that one may carry pieces, and a peer that dials too often gains nothing by it.
    pub(super) fn enter(&self, id: &PeerId) -> Option<Place> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(id.clone()).or_default();
        if *count >= MOST {
            return None;
        }
        *count += 1;
        Some(Place { guests: self.clone(), id: id.clone() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.guests.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(count) = counts.get_mut(&self.id) else { return };
        *count -= 1;
        if *count == 0 {
            counts.remove(&self.id);
        }
    }
}

/// Connections that one identity may have dialled. A peer that was started again and again leaves some behind,
/// each for as long as silence is borne.
pub(super) const MOST: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_identity_has_a_few_connections_and_another_has_its_own() {
        let (guests, one, two) = (Guests::default(), "node-1".parse().unwrap(), "node-2".parse().unwrap());
        let mut places: Vec<Place> = (0..MOST).map(|_| guests.enter(&one).unwrap()).collect();
        assert!(guests.enter(&one).is_none());
        let other = guests.enter(&two).unwrap();
        places.pop();
        places.push(guests.enter(&one).unwrap());
        assert!(guests.enter(&one).is_none());
        drop((places, other));
        assert!(guests.counts.lock().unwrap().is_empty());
    }
}
