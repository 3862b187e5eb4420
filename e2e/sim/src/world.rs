//! The world: both cores, the nodes, the links, and the queue that drives them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use fastrand::Rng;
use flotilla_peer_core::Input as PeerInput;
use flotilla_proto::{Digest, Layout, PeerId, PieceHash, rendezvous_order};
use flotilla_scheduler_core::{Input as SchedulerInput, Limits, PeerFacts, PeerKey, Scheduler, Zone};

use crate::audit::Audit;
use crate::event::{Event, NodeIndex, Queue, Time};
use crate::follow::{Follow, FollowId};
use crate::log::Log;
use crate::network::Network;
use crate::node::{CLIENT_BYTES_PER_S, Follower, Node};
use crate::scenario::{Scenario, Victim};
use crate::source::{Read, ReadId};
use crate::transfer::{Fetch, FetchId};
use crate::violation::Violation;

/// Everything there is in one history.
pub(crate) struct World<'a> {
    pub(crate) scenario: &'a Scenario,
    /// Simulated time is counted from here: the cores speak of instants.
    pub(crate) base: Instant,
    pub(crate) now: Time,
    pub(crate) queue: Queue,
    pub(crate) log: Log,
    pub(crate) rng: Rng,
    pub(crate) network: Network<Cargo>,
    network_due: Option<Time>,
    pub(crate) scheduler: Scheduler,
    pub(crate) scheduler_due: Option<Time>,
    pub(crate) audit: Audit,
    pub(crate) nodes: Vec<Node>,
    /// By [`PeerKey`]; keys are allotted in order.
    pub(crate) node_by_key: Vec<NodeIndex>,
    pub(crate) node_by_id: BTreeMap<PeerId, NodeIndex>,
    pub(crate) blobs: Vec<Blob>,
    pub(crate) fetches: BTreeMap<FetchId, Fetch>,
    pub(crate) follows: BTreeMap<FollowId, Follow>,
    pub(crate) reads: BTreeMap<ReadId, Read>,
    last_id: u64,
    to_arrive_count: usize,
    pub(crate) tally: Tally,
    violation: Option<Violation>,
}

/// A blob, as the registry has it.
#[derive(Debug)]
pub(crate) struct Blob {
    pub(crate) digest: Digest,
    pub(crate) layout: Layout,
    hashes: Vec<PieceHash>,
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
    /// From peer to peer, and of no use.
    pub(crate) wasted_bytes: u64,
    /// Batches between scheduler and peers, both ways.
    pub(crate) control_messages: u64,
}

impl<'a> World<'a> {
    pub(crate) fn new(scenario: &'a Scenario, seed: u64) -> Self {
        let mut network = Network::new();
        let seeds = scenario.seeds.iter().map(|spec| (true, spec));
        let specs = seeds.chain(scenario.peers.iter().map(|spec| (false, spec)));
        let mut nodes: Vec<Node> = Vec::new();
        for (is_seed, spec) in specs {
            let place = if is_seed { nodes.len() } else { nodes.len() - scenario.seeds.len() };
            let role = if is_seed { "seed" } else { "peer" };
            let id = format!("{role}-{place}").parse().expect("a DNS label");
            let (up, down) = (network.add_link(spec.up), network.add_link(spec.down));
            nodes.push(Node::new(id, is_seed, *spec, up, down, seed));
        }
        let ids = nodes.iter().enumerate().map(|(index, node)| (node.id.clone(), NodeIndex(index)));
        Self {
            scenario,
            base: base(),
            now: Time::ZERO,
            queue: Queue::default(),
            log: Log::default(),
            rng: Rng::with_seed(seed),
            network,
            network_due: None,
            scheduler: Scheduler::new(Limits::default(), seed),
            scheduler_due: None,
            audit: Audit::new(Limits::default()),
            node_by_id: ids.collect(),
            node_by_key: Vec::new(),
            blobs: scenario
                .blobs
                .iter()
                .zip(0..)
                .map(|(size, place)| Blob::new(*size, seed, place))
                .collect(),
            fetches: BTreeMap::new(),
            follows: BTreeMap::new(),
            reads: BTreeMap::new(),
            last_id: 0,
            to_arrive_count: nodes.len(),
            tally: Tally::default(),
            violation: None,
            nodes,
        }
    }

    /// Lets everything happen until every living peer has what it wants.
    pub(crate) fn run(&mut self) -> Result<(), Violation> {
        for (index, node) in self.nodes.iter().enumerate() {
            self.queue.push(node.spec.arrives, Event::Arrives(NodeIndex(index)));
        }
        for (place, crash) in self.scenario.crashes.iter().enumerate() {
            self.queue.push(crash.at, Event::Crashes(place));
        }
        self.queue.push(SAMPLE_EVERY, Event::Sampled);
        while !self.is_done() {
            let (at, event) = self.queue.pop().expect("the planner is sampled for ever");
            if at > PATIENCE {
                return Err(self.unfinished());
            }
            self.now = at;
            self.log.record(at, &event);
            self.happen(event);
            self.expect_network();
            if let Some(violation) = self.violation.take() {
                return Err(violation);
            }
        }
        Ok(())
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Arrives(node) => self.arrives(node),
            Event::Crashes(place) => self.crashes(place),
            Event::StreamEnds(key) => self.stream_ends(key),
            Event::SchedulerFlushes(node) => self.scheduler_flushes(node),
            Event::SchedulerHears(key, batch) => self.scheduler_hears(key, batch),
            Event::PeerHears(node, batch) => self.peer_hears(node, batch),
            Event::SchedulerDue => self.scheduler_is_due(),
            Event::PeerDue(node) => self.peer_is_due(node),
            Event::NetworkDue => self.network_is_due(),
            Event::Asked(fetch) => self.asked(fetch),
            Event::MayStall(fetch) => self.may_stall(fetch),
            Event::FollowedTells(follow) => self.followed_tells(follow),
            Event::FollowerHears(follow, pieces) => self.follower_hears(follow, pieces),
            Event::CredentialOffered(seed, digest) => self.credential_offered(seed, digest),
            Event::CredentialMissing(read) => self.credential_missing(read),
            Event::RegistryAnswers(read) => self.registry_answers(read),
            Event::ReadHashed(read) => self.read_hashed(read),
            Event::Hashed(node, digest) => self.hashed(node, digest),
            Event::Sampled => self.sampled(),
        }
    }

    /// The node's stream to the scheduler stands, and its client asks for the blobs.
    fn arrives(&mut self, index: NodeIndex) {
        self.to_arrive_count -= 1;
        let key = PeerKey(u32::try_from(self.node_by_key.len()).expect("fewer peers than 2^32"));
        self.node_by_key.push(index);
        let node = &mut self.nodes[index.0];
        node.key = Some(key);
        let facts = PeerFacts { id: node.id.clone(), seed: node.is_seed, zone: Zone::default() };
        let wants = !node.is_seed;
        self.tell_scheduler(SchedulerInput::PeerJoined { peer: key, facts });
        self.tell_peer(index, PeerInput::SchedulerUp);
        self.tell_peer(index, PeerInput::ReportsPaced { interval: self.scenario.control.batch });
        let blobs: Vec<_> = self.blobs.iter().map(|blob| (blob.digest, blob.layout)).collect();
        for (digest, layout) in blobs.into_iter().filter(|_| wants) {
            let client = Follower::new(self.now, CLIENT_BYTES_PER_S);
            self.nodes[index.0].blob(digest, layout).client = Some(client);
            self.tell_peer(index, PeerInput::Wanted { digest, layout });
            self.tell_peer(index, PeerInput::ReaderMoved { digest, piece: 0 });
        }
    }

    /// The daemon is killed: its kernel ends its streams, its parents and children hear nothing.
    fn crashes(&mut self, place: usize) {
        let dead = match self.scenario.crashes[place].victim {
            Victim::Peer(peer) => NodeIndex(self.scenario.seeds.len() + peer),
            Victim::HomeSeed => self.home_seed(),
        };
        self.nodes[dead.0].is_alive = false;
        self.cut_fetches(dead);
        self.end_follows(dead);
        self.stop_reads(dead, None);
        if let Some(key) = self.nodes[dead.0].key {
            let at = self.upward_arrival(dead);
            self.queue.push(at, Event::StreamEnds(key));
        }
    }

    fn home_seed(&self) -> NodeIndex {
        let ids = self.nodes.iter().filter(|node| node.is_seed).map(|node| node.id.as_str());
        let home = rendezvous_order(self.blobs[0].digest.as_bytes(), ids)[0];
        let found = self.nodes.iter().position(|node| node.id.as_str() == home);
        NodeIndex(found.expect("drawn from the nodes"))
    }

    fn stream_ends(&mut self, key: PeerKey) {
        let node = &mut self.nodes[self.node_by_key[key.0 as usize].0];
        node.key = None;
        node.inbox.clear();
        self.tell_scheduler(SchedulerInput::PeerLeft { peer: key });
    }

    fn sampled(&mut self) {
        if let Err(violation) = self.audit.find_idle() {
            self.break_off(violation);
        }
        self.queue.push(self.now + SAMPLE_EVERY, Event::Sampled);
    }

    fn network_is_due(&mut self) {
        if self.network_due.take_if(|due| *due <= self.now).is_none() {
            return;
        }
        while let Some(cargo) = self.network.advance(self.now) {
            match cargo {
                Cargo::Fetch(fetch) => self.fetch_arrived(fetch),
                Cargo::Read(read) => self.read_arrived(read),
            }
        }
    }

    fn expect_network(&mut self) {
        let Some(due) = self.network.due().map(|due| due.max(self.now)) else { return };
        if self.network_due.is_none_or(|expected| due < expected) {
            self.network_due = Some(due);
            self.queue.push(due, Event::NetworkDue);
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

    pub(crate) fn piece_hash(&self, digest: Digest, piece: u32) -> PieceHash {
        let blob =
            self.blobs.iter().find(|blob| blob.digest == digest).expect("nobody speaks of other blobs");
        blob.hashes[piece as usize]
    }

    fn is_done(&self) -> bool {
        self.to_arrive_count == 0 && self.unfinished_peers().next().is_none()
    }

    fn unfinished_peers(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| node.is_alive && !node.is_done())
    }

    fn unfinished(&self) -> Violation {
        let mut unfinished = self.unfinished_peers();
        let peer = unfinished.next().expect("the caller saw one").id.clone();
        Violation::Unfinished { unfinished: unfinished.count() + 1, peer, after: PATIENCE }
    }
}

impl Blob {
    fn new(size: u64, seed: u64, place: u32) -> Self {
        let digest = Digest::of(format!("blob {place} of history {seed}").as_bytes());
        let layout = Layout::of(size).expect("a scenario's blob is no larger than any may be");
        let hash = |piece: u32| PieceHash::of(&[&digest.as_bytes()[..], &piece.to_le_bytes()].concat());
        Self { digest, layout, hashes: (0..layout.piece_count()).map(hash).collect() }
    }
}

/// The one instant that is read from the clock: cores take instants, and there is no other way
/// to have one. Only differences to it matter.
#[expect(clippy::disallowed_methods, reason = "see above")]
fn base() -> Instant {
    Instant::now()
}

/// A history that takes longer does not end.
const PATIENCE: Duration = Duration::from_secs(120);

/// Often enough that a slot left idle is seen, seldom enough to cost little.
const SAMPLE_EVERY: Duration = Duration::from_millis(20);
