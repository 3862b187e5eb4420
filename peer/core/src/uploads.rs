//! Admission of children: how many are served at once, who waits, who is told *busy*, and
//! which piece goes to a child that leaves the choice to its parent.

use std::collections::{BTreeMap, VecDeque};

use flotilla_proto::{Digest, PieceSet};

use crate::{Output, UploadId, UploadRefusal, UploadWish};

/// The requests of children, over all blobs.
#[derive(Debug, Default)]
pub(crate) struct Uploads {
    running: BTreeMap<UploadId, (Digest, u32)>,
    waiting: VecDeque<Waiting>,
    /// How often each piece was given, of blobs that children leave the choice of.
    given_by_digest: BTreeMap<Digest, Vec<u16>>,
}

#[derive(Debug)]
struct Waiting {
    upload: UploadId,
    /// Pieces of the blob that the child is known to hold.
    has: u32,
    digest: Digest,
    wish: UploadWish,
}

/// What this peer holds of a blob.
pub(crate) type Held<'a> = &'a dyn Fn(Digest) -> Option<&'a PieceSet>;

impl Uploads {
    /// A child that is known to hold `has` pieces asks. It is served now, waits for its turn, or
    /// is refused at once.
    pub(crate) fn asked(
        &mut self,
        held: Held<'_>,
        upload: UploadId,
        has: u32,
        digest: Digest,
        wish: UploadWish,
    ) -> Option<Output> {
        if self.running.len() < at_once(held, digest, &wish) {
            return Some(self.admit(held, Waiting { upload, has, digest, wish }));
        }
        let Some(_) = self.choose(held, digest, &wish) else {
            return Some(Output::RefuseUpload { upload, why: UploadRefusal::NotHeld });
        };
        if self.waiting.len() >= places(&wish) {
            return Some(Output::RefuseUpload { upload, why: UploadRefusal::Busy });
        }
        self.waiting.push_back(Waiting { upload, has, digest, wish });
        None
    }

    /// A request ended, whether its turn had come or not. What those who waited get now.
    pub(crate) fn ended(&mut self, held: Held<'_>, upload: UploadId, delivered: bool) -> Vec<Output> {
        self.waiting.retain(|waiting| waiting.upload != upload);
        if let Some((digest, piece)) = self.running.remove(&upload)
            && !delivered
            && let Some(given) = self.given_by_digest.get_mut(&digest)
        {
            given[piece as usize] = given[piece as usize].saturating_sub(1);
        }
        let mut outputs = Vec::new();
        while let Some(next) = self.next_waiting(held) {
            outputs.push(self.admit(held, next));
        }
        outputs
    }

    /// Who waits and may be served now: who has least comes first, of equals who came first.
    fn next_waiting(&mut self, held: Held<'_>) -> Option<Waiting> {
        let first = (0..self.waiting.len()).min_by_key(|place| self.waiting[*place].has)?;
        let Waiting { digest, wish, .. } = &self.waiting[first];
        let has_room = self.running.len() < at_once(held, *digest, wish);
        if has_room { self.waiting.remove(first) } else { None }
    }

    /// The blob is gone, and with it what was given of it.
    pub(crate) fn forget(&mut self, digest: Digest) {
        self.given_by_digest.remove(&digest);
    }

    fn admit(&mut self, held: Held<'_>, Waiting { upload, digest, wish, .. }: Waiting) -> Output {
        let Some(piece) = self.choose(held, digest, &wish) else {
            return Output::RefuseUpload { upload, why: UploadRefusal::NotHeld };
        };
        self.running.insert(upload, (digest, piece));
        if let UploadWish::Any { lacking } = &wish {
            let fresh = || vec![0; lacking.len() as usize];
            let given = self.given_by_digest.entry(digest).or_insert_with(fresh);
            given[piece as usize] = given[piece as usize].saturating_add(1);
        }
        Output::Upload { upload, piece }
    }

    /// The piece that is wished for, or of several that which was given least, the lowest of
    /// these: so no second copy goes out while another piece has not left. Costs a pass over
    /// the pieces that the child lacks.
    fn choose(&self, held: Held<'_>, digest: Digest, wish: &UploadWish) -> Option<u32> {
        let held = held(digest)?;
        match wish {
            UploadWish::Piece { piece, .. } => held.contains(*piece).then_some(*piece),
            UploadWish::Any { lacking } if lacking.len() != held.len() => None,
            UploadWish::Any { lacking } => {
                let given = self.given_by_digest.get(&digest);
                let times = |piece: &u32| given.map_or(0, |given| given[*piece as usize]);
                lacking.iter().filter(|piece| held.contains(*piece)).min_by_key(times)
            }
        }
    }
}

/// Pieces sent at once: to those who pick, fewer of a blob that has just begun, so that its first
/// copies are soon copied on.
fn at_once(held: Held<'_>, digest: Digest, wish: &UploadWish) -> usize {
    let picked = !matches!(wish, UploadWish::Piece { picked: false, .. });
    let few = held(digest).is_some_and(|held| held.count() * EARLY_PART < held.len());
    if picked && few { EARLY_AT_ONCE } else { UPLOADS_AT_ONCE }
}

/// How many may wait before one more is told *busy*.
fn places(wish: &UploadWish) -> usize {
    match wish {
        UploadWish::Piece { picked: false, .. } => PLANNED_WAITING,
        UploadWish::Piece { picked: true, .. } | UploadWish::Any { .. } => PICKED_WAITING,
    }
}

/// Pieces sent at once (K, `docs/design.md` §4b).
const UPLOADS_AT_ONCE: usize = 8;

/// The same while less than a part in so many is held. Of 500 even peers that pick each has 13
/// pieces after 0.22 s with it, 6 without.
const EARLY_AT_ONCE: usize = 4;
const EARLY_PART: u32 = 16;

/// Three times what the scheduler assigns a parent (Q), since several tasks' plans may meet.
const PLANNED_WAITING: usize = 32;

/// Children that pick by themselves know nothing of each other (`docs/design.md` §4l).
const PICKED_WAITING: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    struct Parent {
        uploads: Uploads,
        held: PieceSet,
        next: u64,
    }

    impl Parent {
        fn new(held: &[u32]) -> Self {
            let mut pieces = PieceSet::new(8);
            for piece in held {
                pieces.insert(*piece);
            }
            Self { uploads: Uploads::default(), held: pieces, next: 0 }
        }

        fn ask(&mut self, wish: UploadWish) -> Option<Output> {
            self.ask_with(0, wish)
        }

        fn ask_with(&mut self, has: u32, wish: UploadWish) -> Option<Output> {
            self.next += 1;
            self.uploads.asked(&|_| Some(&self.held), UploadId(self.next), has, Digest::of(b"x"), wish)
        }

        fn end(&mut self, upload: u64, delivered: bool) -> Vec<Output> {
            self.uploads.ended(&|_| Some(&self.held), UploadId(upload), delivered)
        }

        fn given(&mut self, wish: UploadWish) -> u32 {
            match self.ask(wish) {
                Some(Output::Upload { piece, .. }) => piece,
                other => panic!("{other:?}"),
            }
        }
    }

    fn piece(piece: u32, picked: bool) -> UploadWish {
        UploadWish::Piece { piece, picked }
    }

    fn any() -> UploadWish {
        UploadWish::Any { lacking: PieceSet::full(8) }
    }

    fn refused(output: Option<&Output>) -> Option<UploadRefusal> {
        match output {
            Some(Output::RefuseUpload { why, .. }) => Some(*why),
            _ => None,
        }
    }

    #[test]
    fn eight_are_served_at_once_and_the_rest_in_the_order_in_which_they_asked() {
        let mut parent = Parent::new(&[0, 1]);
        for _ in 0..8 {
            assert!(matches!(parent.ask(piece(0, false)), Some(Output::Upload { .. })));
        }
        assert_eq!([parent.ask(piece(1, false)), parent.ask(piece(0, false))], [None, None]);
        assert_eq!(parent.end(3, true), [Output::Upload { upload: UploadId(9), piece: 1 }]);
        assert_eq!(parent.end(10, false), [], "it left while it waited");
        assert_eq!(parent.end(1, true), []);
    }

    #[test]
    fn of_those_who_wait_who_has_least_comes_first() {
        let mut parent = Parent::new(&[0]);
        for _ in 0..8 {
            parent.ask(piece(0, true));
        }
        let waiting: Vec<_> = [5, 2, 7, 2].map(|has| parent.ask_with(has, piece(0, true))).into();
        assert_eq!(waiting, [None, None, None, None]);
        let served = (1..=4).flat_map(|upload| parent.end(upload, true));
        let served: Vec<_> = served
            .map(|output| match output {
                Output::Upload { upload, .. } => upload.0,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(served, [10, 12, 9, 11]);
    }

    #[test]
    fn of_a_blob_that_has_just_begun_four_go_out_at_once_unless_they_were_planned() {
        let mut parent = Parent { held: PieceSet::new(64), ..Parent::new(&[]) };
        for held in [0, 1, 2] {
            parent.held.insert(held);
        }
        let served = |output: Option<Output>| matches!(output, Some(Output::Upload { .. }));
        let told: Vec<bool> = (0..5).map(|_| served(parent.ask(piece(0, true)))).collect();
        assert_eq!(told, [true, true, true, true, false]);
        let told: Vec<bool> = (0..5).map(|_| served(parent.ask(piece(1, false)))).collect();
        assert_eq!(told, [true, true, true, true, false]);
        parent.held.insert(3);
        assert_eq!(parent.end(1, true).len(), 1, "with a sixteenth of it the blob is under way");
    }

    #[test]
    fn those_who_pick_are_told_busy_before_those_who_were_sent() {
        let mut parent = Parent::new(&[0]);
        let told: Vec<_> = (0..13).map(|_| refused(parent.ask(piece(0, true)).as_ref())).collect();
        assert_eq!(told.iter().position(Option::is_some), Some(12));
        assert_eq!(told[12], Some(UploadRefusal::Busy));
        let told: Vec<_> = (0..29).map(|_| refused(parent.ask(piece(0, false)).as_ref())).collect();
        assert_eq!(told.iter().position(Option::is_some), Some(28));
    }

    #[test]
    fn what_is_not_held_is_refused_whether_there_is_room_or_not() {
        let mut parent = Parent::new(&[0]);
        assert_eq!(refused(parent.ask(piece(1, true)).as_ref()), Some(UploadRefusal::NotHeld));
        for _ in 0..8 {
            parent.ask(piece(0, false));
        }
        for wish in [piece(1, false), UploadWish::Any { lacking: PieceSet::new(8) }, piece(9, false)] {
            assert_eq!(refused(parent.ask(wish).as_ref()), Some(UploadRefusal::NotHeld));
        }
        let other_blob = UploadWish::Any { lacking: PieceSet::full(9) };
        assert_eq!(refused(parent.ask(other_blob).as_ref()), Some(UploadRefusal::NotHeld));
    }

    #[test]
    fn a_parent_that_may_choose_gives_what_it_has_given_least() {
        let mut parent = Parent::new(&[1, 3, 5]);
        let given: Vec<_> = (0..4).map(|_| parent.given(any())).collect();
        assert_eq!(given, [1, 3, 5, 1]);
        parent.end(2, false);
        assert_eq!(parent.given(any()), 3, "what did not arrive was not given");
    }
}
