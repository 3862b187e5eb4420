//! Max-min fair rates by progressive filling (Bertsekas & Gallager, *Data Networks*, §6.5.2):
//! all flows grow alike until a link is full; its flows stop there, the rest grow on.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// One link of a [`Network`](crate::network::Network).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LinkId(pub(crate) u32);

/// The links a flow goes over.
pub(crate) type Path = Box<[LinkId]>;

/// The state of a filling, kept between fillings for its buffers.
#[derive(Debug, Default)]
pub(crate) struct Filling {
    links: Vec<OpenLink>,
    /// Per flow; below zero until it is filled.
    rates: Vec<f64>,
    /// Links by the share they offered when they were put here, fullest first.
    fullest: BinaryHeap<Reverse<(u64, LinkId)>>,
}

/// What a link has left for the flows that still grow.
#[derive(Debug, Default)]
struct OpenLink {
    left: f64,
    open_count: u32,
    flows: Vec<u32>,
}

impl Filling {
    /// The rate of each flow, in the order of `paths`. Costs `O(flows · path + links · log links)`.
    ///
    /// # Panics
    /// If a link would carry more than its capacity: the filling itself is wrong.
    pub(crate) fn rates<'a>(
        &mut self,
        capacities: &[f64],
        paths: impl Iterator<Item = &'a Path> + Clone,
    ) -> &[f64] {
        self.open(capacities, paths.clone());
        let paths: Vec<&Path> = paths.collect();
        let mut level = 0.0_f64;
        while let Some(Reverse((share_bits, link))) = self.fullest.pop() {
            let open = &self.links[link.0 as usize];
            if open.open_count == 0 {
                continue;
            }
            let share = open.share();
            if share.to_bits() > share_bits {
                self.fullest.push(Reverse((share.to_bits(), link)));
                continue;
            }
            level = level.max(share);
            self.close(link, level, &paths);
        }
        self.check(capacities);
        &self.rates
    }

    fn open<'a>(&mut self, capacities: &[f64], paths: impl Iterator<Item = &'a Path>) {
        self.links.resize_with(capacities.len(), OpenLink::default);
        for (link, capacity) in self.links.iter_mut().zip(capacities) {
            link.left = *capacity;
            link.flows.clear();
        }
        self.rates.clear();
        for (flow, path) in (0..).zip(paths) {
            self.rates.push(UNFILLED);
            for link in path {
                self.links[link.0 as usize].flows.push(flow);
            }
        }
        self.fullest.clear();
        for (index, link) in (0..).zip(&mut self.links) {
            link.open_count = u32::try_from(link.flows.len()).expect("fewer flows than 2^32");
            if link.open_count > 0 {
                self.fullest.push(Reverse((link.share().to_bits(), LinkId(index))));
            }
        }
    }

    /// The link is full: its flows stay at `level`.
    fn close(&mut self, link: LinkId, level: f64, paths: &[&Path]) {
        let flows = std::mem::take(&mut self.links[link.0 as usize].flows);
        for &flow in &flows {
            let rate = &mut self.rates[flow as usize];
            if *rate >= 0.0 {
                continue;
            }
            *rate = level;
            for other in paths[flow as usize] {
                let other = &mut self.links[other.0 as usize];
                other.left = (other.left - level).max(0.0);
                other.open_count -= 1;
            }
        }
        self.links[link.0 as usize].flows = flows;
    }

    fn check(&self, capacities: &[f64]) {
        for (link, capacity) in self.links.iter().zip(capacities) {
            let carried: f64 = link.flows.iter().map(|flow| self.rates[*flow as usize]).sum();
            assert!(carried <= capacity * (1.0 + ROUNDING), "a link of {capacity} B/s carries {carried}");
        }
    }
}

impl OpenLink {
    /// Not negative, so that its bits sort as it does.
    fn share(&self) -> f64 {
        self.left / f64::from(self.open_count)
    }
}

const UNFILLED: f64 = -1.0;

/// Sums of a few thousand floats are off by less.
const ROUNDING: f64 = 1e-9;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn path(links: &[u32]) -> Path {
        links.iter().copied().map(LinkId).collect()
    }

    #[test]
    fn a_flow_held_back_elsewhere_leaves_its_share_to_the_others() {
        let paths = [path(&[0, 1]), path(&[0, 2]), path(&[0])];
        let mut filling = Filling::default();
        assert_eq!(filling.rates(&[90.0, 10.0, 100.0], paths.iter()), [10.0, 40.0, 40.0]);
    }

    proptest! {
        /// What makes rates max-min fair: each flow has a full link on which none is faster.
        #[test]
        fn no_flow_could_be_faster_but_at_the_cost_of_a_slower_one(
            capacities in proptest::collection::vec(1.0..1e9_f64, 1..12),
            flows in proptest::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 1..60),
        ) {
            let link = |index: &prop::sample::Index| u32::try_from(index.index(capacities.len())).unwrap();
            let paths: Vec<Path> = flows
                .iter()
                .map(|(a, b)| if link(a) == link(b) { path(&[link(a)]) } else { path(&[link(a), link(b)]) })
                .collect();
            let mut filling = Filling::default();
            let rates = filling.rates(&capacities, paths.iter()).to_vec();
            let on = |link: LinkId| paths.iter().zip(&rates).filter(move |(path, _)| path.contains(&link)).map(|(_, rate)| *rate);
            for (path, rate) in paths.iter().zip(&rates) {
                prop_assert!(*rate > 0.0);
                let bottleneck = path.iter().any(|link| {
                    let full = on(*link).sum::<f64>() >= capacities[link.0 as usize] * (1.0 - 1e-6);
                    full && on(*link).all(|other| other <= rate * (1.0 + 1e-6))
                });
                prop_assert!(bottleneck, "{path:?} at {rate}");
            }
        }
    }
}
