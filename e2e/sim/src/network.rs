//! Links and what flows over them.
//!
//! The rates of all flows are [shared anew](crate::fair) when flows come or go: at once, or if
//! that was done less than [`SETTLE`] ago, that long after. Until then a flow that came waits
//! and what a flow that went had stays idle, as while a congestion controller finds its rate;
//! so a link is never over-subscribed.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use crate::event::Time;
use crate::fair::{Filling, LinkId, Path};

/// All links, and all flows with what they carry.
#[derive(Debug)]
pub(crate) struct Network<C> {
    /// Bytes per second.
    capacities: Vec<f64>,
    flows: Vec<Option<Flow<C>>>,
    free_slots: Vec<u32>,
    next_id: u64,
    /// When flows end at their rates. Entries of flows that went or were extended are stale.
    ends: BinaryHeap<Reverse<(Time, FlowId)>>,
    settled_at: Option<Time>,
    unsettled: bool,
    filling: Filling,
}

/// One flow, never used again once it went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct FlowId {
    id: u64,
    slot: u32,
}

#[derive(Debug)]
struct Flow<C> {
    id: u64,
    path: Path,
    cargo: C,
    /// Bytes that it is to move since it was started or last extended, and that it has not.
    total: f64,
    left: f64,
    /// Bytes per second since `as_of`, when `left` was true.
    rate: f64,
    as_of: Time,
    ends_at: Option<Time>,
}

impl<C: Copy> Network<C> {
    pub(crate) fn new() -> Self {
        Self {
            capacities: Vec::new(),
            flows: Vec::new(),
            free_slots: Vec::new(),
            next_id: 0,
            ends: BinaryHeap::new(),
            settled_at: None,
            unsettled: false,
            filling: Filling::default(),
        }
    }

    /// A link of so many bytes per second.
    pub(crate) fn add_link(&mut self, bytes_per_s: f64) -> LinkId {
        assert!(bytes_per_s > 0.0, "a link moves something");
        self.capacities.push(bytes_per_s);
        LinkId(u32::try_from(self.capacities.len() - 1).expect("fewer links than 2^32"))
    }

    /// Starts moving bytes over the links.
    pub(crate) fn start(&mut self, now: Time, path: Path, bytes: u64, cargo: C) -> FlowId {
        let slot = self.free_slots.pop().unwrap_or_else(|| {
            self.flows.push(None);
            u32::try_from(self.flows.len() - 1).expect("fewer flows than 2^32")
        });
        let id = FlowId { id: self.next_id, slot };
        self.next_id += 1;
        let total = bytes_f64(bytes);
        let flow = Flow { id: id.id, path, cargo, total, left: total, rate: 0.0, as_of: now, ends_at: None };
        self.flows[slot as usize] = Some(flow);
        self.unsettled = true;
        id
    }

    /// A flow that came to its end goes on with more bytes, at its rate.
    pub(crate) fn extend(&mut self, now: Time, flow_id: FlowId, bytes: u64) {
        let flow = self.flow_mut(flow_id);
        (flow.total, flow.left, flow.as_of) = (bytes_f64(bytes), bytes_f64(bytes), now);
        let ends_at = flow.find_end(now);
        self.ends.extend(ends_at.map(|at| Reverse((at, flow_id))));
    }

    /// Ends a flow, wherever it is. How many bytes it moved since it was started or last extended.
    pub(crate) fn stop(&mut self, now: Time, flow_id: FlowId) -> u64 {
        let flow = self.flow_mut(flow_id);
        flow.catch_up(now);
        let moved = flow.total - flow.left;
        self.flows[flow_id.slot as usize] = None;
        self.free_slots.push(flow_id.slot);
        self.unsettled = true;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count of bytes")]
        let moved = moved.round() as u64;
        moved
    }

    /// When [`Self::advance`] is due.
    pub(crate) fn due(&self) -> Option<Time> {
        let settles = self.unsettled.then(|| self.settled_at.map_or(Time::ZERO, |at| at + SETTLE));
        let ends = self.ends.peek().map(|Reverse((at, _))| *at);
        settles.into_iter().chain(ends).min()
    }

    /// Does what is due, up to a flow that came to its end: then its cargo. It stays, idle,
    /// until the caller extends or stops it, which it does at once.
    pub(crate) fn advance(&mut self, now: Time) -> Option<C> {
        while let Some(Reverse((at, flow_id))) =
            self.ends.peek().copied().filter(|Reverse((at, _))| *at <= now)
        {
            self.ends.pop();
            let flow = self.flows[flow_id.slot as usize].as_mut().filter(|flow| flow.id == flow_id.id);
            if let Some(flow) = flow.filter(|flow| flow.ends_at == Some(at)) {
                (flow.left, flow.as_of, flow.ends_at) = (0.0, now, None);
                return Some(flow.cargo);
            }
        }
        if self.unsettled && self.settled_at.is_none_or(|at| at + SETTLE <= now) {
            self.settle(now);
        }
        None
    }

    fn settle(&mut self, now: Time) {
        (self.settled_at, self.unsettled) = (Some(now), false);
        let paths = self.flows.iter().flatten().map(|flow| &flow.path);
        let rates = self.filling.rates(&self.capacities, paths);
        let mut ends = std::mem::take(&mut self.ends).into_vec();
        ends.clear();
        let flows = (0..).zip(&mut self.flows).filter_map(|(slot, flow)| Some((slot, flow.as_mut()?)));
        for ((slot, flow), rate) in flows.zip(rates) {
            flow.catch_up(now);
            flow.rate = *rate;
            let ends_at = flow.find_end(now);
            ends.extend(ends_at.map(|at| Reverse((at, FlowId { id: flow.id, slot }))));
        }
        self.ends = ends.into();
    }

    fn flow_mut(&mut self, flow_id: FlowId) -> &mut Flow<C> {
        let flow = self.flows[flow_id.slot as usize].as_mut();
        flow.filter(|flow| flow.id == flow_id.id).expect("a flow is named while it is there")
    }
}

impl<C> Flow<C> {
    fn catch_up(&mut self, now: Time) {
        let moved = self.rate * (now - self.as_of).as_secs_f64();
        self.left = (self.left - moved).max(0.0);
        self.as_of = now;
    }

    fn find_end(&mut self, now: Time) -> Option<Time> {
        let idle = self.rate <= 0.0;
        self.ends_at = (!idle).then(|| now + Duration::from_secs_f64(self.left / self.rate));
        self.ends_at
    }
}

#[expect(clippy::cast_precision_loss, reason = "blobs are far below 2^53 bytes")]
pub(crate) fn bytes_f64(bytes: u64) -> f64 {
    bytes as f64
}

/// Rates are found at most this often: short against a piece's time on its way, long enough
/// that a large region's rates are found once for many flows that come and go.
const SETTLE: Duration = Duration::from_micros(100);

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs until nothing is due; when each cargo arrived.
    fn arrivals(network: &mut Network<usize>, flows: &[FlowId]) -> Vec<(Time, usize)> {
        let mut arrivals = Vec::new();
        while let Some(now) = network.due() {
            while let Some(place) = network.advance(now) {
                network.stop(now, flows[place]);
                arrivals.push((now, place));
            }
        }
        arrivals
    }

    #[test]
    fn two_flows_halve_a_link_and_the_rest_of_the_longer_has_it_alone() {
        let mut network = Network::new();
        let link = network.add_link(1e6);
        let short = network.start(Time::ZERO, [link].into(), 500_000, 0);
        let long = network.start(Time::ZERO, [link].into(), 1_000_000, 1);
        let arrivals = arrivals(&mut network, &[short, long]);
        assert_eq!(arrivals, [(Duration::from_secs(1), 0), (Duration::from_millis(1500), 1)]);
    }

    #[test]
    fn a_stopped_flow_says_what_it_moved() {
        let mut network = Network::new();
        let link = network.add_link(1e6);
        let flow = network.start(Time::ZERO, [link].into(), 1_000_000, 0);
        assert_eq!(network.advance(Time::ZERO), None);
        assert_eq!(network.stop(Duration::from_millis(250), flow), 250_000);
        assert_eq!(arrivals(&mut network, &[flow]), []);
    }

    #[test]
    fn an_extended_flow_loses_no_time() {
        let mut network = Network::new();
        let link = network.add_link(1e6);
        let flow = network.start(Time::ZERO, [link].into(), 300_000, 7);
        network.advance(Time::ZERO);
        let first_end = network.due().unwrap();
        assert_eq!(network.advance(first_end), Some(7));
        network.extend(first_end, flow, 700_000);
        assert_eq!(network.due(), Some(Duration::from_secs(1)));
    }
}
