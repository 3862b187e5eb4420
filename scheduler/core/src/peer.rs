//! One peer as the planner sees it, over all tasks: its windows and its standing.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::hash::KeyHash;
use crate::rate::{Meter, RoundTrip};
use crate::task::{Seat, TaskSlot};
use crate::zone::ZonePlace;
use crate::{Limits, PeerFacts, PeerKey};

/// A peer's load and standing. Owned by the scheduler for the life of the peer's stream.
#[derive(Debug)]
pub(crate) struct Peer {
    /// What it is.
    pub(crate) facts: PeerFacts,
    pub(crate) zone: ZonePlace,
    /// Whether it has told what it held and read when it attached.
    pub(crate) inventory_told: bool,
    /// Where it sits in the tasks in which it has any part.
    pub(crate) seats: HashMap<TaskSlot, Seat, KeyHash>,
    /// Tasks in which it has partners that want: where it looks for work as a parent. An entry
    /// whose task is wanted no more is dropped when it is met.
    pub(crate) serves: Vec<TaskSlot>,
    /// Tasks that it wants.
    pub(crate) wants: Vec<TaskSlot>,
    /// Peers it was partners with of late, the latest last: their connections stand.
    pub(crate) warm: Vec<PeerKey>,
    pub(crate) up: Side,
    pub(crate) down: Side,
    pub(crate) round_trip: RoundTrip,
    /// Pieces it may owe for all that it has shown: doubles with each that it delivers.
    trust: u32,
    /// Children it lately failed, and when.
    failed_children: Vec<(PeerKey, Instant)>,
    /// Failures since it last delivered.
    failures_in_a_row: usize,
    /// Until when it comes last, and serves one child at a time.
    blamed_until: Option<Instant>,
}

/// One direction of a peer's link.
#[derive(Debug, Default)]
pub(crate) struct Side {
    /// Pieces on their way.
    pub(crate) count: u32,
    /// Their bytes.
    pub(crate) bytes: u64,
    pub(crate) meter: Meter,
    /// Its rate in 64ths of what is usual in the region.
    pub(crate) share: u32,
    /// What it moves in one control round trip, in bytes.
    pub(crate) ahead_bytes: u64,
    /// When a piece last came through, or the first was set on its way.
    pub(crate) progress_at: Option<Instant>,
}

impl Peer {
    pub(crate) fn new(facts: PeerFacts, zone: ZonePlace, limits: &Limits, hash: KeyHash) -> Self {
        let trust = if facts.seed { limits.queue_max } else { limits.queue_start };
        Self {
            facts,
            zone,
            inventory_told: false,
            seats: HashMap::with_hasher(hash),
            serves: Vec::new(),
            wants: Vec::new(),
            warm: Vec::new(),
            up: Side::new(),
            down: Side::new(),
            round_trip: RoundTrip::default(),
            trust,
            failed_children: Vec::new(),
            failures_in_a_row: 0,
            blamed_until: None,
        }
    }

    /// Pieces of that length it may owe (Q): so many at once as suit its uplink, and what it
    /// sends while the next plan is on its way.
    pub(crate) fn queue(&self, now: Instant, slots: u32, piece_len: u32, limits: &Limits) -> u32 {
        if self.is_blamed(now) {
            return 1;
        }
        let wanted = self.up.slots(slots) + self.up.ahead(piece_len).max(limits.queue_ahead_min);
        wanted.min(self.trust).min(limits.queue_max)
    }

    /// Pieces of that length it may await (W).
    pub(crate) fn window(&self, slots: u32, piece_len: u32, limits: &Limits) -> u32 {
        let at_once = self.down.slots(slots);
        (at_once + at_once / 2 + self.down.ahead(piece_len)).min(limits.window_max)
    }

    /// Whether it may owe one more piece of that length.
    pub(crate) fn has_upload_room(&self, now: Instant, slots: u32, piece_len: u32, limits: &Limits) -> bool {
        self.up.count == 0
            || self.up.count < self.queue(now, slots, piece_len, limits)
                && self.up.bytes + u64::from(piece_len) <= limits.queue_bytes
                && !self.is_stuck(now, limits)
    }

    /// Whether what it owes is old: it has not sent anything for far too long.
    fn is_stuck(&self, now: Instant, limits: &Limits) -> bool {
        let late = |at: Instant| now.saturating_duration_since(at) > limits.stuck;
        self.up.count > 0 && self.up.progress_at.is_some_and(late)
    }

    pub(crate) fn is_blamed(&self, now: Instant) -> bool {
        self.blamed_until.is_some_and(|until| now < until)
    }

    /// It delivered a piece: it may owe twice as many.
    pub(crate) fn delivered(&mut self, limits: &Limits) {
        self.trust = (self.trust * 2).min(limits.queue_max);
        self.failures_in_a_row = 0;
    }

    /// It did not deliver to `child` in time. True if it is to be blamed for that, and is not yet.
    pub(crate) fn timed_out(&mut self, child: PeerKey, now: Instant, limits: &Limits) -> bool {
        self.trust = (self.trust / 2).max(1);
        self.failed_children
            .retain(|(other, at)| *other != child && now.saturating_duration_since(*at) < limits.blame);
        self.failed_children.push((child, now));
        self.failures_in_a_row += 1;
        let blamed = self.failed_children.len() >= limits.timeouts_to_blame
            || self.failures_in_a_row >= limits.timeouts_to_blame;
        blamed && !self.is_blamed(now)
    }

    /// It comes last until the blame has worn off: never excluded, since it may be the only holder.
    pub(crate) fn blame(&mut self, until: Instant) {
        self.failed_children.clear();
        self.failures_in_a_row = 0;
        self.trust = 1;
        self.blamed_until = Some(until);
    }

    /// Remembers a partner whose connection stands from now on.
    pub(crate) fn warms(&mut self, partner: PeerKey, limits: &Limits) {
        if self.warm.contains(&partner) {
            return;
        }
        if self.warm.len() >= limits.warm_max {
            self.warm.remove(0);
        }
        self.warm.push(partner);
    }
}

impl Side {
    fn new() -> Self {
        Self { share: SHARE_ONE, ..Self::default() }
    }

    /// So many of the usual slots as suit the link.
    fn slots(&self, slots: u32) -> u32 {
        (slots * self.share).div_ceil(SHARE_ONE).max(1)
    }

    fn ahead(&self, piece_len: u32) -> u32 {
        u32::try_from(self.ahead_bytes.div_ceil(u64::from(piece_len).max(1))).unwrap_or(u32::MAX)
    }

    /// A piece starts on its way.
    pub(crate) fn launch(&mut self, now: Instant, bytes: u64) {
        if self.count == 0 {
            self.progress_at = Some(now);
        }
        self.count += 1;
        self.bytes += bytes;
    }

    /// A piece's way ends.
    pub(crate) fn land(&mut self, bytes: u64) {
        self.count -= 1;
        self.bytes -= bytes;
    }

    /// What it moves is measured anew against what is usual.
    pub(crate) fn learn(&mut self, usual: f64, round_trip: Duration) {
        let Some(rate) = self.meter.rate() else { return };
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "rates are positive")]
        {
            self.share = ((rate / (usual * UNUSUAL)).min(1.0) * f64::from(SHARE_ONE)).ceil().max(1.0) as u32;
            self.ahead_bytes = (rate * AHEAD * round_trip.as_secs_f64()) as u64;
        }
    }
}

/// A link below this part of what is usual counts as slower than usual.
const UNUSUAL: f64 = 0.7;

/// The share of a link that is as fast as usual, or faster.
const SHARE_ONE: u32 = 64;

/// Round trips that a queue covers: one passes until a landing is known and the next plan made,
/// and pieces do not land evenly. With 10 ms one way and batches of 20 ms, 1.25 makes the last
/// peer 1.32 × the bound, 1.8 makes it 1.19, 2.4 1.21.
const AHEAD: f64 = 1.8;
