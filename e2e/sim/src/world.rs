//! The world: both cores, the nodes, the links, and the queue that drives them.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, DefaultHasher};
use std::time::{Duration, Instant};

use fastrand::Rng;
use flotilla_peer_core::Input as PeerInput;
use flotilla_proto::{Digest, PeerId, PieceHash, PieceSet};
use flotilla_scheduler_core::{Input as SchedulerInput, Limits, PeerFacts, PeerKey, Scheduler, Zone};

use crate::audit::Audit;
use crate::event::{Event, NodeIndex, Queue, Time};
use crate::explain::{Answer, Question};
use crate::fair::LinkId;
use crate::follow::Follow;
use crate::log::Log;
use crate::network::Network;
use crate::node::{Follower, Node, NodeLinks};
use crate::planner::{LOAD_WINDOW, PlannerThread, Probe};
use crate::region::Region;
use crate::scenario::{Manner, Part, Scenario};
use crate::slab::Slab;
use crate::source::{Read, ReadId};
use crate::transfer::{Fetch, FetchId};
use crate::violation::Violation;
use crate::weather::EPOCH;

/// Everything there is in one history.
pub(crate) struct World<'a> {
    pub(crate) scenario: &'a Scenario,
    pub(crate) region: Region,
    /// [`Region::lower_bound`].
    pub(crate) lower_bound: Time,
    /// Simulated time is counted from here: the cores speak of instants.
    pub(crate) base: Instant,
    pub(crate) now: Time,
    pub(crate) queue: Queue,
    pub(crate) log: Log,
    pub(crate) rng: Rng,
    pub(crate) network: Network<Cargo>,
    /// The registry's.
    pub(crate) registry_link: LinkId,
    pub(crate) scheduler: Scheduler,
    pub(crate) scheduler_due: Option<Time>,
    pub(crate) audit: Audit,
    pub(crate) nodes: Vec<Node>,
    /// By [`PeerKey`]; keys are allotted in order.
    pub(crate) node_by_key: Vec<NodeIndex>,
    pub(crate) node_by_id: HashMap<PeerId, NodeIndex, BuildHasherDefault<DefaultHasher>>,
    blob_by_digest: BTreeMap<Digest, usize>,
    /// By blob and piece: how many living nodes hold it.
    pub(crate) copies: Vec<Vec<u32>>,
    pub(crate) fetches: Slab<Fetch>,
    pub(crate) follows: Slab<Follow>,
    pub(crate) reads: BTreeMap<ReadId, Read>,
    last_id: u64,
    to_arrive_count: usize,
    /// Living nodes that arrived and lack something they want.
    pub(crate) unfinished_count: usize,
    pub(crate) tally: Tally,
    pub(crate) thread: PlannerThread,
    pub(crate) probe: Option<Probe>,
    pub(crate) question: Option<Question>,
    pub(crate) answers: Vec<Answer>,
    violation: Option<Violation>,
}

/// What a flow carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cargo {
    Fetch(FetchId),
    Read(ReadId),
}

/// What is counted on the way.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Of blobs, from the registry.
    pub(crate) registry_bytes: u64,
    pub(crate) registry_requests: u64,
    /// From peer to peer, verified and written.
    pub(crate) kept_bytes: u64,
    pub(crate) kept_pieces: u64,
    /// From peer to peer, and of no use.
    pub(crate) wasted_bytes: u64,
    /// Over narrow links between zones, by the zone into which it came.
    pub(crate) crossed_bytes: BTreeMap<u32, u64>,
    /// Batches between scheduler and peers, both ways.
    pub(crate) control_messages: u64,
    /// Downloads that ended without their blob where the scenario has it so.
    pub(crate) failed_downloads: u64,
}

impl<'a> World<'a> {
    pub(crate) fn new(scenario: &'a Scenario, seed: u64) -> Self {
        let region = Region::draw(scenario, seed);
        let mut network = Network::new();
        let registry_link = network.add_link(scenario.registry.bytes_per_s);
        let zone_links: BTreeMap<u32, (LinkId, LinkId)> = scenario
            .zone_links
            .iter()
            .map(|link| (link.zone, (network.add_link(link.bytes_per_s), network.add_link(link.bytes_per_s))))
            .collect();
        let nodes: Vec<Node> = region
            .sites
            .iter()
            .map(|site| {
                let (up, down) = (network.add_link(site.spec.up), network.add_link(site.spec.down));
                Node::new(site, NodeLinks { up, down, zone: zone_links.get(&site.spec.zone).copied() }, seed)
            })
            .collect();
        let ids = nodes.iter().enumerate().map(|(place, node)| (node.id.clone(), NodeIndex::at(place)));
        let blobs = region.blobs.iter().enumerate();
        Self {
            scenario,
            lower_bound: region.lower_bound(scenario),
            base: base(),
            now: Time::ZERO,
            queue: Queue::default(),
            log: Log::default(),
            rng: Rng::with_seed(seed),
            network,
            registry_link,
            scheduler: Scheduler::new(Limits::default(), seed),
            scheduler_due: None,
            audit: Audit::new(Limits::default()),
            node_by_id: ids.collect(),
            node_by_key: Vec::new(),
            blob_by_digest: blobs.map(|(place, blob)| (blob.digest, place)).collect(),
            copies: region.blobs.iter().map(|blob| vec![0; blob.hashes.len()]).collect(),
            fetches: Slab::default(),
            follows: Slab::default(),
            reads: BTreeMap::new(),
            last_id: 0,
            to_arrive_count: nodes.len(),
            unfinished_count: 0,
            tally: Tally::default(),
            thread: PlannerThread::default(),
            probe: None,
            question: None,
            answers: Vec::new(),
            violation: None,
            nodes,
            region,
        }
    }

    /// Lets everything happen until every living peer has what it wants.
    pub(crate) fn run(&mut self) -> Result<(), Violation> {
        for link in &self.scenario.zone_links {
            let (zone, bytes_per_s) = (Zone(link.zone), link.budget);
            if bytes_per_s.is_some() {
                self.tell_scheduler(SchedulerInput::LinkLimited { zone, bytes_per_s });
            }
        }
        for (place, node) in self.nodes.iter().enumerate() {
            self.queue.push(node.spec.arrives, Event::Arrives(NodeIndex::at(place)));
        }
        for (place, death) in self.region.deaths.iter().enumerate() {
            self.queue.push(death.at, Event::Crashes(place));
        }
        if self.region.weather.varies() {
            self.queue.push(Time::ZERO, Event::RatesDrawn);
        }
        if self.scenario.planner.told_load_percent.is_some() {
            self.queue.push(Time::ZERO, Event::LoadMeasured);
        } else if self.scenario.planner.costs.is_some() {
            self.queue.push(LOAD_WINDOW, Event::LoadMeasured);
        }
        self.queue.push(SAMPLE_EVERY, Event::Sampled);
        let patience = PATIENCE.max(self.lower_bound * PATIENCE_IN_BOUNDS);
        while !self.is_done() {
            let event_at = self.queue.next_at().expect("the planner is sampled for ever");
            let network_at = self.network.due().map(|due| due.max(self.now));
            if network_at.unwrap_or(event_at).min(event_at) > patience {
                return Err(self.unfinished(patience));
            }
            match network_at.filter(|at| *at <= event_at) {
                Some(at) => {
                    self.now = at;
                    self.flows_end();
                }
                None => self.happens_next(),
            }
            self.network.tidy(self.now);
            if let Some(violation) = self.violation.take() {
                return Err(violation);
            }
        }
        Ok(())
    }

    fn happens_next(&mut self) {
        let (at, event) = self.queue.pop().expect("the caller saw one");
        self.now = at;
        self.log.happened(at, &event);
        self.happen(event);
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Arrives(node) => self.arrives(node),
            Event::Crashes(place) => self.crashes(place),
            Event::RatesDrawn => self.rates_drawn(),
            Event::StreamEnds(key) => self.stream_ends(key),
            Event::SchedulerFlushes(node) => self.scheduler_flushes(node),
            Event::SchedulerHears(key, batch) => self.scheduler_hears(key, batch),
            Event::PlannerTakes => self.planner_takes_next(),
            Event::Echoed(key, sent_at) => self.echoed(key, sent_at),
            Event::LoadMeasured => self.load_measured(),
            Event::PeerHears(key, batch) => self.peer_hears(key, batch),
            Event::SchedulerDue => self.scheduler_is_due(),
            Event::PeerDue(node) => self.peer_is_due(node),
            Event::Asked(fetch) => self.asked(fetch),
            Event::MayStall(fetch) => self.may_stall(fetch),
            Event::FollowedTells(follow) => self.followed_tells(follow),
            Event::FollowerHears(follow, pieces) => self.follower_hears(follow, pieces),
            Event::CredentialOffered(seed, digest) => self.credential_offered(seed, digest),
            Event::CredentialMissing(read) => self.credential_missing(read),
            Event::RegistryAnswers(read) => self.registry_answers(read),
            Event::ReadHashed(read) => self.read_hashed(read),
            Event::Hashed(node, digest) => self.hashed(node, digest),
            Event::BlobTaken(node) => self.wants_next(node),
            Event::Attaches(node) => self.attaches(node),
            Event::Sampled => self.sampled(),
        }
    }

    /// The daemon is up: it finds what it holds, attaches, and its client asks for blobs.
    fn arrives(&mut self, index: NodeIndex) {
        self.to_arrive_count -= 1;
        if !self.nodes[index.place()].is_alive {
            return;
        }
        match self.nodes[index.place()].spec.part {
            Part::Holds => self.finds_all(index),
            Part::Wants => {
                self.unfinished_count += 1;
                self.nodes[index.place()].to_want = (0..self.region.blobs.len()).collect();
            }
            Part::Nothing => {}
        }
        self.attaches(index);
        for _ in 0..self.scenario.client.blobs_at_once.min(self.region.blobs.len()) {
            self.wants_next(index);
        }
    }

    fn finds_all(&mut self, index: NodeIndex) {
        for place in 0..self.region.blobs.len() {
            let (digest, layout) = (self.region.blobs[place].digest, self.region.blobs[place].layout);
            let pieces = PieceSet::full(layout.piece_count());
            for copies in &mut self.copies[place] {
                *copies += 1;
            }
            let blob = self.nodes[index.place()].blob(digest, layout);
            (blob.held, blob.released, blob.is_hashed) = (pieces.clone(), pieces.clone(), true);
            let hearsay = PieceSet::new(layout.piece_count());
            self.tell_peer(index, PeerInput::Found { digest, layout, pieces, hearsay, complete: true });
        }
    }

    /// The node's client asks for the next blob, if there is one.
    fn wants_next(&mut self, index: NodeIndex) {
        let node = &mut self.nodes[index.place()];
        let Some(place) = node.to_want.pop_front().filter(|_| node.is_alive) else { return };
        let (digest, layout) = (self.region.blobs[place].digest, self.region.blobs[place].layout);
        node.lacking_count += 1;
        node.blob(digest, layout).client = Some(Follower::new(self.now, self.scenario.client.bytes_per_s));
        self.tell_peer(
            index,
            PeerInput::Wanted { digest, layout, pieces: PieceSet::full(layout.piece_count()) },
        );
        self.tell_peer(index, PeerInput::ReaderMoved { digest, piece: 0 });
    }

    /// The node's stream to the scheduler stands.
    fn attaches(&mut self, index: NodeIndex) {
        if !self.nodes[index.place()].is_alive {
            return;
        }
        let key = PeerKey(u32::try_from(self.node_by_key.len()).expect("fewer peers than 2^32"));
        self.node_by_key.push(index);
        let node = &mut self.nodes[index.place()];
        node.key = Some(key);
        let facts = PeerFacts { id: node.id.clone(), seed: node.is_seed, zone: Zone(node.spec.zone) };
        self.tell_scheduler(SchedulerInput::PeerJoined { peer: key, facts });
        self.tell_peer(index, PeerInput::SchedulerUp);
        self.tell_peer(index, PeerInput::ReportsPaced { interval: self.scenario.control.batch });
    }

    /// The node dies; its parents and children hear nothing.
    fn crashes(&mut self, place: usize) {
        let death = self.region.deaths[place];
        let dead = &mut self.nodes[death.node.place()];
        let has_arrived = dead.key.is_some();
        dead.is_alive = false;
        self.unfinished_count -= usize::from(has_arrived && !dead.is_done());
        self.forget_copies(death.node);
        self.cut_fetches(death.node);
        self.end_follows(death.node);
        self.stop_reads(death.node, None);
        if let Some(key) = self.nodes[death.node.place()].key {
            let heard = self.upward_arrival(death.node);
            let at = match death.manner {
                Manner::Killed => heard,
                Manner::PoweredOff => self.now + KEEP_ALIVE_FAILS,
            };
            self.queue.push(at, Event::StreamEnds(key));
        }
    }

    fn forget_copies(&mut self, dead: NodeIndex) {
        for (digest, blob) in &self.nodes[dead.place()].blobs {
            let copies = &mut self.copies[self.blob_by_digest[digest]];
            for piece in blob.held.iter() {
                copies[piece as usize] -= 1;
            }
        }
    }

    fn stream_ends(&mut self, key: PeerKey) {
        let node = &mut self.nodes[self.node_by_key[key.0 as usize].place()];
        if node.key.take_if(|current| *current == key).is_some() {
            node.inbox.clear();
        }
        self.tell_scheduler(SchedulerInput::PeerLeft { peer: key });
    }

    fn rates_drawn(&mut self) {
        let epoch = u32::try_from(self.now.as_nanos() / EPOCH.as_nanos()).expect("no history is as long");
        for (site, node) in self.region.sites.iter().zip(&self.nodes) {
            for (hose, link) in [(site.up(), node.links.up), (site.down(), node.links.down)] {
                self.network.set_capacity(link, self.region.weather.rate(hose, epoch));
            }
        }
        self.queue.push(self.now + EPOCH, Event::RatesDrawn);
    }

    fn sampled(&mut self) {
        if let Some(probe) = self.probe {
            (probe.progress)(self.now, self.unfinished_count);
        }
        if let Some((parent, child, digest)) = self.scheduler.find_idle(self.instant()) {
            self.break_off(Violation::Idle { parent, child, digest });
        }
        if let Err(violation) = self.audit.find_idle() {
            self.break_off(violation);
        }
        let often = u32::try_from(self.nodes.len() / SAMPLED_OFTEN).expect("fewer nodes than 2^32");
        self.queue.push(self.now + SAMPLE_EVERY * (often + 1), Event::Sampled);
    }

    fn flows_end(&mut self) {
        while let Some(cargo) = self.network.advance(self.now) {
            match cargo {
                Cargo::Fetch(fetch) => self.fetch_arrived(fetch),
                Cargo::Read(read) => self.read_arrived(read),
            }
        }
    }

    /// Notes the first violation; the history ends with it.
    pub(crate) fn break_off(&mut self, violation: Violation) {
        self.violation.get_or_insert(violation);
    }

    pub(crate) fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// The blob's place in the scenario.
    pub(crate) fn blob_place(&self, digest: Digest) -> usize {
        self.blob_by_digest[&digest]
    }

    pub(crate) fn piece_hash(&self, digest: Digest, piece: u32) -> PieceHash {
        self.region.blobs[self.blob_place(digest)].hashes[piece as usize]
    }

    fn is_done(&self) -> bool {
        self.to_arrive_count == 0 && self.unfinished_count == 0
    }

    fn unfinished(&self, after: Duration) -> Violation {
        let unfinished = |node: &&Node| node.is_alive && !node.is_done();
        let peer = self.nodes.iter().find(unfinished).expect("the caller saw one").id.clone();
        Violation::Unfinished { unfinished: self.unfinished_count, peer, after }
    }
}

/// The one instant that is read from the clock: cores take instants, and there is no other way
/// to have one. Only differences to it matter.
#[expect(clippy::disallowed_methods, reason = "see above")]
fn base() -> Instant {
    Instant::now()
}

/// A history that takes longer, or so many lower bounds, does not end.
const PATIENCE: Duration = Duration::from_secs(120);
const PATIENCE_IN_BOUNDS: u32 = 20;

/// Often enough that a slot left idle is seen, seldom enough to cost little.
const SAMPLE_EVERY: Duration = Duration::from_millis(20);

/// A look costs a pass over all partners: a region of more nodes is looked at less often.
const SAMPLED_OFTEN: usize = 256;

/// A stream whose other end is gone without a word ends after two keep-alives
/// (`daemon/src/rpc/mod.rs`).
const KEEP_ALIVE_FAILS: Duration = Duration::from_secs(20);
