//! What a region comes to without a planner: a random graph in which every peer sends random
//! useful pieces to random neighbours, as most peer-to-peer tools do.
//!
//! It runs over the same links, rates and registry as the real cores; it knows neither deaths
//! nor narrow links between zones.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use fastrand::Rng;
use flotilla_proto::{Layout, PieceSet};

use crate::event::Time;
use crate::fair::{LinkId, Path};
use crate::network::{FlowId, Network};
use crate::region::Region;
use crate::scenario::{Part, Scenario};
use crate::weather::EPOCH;

/// When each peer had the scenario's first blob, sorted.
pub fn completions(scenario: &Scenario, seed: u64) -> Vec<Duration> {
    Baseline::new(scenario, seed).run()
}

struct Baseline {
    region: Region,
    layout: Layout,
    network: Network<Cargo>,
    registry_link: LinkId,
    rng: Rng,
    now: Time,
    /// What is announced, or a request that reached its parent, by time and number.
    due: BinaryHeap<Reverse<(Time, u64, Due)>>,
    due_count: u64,
    nodes: Vec<Node>,
    sendings: Vec<Sending>,
    read: Option<(FlowId, u32)>,
    to_finish: usize,
    done: Vec<Time>,
}

struct Node {
    up: LinkId,
    down: LinkId,
    neighbours: Vec<usize>,
    held: PieceSet,
    /// Held or on its way.
    taken: PieceSet,
    sending: usize,
    wants: bool,
}

#[derive(Clone, Copy)]
struct Sending {
    from: usize,
    to: usize,
    piece: u32,
    flow: Option<FlowId>,
}

#[derive(Clone, Copy)]
enum Cargo {
    /// A place among the sendings.
    Piece(usize),
    Read,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    /// A request is answered.
    Sends(usize),
    /// A node looks for something to send.
    Feeds(usize),
    RatesDrawn,
}

impl Baseline {
    fn new(scenario: &Scenario, seed: u64) -> Self {
        let region = Region::draw(scenario, seed);
        let layout = region.blobs[0].layout;
        let mut network = Network::new();
        let registry_link = network.add_link(scenario.registry.bytes_per_s);
        let mut rng = Rng::with_seed(seed);
        let neighbours = random_graph(region.sites.len(), &mut rng);
        let nodes: Vec<Node> = region
            .sites
            .iter()
            .zip(neighbours)
            .map(|(site, neighbours)| {
                let (up, down) = (network.add_link(site.spec.up), network.add_link(site.spec.down));
                let holds = site.spec.part == Part::Holds;
                let held = if holds {
                    PieceSet::full(layout.piece_count())
                } else {
                    PieceSet::new(layout.piece_count())
                };
                let wants = site.spec.part == Part::Wants;
                Node { up, down, neighbours, taken: held.clone(), held, sending: 0, wants }
            })
            .collect();
        let to_finish = nodes.iter().filter(|node| node.wants).count();
        Self {
            region,
            layout,
            network,
            registry_link,
            rng,
            now: Time::ZERO,
            due: BinaryHeap::new(),
            due_count: 0,
            nodes,
            sendings: Vec::new(),
            read: None,
            to_finish,
            done: Vec::new(),
        }
    }

    fn run(mut self) -> Vec<Duration> {
        self.plan(Time::ZERO, Due::RatesDrawn);
        for node in 0..self.nodes.len() {
            self.plan(Time::ZERO, Due::Feeds(node));
        }
        if !self.nodes.iter().any(|node| node.held.is_full()) {
            let path = [self.registry_link, self.nodes[0].down].into_iter().collect();
            let flow = self.network.start(self.now, path, self.layout.piece_size(0).into(), Cargo::Read);
            self.read = Some((flow, 0));
        }
        while self.done.len() < self.to_finish && self.now < GIVEN_UP {
            let due = self.due.peek().map_or(Time::MAX, |Reverse((at, ..))| *at);
            match self.network.due().map(|at| at.max(self.now)).filter(|at| *at <= due) {
                Some(at) => {
                    self.now = at;
                    while let Some(cargo) = self.network.advance(at) {
                        self.arrived(cargo);
                    }
                }
                None => self.happens_next(),
            }
            self.network.tidy(self.now);
        }
        self.done
    }

    fn plan(&mut self, at: Time, due: Due) {
        self.due_count += 1;
        self.due.push(Reverse((at, self.due_count, due)));
    }

    fn happens_next(&mut self) {
        let Some(Reverse((at, _, due))) = self.due.pop() else { return };
        self.now = at;
        match due {
            Due::Sends(place) => self.sends(place),
            Due::Feeds(node) => self.feeds(node),
            Due::RatesDrawn => self.rates_drawn(),
        }
    }

    fn rates_drawn(&mut self) {
        let epoch = u32::try_from(self.now.as_nanos() / EPOCH.as_nanos()).expect("no history is as long");
        for (site, node) in self.region.sites.iter().zip(&self.nodes) {
            self.network.set_capacity(node.up, self.region.weather.rate(site.up(), epoch));
            self.network.set_capacity(node.down, self.region.weather.rate(site.down(), epoch));
        }
        if self.region.weather.varies() {
            self.plan(self.now + EPOCH, Due::RatesDrawn);
        }
    }

    /// A node with free slots sends random useful pieces to random neighbours.
    fn feeds(&mut self, from: usize) {
        while self.nodes[from].sending < UPLOADS_AT_ONCE {
            let mut neighbours = self.nodes[from].neighbours.clone();
            self.rng.shuffle(&mut neighbours);
            let Some((to, piece)) = neighbours.into_iter().find_map(|to| Some((to, self.useful(from, to)?)))
            else {
                return;
            };
            self.nodes[from].sending += 1;
            self.nodes[to].taken.insert(piece);
            self.sendings.push(Sending { from, to, piece, flow: None });
            self.plan(self.now + REQUEST, Due::Sends(self.sendings.len() - 1));
        }
    }

    /// A random piece that one holds and the other lacks.
    fn useful(&mut self, from: usize, to: usize) -> Option<u32> {
        if !self.nodes[to].wants {
            return None;
        }
        let words = self.nodes[from].held.words().iter().zip(self.nodes[to].taken.words());
        let useful: Vec<(u32, u64)> = (0..)
            .step_by(64)
            .zip(words.map(|(held, taken)| held & !taken))
            .filter(|(_, word)| *word != 0)
            .collect();
        let count: u32 = useful.iter().map(|(_, word)| word.count_ones()).sum();
        if count == 0 {
            return None;
        }
        let mut left = self.rng.u32(..count);
        for (base, mut word) in useful {
            if left >= word.count_ones() {
                left -= word.count_ones();
                continue;
            }
            for _ in 0..left {
                word &= word - 1;
            }
            return Some(base + word.trailing_zeros());
        }
        None
    }

    fn sends(&mut self, place: usize) {
        let Sending { from, to, piece, .. } = self.sendings[place];
        let path: Path = [self.nodes[from].up, self.nodes[to].down].into_iter().collect();
        let bytes = self.layout.piece_size(piece).into();
        self.sendings[place].flow = Some(self.network.start(self.now, path, bytes, Cargo::Piece(place)));
    }

    fn arrived(&mut self, cargo: Cargo) {
        match cargo {
            Cargo::Read => self.piece_read(),
            Cargo::Piece(place) => {
                let Sending { from, to, piece, flow } = self.sendings[place];
                self.network.stop(self.now, flow.expect("it flows"));
                self.nodes[from].sending -= 1;
                self.holds(to, piece);
                self.feeds(from);
            }
        }
    }

    fn piece_read(&mut self) {
        let Some((flow, piece)) = self.read else { return };
        self.holds(0, piece);
        let next = piece + 1;
        if next < self.layout.piece_count() {
            self.network.extend(self.now, flow, self.layout.piece_size(next).into());
            self.read = Some((flow, next));
        } else {
            self.network.stop(self.now, flow);
            self.read = None;
        }
    }

    /// The node has a piece; its neighbours hear of it after a while, and want it.
    fn holds(&mut self, index: usize, piece: u32) {
        let node = &mut self.nodes[index];
        node.held.insert(piece);
        node.taken.insert(piece);
        if node.wants && node.held.is_full() {
            self.done.push(self.now);
        }
        self.plan(self.now + ANNOUNCE, Due::Feeds(index));
    }
}

/// Each node draws [`DEGREE`] / 2 neighbours, so that it has [`DEGREE`] on the average.
fn random_graph(count: usize, rng: &mut Rng) -> Vec<Vec<usize>> {
    let mut neighbours = vec![Vec::new(); count];
    for one in 0..count {
        for _ in 0..DEGREE / 2 {
            let other = rng.usize(..count);
            if other != one && !neighbours[one].contains(&other) {
                neighbours[one].push(other);
                neighbours[other].push(one);
            }
        }
    }
    neighbours
}

/// As many as a download draws partners.
const DEGREE: usize = 24;

const UPLOADS_AT_ONCE: usize = 4;

/// As for the real cores.
const REQUEST: Duration = Duration::from_micros(300);
const ANNOUNCE: Duration = Duration::from_millis(1);

/// A graph that is not connected never finishes.
const GIVEN_UP: Duration = Duration::from_secs(600);
