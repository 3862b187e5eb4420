//! What a peer's shell does: inputs to its core, what the core's outputs set going, and its
//! stream to the scheduler.

use std::time::{Duration, Instant};

use flotilla_peer_core::{Batch, Input as PeerInput, Output as PeerOutput, Report, UploadWish};
use flotilla_proto::{Digest, Layout};
use flotilla_scheduler_core::PeerKey;

use crate::event::{Event, NodeIndex, Time};
use crate::node::{Follower, Lane, SHA256_BYTES_PER_S};
use crate::transfer::{FetchId, Request};
use crate::violation::Violation;
use crate::world::World;

impl World<'_> {
    pub(crate) fn tell_peer(&mut self, index: NodeIndex, input: PeerInput) {
        let now = self.instant();
        let node = &mut self.nodes[index.place()];
        if node.is_alive {
            node.core.handle(now, input);
            self.drain_peer(index);
        }
    }

    pub(crate) fn peer_is_due(&mut self, index: NodeIndex) {
        let now = self.instant();
        let node = &mut self.nodes[index.place()];
        if node.due.take_if(|due| *due <= self.now).is_some() && node.is_alive {
            node.core.handle_timeout(now);
            self.drain_peer(index);
        }
    }

    fn drain_peer(&mut self, index: NodeIndex) {
        while let Some(output) = self.nodes[index.place()].core.poll_output() {
            self.log.peer_decided(self.now, index, &output);
            self.note_pick(index, &output);
            self.obey_peer(index, output);
        }
        let due = self.nodes[index.place()].core.poll_timeout().map(|at| self.time(at));
        let node = &mut self.nodes[index.place()];
        if let Some(due) = due.filter(|due| node.due.is_none_or(|expected| *due < expected)) {
            node.due = Some(due);
            self.queue.push(due, Event::PeerDue(index));
        }
    }

    fn obey_peer(&mut self, index: NodeIndex, output: PeerOutput) {
        match output {
            PeerOutput::Fetch { digest, layout, piece, parent, hash, hearsay, patience, picked } => {
                if hash != self.piece_hash(digest, piece) {
                    let peer = self.nodes[index.place()].id.clone();
                    self.break_off(Violation::WrongHash { peer, digest, piece });
                }
                let wish = UploadWish::Piece { piece, picked };
                let request = Request { digest, layout, wish, hearsay, patience };
                self.start_fetch(index, &parent, request);
            }
            PeerOutput::Take { digest, layout, parent, lacking, patience } => {
                let wish = UploadWish::Any { lacking };
                let request = Request { digest, layout, wish, hearsay: false, patience };
                self.start_fetch(index, &parent, request);
            }
            PeerOutput::AbortTake { digest, parent } => self.abort_take(index, digest, &parent),
            PeerOutput::Upload { upload, piece } => self.send_piece(FetchId(upload.0), piece),
            PeerOutput::RefuseUpload { upload, why } => self.refuse(FetchId(upload.0), why),
            PeerOutput::Follow { digest, layout, partner } => self.follow(index, digest, layout, &partner),
            PeerOutput::Unfollow { digest, partner } => self.unfollow(index, digest, &partner),
            PeerOutput::AbortFetch { digest, piece } => self.abort_fetch(index, digest, piece),
            PeerOutput::OfferCredentials { digest, seed } => {
                let offered = Event::CredentialOffered(self.node_by_id[&seed], digest);
                self.queue.push(self.now + OFFER, offered);
            }
            PeerOutput::ReadSource { digest, layout, pieces } => {
                self.start_read(index, digest, layout, &pieces);
            }
            PeerOutput::PaceSource { digest, until } => self.pace_reads(index, digest, until),
            PeerOutput::StopSource { digest } => self.stop_reads(index, Some(digest)),
            PeerOutput::Release { digest, piece } => self.release(index, digest, piece),
            PeerOutput::Hash { digest } => self.hash(index, digest),
            PeerOutput::Complete { digest } => self.complete(index, digest),
            PeerOutput::Fail { digest, failure } => {
                self.download_failed(index, digest, failure.message);
            }
            // Every client of the model reads whole blobs.
            PeerOutput::Satisfied { .. } => {}
            // A node of the model keeps nothing beside what is on its disk.
            PeerOutput::Forget { .. } => {}
            PeerOutput::Purge { digest, layout: _, root: _ } => self.purge(index, digest),
            // Nobody comes back with what it held in an earlier life.
            PeerOutput::Entomb { .. } => {}
            PeerOutput::Flush(batch) => self.peer_flushes(index, batch),
        }
    }

    /// A download may only fail where the disk takes nothing.
    fn download_failed(&mut self, index: NodeIndex, digest: Digest, message: String) {
        let node = &mut self.nodes[index.place()];
        let peer = node.id.clone();
        if !node.spec.disk_full {
            return self.break_off(Violation::DownloadFailed { peer, digest, message });
        }
        self.tally.failed_downloads += 1;
        self.download_ended(index);
    }

    fn download_ended(&mut self, index: NodeIndex) {
        let node = &mut self.nodes[index.place()];
        node.lacking_count -= 1;
        self.unfinished_count -= usize::from(node.is_done());
    }

    /// A piece is on the node's disk.
    pub(crate) fn hold(&mut self, index: NodeIndex, digest: Digest, layout: Layout, piece: u32) {
        if !self.nodes[index.place()].holds(digest, piece) {
            let place = self.blob_place(digest);
            self.copies[place][piece as usize] += 1;
        }
        if let Some(at) = self.nodes[index.place()].blob(digest, layout).hold(self.now, piece) {
            self.queue.push(at, Event::Hashed(index, digest));
        }
        self.tell_followers(index, digest);
    }

    fn purge(&mut self, index: NodeIndex, digest: Digest) {
        let place = self.blob_place(digest);
        let Some(blob) = self.nodes[index.place()].blobs.remove(&digest) else { return };
        for piece in blob.held.iter() {
            self.copies[place][piece as usize] -= 1;
        }
    }

    fn hash(&mut self, index: NodeIndex, digest: Digest) {
        let blob = self.nodes[index.place()].blobs.get_mut(&digest).expect("a blob is wanted or read before");
        blob.hasher = Some(Follower::new(self.now, SHA256_BYTES_PER_S));
        if let Some(at) = blob.hash(self.now) {
            self.queue.push(at, Event::Hashed(index, digest));
        }
    }

    pub(crate) fn hashed(&mut self, index: NodeIndex, digest: Digest) {
        if let Some(blob) = self.nodes[index.place()].blobs.get_mut(&digest) {
            blob.is_hashed = true;
            self.tell_peer(index, PeerInput::Hashed { digest, result: Ok(()) });
        }
    }

    fn release(&mut self, index: NodeIndex, digest: Digest, piece: u32) {
        let node = &mut self.nodes[index.place()];
        let peer = node.id.clone();
        let blob = node.blobs.get_mut(&digest).expect("what is released is held");
        let may = blob.held.contains(piece) && (blob.is_hashed || blob.layout.last_piece() != Some(piece));
        blob.released.insert(piece);
        blob.serve(self.now);
        if !may {
            self.break_off(Violation::ReleasedTooEarly { peer, digest, piece });
        }
    }

    fn complete(&mut self, index: NodeIndex, digest: Digest) {
        let node = &mut self.nodes[index.place()];
        let peer = node.id.clone();
        let blob = node.blobs.get_mut(&digest).expect("what is complete is held");
        let is_verified = blob.held.is_full() && blob.is_hashed;
        blob.released.insert_all();
        blob.complete_at = Some(self.now);
        blob.serve(self.now);
        if let Some(client) = &blob.client {
            self.queue.push(client.free_at, Event::BlobTaken(index));
            self.download_ended(index);
        }
        if !is_verified {
            self.break_off(Violation::CompletedUnverified { peer, digest });
        }
    }

    fn peer_flushes(&mut self, index: NodeIndex, batch: Batch) {
        let node = &self.nodes[index.place()];
        for report in batch.reports() {
            if let Report::Announce { digest, pieces, .. } = report
                && let Some(piece) = pieces.iter().find(|piece| !node.holds(*digest, *piece))
            {
                let (peer, digest) = (node.id.clone(), *digest);
                return self.break_off(Violation::AnnouncedNotHeld { peer, digest, piece });
            }
        }
        let Some(key) = node.key.filter(|_| node.is_alive) else { return };
        self.tally.control_messages += 1;
        let at = self.upward_arrival(index);
        if self.is_lost() {
            return self.breaks_off(index);
        }
        self.queue.push(at, Event::SchedulerHears(key, batch));
    }

    pub(crate) fn peer_hears(&mut self, key: PeerKey, batch: Vec<PeerInput>) {
        let index = self.node_by_key[key.0 as usize];
        let node = &mut self.nodes[index.place()];
        if node.key != Some(key) {
            return;
        }
        for input in batch {
            self.tell_peer(index, input);
        }
    }

    /// When something that a node says now reaches the scheduler.
    pub(crate) fn upward_arrival(&mut self, index: NodeIndex) -> Time {
        let latency = self.latency();
        self.nodes[index.place()].upward.arrival(self.now + latency)
    }

    pub(crate) fn latency(&mut self) -> Duration {
        let control = self.scenario.control;
        let latency = control.one_way.mul_f64(1.0 + control.jitter * (2.0 * self.rng.f64() - 1.0));
        let is_late = control.late_per_mille > 0 && self.rng.u32(..1000) < control.late_per_mille;
        if is_late { latency + control.late_by } else { latency }
    }

    pub(crate) fn is_lost(&mut self) -> bool {
        let control = self.scenario.control;
        control.lost_per_million > 0 && self.rng.u32(..1_000_000) < control.lost_per_million
    }

    /// A message is lost, and its stream with it: both ends forget what they gathered, and the
    /// node attaches anew after its daemon's pause.
    pub(crate) fn breaks_off(&mut self, index: NodeIndex) {
        let latency = self.latency();
        let node = &mut self.nodes[index.place()];
        let Some(key) = node.key.take() else { return };
        node.probed_at = None;
        node.inbox.clear();
        self.queue.push(self.now + latency, Event::StreamEnds(key));
        self.queue.push(self.now + latency + REATTACH, Event::Attaches(index));
        self.tell_peer(index, PeerInput::SchedulerDown);
    }

    pub(crate) fn instant(&self) -> Instant {
        self.base + self.now
    }

    pub(crate) fn time(&self, at: Instant) -> Time {
        at.duration_since(self.base).max(self.now)
    }
}

impl Lane {
    /// When to flush what was just gathered; `None` if that is planned already.
    pub(crate) fn plan_flush(&mut self, now: Time, batch: Duration) -> Option<Time> {
        let planned = std::mem::replace(&mut self.flush_waits, true);
        (!planned).then(|| self.flushed_at.map_or(now, |at| (at + batch).max(now)))
    }

    pub(crate) fn flushed(&mut self, now: Time) {
        (self.flush_waits, self.flushed_at) = (false, Some(now));
    }

    /// When a message that would arrive `at` does: not before the one that was sent before it.
    pub(crate) fn arrival(&mut self, at: Time) -> Time {
        self.arrives_at = self.arrives_at.max(at);
        self.arrives_at
    }
}

/// A credential's way to a seed.
const OFFER: Duration = Duration::from_micros(300);

/// The first pause of a daemon that lost its scheduler (`peer/src/control.rs`).
const REATTACH: Duration = Duration::from_millis(100);
