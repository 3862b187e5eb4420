//! How a flow's rate is found: by the flows on its own links at once, by all together now and
//! then.

use std::cmp::Reverse;

use super::{Nanos, Network, bytes_f64, seconds};
use crate::fair::LinkId;

impl<C: Copy> Network<C> {
    fn rest(&self, link: LinkId) -> f64 {
        (self.capacities[link.0 as usize] - self.carried[link.0 as usize]).max(0.0)
    }

    fn share(&self, link: LinkId) -> f64 {
        self.capacities[link.0 as usize] / bytes_f64(self.flows_by_link[link.0 as usize].len() as u64)
    }

    /// What the link can give a flow that was just put on it.
    pub(super) fn share_of_newcomer(&self, link: LinkId) -> f64 {
        let (rest, share) = (self.rest(link), self.share(link));
        let is_crowded = self.flows_by_link[link.0 as usize].len() > LOOKED_AT;
        if is_crowded { rest.min(share) } else { rest.max(share) }
    }

    /// Flows with more than their share of the link give it up, each as much of what it has
    /// above, until `wanted` is left for the newcomer.
    pub(super) fn make_room(&mut self, link: LinkId, newcomer: u32, wanted: f64, now: Nanos) {
        let lacking = wanted - self.rest(link);
        if lacking <= 0.0 {
            return;
        }
        let share = self.share(link);
        let flows = std::mem::take(&mut self.flows_by_link[link.0 as usize]);
        let above = |rate: f64| (rate - share).max(0.0);
        let all: f64 = flows.iter().map(|slot| above(self.flows[*slot as usize].rate)).sum();
        let part = (lacking * (1.0 + ROUNDING) / all).min(1.0);
        for &slot in flows.iter().filter(|slot| **slot != newcomer) {
            let rate = self.flows[slot as usize].rate;
            if rate > share {
                self.set_rate(slot, rate - above(rate) * part, now);
            }
        }
        self.flows_by_link[link.0 as usize] = flows;
    }

    /// Gives what is left on a link to its flows: first to those below their share of it.
    pub(super) fn spread(&mut self, link: LinkId, now: Nanos) {
        if self.flows_by_link[link.0 as usize].len() > LOOKED_AT {
            return;
        }
        let share = self.share(link);
        for most in [share, f64::INFINITY] {
            for seat in 0..self.flows_by_link[link.0 as usize].len() {
                let slot = self.flows_by_link[link.0 as usize][seat];
                let rests = self.paths[slot as usize].links().iter().map(|link| self.rest(*link));
                let rest = rests.fold(f64::INFINITY, f64::min);
                let rate = self.flows[slot as usize].rate;
                let raised = (rate + rest).min(most);
                if raised > rate * (1.0 + WORTH_A_CHANGE) {
                    self.set_rate(slot, raised, now);
                }
            }
        }
    }

    pub(super) fn set_rate(&mut self, slot: u32, rate: f64, now: Nanos) {
        self.catch_up(slot, now);
        let more = rate - self.flows[slot as usize].rate;
        for link in self.paths[slot as usize].links() {
            let (carried, capacity) = (&mut self.carried[link.0 as usize], self.capacities[link.0 as usize]);
            *carried += more;
            assert!(*carried <= capacity * (1.0 + DRIFT), "a link of {capacity} B/s carries {carried}");
        }
        self.flows[slot as usize].rate = rate;
        self.plan_end(slot, now);
    }

    pub(super) fn catch_up(&mut self, slot: u32, now: Nanos) {
        let flow = &mut self.flows[slot as usize];
        flow.left = (flow.left - flow.rate * seconds(now - flow.as_of)).max(0.0);
        flow.as_of = now;
    }

    /// An end that moves back is not queued anew: it is when its old entry comes up.
    pub(super) fn plan_end(&mut self, slot: u32, now: Nanos) {
        let flow = &mut self.flows[slot as usize];
        flow.ends_at = flow.end(now);
        if flow.ends_at < flow.queued_at {
            flow.queued_at = flow.ends_at;
            self.ends.push(Reverse((flow.ends_at, slot)));
        }
    }

    /// Finds the exact rates of all flows.
    pub(super) fn fill(&mut self, now: Nanos) {
        (self.filled_at, self.is_unfair, self.must_fill) = (Some(now), false, false);
        self.loose.clear();
        let rates = self.filling.rates(&self.capacities, &self.flows_by_link, &self.paths);
        let mut ends = std::mem::take(&mut self.ends).into_vec();
        ends.clear();
        self.carried.fill(0.0);
        for (((slot, flow), path), rate) in (0..).zip(&mut self.flows).zip(&self.paths).zip(rates) {
            if flow.cargo.is_none() {
                continue;
            }
            flow.left = (flow.left - flow.rate * seconds(now - flow.as_of)).max(0.0);
            (flow.as_of, flow.rate) = (now, *rate);
            for link in path.links() {
                self.carried[link.0 as usize] += rate;
            }
            flow.ends_at = flow.end(now);
            flow.queued_at = flow.ends_at;
            ends.push(Reverse((flow.ends_at, slot)));
        }
        self.ends = ends.into();
        for (carried, capacity) in self.carried.iter().zip(&self.capacities) {
            assert!(*carried <= capacity * (1.0 + DRIFT), "a link of {capacity} B/s carries {carried}");
        }
    }

    /// How long rates may stay locally fair only: short against a piece's time on its way.
    pub(super) fn interval(&self) -> Nanos {
        (self.flow_count as u64 * INTERVAL_PER_FLOW).clamp(INTERVAL_MIN, INTERVAL_MAX)
    }
}

const INTERVAL_MIN: Nanos = 100_000;
const INTERVAL_PER_FLOW: Nanos = 2_000;
const INTERVAL_MAX: Nanos = 10_000_000;

/// On links with more flows only the filling of all gives a flow more than what is left.
const LOOKED_AT: usize = 64;

/// A rate is raised by this part at least: less is not worth another end in the queue.
const WORTH_A_CHANGE: f64 = 1e-3;

/// Covers the rounding of one division.
const ROUNDING: f64 = 1e-12;

/// Sums kept over the changes between two fillings are off by less.
const DRIFT: f64 = 1e-6;
