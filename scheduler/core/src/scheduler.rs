//! The planner's state and its one surface: inputs in, outputs out.

use std::collections::{BTreeSet, VecDeque};
use std::time::Instant;

use fastrand::Rng;
use flotilla_proto::{Digest, PeerId};

use crate::books::{Peers, Tasks};
use crate::hash::KeyHash;
use crate::rate::Usual;
use crate::records::Records;
use crate::shed::Shedding;
use crate::tombstones::Tombstones;
use crate::zone::{Way, ZoneLink, ZonePlace};
use crate::{Input, Limits, Output, PeerKey, Zone};

/// The planner of one region.
///
/// All state is soft: a scheduler that starts empty learns it again from what peers
/// announce.
#[derive(Debug)]
pub struct Scheduler {
    pub(crate) limits: Limits,
    pub(crate) seed: u64,
    pub(crate) hash: KeyHash,
    pub(crate) rng: Rng,
    pub(crate) peers: Peers,
    pub(crate) tasks: Tasks,
    /// Attached seeds.
    pub(crate) seeds: Vec<PeerKey>,
    /// Zones that peers were ever in, by place.
    pub(crate) zones: Vec<Zone>,
    pub(crate) zone_links: Vec<ZoneLink>,
    /// What a peer's link usually moves, in bytes per second.
    pub(crate) usual_up: Usual,
    pub(crate) usual_down: Usual,
    pub(crate) shedding: Shedding,
    pub(crate) outputs: VecDeque<Output>,
    pub(crate) deadlines: BTreeSet<(Instant, Deadline)>,
    pub(crate) configured_seeds: Vec<PeerId>,
    pub(crate) tombstones: Tombstones,
    pub(crate) records: Records,
    /// When the books were last searched for blobs to forget, and stayed full.
    pub(crate) searched_in_vain_at: Option<Instant>,
    /// When the first input came.
    pub(crate) started_at: Option<Instant>,
    /// A copy of a piece was lost, or a seed reads no more: seeds may give what they were not
    /// to give twice (see [`crate::task::Task::useful`]).
    pub(crate) seeds_are_due: bool,
    /// A seed that reads may be sent pieces that it was about to read (see [`crate::task::Task::useful`]).
    pub(crate) readers_are_due: bool,
}

/// What is due at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Deadline {
    /// Look again at how the blob comes from the registry.
    Source(Digest),
    /// A child may take from a parent again that failed it.
    Feed(Digest, PeerKey),
    /// A parent's blame has worn off.
    Parent(PeerKey),
    /// Look whether a child that was sent corrupt pieces still gets any.
    Hope(Digest, PeerKey),
    /// The budget of a zone's link lets something across again.
    Link(ZonePlace, Way),
    /// Look whether a download got nothing for long.
    Starving(Digest, PeerKey),
    /// Look at what a child awaits of parents that have not delivered anything yet.
    Late(Digest, PeerKey),
    /// Look whether a child takes what is on its way to it.
    Taking(PeerKey),
    /// Look whether holders have told the hashes that they were asked for.
    Hashes(Digest),
}

impl Scheduler {
    /// A planner that knows nobody. `seed` decides every random draw.
    pub fn new(limits: Limits, seed: u64) -> Self {
        let hash = KeyHash::new(seed);
        Self {
            limits,
            seed,
            hash,
            rng: Rng::with_seed(seed),
            peers: Peers::default(),
            tasks: Tasks::new(hash),
            seeds: Vec::new(),
            zones: Vec::new(),
            zone_links: Vec::new(),
            usual_up: Usual::default(),
            usual_down: Usual::default(),
            shedding: Shedding::default(),
            outputs: VecDeque::new(),
            deadlines: BTreeSet::new(),
            configured_seeds: Vec::new(),
            tombstones: Tombstones::default(),
            records: Records::default(),
            searched_in_vain_at: None,
            started_at: None,
            seeds_are_due: false,
            readers_are_due: false,
        }
    }

    /// Takes in what happened. Drain [`Self::poll_output`] afterwards.
    ///
    /// What an input costs stands beside it in [`Input`].
    pub fn handle(&mut self, now: Instant, input: Input) {
        self.take(now, input);
        self.feed_seeds_if_due(now);
    }

    fn take(&mut self, now: Instant, input: Input) {
        self.started_at.get_or_insert(now);
        self.shedding.asked_lately += u64::from(input.asks());
        match input {
            Input::SeedsConfigured { seeds } => {
                self.configured_seeds = seeds;
                self.seeds_changed(now);
            }
            Input::InventoryTold { peer } => self.inventory_told(now, peer),
            Input::SourceReading { seed, digest, size, pieces } => {
                self.source_reading(now, seed, digest, size, pieces);
            }
            Input::PeerJoined { peer, facts } => self.peer_joined(now, peer, facts),
            Input::PeerLeft { peer } => self.peer_left(now, peer),
            Input::Wanted { peer, digest, size, part, reader } => {
                self.wanted(now, peer, (digest, size), part, reader);
            }
            Input::Unwanted { peer, digest } => self.unwanted(now, peer, digest),
            Input::Announced { peer, digest, size, pieces, hashes } => {
                self.announced(now, peer, digest, size, &pieces, &hashes);
            }
            Input::HashesTold { peer, digest, pieces, hashes } => {
                self.hashes_told(now, peer, digest, &pieces, &hashes);
            }
            Input::Withdrawn { peer, digest } => self.withdrawn(now, peer, digest),
            Input::Failed { child, parent, digest, piece, reason } => {
                self.transfer_failed(now, child, parent, digest, piece, reason);
            }
            Input::ReaderMoved { peer, digest, piece } => self.reader_moved(peer, digest, piece),
            Input::SourceFailed { seed, digest, failure } => self.source_failed(now, seed, digest, &failure),
            Input::WrongBytes { peer, variant } => self.wrong_bytes(now, peer, variant),
            Input::Entombed { peer, variant } => self.entombed(peer, variant),
            Input::RoundTripMeasured { peer, round_trip } => {
                if let Some(peer) = self.peers.get_mut(peer) {
                    peer.rest.round_trip.learn(round_trip);
                }
            }
            Input::LinkLimited { zone, bytes_per_s } => self.link_limited(now, zone, bytes_per_s),
            Input::LoadMeasured { load_percent } => self.load_measured(now, load_percent),
        }
    }

    /// Does what is due. Call it at [`Self::poll_timeout`].
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((at, deadline)) = self.deadlines.first().copied() {
            if at > now {
                break;
            }
            self.deadlines.pop_first();
            match deadline {
                Deadline::Source(digest) => {
                    self.shedding.asked_lately += 1;
                    self.ensure_source(now, digest);
                }
                Deadline::Feed(_, child) => self.feed_downloads(now, child),
                Deadline::Parent(parent) => {
                    self.believe_after_a_while(now, parent);
                    self.feed_parent(now, parent);
                }
                Deadline::Hope(digest, child) => self.fail_if_hopeless(now, child, digest),
                Deadline::Link(place, way) => self.feed_across(now, place, way),
                Deadline::Starving(digest, child) => self.help_starving(now, child, digest),
                Deadline::Late(digest, child) => self.give_up_late(now, child, digest),
                Deadline::Taking(child) => self.look_at_taking(now, child),
                Deadline::Hashes(digest) => self.look_at_hashes(now, digest),
            }
        }
        self.feed_seeds_if_due(now);
    }

    /// What to do next, until `None`.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Self::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// How many peers are attached, and how many blobs are known.
    pub fn counts(&self) -> (usize, usize) {
        (self.peers.len(), self.tasks.len())
    }
}
