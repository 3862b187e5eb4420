//! Random histories.

use flotilla_peer_core::{FetchError, Input};
use proptest::prelude::*;

use crate::model::*;

fn step() -> impl Strategy<Value = Input> {
    let digest = digest();
    let piece = 0_u32..6;
    let errors = prop_oneof![Just(FetchError::Stalled), Just(FetchError::Busy), Just(FetchError::Corrupt)];
    prop_oneof![
        3 => Just(wanted()),
        3 => (0_u32..64).prop_map(|mask| part_wanted((0..6).filter(|piece| mask >> piece & 1 == 1))),
        1 => Just(Input::SchedulerUp),
        1 => Just(Input::SchedulerDown),
        6 => (piece.clone(), "[ab]").prop_map(|(piece, parent)| assigned(piece, &parent)),
        4 => piece.clone().prop_map(fetched),
        2 => piece.clone().prop_map(heard),
        2 => (piece.clone(), errors).prop_map(move |(piece, error)| Input::FetchFailed { digest, piece, error }),
        1 => piece.clone().prop_map(move |piece| Input::Cancelled { digest, piece }),
        2 => Just(read_ordered(0..6)),
        4 => piece.clone().prop_map(move |piece| Input::SourceRead { digest, piece, hash: hash(piece) }),
        1 => any::<bool>().prop_map(move |ok| Input::SourceEnded { digest, result: if ok { Ok(true) } else { Err(failure(false)) } }),
        2 => any::<bool>().prop_map(hashed),
        1 => Just(Input::Entombed { variant: variant() }),
        1 => any::<[bool; 2]>().prop_map(move |[poisoned, named]| task_failed(poisoned, named.then(root))),
        1 => piece.prop_map(move |piece| Input::Damaged { digest, piece }),
        1 => Just(Input::Evicted { digest }),
        1 => Just(Input::GivenUp { digest, failure: failure(false) }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// A fetch or a read that was not under way cannot end: such inputs are left out.
    #[test]
    fn every_history_keeps_the_invariants(steps in proptest::collection::vec(step(), 1..80)) {
        let mut peer = Peer::new();
        for input in steps {
            let possible = match &input {
                Input::Fetched { piece, .. } | Input::FetchFailed { piece, .. } => peer.fetching.contains(piece),
                Input::SourceRead { piece, .. } => peer.reading.contains(piece),
                Input::SourceEnded { result, .. } => result.is_err() || peer.reading.is_empty(),
                Input::Damaged { piece, .. } => peer.on_disk.contains(piece),
                Input::SchedulerUp => !peer.up,
                Input::SchedulerDown => peer.up,
                _ => true,
            };
            if possible {
                peer.input(input);
            }
        }
    }
}
