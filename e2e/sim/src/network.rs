//! Links and what flows over them.
//!
//! Rates are max-min fair, found in two steps. When a flow comes or goes, the flows on its own
//! links make room or take what is left, at once ([`Network::start`], [`Network::tidy`]): that
//! costs a look at some dozen flows. What that leaves unfair elsewhere is put right when the
//! rates of all flows are [filled anew](crate::fair), at most once in an interval that grows with
//! their number; so tens of thousands of flows stay affordable. At no time does a link carry
//! more than its capacity: each change of a rate asserts it.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use crate::event::Time;
use crate::fair::{Filling, LinkId, Path};

mod rates;

/// All links, and all flows with what they carry.
#[derive(Debug)]
pub(crate) struct Network<C> {
    /// By link: bytes per second that it moves at most, and does.
    capacities: Vec<f64>,
    carried: Vec<f64>,
    /// By link: the slots of its flows.
    flows_by_link: Vec<Vec<u32>>,
    /// By slot. A free slot's path has no links.
    flows: Vec<Flow<C>>,
    paths: Vec<Path>,
    free_slots: Vec<u32>,
    flow_count: usize,
    /// When flows end at their rates. An entry that is not its flow's `queued_at` is stale.
    ends: BinaryHeap<Reverse<(Nanos, u32)>>,
    /// Links that a flow left, and whose rest nobody was given yet.
    loose: Vec<LinkId>,
    filled_at: Option<Nanos>,
    is_unfair: bool,
    /// Capacities changed: rates may be over them until they are filled anew.
    must_fill: bool,
    filling: Filling,
}

/// One flow, never used again once it went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FlowId {
    slot: u32,
    generation: u32,
}

#[derive(Debug)]
struct Flow<C> {
    generation: u32,
    cargo: Option<C>,
    /// By hop of the path: its place among the link's flows.
    seats: [u32; Path::HOPS_MAX],
    /// Bytes that it is to move since it was started or last extended, and that it has not.
    total: f64,
    left: f64,
    /// Bytes per second since `as_of`, when `left` was true.
    rate: f64,
    as_of: Nanos,
    ends_at: Nanos,
    /// Its earliest entry among the ends.
    queued_at: Nanos,
}

/// Since the history began.
type Nanos = u64;

impl<C: Copy> Network<C> {
    pub(crate) fn new() -> Self {
        Self {
            capacities: Vec::new(),
            carried: Vec::new(),
            flows_by_link: Vec::new(),
            flows: Vec::new(),
            paths: Vec::new(),
            free_slots: Vec::new(),
            flow_count: 0,
            ends: BinaryHeap::new(),
            loose: Vec::new(),
            filled_at: None,
            is_unfair: false,
            must_fill: false,
            filling: Filling::default(),
        }
    }

    /// A link of so many bytes per second.
    pub(crate) fn add_link(&mut self, bytes_per_s: f64) -> LinkId {
        assert!(bytes_per_s > 0.0, "a link moves something");
        self.capacities.push(bytes_per_s);
        self.carried.push(0.0);
        self.flows_by_link.push(Vec::new());
        LinkId(u32::try_from(self.capacities.len() - 1).expect("fewer links than 2^32"))
    }

    /// A link moves more, or less, from this moment on. Rates are filled anew when the network
    /// is next advanced, which must be at the same moment.
    pub(crate) fn set_capacity(&mut self, link: LinkId, bytes_per_s: f64) {
        self.capacities[link.0 as usize] = bytes_per_s;
        self.must_fill = true;
    }

    /// Starts moving bytes over the links, at its fair share of the narrowest or at what is left
    /// there; flows that have more than their share there make room.
    pub(crate) fn start(&mut self, now: Time, path: Path, bytes: u64, cargo: C) -> FlowId {
        let now = nanos(now);
        let slot = self.take_slot(path, bytes, cargo, now);
        let shares = path.links().iter().map(|link| self.share_of_newcomer(*link));
        let rate = shares.fold(f64::INFINITY, f64::min);
        for link in path.links() {
            self.make_room(*link, slot, rate, now);
        }
        self.set_rate(slot, rate, now);
        self.is_unfair = true;
        FlowId { slot, generation: self.flows[slot as usize].generation }
    }

    /// A flow that came to its end goes on with more bytes, at its rate.
    pub(crate) fn extend(&mut self, now: Time, flow_id: FlowId, bytes: u64) {
        let now = nanos(now);
        self.catch_up(flow_id.slot, now);
        let flow = self.flow_mut(flow_id);
        (flow.total, flow.left) = (bytes_f64(bytes), bytes_f64(bytes));
        self.plan_end(flow_id.slot, now);
    }

    /// Ends a flow, wherever it is. How many bytes it moved since it was started or last extended.
    pub(crate) fn stop(&mut self, now: Time, flow_id: FlowId) -> u64 {
        let now = nanos(now);
        self.catch_up(flow_id.slot, now);
        let flow = self.flow_mut(flow_id);
        let moved = flow.total - flow.left;
        let rate = std::mem::take(&mut flow.rate);
        (flow.cargo, flow.generation) = (None, flow.generation.wrapping_add(1));
        (flow.ends_at, flow.queued_at) = (Nanos::MAX, Nanos::MAX);
        let path = std::mem::take(&mut self.paths[flow_id.slot as usize]);
        for (hop, link) in path.links().iter().enumerate() {
            self.leave_link(*link, self.flows[flow_id.slot as usize].seats[hop]);
            let carried = &mut self.carried[link.0 as usize];
            *carried = (*carried - rate).max(0.0);
            self.loose.push(*link);
        }
        self.free_slots.push(flow_id.slot);
        self.flow_count -= 1;
        self.is_unfair = true;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count of bytes")]
        let moved = moved.round() as u64;
        moved
    }

    /// How many bytes a flow moved since it was started or last extended.
    pub(crate) fn moved(&mut self, now: Time, flow_id: FlowId) -> f64 {
        self.catch_up(flow_id.slot, nanos(now));
        let flow = self.flow_mut(flow_id);
        flow.total - flow.left
    }

    /// Gives what flows left behind to those that can use it. Called once whatever starts flows
    /// at this moment has done so: they come first.
    pub(crate) fn tidy(&mut self, now: Time) {
        let now = nanos(now);
        while let Some(link) = self.loose.pop() {
            self.spread(link, now);
        }
    }

    /// When [`Self::advance`] is due.
    pub(crate) fn due(&self) -> Option<Time> {
        let fills = self.is_unfair.then(|| self.filled_at.map_or(0, |at| at + self.interval()));
        let fills = if self.must_fill { Some(0) } else { fills };
        let ends = self.ends.peek().map(|Reverse((at, _))| *at);
        fills.into_iter().chain(ends).min().map(Duration::from_nanos)
    }

    /// Does what is due, up to a flow that came to its end: then its cargo. It stays, idle,
    /// until the caller extends or stops it, which it does at once.
    pub(crate) fn advance(&mut self, now: Time) -> Option<C> {
        let now = nanos(now);
        while let Some(Reverse((at, slot))) = self.ends.peek().copied().filter(|Reverse((at, _))| *at <= now)
        {
            self.ends.pop();
            let flow = &mut self.flows[slot as usize];
            if flow.queued_at != at {
                continue;
            }
            if flow.ends_at > now {
                flow.queued_at = flow.ends_at;
                self.ends.push(Reverse((flow.ends_at, slot)));
                continue;
            }
            (flow.left, flow.as_of) = (0.0, now);
            (flow.ends_at, flow.queued_at) = (Nanos::MAX, Nanos::MAX);
            return flow.cargo;
        }
        let is_due = self.is_unfair && self.filled_at.is_none_or(|at| at + self.interval() <= now);
        if is_due || self.must_fill {
            self.fill(now);
        }
        None
    }

    fn take_slot(&mut self, path: Path, bytes: u64, cargo: C, now: Nanos) -> u32 {
        let slot = self.free_slots.pop().unwrap_or_else(|| {
            self.flows.push(Flow::unused());
            self.paths.push(Path::default());
            u32::try_from(self.flows.len() - 1).expect("fewer flows than 2^32")
        });
        let flow = &mut self.flows[slot as usize];
        (flow.cargo, flow.as_of) = (Some(cargo), now);
        (flow.total, flow.left, flow.rate) = (bytes_f64(bytes), bytes_f64(bytes), 0.0);
        for (hop, link) in path.links().iter().enumerate() {
            let on_link = &mut self.flows_by_link[link.0 as usize];
            flow.seats[hop] = u32::try_from(on_link.len()).expect("fewer flows than 2^32");
            on_link.push(slot);
        }
        self.paths[slot as usize] = path;
        self.flow_count += 1;
        slot
    }

    fn leave_link(&mut self, link: LinkId, seat: u32) {
        let on_link = &mut self.flows_by_link[link.0 as usize];
        on_link.swap_remove(seat as usize);
        if let Some(&moved) = on_link.get(seat as usize) {
            let hop = self.paths[moved as usize].links().iter().position(|other| *other == link);
            self.flows[moved as usize].seats[hop.expect("its path has the link")] = seat;
        }
    }

    fn flow_mut(&mut self, flow_id: FlowId) -> &mut Flow<C> {
        let flow = &mut self.flows[flow_id.slot as usize];
        assert_eq!(flow.generation, flow_id.generation, "a flow is named while it is there");
        flow
    }
}

impl<C> Flow<C> {
    fn unused() -> Self {
        Self {
            generation: 0,
            cargo: None,
            seats: [0; Path::HOPS_MAX],
            total: 0.0,
            left: 0.0,
            rate: 0.0,
            as_of: 0,
            ends_at: Nanos::MAX,
            queued_at: Nanos::MAX,
        }
    }

    fn end(&self, now: Nanos) -> Nanos {
        if self.rate <= 0.0 {
            return Nanos::MAX;
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates far off")]
        let lasts = (self.left / self.rate * 1e9).ceil() as u64;
        now.saturating_add(lasts)
    }
}

#[expect(clippy::cast_precision_loss, reason = "blobs are far below 2^53 bytes")]
pub(crate) fn bytes_f64(bytes: u64) -> f64 {
    bytes as f64
}

fn nanos(time: Time) -> Nanos {
    u64::try_from(time.as_nanos()).expect("no history lasts 500 years")
}

#[expect(clippy::cast_precision_loss, reason = "a history is far below 2^53 ns")]
fn seconds(nanos: Nanos) -> f64 {
    nanos as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Runs until nothing is due; when each cargo arrived.
    fn arrivals(network: &mut Network<usize>, flows: &[FlowId]) -> Vec<(Time, usize)> {
        let mut arrivals = Vec::new();
        while let Some(now) = network.due() {
            while let Some(place) = network.advance(now) {
                network.stop(now, flows[place]);
                arrivals.push((now, place));
            }
            network.tidy(now);
        }
        arrivals
    }

    fn over(links: &[LinkId]) -> Path {
        links.iter().copied().collect()
    }

    #[test]
    fn two_flows_halve_a_link_and_the_rest_of_the_longer_has_it_alone() {
        let mut network = Network::new();
        let link = network.add_link(1e6);
        let short = network.start(Time::ZERO, over(&[link]), 500_000, 0);
        let long = network.start(Time::ZERO, over(&[link]), 1_000_000, 1);
        let arrivals = arrivals(&mut network, &[short, long]);
        assert_eq!(arrivals, [(Duration::from_secs(1), 0), (Duration::from_millis(1500), 1)]);
    }

    #[test]
    fn a_stopped_flow_says_what_it_moved() {
        let mut network = Network::new();
        let link = network.add_link(1e6);
        let flow = network.start(Time::ZERO, over(&[link]), 1_000_000, 0);
        assert_eq!(network.advance(Time::ZERO), None);
        assert_eq!(network.stop(Duration::from_millis(250), flow), 250_000);
        assert_eq!(arrivals(&mut network, &[flow]), []);
    }

    #[test]
    fn an_extended_flow_loses_no_time() {
        let mut network = Network::new();
        let link = network.add_link(1e6);
        let flow = network.start(Time::ZERO, over(&[link]), 300_000, 7);
        network.advance(Time::ZERO);
        let first_end = network.due().unwrap();
        assert_eq!(network.advance(first_end), Some(7));
        network.extend(first_end, flow, 700_000);
        assert_eq!(network.due(), Some(Duration::from_secs(1)));
    }

    #[test]
    fn a_link_that_slows_down_slows_its_flows_from_that_moment() {
        let mut network = Network::new();
        let link = network.add_link(1e6);
        let flow = network.start(Time::ZERO, over(&[link]), 1_000_000, 0);
        network.advance(Time::ZERO);
        network.set_capacity(link, 0.5e6);
        assert_eq!(network.advance(Duration::from_millis(500)), None);
        assert_eq!(arrivals(&mut network, &[flow]), [(Duration::from_millis(1500), 0)]);
    }

    proptest! {
        /// No link is ever over-subscribed (asserted on each change), whatever comes and goes;
        /// and once filled, no flow is idle.
        #[test]
        fn flows_that_come_and_go_never_fill_a_link_beyond_its_capacity(
            capacities in proptest::collection::vec(1e3..1e9_f64, 2..8),
            steps in proptest::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), 1_u64..1_000_000, any::<bool>()), 1..120),
        ) {
            let mut network = Network::new();
            let links: Vec<LinkId> = capacities.iter().map(|capacity| network.add_link(*capacity)).collect();
            let mut running: Vec<(usize, FlowId)> = Vec::new();
            let mut now = Time::ZERO;
            for (cargo, (from, to, bytes, ends)) in steps.iter().enumerate() {
                let before = now;
                now += Duration::from_micros(bytes % 700);
                while let Some(at) = network.due().map(|due| due.max(before)).filter(|at| *at <= now) {
                    while let Some(arrived) = network.advance(at) {
                        let place = running.iter().position(|(cargo, _)| *cargo == arrived).unwrap();
                        network.stop(at, running.swap_remove(place).1);
                    }
                    network.tidy(at);
                }
                let (from, to) = (*from.get(&links), *to.get(&links));
                if *ends && !running.is_empty() {
                    prop_assert!(network.stop(now, running.swap_remove(0).1) <= 1_000_000);
                } else if from != to {
                    running.push((cargo, network.start(now, over(&[from, to]), *bytes, cargo)));
                }
                network.tidy(now);
            }
            network.must_fill = true;
            prop_assert_eq!(network.advance(now), None);
            prop_assert!(running.iter().all(|(_, flow)| network.flow_mut(*flow).rate > 0.0));
        }
    }
}
