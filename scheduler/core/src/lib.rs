//! Who fetches what from whom: the planner of one region.
//!
//! [`Scheduler`] takes what happened ([`Input`]) and the time, and says what to do
//! ([`Output`]). It does no IO and reads no clock, so the daemon and the simulator drive
//! the same code.
//!
//! The rules, and why they are these, stand in `docs/design.md` §4:
//!
//! * a blob is a [`task`]; each download exchanges with a bounded set of [`partners`];
//! * an event feeds three parties, and nothing else runs: the parent whose slot it freed,
//!   the child whose window it freed, and the child as a new parent ([`plan`]);
//! * whom first, then what: the least served child, then the piece by [`rank`];
//! * only one seed reads a blob, only the pieces nobody holds ([`source`]);
//! * what a peer says that it holds is believed until it fails a child and a seed ([`belief`]);
//! * what peers say that the bytes are is believed until SHA-256 says otherwise ([`doubt`]).

mod belief;
mod books;
mod demand;
mod doubt;
mod events;
mod explain;
mod failing;
mod failure;
mod hash;
mod hashes;
mod input;
mod limits;
mod member;
mod members;
mod output;
mod pace;
mod partners;
mod peer;
mod plan;
mod rank;
mod rate;
mod reach;
mod records;
mod room;
mod rows;
mod scheduler;
mod shed;
mod source;
mod taking;
mod task;
mod tombstones;
mod zone;

pub use explain::{Candidate, Explanation, Obstacle, PieceState};
pub use input::{FailureReason, Input, PeerFacts, PeerKey, Zone};
pub use limits::Limits;
pub use output::Output;
pub use rank::{ParentRank, PieceScore};
pub use scheduler::Scheduler;
