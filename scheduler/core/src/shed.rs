//! What the planner does when it is too much for one thread: it hands the choice of pieces to
//! the peers, blob by blob, and lets them gather their reports longer.

use std::time::{Duration, Instant};

use crate::scheduler::Scheduler;
use crate::task::TaskSlot;
use crate::{Output, PeerKey};

/// How much is asked of the planner.
#[derive(Debug, Default)]
pub(crate) struct Shedding {
    /// Peers that want anything.
    pub(crate) downloading_count: usize,
    /// What all peers were told last.
    pub(crate) interval: Duration,
    /// Tasks handed over, the latest last.
    picking: Vec<TaskSlot>,
    /// Nothing is taken back before.
    resume_at: Option<Instant>,
    /// How long to wait before something is taken back, the next time.
    patience: Duration,
}

impl Scheduler {
    /// Hands the busiest blobs over, as many as it takes to come down to what is left free, or
    /// takes one back. Costs a pass over the tasks, and over the members of those handed over.
    pub(crate) fn load_measured(&mut self, now: Instant, load_percent: u8) {
        if load_percent >= self.limits.shed_at {
            self.shed(now, load_percent);
        } else if load_percent < self.limits.resume_at {
            self.resume(now);
        }
        for task in self.tasks.iter_mut() {
            task.planned_lately = 0;
        }
    }

    /// What a blob costs goes with the pieces planned of it.
    fn shed(&mut self, now: Instant, load_percent: u8) {
        let planned = |(slot, task): (TaskSlot, &crate::task::Task)| (task.planned_lately, slot);
        let mut busy: Vec<(u32, TaskSlot)> =
            self.tasks.iter().filter(|(_, task)| !task.picking).map(planned).collect();
        busy.sort_unstable_by(|one, other| other.cmp(one));
        let all: u64 = busy.iter().map(|(planned, _)| u64::from(*planned)).sum();
        let excess = u64::from(load_percent - self.limits.resume_at);
        let mut left = (all * excess).div_ceil(u64::from(load_percent));
        for (planned, slot) in busy.into_iter().filter(|(planned, _)| *planned > 0) {
            self.set_picking(slot, true);
            self.shedding.picking.push(slot);
            left = left.saturating_sub(planned.into());
            if left == 0 {
                break;
            }
        }
        let patience = (self.shedding.patience * 2).clamp(PATIENCE_MIN, PATIENCE_MAX);
        self.shedding.patience = patience;
        self.shedding.resume_at = Some(now + patience);
    }

    fn resume(&mut self, now: Instant) {
        if self.shedding.resume_at.is_some_and(|at| now < at) {
            return;
        }
        let Some(slot) = self.shedding.picking.pop() else {
            self.shedding.patience = Duration::ZERO;
            return;
        };
        self.set_picking(slot, false);
        let members: Vec<PeerKey> = self.tasks[slot].members().map(|(_, member)| member.peer).collect();
        for member in members {
            self.feed_parent(now, member);
        }
    }

    /// A task that ends is shed no more.
    pub(crate) fn forget_shed(&mut self, slot: TaskSlot) {
        self.shedding.picking.retain(|other| *other != slot);
    }

    fn set_picking(&mut self, slot: TaskSlot, picks: bool) {
        let task = &mut self.tasks[slot];
        task.picking = picks;
        let digest = task.digest;
        for (_, member) in task.members().filter(|(_, member)| member.wish.is_some()) {
            self.outputs.push_back(Output::Picking { peer: member.peer, digest, picks });
        }
    }

    /// Tells all peers how long to gather their reports, where that has changed by half.
    pub(crate) fn pace_reports(&mut self) {
        let wanted = self.report_interval();
        let told = self.shedding.interval;
        if wanted >= told.mul_f64(2.0 / 3.0) && wanted <= told.mul_f64(1.5) {
            return;
        }
        self.shedding.interval = wanted;
        for (peer, _) in self.peers.iter() {
            self.outputs.push_back(Output::PaceReports { peer, interval: wanted });
        }
    }

    /// Tells a peer that attached.
    pub(crate) fn tell_pace_of_reports(&mut self, peer: PeerKey) {
        let interval = self.shedding.interval;
        if !interval.is_zero() {
            self.outputs.push_back(Output::PaceReports { peer, interval });
        }
    }

    /// So long that all downloading peers together send no more reports than may be.
    fn report_interval(&self) -> Duration {
        let count = u32::try_from(self.shedding.downloading_count).expect("fewer peers than 2^32");
        let interval = Duration::from_secs(1) * count / self.limits.reports_per_s.max(1);
        if interval < AT_ONCE { Duration::ZERO } else { interval.min(self.limits.report_interval_max) }
    }
}

/// Reports that would be gathered for less are not.
const AT_ONCE: Duration = Duration::from_millis(5);

/// A blob that was handed over is taken back after so long at the earliest, doubled each time
/// that proves too early.
const PATIENCE_MIN: Duration = Duration::from_secs(2);
const PATIENCE_MAX: Duration = Duration::from_secs(60);
