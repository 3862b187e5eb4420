//! Reads from the registry: pieces in order, one request to each run of them.

use std::collections::VecDeque;
use std::time::Duration;

use flotilla_peer_core::Input as PeerInput;
use flotilla_proto::{Digest, Failure, FailureCause, Layout, PieceSet, Run};

use crate::event::{Event, NodeIndex};
use crate::network::FlowId;
use crate::node::{Follower, SHA256_BYTES_PER_S};
use crate::violation::Violation;
use crate::world::{Cargo, World};

/// A read, never used again once it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ReadId(pub(crate) u64);

/// One order to read that a seed carries out.
#[derive(Debug)]
pub(crate) struct Read {
    pub(crate) seed: NodeIndex,
    pub(crate) digest: Digest,
    layout: Layout,
    /// What is still to be asked for.
    runs: VecDeque<Run>,
    stage: Stage,
    /// No piece from here on is read for the present.
    paced_until: u32,
    /// Hashes along where the whole blob is read; its last piece waits for the result.
    hasher: Option<Follower>,
    read: PieceSet,
}

#[derive(Debug, Clone, Copy)]
enum Stage {
    /// No client's credential came yet.
    Unauthorised,
    /// A run is asked for.
    Asked(Run),
    /// Its pieces from `piece` to before `end` come.
    Reading { flow: FlowId, piece: u32, end: u32 },
    /// The body is not read on: the next piece would be `piece`.
    Paced { piece: u32, end: u32 },
    /// A run came; another is to be asked for, if there is one.
    RunEnded,
    /// Everything came.
    Hashing,
}

impl World<'_> {
    pub(crate) fn start_read(&mut self, seed: NodeIndex, digest: Digest, layout: Layout, pieces: &PieceSet) {
        let id = ReadId(self.next_id());
        let hasher = pieces.is_full().then(|| Follower::new(self.now, SHA256_BYTES_PER_S));
        let read = Read {
            seed,
            digest,
            layout,
            runs: pieces.runs().into(),
            stage: Stage::Unauthorised,
            paced_until: u32::MAX,
            hasher,
            read: PieceSet::new(layout.piece_count()),
        };
        self.reads.insert(id, read);
        if self.nodes[seed.place()].credentials.contains(&digest) {
            self.ask_registry(id);
        } else {
            self.queue.push(self.now + CREDENTIAL_WAIT, Event::CredentialMissing(id));
        }
    }

    pub(crate) fn credential_offered(&mut self, seed: NodeIndex, digest: Digest) {
        if !self.nodes[seed.place()].is_alive || !self.nodes[seed.place()].credentials.insert(digest) {
            return;
        }
        let waits = |read: &Read| (read.seed, read.digest) == (seed, digest);
        let waiting: Vec<ReadId> =
            self.reads.iter().filter(|(_, read)| waits(read)).map(|(id, _)| *id).collect();
        for id in waiting {
            self.ask_registry(id);
        }
    }

    pub(crate) fn credential_missing(&mut self, id: ReadId) {
        let unauthorised = |read: &&Read| matches!(read.stage, Stage::Unauthorised);
        let Some(Read { seed, digest, .. }) = self.reads.get(&id).filter(unauthorised) else { return };
        let (seed, digest) = (*seed, *digest);
        self.reads.remove(&id);
        let message = "no client's credential reached the seed".to_owned();
        let failure = Failure::new(502, "UNAVAILABLE", message, FailureCause::Source);
        self.tell_peer(seed, PeerInput::SourceEnded { digest, result: Err(failure) });
    }

    /// Asks for the next run; where there is none, the read is at its end.
    fn ask_registry(&mut self, id: ReadId) {
        let read = self.reads.get_mut(&id).expect("the caller found it");
        if let Some(run) = read.runs.pop_front() {
            read.stage = Stage::Asked(run);
            self.tally.registry_requests += 1;
            self.queue.push(self.now + self.scenario.registry.first_byte, Event::RegistryAnswers(id));
        } else if let Some(hasher) = &read.hasher {
            read.stage = Stage::Hashing;
            self.queue.push(hasher.free_at, Event::ReadHashed(id));
        } else {
            let (seed, digest) = (read.seed, read.digest);
            self.reads.remove(&id);
            self.tell_peer(seed, PeerInput::SourceEnded { digest, result: Ok(false) });
        }
    }

    pub(crate) fn registry_answers(&mut self, id: ReadId) {
        let Some(Read { stage: Stage::Asked(run), .. }) = self.reads.get(&id) else {
            return;
        };
        let (piece, end) = (run.first, run.first + run.count);
        self.read_on(id, piece, end);
    }

    /// Reads from a piece on, as far as that is allowed.
    fn read_on(&mut self, id: ReadId, piece: u32, end: u32) {
        let read = self.reads.get_mut(&id).expect("the caller found it");
        if piece >= read.paced_until {
            read.stage = Stage::Paced { piece, end };
            return;
        }
        let links = self.nodes[read.seed.place()].links;
        let into_zone = links.zone.map(|(_, into)| into);
        let path = [Some(self.registry_link), into_zone, Some(links.down)].into_iter().flatten().collect();
        let bytes = read.layout.piece_size(piece).into();
        let flow = self.network.start(self.now, path, bytes, Cargo::Read(id));
        read.stage = Stage::Reading { flow, piece, end };
        let digest = read.digest;
        self.check_once(digest, piece);
    }

    pub(crate) fn pace_reads(&mut self, seed: NodeIndex, digest: Digest, until: u32) {
        let concerns = |read: &Read| (read.seed, read.digest) == (seed, digest);
        let ids: Vec<ReadId> =
            self.reads.iter().filter(|(_, read)| concerns(read)).map(|(id, _)| *id).collect();
        for id in ids {
            let read = self.reads.get_mut(&id).expect("listed above");
            read.paced_until = until;
            if let Stage::Paced { piece, end } = read.stage {
                self.read_on(id, piece, end);
            }
        }
    }

    /// A piece came whole: it is written and told, unless the blob's hash must be known first.
    pub(crate) fn read_arrived(&mut self, id: ReadId) {
        let read = self.reads.get_mut(&id).expect("a flow's read is there");
        let Stage::Reading { flow, piece, end } = read.stage else {
            unreachable!("a read flows while it reads");
        };
        let Read { seed, digest, layout, .. } = *read;
        self.tally.registry_bytes += u64::from(layout.piece_size(piece));
        read.read.insert(piece);
        let hashed_at = read.hasher.as_mut().and_then(|hasher| hasher.follow(self.now, &read.read, &layout));
        let next = piece + 1;
        if next < end && next >= read.paced_until {
            read.stage = Stage::Paced { piece: next, end };
            self.network.stop(self.now, flow);
        } else if next < end {
            read.stage = Stage::Reading { flow, piece: next, end };
            self.network.extend(self.now, flow, layout.piece_size(next).into());
            self.check_once(digest, next);
        } else {
            read.stage = Stage::RunEnded;
            self.network.stop(self.now, flow);
        }
        if hashed_at.is_none() {
            self.source_read(seed, digest, layout, piece);
        }
        if next == end && self.reads.contains_key(&id) {
            self.ask_registry(id);
        }
    }

    /// The SHA-256 of a blob read in one go is right.
    pub(crate) fn read_hashed(&mut self, id: ReadId) {
        let Some(Read { seed, digest, layout, .. }) = self.reads.remove(&id) else { return };
        self.nodes[seed.place()].blob(digest, layout).is_hashed = true;
        if let Some(last) = layout.last_piece() {
            self.source_read(seed, digest, layout, last);
        }
        self.tell_peer(seed, PeerInput::SourceEnded { digest, result: Ok(true) });
    }

    fn source_read(&mut self, seed: NodeIndex, digest: Digest, layout: Layout, piece: u32) {
        self.hold(seed, digest, layout, piece);
        let hash = self.piece_hash(digest, piece);
        self.tell_peer(seed, PeerInput::SourceRead { digest, piece, hash });
    }

    /// Ends a seed's reads, those of one blob or all.
    pub(crate) fn stop_reads(&mut self, seed: NodeIndex, only: Option<Digest>) {
        let stops = |read: &Read| read.seed == seed && only.is_none_or(|digest| digest == read.digest);
        let ids: Vec<ReadId> = self.reads.iter().filter(|(_, read)| stops(read)).map(|(id, _)| *id).collect();
        for id in ids {
            let read = self.reads.remove(&id).expect("listed above");
            if let Stage::Reading { flow, .. } = read.stage {
                self.tally.registry_bytes += self.network.stop(self.now, flow);
            }
        }
    }

    /// Invariant 1 of docs/design.md §1: nobody reads from the registry what a living node holds.
    fn check_once(&mut self, digest: Digest, piece: u32) {
        if self.copies[self.blob_place(digest)][piece as usize] == 0 {
            return;
        }
        let holder = self.nodes.iter().find(|node| node.is_alive && node.holds(digest, piece));
        let holder = holder.expect("copies are counted as they come and go").id.clone();
        self.break_off(Violation::ReadThoughHeld { digest, piece, holder });
    }
}

/// How long a read waits for the first client's credential (`peer/src/seed.rs`).
const CREDENTIAL_WAIT: Duration = Duration::from_secs(5);
