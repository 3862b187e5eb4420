//! What is remembered of a peer beyond its stream, and of its part in a blob beyond that part: one that leaves and
//! comes again is the same one.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use flotilla_proto::{Digest, PeerId};

use crate::PeerKey;

/// By name. Bounded: see [`MOST`] and [`MOST_PARTS`].
#[derive(Debug, Default)]
pub(crate) struct Records {
    by_peer: BTreeMap<PeerId, Record>,
    /// When the last of those who are disbelieved is not any more.
    last_until: Option<Instant>,
}

#[derive(Debug, Default)]
struct Record {
    sentence: Option<Sentence>,
    /// It did not tell hashes that it was asked for.
    silence: Option<Sentence>,
    /// What it could await when its stream ended, and until when that counts.
    credit: Option<(u8, Instant)>,
    /// Blobs in which it has no part any more, and until when that counts; the latest last.
    parts: VecDeque<(Digest, Suspicion, Instant)>,
}

/// For a time it is not believed: to hold anything, or to tell hashes.
#[derive(Debug, Clone, Copy)]
struct Sentence {
    until: Instant,
    lasts: Duration,
}

/// What speaks against a member's word that it holds pieces of a blob, until it delivers one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Suspicion {
    /// When it last failed a child.
    pub(crate) questioned_at: Option<Instant>,
    /// When it last failed a seed.
    pub(crate) failed_seed_at: Option<Instant>,
    /// Until when only seeds are sent what it holds: one was told to try.
    pub(crate) tried_until: Option<Instant>,
    /// When a seed was told to ask it for a piece, beside its first child.
    pub(crate) probed_at: Option<Instant>,
    /// Who says that it sent a corrupt piece.
    pub(crate) corrupt: Option<Accused>,
}

/// On whose word a member is said to send other bytes than it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Accused {
    /// One peer's: it ends once another gets a piece.
    By(PeerKey),
    /// That of several, or of a seed.
    ByMany,
}

impl Records {
    /// Until when nothing that a peer says it holds counts, if so.
    pub(crate) fn disbelieved_until(&self, now: Instant, id: &PeerId) -> Option<Instant> {
        self.by_peer.get(id)?.sentence.map(|sentence| sentence.until).filter(|until| now < *until)
    }

    /// Whether nobody is disbelieved, as far as can be said without a look at each.
    pub(crate) fn are_all_believed(&self, now: Instant) -> bool {
        self.last_until.is_none_or(|until| until <= now)
    }

    /// Whether a peer did not tell hashes that it was asked for, of late.
    pub(crate) fn is_silent(&self, now: Instant, id: &PeerId) -> bool {
        let silence = self.by_peer.get(id).and_then(|record| record.silence);
        silence.is_some_and(|silence| now < silence.until)
    }

    /// A peer did not tell hashes that it was asked for.
    pub(crate) fn note_silence(&mut self, now: Instant, id: &PeerId, first: Duration) {
        let silence = &mut self.record(now, id).silence;
        *silence = Some(Sentence::after(*silence, now, first));
    }

    /// Disbelieves a peer, from now on. Until when.
    pub(crate) fn disbelieve(&mut self, now: Instant, id: &PeerId, first: Duration) -> Instant {
        let record = self.record(now, id);
        let sentence = Sentence::after(record.sentence, now, first);
        record.sentence = Some(sentence);
        self.last_until = self.last_until.max(Some(sentence.until));
        sentence.until
    }

    pub(crate) fn believe(&mut self, id: &PeerId) {
        if let Some(record) = self.by_peer.get_mut(id) {
            record.sentence = None;
        }
    }

    /// Keeps what spoke against a part that ends, if anything did.
    pub(crate) fn keep_part(
        &mut self,
        now: Instant,
        id: &PeerId,
        digest: Digest,
        mut suspicion: Suspicion,
        lasts: Duration,
    ) {
        // Another peer may have the accuser's key by then.
        suspicion.corrupt = suspicion.corrupt.filter(|accused| *accused == Accused::ByMany);
        if suspicion == Suspicion::default() {
            return;
        }
        let parts = &mut self.record(now, id).parts;
        parts.retain(|(other, _, until)| *other != digest && now < *until);
        if parts.len() >= MOST_PARTS {
            parts.pop_front();
        }
        parts.push_back((digest, suspicion, now + lasts));
    }

    /// The suspicion kept from this peer's last part in the blob, if it still counts.
    pub(crate) fn part(&self, now: Instant, id: &PeerId, digest: Digest) -> Option<Suspicion> {
        let mut parts = self.by_peer.get(id)?.parts.iter();
        parts.find(|(other, _, until)| *other == digest && now < *until).map(|(_, suspicion, _)| *suspicion)
    }

    /// Keeps what a peer could await when its stream ended.
    pub(crate) fn keep_credit(&mut self, now: Instant, id: &PeerId, credit: u8) {
        self.record(now, id).credit = Some((credit, now + FORGOTTEN_AFTER));
    }

    pub(crate) fn credit(&self, now: Instant, id: &PeerId) -> Option<u8> {
        self.by_peer.get(id)?.credit.filter(|(_, until)| now < *until).map(|(credit, _)| credit)
    }

    fn record(&mut self, now: Instant, id: &PeerId) -> &mut Record {
        if self.by_peer.len() >= MOST && !self.by_peer.contains_key(id) {
            self.by_peer.retain(|_, record| record.counts(now));
            if self.by_peer.len() >= MOST {
                let least = self.by_peer.iter().find(|(_, record)| record.sentence.is_none());
                let least = least.or_else(|| self.by_peer.first_key_value()).map(|(id, _)| id.clone());
                least.and_then(|id| self.by_peer.remove(&id));
            }
        }
        self.by_peer.entry(id.clone()).or_default()
    }
}

impl Record {
    fn counts(&self, now: Instant) -> bool {
        [self.sentence, self.silence].iter().flatten().any(|sentence| sentence.counts(now))
            || self.credit.is_some_and(|(_, until)| now < until)
            || self.parts.iter().any(|(.., until)| now < *until)
    }
}

impl Sentence {
    /// Twice as long as the one before, if that counts.
    fn after(before: Option<Self>, now: Instant, first: Duration) -> Self {
        let before = before.filter(|sentence| sentence.counts(now));
        let lasts = before.map_or(first, |sentence| (sentence.lasts * 2).min(LONGEST.max(first)));
        Self { until: now + lasts, lasts }
    }

    /// Whether the next one is longer for it.
    fn counts(&self, now: Instant) -> bool {
        now < self.until + FORGOTTEN_AFTER
    }
}

/// Peers of which anything is remembered; beyond, the first by name is forgotten, of those that are not disbelieved.
const MOST: usize = 4096;

/// Parts of one peer that are remembered; beyond, the oldest is forgotten.
const MOST_PARTS: usize = 64;

/// After its end, a time of disbelief counts for the next one for so long; what a peer could await, too.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(600);

/// The longest that a peer is disbelieved.
const LONGEST: Duration = Duration::from_secs(600);
