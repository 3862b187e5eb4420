//! What a history starts from: nodes, blobs, links, and what goes wrong.

use std::num::NonZeroU64;
use std::time::Duration;

use crate::network::bytes_f64;

/// One case, complete but for the seed of its randomness.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// How the command line calls it.
    pub name: &'static str,
    /// What it shows, in a line.
    pub about: &'static str,
    /// Those who may read from the registry.
    pub seeds: Vec<NodeSpec>,
    /// Everyone else.
    pub peers: Vec<NodeSpec>,
    /// The blobs' sizes in bytes.
    pub blobs: Vec<u64>,
    /// σ: each node's up and down rate is drawn anew every 200 ms from a lognormal of mean 1.
    pub sigma: f64,
    /// Links between zones. Zones that are not named here are joined without limit.
    pub zone_links: Vec<ZoneLink>,
    /// Where the blobs come from.
    pub registry: RegistrySpec,
    /// How messages between scheduler and peers travel.
    pub control: ControlSpec,
    /// Who reads the blobs at each peer that wants them.
    pub client: ClientSpec,
    /// How the planner is driven.
    pub planner: PlannerSpec,
    /// Who dies.
    pub crashes: Vec<Crash>,
    /// The home seed of the first blob has so much of its rates; 1 is all.
    pub home_seed_rate: f64,
}

/// One node.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NodeSpec {
    /// What its uplink moves, in bytes per second.
    pub up: f64,
    /// What its downlink moves, in bytes per second.
    pub down: f64,
    /// When it attaches, and wants what it wants.
    pub arrives: Duration,
    /// Where it is.
    pub zone: u32,
    /// What it has to do with the blobs.
    pub part: Part,
    /// Whether every piece it sends is corrupt.
    pub corrupts: bool,
    /// Whether its disk takes nothing.
    pub disk_full: bool,
}

/// What a node has to do with the scenario's blobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// A client on it wants all of them.
    Wants,
    /// It holds all of them from the start.
    Holds,
    /// Nothing: it is a member of the region, or a seed that may have to read.
    Nothing,
}

/// The one link that joins a zone to all others; each direction has the whole rate.
#[derive(Debug, Clone, Copy)]
pub struct ZoneLink {
    /// Which zone.
    pub zone: u32,
    /// What it moves each way, in bytes per second.
    pub bytes_per_s: f64,
    /// What the planner is told that pieces may take of it each way, in bytes per second.
    pub budget: Option<NonZeroU64>,
}

impl ZoneLink {
    /// One that may be filled.
    pub const fn of(zone: u32, bytes_per_s: f64) -> Self {
        Self { zone, bytes_per_s, budget: None }
    }

    /// What pieces get of it each way, in bytes per second.
    pub fn usable(&self) -> f64 {
        let budget = self.budget.map_or(f64::INFINITY, |budget| bytes_f64(budget.get()));
        self.bytes_per_s.min(budget)
    }

    /// How far ahead of [`Self::usable`] what crosses may be: the planner's 100 ms, and a piece.
    pub(crate) fn lead(&self) -> Duration {
        if self.budget.is_some() { Duration::from_millis(120) } else { Duration::ZERO }
    }
}

/// The registry.
#[derive(Debug, Clone, Copy)]
pub struct RegistrySpec {
    /// What all reads together get at most, in bytes per second.
    pub bytes_per_s: f64,
    /// From a request to the first byte of its answer.
    pub first_byte: Duration,
}

/// The control plane.
#[derive(Debug, Clone, Copy)]
pub struct ControlSpec {
    /// One way, on the average.
    pub one_way: Duration,
    /// A message takes so much of `one_way` more or less, evenly spread; 0 to 1.
    pub jitter: f64,
    /// A daemon flushes at most once in so long.
    pub batch: Duration,
    /// So many of a thousand messages are late, by [`Self::late_by`].
    pub late_per_mille: u32,
    /// How late.
    pub late_by: Duration,
    /// So many of a million messages are lost: the stream breaks, and is there again after
    /// the daemon's pause.
    pub lost_per_million: u32,
}

/// Whoever pulls at a peer.
#[derive(Debug, Clone, Copy)]
pub struct ClientSpec {
    /// How fast it takes one blob, in bytes per second.
    pub bytes_per_s: f64,
    /// How many blobs it asks for at once.
    pub blobs_at_once: usize,
}

/// The planner's load.
#[derive(Debug, Clone, Copy)]
pub struct PlannerSpec {
    /// What inputs cost the planner's one thread. They queue while it is busy; `None` where
    /// the planner is not what the scenario is about.
    pub costs: Option<PlannerCosts>,
    /// The load that the planner is told of from the start, whatever it is: with 100 it hands
    /// all picking to the peers.
    pub told_load_percent: Option<u8>,
}

/// What the planner's thread spends, as its bench measures it.
#[derive(Debug, Clone, Copy)]
pub struct PlannerCosts {
    /// A piece that it plans, from the announcement that lets it to the assignment.
    pub assignment: Duration,
    /// A report, whatever it says.
    pub report: Duration,
    /// A piece in an announcement.
    pub piece: Duration,
}

/// A node that dies and does not come back.
#[derive(Debug, Clone, Copy)]
pub struct Crash {
    /// When.
    pub at: Moment,
    /// Who.
    pub victim: Victim,
    /// What is heard of it.
    pub manner: Manner,
}

/// A time that depends on the history.
#[derive(Debug, Clone, Copy)]
pub enum Moment {
    /// So long after the start.
    At(Duration),
    /// So much of the lower bound.
    OfBound(f64),
    /// Somewhere in the lower bound: each seed of randomness another, evenly spread.
    Varied,
}

/// Who dies.
#[derive(Debug, Clone, Copy)]
pub enum Victim {
    /// The peer of that place in [`Scenario::peers`].
    Peer(usize),
    /// The seed that is the home seed of the first blob.
    HomeSeed,
}

/// How it dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// The daemon is killed: its kernel ends its stream to the scheduler.
    Killed,
    /// The node is gone: the scheduler hears nothing until the stream's keep-alive fails.
    PoweredOff,
}

impl NodeSpec {
    /// A peer with the same rate both ways, there from the start, that wants the blobs.
    pub const fn even(bytes_per_s: f64) -> Self {
        Self {
            up: bytes_per_s,
            down: bytes_per_s,
            arrives: Duration::ZERO,
            zone: 0,
            part: Part::Wants,
            corrupts: false,
            disk_full: false,
        }
    }

    /// A node with the same rate both ways that wants nothing.
    pub const fn member(bytes_per_s: f64) -> Self {
        Self { part: Part::Nothing, ..Self::even(bytes_per_s) }
    }
}

impl Scenario {
    /// The size of an image of these blobs.
    pub fn bytes(&self) -> u64 {
        self.blobs.iter().sum()
    }

    /// Peers and a seed on links of one rate, and a registry that sends at that rate.
    pub fn even(name: &'static str, about: &'static str, peers: usize, rate: f64, blobs: Vec<u64>) -> Self {
        Self {
            name,
            about,
            seeds: vec![NodeSpec::member(rate)],
            peers: vec![NodeSpec::even(rate); peers],
            blobs,
            sigma: 0.0,
            zone_links: Vec::new(),
            registry: RegistrySpec { bytes_per_s: rate, first_byte: Duration::from_millis(5) },
            control: ControlSpec::near(),
            client: ClientSpec { bytes_per_s: 130e6, blobs_at_once: usize::MAX },
            planner: PlannerSpec { costs: None, told_load_percent: None },
            crashes: Vec::new(),
            home_seed_rate: 1.0,
        }
    }
}

impl ControlSpec {
    /// One way 1 ms ± 50 %, flushed at once.
    pub const fn near() -> Self {
        Self {
            one_way: Duration::from_millis(1),
            jitter: 0.5,
            batch: Duration::ZERO,
            late_per_mille: 0,
            late_by: Duration::ZERO,
            lost_per_million: 0,
        }
    }
}

/// Bytes per second.
pub const GBIT: f64 = 1e9 / 8.0;

/// Bytes per second.
pub const MBIT: f64 = 1e6 / 8.0;
