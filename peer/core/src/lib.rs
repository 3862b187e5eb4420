//! What one peer decides: which downloads run, what is fetched, announced, given up.
//!
//! [`Swarm`] takes what happened ([`Input`]) and the time, and says what to do
//! ([`Output`]). The daemon's driver and the simulator run the same code. The rules:
//!
//! * a piece is announced only once it is on disk, and never twice on one stream;
//! * a scheduler that comes back hears of everything held, and of everything wanted;
//! * a blob is complete only when its SHA-256 was found right, and until then its last piece
//!   is nobody's to read as the end of a blob (docs/design.md §1.2);
//! * of a blob that clients want in part, no more than those pieces is asked for, and each is
//!   theirs as it comes;
//! * wrong bytes go, with whatever was never found right of that blob, and are told of;
//! * a seed reads from the registry only what it was ordered to, and only while its
//!   scheduler can renew that order (docs/design.md §3);
//! * who fetches what is the scheduler's plan, unless it leaves the choice to this peer or is
//!   not there: then the peer picks among the partners it was given (docs/design.md §4);
//! * a parent is waited for as long as it was measured to take; one that fails rests, one that
//!   sends a corrupt piece is never asked for that blob again;
//! * so many children are served at once, few wait, the rest hear *busy*.

mod download;
mod failure;
mod fetching;
mod health;
mod input;
mod intake;
mod outbox;
mod output;
mod partner;
mod picking;
mod purging;
mod reading;
mod requests;
mod scheduler;
mod swarm;
mod tombstones;
mod uploads;

pub use input::{FetchError, Input, UploadId, UploadWish};
pub use outbox::Batch;
pub use output::{Output, Patience, Report, UploadRefusal};
pub use swarm::{Limits, Swarm};
