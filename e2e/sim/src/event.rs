//! What is to happen, and the order in which it does.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::time::Duration;

use flotilla_peer_core::{Batch, Input as PeerInput};
use flotilla_proto::{Digest, PieceSet};
use flotilla_scheduler_core::PeerKey;

use crate::follow::FollowId;
use crate::source::ReadId;
use crate::transfer::FetchId;

/// Time since the history began.
pub(crate) type Time = Duration;

/// A node's place among the nodes of the world, seeds first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct NodeIndex(pub(crate) u32);

impl NodeIndex {
    /// The node of that place.
    pub(crate) fn at(place: usize) -> Self {
        Self(u32::try_from(place).expect("fewer nodes than 2^32"))
    }

    pub(crate) fn place(self) -> usize {
        self.0 as usize
    }
}

/// Something that happens at its time.
#[derive(Debug)]
pub(crate) enum Event {
    /// A node attaches to the scheduler and wants what the scenario says.
    Arrives(NodeIndex),
    /// The death of that place in the region.
    Crashes(usize),
    /// Every link's rate is drawn anew.
    RatesDrawn,
    /// The scheduler sees that a crashed peer's stream ended.
    StreamEnds(PeerKey),
    /// The scheduler sends what it gathered for a peer.
    SchedulerFlushes(NodeIndex),
    /// A batch reaches the scheduler.
    SchedulerHears(PeerKey, Batch),
    /// The echo of a probe that was sent then reaches the scheduler.
    Echoed(PeerKey, Time),
    /// The planner's thread is free for the next batch that waits.
    PlannerTakes,
    /// The scheduler's shell knows the planner's load.
    LoadMeasured,
    /// A batch reaches a peer over that stream.
    PeerHears(PeerKey, Vec<PeerInput>),
    /// The scheduler's own deadline.
    SchedulerDue,
    /// A peer core's own deadline.
    PeerDue(NodeIndex),
    /// A request for a piece reaches the parent.
    Asked(FetchId),
    /// A fetch that has not begun by then has stalled.
    MayStall(FetchId),
    /// A partner tells a follower what it holds.
    FollowedTells(FollowId),
    /// A follower hears of it.
    FollowerHears(FollowId, PieceSet),
    /// A client's credential for a blob reaches a seed.
    CredentialOffered(NodeIndex, Digest),
    /// A read that no credential came for fails.
    CredentialMissing(ReadId),
    /// The registry begins to send what it was asked for.
    RegistryAnswers(ReadId),
    /// The last piece of a whole blob read from the registry was hashed.
    ReadHashed(ReadId),
    /// A peer has hashed a blob from end to end.
    Hashed(NodeIndex, Digest),
    /// A client has read a blob to its end.
    BlobTaken(NodeIndex),
    /// A node's stream to the scheduler stands again.
    Attaches(NodeIndex),
    /// The planner is looked at for idle slots.
    Sampled,
}

impl Event {
    /// What it is, and whose: for the log.
    pub(crate) fn tag_and_subject(&self) -> (u8, u64) {
        match self {
            Self::Arrives(node) => (0, node.0.into()),
            Self::Crashes(place) => (1, *place as u64),
            Self::RatesDrawn => (2, 0),
            Self::StreamEnds(key) => (3, key.0.into()),
            Self::SchedulerFlushes(node) => (5, node.0.into()),
            Self::SchedulerHears(key, ..) => (6, key.0.into()),
            Self::PeerHears(key, ..) => (7, key.0.into()),
            Self::SchedulerDue => (8, 0),
            Self::PeerDue(node) => (9, node.0.into()),
            Self::Asked(fetch) => (10, fetch.0),
            Self::MayStall(fetch) => (11, fetch.0),
            Self::FollowedTells(follow) => (20, follow.0),
            Self::FollowerHears(follow, _) => (4, follow.0),
            Self::CredentialOffered(node, _) => (12, node.0.into()),
            Self::CredentialMissing(read) => (13, read.0),
            Self::RegistryAnswers(read) => (14, read.0),
            Self::ReadHashed(read) => (15, read.0),
            Self::Hashed(node, _) => (16, node.0.into()),
            Self::BlobTaken(node) => (17, node.0.into()),
            Self::Attaches(node) => (18, node.0.into()),
            Self::Sampled => (19, 0),
            Self::PlannerTakes => (21, 0),
            Self::LoadMeasured => (22, 0),
            Self::Echoed(key, _) => (23, key.0.into()),
        }
    }
}

/// Events by time; those of one time in the order in which they were put here.
///
/// A timing wheel (Varghese & Lauck 1987): events of the next two seconds lie in buckets of
/// [`BUCKET`], and only those of the present bucket are in order. Most of what is put here is a
/// patience that nobody will need any more when it is over.
#[derive(Debug)]
pub(crate) struct Queue {
    /// Of the present bucket, or before.
    ready: BinaryHeap<Waiting>,
    present: u64,
    /// By bucket, modulo their number.
    wheel: Vec<Vec<Waiting>>,
    wheel_count: usize,
    /// Beyond the wheel.
    far: BinaryHeap<Waiting>,
    next_seq: u64,
}

#[derive(Debug)]
struct Waiting {
    at: Time,
    seq: u64,
    event: Event,
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            ready: BinaryHeap::new(),
            present: 0,
            wheel: (0..BUCKETS).map(|_| Vec::new()).collect(),
            wheel_count: 0,
            far: BinaryHeap::new(),
            next_seq: 0,
        }
    }
}

impl Queue {
    pub(crate) fn push(&mut self, at: Time, event: Event) {
        let waiting = Waiting { at, seq: self.next_seq, event };
        self.next_seq += 1;
        match bucket(at) {
            bucket if bucket <= self.present => self.ready.push(waiting),
            bucket if bucket < self.present + BUCKETS => {
                self.wheel[slot(bucket)].push(waiting);
                self.wheel_count += 1;
            }
            _ => self.far.push(waiting),
        }
    }

    pub(crate) fn next_at(&mut self) -> Option<Time> {
        self.turn();
        self.ready.peek().map(|waiting| waiting.at)
    }

    pub(crate) fn pop(&mut self) -> Option<(Time, Event)> {
        self.turn();
        self.ready.pop().map(|waiting| (waiting.at, waiting.event))
    }

    /// Goes on to the next bucket that has events, unless some of the present are left.
    fn turn(&mut self) {
        while self.ready.is_empty() {
            let far = self.far.peek().map(|waiting| bucket(waiting.at));
            self.present = match (self.wheel_count, far) {
                (0, None) => return,
                (0, Some(far)) => far,
                _ => self.present + 1,
            };
            let due = std::mem::take(&mut self.wheel[slot(self.present)]);
            self.wheel_count -= due.len();
            self.ready.extend(due);
            while self.far.peek().is_some_and(|waiting| bucket(waiting.at) <= self.present) {
                self.ready.extend(self.far.pop());
            }
        }
    }
}

fn bucket(at: Time) -> u64 {
    u64::try_from(at.as_nanos() / BUCKET.as_nanos()).expect("no history lasts for ever")
}

fn slot(bucket: u64) -> usize {
    usize::try_from(bucket % BUCKETS).expect("there are few buckets")
}

const BUCKET: Duration = Duration::from_micros(64);
const BUCKETS: u64 = 1 << 15;

/// The heap gives the greatest first: that is the earliest.
impl Ord for Waiting {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.seq).cmp(&(self.at, self.seq))
    }
}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Waiting {
    fn eq(&self, other: &Self) -> bool {
        self.seq == other.seq
    }
}

impl Eq for Waiting {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn events_come_by_time_and_those_of_one_time_as_they_were_put() {
        let mut queue = Queue::default();
        let at = Duration::from_millis;
        queue.push(at(2), Event::Sampled);
        queue.push(at(1), Event::Crashes(0));
        queue.push(at(1), Event::Crashes(1));
        let order: Vec<String> =
            std::iter::from_fn(|| queue.pop()).map(|(_, event)| format!("{event:?}")).collect();
        assert_eq!(order, ["Crashes(0)", "Crashes(1)", "Sampled"]);
    }

    proptest! {
        /// The wheel against the plainest model there is.
        #[test]
        fn a_wheel_gives_what_a_sorted_list_does(steps in proptest::collection::vec((0_u64..9_000_000, any::<bool>()), 1..200)) {
            let mut queue = Queue::default();
            let mut model: Vec<(Time, usize)> = Vec::new();
            let mut now = Time::ZERO;
            for (place, (ahead, pops)) in steps.into_iter().enumerate() {
                let at = now + Duration::from_micros(ahead);
                queue.push(at, Event::Crashes(place));
                model.push((at, place));
                model.sort();
                if pops {
                    let (at, place) = model.remove(0);
                    prop_assert_eq!(queue.next_at(), Some(at));
                    let (popped_at, event) = queue.pop().unwrap();
                    prop_assert_eq!((popped_at, event.tag_and_subject()), (at, (1, place as u64)));
                    now = at;
                }
            }
        }
    }
}
