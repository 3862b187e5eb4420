//! A region in a box: the real cores of the scheduler and of every peer, over modelled links.
//!
//! A discrete-event simulation: an event happens at its time, is handed to a core, and what the
//! core puts out puts further events in the queue. All randomness comes from one seed, so
//! one seed is one history; the hash of the event log shows it.
//!
//! What is modelled and what is not stands in `e2e/sim/README.md`. In short: links with rates
//! that may vary, shared max-min fairly; control messages that take their time, come late or get
//! lost; a planner whose one thread can be busy; the shells around the cores; clients that read in
//! order; nodes that die, lie, or cannot store.
//!
//! While a history runs it is checked against what always holds (docs/design.md §1), see
//! [`Violation`].

mod audit;
pub mod baseline;
pub mod catalogue;
mod control;
mod event;
mod explain;
mod fair;
mod follow;
pub mod gates;
mod log;
mod network;
mod node;
mod planner;
pub mod plot;
mod region;
mod report;
pub mod scenario;
mod slab;
mod source;
mod talk;
mod transfer;
mod violation;
mod weather;
mod world;

pub use explain::Answer;
pub use planner::Probe;
pub use report::Report;
pub use scenario::Scenario;
pub use violation::Violation;

use std::time::Duration;

use event::NodeIndex;
use explain::Question;
use region::Region;
use world::World;

/// One history, to its end.
#[derive(Debug, Clone, PartialEq)]
pub struct History {
    /// Its figures.
    pub report: Report,
    /// When each peer had everything, in the order in which they had.
    pub done: Vec<Duration>,
    /// Of everything that happened and was decided: equal for equal seeds.
    pub log_hash: String,
}

/// Runs a scenario. Equal seeds give equal histories.
///
/// # Errors
/// If something happened that never may, or a living peer did not get what it wants.
pub fn run(scenario: &Scenario, seed: u64) -> Result<History, Violation> {
    run_probed(scenario, seed, None)
}

/// Runs a scenario, and measures what the planner takes.
///
/// # Errors
/// As [`run`].
pub fn run_probed(scenario: &Scenario, seed: u64, probe: Option<Probe>) -> Result<History, Violation> {
    let mut world = World::new(scenario, seed);
    world.probe = probe;
    world.run()?;
    let report = Report::of(&world, seed);
    Ok(History { report, done: report::done_times(&world), log_hash: world.log.finish() })
}

/// Why a peer (by its place in [`Scenario::peers`]) was sent a piece of the first blob by whom it was.
///
/// # Errors
/// As [`run`].
pub fn explain(scenario: &Scenario, seed: u64, peer: usize, piece: u32) -> Result<Vec<Answer>, Violation> {
    let mut world = World::new(scenario, seed);
    let child = NodeIndex::at(scenario.seeds.len() + peer);
    world.question = Some(Question { child, digest: world.region.blobs[0].digest, piece });
    world.run()?;
    Ok(world.answers)
}

/// No scheme can give the last of the living peers its last byte sooner.
pub fn lower_bound(scenario: &Scenario, seed: u64) -> Duration {
    Region::draw(scenario, seed).lower_bound(scenario)
}
