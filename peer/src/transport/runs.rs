//! Sets of pieces as runs, in the words of the wire between peers.

use flotilla_proto::wire::peer as wire;
use flotilla_proto::{PieceSet, Run};

pub(super) fn to_wire(pieces: &PieceSet) -> Vec<wire::Run> {
    pieces.runs().into_iter().map(|run| wire::Run { first: run.first, count: run.count }).collect()
}

/// The set over a blob of `len` pieces; `None` if a run leaves the blob, two overlap, or there
/// are more than [`MAX_RUNS`].
pub(super) fn from_wire(len: u32, runs: &[wire::Run]) -> Option<PieceSet> {
    let few = runs.len() <= MAX_RUNS;
    let runs = runs.iter().map(|run| Run { first: run.first, count: run.count });
    few.then(|| PieceSet::from_runs(len, runs)).flatten()
}

/// Runs in one message.
pub(super) const MAX_RUNS: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_leaves_the_blob_overlaps_or_is_endless_makes_no_set() {
        let run = |first, count| wire::Run { first, count };
        let count = |runs: &[wire::Run]| from_wire(1000, runs).map(|pieces| pieces.count());
        assert_eq!(count(&[run(0, 2), run(7, 1)]), Some(3));
        assert_eq!(count(&[run(999, 2)]), None);
        assert_eq!(count(&[run(u32::MAX, u32::MAX)]), None);
        assert_eq!(count(&[run(3, 2), run(4, 1)]), None);
        assert_eq!(count(&(0..257).map(|index| run(index * 2, 1)).collect::<Vec<_>>()), None);
    }
}
