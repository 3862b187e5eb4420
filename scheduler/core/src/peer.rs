//! One peer as the planner sees it, over all tasks: its windows and its standing.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use flotilla_proto::{Digest, PeerId};

use crate::hash::KeyHash;
use crate::rate::{Meter, RoundTrip, Usual};
use crate::task::{Seat, TaskSlot};
use crate::zone::ZonePlace;
use crate::{Limits, PeerFacts, PeerKey};

/// A peer's load and standing. Owned by the scheduler for the life of the peer's stream.
///
/// What a choice among many peers looks at lies in one cache line.
#[derive(Debug)]
#[repr(align(64))]
pub(crate) struct Peer {
    pub(crate) up: Side,
    pub(crate) down: Side,
    /// When a piece was last delivered, or the first was set on its way.
    up_progress_at: Option<Instant>,
    /// Pieces it may owe for all that it has shown: doubles with each that it delivers.
    trust: u8,
    /// Pieces it may await for all that it has shown: doubles with each that it takes, halves where it takes none.
    pub(crate) credit: u8,
    /// Whether it was ever blamed.
    wary: bool,
    /// Pieces on their way to it that weigh nothing any more.
    pub(crate) discounted: u32,
    pub(crate) rest: Box<Rest>,
}

/// What is looked at when something happens to a peer.
#[derive(Debug)]
pub(crate) struct Rest {
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
    /// Blobs that are read from the registry because it wanted them first.
    pub(crate) reads: u32,
    /// As many as may be: half with each that fails, twice with each piece that comes.
    pub(crate) reads_max: u32,
    /// What the blobs that it made known take in the books.
    pub(crate) weight: u64,
    /// Blobs of which it was told to drop all it holds, and how often it has not said that it did; at most
    /// [`MOST_TO_DROP`].
    to_drop: BTreeMap<Digest, u32>,
    /// Peers it was partners with of late, the latest last: their connections stand.
    pub(crate) warm: Vec<PeerKey>,
    up_meter: Meter,
    down_meter: Meter,
    pub(crate) round_trip: RoundTrip,
    /// Children that it lately failed, as they say, whether by a corrupt piece, and when.
    accusers: Vec<(PeerId, bool, Instant)>,
    /// When it last delivered a piece.
    delivered_at: Option<Instant>,
    /// When a piece last reached it as a child.
    landed_at: Option<Instant>,
    /// Failures since it last delivered.
    failures_in_a_row: usize,
    /// Until when it comes last, and serves one child at a time.
    blamed_until: Option<Instant>,
    /// On whose word alone, if it is one child's.
    blamed_by: Option<PeerKey>,
    /// When a piece last reached it as a child, or the first was set on its way.
    pub(crate) taken_at: Option<Instant>,
    /// When it last took nothing of what was on its way.
    pub(crate) disappointed_at: Option<Instant>,
    /// When it is looked at whether it takes what is on its way to it.
    pub(crate) taking_looked_at: Option<Instant>,
}

/// One direction of a peer's link.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Side {
    /// Bytes on their way.
    pub(crate) bytes: u32,
    /// What it moves in one control round trip, in bytes.
    ahead_bytes: u32,
    /// Pieces on their way.
    pub(crate) count: u32,
    /// Its rate in 64ths of what is usual in the region.
    share: u8,
}

impl Rest {
    /// It is told to drop all that it holds of a blob.
    pub(crate) fn is_to_drop(&mut self, digest: Digest) {
        *self.to_drop.entry(digest).or_default() += 1;
        if self.to_drop.len() > MOST_TO_DROP {
            self.to_drop.pop_first();
        }
    }

    /// Whether it was told so and has not said that it did.
    pub(crate) fn has_to_drop(&self, digest: Digest) -> bool {
        self.to_drop.contains_key(&digest)
    }

    /// It holds none of the blob, as it says. Whether that is the answer to what it was told.
    pub(crate) fn has_dropped(&mut self, digest: Digest) -> bool {
        let Some(count) = self.to_drop.get_mut(&digest) else { return false };
        *count -= 1;
        if *count == 0 {
            self.to_drop.remove(&digest);
        }
        true
    }
}

impl Peer {
    /// With what it may await, if that is known of an earlier stream.
    pub(crate) fn new(
        facts: PeerFacts,
        zone: ZonePlace,
        credit: Option<u8>,
        limits: &Limits,
        hash: KeyHash,
    ) -> Self {
        let trust = if facts.seed { limits.queue_max } else { limits.queue_start };
        let rest = Rest {
            facts,
            zone,
            inventory_told: false,
            seats: HashMap::with_hasher(hash),
            serves: Vec::new(),
            wants: Vec::new(),
            reads: 0,
            reads_max: limits.reads_max,
            weight: 0,
            to_drop: BTreeMap::new(),
            warm: Vec::new(),
            up_meter: Meter::default(),
            down_meter: Meter::default(),
            round_trip: RoundTrip::default(),
            accusers: Vec::new(),
            delivered_at: None,
            landed_at: None,
            failures_in_a_row: 0,
            blamed_until: None,
            blamed_by: None,
            taken_at: None,
            disappointed_at: None,
            taking_looked_at: None,
        };
        Self {
            up: Side::IDLE,
            down: Side::IDLE,
            up_progress_at: None,
            trust: trust_of(trust),
            credit: credit.unwrap_or_else(|| trust_of(limits.window_max)),
            wary: false,
            discounted: 0,
            rest: Box::new(rest),
        }
    }

    /// Pieces of that length it may owe (Q): so many at once as suit its uplink, and what it
    /// sends while the next plan is on its way.
    pub(crate) fn queue(&self, now: Instant, slots: u32, piece_len: u32, limits: &Limits) -> u32 {
        if self.is_blamed(now) {
            return 1;
        }
        let wanted = self.up.slots(slots) + self.up.ahead(piece_len).max(limits.queue_ahead_min);
        wanted.min(self.trust.into()).min(limits.queue_max)
    }

    /// Pieces of that length it may await (W).
    pub(crate) fn window(&self, slots: u32, piece_len: u32, limits: &Limits) -> u32 {
        let at_once = self.down.slots(slots);
        (at_once + at_once / 2 + self.down.ahead(piece_len)).min(limits.window_max).min(self.credit.into())
    }

    /// Whether it may owe one more piece of that length.
    pub(crate) fn has_upload_room(&self, now: Instant, slots: u32, piece_len: u32, limits: &Limits) -> bool {
        self.up.count == 0
            || self.up.count < self.queue(now, slots, piece_len, limits)
                && u64::from(self.up.bytes) + u64::from(piece_len) <= limits.queue_bytes
                && !self.is_stuck(now, limits)
    }

    /// Whether it may await one more piece of that length, besides its first of a task.
    pub(crate) fn has_window(&self, slots: u32, piece_len: u32, limits: &Limits) -> bool {
        self.down.count - self.discounted < self.window(slots, piece_len, limits)
    }

    /// Whether one more piece of that length fits into its receive budget.
    pub(crate) fn has_memory(&self, piece_len: u32, limits: &Limits) -> bool {
        self.down.bytes == 0 || u64::from(self.down.bytes) + u64::from(piece_len) <= limits.window_bytes
    }

    /// Whether what it owes is old: it has not sent anything for far too long.
    fn is_stuck(&self, now: Instant, limits: &Limits) -> bool {
        let late = |at: Instant| now.saturating_duration_since(at) > limits.stuck;
        self.up.count > 0 && self.up_progress_at.is_some_and(late)
    }

    pub(crate) fn is_blamed(&self, now: Instant) -> bool {
        self.wary && self.rest.blamed_until.is_some_and(|until| now < until)
    }

    /// Until when it comes last.
    pub(crate) fn blamed_until(&self) -> Option<Instant> {
        self.rest.blamed_until
    }

    /// It is to send a piece.
    pub(crate) fn sends(&mut self, now: Instant, bytes: u32) {
        if self.up.count == 0 {
            self.up_progress_at = Some(now);
        }
        self.up.launch(bytes);
        self.rest.up_meter.begin(now);
    }

    /// It is to receive a piece.
    pub(crate) fn receives(&mut self, now: Instant, bytes: u32) {
        if self.down.count == 0 {
            self.rest.taken_at = Some(now);
        }
        self.down.launch(bytes);
        self.rest.down_meter.begin(now);
    }

    /// A piece that it was to send is on its way no more. `beside` is what passes between two
    /// pieces beside the control round trip.
    pub(crate) fn sent(
        &mut self,
        now: Instant,
        child: PeerKey,
        landed: Landed,
        usual: &mut Usual,
        limits: &Limits,
    ) {
        if landed.weighed {
            self.up.land(landed.bytes);
        }
        if landed.arrived {
            if self.rest.blamed_by.is_some_and(|accuser| accuser != child) {
                (self.rest.blamed_until, self.rest.blamed_by) = (None, None);
            }
            self.up_progress_at = Some(now);
            self.rest.delivered_at = Some(now);
            self.trust = self.trust.saturating_mul(2).min(trust_of(limits.queue_max));
            let Rest { up_meter, round_trip, failures_in_a_row, .. } = &mut *self.rest;
            *failures_in_a_row = 0;
            self.up.measure(now, landed, up_meter, round_trip, usual);
        }
        if self.up.count < METERED_FROM {
            self.rest.up_meter.end();
        }
    }

    /// A piece that it was to receive is on its way no more.
    pub(crate) fn received(&mut self, now: Instant, landed: Landed, usual: &mut Usual, limits: &Limits) {
        self.down.land(landed.bytes);
        self.discounted -= u32::from(!landed.weighed);
        if landed.arrived {
            self.credit = self.credit.saturating_mul(2).min(trust_of(limits.window_max));
            (self.rest.taken_at, self.rest.landed_at) = (Some(now), Some(now));
            let Rest { down_meter, round_trip, .. } = &mut *self.rest;
            self.down.measure(now, landed, down_meter, round_trip, usual);
        }
        if self.down.count < METERED_FROM {
            self.rest.down_meter.end();
        }
    }

    /// A child says that it got nothing from this parent in time, or a corrupt piece. How many say the same.
    pub(crate) fn accused_by(
        &mut self,
        child: &PeerId,
        corrupt: bool,
        now: Instant,
        limits: &Limits,
    ) -> usize {
        let accusers = &mut self.rest.accusers;
        accusers.retain(|(other, kind, at)| {
            (other != child || *kind != corrupt) && now.saturating_duration_since(*at) < limits.blame
        });
        accusers.push((child.clone(), corrupt, now));
        accusers.iter().filter(|(_, kind, _)| *kind == corrupt).count()
    }

    /// Whether anyone has said of late that it sent a corrupt piece.
    pub(crate) fn is_accused_of_corrupt(&self, now: Instant, limits: &Limits) -> bool {
        let is_late = |at: Instant| now.saturating_duration_since(at) < limits.blame;
        self.rest.accusers.iter().any(|(_, corrupt, at)| *corrupt && is_late(*at))
    }

    /// How many children have said of late that it failed them.
    pub(crate) fn accuser_count(&self, now: Instant, limits: &Limits) -> usize {
        let is_late = |at: &Instant| now.saturating_duration_since(*at) < limits.blame;
        let late = self.rest.accusers.iter().filter(|(.., at)| is_late(at));
        late.map(|(id, ..)| id).collect::<BTreeSet<_>>().len()
    }

    /// It failed a child, as far as anyone knows. Whether so often, or so many, that it is to be blamed, and is not yet.
    pub(crate) fn fails(&mut self, now: Instant, accusers: usize, limits: &Limits) -> bool {
        self.trust = (self.trust / 2).max(1);
        self.rest.failures_in_a_row += 1;
        let often = accusers.max(self.rest.failures_in_a_row) >= limits.timeouts_to_blame;
        often && !self.is_blamed(now)
    }

    /// Whether it has delivered any piece since it attached.
    pub(crate) fn has_delivered(&self) -> bool {
        self.rest.delivered_at.is_some()
    }

    /// Whether it has delivered to anyone since then.
    pub(crate) fn has_delivered_since(&self, then: Instant) -> bool {
        self.rest.delivered_at.is_some_and(|at| at > then)
    }

    /// Whether a piece has reached it as a child since then.
    pub(crate) fn has_taken_since(&self, then: Instant) -> bool {
        self.rest.landed_at.is_some_and(|at| at >= then)
    }

    /// What it was to send weighs no more: the child may never take it.
    pub(crate) fn is_rid_of(&mut self, bytes: u32) {
        self.up.land(bytes);
    }

    /// As a child it took nothing of what was on its way, or what it says of a parent is not so.
    pub(crate) fn disappoints(&mut self) {
        self.credit = (self.credit / 2).max(1);
    }

    /// It has to show again what it can do.
    pub(crate) fn mistrust(&mut self) {
        self.trust = 1;
    }

    /// It comes last until the blame has worn off: never excluded, since it may be the only holder. On one child's word
    /// alone, until it delivers to another; that lifts no other blame.
    pub(crate) fn blame(&mut self, now: Instant, until: Instant, by: Option<PeerKey>) {
        let is_blamed_by_many = self.is_blamed(now) && self.rest.blamed_by.is_none();
        (self.trust, self.wary) = (1, true);
        let rest = &mut *self.rest;
        rest.failures_in_a_row = 0;
        rest.blamed_by = by.filter(|_| !is_blamed_by_many);
        rest.blamed_until = rest.blamed_until.filter(|_| is_blamed_by_many).max(Some(until));
    }

    /// Remembers a partner whose connection stands from now on.
    pub(crate) fn warms(&mut self, partner: PeerKey, limits: &Limits) {
        let warm = &mut self.rest.warm;
        if warm.contains(&partner) {
            return;
        }
        if warm.len() >= limits.warm_max {
            warm.remove(0);
        }
        warm.push(partner);
    }
}

/// A piece that is on its way no more.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Landed {
    pub(crate) bytes: u32,
    pub(crate) arrived: bool,
    /// Whether it counted as something that the parent owes until now.
    pub(crate) weighed: bool,
    /// What passes between two pieces of one slot beside the control round trip.
    pub(crate) beside: Duration,
}

impl Side {
    const IDLE: Self = Self { bytes: 0, ahead_bytes: 0, count: 0, share: SHARE_ONE };

    /// So many of the usual slots as suit the link.
    fn slots(&self, slots: u32) -> u32 {
        (slots * u32::from(self.share)).div_ceil(u32::from(SHARE_ONE)).max(1)
    }

    fn ahead(&self, piece_len: u32) -> u32 {
        self.ahead_bytes.div_ceil(piece_len.max(1))
    }

    fn launch(&mut self, bytes: u32) {
        self.count += 1;
        self.bytes += bytes;
    }

    fn land(&mut self, bytes: u32) {
        self.count -= 1;
        self.bytes -= bytes;
    }

    /// What it moves is measured anew against what is usual.
    fn measure(
        &mut self,
        now: Instant,
        landed: Landed,
        meter: &mut Meter,
        round_trip: &RoundTrip,
        usual: &mut Usual,
    ) {
        let Some(sample) = meter.land(now, landed.bytes.into()) else { return };
        let usual = usual.learn(sample);
        let Some(rate) = meter.rate() else { return };
        let wait = round_trip.value() + landed.beside;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "positive, and saturates"
        )]
        {
            self.share = ((rate / (usual * UNUSUAL)).min(1.0) * f64::from(SHARE_ONE)).ceil().max(1.0) as u8;
            self.ahead_bytes = (rate * AHEAD * wait.as_secs_f64()) as u32;
        }
    }
}

fn trust_of(pieces: u32) -> u8 {
    u8::try_from(pieces).unwrap_or(u8::MAX)
}

/// A link below this part of what is usual counts as slower than usual.
const UNUSUAL: f64 = 0.7;

/// The share of a link that is as fast as usual, or faster.
const SHARE_ONE: u8 = 64;

/// Round trips that a queue covers: one passes until a landing is known and the next plan made,
/// and pieces do not land evenly. With 10 ms one way and batches of 20 ms, 1.25 makes the last
/// peer 1.32 × the bound, 1.8 makes it 1.19, 2.4 1.21.
const AHEAD: f64 = 1.8;

/// With fewer pieces on their way a link is not measured: it may be idle between two.
const METERED_FROM: u32 = 2;

/// Each peer answers within a round trip; one that never does is believed again when it has been told so often.
const MOST_TO_DROP: usize = 1024;
