//! Why a child is sent a piece by this parent and not by another: the inputs of a ranking,
//! as values that print.

use std::fmt;
use std::time::Instant;

use flotilla_proto::Digest;

use crate::rank::{ParentRank, PieceScore};
use crate::task::{Seat, Task};
use crate::{PeerKey, Scheduler};

/// How the planner sees one piece for one child, at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// Who is to have the piece.
    pub child: PeerKey,
    /// Of which blob.
    pub digest: Digest,
    /// Which piece.
    pub piece: u32,
    /// Whether the child has it already.
    pub state: PieceState,
    /// Peers of the child's zone, seeds aside, that hold it or are sent it.
    pub copies: u32,
    /// The child's partners, best first.
    pub candidates: Vec<Candidate>,
}

/// Whether a child has a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PieceState {
    /// It holds it.
    Held,
    /// It is sent it.
    InFlight {
        /// By whom.
        parent: PeerKey,
    },
    /// Neither.
    Lacking,
}

/// A partner, as a parent for the piece.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Candidate {
    /// What speaks against it, if anything does.
    pub obstacle: Option<Obstacle>,
    /// Its place among the child's parents, with this piece's score: lower is better.
    pub rank: ParentRank,
    /// Who it is.
    pub parent: PeerKey,
    /// The piece that it would send the child first, and its score.
    pub first: Option<(PieceScore, u32)>,
}

/// Why a partner does not send a piece at this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Obstacle {
    /// It owes as much as it may.
    QueueFull,
    /// The child awaits as much as it may.
    WindowFull,
    /// It failed the child of late, or sent it a corrupt piece.
    KeptApart,
    /// It failed a child and a seed, and delivered nothing since.
    Disbelieved,
    /// A copy is in the child's zone already, or on its way there.
    CrossedAlready,
    /// It is the seed that reads the blob, and another peer has the piece or awaits it.
    GivenAlready,
    /// As many pieces are on their way into the child's zone, or out of the parent's, as its
    /// link carries.
    GateClosed,
    /// The child chooses its pieces by itself.
    PicksItself,
    /// The child wants nothing, or everything is on its way.
    NothingWanted,
    /// The child wants other pieces of the blob.
    OthersWanted,
    /// It does not hold the piece, or nobody told what it must hash to.
    NotHeld,
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { child, digest, piece, state, copies, candidates } = self;
        write!(f, "piece {piece} of {} for peer {}: ", digest.short(), child.0)?;
        match state {
            PieceState::Held => writeln!(f, "held; {copies} copies")?,
            PieceState::InFlight { parent } => writeln!(f, "sent by {}; {copies} copies", parent.0)?,
            PieceState::Lacking => writeln!(f, "lacking; {copies} copies")?,
        }
        for candidate in candidates {
            writeln!(f, "  {candidate}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "parent {:>5}  {}", self.parent.0, self.rank)?;
        match self.first {
            Some((score, piece)) => write!(f, "  first {piece} at {score}")?,
            None => write!(f, "  nothing to send")?,
        }
        match self.obstacle {
            Some(obstacle) => write!(f, "  ({obstacle})"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::QueueFull => "its queue is full",
            Self::WindowFull => "the child's window is full",
            Self::KeptApart => "it failed the child",
            Self::Disbelieved => "failed a child and a seed",
            Self::CrossedAlready => "the piece is in the child's zone already",
            Self::GivenAlready => "it reads, and gave the piece already",
            Self::GateClosed => "the link between the zones is full",
            Self::PicksItself => "the child picks by itself",
            Self::NothingWanted => "the child wants nothing more",
            Self::OthersWanted => "the child wants other pieces",
            Self::NotHeld => "it does not hold the piece",
        })
    }
}

impl Scheduler {
    /// How the planner sees a piece for a child; `None` if the child has no part in the blob,
    /// or the blob no such piece. Changes nothing; costs a look at each partner.
    pub fn explain(&self, now: Instant, child: PeerKey, digest: Digest, piece: u32) -> Option<Explanation> {
        let (slot, seat) = self.find(child, digest)?;
        let task = &self.tasks[slot];
        if piece >= task.piece_count() {
            return None;
        }
        let member = task.member(seat);
        let state = match member.flight(piece) {
            Some(flight) => PieceState::InFlight { parent: task.member(flight.parent).peer },
            None if task.holds(seat, piece) => PieceState::Held,
            None => PieceState::Lacking,
        };
        let candidate = |parent: &Seat| self.candidate(now, task, *parent, seat, piece);
        let mut candidates: Vec<Candidate> = member.ties.partners.iter().map(candidate).collect();
        candidates.sort();
        let copies = task.zones[member.zone as usize].rarity.copies(piece);
        Some(Explanation { child, digest, piece, state, copies, candidates })
    }

    fn candidate(&self, now: Instant, task: &Task, parent: Seat, child: Seat, piece: u32) -> Candidate {
        let zone = &task.zones[task.member(child).zone as usize];
        let obstacle = if !task.holds(parent, piece) || task.hash(piece).is_none() {
            Some(Obstacle::NotHeld)
        } else if task.crosses(parent, child) && !zone.rarity.is_absent(piece) {
            Some(Obstacle::CrossedAlready)
        } else if task.keeps_back(parent, child, piece) {
            Some(Obstacle::GivenAlready)
        } else if !task.wants(child, piece) {
            Some(Obstacle::OthersWanted)
        } else {
            self.obstacle(now, task, parent, child)
        };
        let score = task.score(parent, child, piece);
        let rank = self.parent_rank(now, task, parent, child, score);
        let first = task.best_piece(parent, child);
        Candidate { obstacle, rank, parent: task.member(parent).peer, first }
    }

    /// A parent with a free slot, a child of its zone with room that lacks what it may give, and
    /// the blob: there is none after an input, for the planner is work-conserving (docs/design.md §1.9).
    /// What may not be given is no work: what crosses zones waits for its gate, and a seed that
    /// reads gives nothing twice. For tests and the simulator; costs a look at every pair of
    /// partners.
    pub fn find_idle(&self, now: Instant) -> Option<(PeerKey, PeerKey, Digest)> {
        let tasks = self.tasks.iter().map(|(_, task)| task).filter(|task| task.is_wanted());
        let pairs = tasks.flat_map(|task| {
            let of_parent = move |(parent, member): (Seat, &'_ crate::member::Member)| {
                member.ties.partners.iter().map(move |child| (task, parent, *child)).collect::<Vec<_>>()
            };
            task.members().flat_map(of_parent)
        });
        let mut idle = pairs.filter(|(task, parent, child)| {
            !task.crosses(*parent, *child)
                && self.obstacle(now, task, *parent, *child).is_none()
                && task.can_help(*parent, *child)
        });
        idle.next()
            .map(|(task, parent, child)| (task.member(parent).peer, task.member(child).peer, task.digest))
    }
}
