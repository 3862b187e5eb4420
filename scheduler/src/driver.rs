//! The one owner of the planner: takes what peers say, tells them what it decides.
//!
//! A dull loop: receive, handle, drain, flush, sleep. Everything that is waiting is taken
//! in before anything is flushed, so that under load each peer gets few large batches
//! instead of many small ones.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Instant;

use flotilla_daemon::config::Bandwidth;
use flotilla_proto::PeerId;
use flotilla_proto::wire::{join_hashes, scheduler as wire};
use flotilla_scheduler_core::{Input, Limits, Output, PeerFacts, PeerKey, Scheduler, Zone};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::ZoneConfig;
use crate::load::{self, Load};
use crate::metrics::{Direction, Metrics};
use crate::probe::Probe;
use crate::translate::{self, Names};

/// What the streams tell the driver.
#[derive(Debug)]
pub(crate) enum Event {
    /// A peer attached.
    Attached(Attachment),
    /// A peer said something.
    Said(PeerKey, Box<wire::FromPeer>),
    /// A peer's stream ended.
    Detached(PeerKey),
    /// The region's seeds, as the settings have them.
    SeedsConfigured(Vec<PeerId>),
}

/// A peer's stream, as it begins.
#[derive(Debug)]
pub(crate) struct Attachment {
    pub(crate) id: PeerId,
    pub(crate) seed: bool,
    pub(crate) zone: String,
    /// Where other peers reach its piece port.
    pub(crate) address: String,
    /// The way back. Dropping it ends the stream.
    pub(crate) outbox: mpsc::Sender<Result<wire::ToPeer, Status>>,
    /// Answers with the key that the stream is known by.
    pub(crate) key: oneshot::Sender<PeerKey>,
}

/// The driver's end of a peer's stream.
struct Link {
    id: PeerId,
    seed: bool,
    address: String,
    outbox: mpsc::Sender<Result<wire::ToPeer, Status>>,
    /// Peers whose address it was told.
    told: HashSet<PeerKey>,
    batch: wire::ToPeer,
    /// Whether it stands in [`Driver::pending`].
    pending: bool,
    probe: Probe,
}

pub(crate) struct Driver {
    scheduler: Scheduler,
    links: BTreeMap<PeerKey, Link>,
    /// Links with something to flush.
    pending: Vec<PeerKey>,
    key_by_id: HashMap<PeerId, PeerKey>,
    /// Those who left since the planner was last drained: it still speaks of them.
    departed: HashMap<PeerKey, PeerId>,
    zone_by_name: HashMap<String, Zone>,
    next_key: u32,
    free_keys: Vec<PeerKey>,
    /// Free once everything that names them was written into batches.
    keys_given_back: Vec<PeerKey>,
    name: PeerId,
    metrics: Metrics,
}

impl Names for HashMap<PeerId, PeerKey> {
    fn key(&self, id: &PeerId) -> Option<PeerKey> {
        self.get(id).copied()
    }
}

impl Driver {
    pub(crate) fn new(name: PeerId, zones: &BTreeMap<String, ZoneConfig>, metrics: Metrics) -> Self {
        let mut driver = Self {
            scheduler: Scheduler::new(Limits::default(), fastrand::u64(..)),
            links: BTreeMap::new(),
            pending: Vec::new(),
            key_by_id: HashMap::new(),
            departed: HashMap::new(),
            zone_by_name: HashMap::new(),
            next_key: 0,
            free_keys: Vec::new(),
            keys_given_back: Vec::new(),
            name,
            metrics,
        };
        for (name, config) in zones {
            let bytes_per_s = config.bandwidth.map(Bandwidth::bytes_per_s);
            let zone = driver.zone(name.clone());
            driver.input(Input::LinkLimited { zone, bytes_per_s });
        }
        driver
    }

    /// Runs until `shutdown` is cancelled.
    pub(crate) async fn run(mut self, mut events: mpsc::Receiver<Event>, shutdown: CancellationToken) {
        let mut waiting = Vec::with_capacity(EVENTS_AT_ONCE);
        let mut load = Load::new(Instant::now());
        let mut tick = interval(load::WINDOW);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let due = self.scheduler.poll_timeout();
            tokio::select! {
                () = shutdown.cancelled() => return,
                count = events.recv_many(&mut waiting, EVENTS_AT_ONCE) => if count == 0 { return },
                () = sleep_until(due.unwrap_or_else(Instant::now).into()), if due.is_some() => {}
                _ = tick.tick() => {}
            }
            let began_at = Instant::now();
            self.scheduler.handle_timeout(began_at);
            for event in waiting.drain(..) {
                self.take(event);
            }
            self.drain();
            // A peer that is let go while flushing leaves work to others.
            while !self.pending.is_empty() {
                self.flush();
                self.drain();
            }
            if let Some(load_percent) = load.worked(began_at, Instant::now()) {
                self.input(Input::LoadMeasured { load_percent });
            }
        }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Attached(attachment) => self.attach(attachment),
            Event::Said(peer, batch) => {
                self.metrics.count_batch(Direction::In);
                self.hear(peer, *batch);
            }
            // A stream says this last: from here on its key may be another's.
            Event::Detached(peer) => {
                self.detach(peer);
                self.keys_given_back.push(peer);
            }
            Event::SeedsConfigured(seeds) => self.input(Input::SeedsConfigured { seeds }),
        }
    }

    fn attach(&mut self, attachment: Attachment) {
        let Attachment { id, seed, zone, address, outbox, key } = attachment;
        if let Some(former) = self.key_by_id.get(&id).copied() {
            tracing::debug!(peer = %id, "attached again: its former stream ends");
            self.detach(former);
        }
        let Some(peer) = self.free_key() else {
            tracing::warn!(peer = %id, "as many peers are attached as a scheduler can know; it is let go");
            return;
        };
        let zone = self.zone(zone);
        let welcome = wire::Welcome { protocol: flotilla_proto::PROTOCOL, scheduler: self.name.to_string() };
        tracing::info!(peer = %id, seed, %address, "peer attached");
        self.key_by_id.insert(id.clone(), peer);
        let batch = wire::ToPeer { welcome: Some(welcome), ..Default::default() };
        let link = Link {
            id: id.clone(),
            seed,
            address,
            outbox,
            told: HashSet::new(),
            batch,
            pending: true,
            probe: Probe::default(),
        };
        self.links.insert(peer, link);
        self.pending.push(peer);
        self.input(Input::PeerJoined { peer, facts: PeerFacts { id, seed, zone } });
        if key.send(peer).is_err() {
            self.detach(peer);
            self.keys_given_back.push(peer);
        }
    }

    /// A key that nobody has: the planner's tables are as long as the largest.
    fn free_key(&mut self) -> Option<PeerKey> {
        if let Some(key) = self.free_keys.pop() {
            return Some(key);
        }
        let key = PeerKey(self.next_key);
        self.next_key = self.next_key.checked_add(1).filter(|next| *next <= Limits::default().peers_max)?;
        Some(key)
    }

    /// The zone of that name. Beyond [`MAX_ZONES`] the further ones count as one.
    fn zone(&mut self, name: String) -> Zone {
        let known = self.zone_by_name.len();
        if known >= MAX_ZONES && !self.zone_by_name.contains_key(&name) {
            return Zone(u32::MAX);
        }
        let next = Zone(u32::try_from(known).expect("bounded by MAX_ZONES"));
        *self.zone_by_name.entry(name).or_insert(next)
    }

    fn hear(&mut self, peer: PeerKey, batch: wire::FromPeer) {
        let Some(link) = self.links.get_mut(&peer) else { return };
        if let Some(sent_at) = link.probe.answered(batch.echo) {
            let round_trip = sent_at.elapsed();
            tracing::debug!(peer = %link.id, ?round_trip, "control round trip");
            self.input(Input::RoundTripMeasured { peer, round_trip });
        }
        let Some(link) = self.links.get(&peer) else { return };
        match translate::inputs(peer, batch, &self.key_by_id) {
            Ok(inputs) => {
                for input in inputs {
                    self.input(input);
                }
            }
            Err(malformed) => {
                tracing::warn!(peer = %link.id, %malformed, "a peer's message makes no sense");
                let _ = link.outbox.try_send(Err(Status::invalid_argument(malformed.to_string())));
                self.detach(peer);
            }
        }
    }

    fn detach(&mut self, peer: PeerKey) {
        let Some(link) = self.links.remove(&peer) else { return };
        tracing::info!(peer = %link.id, "peer detached");
        self.key_by_id.remove(&link.id);
        self.departed.insert(peer, link.id);
        for other in self.links.values_mut() {
            other.told.remove(&peer);
        }
        self.input(Input::PeerLeft { peer });
    }

    fn input(&mut self, input: Input) {
        self.scheduler.handle(Instant::now(), input);
    }

    fn drain(&mut self) {
        while let Some(output) = self.scheduler.poll_output() {
            self.obey(output);
        }
        self.departed.clear();
        self.free_keys.append(&mut self.keys_given_back);
        let (peers, tasks) = self.scheduler.counts();
        self.metrics.show_counts(peers, tasks);
    }

    /// Writes an output into the batch of the peer that it is for. One for a peer that just
    /// left is for nobody.
    fn obey(&mut self, output: Output) -> Option<()> {
        match output {
            Output::Assign { child, parent, digest, piece, hash, hearsay } => {
                let parent = self.introduce(child, parent)?;
                tracing::trace!(task = %digest.short(), piece, parent, child = child.0, "assigned");
                let hashes = join_hashes([&hash]);
                let digest = digest.into();
                let assignment = wire::Assignment { digest, parent, first: piece, hashes, hearsay };
                self.batch(child)?.assignments.push(assignment);
                self.metrics.assignments.inc();
            }
            Output::Cancel { child, digest, piece } => {
                self.batch(child)?.cancels.push(wire::Cancel { digest: digest.into(), piece });
            }
            Output::UseSeed { child, seed, digest } => {
                let seed = self.introduce(child, seed)?;
                self.batch(child)?.source_via.push(wire::SourceVia { digest: digest.into(), seed });
            }
            Output::ReadSource { seed, digest, size, pieces } => {
                tracing::debug!(task = %digest.short(), pieces = pieces.count(), "source read ordered");
                self.batch(seed)?.source_orders.push(translate::source_order(digest, size, &pieces));
                self.metrics.source_orders.inc();
            }
            Output::Relay { seed, digest, size, pieces } => {
                tracing::debug!(task = %digest.short(), pieces = pieces.count(), "a seed asks a peer that failed another");
                self.batch(seed)?.relays.push(translate::source_order(digest, size, &pieces));
                self.metrics.relays.inc();
            }
            Output::AskHashes { peer, digest } => self.batch(peer)?.hashes_wanted.push(digest.into()),
            Output::FailTask { peer, digest, failure, root } => {
                let batch = self.batch(peer)?;
                translate::strike(batch, digest, failure.voids_pieces());
                batch.tasks_failed.push(wire::TaskFailed::new(digest, failure, root));
            }
            Output::Entomb { peer, variant } => self.batch(peer)?.tombstones.push(variant.into()),
            Output::PaceSource { seed, digest, until } => {
                self.batch(seed)?.source_paces.push(wire::SourcePace { digest: digest.into(), until });
            }
            Output::Link { peer, partner, digest, seed: _, same_zone } => {
                let partner = self.introduce(peer, partner)?;
                let partner = wire::Partner { digest: digest.into(), peer: partner, same_zone };
                self.batch(peer)?.partners.push(partner);
            }
            Output::Unlink { peer, partner, digest } => {
                let left = self.departed.get(&partner);
                let partner = left.or_else(|| Some(&self.links.get(&partner)?.id))?.to_string();
                let lost = wire::Unpartner { digest: digest.into(), peer: partner };
                self.batch(peer)?.unpartners.push(lost);
            }
            Output::Picking { peer, digest, picks } => {
                self.batch(peer)?.picking.push(wire::Picking { digest: digest.into(), picks });
            }
            Output::PaceReports { peer, interval } => {
                let interval_us = u32::try_from(interval.as_micros()).unwrap_or(u32::MAX);
                self.batch(peer)?.report_pace = Some(wire::ReportPace { interval_us });
            }
        }
        Some(())
    }

    /// What is gathered for a peer, to be flushed.
    fn batch(&mut self, peer: PeerKey) -> Option<&mut wire::ToPeer> {
        let link = self.links.get_mut(&peer)?;
        if !std::mem::replace(&mut link.pending, true) {
            self.pending.push(peer);
        }
        Some(&mut link.batch)
    }

    /// The name of `other`, after `peer` was told where it is.
    fn introduce(&mut self, peer: PeerKey, other: PeerKey) -> Option<String> {
        let known = self.links.get(&other)?;
        let name = known.id.to_string();
        let address =
            wire::PeerAddress { peer: name.clone(), address: known.address.clone(), seed: known.seed };
        if self.links.get_mut(&peer)?.told.insert(other) {
            self.batch(peer)?.peers.push(address);
        }
        Some(name)
    }

    /// Sends what is gathered. A peer that does not take it, [`OUTBOX_BATCHES`] behind, is
    /// let go: it comes back and hears everything anew.
    fn flush(&mut self) {
        for key in std::mem::take(&mut self.pending) {
            let Some(link) = self.links.get_mut(&key) else { continue };
            link.pending = false;
            link.batch.probe = link.probe.next(Instant::now());
            self.metrics.count_batch(Direction::Out);
            if link.outbox.try_send(Ok(std::mem::take(&mut link.batch))).is_err() {
                tracing::warn!(peer = %link.id, "a peer does not read its plans");
                self.detach(key);
            }
        }
    }
}

/// Batches that may wait for one peer to read them.
pub(crate) const OUTBOX_BATCHES: usize = 256;

/// Events that may wait for the driver; beyond, the streams wait.
pub(crate) const EVENTS_WAITING: usize = 8192;

/// Zones told apart; a region has some dozen.
const MAX_ZONES: usize = 4096;

/// Events taken in before anything is flushed.
const EVENTS_AT_ONCE: usize = 1024;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use flotilla_proto::Digest;
    use tokio::time::timeout;

    use super::*;

    type Inbox = mpsc::Receiver<Result<wire::ToPeer, Status>>;

    /// Attaches a peer that reads no more than `capacity` batches by itself.
    async fn attach(
        events: &mpsc::Sender<Event>,
        name: &str,
        seed: bool,
        capacity: usize,
    ) -> (PeerKey, Inbox) {
        let (outbox, inbox) = mpsc::channel(capacity);
        let (key, attached) = oneshot::channel();
        let (id, address) = (name.parse().unwrap(), "127.0.0.1:9".to_owned());
        let attachment = Attachment { id, seed, zone: String::new(), address, outbox, key };
        events.send(Event::Attached(attachment)).await.unwrap();
        (attached.await.unwrap(), inbox)
    }

    #[tokio::test]
    async fn what_a_peer_let_go_leaves_to_others_is_told_them_at_once() {
        let (events, waiting) = mpsc::channel(EVENTS_WAITING);
        let metrics = Metrics::register(&mut prometheus_client::registry::Registry::default());
        let driver = Driver::new("planner".parse().unwrap(), &BTreeMap::new(), metrics);
        tokio::spawn(driver.run(waiting, CancellationToken::new()));
        // Its welcome fills the outbox: what it is asked next finds no room.
        let (holder, _deaf) = attach(&events, "node-1", false, 1).await;
        let (_, mut seed) = attach(&events, "seed-0", true, 8).await;
        let (child, _inbox) = attach(&events, "node-2", false, 8).await;

        let (digest, size) = (Digest::of(b"blob"), 7);
        let runs = vec![wire::Run { first: 0, count: 1 }];
        let announce = wire::Announce { digest: digest.into(), size, runs, hashes: [][..].into() };
        let held = wire::FromPeer { announces: vec![announce], ..Default::default() };
        events.send(Event::Said(holder, Box::new(held))).await.unwrap();
        let want = wire::Want { digest: digest.into(), size, reader: true, runs: vec![] };
        let wanted = wire::FromPeer { wants: vec![want], ..Default::default() };
        events.send(Event::Said(child, Box::new(wanted))).await.unwrap();

        let ordered = async { while seed.recv().await.unwrap().unwrap().source_orders.is_empty() {} };
        timeout(Duration::from_secs(10), ordered).await.expect("the seed is to read what only it held");
    }
}
