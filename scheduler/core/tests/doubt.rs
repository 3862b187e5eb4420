//! Wrong bytes, by example: who is believed, who reads again, who drops what.
//!
//! The registry sent wrong bytes once and was mended since. Hashes of wrong pieces are
//! [`WRONG`], of right ones [`RIGHT`].

#![allow(clippy::disallowed_methods, clippy::unwrap_used)] // a test may read the clock, once, and unwrap

use std::time::{Duration, Instant};

use flotilla_proto::{Digest, Failure, FailureCause, Layout, PieceHash, PieceSet, Root, Run, Variant};
use flotilla_scheduler_core::{Input, Limits, Output, PeerFacts, PeerKey, Scheduler, Zone};

/// 12 pieces of 128 KiB.
const SIZE: u64 = 12 * (128 << 10) - 5;
const COUNT: u32 = 12;
const WRONG: u8 = 0xff;
const RIGHT: u8 = 0;

const SEED: PeerKey = PeerKey(0);
const A: PeerKey = PeerKey(1);
const B: PeerKey = PeerKey(2);
const C: PeerKey = PeerKey(3);

#[test]
fn one_peer_s_word_purges_nothing_and_has_the_seed_read_what_it_does_not_hold() {
    let mut region = Region::with_a_wrong_part();
    let told = region.wrong_bytes(B, mixed());
    assert_eq!(purged(&told), [], "one word");
    assert_eq!(read_by_seed(&told), None, "nobody wants it: no client's credential would come");
    region.input(Input::Withdrawn { peer: B, digest: digest() });

    let told = region.want(B);
    assert!(told.contains(&Output::AskHashes { peer: SEED, digest: digest() }));
    assert_eq!(read_by_seed(&told), Some(PieceSet::full(COUNT)));
    assert_eq!(assigned(&told), [], "nothing is planned but what the seed has told");

    // What it holds it says, and what it lacks it reads.
    let mut told = region.announce(SEED, 4..12, None);
    told.extend(region.tell_hashes(SEED, 4..12, RIGHT));
    assert!(assigned(&told).iter().all(|(parent, ..)| *parent == SEED) && !assigned(&told).is_empty());
    let told = region.announce(SEED, 0..4, Some(RIGHT));
    assert_eq!(purged(&told), [(A, None)], "whoever holds other bytes drops them, and nobody else");
    assert_eq!(region.complete(B), all(RIGHT));
}

#[test]
fn a_second_peer_s_word_about_the_same_list_purges_it_by_name() {
    let mut region = Region::with_a_wrong_part();
    assert_eq!(purged(&region.wrong_bytes(B, mixed())), []);
    region.input(Input::Withdrawn { peer: B, digest: digest() });
    region.want(B);
    assert_eq!(purged(&region.wrong_bytes(B, mixed())), [], "the same peer again");
    assert_eq!(purged(&region.wrong_bytes(A, all(WRONG))), [], "about another list");
    let told = region.wrong_bytes(A, mixed());
    let root = Some(mixed());
    assert_eq!(purged(&told), [(SEED, root), (B, root)], "A has dropped its own");
    assert_eq!(region.scheduler.counts().1, 0);
}

#[test]
fn a_peer_that_attaches_again_is_not_a_second_one() {
    let mut region = Region::with_a_wrong_part();
    region.wrong_bytes(B, mixed());
    region.input(Input::PeerLeft { peer: B });
    let again = PeerKey(9);
    region.join(again, "p2", false);
    region.announce(again, 0..12, None);
    assert_eq!(purged(&region.wrong_bytes(again, mixed())), []);
}

#[test]
fn a_seed_s_own_hash_purges_the_region_at_once() {
    let mut region = Region::new();
    region.announce(SEED, 0..12, Some(WRONG));
    region.want(B);
    let told = region.wrong_bytes(SEED, all(WRONG));
    assert_eq!(purged(&told), [(B, Some(all(WRONG)))], "the seed has dropped its own already");
}

#[test]
fn what_a_peer_announced_before_it_heard_that_it_is_void_is_planned_for_nobody() {
    let mut region = Region::new();
    region.announce(SEED, 0..12, Some(WRONG));
    region.want(A);
    let told = region.wrong_bytes(SEED, all(WRONG));
    assert_eq!(purged(&told), [(A, Some(all(WRONG)))]);
    region.input(Input::Withdrawn { peer: SEED, digest: digest() });

    // Both were on their way.
    region.announce(A, 0..4, None);
    region.tell_hashes(A, 0..4, WRONG);
    let told = region.want(B);
    assert_eq!((assigned(&told), read_by_seed(&told)), (vec![], Some(PieceSet::full(COUNT))));

    region.input(Input::Withdrawn { peer: A, digest: digest() });
    region.announce(SEED, 0..12, Some(RIGHT));
    region.announce(A, 0..12, None);
    let told = region.want(C);
    assert!(assigned(&told).iter().any(|(parent, ..)| *parent == A), "it is believed again: {told:?}");
}

#[test]
fn what_a_peer_alone_held_wrong_is_its_own_affair() {
    let mut region = Region::new();
    region.announce(SEED, 0..12, Some(RIGHT));
    region.announce(B, 0..12, None);
    assert_eq!(region.wrong_bytes(B, mixed()), [], "the region's list is another");
    assert_eq!(region.wrong_bytes(SEED, mixed()), []);
}

#[test]
fn a_piece_is_hearsay_until_a_seed_that_read_it_has_told_its_hash() {
    let hearsay = |told: &[Output]| {
        let heard = told.iter().filter_map(|output| match output {
            Output::Assign { piece, hearsay, .. } => Some((*piece, *hearsay)),
            _ => None,
        });
        heard.collect::<std::collections::BTreeMap<u32, bool>>()
    };
    let mut region = Region::new();
    region.announce(A, 0..4, Some(RIGHT));
    let mut told = region.want(B);
    told.extend(region.announce(SEED, 4..12, Some(RIGHT)));
    let heard = hearsay(&told);
    assert!(heard.iter().all(|(piece, hearsay)| *hearsay == (*piece < 4)), "{heard:?}");
    assert!(heard.contains_key(&0) && heard.contains_key(&4), "{heard:?}");
    region.tell_hashes(SEED, 0..12, RIGHT);
    region.announce(SEED, 0..4, Some(RIGHT));
    assert!(hearsay(&region.want(C)).values().all(|hearsay| !hearsay));
}

#[test]
fn a_doubt_is_settled_once() {
    let mut region = Region::with_a_wrong_part();
    region.wrong_bytes(B, mixed());
    region.want(C);
    region.announce(SEED, 0..4, Some(RIGHT));
    region.tell_hashes(SEED, 0..12, RIGHT);
    assert_eq!(region.complete(C), all(RIGHT));
    region.want(B);
    assert_eq!(region.wrong_bytes(C, all(RIGHT)), [], "a judge has spoken");
    assert_eq!(region.complete(B), all(RIGHT));
}

#[test]
fn a_doubt_that_the_registry_cannot_settle_may_be_raised_again() {
    let mut region = Region::with_a_wrong_part();
    region.wrong_bytes(B, mixed());
    region.want(C);
    let failure = Failure::new(502, "X", String::new(), FailureCause::Source);
    let told = region.input(Input::SourceFailed { seed: SEED, digest: digest(), failure });
    assert!(told.iter().any(|output| matches!(output, Output::FailTask { peer: C, .. })));
    assert_eq!(purged(&told), []);
    assert!(!assigned(&region.want(C)).is_empty(), "what there is is better than nothing");
    assert!(read_by_seed(&region.wrong_bytes(B, mixed())).is_some());
}

#[test]
fn a_judge_that_leaves_is_followed_by_one_that_begins_anew() {
    let mut region = Region::with_a_wrong_part();
    region.wrong_bytes(B, mixed());
    region.want(C);
    region.announce(SEED, 4..6, Some(RIGHT));
    region.join(PeerKey(9), "p9", true);
    region.input(Input::PeerLeft { peer: SEED });
    region.now += Duration::from_secs(4);
    region.scheduler.handle_timeout(region.now);
    let told = region.outputs();
    let read = told.iter().find_map(|output| match output {
        Output::ReadSource { seed, pieces, .. } => Some((*seed, pieces.clone())),
        _ => None,
    });
    assert_eq!(read, Some((PeerKey(9), PieceSet::full(COUNT))));
    let told = region.announce(PeerKey(9), 0..12, Some(RIGHT));
    assert_eq!(purged(&told), [(A, None), (B, None)]);
    assert_eq!(region.complete(C), all(RIGHT));
}

#[test]
fn a_whole_region_that_comes_with_parts_is_not_asked_for_all_hashes() {
    let mut region = Region::new();
    region.announce(SEED, 0..12, Some(RIGHT));
    let mut asked = |range: std::ops::Range<u32>| {
        let comes = |number| {
            region.join(PeerKey(number), &format!("p{number}"), false);
            region.announce(PeerKey(number), 0..4, None)
        };
        let told = range.flat_map(comes).collect::<Vec<_>>();
        told.iter().filter(|output| matches!(output, Output::AskHashes { .. })).count()
    };
    assert_eq!(asked(100..300), 32);
    assert_eq!(asked(300..310), 0);
    region.now += Duration::from_secs(60);
    region.join(PeerKey(400), "late", false);
    let told = region.announce(PeerKey(400), 0..4, None);
    assert!(told.contains(&Output::AskHashes { peer: PeerKey(400), digest: digest() }));
}

#[test]
fn a_part_from_an_earlier_life_is_compared_and_dropped_where_it_is_another() {
    let mut region = Region::new();
    region.announce(SEED, 0..12, Some(RIGHT));
    let told = region.announce(C, 0..4, None);
    assert!(told.contains(&Output::AskHashes { peer: C, digest: digest() }));
    assert_eq!(purged(&region.tell_hashes(C, 0..4, WRONG)), [(C, None)]);
    assert_eq!(region.complete(C), all(RIGHT));

    let mut region = Region::new();
    region.announce(SEED, 0..12, Some(RIGHT));
    region.announce(C, 0..4, None);
    assert_eq!(purged(&region.tell_hashes(C, 0..4, RIGHT)), []);
}

#[test]
fn a_seed_that_holds_the_whole_knows_better_than_the_first_and_a_peer_does_not() {
    for (holder, expected) in [(SEED, vec![(A, None)]), (C, vec![])] {
        let mut region = Region::new();
        region.announce(A, 0..4, None);
        region.tell_hashes(A, 0..4, WRONG);
        region.announce(holder, 0..12, None);
        assert_eq!(purged(&region.tell_hashes(holder, 0..12, RIGHT)), expected);
        region.want(B);
        assert_eq!(region.complete(B) == all(RIGHT), holder == SEED);
    }
}

/// B has it of the seed itself, and says so before the seed is heard.
#[test]
fn what_a_peer_chose_by_itself_is_not_void_because_somebody_told_another_hash() {
    let mut region = Region::with(Limits { planned_per_s: 1, ..Limits::default() });
    region.announce(A, 0..12, Some(WRONG));
    let told = region.want(B);
    assert!(told.contains(&Output::Picking { peer: B, digest: digest(), picks: true }));
    region.announce(B, 4..8, None);
    assert_eq!(purged(&region.announce(SEED, 4..8, Some(RIGHT))), [(A, None)]);
}

#[test]
fn a_part_from_before_a_purge_hears_of_it_and_no_other_does() {
    let variant = Variant { digest: digest(), root: all(WRONG) };
    let entomb = |peer| Output::Entomb { peer, variant };
    // A scheduler that forgot everything, told by one who knows before or after the part came.
    let mut region = Region::new();
    region.input(Input::Entombed { peer: SEED, variant });
    assert!(region.announce(C, 0..4, None).contains(&entomb(C)));
    let mut region = Region::new();
    region.announce(SEED, 0..12, Some(RIGHT));
    region.announce(C, 0..4, None);
    region.announce(B, 0..12, None);
    assert_eq!(region.input(Input::Entombed { peer: A, variant }), [], "one peer's word");
    assert_eq!(region.input(Input::Entombed { peer: B, variant }), [entomb(C)]);
}

#[test]
fn what_the_reading_seed_purges_is_remembered() {
    let mut region = Region::new();
    region.want(B);
    region.announce(SEED, 0..11, Some(WRONG));
    let failure = Failure::wrong_bytes(String::new());
    let told = region.input(Input::SourceFailed { seed: SEED, digest: digest(), failure });
    // Its last piece was never told.
    let hashes = (0..COUNT).map(|piece| (piece != 11).then(|| hash(piece, WRONG)));
    let root = Root::of(hashes);
    assert_eq!(purged(&told), [(B, Some(root))]);
    let variant = Variant { digest: digest(), root };
    assert!(region.announce(C, 0..4, None).contains(&Output::Entomb { peer: C, variant }));
}

/// A planner, a seed, three peers, of which C has not told yet that it holds nothing else.
struct Region {
    scheduler: Scheduler,
    now: Instant,
}

impl Region {
    fn new() -> Self {
        Self::with(Limits::default())
    }

    fn with(limits: Limits) -> Self {
        let mut region = Self { scheduler: Scheduler::new(limits, 1), now: Instant::now() };
        region.join(SEED, "p0", true);
        region.join(A, "p1", false);
        region.join(B, "p2", false);
        region.join(C, "p3", false);
        for peer in [SEED, A, B] {
            region.input(Input::InventoryTold { peer });
        }
        region
    }

    /// A came with wrong pieces before anyone knew better, the seed read the rest, and B holds
    /// both.
    fn with_a_wrong_part() -> Self {
        let mut region = Self::new();
        region.announce(A, 0..4, None);
        region.tell_hashes(A, 0..4, WRONG);
        region.want(B);
        region.announce(SEED, 4..12, Some(RIGHT));
        assert_eq!(region.complete(B), mixed());
        region
    }

    fn join(&mut self, peer: PeerKey, id: &str, seed: bool) {
        let facts = PeerFacts { id: id.parse().unwrap(), seed, zone: Zone(0) };
        self.input(Input::PeerJoined { peer, facts });
    }

    fn want(&mut self, peer: PeerKey) -> Vec<Output> {
        self.input(Input::Wanted { peer, digest: digest(), size: SIZE, part: None, reader: true })
    }

    fn wrong_bytes(&mut self, peer: PeerKey, root: Root) -> Vec<Output> {
        self.input(Input::WrongBytes { peer, variant: Variant { digest: digest(), root } })
    }

    fn announce(&mut self, peer: PeerKey, range: std::ops::Range<u32>, kind: Option<u8>) -> Vec<Output> {
        let hashes = kind.map_or(vec![], |kind| range.clone().map(|piece| hash(piece, kind)).collect());
        self.input(Input::Announced { peer, digest: digest(), size: SIZE, pieces: pieces(range), hashes })
    }

    fn tell_hashes(&mut self, peer: PeerKey, range: std::ops::Range<u32>, kind: u8) -> Vec<Output> {
        let hashes = range.clone().map(|piece| hash(piece, kind)).collect();
        self.input(Input::HashesTold { peer, digest: digest(), pieces: pieces(range), hashes })
    }

    /// Delivers to a peer whatever it is assigned until it has all. What it has then.
    fn complete(&mut self, peer: PeerKey) -> Root {
        let mut list = vec![None; COUNT as usize];
        // It begins with nothing, and assignments given before are asked for anew.
        self.input(Input::Withdrawn { peer, digest: digest() });
        let mut told = self.want(peer);
        while let Some((_, piece, hash)) = assigned_to(peer, &told) {
            list[piece as usize] = Some(hash);
            told.extend(self.announce(peer, piece..piece + 1, None));
            let asked = Output::AskHashes { peer, digest: digest() };
            assert!(!told.contains(&asked), "what it was sent under this planner is known");
            told.retain(|output| !matches!(output, Output::Assign { child, piece: other, .. } if *child == peer && *other == piece));
        }
        Root::of(list)
    }

    fn input(&mut self, input: Input) -> Vec<Output> {
        self.scheduler.handle(self.now, input);
        assert_eq!(self.scheduler.find_idle(self.now), None);
        self.outputs()
    }

    /// What is told, partners and pace aside.
    fn outputs(&mut self) -> Vec<Output> {
        let all = std::iter::from_fn(|| self.scheduler.poll_output());
        all.filter(|output| {
            !matches!(output, Output::Link { .. } | Output::Unlink { .. } | Output::PaceSource { .. })
        })
        .collect()
    }
}

fn digest() -> Digest {
    Digest::from_bytes([7; 32])
}

fn hash(piece: u32, kind: u8) -> PieceHash {
    PieceHash::from_bytes([u8::try_from(piece).unwrap() ^ kind; 32])
}

fn pieces(range: std::ops::Range<u32>) -> PieceSet {
    assert_eq!(Layout::of(SIZE).unwrap().piece_count(), COUNT);
    PieceSet::from_runs(COUNT, [Run { first: range.start, count: range.end - range.start }]).unwrap()
}

fn all(kind: u8) -> Root {
    Root::of((0..COUNT).map(|piece| Some(hash(piece, kind))))
}

/// A's part, and the rest as the mended registry has it.
fn mixed() -> Root {
    Root::of((0..COUNT).map(|piece| Some(hash(piece, if piece < 4 { WRONG } else { RIGHT }))))
}

/// Who is told to drop what it holds, and what that is called.
fn purged(outputs: &[Output]) -> Vec<(PeerKey, Option<Root>)> {
    let told = outputs.iter().filter_map(|output| match output {
        Output::FailTask { peer, failure, root, .. } if failure.is_poisoned() => Some((*peer, *root)),
        _ => None,
    });
    let mut told: Vec<_> = told.collect();
    told.sort();
    told
}

fn read_by_seed(outputs: &[Output]) -> Option<PieceSet> {
    outputs.iter().find_map(|output| match output {
        Output::ReadSource { seed: SEED, pieces, .. } => Some(pieces.clone()),
        _ => None,
    })
}

fn assigned(outputs: &[Output]) -> Vec<(PeerKey, u32, PieceHash)> {
    let assigned = outputs.iter().filter_map(|output| match output {
        Output::Assign { parent, piece, hash, .. } => Some((*parent, *piece, *hash)),
        _ => None,
    });
    assigned.collect()
}

fn assigned_to(peer: PeerKey, outputs: &[Output]) -> Option<(PeerKey, u32, PieceHash)> {
    let own = |output: &&Output| matches!(output, Output::Assign { child, .. } if *child == peer);
    assigned(&outputs.iter().filter(own).cloned().collect::<Vec<_>>()).first().copied()
}
