//! How far a reading seed may run ahead of the swarm: what only it holds is read again should
//! it die (`docs/design.md` §4m). Where only seeds want the blob, as far as it can.

use flotilla_proto::PieceSet;

use crate::Output;
use crate::demand::Demand;
use crate::scheduler::Scheduler;
use crate::source::Source;
use crate::task::TaskSlot;

/// What a seed was ordered to read, and how much of it others hold.
#[derive(Debug)]
pub(crate) struct Pace {
    ordered: PieceSet,
    /// Of `ordered`, what others than the reading seed hold or held.
    spread: PieceSet,
    /// What the seed was told last.
    until: Option<u32>,
}

impl Pace {
    pub(crate) fn new(ordered: PieceSet) -> Self {
        let spread = PieceSet::new(ordered.len());
        Self { ordered, spread, until: None }
    }

    /// As far as the seed can.
    pub(crate) fn free(piece_count: u32) -> Self {
        Self::new(PieceSet::new(piece_count))
    }

    /// The first piece that the seed may not read yet, as it was told.
    pub(crate) fn until(&self) -> u32 {
        self.until.unwrap_or(self.ordered.len())
    }

    /// It may read on as far as it can.
    pub(crate) fn lift(&mut self) {
        *self = Self { until: self.until, ..Self::free(self.ordered.len()) };
    }

    /// More is ordered.
    pub(crate) fn extend(&mut self, pieces: &PieceSet) {
        self.ordered.union_with(pieces);
    }

    /// Somebody else holds the piece.
    pub(crate) fn spread(&mut self, piece: u32) {
        if self.ordered.contains(piece) {
            self.spread.insert(piece);
        }
    }

    /// The first piece not to be read, so that what was read in order is `lead` pieces ahead
    /// of what others hold at most. What peers do not want they will not hold: it is not waited for.
    /// Costs a look at each word of the bitset.
    fn limit(&self, lead: u32, demand: &Demand) -> u32 {
        let wanted = |words: &[u64], index: usize| words[index] & demand.word(index);
        let spread =
            (0..self.spread.words().len()).map(|index| wanted(self.spread.words(), index).count_ones());
        let mut left = spread.sum::<u32>() + lead;
        for (index, base) in (0..self.ordered.words().len()).zip((0..).step_by(64)) {
            let word = wanted(self.ordered.words(), index);
            if word.count_ones() > left {
                let bits = (0..64).filter(|bit| word >> bit & 1 == 1);
                let bit: u32 = bits.take(left as usize + 1).last().expect("the word has more bits");
                return base + bit;
            }
            left -= word.count_ones();
        }
        self.ordered.len()
    }
}

impl Scheduler {
    /// Tells a seed that just got an order how far to read, if it is not to read on.
    pub(crate) fn pace_anew(&mut self, slot: TaskSlot) {
        if let Source::Reading { pace, .. } = &mut self.tasks[slot].source {
            pace.until = None;
        }
        self.pace_source(slot);
    }

    /// Tells the reading seed, if there is one, when it may go on a good way.
    pub(crate) fn pace_source(&mut self, slot: TaskSlot) {
        let slots = self.limits.slots_many + self.limits.queue_ahead_min;
        let task = &mut self.tasks[slot];
        let (piece_count, digest) = (task.piece_count(), task.digest);
        let lead = slots.max(piece_count * self.limits.lead_percent / 100);
        let demand = &task.peers_demand;
        let Source::Reading { seed, pace, .. } = &mut task.source else { return };
        let limit = if demand.count() > 0 { pace.limit(lead, demand) } else { piece_count };
        let is_news = match pace.until {
            None => limit < piece_count,
            Some(until) => limit >= until + (lead / STEPS).max(1) || limit == piece_count && until < limit,
        };
        if is_news {
            // It is not about to read so much any more: others may send it that.
            self.readers_are_due |= limit < pace.until();
            pace.until = Some(limit);
            self.outputs.push_back(Output::PaceSource { seed: *seed, digest, until: limit });
        }
    }
}

/// The seed is told so often while it reads as far as its lead.
const STEPS: u32 = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_the_lead_beyond_what_others_hold() {
        let mut pace = Pace::new((0..200).fold(PieceSet::new(200), |mut set, piece| {
            set.insert(piece);
            set
        }));
        let all = whole();
        assert_eq!(pace.limit(10, &all), 10);
        for piece in [0, 5, 70] {
            pace.spread(piece);
        }
        assert_eq!(pace.limit(10, &all), 13);
        assert_eq!(pace.limit(197, &all), 200);
    }

    #[test]
    fn of_an_order_with_gaps_only_ordered_pieces_count() {
        let mut ordered = PieceSet::new(200);
        for piece in [3, 64, 65, 190] {
            ordered.insert(piece);
        }
        let mut pace = Pace::new(ordered);
        let all = whole();
        assert_eq!(pace.limit(2, &all), 65);
        pace.spread(100);
        assert_eq!(pace.limit(2, &all), 65, "that one was not ordered");
        pace.spread(3);
        assert_eq!(pace.limit(2, &all), 190);
    }

    #[test]
    fn what_no_peer_wants_holds_nothing_up() {
        let mut pace = Pace::new(PieceSet::full(200));
        let (mut demand, mut part) = (Demand::new(200), PieceSet::new(200));
        for piece in [150, 151, 199] {
            part.insert(piece);
        }
        demand.add(Some(&part));
        assert_eq!(pace.limit(2, &demand), 199);
        pace.spread(0);
        assert_eq!(pace.limit(2, &demand), 199, "that one nobody wants");
        pace.spread(150);
        assert_eq!(pace.limit(2, &demand), 200);
    }

    fn whole() -> Demand {
        let mut demand = Demand::new(200);
        demand.add(None);
        demand
    }
}
