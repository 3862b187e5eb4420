//! Max-min fair rates by progressive filling (Bertsekas & Gallager, *Data Networks*, §6.5.2):
//! all flows grow alike until a link is full; its flows stop there, the rest grow on.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// One link of a [`Network`](crate::network::Network).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct LinkId(pub(crate) u32);

/// The links a flow goes over: up, out of a zone, into a zone, down.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Path {
    links: [LinkId; Self::HOPS_MAX],
    len: usize,
}

impl Path {
    pub(crate) const HOPS_MAX: usize = 4;

    pub(crate) fn links(&self) -> &[LinkId] {
        &self.links[..self.len]
    }
}

impl FromIterator<LinkId> for Path {
    /// # Panics
    /// If there are more links than a path can have.
    fn from_iter<I: IntoIterator<Item = LinkId>>(links: I) -> Self {
        let mut path = Self::default();
        for link in links {
            path.links[path.len] = link;
            path.len += 1;
        }
        path
    }
}

/// The state of a filling, kept between fillings for its buffers.
#[derive(Debug, Default)]
pub(crate) struct Filling {
    links: Vec<OpenLink>,
    /// Per slot; below zero until it is filled.
    rates: Vec<f64>,
    /// Links by the share they offered when they were put here, fullest first.
    fullest: BinaryHeap<Reverse<(u64, LinkId)>>,
}

/// What a link has left for the flows that still grow.
#[derive(Debug, Clone, Copy, Default)]
struct OpenLink {
    left: f64,
    open_count: u32,
}

impl Filling {
    /// The rate of each flow, by its slot in `paths`; `flows_by_link` names the slots on each
    /// link. Costs `O(flows · path + links · log links)`.
    pub(crate) fn rates(&mut self, capacities: &[f64], flows_by_link: &[Vec<u32>], paths: &[Path]) -> &[f64] {
        self.open(capacities, flows_by_link, paths.len());
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
            self.close(&flows_by_link[link.0 as usize], level, paths);
        }
        &self.rates
    }

    fn open(&mut self, capacities: &[f64], flows_by_link: &[Vec<u32>], slots: usize) {
        self.links.clear();
        self.rates.clear();
        self.rates.resize(slots, UNFILLED);
        let mut fullest = std::mem::take(&mut self.fullest).into_vec();
        fullest.clear();
        for ((index, capacity), flows) in (0..).zip(capacities).zip(flows_by_link) {
            let open_count = u32::try_from(flows.len()).expect("fewer flows than 2^32");
            let link = OpenLink { left: *capacity, open_count };
            if open_count > 0 {
                fullest.push(Reverse((link.share().to_bits(), LinkId(index))));
            }
            self.links.push(link);
        }
        self.fullest = fullest.into();
    }

    /// A link is full: its flows stay at `level`.
    fn close(&mut self, flows: &[u32], level: f64, paths: &[Path]) {
        for &flow in flows {
            let rate = &mut self.rates[flow as usize];
            if *rate >= 0.0 {
                continue;
            }
            *rate = level;
            for other in paths[flow as usize].links() {
                let other = &mut self.links[other.0 as usize];
                other.left = (other.left - level).max(0.0);
                other.open_count -= 1;
            }
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn path(links: &[u32]) -> Path {
        links.iter().copied().map(LinkId).collect()
    }

    fn rates(capacities: &[f64], paths: &[Path]) -> Vec<f64> {
        let mut flows_by_link = vec![Vec::new(); capacities.len()];
        for (slot, path) in (0..).zip(paths) {
            for link in path.links() {
                flows_by_link[link.0 as usize].push(slot);
            }
        }
        Filling::default().rates(capacities, &flows_by_link, paths).to_vec()
    }

    #[test]
    fn a_flow_held_back_elsewhere_leaves_its_share_to_the_others() {
        let paths = [path(&[0, 1]), path(&[0, 2]), path(&[0])];
        assert_eq!(rates(&[90.0, 10.0, 100.0], &paths), [10.0, 40.0, 40.0]);
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
            let rates = rates(&capacities, &paths);
            let on = |link: LinkId| paths.iter().zip(&rates).filter(move |(path, _)| path.links().contains(&link)).map(|(_, rate)| *rate);
            for (path, rate) in paths.iter().zip(&rates) {
                prop_assert!(*rate > 0.0);
                let bottleneck = path.links().iter().any(|link| {
                    let full = on(*link).sum::<f64>() >= capacities[link.0 as usize] * (1.0 - 1e-6);
                    full && on(*link).all(|other| other <= rate * (1.0 + 1e-6))
                });
                prop_assert!(bottleneck, "{path:?} at {rate}");
            }
        }
    }
}
