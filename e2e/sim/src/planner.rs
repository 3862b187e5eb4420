//! What the scheduler's shell does: inputs to the planner, one after the other on its one thread,
//! and what it says to peers.

use std::collections::VecDeque;
use std::time::Duration;

use flotilla_peer_core::{Batch, Input as PeerInput, Report};
use flotilla_proto::Digest;
use flotilla_scheduler_core::{Input as SchedulerInput, Output as SchedulerOutput, PeerKey};

use crate::control::{downward_rank, is_struck_by_failure, to_peer, to_scheduler};
use crate::event::{Event, NodeIndex, Time};
use crate::world::World;

/// The planner's one thread: when it is through with what reached it, and what it cost.
#[derive(Debug, Default)]
pub(crate) struct PlannerThread {
    free_at: Time,
    /// What it has not come to.
    waiting: VecDeque<(PeerKey, Batch)>,
    /// What it planned and was not charged for.
    assigned: u32,
    /// How much of the current window it worked, or will have.
    busy: Duration,
    /// By the probe, over the whole history.
    pub(crate) measured: Duration,
    pub(crate) held_bytes: i64,
    pub(crate) peak_bytes: i64,
}

/// Measures the planner from outside. What it finds reaches the report and nothing else.
#[derive(Debug, Clone, Copy)]
pub struct Probe {
    /// Time since any moment.
    pub clock: fn() -> Duration,
    /// Bytes on the heap.
    pub heap_bytes: fn() -> i64,
    /// Called now and then with the simulated time, and how many peers are not done.
    pub progress: fn(Duration, usize),
}

impl World<'_> {
    /// A batch reached the scheduler: it waits until the planner is through with those before.
    pub(crate) fn scheduler_hears(&mut self, key: PeerKey, batch: Batch) {
        if self.scenario.planner.costs.is_none() {
            return self.planner_takes(key, batch);
        }
        let thread = &mut self.thread;
        thread.waiting.push_back((key, batch));
        if thread.waiting.len() == 1 {
            self.queue.push(thread.free_at.max(self.now), Event::PlannerTakes);
        }
    }

    /// The planner's thread is free for the next batch. What it decides is on its way at once:
    /// one batch takes it far less time than a message.
    pub(crate) fn planner_takes_next(&mut self) {
        let Some((key, batch)) = self.thread.waiting.pop_front() else { return };
        let Some(costs) = self.scenario.planner.costs else { return };
        let reports = u32::try_from(batch.reports().len()).expect("a batch is small");
        let pieces: u32 = batch.reports().iter().map(piece_count).sum();
        self.planner_takes(key, batch);
        let thread = &mut self.thread;
        let assigned = std::mem::take(&mut thread.assigned);
        let cost = costs.report * reports + costs.piece * pieces + costs.assignment * assigned;
        thread.busy += cost;
        thread.free_at = self.now + cost;
        if !thread.waiting.is_empty() {
            self.queue.push(thread.free_at, Event::PlannerTakes);
        }
    }

    /// A peer sends the echo of a probe at once; what the scenario's batches add to a round trip,
    /// half an interval each way, its shell knows.
    pub(crate) fn echoed(&mut self, key: PeerKey, sent_at: Time) {
        if self.nodes[self.node_by_key[key.0 as usize].place()].key == Some(key) {
            let round_trip = self.now - sent_at + self.scenario.control.batch;
            self.tell_scheduler(SchedulerInput::RoundTripMeasured { peer: key, round_trip });
        }
    }

    pub(crate) fn planner_takes(&mut self, key: PeerKey, batch: Batch) {
        let node = &self.nodes[self.node_by_key[key.0 as usize].place()];
        if node.key != Some(key) {
            return;
        }
        for report in batch {
            let input = match report {
                Report::Hashes { digest, .. } => self.hashes_told(key, digest),
                report => to_scheduler(key, report, |id| self.nodes[self.node_by_id[id].place()].key),
            };
            if let Some(input) = input {
                self.tell_scheduler(input);
            }
        }
    }

    /// The shell reads the hashes of what is held from its store.
    fn hashes_told(&self, key: PeerKey, digest: Digest) -> Option<SchedulerInput> {
        let blob = self.nodes[self.node_by_key[key.0 as usize].place()].blobs.get(&digest)?;
        let hashes = blob.held.iter().map(|piece| self.piece_hash(digest, piece)).collect();
        Some(SchedulerInput::HashesTold { peer: key, digest, pieces: blob.held.clone(), hashes })
    }

    pub(crate) fn tell_scheduler(&mut self, input: SchedulerInput) {
        self.audit.heard(&input);
        let began = self.probe.map(|probe| ((probe.clock)(), (probe.heap_bytes)()));
        self.scheduler.handle(self.instant(), input);
        self.measure(began);
        self.drain_scheduler();
    }

    pub(crate) fn scheduler_is_due(&mut self) {
        if self.scheduler_due.take_if(|due| *due <= self.now).is_some() {
            let began = self.probe.map(|probe| ((probe.clock)(), (probe.heap_bytes)()));
            self.scheduler.handle_timeout(self.instant());
            self.measure(began);
            self.drain_scheduler();
        }
    }

    fn measure(&mut self, began: Option<(Duration, i64)>) {
        let (Some(probe), Some((clock, heap_bytes))) = (self.probe, began) else { return };
        let thread = &mut self.thread;
        thread.measured += (probe.clock)() - clock;
        thread.held_bytes += (probe.heap_bytes)() - heap_bytes;
        thread.peak_bytes = thread.peak_bytes.max(thread.held_bytes);
    }

    /// A window of the thread's load is over.
    pub(crate) fn load_measured(&mut self) {
        let told = self.scenario.planner.told_load_percent;
        let window = if told.is_some() { TOLD_EVERY } else { LOAD_WINDOW };
        self.queue.push(self.now + window, Event::LoadMeasured);
        let busy = std::mem::take(&mut self.thread.busy);
        let measured = u8::try_from(100 * busy.as_micros() / LOAD_WINDOW.as_micros()).unwrap_or(100).min(100);
        let load_percent = told.unwrap_or(measured);
        self.tell_scheduler(SchedulerInput::LoadMeasured { load_percent });
    }

    fn drain_scheduler(&mut self) {
        while let Some(output) = self.scheduler.poll_output() {
            self.log.scheduler_decided(self.now, &output);
            self.note_why(&output);
            self.thread.assigned += u32::from(matches!(output, SchedulerOutput::Assign { .. }));
            if let Err(violation) = self.audit.told(&output) {
                self.break_off(violation);
            }
            let least = self.scenario.control.batch;
            let id = |key: PeerKey| self.nodes[self.node_by_key[key.0 as usize].place()].id.clone();
            let (key, mut input) = to_peer(output, id);
            if let PeerInput::ReportsPaced { interval } = &mut input {
                *interval = least.max(*interval);
            }
            self.say(self.node_by_key[key.0 as usize], input);
        }
        let due = self.scheduler.poll_timeout().map(|at| self.time(at));
        if let Some(due) = due.filter(|due| self.scheduler_due.is_none_or(|expected| *due < expected)) {
            self.scheduler_due = Some(due);
            self.queue.push(due, Event::SchedulerDue);
        }
    }

    fn say(&mut self, index: NodeIndex, input: PeerInput) {
        let (now, batch) = (self.now, self.scenario.control.batch);
        let node = &mut self.nodes[index.place()];
        if let PeerInput::TaskFailed { digest, failure, .. } = &input {
            let voids_pieces = failure.voids_pieces();
            node.inbox.retain(|earlier| !is_struck_by_failure(earlier, *digest, voids_pieces));
        }
        node.inbox.push(input);
        if let Some(at) = node.downward.plan_flush(now, batch) {
            self.queue.push(at, Event::SchedulerFlushes(index));
        }
    }

    pub(crate) fn scheduler_flushes(&mut self, index: NodeIndex) {
        let latency = self.latency();
        let node = &mut self.nodes[index.place()];
        node.downward.flushed(self.now);
        let mut batch = std::mem::take(&mut node.inbox);
        let Some(key) = node.key.filter(|_| !batch.is_empty()) else { return };
        batch.sort_by_key(downward_rank);
        self.tally.control_messages += 1;
        let probes = node.probed_at.is_none_or(|at| at + PROBE_EVERY <= self.now);
        if probes {
            node.probed_at = Some(self.now);
        }
        let at = node.downward.arrival(self.now + latency);
        if self.is_lost() {
            return self.breaks_off(index);
        }
        if probes {
            let back = at + self.latency();
            self.queue.push(back, Event::Echoed(key, self.now));
        }
        self.queue.push(at, Event::PeerHears(key, batch));
    }
}

/// As `scheduler/src/probe.rs` does.
const PROBE_EVERY: Duration = Duration::from_millis(500);

fn piece_count(report: &Report) -> u32 {
    match report {
        Report::Announce { pieces, .. } => pieces.count(),
        _ => 0,
    }
}

/// The scheduler's daemon measures its load over so long (`scheduler/src/load.rs`).
pub(crate) const LOAD_WINDOW: Duration = Duration::from_millis(250);

/// Where a scenario says what the load is, the planner hears it so often: before it has planned
/// much of anything.
const TOLD_EVERY: Duration = Duration::from_millis(10);
