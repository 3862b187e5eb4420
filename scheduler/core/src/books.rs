//! Peers and tasks by dense index: no map is walked on the hot path.

use std::collections::HashMap;
use std::ops::{Index, IndexMut};

use flotilla_proto::Digest;

use crate::PeerKey;
use crate::hash::KeyHash;
use crate::peer::Peer;
use crate::task::{Task, TaskSlot};

/// Attached peers, by key.
#[derive(Debug, Default)]
pub(crate) struct Peers {
    by_key: Vec<Option<Peer>>,
    count: usize,
}

impl Peers {
    pub(crate) fn get(&self, key: PeerKey) -> Option<&Peer> {
        self.by_key.get(key.0 as usize)?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, key: PeerKey) -> Option<&mut Peer> {
        self.by_key.get_mut(key.0 as usize)?.as_mut()
    }

    /// A member of a task is attached.
    pub(crate) fn known_mut(&mut self, key: PeerKey) -> &mut Peer {
        self.get_mut(key).expect("a member is attached")
    }

    pub(crate) fn insert(&mut self, key: PeerKey, peer: Peer) {
        let place = key.0 as usize;
        if place >= self.by_key.len() {
            self.by_key.resize_with(place + 1, || None);
        }
        self.by_key[place] = Some(peer);
        self.count += 1;
    }

    pub(crate) fn remove(&mut self, key: PeerKey) {
        let gone = self.by_key.get_mut(key.0 as usize).and_then(Option::take);
        self.count -= usize::from(gone.is_some());
    }

    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// By key. Costs a pass over all peers.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (PeerKey, &Peer)> {
        (0..).zip(&self.by_key).filter_map(|(key, peer)| Some((PeerKey(key), peer.as_ref()?)))
    }
}

impl Index<PeerKey> for Peers {
    type Output = Peer;

    fn index(&self, key: PeerKey) -> &Peer {
        self.get(key).expect("a member is attached")
    }
}

/// Known tasks, by slot and by digest.
#[derive(Debug)]
pub(crate) struct Tasks {
    by_slot: Vec<Option<Box<Task>>>,
    free: Vec<TaskSlot>,
    /// A digest has a task for each size that somebody claims it to have, until a seed has seen it.
    slots_by_digest: HashMap<Digest, Vec<TaskSlot>, KeyHash>,
    count: usize,
    /// What all of them together take.
    weight: u64,
}

impl Tasks {
    pub(crate) fn new(hash: KeyHash) -> Self {
        let slots_by_digest = HashMap::with_hasher(hash);
        Self { by_slot: Vec::new(), free: Vec::new(), slots_by_digest, count: 0, weight: 0 }
    }

    /// The tasks of a digest, one for each size that is claimed.
    pub(crate) fn slots(&self, digest: Digest) -> &[TaskSlot] {
        self.slots_by_digest.get(&digest).map_or(&[], Vec::as_slice)
    }

    /// Whether a slot still has a task of that digest.
    pub(crate) fn is(&self, slot: TaskSlot, digest: Digest) -> bool {
        self.slots(digest).contains(&slot)
    }

    pub(crate) fn insert(&mut self, task: Task) -> TaskSlot {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.by_slot.push(None);
            TaskSlot(u32::try_from(self.by_slot.len() - 1).expect("bounded by tasks_max"))
        });
        self.slots_by_digest.entry(task.digest).or_default().push(slot);
        self.count += 1;
        self.weight += task.weight;
        self.by_slot[slot.0 as usize] = Some(Box::new(task));
        slot
    }

    pub(crate) fn remove(&mut self, slot: TaskSlot) {
        let task = self.by_slot[slot.0 as usize].take().expect("a known task ends once");
        if let Some(slots) = self.slots_by_digest.get_mut(&task.digest) {
            slots.retain(|other| *other != slot);
            if slots.is_empty() {
                self.slots_by_digest.remove(&task.digest);
            }
        }
        self.count -= 1;
        self.weight -= task.weight;
        self.free.push(slot);
    }

    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// What all known blobs take: see [`Scheduler::make_room`](crate::Scheduler).
    pub(crate) fn weight(&self) -> u64 {
        self.weight
    }

    /// The same, to change.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Task> {
        self.by_slot.iter_mut().filter_map(Option::as_deref_mut)
    }

    /// By slot. Costs a pass over all tasks.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (TaskSlot, &Task)> {
        (0..).zip(&self.by_slot).filter_map(|(slot, task)| Some((TaskSlot(slot), task.as_deref()?)))
    }
}

impl Index<TaskSlot> for Tasks {
    type Output = Task;

    fn index(&self, slot: TaskSlot) -> &Task {
        self.by_slot[slot.0 as usize].as_deref().expect("a known slot is taken")
    }
}

impl IndexMut<TaskSlot> for Tasks {
    fn index_mut(&mut self, slot: TaskSlot) -> &mut Task {
        self.by_slot[slot.0 as usize].as_deref_mut().expect("a known slot is taken")
    }
}
