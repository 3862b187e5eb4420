//! One blob being spread: who holds what, who wants it, what is on its way.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use flotilla_proto::{Layout, PieceHash, PieceSet};

use crate::PeerKey;
use crate::rank::Reader;
use crate::source::Source;

/// The planner's record of one blob. It lives as long as it has a member.
#[derive(Debug)]
pub(crate) struct Task {
    pub(crate) layout: Layout,
    pub(crate) members: BTreeMap<PeerKey, Member>,
    /// Per piece: how many members other than seeds hold or receive it.
    copies: Vec<u16>,
    /// Per piece, once told: what it must hash to. Only such pieces are planned.
    hashes: Vec<Option<PieceHash>>,
    known: PieceSet,
    /// Members that want the blob.
    pub(crate) wanting_count: usize,
    pub(crate) source: Source,
}

/// One peer's part in a task: as a child, as a parent, or both.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) seed: bool,
    pub(crate) held: PieceSet,
    /// Held or in flight to it.
    taken: PieceSet,
    /// The pieces in flight to it, and from whom.
    in_flight: BTreeMap<u32, PeerKey>,
    /// What it wants, if it does.
    pub(crate) wish: Option<Wish>,
    /// Whom it may exchange with; the relation is symmetric.
    pub(crate) partners: Vec<PeerKey>,
    /// Parents that lately failed it, until when it leaves them alone.
    pub(crate) resting: BTreeMap<PeerKey, Instant>,
    /// Parents that sent it a corrupt piece of this blob.
    pub(crate) banned: BTreeSet<PeerKey>,
    /// When it began to want, or a piece last reached it from a parent.
    pub(crate) progress_at: Instant,
    /// Whether it was asked for the hashes of what it holds.
    pub(crate) asked_hashes: bool,
}

/// A download's wish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wish {
    /// The next piece that the slowest client needs; `None` where no client waits.
    pub(crate) reader: Option<u32>,
}

impl Task {
    pub(crate) fn new(layout: Layout) -> Self {
        let piece_count = layout.piece_count();
        Self {
            layout,
            members: BTreeMap::new(),
            copies: vec![0; piece_count as usize],
            hashes: vec![None; piece_count as usize],
            known: PieceSet::new(piece_count),
            wanting_count: 0,
            source: Source::Idle,
        }
    }

    pub(crate) fn is_wanted(&self) -> bool {
        self.wanting_count > 0
    }

    pub(crate) fn join(&mut self, peer: PeerKey, seed: bool, now: Instant) -> &mut Member {
        let piece_count = self.layout.piece_count();
        self.members.entry(peer).or_insert_with(|| Member::new(piece_count, seed, now))
    }

    /// Takes a member out, with everything it held or awaited. The member as it was, and the
    /// pieces it was sending, by child.
    pub(crate) fn leave(&mut self, peer: PeerKey) -> Option<(Member, Vec<(PeerKey, u32)>)> {
        let member = self.members.remove(&peer)?;
        self.wanting_count -= usize::from(member.wish.is_some());
        if !member.seed {
            for piece in member.taken.iter() {
                self.copies[piece as usize] -= 1;
            }
        }
        let mut orphans = Vec::new();
        for (child, other) in &mut self.members {
            other.partners.retain(|partner| *partner != peer);
            other.resting.remove(&peer);
            other.banned.remove(&peer);
            let pieces = other.in_flight.iter().filter(|(_, parent)| **parent == peer);
            orphans.extend(pieces.map(|(piece, _)| (*child, *piece)));
        }
        for (child, piece) in &orphans {
            self.land(*child, *piece, Landing::Lost);
        }
        Some((member, orphans))
    }

    /// States whether a member wants the blob.
    pub(crate) fn set_wish(&mut self, peer: PeerKey, wish: Option<Wish>) {
        let Some(member) = self.members.get_mut(&peer) else { return };
        self.wanting_count -= usize::from(member.wish.is_some());
        self.wanting_count += usize::from(wish.is_some());
        member.wish = wish;
    }

    /// Learns what a piece must hash to. False if it is known to be another: the first word
    /// stands until the SHA-256 of the blob proves it wrong.
    pub(crate) fn learn_hash(&mut self, piece: u32, hash: PieceHash) -> bool {
        let slot = &mut self.hashes[piece as usize];
        match slot {
            Some(known) => *known == hash,
            None => {
                *slot = Some(hash);
                self.known.insert(piece);
                true
            }
        }
    }

    /// What the piece must hash to, if anyone told.
    pub(crate) fn hash(&self, piece: u32) -> Option<PieceHash> {
        self.hashes[piece as usize]
    }

    /// Whether a member holds a piece whose hash nobody told.
    pub(crate) fn has_unknown(&self, member: &Member) -> bool {
        member.held.words().iter().zip(self.known.words()).any(|(held, known)| held & !known != 0)
    }

    /// A piece starts on its way.
    pub(crate) fn launch(&mut self, child: PeerKey, parent: PeerKey, piece: u32) {
        let member = self.members.get_mut(&child).expect("a planned child is a member");
        let fresh = member.taken.insert(piece);
        assert!(fresh, "piece {piece} planned twice to one child");
        member.in_flight.insert(piece, parent);
        if !member.seed {
            self.copies[piece as usize] += 1;
        }
    }

    /// A piece's way ends, or a piece is held that was never on its way. The parent that was
    /// to send it.
    pub(crate) fn land(&mut self, child: PeerKey, piece: u32, landing: Landing) -> Option<PeerKey> {
        let member = self.members.get_mut(&child)?;
        let parent = member.in_flight.remove(&piece);
        let copy = u16::from(!member.seed);
        match landing {
            Landing::Held => {
                member.held.insert(piece);
                if member.taken.insert(piece) {
                    self.copies[piece as usize] += copy;
                }
            }
            Landing::Lost if parent.is_some() => {
                member.taken.remove(piece);
                self.copies[piece as usize] -= copy;
            }
            Landing::Lost => {}
        }
        parent
    }

    /// A member does not hold the piece after all.
    pub(crate) fn drop_piece(&mut self, peer: PeerKey, piece: u32) {
        let Some(member) = self.members.get_mut(&peer) else { return };
        if member.held.remove(piece) {
            member.taken.remove(piece);
            if !member.seed {
                self.copies[piece as usize] -= 1;
            }
        }
    }

    /// A member holds nothing any more.
    pub(crate) fn drop_all(&mut self, peer: PeerKey) {
        let held: Vec<u32> =
            self.members.get(&peer).map(|member| member.held.iter().collect()).unwrap_or_default();
        for piece in held {
            self.drop_piece(peer, piece);
        }
    }

    /// The pieces that no member holds.
    pub(crate) fn held_by_nobody(&self) -> PieceSet {
        let mut held = PieceSet::new(self.layout.piece_count());
        for member in self.members.values() {
            held.union_with(&member.held);
        }
        held.complement()
    }

    /// Whether `parent` holds a piece that may be planned to `child`. Costs a word operation
    /// per 64 pieces at most.
    pub(crate) fn can_help(&self, parent: &Member, child: &Member) -> bool {
        self.helpful_words(parent, child).any(|(_, word)| word != 0)
    }

    /// The pieces that `parent` can give `child`.
    pub(crate) fn helpful_pieces<'a>(
        &'a self,
        parent: &'a Member,
        child: &'a Member,
    ) -> impl Iterator<Item = u32> + 'a {
        self.helpful_words(parent, child).flat_map(|(base, mut word)| {
            std::iter::from_fn(move || {
                let bit = word.trailing_zeros();
                (word != 0).then(|| {
                    word &= word - 1;
                    base + bit
                })
            })
        })
    }

    /// How many members other than seeds hold or receive the piece, those aside whom `child`
    /// takes nothing from: what only they have is as rare to it as what nobody has.
    pub(crate) fn copies_for(&self, child: &Member, piece: u32) -> u16 {
        let barred = child.banned.iter().filter_map(|parent| self.members.get(parent));
        let barred = barred.filter(|parent| !parent.seed && parent.taken.contains(piece)).count();
        self.copies[piece as usize] - u16::try_from(barred).expect("no more than there are copies")
    }

    fn helpful_words<'a>(
        &'a self,
        parent: &'a Member,
        child: &'a Member,
    ) -> impl Iterator<Item = (u32, u64)> + 'a {
        let words = parent.held.words().iter().zip(self.known.words()).zip(child.taken.words());
        words.zip((0..).step_by(64)).map(|(((held, known), taken), base)| (base, held & known & !taken))
    }
}

impl Member {
    fn new(piece_count: u32, seed: bool, now: Instant) -> Self {
        Self {
            seed,
            held: PieceSet::new(piece_count),
            taken: PieceSet::new(piece_count),
            in_flight: BTreeMap::new(),
            wish: None,
            partners: Vec::new(),
            resting: BTreeMap::new(),
            banned: BTreeSet::new(),
            progress_at: now,
            asked_hashes: false,
        }
    }

    pub(crate) fn in_flight(&self) -> &BTreeMap<u32, PeerKey> {
        &self.in_flight
    }

    /// Whether it takes pieces from that parent at this moment.
    pub(crate) fn accepts(&self, parent: PeerKey, now: Instant) -> bool {
        !self.banned.contains(&parent) && self.resting.get(&parent).is_none_or(|until| *until <= now)
    }

    /// The next piece that its client needs, for [`crate::rank::PieceScore`].
    pub(crate) fn reader(&self) -> Option<Reader> {
        let position = self.wish?.reader?;
        Some(Reader { piece: self.held.first_missing(position), piece_count: self.held.len() })
    }
}

/// How a piece's way ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Landing {
    /// The child holds it.
    Held,
    /// It did not arrive.
    Lost,
}
