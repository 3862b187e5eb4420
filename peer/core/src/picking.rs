//! Picking by itself: what a peer does where the scheduler leaves the choice of pieces to it,
//! or is not there (docs/design.md §4l).
//!
//! It follows what its partners hold and keeps a window of requests under way, one to each
//! partner. Of what no other partner holds a seed chooses what it gives. Of the rest the piece
//! comes first, by the planner's own score, then the partner that has failed least; a seed is
//! asked for such a piece where nobody else has one to give. Nothing is scanned in vain:
//! a request ends, a partner tells of a piece or has rested, and only then is one picked.

use std::ops::Bound;
use std::time::{Duration, Instant};

use flotilla_proto::{Digest, PeerId, PieceHash, PieceSet, Reader, mix};

use crate::download::Blob;
use crate::partner::{Follow, Partner, Picking};
use crate::requests::{Choice, Fetching, Taking};
use crate::{FetchError, Output, Swarm};

/// What to ask next.
enum Pick {
    Fetch { parent: PeerId, piece: u32, hash: PieceHash },
    Take { seed: PeerId },
}

impl Swarm {
    pub(crate) fn partner_named(&mut self, digest: Digest, id: &PeerId, seed: bool, same_zone: bool) {
        let Some(blob) = self.blobs.get_mut(&digest) else { return };
        let former: Vec<PeerId> =
            blob.partners.iter().filter(|(_, partner)| partner.is_former).map(|(id, _)| id.clone()).collect();
        let is_known = blob.partners.get_mut(id).map(|partner| {
            (partner.seed, partner.same_zone, partner.is_former) = (seed, same_zone, false);
        });
        if is_known.is_none() && blob.partners.len() - former.len() < MAX_PARTNERS {
            let piece_count = blob.layout.piece_count();
            blob.partners.insert(id.clone(), Partner::new(seed, same_zone, piece_count));
        }
        for other in former.into_iter().filter(|other| other != id) {
            self.partner_lost(digest, &other);
        }
        self.follow_partners(digest);
        // One that was in another zone may help now with what it told long ago.
        self.feed(digest);
    }

    pub(crate) fn partner_lost(&mut self, digest: Digest, id: &PeerId) {
        self.unfollow(digest, id);
        if let Some(blob) = self.blobs.get_mut(&digest) {
            blob.partners.remove(id);
        }
    }

    pub(crate) fn picking_ordered(&mut self, digest: Digest, picks: bool) {
        let Some(blob) = self.blobs.get_mut(&digest) else { return };
        blob.picks_ordered = picks;
        self.start_or_stop_picking(digest);
    }

    /// A download picks while it was told to, or while there is nobody to tell it.
    pub(crate) fn start_or_stop_picking(&mut self, digest: Digest) {
        let is_alone = self.is_alone();
        let Some(blob) = self.blobs.get_mut(&digest) else { return };
        let picks = blob.wish.is_some() && (blob.picks_ordered || is_alone);
        if picks {
            let piece_count = blob.layout.piece_count();
            blob.picking.get_or_insert_with(|| Picking::new(piece_count));
            self.follow_partners(digest);
            self.feed(digest);
        } else if blob.picking.is_some() {
            let partners: Vec<PeerId> = blob.partners.keys().cloned().collect();
            for partner in partners {
                self.unfollow(digest, &partner);
            }
            if let Some(blob) = self.blobs.get_mut(&digest) {
                blob.picking = None;
            }
        }
    }

    fn follow_partners(&mut self, digest: Digest) {
        let (now, is_alone) = (self.now(), self.is_alone());
        let Some(blob) = self.blobs.get_mut(&digest) else { return };
        let Blob { layout, partners, barred, picking: Some(picking), .. } = blob else { return };
        for (id, partner) in partners {
            let is_due = match partner.follow {
                Follow::No => true,
                Follow::Yes => false,
                Follow::Ended { again_at } => again_at <= now,
            };
            if !is_due {
                continue;
            }
            if let Follow::Ended { .. } = partner.follow {
                picking.ended_count -= 1;
            }
            partner.follow = Follow::No;
            if partner.may_serve(is_alone) && !barred.contains(id) {
                partner.follow = Follow::Yes;
                let (layout, partner) = (*layout, id.clone());
                self.outputs.push_back(Output::Follow { digest, layout, partner });
            }
        }
    }

    fn unfollow(&mut self, digest: Digest, id: &PeerId) {
        let Some(blob) = self.blobs.get_mut(&digest) else { return };
        let (Some(partner), Some(picking)) = (blob.partners.get_mut(id), &mut blob.picking) else { return };
        picking.forget(partner);
        match std::mem::replace(&mut partner.follow, Follow::No) {
            Follow::No => {}
            Follow::Yes => self.outputs.push_back(Output::Unfollow { digest, partner: id.clone() }),
            Follow::Ended { .. } => picking.ended_count -= 1,
        }
    }

    pub(crate) fn partner_holds(
        &mut self,
        digest: Digest,
        id: &PeerId,
        pieces: &PieceSet,
        hashes: &[PieceHash],
    ) {
        let Some(blob) = self.blobs.get_mut(&digest) else { return };
        let piece_count = blob.layout.piece_count();
        let makes_sense = pieces.len() == piece_count && hashes.len() == pieces.count() as usize;
        let is_followed = blob.partners.get(id).is_some_and(|partner| partner.follow == Follow::Yes);
        let Some(picking) = blob.picking.as_mut().filter(|_| makes_sense && is_followed) else { return };
        picking.holds(&mut blob.partners, id, pieces, hashes);
        // What was to be had of others was asked for before.
        if !blob.requests.is_asked(id) && blob.lacking().intersects(pieces) {
            self.feed_from(digest, id);
        }
    }

    pub(crate) fn follow_ended(&mut self, digest: Digest, id: &PeerId) {
        let again_at = self.now() + FOLLOW_AGAIN;
        let Some(blob) = self.blobs.get_mut(&digest) else { return };
        let (Some(partner), Some(picking)) = (blob.partners.get_mut(id), &mut blob.picking) else { return };
        if partner.follow == Follow::Yes {
            partner.follow = Follow::Ended { again_at };
            picking.ended_count += 1;
            picking.forget(partner);
        }
    }

    pub(crate) fn piece_is_not_there(&mut self, digest: Digest, id: &PeerId, piece: u32) {
        let Some(blob) = self.blobs.get_mut(&digest) else { return };
        if let (Some(partner), Some(picking)) = (blob.partners.get_mut(id), &mut blob.picking) {
            picking.lacks(partner, piece);
        }
    }

    /// A seed chose a piece, which flows. One that came meanwhile, or comes by another way, is
    /// declined, unless it was only just asked for there: then that is given up.
    pub(crate) fn take_begun(&mut self, digest: Digest, seed: PeerId, piece: u32) {
        let now = self.now();
        let Some(blob) = self.blobs.get_mut(&digest) else { return };
        let Some(taken_for) = blob.requests.age_of_take(now, &seed) else { return };
        let just_asked = |fetching: &&Fetching| {
            fetching.picked && now.saturating_duration_since(fetching.begun_at) * 2 < taken_for
        };
        if blob.requests.fetching(piece).as_ref().is_some_and(just_asked) {
            blob.requests.end_fetch(piece);
            self.outputs.push_back(Output::AbortFetch { digest, piece });
        }
        if !blob.requests.chose(&seed, piece) {
            blob.requests.end_take(&seed);
            self.outputs.push_back(Output::AbortTake { digest, parent: seed });
        }
        self.feed(digest);
    }

    /// The piece is on disk, even where its take was given up in the same moment.
    pub(crate) fn taken(&mut self, digest: Digest, seed: &PeerId, piece: u32, first_byte: Duration) {
        let Some(blob) = self.blobs.get_mut(&digest) else { return };
        if piece >= blob.layout.piece_count() {
            return;
        }
        let bytes = blob.layout.piece_size(piece);
        if let Some(Taking { begun_at, .. }) = blob.requests.end_take(seed) {
            self.delivered(seed, begun_at, first_byte, bytes);
        }
        self.hold(digest, piece, false, Vec::new());
        self.feed_after(digest, Some(seed));
    }

    pub(crate) fn take_failed(&mut self, digest: Digest, seed: PeerId, error: FetchError) {
        let now = self.now();
        let Some(blob) = self.blobs.get_mut(&digest) else { return };
        let Some(taking) = blob.requests.end_take(&seed) else { return };
        if let FetchError::NotHeld = error {
            self.health(&seed).rest(now, NOTHING_TO_TAKE);
        }
        self.failed(digest, taking.piece(), seed, true, error);
    }

    /// A piece came from a parent, which may be asked again: asks for more of its download, and
    /// then of all others, for the budget has room.
    pub(crate) fn feed_after(&mut self, first: Digest, parent: Option<&PeerId>) {
        match parent {
            Some(parent) => self.feed_from(first, parent),
            None => self.feed(first),
        }
        let others = |digest: &Digest| *digest != first;
        let picking: Vec<Digest> = self.wanted.iter().copied().filter(others).collect();
        for digest in picking {
            self.feed(digest);
        }
    }

    /// Fills the window of a download that picks. Costs a word of each partner's bitset per 64
    /// pieces for each request.
    pub(crate) fn feed(&mut self, digest: Digest) {
        while self.has_room(digest) {
            match self.pick(digest, None) {
                Ok(pick) => self.ask_for(digest, pick),
                Err(again_at) => return self.note_dry(digest, true, again_at),
            }
        }
        self.note_dry(digest, false, None);
    }

    /// The same where only one partner has anything new to give, or may be asked again. Costs a
    /// look at that one, where the others had nothing before.
    fn feed_from(&mut self, digest: Digest, id: &PeerId) {
        let picking = self.blobs.get(&digest).and_then(|blob| blob.picking.as_ref());
        let Some(&Picking { is_dry: true, again_at, .. }) = picking else { return self.feed(digest) };
        if !self.has_room(digest) {
            return self.note_dry(digest, false, None);
        }
        match self.pick(digest, Some(id)) {
            Ok(pick) => {
                self.ask_for(digest, pick);
                let is_dry = self.has_room(digest);
                self.note_dry(digest, is_dry, again_at.filter(|_| is_dry));
            }
            Err(at) => self.note_dry(digest, true, at.into_iter().chain(again_at).min()),
        }
    }

    fn ask_for(&mut self, digest: Digest, pick: Pick) {
        match pick {
            Pick::Fetch { parent, piece, hash } => {
                let choice = Choice { parent, hash, hearsay: false };
                self.fetch(digest, piece, choice, true);
            }
            Pick::Take { seed } => self.take(digest, seed),
        }
    }

    fn note_dry(&mut self, digest: Digest, is_dry: bool, again_at: Option<Instant>) {
        if let Some(picking) = self.blobs.get_mut(&digest).and_then(|blob| blob.picking.as_mut()) {
            (picking.is_dry, picking.again_at) = (is_dry, again_at);
        }
    }

    /// Whether the download picks, has room in its window, and the node in its memory.
    fn has_room(&self, digest: Digest) -> bool {
        let Some(blob) = self.blobs.get(&digest).filter(|blob| blob.picking.is_some()) else { return false };
        let piece_len = blob.layout.piece_len().bytes();
        let awaited: u64 =
            self.wanted.iter().filter_map(|digest| self.blobs.get(digest)).map(Blob::awaited_bytes).sum();
        let fits = awaited == 0 || awaited + u64::from(piece_len) <= self.limits.receive_budget;
        fits && blob.requests.len() < self.intake.window(piece_len)
    }

    /// The best request there is, of one partner if one is named; if there is none, when a partner
    /// that rests could be asked.
    fn pick(&self, digest: Digest, only: Option<&PeerId>) -> Result<Pick, Option<Instant>> {
        let (now, blob) = (self.now(), &self.blobs[&digest]);
        let picking = blob.picking.as_ref().expect("a download with room picks");
        let lacking = blob.lacking();
        let mut free = Vec::new();
        let mut again_at: Option<Instant> = None;
        let among = only
            .map_or((Bound::Unbounded, Bound::Unbounded), |id| (Bound::Included(id), Bound::Included(id)));
        for (id, partner) in blob.partners.range::<PeerId, _>(among) {
            let helps = partner.may_serve(self.is_alone()) && lacking.intersects(&partner.held);
            if !helps || blob.requests.is_asked(id) || blob.barred.contains(id) {
                continue;
            }
            match self.health_by_parent.get(id).and_then(|health| health.rests_until(now)) {
                Some(until) => again_at = Some(again_at.map_or(until, |at| at.min(until))),
                None => free.push((id, partner)),
            }
        }
        let (seeds, others): (Vec<_>, Vec<_>) = free.into_iter().partition(|(_, partner)| partner.seed);
        let has_uncopied = |(_, seed): &&(_, &Partner)| picking.has_uncopied(&lacking, &seed.held);
        if let Some((seed, _)) = seeds.iter().find(has_uncopied) {
            return Ok(Pick::Take { seed: (*seed).clone() });
        }
        let (piece, piece_count) = (blob.held.first_missing(blob.reader), lacking.len());
        let ahead = piece + self.leap(blob);
        let reader =
            Reader { piece: if ahead < piece_count { ahead } else { piece }, piece_count, reads: true };
        let best = |parents: &[(&PeerId, &Partner)]| {
            let offered = |index: usize| {
                let held = parents.iter().fold(0, |held, (_, partner)| held | partner.held.words()[index]);
                held & lacking.words()[index]
            };
            picking.copies.best(offered, reader).map(|(_, piece)| piece)
        };
        let of_others = best(&others).map(|piece| (piece, &others));
        let (piece, parents) = of_others.or_else(|| Some((best(&seeds)?, &seeds))).ok_or(again_at)?;
        let holders = parents.iter().filter(|(_, partner)| partner.held.contains(piece));
        let rank = |(id, _): &&(&PeerId, &Partner)| {
            let strikes = self.health_by_parent.get(*id).map_or(0, |health| health.strikes(now));
            (strikes, tie(self.seed, id, piece))
        };
        let (parent, _) = holders.min_by_key(rank).expect("the piece is offered");
        let hash = picking.hash(piece).expect("whoever holds a piece told its hash");
        Ok(Pick::Fetch { parent: (*parent).clone(), piece, hash })
    }

    /// How far ahead of its reader a download picks: every other time somewhere else. Where all
    /// pick by the same order, all ask the few that hold the newest pieces for the same ones.
    fn leap(&self, blob: &Blob) -> u32 {
        let draw = mix(self.seed ^ u64::from(blob.held.count()) << 32 ^ blob.requests.len() as u64);
        let most = (blob.layout.piece_count() / LEAP_PART).max(1);
        if draw & 1 == 0 { 0 } else { (draw >> 32) as u32 % most }
    }

    fn take(&mut self, digest: Digest, seed: PeerId) {
        let (begun_at, patience) = (self.now(), self.patience(&seed));
        let blob = self.blobs.get_mut(&digest).expect("picked for it");
        let picking = blob.picking.as_ref().expect("picked for it");
        let (layout, lacking) = (blob.layout, picking.uncopied(&blob.lacking()));
        blob.requests.take(seed.clone(), begun_at, lacking.clone());
        self.outputs.push_back(Output::Take { digest, layout, parent: seed, lacking, patience });
    }

    /// Does what is due of a download: partners are followed again, or asked again.
    pub(crate) fn pick_again(&mut self, digest: Digest) {
        let now = self.now();
        let Some(picking) = self.blobs.get_mut(&digest).and_then(|blob| blob.picking.as_mut()) else {
            return;
        };
        let is_due = picking.again_at.take_if(|at| *at <= now).is_some();
        self.follow_partners(digest);
        if is_due {
            self.feed(digest);
        }
    }
}

impl Blob {
    /// When [`Swarm::pick_again`] is due.
    pub(crate) fn pick_again_at(&self) -> Option<Instant> {
        let picking = self.picking.as_ref()?;
        if picking.ended_count == 0 {
            return picking.again_at;
        }
        let follows = self.partners.values().filter_map(|partner| match partner.follow {
            Follow::Ended { again_at } => Some(again_at),
            Follow::No | Follow::Yes => None,
        });
        follows.chain(picking.again_at).min()
    }
}

impl Partner {
    /// Whether pieces may be picked from it. What crosses zones is the scheduler's to plan, as
    /// long as there is one.
    fn may_serve(&self, is_alone: bool) -> bool {
        self.same_zone || is_alone
    }
}

/// A hash of (parent, piece) under the peer's seed: equals spread over parents.
fn tie(seed: u64, parent: &PeerId, piece: u32) -> u64 {
    let name = parent.as_str().bytes().fold(seed ^ u64::from(piece), |z, byte| mix(z ^ u64::from(byte)));
    mix(name)
}

/// A leap goes over an eighth of the blob: of 1024 pieces 128, two doublings of rarity. 500 even
/// peers that pick end at 1.12 to 1.14 of the bound with it, at 1.16 to 1.19 without.
const LEAP_PART: u32 = 8;

/// A seed's partners (`docs/design.md` §4f); one more is not taken note of.
const MAX_PARTNERS: usize = 64;

/// A partner that ended a follow is followed again after this: it may just have begun with the
/// blob.
const FOLLOW_AGAIN: Duration = Duration::from_millis(200);

/// A seed that had nothing to give is asked again after this.
const NOTHING_TO_TAKE: Duration = Duration::from_millis(100);
