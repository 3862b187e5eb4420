//! What a history starts from: nodes, blobs, links, and what goes wrong.

use std::time::Duration;

/// One case, complete but for the seed of its randomness.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// How the command line calls it.
    pub name: &'static str,
    /// What it shows, in a line.
    pub about: &'static str,
    /// Those who may read from the registry.
    pub seeds: Vec<NodeSpec>,
    /// Those who want all of the blobs.
    pub peers: Vec<NodeSpec>,
    /// The blobs' sizes in bytes.
    pub blobs: Vec<u64>,
    /// Where the blobs come from.
    pub registry: RegistrySpec,
    /// How messages between scheduler and peers travel.
    pub control: ControlSpec,
    /// Who dies.
    pub crashes: Vec<Crash>,
}

/// One node.
#[derive(Debug, Clone, Copy)]
pub struct NodeSpec {
    /// What its uplink moves, in bytes per second.
    pub up: f64,
    /// What its downlink moves, in bytes per second.
    pub down: f64,
    /// When it attaches and wants.
    pub arrives: Duration,
    /// Whether every piece it sends is corrupt.
    pub corrupts: bool,
}

/// The registry.
#[derive(Debug, Clone, Copy)]
pub struct RegistrySpec {
    /// What one read gets at most, in bytes per second.
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
}

/// A node that dies and does not come back.
#[derive(Debug, Clone, Copy)]
pub struct Crash {
    /// When.
    pub at: Duration,
    /// Who.
    pub victim: Victim,
}

/// Who dies.
#[derive(Debug, Clone, Copy)]
pub enum Victim {
    /// The peer of that place in [`Scenario::peers`].
    Peer(usize),
    /// The seed that is the home seed of the first blob.
    HomeSeed,
}

impl NodeSpec {
    /// A node with the same rate both ways, there from the start.
    pub const fn even(bytes_per_s: f64) -> Self {
        Self { up: bytes_per_s, down: bytes_per_s, arrives: Duration::ZERO, corrupts: false }
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
            seeds: vec![NodeSpec::even(rate)],
            peers: vec![NodeSpec::even(rate); peers],
            blobs,
            registry: RegistrySpec { bytes_per_s: rate, first_byte: Duration::from_millis(5) },
            control: ControlSpec { one_way: Duration::from_millis(1), jitter: 0.5, batch: Duration::ZERO },
            crashes: Vec::new(),
        }
    }
}

/// Bytes per second.
pub const GBIT: f64 = 1e9 / 8.0;

/// Bytes per second.
pub const MBIT: f64 = 1e6 / 8.0;
