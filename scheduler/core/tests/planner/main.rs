//! The planner under random histories.
//!
//! A model plays the swarm: it keeps what each peer truly holds and awaits, delivers, fails
//! or forgets what the planner assigned, and lets peers come and go. Invariants, checked at
//! every output and after every input:
//!
//! 1. a child is sent only pieces that it neither holds nor awaits, by a partner that holds them;
//! 2. nobody owes or awaits more than the limits say, save what a child has left for so long that it weighs nothing;
//! 3. one seed at a time reads a blob, and only pieces that nobody holds (docs/design.md §1.1), save holders that
//!    failed a peer and a seed; but for one peer that lies about wrong bytes: then once what the seed itself
//!    does not hold;
//! 4. work conserving: no parent has a free slot while a partner lacks what it may give (§2.9; a
//!    seed that reads gives nothing twice);
//!    seen from outside: a lone download beside a full holder is never left without a plan;
//! 5. when the noise ends, every download completes;
//! 6. of a blob that is wanted in part, nothing else is sent or read.

#![allow(clippy::disallowed_methods, clippy::unwrap_used)] // a test may read the clock, once, and unwrap

mod alone;
mod driver;
mod false_claims;
mod histories;
mod lying_children;
mod lying_holders;
mod model;

use flotilla_proto::{Digest, PieceHash};
use flotilla_scheduler_core::{Output, Scheduler};

/// 12 pieces of 128 KiB.
const SIZE: u64 = 12 * (128 << 10) - 5;

fn digest(blob: u8) -> Digest {
    Digest::from_bytes([blob; 32])
}

fn piece_hash(digest: Digest, piece: u32) -> PieceHash {
    let mut bytes = *digest.as_bytes();
    bytes[0] = u8::try_from(piece).unwrap();
    PieceHash::from_bytes(bytes)
}

/// The next output that is not about partners or pace.
fn next_told(scheduler: &mut Scheduler) -> Option<Output> {
    std::iter::from_fn(|| scheduler.poll_output()).find(|output| {
        !matches!(output, Output::Link { .. } | Output::Unlink { .. } | Output::PaceSource { .. })
    })
}
