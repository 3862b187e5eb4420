//! What is remembered of a peer beyond its stream, and of its part in a blob beyond that part: one that leaves and
//! comes again is the same one.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use flotilla_proto::{Digest, PeerId};

use crate::PeerKey;

/// By name. Bounded: see [`MOST`] and [`MOST_PARTS`].
#[derive(Debug, Default)]
pub(crate) struct Records(BTreeMap<PeerId, Record>);

#[derive(Debug, Default)]
struct Record {
    sentence: Option<Sentence>,
    /// What it could await when its stream ended, and until when that counts.
    credit: Option<(u8, Instant)>,
    /// Blobs in which it has no part any more, and until when that counts; the latest last.
    parts: VecDeque<(Digest, Suspicion, Instant)>,
}

/// It is not believed to hold anything.
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
    /// When it was asked for the hashes of what it holds.
    pub(crate) asked_hashes_at: Option<Instant>,
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
        self.0.get(id)?.sentence.map(|sentence| sentence.until).filter(|until| now < *until)
    }

    /// Whether nobody is disbelieved, as far as can be said without a look at each.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Disbelieves a peer, from now on. Until when.
    pub(crate) fn disbelieve(&mut self, now: Instant, id: &PeerId, first: Duration) -> Instant {
        let record = self.record(now, id);
        let before = record.sentence.filter(|sentence| sentence.counts(now));
        let lasts = before.map_or(first, |sentence| (sentence.lasts * 2).min(LONGEST.max(first)));
        let until = now + lasts;
        record.sentence = Some(Sentence { until, lasts });
        until
    }

    pub(crate) fn believe(&mut self, id: &PeerId) {
        if let Some(record) = self.0.get_mut(id) {
            record.sentence = None;
        }
    }

    /// Keeps what spoke against a part that ends.
    pub(crate) fn keep_part(
        &mut self,
        now: Instant,
        id: &PeerId,
        digest: Digest,
        suspicion: Suspicion,
        lasts: Duration,
    ) {
        let parts = &mut self.record(now, id).parts;
        parts.retain(|(other, _, until)| *other != digest && now < *until);
        if parts.len() >= MOST_PARTS {
            parts.pop_front();
        }
        parts.push_back((digest, suspicion, now + lasts));
    }

    /// What speaks against a part that begins anew.
    pub(crate) fn part(&self, now: Instant, id: &PeerId, digest: Digest) -> Option<Suspicion> {
        let mut parts = self.0.get(id)?.parts.iter();
        parts.find(|(other, _, until)| *other == digest && now < *until).map(|(_, suspicion, _)| *suspicion)
    }

    /// Keeps what a peer could await when its stream ended.
    pub(crate) fn keep_credit(&mut self, now: Instant, id: &PeerId, credit: u8) {
        self.record(now, id).credit = Some((credit, now + FORGOTTEN_AFTER));
    }

    pub(crate) fn credit(&self, now: Instant, id: &PeerId) -> Option<u8> {
        self.0.get(id)?.credit.filter(|(_, until)| now < *until).map(|(credit, _)| credit)
    }

    fn record(&mut self, now: Instant, id: &PeerId) -> &mut Record {
        if self.0.len() >= MOST && !self.0.contains_key(id) {
            self.0.retain(|_, record| record.counts(now));
            if self.0.len() >= MOST {
                self.0.pop_first();
            }
        }
        self.0.entry(id.clone()).or_default()
    }
}

impl Record {
    fn counts(&self, now: Instant) -> bool {
        self.sentence.is_some_and(|sentence| sentence.counts(now))
            || self.credit.is_some_and(|(_, until)| now < until)
            || self.parts.iter().any(|(.., until)| now < *until)
    }
}

impl Sentence {
    /// Whether the next one is longer for it.
    fn counts(&self, now: Instant) -> bool {
        now < self.until + FORGOTTEN_AFTER
    }
}

/// Peers of which anything is remembered; beyond, the first by name is forgotten.
const MOST: usize = 4096;

/// Parts of one peer that are remembered; beyond, the oldest is forgotten.
const MOST_PARTS: usize = 64;

/// After its end, a time of disbelief counts for the next one for so long; what a peer could await, too.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(600);

/// The longest that a peer is disbelieved.
const LONGEST: Duration = Duration::from_secs(600);
