//! The history's log: every event and every decision of a core, as one hash.

use std::fmt::{self, Write as _};

use flotilla_peer_core::{Output as PeerOutput, Report};
use flotilla_scheduler_core::Output as SchedulerOutput;

use crate::event::{Event, NodeIndex, Time};

/// Hashes what happens. Two runs of one seed end with the same hash, or something in them
/// depends on more than the seed.
#[derive(Debug, Default)]
pub(crate) struct Log {
    hasher: blake3::Hasher,
    waiting: Vec<u8>,
    text: String,
}

impl Log {
    pub(crate) fn happened(&mut self, at: Time, event: &Event) {
        let (tag, subject) = event.tag_and_subject();
        self.record_often(at, tag, [subject, 0, 0]);
    }

    pub(crate) fn peer_decided(&mut self, at: Time, peer: NodeIndex, output: &PeerOutput) {
        let peer_word = u64::from(peer.0);
        match output {
            PeerOutput::Fetch { piece, .. } => self.record_often(at, FETCH, [peer_word, (*piece).into(), 0]),
            PeerOutput::Release { piece, .. } => {
                self.record_often(at, RELEASE, [peer_word, (*piece).into(), 0]);
            }
            PeerOutput::Take { lacking, .. } => {
                self.record_often(at, TAKE, [peer_word, lacking.count().into(), 0]);
            }
            PeerOutput::Upload { upload, piece } => {
                self.record_often(at, UPLOAD, [peer_word, upload.0, (*piece).into()]);
            }
            PeerOutput::Flush(batch) => {
                let reports = batch.reports();
                let announced = |report: &Report| match report {
                    Report::Announce { pieces, .. } => pieces.iter().map(u64::from).sum(),
                    _ => 0,
                };
                let pieces = reports.iter().map(announced).sum();
                self.record_often(at, FLUSH, [peer_word, reports.len() as u64, pieces]);
            }
            rare => self.record(at, &(peer, rare)),
        }
    }

    pub(crate) fn scheduler_decided(&mut self, at: Time, output: &SchedulerOutput) {
        match output {
            SchedulerOutput::Assign { child, parent, digest, piece, .. } => {
                let [a, b, c, d, ..] = *digest.as_bytes();
                let blob = u64::from(u32::from_le_bytes([a, b, c, d])) << 32;
                let pair = u64::from(child.0) << 32 | u64::from(parent.0);
                self.record_often(at, ASSIGN, [pair, blob | u64::from(*piece), 0]);
            }
            rare => self.record(at, rare),
        }
    }

    /// The hash of everything recorded, in hex.
    pub(crate) fn finish(mut self) -> String {
        self.hash_waiting();
        self.hasher.finalize().to_hex().to_string()
    }

    /// Something rare, as it prints.
    fn record(&mut self, at: Time, what: &impl fmt::Debug) {
        self.text.clear();
        write!(self.text, "{what:?}").expect("a string takes everything");
        self.stamp(at);
        self.waiting.extend_from_slice(self.text.as_bytes());
        self.hash_if_full();
    }

    /// Something that happens for every piece: its kind, and what tells it from others of its
    /// kind. Printing it would take longer than letting it happen.
    fn record_often(&mut self, at: Time, tag: u8, what: [u64; 3]) {
        self.stamp(at);
        self.waiting.push(tag);
        for word in what {
            self.waiting.extend_from_slice(&word.to_le_bytes());
        }
        self.hash_if_full();
    }

    fn stamp(&mut self, at: Time) {
        self.waiting.extend_from_slice(&at.as_secs().to_le_bytes());
        self.waiting.extend_from_slice(&at.subsec_nanos().to_le_bytes());
    }

    fn hash_if_full(&mut self) {
        if self.waiting.len() > HASHED_AT_ONCE {
            self.hash_waiting();
        }
    }

    fn hash_waiting(&mut self) {
        self.hasher.update(&self.waiting);
        self.waiting.clear();
    }
}

/// BLAKE3 is slow on crumbs.
const HASHED_AT_ONCE: usize = 64 << 10;

/// Decisions; events have smaller tags.
const FETCH: u8 = 100;
const RELEASE: u8 = 101;
const TAKE: u8 = 102;
const UPLOAD: u8 = 103;
const FLUSH: u8 = 104;
const ASSIGN: u8 = 105;
