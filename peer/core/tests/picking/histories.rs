//! Random histories.

use std::time::Duration;

use flotilla_peer_core::{FetchError, Input, UploadId, UploadWish};
use flotilla_proto::PieceSet;
use proptest::prelude::*;

use crate::model::*;

#[derive(Debug, Clone)]
/// What may happen; the numbers choose among what there is.
enum Step {
    Input(Input),
    Wait(u64),
    EndFetch(usize, Option<FetchError>),
    BeginTake(usize, u32),
    EndTake(usize, Option<FetchError>),
    AskUpload(UploadWish),
    EndUpload(usize, bool),
}

fn steps() -> impl Strategy<Value = Step> {
    let partner = prop_oneof!["[a-e]", Just("s".to_owned()), Just("t".to_owned())];
    let partner = partner.prop_map(|name| id(&name));
    let error = prop_oneof![
        Just(FetchError::Stalled),
        Just(FetchError::Unreachable),
        Just(FetchError::NotHeld),
        Just(FetchError::Busy),
        Just(FetchError::Corrupt),
    ];
    let end = prop_oneof![3 => Just(None), 1 => error.prop_map(Some)];
    let digest = digest();
    let input = prop_oneof![
        1 => Just(Input::SchedulerUp),
        1 => Just(Input::SchedulerDown),
        2 => Just(wanted()),
        2 => any::<u32>().prop_map(|mask| part_wanted(set((0..PIECES).filter(|piece| mask >> piece & 1 == 1)))),
        3 => any::<bool>().prop_map(move |picks| Input::PickingOrdered { digest, picks }),
        4 => (partner.clone(), any::<bool>()).prop_map(move |(partner, same_zone)| {
            let seed = partner.as_str() > "e";
            Input::PartnerNamed { digest, partner, seed, same_zone }
        }),
        1 => partner.clone().prop_map(move |partner| Input::PartnerLost { digest, partner }),
        1 => partner.clone().prop_map(move |partner| Input::FollowEnded { digest, partner }),
        8 => (partner.clone(), any::<u32>()).prop_map(move |(partner, mask)| {
            let pieces = set((0..PIECES).filter(|piece| mask >> piece & 1 == 1));
            let hashes = pieces.iter().map(hash).collect();
            Input::PartnerHolds { digest, partner, pieces, hashes }
        }),
        2 => (partner.clone(), 0_u32..40, 0_usize..4).prop_map(move |(partner, len, hash_count)| {
            let (pieces, hashes) = (PieceSet::full(len), vec![hash(1); hash_count]);
            Input::PartnerHolds { digest, partner, pieces, hashes }
        }),
        3 => (0_u32..PIECES + 3, partner.clone()).prop_map(move |(piece, parent)| {
            Input::Assigned { digest, piece, parent, hash: hash(piece), hearsay: false }
        }),
        1 => (0_u32..PIECES + 3).prop_map(move |piece| Input::Cancelled { digest, piece }),
        1 => (0_u32..40).prop_map(move |until| Input::SourcePaced { digest, until }),
        1 => Just(Input::Evicted { digest }),
        1 => (0_u64..2_000_000).prop_map(|us| Input::ReportsPaced { interval: Duration::from_micros(us) }),
    ];
    let lacking = (0_u32..40).prop_map(|len| UploadWish::Any { lacking: PieceSet::full(len) });
    let one = (0_u32..40, any::<bool>()).prop_map(|(piece, picked)| UploadWish::Piece { piece, picked });
    prop_oneof![
        8 => input.prop_map(Step::Input),
        3 => (0_u64..3000).prop_map(Step::Wait),
        6 => (0_usize..40, end.clone()).prop_map(|(index, end)| Step::EndFetch(index, end)),
        2 => (0_usize..4, 0_u32..PIECES + 3).prop_map(|(index, piece)| Step::BeginTake(index, piece)),
        3 => (0_usize..4, end).prop_map(|(index, end)| Step::EndTake(index, end)),
        2 => prop_oneof![lacking, one].prop_map(Step::AskUpload),
        1 => (0_usize..40, any::<bool>()).prop_map(|(index, delivered)| Step::EndUpload(index, delivered)),
    ]
}

fn nth<T: Clone>(items: impl IntoIterator<Item = T>, index: usize) -> Option<T> {
    let items: Vec<T> = items.into_iter().collect();
    (!items.is_empty()).then(|| items[index % items.len()].clone())
}

impl Peer {
    fn step(&mut self, step: Step, count: u64) {
        match step {
            Step::Input(Input::SchedulerUp) if self.up => {}
            Step::Input(Input::SchedulerDown) if !self.up => {}
            Step::Input(Input::Evicted { digest }) => {
                self.on_disk.clear();
                (self.failed, self.picks) = (true, false);
                self.barred.clear();
                self.input(Input::Evicted { digest });
            }
            Step::Input(wanted @ Input::Wanted { .. }) => {
                self.failed &= !self.up;
                self.input(wanted);
            }
            Step::Input(input) => drop(self.input(input)),
            Step::Wait(ms) => drop(self.wait(Duration::from_millis(ms))),
            Step::EndFetch(index, error) => {
                let Some(piece) = nth(self.fetching.keys().copied(), index) else { return };
                match error {
                    None => self.fetched(piece),
                    Some(error) => self.fail(piece, error),
                };
            }
            Step::BeginTake(index, piece) => {
                let undecided = self.taking.iter().filter(|(_, (_, chosen))| chosen.is_none());
                let Some(parent) = nth(undecided.map(|(parent, _)| parent.clone()), index) else { return };
                self.input(Input::TakeBegun { digest: digest(), parent, piece });
            }
            Step::EndTake(index, error) => {
                let Some((parent, chosen)) =
                    nth(self.taking.iter().map(|(parent, (_, chosen))| (parent.clone(), *chosen)), index)
                else {
                    return;
                };
                let (digest, first_byte) = (digest(), Duration::from_millis(1));
                match (error, chosen) {
                    (Some(error), _) => self.input(Input::TakeFailed { digest, parent, error }),
                    (None, Some(piece)) => self.input(Input::Taken { digest, parent, piece, first_byte }),
                    (None, None) => return,
                };
            }
            Step::AskUpload(wish) => {
                let (upload, child) = (UploadId(count), id("c"));
                self.input(Input::UploadAsked { upload, child, digest: digest(), wish });
            }
            Step::EndUpload(index, delivered) => {
                let all = self.uploads.iter().chain(&self.unanswered).copied();
                let Some(upload) = nth(all, index) else { return };
                self.input(Input::UploadEnded { upload, delivered });
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn every_history_keeps_the_invariants(steps in proptest::collection::vec(steps(), 1..120)) {
        let mut peer = Peer::new();
        for (count, step) in (0..).zip(steps) {
            peer.step(step, count);
        }
    }

    /// Time that stands still, or runs backwards, changes nothing but what is waited for.
    #[test]
    fn time_may_stand_still(steps in proptest::collection::vec(steps(), 1..60)) {
        let mut peer = Peer::new();
        let now = peer.now;
        for (count, step) in (0..).zip(steps) {
            if !matches!(step, Step::Wait(_)) {
                peer.step(step, count);
            }
            peer.swarm.handle_timeout(now);
            peer.drain();
            peer.swarm.handle_timeout(now.checked_sub(Duration::from_secs(1)).unwrap_or(now));
            peer.drain();
        }
    }
}
