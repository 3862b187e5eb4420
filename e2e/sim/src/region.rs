//! A scenario as one seed of randomness makes it: who is where, which seed is whose home, when
//! who dies, and what no scheme could beat.

use std::time::Duration;

use flotilla_proto::{Digest, Layout, PeerId, PieceHash, rendezvous_order};

use crate::event::{NodeIndex, Time};
use crate::network::bytes_f64;
use crate::scenario::{Crash, Manner, Moment, NodeSpec, Part, Scenario, Victim, ZoneLink};
use crate::weather::{Hose, Weather};

/// The nodes, blobs and links of one history.
#[derive(Debug)]
pub(crate) struct Region {
    /// Seeds first.
    pub(crate) sites: Vec<Site>,
    pub(crate) blobs: Vec<Blob>,
    pub(crate) weather: Weather,
    pub(crate) deaths: Vec<Death>,
}

/// A node's place in the region.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) id: PeerId,
    pub(crate) is_seed: bool,
    pub(crate) spec: NodeSpec,
    pub(crate) dies: bool,
    number: u32,
}

/// A blob, as the registry has it.
#[derive(Debug)]
pub(crate) struct Blob {
    pub(crate) digest: Digest,
    pub(crate) layout: Layout,
    pub(crate) hashes: Vec<PieceHash>,
}

/// A crash, its moment and its victim known.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Death {
    pub(crate) at: Time,
    pub(crate) node: NodeIndex,
    pub(crate) manner: Manner,
}

impl Region {
    pub(crate) fn draw(scenario: &Scenario, seed: u64) -> Self {
        let blobs: Vec<Blob> =
            scenario.blobs.iter().zip(0..).map(|(size, place)| Blob::new(*size, seed, place)).collect();
        let seeds = scenario.seeds.iter().enumerate().map(|(place, spec)| (true, place, spec));
        let peers = scenario.peers.iter().enumerate().map(|(place, spec)| (false, place, spec));
        let mut sites: Vec<Site> = seeds
            .chain(peers)
            .zip(0..)
            .map(|((is_seed, place, spec), number)| Site::new(is_seed, place, *spec, number))
            .collect();
        let home = home_seed(&blobs[0], &sites);
        let home_spec = &mut sites[home.place()].spec;
        home_spec.up *= scenario.home_seed_rate;
        home_spec.down *= scenario.home_seed_rate;
        let victim = |crash: &Crash| match crash.victim {
            Victim::Peer(place) => NodeIndex::at(scenario.seeds.len() + place),
            Victim::HomeSeed => home,
        };
        for crash in &scenario.crashes {
            sites[victim(crash).place()].dies = true;
        }
        let mut region =
            Self { sites, blobs, weather: Weather::new(scenario.sigma, seed), deaths: Vec::new() };
        let bound = if scenario.crashes.is_empty() { Time::ZERO } else { region.lower_bound(scenario) };
        region.deaths = scenario
            .crashes
            .iter()
            .map(|crash| Death {
                at: moment(crash.at, bound, seed),
                node: victim(crash),
                manner: crash.manner,
            })
            .collect();
        region
    }

    /// No scheme can give the last of the living peers its last byte sooner (Kumar & Ross 2006):
    /// `max(F/R, F/u_seeds, F/d_seeds, arrival + F/d, N·F/(u_seeds + Σu))` and what the links
    /// between zones allow, where `F` is what each peer wants, and `R` the registry's rate. With
    /// rates that vary it is the first time at which all of these integrals are met.
    ///
    /// Uplinks of nodes that die count as if they lived, so that it stays a bound.
    pub(crate) fn lower_bound(&self, scenario: &Scenario) -> Time {
        let wanted = bytes_f64(scenario.bytes());
        let slowest = self.wanting().map(|site| self.downlink_bound(site, wanted)).max();
        let wanting = bytes_f64(self.wanting().count() as u64);
        let up = self.hoses(|site| site.spec.part != Part::Nothing || site.is_seed, Site::up);
        let all = self.weather.time_to_move(wanting * wanted, &up, 0.0);
        let zones = scenario.zone_links.iter().map(|link| self.zone_bound(link.zone, scenario)).max();
        [Some(self.source_bound(scenario)), slowest, Some(all), zones]
            .into_iter()
            .flatten()
            .max()
            .unwrap_or_default()
    }

    /// When one peer could have everything at the soonest, if all others stood back.
    pub(crate) fn own_bound(&self, index: NodeIndex, scenario: &Scenario) -> Time {
        let site = &self.sites[index.place()];
        let zone_link = scenario.zone_links.iter().find(|link| link.zone == site.spec.zone);
        let zone = zone_link.map(|link| self.zone_entry_bound(link.zone, scenario)).unwrap_or_default();
        let down = self.downlink_bound(site, bytes_f64(scenario.bytes()));
        down.max(self.source_bound(scenario)).max(zone)
    }

    /// When the last byte can have left those who are the first to have it.
    fn source_bound(&self, scenario: &Scenario) -> Time {
        let wanted = bytes_f64(scenario.bytes());
        let time = |hoses: &[(Hose, Time)]| self.weather.time_to_move(wanted, hoses, 0.0);
        if self.sites.iter().any(|site| site.spec.part == Part::Holds) {
            return time(&self.hoses(|site| site.spec.part == Part::Holds, Site::up));
        }
        let seeds = |hose| self.hoses(|site| site.is_seed, hose);
        let registry = Duration::from_secs_f64(wanted / scenario.registry.bytes_per_s);
        registry.max(time(&seeds(Site::up))).max(time(&seeds(Site::down)))
    }

    fn downlink_bound(&self, site: &Site, bytes: f64) -> Time {
        self.weather.time_to_move(bytes, &[(site.down(), site.spec.arrives)], 0.0)
    }

    /// When all peers of a zone, and those outside, can have what must cross the zone's link.
    fn zone_bound(&self, zone: u32, scenario: &Scenario) -> Time {
        let link = zone_link(zone, scenario);
        let rate = link.usable();
        let wanted = bytes_f64(scenario.bytes());
        let inside = |site: &Site| site.spec.zone == zone;
        let outside_wants = self.wanting().any(|site| !inside(site));
        let source_outside = self.sites.iter().any(|site| site.is_source() && !inside(site));
        let leaves = if outside_wants && !source_outside { wanted / rate } else { 0.0 };
        let count = bytes_f64(self.wanting().filter(|site| inside(site)).count() as u64);
        let all = self.weather.time_to_move(count * wanted, &self.hoses(inside, Site::up), rate);
        let all = all.max(Duration::from_secs_f64(leaves)).saturating_sub(link.lead());
        all.max(self.zone_entry_bound(zone, scenario))
    }

    /// When the last byte can have entered a zone in which nobody has it first.
    fn zone_entry_bound(&self, zone: u32, scenario: &Scenario) -> Time {
        let inside = |site: &Site| site.spec.zone == zone;
        let has_source = self.sites.iter().any(|site| site.is_source() && inside(site));
        let wants = self.wanting().any(inside);
        let enters = if wants && !has_source { bytes_f64(scenario.bytes()) } else { 0.0 };
        let link = zone_link(zone, scenario);
        Duration::from_secs_f64(enters / link.usable()).saturating_sub(link.lead())
    }

    fn hoses(&self, which: impl Fn(&Site) -> bool, hose: fn(&Site) -> Hose) -> Vec<(Hose, Time)> {
        let chosen = self.sites.iter().filter(|site| which(site));
        chosen.map(|site| (hose(site), site.spec.arrives)).collect()
    }

    fn wanting(&self) -> impl Iterator<Item = &Site> {
        self.sites.iter().filter(|site| site.spec.part == Part::Wants && !site.dies)
    }
}

impl Site {
    fn new(is_seed: bool, place: usize, spec: NodeSpec, number: u32) -> Self {
        let role = if is_seed { "seed" } else { "peer" };
        let id = format!("{role}-{place}").parse().expect("a DNS label");
        Self { id, is_seed, spec, dies: false, number }
    }

    pub(crate) fn up(&self) -> Hose {
        Hose { number: 2 * self.number, bytes_per_s: self.spec.up }
    }

    pub(crate) fn down(&self) -> Hose {
        Hose { number: 2 * self.number + 1, bytes_per_s: self.spec.down }
    }

    /// Whether bytes can be here before they are anywhere else.
    fn is_source(&self) -> bool {
        self.is_seed || self.spec.part == Part::Holds
    }
}

impl Blob {
    fn new(size: u64, seed: u64, place: u32) -> Self {
        let digest = Digest::of(format!("blob {place} of history {seed}").as_bytes());
        let layout = Layout::of(size).expect("a scenario's blob is no larger than any may be");
        let hash = |piece: u32| PieceHash::of(&[&digest.as_bytes()[..], &piece.to_le_bytes()].concat());
        Self { digest, layout, hashes: (0..layout.piece_count()).map(hash).collect() }
    }
}

fn home_seed(blob: &Blob, sites: &[Site]) -> NodeIndex {
    let ids = sites.iter().filter(|site| site.is_seed).map(|site| site.id.as_str());
    let home = rendezvous_order(blob.digest.as_bytes(), ids)[0];
    let found = sites.iter().position(|site| site.id.as_str() == home);
    NodeIndex::at(found.expect("drawn from the sites"))
}

fn zone_link(zone: u32, scenario: &Scenario) -> &ZoneLink {
    let link = scenario.zone_links.iter().find(|link| link.zone == zone);
    link.expect("only zones with a link are asked for")
}

fn moment(moment: Moment, bound: Time, seed: u64) -> Time {
    match moment {
        Moment::At(at) => at,
        Moment::OfBound(share) => bound.mul_f64(share),
        Moment::Varied => bound.mul_f64(varied(seed)),
    }
}

/// Multiples of the golden ratio, less their whole part, are spread evenly however many there are.
fn varied(seed: u64) -> f64 {
    const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
    let share = u32::try_from(seed.wrapping_mul(GOLDEN) >> 32).expect("the upper half");
    f64::from(share) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::MBIT;

    fn bound(scenario: &Scenario) -> f64 {
        Region::draw(scenario, 1).lower_bound(scenario).as_secs_f64()
    }

    #[test]
    fn the_bound_is_the_narrowest_of_all_ways() {
        let mut scenario = Scenario::even("", "", 3, 8.0 * MBIT, vec![6_000_000]);
        let is = |scenario: &Scenario, seconds: f64| assert!((bound(scenario) - seconds).abs() < 1e-6);
        is(&scenario, 6.0);
        scenario.peers[1].down = 2.0 * MBIT;
        is(&scenario, 24.0);
        scenario.peers[1].arrives = Duration::from_secs(1);
        is(&scenario, 25.0);
        for peer in &mut scenario.peers {
            peer.up = 1e-9;
        }
        scenario.registry.bytes_per_s = 1.2e6 / 8.0;
        is(&scenario, 40.0);
        scenario.peers[0].zone = 1;
        scenario.zone_links = vec![ZoneLink::of(1, MBIT)];
        is(&scenario, 48.0);
    }

    #[test]
    fn a_zone_of_many_peers_may_need_longer_than_its_link_does_for_one_copy() {
        let mut scenario = Scenario::even("", "", 4, 8.0 * MBIT, vec![1_000_000]);
        scenario.zone_links = vec![ZoneLink::of(1, MBIT)];
        for peer in &mut scenario.peers {
            (peer.zone, peer.up) = (1, 0.25 * MBIT);
        }
        assert!((bound(&scenario) - 16.0).abs() < 1e-6, "4 copies at twice the link's rate");
    }

    #[test]
    fn a_varied_moment_comes_early_midway_and_late() {
        let mut shares: Vec<f64> = (1..=10).map(varied).collect();
        shares.sort_by(f64::total_cmp);
        assert!(shares[0] < 0.15 && shares[9] > 0.85);
        assert!(shares.windows(2).all(|pair| pair[1] - pair[0] < 0.2), "{shares:?}");
    }
}
