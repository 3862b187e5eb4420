//! What the planner does when it is too much for one thread: it hands the choice of pieces to
//! the peers, blob by blob, and lets them gather their reports longer.

use std::time::{Duration, Instant};

use crate::scheduler::Scheduler;
use crate::task::{Task, TaskSlot};
use crate::{Output, PeerKey};

/// How much is asked of the planner.
#[derive(Debug, Default)]
pub(crate) struct Shedding {
    /// Peers that want anything.
    pub(crate) downloading_count: usize,
    /// What all peers were told last.
    pub(crate) interval: Duration,
    /// How often that was doubled, since everything is handed over and yet too much.
    doublings: u32,
    /// Tasks handed over, the latest last.
    picking: Vec<TaskSlot>,
    /// Nothing is taken back before.
    resume_at: Option<Instant>,
    /// How long to wait before something is taken back, the next time.
    patience: Duration,
    /// What peers asked for since then, and looks at what waits.
    pub(crate) asked_lately: u64,
    /// When the load was last measured.
    measured_at: Option<Instant>,
    /// Pieces that the thread can plan in a second, as it did when it got too busy.
    planned_per_s: Option<f64>,
}

impl Scheduler {
    /// Hands the busiest blobs over, as many as it takes to come down to what is left free, or
    /// takes one back where that would fit. Costs a pass over the tasks, and over the members of
    /// those handed over.
    pub(crate) fn load_measured(&mut self, now: Instant, load_percent: u8) {
        let measured_at = self.shedding.measured_at.replace(now);
        let span = measured_at.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        let asked = std::mem::take(&mut self.shedding.asked_lately);
        if load_percent >= self.limits.shed_at {
            self.shed(now, span, load_percent, asked);
        } else if load_percent < self.limits.resume_at {
            self.shedding.doublings = self.shedding.doublings.saturating_sub(1);
            self.resume(now, span, load_percent);
        }
        for task in self.tasks.iter_mut() {
            task.moved_lately = 0;
        }
        self.pace_reports();
    }

    /// Hands a blob over that is plainly too much, as its members grow more. Were its load measured
    /// first, a backlog would be there by then and hold everyone up.
    pub(crate) fn foresee_load(&mut self, now: Instant, slot: TaskSlot) {
        let task = &self.tasks[slot];
        let rate = self.usual_down.value().unwrap_or(LIKELY_RATE);
        #[expect(clippy::cast_precision_loss, reason = "far below 2^53 members")]
        let to_come = task.peers_demand.count() as f64 * rate / f64::from(task.piece_len());
        if to_come >= PLAINLY_TOO_MUCH * f64::from(self.limits.planned_per_s) {
            self.hand_over(now, slot);
        }
    }

    fn hand_over(&mut self, now: Instant, slot: TaskSlot) {
        self.set_picking(slot, true);
        self.shedding.picking.push(slot);
        self.shedding.resume_at = Some(now + self.shedding.patience.max(PATIENCE_MIN));
    }

    /// What a blob costs goes with the pieces planned of it. Where far more was asked of the planner, that is what
    /// costs: handing blobs over would slow them down and free little, and one peer that asks for thousands could have it.
    fn shed(&mut self, now: Instant, span: Duration, load_percent: u8, asked: u64) {
        let planned = |(slot, task): (TaskSlot, &Task)| (task.moved_lately, slot);
        let mut busy: Vec<(u32, TaskSlot)> =
            self.tasks.iter().filter(|(_, task)| !task.picking).map(planned).collect();
        busy.sort_unstable_by(|one, other| other.cmp(one));
        let all: u64 = busy.iter().map(|(planned, _)| u64::from(*planned)).sum();
        if all == 0 {
            self.shedding.doublings = DOUBLINGS_MAX.min(self.shedding.doublings + 1);
            return;
        }
        if all * MANY_ASKED < asked {
            return;
        }
        if self.shedding.picking.is_empty() {
            // What else the thread does then is little.
            let planned_per_s = per_s(all, span).map(|rate| rate * 100.0 / f64::from(load_percent));
            self.shedding.planned_per_s = planned_per_s;
        }
        let patience = (self.shedding.patience * 2).clamp(PATIENCE_MIN, PATIENCE_MAX);
        self.shedding.patience = patience;
        let excess = u64::from(load_percent - self.limits.resume_at);
        let mut left = (all * excess).div_ceil(u64::from(load_percent));
        for (planned, slot) in busy.into_iter().filter(|(planned, _)| *planned > 0) {
            self.hand_over(now, slot);
            left = left.saturating_sub(planned.into());
            if left == 0 {
                break;
            }
        }
    }

    fn resume(&mut self, now: Instant, span: Duration, load_percent: u8) {
        if self.shedding.resume_at.is_some_and(|at| now < at) {
            return;
        }
        let Some(&slot) = self.shedding.picking.last() else {
            (self.shedding.patience, self.shedding.planned_per_s) = (Duration::ZERO, None);
            return;
        };
        let to_come = per_s(self.tasks[slot].moved_lately.into(), span).unwrap_or_default();
        let planned_per_s = self.shedding.planned_per_s.unwrap_or(self.limits.planned_per_s.into());
        let percent = f64::from(load_percent) + 100.0 * to_come / planned_per_s;
        if percent >= self.limits.shed_at.into() {
            return;
        }
        self.shedding.picking.pop();
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
        task.has_picked |= picks;
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
        let usual = Duration::from_secs(1) * count / self.limits.reports_per_s.max(1);
        let interval = usual * (1 << self.shedding.doublings);
        if interval < AT_ONCE { Duration::ZERO } else { interval.min(self.limits.report_interval_max) }
    }
}

/// `None` where no time passed.
#[expect(clippy::cast_precision_loss, reason = "far below 2^53 pieces are planned in a second")]
fn per_s(pieces: u64, span: Duration) -> Option<f64> {
    (!span.is_zero()).then(|| pieces as f64 / span.as_secs_f64())
}

/// A link of 1 Gbit/s, before any was measured. Guessed too high, a blob is taken back once what
/// its members move shows it.
const LIKELY_RATE: f64 = 125e6;

/// Between what one thread can plan and so many times as much, it is left to measurement to say.
const PLAINLY_TOO_MUCH: f64 = 3.0;

/// What peers ask for, and not what is planned, is too much where there is so many times as much of it.
const MANY_ASKED: u64 = 8;

/// Where reports alone are too much, they are gathered up to 32 times as long.
const DOUBLINGS_MAX: u32 = 5;

/// Reports that would be gathered for less are not.
const AT_ONCE: Duration = Duration::from_millis(5);

/// A blob that was handed over is taken back after so long at the earliest, doubled each time
/// that proves too early.
const PATIENCE_MIN: Duration = Duration::from_secs(2);
const PATIENCE_MAX: Duration = Duration::from_secs(60);
