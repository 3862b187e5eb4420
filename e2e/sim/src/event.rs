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
pub(crate) struct NodeIndex(pub(crate) usize);

/// Something that happens at its time.
#[derive(Debug)]
pub(crate) enum Event {
    /// A node attaches to the scheduler and wants what the scenario says.
    Arrives(NodeIndex),
    /// The crash of that place in the scenario.
    Crashes(usize),
    /// The scheduler sees that a crashed peer's stream ended.
    StreamEnds(PeerKey),
    /// The scheduler sends what it gathered for a peer.
    SchedulerFlushes(NodeIndex),
    /// A batch reaches the scheduler.
    SchedulerHears(PeerKey, Batch),
    /// A batch reaches a peer.
    PeerHears(NodeIndex, Vec<PeerInput>),
    /// The scheduler's own deadline.
    SchedulerDue,
    /// A peer core's own deadline.
    PeerDue(NodeIndex),
    /// A flow ends, or rates are to be found anew.
    NetworkDue,
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
    /// The planner is looked at for idle slots.
    Sampled,
}

/// Events by time; those of one time in the order in which they were put here.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    waiting: BinaryHeap<Waiting>,
    next_seq: u64,
}

#[derive(Debug)]
struct Waiting {
    at: Time,
    seq: u64,
    event: Event,
}

impl Queue {
    pub(crate) fn push(&mut self, at: Time, event: Event) {
        let seq = self.next_seq;
        self.next_seq += 1;
        self.waiting.push(Waiting { at, seq, event });
    }

    pub(crate) fn pop(&mut self) -> Option<(Time, Event)> {
        self.waiting.pop().map(|waiting| (waiting.at, waiting.event))
    }
}

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
}
