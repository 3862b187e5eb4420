//! What one peer decides: which downloads run, what is fetched, announced, given up.
//!
//! [`Swarm`] takes what happened ([`Input`]) and the time, and says what to do
//! ([`Output`]). The daemon's driver and the simulator run the same code. The rules:
//!
//! * a piece is announced only once it is on disk, and never twice on one stream;
//! * a scheduler that comes back hears of everything held, and of everything wanted;
//! * a blob is complete only when its SHA-256 was found right, and until then its last piece
//!   is nobody's to read as the end of a blob (DESIGN.md §2.2);
//! * a seed reads from the registry only what it was ordered to, and only while its
//!   scheduler can renew that order (DESIGN.md §5.4).

mod download;
mod input;
mod output;
mod swarm;

pub use input::{FetchError, Input};
pub use output::{Failure, Output, Report};
pub use swarm::{Limits, Swarm};
